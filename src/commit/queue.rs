//! The commit queues: in a process, one commit of a session runs at a time, and the requests that wait for it share the next
//! one.
//!
//! A record lists the last commit of each writer. One at a time, the commits of a writer reach a session in the order of
//! their numbers, so an older number in the record proves that a later one has not been applied. The request that has the
//! turn takes along the change logs of those that wait, so any number of requests costs a few compare-and-sets.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Weak};

use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncGuard, OwnedMutexGuard};
use tokio::time::{Instant, timeout_at};

use crate::commit::base::Base;
use crate::commit::batch::{Batch, Member};
use crate::commit::outcome::{CommitOutcome, Unresolved};
use crate::commit::span::Cost;
use crate::commit::work::Work;
use crate::error::session::SessionError;
use crate::lock::Lock;
use crate::token::Handle;

/// How many requests may wait to change one session; one more fails as busy.
const MAX_WAITING: usize = 1024;

/// How many requests one batch commits at most.
const MAX_BATCH: usize = 256;

/// The queues of all sessions that are being committed.
#[derive(Default)]
pub(crate) struct CommitQueues(Lock<HashMap<Handle, Weak<CommitQueue>>>);

/// The queue of one session.
#[derive(Default)]
pub(crate) struct CommitQueue {
    /// Locked by the request that has the turn. Leases count in it how many requests have had the turn.
    turn: Arc<AsyncMutex<u64>>,
    waiting: Lock<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// In order of arrival, each with its number.
    members: VecDeque<(u64, Member)>,
    next: u64,
    /// The session as the last commit left it, so that the next one does not conflict with it.
    latest: Option<Base>,
}

/// A place in a queue. The queue is removed with its last ticket.
pub(crate) struct Ticket {
    queue: Arc<CommitQueue>,
    handle: Handle,
    queues: Arc<CommitQueues>,
}

impl CommitQueues {
    /// Takes a ticket of the session's queue.
    pub(crate) fn join(self: &Arc<Self>, handle: Handle) -> Ticket {
        let mut queues = self.0.lock();
        let entry = queues.entry(handle).or_default();
        let queue = entry.upgrade().unwrap_or_else(|| {
            let fresh = Arc::new(CommitQueue::default());
            *entry = Arc::downgrade(&fresh);
            fresh
        });
        Ticket {
            queue,
            handle,
            queues: Arc::clone(self),
        }
    }
}

impl Ticket {
    /// Commits the work, alone or in a batch with other requests that wait.
    ///
    /// # Cancel safety
    ///
    /// Must run to its end: other requests may wait for the batch that it runs.
    pub(crate) async fn commit(&self, work: Work, deadline: Instant) -> (CommitOutcome, Cost) {
        let unknown = (CommitOutcome::NeverKnown, Cost::default());
        let (member, mut outcome) = Member::new(work, deadline);
        let number = match self.queue.enter(member) {
            Ok(number) => number,
            Err(work) => return too_busy(*work),
        };
        let turn = tokio::select! {
            biased;
            outcome = &mut outcome => return outcome.unwrap_or(unknown),
            turn = timeout_at(deadline, self.queue.turn.lock()) => turn,
        };
        let Ok(_turn) = turn else {
            return match self.queue.leave(number) {
                Some(work) => too_busy(work),
                // A batch has taken it, and ends by this request's deadline.
                None => outcome.await.unwrap_or(unknown),
            };
        };
        loop {
            match outcome.try_recv() {
                Ok(outcome) => return outcome,
                Err(TryRecvError::Closed) => return unknown,
                Err(TryRecvError::Empty) => {}
            }
            let Some(batch) = self.queue.next_batch() else {
                return unknown;
            };
            let latest = batch.run(|batch| self.queue.let_join(batch)).await;
            self.queue.note_latest(latest);
        }
    }

    /// Resolves a commit that got no answer: finds out whether it was applied.
    pub(crate) async fn resolve(
        &self,
        unresolved: Unresolved,
        deadline: Instant,
    ) -> (CommitOutcome, Cost) {
        match self.turn(deadline).await {
            Some(_turn) => {
                let (outcome, cost, latest) = unresolved.resolve(deadline).await;
                self.queue.note_latest(latest);
                (outcome, cost)
            }
            None => (CommitOutcome::Unknown(unresolved), Cost::default()),
        }
    }

    /// Waits for the turn, to keep it for longer than one commit; `None` if the deadline passes first.
    pub(crate) async fn owned_turn(&self, deadline: Instant) -> Option<OwnedMutexGuard<u64>> {
        let turn = Arc::clone(&self.queue.turn);
        timeout_at(deadline, turn.lock_owned()).await.ok()
    }

    async fn turn(&self, deadline: Instant) -> Option<AsyncGuard<'_, u64>> {
        timeout_at(deadline, self.queue.turn.lock()).await.ok()
    }
}

