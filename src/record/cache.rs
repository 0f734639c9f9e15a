//! The records that were read or written last, as they were decoded.

use std::sync::Arc;

use bytes::Bytes;

use crate::lock::Lock;
use crate::record::Record;
use crate::record::format::Unreadable;
use crate::token::Handle;

/// How many records are kept.
const RECORDS: usize = 512;

/// The most bytes of a record that is kept, so that the cache stays below 8 MiB.
const MAX_LEN: usize = 16 * 1024;

/// The records that were read or written last. The store is asked all the same: a record is only used if the bytes that the store
/// has sent are those from which it was decoded, so it is never older than they are.
pub(crate) struct RecordCache(Box<[Lock<Option<(Bytes, Arc<Record>)>>]>);

impl Default for RecordCache {
    fn default() -> Self {
        Self((0..RECORDS).map(|_| Lock::default()).collect())
    }
}

impl RecordCache {
    /// Decodes a record, unless it is at hand.
    pub(crate) fn decode(&self, handle: Handle, bytes: &Bytes) -> Result<Arc<Record>, Unreadable> {
        if let Some((known, record)) = &*self.place(handle).lock()
            && known == bytes
        {
            return Ok(Arc::clone(record));
        }
        let record = Arc::new(Record::decode(bytes)?);
        self.note(handle, bytes, &record);
        Ok(record)
    }

    /// Keeps a record, instead of the one that has its place.
    pub(crate) fn note(&self, handle: Handle, bytes: &Bytes, record: &Arc<Record>) {
        if bytes.len() <= MAX_LEN {
            let kept = Some((bytes.clone(), Arc::clone(record)));
            let before = std::mem::replace(&mut *self.place(handle).lock(), kept);
            drop(before);
        }
    }

    fn place(&self, handle: Handle) -> &Lock<Option<(Bytes, Arc<Record>)>> {
        &self.0[handle.modulo(self.0.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;

    #[test]
    fn a_record_is_taken_from_the_cache_only_if_its_bytes_are_equal() {
        let cache = RecordCache::default();
        let handle = Handle::random();
        let mut first = record();
        let bytes = first.encode().unwrap();
        let decoded = cache.decode(handle, &bytes).unwrap();
        let copy = Bytes::copy_from_slice(&bytes);
        assert!(Arc::ptr_eq(&decoded, &cache.decode(handle, &copy).unwrap()));
        first.last_accessed += 1;
        let changed = first.encode().unwrap();
        let newer = cache.decode(handle, &changed).unwrap();
        assert_eq!(newer.last_accessed, first.last_accessed);
        assert!(!Arc::ptr_eq(
            &decoded,
            &cache.decode(handle, &bytes).unwrap()
        ));
        assert!(cache.decode(handle, &Bytes::from("no record")).is_err());
    }

    #[test]
    fn the_cache_keeps_a_limited_number_of_records_of_limited_size() {
        let cache = RecordCache::default();
        let bytes = record().encode().unwrap();
        for _ in 0..4 * RECORDS {
            cache.decode(Handle::random(), &bytes).unwrap();
        }
        assert_eq!(cache.0.len(), RECORDS);
        let mut large = record();
        let value = crate::record::change::tests::json("x".repeat(MAX_LEN));
        large.data.insert("x".into(), value);
        let (handle, bytes) = (Handle::random(), large.encode().unwrap());
        let one = cache.decode(handle, &bytes).unwrap();
        let other = cache.decode(handle, &bytes).unwrap();
        assert!(!Arc::ptr_eq(&one, &other));
    }
}
