//! The line before one session: its commits go one at a time in a process, and requests that wait travel together.
//!
//! The record remembers the last commit of each writer. One at a time, a writer's commits reach a session in the order of
//! their numbers, so that an older number in the record proves that a later one has not been applied. Whoever has the turn
//! takes along the change logs of those who wait: any number of writers cost a few compare-and-sets.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Weak};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncGuard, OwnedMutexGuard};
use tokio::time::{Instant, timeout_at};

use crate::commit::attempt::{Commit, Ended, Member, Work};
use crate::commit::base::Base;
use crate::commit::unresolved::Unresolved;
use crate::error::session::SessionError;
use crate::lock::Lock;
use crate::token::Handle;

/// How many requests may wait to change one session, and how many of them travel together at most.
const WAITING_MOST: usize = 1024;
const TOGETHER_MOST: usize = 256;

/// The lines of all sessions that somebody commits to.
#[derive(Default)]
pub(crate) struct Lines(Lock<HashMap<Handle, Weak<Line>>>);

/// The line before one session.
#[derive(Default)]
pub(crate) struct Line {
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

/// A place in a line. The line goes with the last of them.
pub(crate) struct Place {
    line: Arc<Line>,
    handle: Handle,
    lines: Arc<Lines>,
}

impl Lines {
    pub(crate) fn join(self: &Arc<Self>, handle: Handle) -> Place {
        let mut lines = self.0.lock();
        let entry = lines.entry(handle).or_default();
        let line = entry.upgrade().unwrap_or_else(|| {
            let fresh = Arc::new(Line::default());
            *entry = Arc::downgrade(&fresh);
            fresh
        });
        Place {
            line,
            handle,
            lines: Arc::clone(self),
        }
    }
}

impl Place {
    /// Brings the changes into the store, alone or with those of others who wait.
    ///
    /// Must not be dropped half-way: others may wait for the commit that it runs.
    pub(crate) async fn commit(&self, work: Work, deadline: Instant) -> Ended {
        let (reply, mut ended) = oneshot::channel();
        let member = Member {
            work,
            deadline,
            reply,
        };
        let number = match self.line.enter(member) {
            Ok(number) => number,
            Err(work) => return too_busy(*work),
        };
        let turn = tokio::select! {
            biased;
            ended = &mut ended => return ended.unwrap_or(Ended::NeverKnown),
            turn = timeout_at(deadline, self.line.turn.lock()) => turn,
        };
        let Ok(_turn) = turn else {
            return match self.line.leave(number) {
                Some(work) => too_busy(work),
                // It is on its way, and ends with this request's time.
                None => ended.await.unwrap_or(Ended::NeverKnown),
            };
        };
        loop {
            match ended.try_recv() {
                Ok(ended) => return ended,
                Err(TryRecvError::Closed) => return Ended::NeverKnown,
                Err(TryRecvError::Empty) => {}
            }
            let Some(commit) = self.line.next() else {
                return Ended::NeverKnown;
            };
            commit.run(Some(&self.line)).await;
        }
    }

    /// Finds out what became of a commit that got no answer.
    pub(crate) async fn resolve(&self, unresolved: Unresolved, deadline: Instant) -> Ended {
        match self.turn(deadline).await {
            Some(_turn) => unresolved.resolve(deadline, &self.line).await,
            None => Ended::Unknown(unresolved),
        }
    }

    /// The turn for longer than one commit, or `None` once the time is up.
    pub(crate) async fn owned_turn(&self, deadline: Instant) -> Option<OwnedMutexGuard<u64>> {
        let turn = Arc::clone(&self.line.turn);
        timeout_at(deadline, turn.lock_owned()).await.ok()
    }

    async fn turn(&self, deadline: Instant) -> Option<AsyncGuard<'_, u64>> {
        timeout_at(deadline, self.line.turn.lock()).await.ok()
    }
}

