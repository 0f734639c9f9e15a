//! The connections that were checked out last, so that a request need not ask bb8 for one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::redis::manager::{Connection, Health};

/// How long a connection is used without asking bb8 again. bb8 takes a connection that nobody checks out for idle, and replaces
/// connections that have reached its maximum lifetime.
const FOR: Duration = Duration::from_secs(1);

/// The connections that were checked out last. bb8 owns them: they close when it drops them.
pub(crate) struct Recent {
    slots: Box<[Mutex<Option<Checked>>]>,
}

thread_local! {
    /// Which connection this thread uses. Requests of one thread share one, so that their commands travel together: the fewer
    /// packets, the less work for both sides.
    static TURN: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
}

struct Checked {
    health: Weak<Health>,
    at: Instant,
}

/// Where to note the connection that is checked out instead.
#[derive(Clone, Copy)]
pub(crate) struct Slot(usize);

impl Recent {
    pub(crate) fn new(size: u32) -> Self {
        Self {
            slots: (0..size.max(1)).map(|_| Mutex::default()).collect(),
        }
    }

    /// The connection of this thread, unless it is no good or bb8 must be asked again.
    pub(crate) fn of_this_thread(
        &self,
        now: Instant,
        is_good: impl Fn(&Connection) -> bool,
    ) -> Result<Connection, Slot> {
        let index = TURN.with(|turn| turn % self.slots.len());
        let health = match &*self.lock(index) {
            Some(checked) if now - checked.at < FOR => checked.health.upgrade(),
            _ => None,
        };
        let connection = health.map(Connection::of).filter(is_good);
        connection.ok_or(Slot(index))
    }

    pub(crate) fn note(&self, slot: Slot, connection: &Connection, now: Instant) {
        *self.lock(slot.0) = Some(Checked {
            health: Arc::downgrade(&connection.health),
            at: now,
        });
    }

    fn lock(&self, index: usize) -> MutexGuard<'_, Option<Checked>> {
        let slot = self.slots[index].lock();
        slot.unwrap_or_else(PoisonError::into_inner)
    }
}
