//! The lease of a request that runs alone: [`Concurrency::Exclusive`](crate::Concurrency::Exclusive).
//!
//! It keeps requests apart, and nothing hangs on it: if it lapses, the compare-and-set still loses nothing. In one process
//! requests queue up in order and only the first asks the store, so that a crowd costs no storm of commands.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::queue::Place;
use super::run::within;
use crate::error::SessionError;
use crate::event::Event;
use crate::layer::{Core, Settings};
use crate::store::{Leased, Owner};
use crate::token::Handle;

/// A shorter lease would end while it is on its way.
const SHORTEST: Duration = Duration::from_millis(100);

/// The waits between two looks whether a lease is free: full jitter, doubled up to the longest.
const FIRST_LOOK: Duration = Duration::from_millis(4);
const LAST_LOOK: Duration = Duration::from_millis(64);

/// The right to be the only request of a session, given up when dropped.
pub(crate) struct Lease {
    core: Arc<Core>,
    handle: Handle,
    owner: Owner,
    renewal: Option<AbortHandle>,
    /// The front of this process's queue.
    _turn: OwnedMutexGuard<()>,
    _place: Place,
}

impl Lease {
    /// Waits for the session to be free.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the place in the queue, and the lease if it was being taken.
    pub(crate) async fn take(
        core: &Arc<Core>,
        settings: &Arc<Settings>,
        handle: Handle,
        wait: Duration,
        lease: Duration,
    ) -> Result<Self, SessionError> {
        let lease = lease.max(SHORTEST);
        let deadline = Instant::now() + wait;
        let place = core.lessees.join(handle);
        let turn = place.owned_turn(deadline).await;
        let turn = turn.ok_or(SessionError::Busy { wait })?;
        let mut taken = Self {
            core: Arc::clone(core),
            handle,
            owner: Owner::random(),
            renewal: None,
            _turn: turn,
            _place: place,
        };
        let mut look = FIRST_LOOK;
        loop {
            let budget = core.store.capabilities().request_budget;
            let acquired = core.store.acquire(&handle, taken.owner, lease);
            match within(Instant::now() + budget, acquired).await? {
                Leased::Held => break,
                Leased::Taken { .. } if Instant::now() >= deadline => {
                    return Err(SessionError::Busy { wait });
                }
                Leased::Taken { left } => {
                    let pause = look.mul_f64(rand::random::<f64>()).min(left);
                    tokio::time::sleep_until(deadline.min(Instant::now() + pause)).await;
                    look = LAST_LOOK.min(look * 2);
                }
            }
        }
        taken.renewal = Some(taken.renew(settings, lease));
        Ok(taken)
    }

    /// Keeps the lease for as long as the request runs.
    fn renew(&self, settings: &Arc<Settings>, lease: Duration) -> AbortHandle {
        let (core, settings) = (Arc::clone(&self.core), Arc::clone(settings));
        let (handle, owner) = (self.handle, self.owner);
        let task = async move {
            loop {
                tokio::time::sleep(lease / 3).await;
                match core.store.acquire(&handle, owner, lease).await {
                    Ok(Leased::Held) => {}
                    Ok(Leased::Taken { .. }) => return settings.emit(&Event::LeaseLost { handle }),
                    Err(error) => {
                        let handle = Some(handle);
                        settings.emit(&Event::StoreFailed { handle, error });
                    }
                }
            }
        };
        tokio::spawn(task.in_current_span()).abort_handle()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(renewal) = &self.renewal {
            renewal.abort();
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        // What was being sent when the renewal was stopped may arrive after this; the lease then ends by itself.
        let (core, handle, owner) = (Arc::clone(&self.core), self.handle, self.owner);
        let release = async move {
            let deadline = Instant::now() + core.store.capabilities().request_budget;
            // If the store cannot be reached, the lease ends by itself.
            let _ = within(deadline, core.store.release(&handle, owner)).await;
        };
        runtime.spawn(release.in_current_span());
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}
