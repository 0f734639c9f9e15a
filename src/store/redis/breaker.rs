//! The circuit breaker: while a server is down it rejects calls, so that requests fail at once instead of piling up.
//!
//! It opens if too large a share of calls fails, or, at any traffic, if a few consecutive calls get no reply. Each primary of a
//! cluster has a breaker of its own, so that a dead one does not affect the others. While it is open, one probe at a time
//! checks whether the server answers reads again; user requests never serve as probes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::gauge::Present;

/// The window of the failure rate: long enough to measure it, short enough to notice that it changes.
const WINDOW: Duration = Duration::from_millis(500);

/// With fewer calls in a window, the rate says nothing.
const MIN_CALLS: u32 = 20;

/// This many consecutive calls without a reply are not a coincidence, however few there are in all.
const MAX_UNANSWERED: u32 = 5;

/// Two calls that are further apart are not consecutive: the earlier one says nothing about now.
const MAX_GAP: Duration = Duration::from_secs(30);

/// The waits before the first probe and, at most, between two probes. The breaker notices within the longer one that a server
/// is back.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const MAX_WAIT: Duration = Duration::from_millis(400);

/// The share of failed calls that opens the breaker, in percent.
const MAX_FAILED_PERCENT: u32 = 50;

/// The outcome of a call, as evidence about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Answered,
    /// The connection broke or was refused, or the server reports that it cannot serve requests. When a connection breaks, all
    /// calls on it fail.
    Failed,
    /// No reply in time, or no connection.
    Unanswered,
}

#[derive(Debug, Default)]
pub(crate) struct Breaker {
    state: Mutex<State>,
    rejected: AtomicU64,
    /// Counts the breaker among those that are open. Changed only while `state` is locked.
    counted: Mutex<Option<Present>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    open: bool,
    calls: u32,
    failures: u32,
    began: Option<Instant>,
    unanswered: u32,
    last_unanswered: Option<Instant>,
    last_answered: Option<Instant>,
    /// How often the breaker has opened.
    openings: u64,
}

impl Breaker {
    pub(crate) fn is_open(&self) -> bool {
        self.state().open
    }

    /// Whether a call may be made. Counts rejected calls.
    pub(crate) fn admits(&self) -> bool {
        let open = self.is_open();
        self.rejected.fetch_add(u64::from(open), Ordering::Relaxed);
        !open
    }

    /// Records the outcome of a call that began at `made`. If that opens the breaker, returns the number of this opening.
    pub(crate) fn record(&self, call: Call, made: Instant) -> Option<u64> {
        let mut state = self.state();
        let opened;
        (*state, opened) = record(*state, call, made, Instant::now());
        opened.then_some(state.openings)
    }

    /// Whether the breaker has been open since this opening.
    pub(crate) fn is_still_open(&self, opening: u64) -> bool {
        let state = self.state();
        state.open && state.openings == opening
    }

    /// Keeps the count of this opening until the breaker closes.
    pub(crate) fn count_opening(&self, opening: u64, counted: Present) {
        let state = self.state();
        if state.open && state.openings == opening {
            *self.counted() = Some(counted);
        }
    }

    /// Closes the breaker, and returns how many calls it has rejected.
    pub(crate) fn close(&self) -> u64 {
        let mut state = self.state();
        *state = State {
            openings: state.openings,
            ..State::default()
        };
        *self.counted() = None;
        self.rejected.swap(0, Ordering::Relaxed)
    }

    fn counted(&self) -> MutexGuard<'_, Option<Present>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn record(mut state: State, call: Call, made: Instant, now: Instant) -> (State, bool) {
    if state.open {
        // The call began before the breaker opened.
        return (state, false);
    }
    if state.began.is_none_or(|began| now - began >= WINDOW) {
        (state.calls, state.failures) = (0, 0);
        state.began = Some(now);
    }
    state.calls += 1;
    state.failures += u32::from(call != Call::Answered);
    match call {
        Call::Answered => {
            state.unanswered = 0;
            state.last_answered = Some(now);
        }
        Call::Failed => {}
        // Other calls have had replies since: the connection is silent, not the server.
        Call::Unanswered if state.last_answered.is_some_and(|last| last >= made) => {}
        Call::Unanswered => {
            if state
                .last_unanswered
                .is_some_and(|last| now - last > MAX_GAP)
            {
                state.unanswered = 0;
            }
            state.unanswered += 1;
            state.last_unanswered = Some(now);
        }
    }
    let by_rate =
        state.calls >= MIN_CALLS && state.failures * 100 >= state.calls * MAX_FAILED_PERCENT;
    // A reply never opens the breaker, whatever came before it.
    state.open = call != Call::Answered && (by_rate || state.unanswered >= MAX_UNANSWERED);
    state.openings += u64::from(state.open);
    (state, state.open)
}

