//! The circuit breaker: a server that does not do its work is left alone for a moment, so that requests fail at once
//! instead of piling up before it.
//!
//! It opens by the share of calls that fail; in a cluster only if nearly all do, so that one shard does not stop the others. While it is open one probe at a
//! time looks whether the server reads again; no user's request has to try.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What is counted together; long enough to see a rate, short enough to forget that all was well.
const WINDOW: Duration = Duration::from_millis(500);

/// Below this many answers in a window the rate says nothing.
const CALLS_LEAST: u32 = 20;

/// The waits between two probes: the first, and the longest. A server that is back is found within the longest.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_millis(400);

/// How many of a hundred calls fail when a server does not do its work, and when a cluster does not: what one dead primary
/// refuses comes back sooner, and so more often, than what the others do.
const OF_A_SERVER: u32 = 50;
const OF_A_CLUSTER: u32 = 90;

#[derive(Debug)]
pub(super) struct Breaker {
    percent: u32,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    open: bool,
    calls: u32,
    failures: u32,
    began: Option<Instant>,
}

impl Breaker {
    pub(super) fn new(cluster: bool) -> Self {
        Self {
            percent: if cluster { OF_A_CLUSTER } else { OF_A_SERVER },
            state: Mutex::default(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.state().open
    }

    /// Notes how a call ended; true if that has opened it.
    pub(super) fn note(&self, failed: bool) -> bool {
        let mut state = self.state();
        let opened;
        (*state, opened) = note(*state, self.percent, failed, Instant::now());
        opened
    }

    pub(super) fn close(&self) {
        *self.state() = State::default();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note(mut state: State, percent: u32, failed: bool, now: Instant) -> (State, bool) {
    if state.open {
        // What was sent before it opened.
        return (state, false);
    }
    if state.began.is_none_or(|began| now - began >= WINDOW) {
        state = State {
            began: Some(now),
            ..State::default()
        };
    }
    state.calls += 1;
    state.failures += u32::from(failed);
    state.open = state.calls >= CALLS_LEAST && state.failures * 100 >= state.calls * percent;
    (state, state.open)
}

/// How long to wait before each probe: longer and longer, and on each node for another time.
pub(super) fn waits() -> impl Iterator<Item = Duration> {
    let doubled = std::iter::successors(Some(FIRST_WAIT), |wait| Some(LAST_WAIT.min(*wait * 2)));
    doubled.map(|wait| wait.mul_f64(rand::random_range(0.5..=1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays calls, a millisecond apart, and says after which it opened.
    fn opens(calls: impl Iterator<Item = bool>) -> Option<usize> {
        opens_at(OF_A_SERVER, calls)
    }

    fn opens_at(percent: u32, calls: impl Iterator<Item = bool>) -> Option<usize> {
        let mut state = State::default();
        let mut now = Instant::now();
        for (number, failed) in calls.enumerate() {
            let opened;
            (state, opened) = note(state, percent, failed, now);
            if opened {
                return Some(number + 1);
            }
            now += Duration::from_millis(1);
        }
        None
    }

    #[test]
    fn it_opens_by_the_rate_of_failures() {
        let (good, bad) = (false, true);
        assert_eq!(opens([good; 1000].into_iter()), None);
        assert_eq!(opens([bad; 1000].into_iter()), Some(20));
        // A few failures mean nothing, however many there are in a row.
        assert_eq!(opens([bad; 19].into_iter()), None);
        // One shard of three is down.
        let third = (0..3000).map(|number| number % 3 == 0);
        assert_eq!(opens(third), None);
        let half = (0..3000).map(|number| number % 2 == 0);
        assert_eq!(opens(half), Some(20));
        // All was well for long, then nothing answers.
        let breaks = (0..2000).map(|number| number >= 1000);
        let opened = opens(breaks).unwrap();
        assert!((1020..1600).contains(&opened), "{opened}");
        // A dead primary of a cluster refuses faster than the others answer.
        let most = || (0..3000).map(|number| number % 4 != 0);
        assert_eq!(opens(most()), Some(20));
        assert_eq!(opens_at(OF_A_CLUSTER, most()), None);
        assert_eq!(opens_at(OF_A_CLUSTER, [bad; 1000].into_iter()), Some(20));
        // A failure every now and then.
        let rare = (0..5000).map(|number| number % 20 == 0);
        assert_eq!(opens(rare), None);
    }

    #[test]
    fn open_it_counts_nothing_and_closed_it_begins_anew() {
        let breaker = Breaker::new(false);
        let opened = (0..30).filter(|_| breaker.note(true)).count();
        assert_eq!((opened, breaker.is_open()), (1, true));
        breaker.close();
        assert!(!breaker.is_open());
        assert!(!breaker.note(true));
    }

    #[test]
    fn probes_are_never_far_apart() {
        let waits: Vec<Duration> = waits().take(10).collect();
        assert!(
            waits
                .iter()
                .all(|wait| *wait <= LAST_WAIT && *wait >= FIRST_WAIT / 2)
        );
    }
}