fn too_busy(work: Work) -> Ended {
    let wait = work.terms.engine.request_budget();
    Ended::Failed {
        log: work.log,
        error: SessionError::Busy { wait },
    }
}

impl Line {
    /// Joins those who wait; gives the work back if they are too many.
    fn enter(&self, member: Member) -> Result<u64, Box<Work>> {
        let mut waiting = self.waiting.lock();
        if waiting.members.len() >= WAITING_MOST {
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
    fn next(&self) -> Option<Commit> {
        let (first, latest) = {
            let mut waiting = self.waiting.lock();
            let (_, first) = waiting.members.pop_front()?;
            (first, waiting.latest.clone())
        };
        Some(Commit::of(first, latest.as_ref()))
    }

    /// Lets those who wait and fit in travel with this commit.
    pub(crate) fn let_join(&self, commit: &mut Commit) {
        let mut waiting = self.waiting.lock();
        let mut rest = VecDeque::new();
        for (number, member) in waiting.members.drain(..) {
            if commit.size() < TOGETHER_MOST && commit.admits(&member) {
                commit.admit(member);
            } else {
                rest.push_back((number, member));
            }
        }
        waiting.members = rest;
    }

    pub(crate) fn note_latest(&self, base: &Base) {
        self.waiting.lock().latest = Some(base.clone());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.lines.0.lock();
        // Nobody joins or leaves meanwhile, so one of them sees that it was the last.
        let last = Arc::into_inner(std::mem::take(&mut self.line));
        let empty = |line: &Weak<Line>| line.strong_count() == 0;
        if lines.get(&self.handle).is_some_and(empty) {
            lines.remove(&self.handle);
        }
        drop(lines);
        // At the end of the runtime changes may still wait in it.
        drop(last);
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::session::state::tests::numbered_works;

    fn enter(line: &Line, requests: usize) -> Vec<u64> {
        let enter = |work| {
            let member = Member {
                work,
                deadline: Instant::now() + Duration::from_secs(60),
                reply: oneshot::channel().0,
            };
            line.enter(member).expect("a place")
        };
        numbered_works(requests).into_iter().map(enter).collect()
    }

    fn waiting(line: &Line) -> Vec<u64> {
        let waiting = line.waiting.lock();
        waiting.members.iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn so_many_travel_together_and_those_behind_them_wait_in_their_order() {
        let line = Line::default();
        let numbers = enter(&line, TOGETHER_MOST + 3);
        let mut commit = line.next().expect("those who wait");
        assert_eq!(commit.size(), 1);
        line.let_join(&mut commit);
        assert_eq!(commit.size(), TOGETHER_MOST);
        assert_eq!(waiting(&line), numbers[TOGETHER_MOST..]);
    }

    #[test]
    fn who_gives_up_waiting_has_its_own_changes_back() {
        let line = Line::default();
        let numbers = enter(&line, 3);
        let work = line.leave(numbers[1]).expect("it waits");
        assert_eq!(work.log.keys().collect::<Vec<_>>(), ["1"]);
        assert!(line.leave(numbers[1]).is_none());
        assert_eq!(waiting(&line), [numbers[0], numbers[2]]);
    }

    #[tokio::test]
    async fn one_has_the_turn_and_nothing_is_left_behind() {
        let lines = Arc::new(Lines::default());
        let (one, other) = (Handle::random(), Handle::random());
        let soon = || Instant::now() + Duration::from_millis(20);
        let (first, second) = (lines.join(one), lines.join(one));
        let elsewhere = lines.join(other);
        let held = first.turn(soon()).await.expect("a free line");
        assert!(second.turn(soon()).await.is_none());
        assert!(elsewhere.turn(soon()).await.is_some());
        drop(held);
        assert!(second.turn(soon()).await.is_some());
        drop((first, second, elsewhere));
        assert!(lines.0.lock().is_empty());
        assert_eq!(format!("{lines:?}"), "Lines { .. }");
    }
}
