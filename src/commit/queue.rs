//! The line before one session: its commits go one at a time in a process, and requests that wait travel together.
//!
//! The record remembers the last commit of each writer. One at a time, a writer's commits reach a session in the order of
//! their numbers, so that an older number in the record proves that a later one has not been applied. Whoever has the turn
//! takes along the change logs of those who wait: any number of writers cost a few compare-and-sets.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Weak};

use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncGuard, OwnedMutexGuard};
use tokio::time::{Instant, timeout_at};

use crate::commit::base::Base;
use crate::commit::batch::{Batch, Member};
use crate::commit::outcome::{CommitOutcome, Unresolved};
use crate::commit::work::Work;
use crate::error::session::SessionError;
use crate::lock::Lock;
use crate::token::Handle;

/// How many requests may wait to change one session, and how many of them travel together at most.
const MAX_WAITING: usize = 1024;
const MAX_TOGETHER: usize = 256;

/// The queues of all sessions that somebody commits to.
#[derive(Default)]
pub(crate) struct CommitQueues(Lock<HashMap<Handle, Weak<CommitQueue>>>);

/// The line before one session.
#[derive(Default)]
pub(crate) struct CommitQueue {
    turn: Arc<AsyncMutex<u64>>,
    waiting: Lock<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// In the order in which they came, each with its number.
    members: VecDeque<(u64, Member)>,
    next: u64,
    /// The session as the last commit left it, so that the next one does not meet it as a conflict.
    latest: Option<Base>,
}

/// A place in a queue. The line goes with the last of them.
pub(crate) struct Ticket {
    queue: Arc<CommitQueue>,
    handle: Handle,
    queues: Arc<CommitQueues>,
}

impl CommitQueues {
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
    /// Brings the changes into the store, alone or with those of others who wait.
    ///
    /// Must not be dropped half-way: others may wait for the commit that it runs.
    pub(crate) async fn commit(&self, work: Work, deadline: Instant) -> CommitOutcome {
        let (member, mut outcome) = Member::new(work, deadline);
        let number = match self.queue.enter(member) {
            Ok(number) => number,
            Err(work) => return too_busy(*work),
        };
        let turn = tokio::select! {
            biased;
            outcome = &mut outcome => return outcome.unwrap_or(CommitOutcome::NeverKnown),
            turn = timeout_at(deadline, self.queue.turn.lock()) => turn,
        };
        let Ok(_turn) = turn else {
            return match self.queue.leave(number) {
                Some(work) => too_busy(work),
                // It is on its way, and ends with this request's time.
                None => outcome.await.unwrap_or(CommitOutcome::NeverKnown),
            };
        };
        loop {
            match outcome.try_recv() {
                Ok(outcome) => return outcome,
                Err(TryRecvError::Closed) => return CommitOutcome::NeverKnown,
                Err(TryRecvError::Empty) => {}
            }
            let Some(batch) = self.queue.next() else {
                return CommitOutcome::NeverKnown;
            };
            let latest = batch.run(|batch| self.queue.let_join(batch)).await;
            self.queue.note_latest(latest);
        }
    }

    /// Finds out what became of a commit that got no answer.
    pub(crate) async fn resolve(&self, unresolved: Unresolved, deadline: Instant) -> CommitOutcome {
        match self.turn(deadline).await {
            Some(_turn) => {
                let (outcome, latest) = unresolved.resolve(deadline).await;
                self.queue.note_latest(latest);
                outcome
            }
            None => CommitOutcome::Unknown(unresolved),
        }
    }

    /// The turn for longer than one commit, or `None` once the time is up.
    pub(crate) async fn owned_turn(&self, deadline: Instant) -> Option<OwnedMutexGuard<u64>> {
        let turn = Arc::clone(&self.queue.turn);
        timeout_at(deadline, turn.lock_owned()).await.ok()
    }

    async fn turn(&self, deadline: Instant) -> Option<AsyncGuard<'_, u64>> {
        timeout_at(deadline, self.queue.turn.lock()).await.ok()
    }
}

fn too_busy(work: Work) -> CommitOutcome {
    let wait = work.context.backend.request_budget();
    CommitOutcome::Failed {
        log: work.log,
        error: SessionError::Busy { wait },
    }
}

impl CommitQueue {
    /// Joins those who wait; gives the work back if they are too many.
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

    /// Gives up waiting; `None` if somebody has taken the changes along already.
    fn leave(&self, number: u64) -> Option<Work> {
        let mut waiting = self.waiting.lock();
        let place = waiting.members.iter().position(|(n, _)| *n == number)?;
        let (_, member) = waiting.members.remove(place)?;
        Some(member.work)
    }

    /// The commit of whoever has waited longest.
    fn next(&self) -> Option<Batch> {
        let (first, latest) = {
            let mut waiting = self.waiting.lock();
            let (_, first) = waiting.members.pop_front()?;
            (first, waiting.latest.clone())
        };
        Some(Batch::of(first, latest.as_ref()))
    }

    /// Lets those who wait and fit in travel with this commit.
    pub(crate) fn let_join(&self, batch: &mut Batch) {
        let mut waiting = self.waiting.lock();
        let mut rest = VecDeque::new();
        for (number, member) in waiting.members.drain(..) {
            if batch.size() < MAX_TOGETHER && batch.admits(&member) {
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
        // Nobody joins or leaves meanwhile, so one of them sees that it was the last.
        let last = Arc::into_inner(std::mem::take(&mut self.queue));
        let empty = |queue: &Weak<CommitQueue>| queue.strong_count() == 0;
        if queues.get(&self.handle).is_some_and(empty) {
            queues.remove(&self.handle);
        }
        drop(queues);
        // At the end of the runtime changes may still wait in it.
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
    fn so_many_travel_together_and_those_behind_them_wait_in_their_order() {
        let queue = CommitQueue::default();
        let numbers = enter(&queue, MAX_TOGETHER + 3);
        let mut batch = queue.next().expect("those who wait");
        assert_eq!(batch.size(), 1);
        queue.let_join(&mut batch);
        assert_eq!(batch.size(), MAX_TOGETHER);
        assert_eq!(waiting(&queue), numbers[MAX_TOGETHER..]);
    }

    #[test]
    fn who_gives_up_waiting_has_its_own_changes_back() {
        let queue = CommitQueue::default();
        let numbers = enter(&queue, 3);
        let work = queue.leave(numbers[1]).expect("it waits");
        assert_eq!(work.log.keys().collect::<Vec<_>>(), ["1"]);
        assert!(queue.leave(numbers[1]).is_none());
        assert_eq!(waiting(&queue), [numbers[0], numbers[2]]);
    }

    #[tokio::test]
    async fn one_has_the_turn_and_nothing_is_left_behind() {
        let queues = Arc::new(CommitQueues::default());
        let (one, other) = (Handle::random(), Handle::random());
        let soon = || Instant::now() + Duration::from_millis(20);
        let (first, second) = (queues.join(one), queues.join(one));
        let elsewhere = queues.join(other);
        let held = first.turn(soon()).await.expect("a free line");
        assert!(second.turn(soon()).await.is_none());
        assert!(elsewhere.turn(soon()).await.is_some());
        drop(held);
        assert!(second.turn(soon()).await.is_some());
        drop((first, second, elsewhere));
        assert!(queues.0.lock().is_empty());
        assert_eq!(format!("{queues:?}"), "CommitQueues { .. }");
    }
}
