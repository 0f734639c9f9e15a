//! What a call gets back that commits at once: nothing before its change is in the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::session::SessionError;
use crate::lock::Lock;

/// Where a change that is committed at once leaves its result, anew at every replay.
pub(crate) struct Deferred<T> {
    id: DeferredId,
    slot: Arc<Lock<Slot<T>>>,
}

struct Slot<T> {
    value: Option<T>,
    /// The change is in the store; until then the value is a guess.
    confirmed: bool,
}

/// Tells one answer from another, whatever their types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeferredId(u64);

impl<T> Deferred<T> {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = DeferredId(NEXT.fetch_add(1, Ordering::Relaxed));
        let slot = Slot {
            value: None,
            confirmed: false,
        };
        Self {
            id,
            slot: Arc::new(Lock::new(slot)),
        }
    }

    pub(crate) fn id(&self) -> DeferredId {
        self.id
    }

    pub(crate) fn resolve(&self, value: Option<T>) {
        let slot = Slot {
            value,
            confirmed: false,
        };
        let before = std::mem::replace(&mut *self.slot.lock(), slot);
        // Its type may be the application's.
        drop(before);
    }

    pub(crate) fn confirm(&self) {
        self.slot.lock().confirmed = true;
    }

    /// What the change gave when it was last done.
    #[cfg(test)]
    pub(crate) fn guess(&self) -> Option<T> {
        self.slot.lock().value.take()
    }

    /// What the change has given.
    pub(crate) fn take(&self) -> Result<Option<T>, SessionError> {
        let mut slot = self.slot.lock();
        match slot.confirmed {
            true => Ok(slot.value.take()),
            false => Err(SessionError::Discarded),
        }
    }
}

impl<T> Clone for Deferred<T> {
    fn clone(&self) -> Self {
        Self {
            id: self.id,
            slot: Arc::clone(&self.slot),
        }
    }
}