fn too_busy(work: Work) -> (CommitOutcome, Cost) {
    let wait = work.context.backend.request_budget();
    let outcome = CommitOutcome::Failed {
        log: work.log,
        error: SessionError::Busy { wait },
    };
    (outcome, Cost::default())
}

impl CommitQueue {
    /// Adds a request to those that wait; returns its work if too many wait already.
    fn enter(&self, member: Member) -> Result<u64, Box<Work>> {
        let mut waiting = self.waiting.lock();
        if waiting.members.len() >= MAX_WAITING {
            return Err(Box::new(member.work));
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.members.push_back((number, member));
        Ok(number)
    }

    /// Stops waiting, and returns the work; `None` if a batch has taken it already.
    fn leave(&self, number: u64) -> Option<Work> {
        let mut waiting = self.waiting.lock();
        let index = waiting.members.iter().position(|(n, _)| *n == number)?;
        let (_, member) = waiting.members.remove(index)?;
        Some(member.work)
    }

    /// Begins a batch with the request that has waited longest.
    fn next_batch(&self) -> Option<Batch> {
        let (first, latest) = {
            let mut waiting = self.waiting.lock();
            let (_, first) = waiting.members.pop_front()?;
            (first, waiting.latest.clone())
        };
        Some(Batch::of(first, latest.as_ref()))
    }

    /// Lets the waiting requests join the batch that it admits.
    pub(crate) fn let_join(&self, batch: &mut Batch) {
        let mut waiting = self.waiting.lock();
        let mut rest = VecDeque::new();
        for (number, member) in waiting.members.drain(..) {
            if batch.size() < MAX_BATCH && batch.admits(&member) {
                batch.admit(member);
            } else {
                rest.push_back((number, member));
            }
        }
        waiting.members = rest;
    }

    fn note_latest(&self, latest: Option<Base>) {
        if let Some(base) = latest {
            self.waiting.lock().latest = Some(base);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut queues = self.queues.0.lock();
        // While the map is locked, no ticket is made or dropped, so the last one notices that it is the last.
        let last = Arc::into_inner(std::mem::take(&mut self.queue));
        let empty = |queue: &Weak<CommitQueue>| queue.strong_count() == 0;
        if queues.get(&self.handle).is_some_and(empty) {
            queues.remove(&self.handle);
        }
        drop(queues);
        // If the runtime is shutting down, requests may still wait in it. Their closures are dropped without the lock.
        drop(last);
    }
}

impl fmt::Debug for CommitQueues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommitQueues").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::session::state::tests::numbered_works;

    fn enter(queue: &CommitQueue, requests: usize) -> Vec<u64> {
        let enter = |work| {
            let deadline = Instant::now() + Duration::from_secs(60);
            let (member, _) = Member::new(work, deadline);
            queue.enter(member).expect("a place")
        };
        numbered_works(requests).into_iter().map(enter).collect()
    }

    fn waiting(queue: &CommitQueue) -> Vec<u64> {
        let waiting = queue.waiting.lock();
        waiting.members.iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn a_batch_takes_its_maximum_and_the_other_requests_keep_their_order() {
        let queue = CommitQueue::default();
        let numbers = enter(&queue, MAX_BATCH + 3);
        let mut batch = queue.next_batch().expect("a request waits");
        assert_eq!(batch.size(), 1);
        queue.let_join(&mut batch);
        assert_eq!(batch.size(), MAX_BATCH);
        assert_eq!(waiting(&queue), numbers[MAX_BATCH..]);
    }

    #[test]
    fn a_request_that_stops_waiting_gets_its_own_changes_back() {
        let queue = CommitQueue::default();
        let numbers = enter(&queue, 3);
        let work = queue.leave(numbers[1]).expect("it waits");
        assert_eq!(work.log.keys().collect::<Vec<_>>(), ["1"]);
        assert!(queue.leave(numbers[1]).is_none());
        assert_eq!(waiting(&queue), [numbers[0], numbers[2]]);
    }

    #[tokio::test]
    async fn one_ticket_has_the_turn_and_the_last_ticket_removes_the_queue() {
        let queues = Arc::new(CommitQueues::default());
        let (one, other) = (Handle::random(), Handle::random());
        let soon = || Instant::now() + Duration::from_millis(20);
        let (first, second) = (queues.join(one), queues.join(one));
        let elsewhere = queues.join(other);
        let turn = first.turn(soon()).await.expect("the turn is free");
        assert!(second.turn(soon()).await.is_none());
        assert!(elsewhere.turn(soon()).await.is_some());
        drop(turn);
        assert!(second.turn(soon()).await.is_some());
        drop((first, second, elsewhere));
        assert!(queues.0.lock().is_empty());
        assert_eq!(format!("{queues:?}"), "CommitQueues { .. }");
    }
}
