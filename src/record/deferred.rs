//! The result of a call that commits at once: the caller gets it only once the store has the change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::session::SessionError;
use crate::lock::Lock;

/// Holds the result of a change that is committed at once. Each replay of the change sets it anew.
pub(crate) struct Deferred<T> {
    id: DeferredId,
    slot: Arc<Lock<Slot<T>>>,
}

struct Slot<T> {
    value: Option<T>,
    /// Whether the store has the change. Until then the value is that of an attempt, and another replay may change it.
    confirmed: bool,
}

/// Identifies a [`Deferred`] of any type.
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
        // Dropped after the lock is released, since its type may be the application's.
        drop(before);
    }

    pub(crate) fn confirm(&self) {
        self.slot.lock().confirmed = true;
    }

    /// The result of the last attempt, confirmed or not.
    #[cfg(test)]
    pub(crate) fn unconfirmed(&self) -> Option<T> {
        self.slot.lock().value.take()
    }

    /// Takes the result.
    ///
    /// # Errors
    ///
    /// [`SessionError::Discarded`] if the change is not in the store.
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