/// How long to wait before each probe: doubling, with jitter, so that nodes do not probe at once.
pub(crate) fn waits() -> impl Iterator<Item = Duration> {
    let doubled = std::iter::successors(Some(FIRST_WAIT), |wait| Some(MAX_WAIT.min(*wait * 2)));
    doubled.map(|wait| wait.mul_f64(rand::random_range(0.5..=1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays calls, a millisecond apart, and returns after which of them the breaker opened.
    fn opens(calls: impl Iterator<Item = bool>) -> Option<usize> {
        let calls = calls.map(|failed| match failed {
            true => Call::Failed,
            false => Call::Answered,
        });
        opens_after(calls, Duration::from_millis(1))
    }

    fn opens_after(calls: impl Iterator<Item = Call>, apart: Duration) -> Option<usize> {
        let mut state = State::default();
        let mut now = Instant::now();
        for (number, call) in calls.enumerate() {
            let opened;
            (state, opened) = record(state, call, now, now);
            if opened {
                return Some(number + 1);
            }
            now += apart;
        }
        None
    }

    #[test]
    fn it_opens_after_a_few_consecutive_calls_without_a_reply() {
        use Call::{Answered, Failed, Unanswered};
        let second = Duration::from_secs(1);
        for (calls, apart, opened) in [
            (&[Unanswered; 9][..], Duration::ZERO, Some(5)),
            (&[Unanswered; 9], 2 * second, Some(5)),
            (&[Unanswered; 9], 30 * second, Some(5)),
            (&[Unanswered; 9], 31 * second, None),
            (&[Unanswered; 4], second, None),
            // A connection that breaks fails many calls at once.
            (&[Failed; 9], Duration::ZERO, None),
            (
                &[
                    Unanswered, Unanswered, Unanswered, Unanswered, Answered, Unanswered,
                ],
                second,
                None,
            ),
            (
                &[
                    Unanswered, Unanswered, Failed, Unanswered, Unanswered, Unanswered,
                ],
                second,
                Some(6),
            ),
        ] {
            let actual = opens_after(calls.iter().copied(), apart);
            assert_eq!(actual, opened, "{calls:?}, {apart:?} apart");
        }
        // Calls on one dead connection time out together, while others get replies.
        let (mut state, sent) = (State::default(), Instant::now());
        let answered = sent + Duration::from_millis(1);
        let over = sent + Duration::from_millis(500);
        (state, _) = record(state, Answered, sent, answered);
        for _ in 0..9 {
            let opened;
            (state, opened) = record(state, Unanswered, sent, over);
            assert!(!opened);
        }
    }

    #[test]
    fn it_opens_if_half_of_the_calls_fail() {
        let (success, failure) = (false, true);
        assert_eq!(opens([success; 1000].into_iter()), None);
        assert_eq!(opens([failure; 1000].into_iter()), Some(20));
        // A few failures do not open it, even if they are consecutive.
        assert_eq!(opens([failure; 19].into_iter()), None);
        let third = (0..3000).map(|number| number % 3 == 0);
        assert_eq!(opens(third), None);
        let half = (0..3000).map(|number| number % 2 == 0);
        assert_eq!(opens(half), Some(21));
        let then_well = (0..1000).map(|number| number < 19);
        assert_eq!(opens(then_well), None);
        // The server is healthy for long, then stops answering.
        let fails_late = (0..2000).map(|number| number >= 1000);
        let opened = opens(fails_late).unwrap();
        assert!((1020..1600).contains(&opened), "{opened}");
        // Occasional failures.
        let rare = (0..5000).map(|number| number % 20 == 0);
        assert_eq!(opens(rare), None);
    }

    #[test]
    fn an_open_breaker_counts_no_failures_and_a_closed_one_starts_afresh() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        let opened = (0..30)
            .filter(|_| breaker.record(Call::Failed, now).is_some())
            .count();
        assert_eq!((opened, breaker.is_open()), (1, true));
        assert!(breaker.is_still_open(1) && !breaker.is_still_open(2));
        assert!(!breaker.admits() && !breaker.admits());
        assert_eq!(breaker.close(), 2);
        assert!(breaker.admits());
        assert_eq!(breaker.record(Call::Failed, now), None);
        assert!(!breaker.is_still_open(1));
        breaker.close();
        assert_eq!(breaker.close(), 0);
    }

    #[test]
    fn the_wait_between_probes_is_bounded() {
        let waits: Vec<Duration> = waits().take(10).collect();
        assert!(
            waits
                .iter()
                .all(|wait| *wait <= MAX_WAIT && *wait >= FIRST_WAIT / 2)
        );
    }
}
