//! The lease of a request that runs alone, under [`Concurrency::Exclusive`](crate::Concurrency::Exclusive): a key of its own
//! in the store, with a short time to live, that names its owner.
//!
//! It keeps requests apart, and no guarantee depends on it: if it expires early, the compare-and-set still loses nothing. In
//! one process requests queue up in order and only the first one asks the store, so that many waiting requests do not send
//! many commands.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::commit::context::CommitContext;
use crate::commit::queue::{CommitQueues, Ticket};
use crate::error::session::SessionError;
use crate::error::store::StoreError;
use crate::event::Event;
use crate::store::deadline::within;
use crate::store::{Leased, Owner};
use crate::time::deadline::deadline;
use crate::token::Handle;

/// The longest wait between two attempts to acquire a lease: full jitter, doubled up to [`MAX_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(2);
const MAX_WAIT: Duration = Duration::from_millis(16);

/// How often a process may take the lease in a row before it waits so long that other processes can take it.
const IN_A_ROW: u64 = 4;

/// The right to be the only request of a session, released when dropped.
pub(crate) struct Lease {
    handle: Handle,
    term: Arc<Term>,
    /// Dropped with the lease, so that its task releases it.
    _held: oneshot::Sender<()>,
}

impl Lease {
    /// Waits until no other request of the session runs, and takes the lease.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the place in the queue, and releases the lease if it was being acquired.
    pub(crate) async fn take(
        context: &CommitContext,
        queues: &Arc<CommitQueues>,
        handle: Handle,
        wait: Duration,
        lease: Duration,
    ) -> Result<Self, SessionError> {
        let deadline = deadline(Instant::now(), wait);
        let ticket = queues.join(handle);
        let turn = ticket.owned_turn(deadline).await;
        let turn = turn.ok_or(SessionError::Busy { wait })?;
        let (held, released) = oneshot::channel();
        let (acquired, outcome) = oneshot::channel();
        let term = Arc::new(Term::default());
        let task = LeaseTask {
            context: context.clone(),
            handle,
            owner: Owner::random(),
            term: Arc::clone(&term),
            lease,
            turn,
            _ticket: ticket,
        };
        let running = task.run(deadline, acquired, released).in_current_span();
        context.backend.background.spawn(running);
        match outcome.await {
            Ok(Ok(true)) => Ok(Self {
                handle,
                term,
                _held: held,
            }),
            Ok(Ok(false)) => Err(SessionError::Busy { wait }),
            Ok(Err(error)) => Err(SessionError::Store(error)),
            Err(_) => Err(SessionError::Busy { wait }),
        }
    }

    /// Whether no other request can have had the session since the lease was taken.
    pub(crate) fn is_held(&self) -> bool {
        let ends = self.term.lock();
        ends.is_some_and(|ends| Instant::now() < ends)
    }
}

/// The time until which a lease is certainly held, without a gap since it was taken. Once it has passed, a renewal does not
/// extend it.
#[derive(Default)]
struct Term(Mutex<Option<Instant>>);

impl Term {
    /// The store has granted or renewed the lease. Its time counts from when the store was asked.
    fn extend(&self, asked: Instant, lease: Duration) {
        let mut ends = self.lock();
        if ends.is_none_or(|ends| Instant::now() < ends) {
            *ends = Some(deadline(asked, lease));
        }
    }

