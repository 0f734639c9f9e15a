//! The lease of a request that runs alone: [`Concurrency::Exclusive`](crate::Concurrency::Exclusive).
//!
//! It keeps requests apart, and nothing hangs on it: if it lapses, the compare-and-set still loses nothing. In one process
//! requests queue up in order and only the first asks the store, so that a crowd costs no storm of commands.

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

/// The waits between two looks whether a lease is free: full jitter, doubled up to the longest.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOK: Duration = Duration::from_millis(16);

/// How often a process may have the lease in a row before it waits for longer than the others look.
const IN_A_ROW: u64 = 4;

/// The right to be the only request of a session, given up when dropped.
pub(crate) struct Lease {
    handle: Handle,
    term: Arc<Term>,
    /// Its task gives the lease up when this goes.
    _held: oneshot::Sender<()>,
}

impl Lease {
    /// Waits for the session to be free.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the place in the queue, and the lease if it was being taken.
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
        let (taken, hears) = oneshot::channel();
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
        let keeping = task.run(deadline, taken, released).in_current_span();
        context.backend.background.spawn(keeping);
        match hears.await {
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

    /// Whether nobody else can have had the session since it was taken.
    pub(crate) fn is_held(&self) -> bool {
        let ends = self.term.lock();
        ends.is_some_and(|ends| Instant::now() < ends)
    }
}

/// Until when a lease is held at least, without a gap since it was taken: once over, it stays over.
#[derive(Default)]
struct Term(Mutex<Option<Instant>>);

impl Term {
    /// The store has given or renewed it, some time after it was asked.
    fn extend(&self, asked: Instant, lease: Duration) {
        let mut ends = self.lock();
        if ends.is_none_or(|ends| Instant::now() < ends) {
            *ends = Some(deadline(asked, lease));
        }
    }

    /// Somebody else has it.
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

/// Takes, renews and releases one lease: all in one task, so that a command to take it never arrives after the one that
/// gives it up.
struct LeaseTask {
    context: CommitContext,
    handle: Handle,
    owner: Owner,
    lease: Duration,
    term: Arc<Term>,
    /// The front of this process's queue, and how often it has moved up.
    turn: OwnedMutexGuard<u64>,
    _ticket: Ticket,
}

impl LeaseTask {
    async fn run(
        mut self,
        deadline: Instant,
        taken: oneshot::Sender<Result<bool, StoreError>>,
        mut released: oneshot::Receiver<()>,
    ) {
        let outcome = self.acquire(deadline, &mut released).await;
        let held = matches!(outcome, Ok(true));
        if taken.send(outcome).is_ok() && held {
            self.renew(&mut released).await;
        }
        // If the store cannot be reached, the lease ends by itself.
        let _ = self
            .ask(self.context.backend.store.release(&self.handle, self.owner))
            .await;
    }

    /// False if the session was not free in time, or nobody waits for it any more.
    async fn acquire(
        &mut self,
        deadline: Instant,
        released: &mut oneshot::Receiver<()>,
    ) -> Result<bool, StoreError> {
        *self.turn += 1;
        let mut look = FIRST_LOOK;
        if (*self.turn).is_multiple_of(IN_A_ROW)
            && is_over(released, deadline.min(Instant::now() + LAST_LOOK)).await
        {
            return Ok(false);
        }
        loop {
            let left = match self.ask_for_it().await? {
                Leased::Held => return Ok(true),
                Leased::Taken { left } => left,
            };
            let pause = look.mul_f64(rand::random::<f64>()).min(left);
            let next = deadline.min(Instant::now() + pause);
            if Instant::now() >= deadline || is_over(released, next).await {
                return Ok(false);
            }
            look = LAST_LOOK.min(look * 2);
        }
    }

    /// Keeps the lease for as long as the request runs.
    async fn renew(&self, released: &mut oneshot::Receiver<()>) {
        while !is_over(released, deadline(Instant::now(), self.lease / 3)).await {
            let handle = self.handle;
            match self.ask_for_it().await {
                Ok(Leased::Held) => {}
                Ok(Leased::Taken { .. }) => {
                    self.term.end();
                    self.context.emit(&Event::LeaseLost { handle });
                    // The queue of this process stays in order.
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

    async fn ask_for_it(&self) -> Result<Leased, StoreError> {
        let asked = Instant::now();
        let store = &self.context.backend.store;
        let acquire = store.acquire(&self.handle, self.owner, self.lease);
        let answer = self.ask(acquire).await;
        if let Ok(Leased::Held) = answer {
            self.term.extend(asked, self.lease);
        }
        answer
    }

    async fn ask<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        within(self.context.deadline(), answer).await
    }
}

/// Waits until then; true as soon as the lease is not wanted any more.
async fn is_over(released: &mut oneshot::Receiver<()>, until: Instant) -> bool {
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
    async fn a_lease_is_held_while_it_is_renewed_in_time_and_once_over_stays_over() {
        let term = Arc::new(Term::default());
        let lease = lease(&term);
        assert!(!lease.is_held(), "it has not been taken");
        term.extend(Instant::now(), LEASE);
        tokio::time::advance(LEASE / 2).await;
        term.extend(Instant::now(), LEASE);
        tokio::time::advance(LEASE / 2).await;
        assert!(lease.is_held());
        tokio::time::advance(LEASE / 2).await;
        assert!(!lease.is_held());
        term.extend(Instant::now(), LEASE);
        assert!(!lease.is_held(), "somebody else may have had it");
        let shown = format!("Lease {{ handle: {:?}, .. }}", lease.handle);
        assert_eq!(format!("{lease:?}"), shown);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_somebody_else_has_is_over() {
        let term = Arc::new(Term::default());
        let lease = lease(&term);
        term.extend(Instant::now(), LEASE);
        assert!(lease.is_held());
        term.end();
        assert!(!lease.is_held());
    }

    #[tokio::test(start_paused = true)]
    async fn every_fourth_in_a_row_leaves_others_the_time_to_look() {
        let context = context();
        let handle = Handle::random();
        // The queue is one as long as somebody is in it.
        let queues = Arc::new(CommitQueues::default());
        let _ticket = queues.join(handle);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let began = Instant::now();
            let lease = Lease::take(&context, &queues, handle, LEASE, LEASE).await;
            waits.push(began.elapsed() >= LAST_LOOK);
            drop(lease.expect("a free session"));
        }
        let row = [false, false, false, true];
        assert_eq!(waits, [row, row].concat());
    }
}
