//! A store that answers at once, so that a request costs what sessile and axum cost.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sessile::store::{
    Capabilities, Created, Deleted, Durability, Freshness, Loaded, Renewal, Replaced, Stored,
    Touched, Write,
};
use sessile::{Handle, SessionStore, StoreError};

/// Holds one session, whatever its handle.
#[derive(Clone, Default)]
pub(crate) struct OneSession(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    value: Bytes,
    /// The value that the next load finds, if each load is to find another one.
    next: Option<Bytes>,
    time_left: Duration,
}

impl OneSession {
    pub(crate) fn value(&self) -> Bytes {
        self.0.lock().unwrap().value.clone()
    }

    /// From now on each load finds another version than the one before, as if another node had written the session in between.
    /// Without that, a load finds the record as it was last decoded.
    pub(crate) fn change_at_every_load(&self) {
        let mut held = self.0.lock().unwrap();
        let mut next = held.value.to_vec();
        let digit = &mut next[Stored::VERSION_LEN - 2];
        *digit = if *digit == b'0' { b'1' } else { b'0' };
        held.next = Some(next.into());
    }
}

impl SessionStore for OneSession {
    fn namespace(&self) -> &str {
        "bench:"
    }

    // A fixed time, so that sessions do not expire during a long run.
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
    }

    async fn load(&self, _: &Handle, _: Freshness) -> Result<Loaded, StoreError> {
        let held = &mut *self.0.lock().unwrap();
        if let Some(next) = &mut held.next {
            std::mem::swap(&mut held.value, next);
        }
        let time_left = Some(held.time_left);
        Ok(Loaded::Found(Stored::new(held.value.clone(), time_left)))
    }

    async fn create(&self, _: &Handle, write: Write<'_>) -> Result<Created, StoreError> {
        self.hold(write);
        Ok(Created::Done)
    }

    async fn replace(
        &self,
        _: &Handle,
        expected: &Stored,
        write: Write<'_>,
    ) -> Result<Replaced, StoreError> {
        let there = Stored::new(self.value(), None);
        if there.version() != expected.version() {
            return Ok(Replaced::Conflict(there));
        }
        self.hold(write);
        Ok(Replaced::Done)
    }

    async fn touch(&self, _: &Handle, _: Renewal) -> Result<Touched, StoreError> {
        Ok(Touched::Unchanged)
    }

    async fn delete(&self, _: &Handle, _: Durability) -> Result<Deleted, StoreError> {
        Ok(Deleted::Done)
    }
}

impl OneSession {
    fn hold(&self, write: Write<'_>) {
        let mut held = self.0.lock().unwrap();
        held.value = write.value.clone();
        held.time_left = write.ttl;
    }
}
