//! The records that were read or written last, as they were decoded.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use crate::lock::Lock;
use crate::record::Record;
use crate::record::format::Unreadable;
use crate::token::Handle;

/// How many records are kept at most. More would help only sessions that come back after thousands of others, whose records are no
/// longer in the caches of the processor; with 5 000 sessions at random, 4096 places made a change slower than one.
const RECORDS: usize = 512;

/// How many bytes the kept records have at most, and one of them.
const MAX_BYTES: usize = 4 * 1024 * 1024;
const MAX_LEN: usize = 64 * 1024;

/// The records that were read or written last. The store is asked all the same: a record is only used if the bytes that the store
/// has sent are those from which it was decoded, so it is never older than they are.
pub(crate) struct RecordCache {
    /// A record has one place, by its handle. The last one takes it.
    places: Box<[Lock<Option<Kept>>]>,
    bytes: AtomicUsize,
}

struct Kept {
    bytes: Bytes,
    record: Arc<Record>,
}

impl Default for RecordCache {
    fn default() -> Self {
        Self {
            places: (0..RECORDS).map(|_| Lock::default()).collect(),
            bytes: AtomicUsize::new(0),
        }
    }
}

impl RecordCache {
    /// Decodes a record, unless it is at hand.
    pub(crate) fn decode(&self, handle: Handle, bytes: &Bytes) -> Result<Arc<Record>, Unreadable> {
        if let Some(kept) = &*self.place(handle).lock()
            && kept.bytes == bytes
        {
            return Ok(Arc::clone(&kept.record));
        }
        let record = Arc::new(Record::decode(bytes)?);
        self.note(handle, bytes, &record);
        Ok(record)
    }

    /// Keeps a record instead of the one that has its place, unless it is too large.
    pub(crate) fn note(&self, handle: Handle, bytes: &Bytes, record: &Arc<Record>) {
        let kept = Kept {
            bytes: bytes.clone(),
            record: Arc::clone(record),
        };
        let fits = bytes.len() <= MAX_LEN && self.bytes.load(Relaxed) + bytes.len() <= MAX_BYTES;
        if fits {
            self.bytes.fetch_add(bytes.len(), Relaxed);
        }
        let before = std::mem::replace(&mut *self.place(handle).lock(), fits.then_some(kept));
        if let Some(before) = before {
            self.bytes.fetch_sub(before.bytes.len(), Relaxed);
        }
    }

    fn place(&self, handle: Handle) -> &Lock<Option<Kept>> {
        &self.places[handle.modulo(self.places.len())]
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
        for _ in 0..2 * RECORDS {
            cache.decode(Handle::random(), &bytes).unwrap();
        }
        let kept = || cache.places.iter().filter(|place| place.lock().is_some());
        assert_eq!(cache.bytes.load(Relaxed), kept().count() * bytes.len());
        let of_size = |len: usize| {
            let mut record = record();
            let value = crate::record::change::tests::json("x".repeat(len));
            record.data.insert("x".into(), value);
            record.encode().unwrap()
        };
        let (handle, bytes) = (Handle::random(), of_size(MAX_LEN));
        let one = cache.decode(handle, &bytes).unwrap();
        let other = cache.decode(handle, &bytes).unwrap();
        assert!(!Arc::ptr_eq(&one, &other));
        let large = of_size(MAX_LEN / 2);
        for _ in 0..RECORDS {
            cache.decode(Handle::random(), &large).unwrap();
            assert!(cache.bytes.load(Relaxed) <= MAX_BYTES);
        }
    }
}
