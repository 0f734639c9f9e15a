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
    /// A record has one place, by its handle.
    places: Box<[Lock<Place>]>,
    bytes: AtomicUsize,
}

#[derive(Default)]
struct Place {
    /// The session that was read last.
    last: Option<Handle>,
    kept: Option<Kept>,
}

struct Kept {
    handle: Handle,
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
    /// Decodes a record, unless it is at hand. Keeps it if the last session that was read in its place was this one: with many
    /// sessions at random, records would only displace each other, and what the processor has in its caches.
    pub(crate) fn decode(&self, handle: Handle, bytes: &Bytes) -> Result<Arc<Record>, Unreadable> {
        let mut place = self.place(handle).lock();
        let comes_back = place.last.replace(handle) == Some(handle);
        if let Some(kept) = &place.kept
            && kept.bytes == bytes
        {
            return Ok(Arc::clone(&kept.record));
        }
        drop(place);
        let record = Arc::new(Record::decode(bytes)?);
        if comes_back {
            self.keep(handle, bytes, &record);
        }
        Ok(record)
    }

    /// Replaces the record of a session that has been written, if it is kept.
    pub(crate) fn note(&self, handle: Handle, bytes: &Bytes, record: &Arc<Record>) {
        let kept = self.place(handle).lock().kept.as_ref().map(|it| it.handle);
        if kept == Some(handle) {
            self.keep(handle, bytes, record);
        }
    }

    /// Keeps a record instead of the one that has its place, unless it is too large.
    fn keep(&self, handle: Handle, bytes: &Bytes, record: &Arc<Record>) {
        let kept = Kept {
            handle,
            bytes: bytes.clone(),
            record: Arc::clone(record),
        };
        let fits = bytes.len() <= MAX_LEN && self.bytes.load(Relaxed) + bytes.len() <= MAX_BYTES;
        if fits {
            self.bytes.fetch_add(bytes.len(), Relaxed);
        }
        let before = std::mem::replace(&mut self.place(handle).lock().kept, fits.then_some(kept));
        if let Some(before) = before {
            self.bytes.fetch_sub(before.bytes.len(), Relaxed);
        }
    }

    fn place(&self, handle: Handle) -> &Lock<Place> {
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
        let first_read = cache.decode(handle, &bytes).unwrap();
        let decoded = cache.decode(handle, &bytes).unwrap();
        assert!(!Arc::ptr_eq(&first_read, &decoded));
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
        let read_twice = |bytes: &Bytes| {
            let handle = Handle::random();
            cache.decode(handle, bytes).unwrap();
            cache.decode(handle, bytes).unwrap();
        };
        for _ in 0..2 * RECORDS {
            read_twice(&bytes);
        }
        let kept = || {
            cache
                .places
                .iter()
                .filter(|place| place.lock().kept.is_some())
        };
        assert!(kept().count() > RECORDS / 2);
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
            read_twice(&large);
            assert!(cache.bytes.load(Relaxed) <= MAX_BYTES);
        }
    }

    #[test]
    fn a_record_is_kept_once_its_session_comes_back_and_follows_its_writes() {
        let cache = RecordCache::default();
        let mut record = record();
        let bytes = record.encode().unwrap();
        let one = Handle::random();
        let other = std::iter::repeat_with(Handle::random)
            .find(|other| *other != one && other.modulo(RECORDS) == one.modulo(RECORDS))
            .unwrap();
        let is_kept = |handle: Handle| {
            let place = cache.place(handle).lock();
            place
                .kept
                .as_ref()
                .is_some_and(|kept| kept.handle == handle)
        };
        let read = |handle| drop(cache.decode(handle, &bytes).unwrap());
        for handle in [one, other, one, other] {
            read(handle);
            assert!(!is_kept(handle));
        }
        record.last_accessed += 1;
        let (written, record) = (record.encode().unwrap(), Arc::new(record));
        cache.note(one, &written, &record);
        assert!(!is_kept(one));
        read(one);
        read(one);
        assert!(is_kept(one));
        cache.note(other, &written, &record);
        assert!(is_kept(one));
        cache.note(one, &written, &record);
        assert!(Arc::ptr_eq(&record, &cache.decode(one, &written).unwrap()));
    }
}