    /// Another request has the lease.
    fn end(&self) {
        *self.lock() = Some(Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}

/// Acquires, renews and releases one lease, all in one task, so that a command to acquire it never arrives after the one
/// that releases it.
struct LeaseTask {
    context: CommitContext,
    handle: Handle,
    owner: Owner,
    lease: Duration,
    term: Arc<Term>,
    /// The turn of this process's queue, and how many requests have had it.
    turn: OwnedMutexGuard<u64>,
    _ticket: Ticket,
}

impl LeaseTask {
    async fn run(
        mut self,
        deadline: Instant,
        acquired: oneshot::Sender<Result<bool, StoreError>>,
        mut released: oneshot::Receiver<()>,
    ) {
        let outcome = self.acquire(deadline, &mut released).await;
        let held = matches!(outcome, Ok(true));
        if acquired.send(outcome).is_ok() && held {
            self.renew(&mut released).await;
        }
        // If the store cannot be reached, the lease expires by itself.
        let _ = self
            .within_budget(self.context.backend.store.release(&self.handle, self.owner))
            .await;
    }

    /// False if the lease was not free in time, or the request no longer waits for it.
    async fn acquire(
        &mut self,
        deadline: Instant,
        released: &mut oneshot::Receiver<()>,
    ) -> Result<bool, StoreError> {
        *self.turn += 1;
        let mut longest_wait = FIRST_WAIT;
        if (*self.turn).is_multiple_of(IN_A_ROW)
            && is_dropped_before(released, deadline.min(Instant::now() + MAX_WAIT)).await
        {
            return Ok(false);
        }
        loop {
            let left = match self.try_acquire().await? {
                Leased::Held => return Ok(true),
                Leased::Taken { left } => left,
            };
            let pause = longest_wait.mul_f64(rand::random::<f64>()).min(left);
            let next = deadline.min(Instant::now() + pause);
            if Instant::now() >= deadline || is_dropped_before(released, next).await {
                return Ok(false);
            }
            longest_wait = MAX_WAIT.min(longest_wait * 2);
        }
    }

    /// Renews the lease for as long as the request runs.
    async fn renew(&self, released: &mut oneshot::Receiver<()>) {
        while !is_dropped_before(released, deadline(Instant::now(), self.lease / 3)).await {
            let handle = self.handle;
            match self.try_acquire().await {
                Ok(Leased::Held) => {}
                Ok(Leased::Taken { .. }) => {
                    self.term.end();
                    self.context.emit(&Event::LeaseLost { handle });
                    // This task keeps its turn until the request ends, so that this process still runs its requests one at a
                    // time.
                    let _ = released.await;
                    return;
                }
                Err(error) => {
                    let handle = Some(handle);
                    self.context.emit(&Event::StoreFailed { handle, error });
                }
            }
        }
    }

    async fn try_acquire(&self) -> Result<Leased, StoreError> {
        let asked = Instant::now();
        let store = &self.context.backend.store;
        let acquire = store.acquire(&self.handle, self.owner, self.lease);
        let answer = self.within_budget(acquire).await;
        if let Ok(Leased::Held) = answer {
            self.term.extend(asked, self.lease);
        }
        answer
    }

    async fn within_budget<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        within(self.context.deadline(), answer).await
    }
}

/// Waits until then; true as soon as the request has dropped the lease.
async fn is_dropped_before(released: &mut oneshot::Receiver<()>, until: Instant) -> bool {
    tokio::time::timeout_at(until, released).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::context::tests::context;

    const LEASE: Duration = Duration::from_secs(10);

    fn lease(term: &Arc<Term>) -> Lease {
        Lease {
            handle: Handle::random(),
            term: Arc::clone(term),
            _held: oneshot::channel().0,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_held_while_it_is_renewed_in_time_and_never_again_once_expired() {
        let term = Arc::new(Term::default());
        let lease = lease(&term);
        assert!(!lease.is_held(), "it has not been acquired");
        term.extend(Instant::now(), LEASE);
        tokio::time::advance(LEASE / 2).await;
        term.extend(Instant::now(), LEASE);
        tokio::time::advance(LEASE / 2).await;
        assert!(lease.is_held());
        tokio::time::advance(LEASE / 2).await;
        assert!(!lease.is_held());
        term.extend(Instant::now(), LEASE);
        assert!(!lease.is_held(), "another request may have had it");
        let shown = format!("Lease {{ handle: {:?}, .. }}", lease.handle);
        assert_eq!(format!("{lease:?}"), shown);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_another_request_has_is_over() {
        let term = Arc::new(Term::default());
        let lease = lease(&term);
        term.extend(Instant::now(), LEASE);
        assert!(lease.is_held());
        term.end();
        assert!(!lease.is_held());
    }

    #[tokio::test(start_paused = true)]
    async fn every_fourth_lease_in_a_row_waits_for_other_processes() {
        let context = context();
        let handle = Handle::random();
        // The ticket keeps the queue and its count.
        let queues = Arc::new(CommitQueues::default());
        let _ticket = queues.join(handle);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let began = Instant::now();
            let lease = Lease::take(&context, &queues, handle, LEASE, LEASE).await;
            waits.push(began.elapsed() >= MAX_WAIT);
            drop(lease.expect("a free session"));
        }
        let row = [false, false, false, true];
        assert_eq!(waits, [row, row].concat());
    }
}
