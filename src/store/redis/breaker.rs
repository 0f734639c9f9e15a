//! The circuit breaker: while a server does not do its work nothing is sent to it, so that requests fail at once instead of
//! piling up.
//!
//! It opens by the share of calls that fail, and at any traffic by a few calls in a row that nobody answers. Each primary of
//! a cluster has one of its own, so that one that is dead does not stop the others. While it is open one probe at a time looks
//! whether the server reads again; no user's request has to try.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What is counted together; long enough to see a rate, short enough to forget that all was well.
const WINDOW: Duration = Duration::from_millis(500);

/// Below this many answers in a window the rate says nothing.
const CALLS_LEAST: u32 = 20;

/// So many calls in a row without an answer are no chance, however few there are in all.
const MAX_UNANSWERED: u32 = 5;

/// Further apart, two calls are not in a row: what was so long ago says nothing of now.
const APART: Duration = Duration::from_secs(30);

/// The waits between two probes: the first, and the longest. A server that is back is found within the longest.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_millis(400);

/// Of a hundred calls that failed.
const MAX_FAILED: u32 = 50;

/// What a call says of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Answered,
    /// The connection broke or was refused, or the server says that it cannot do its work. When a connection breaks, so do all
    /// calls on it.
    Failed,
    /// No answer in time, or no connection.
    Unanswered,
}

#[derive(Debug, Default)]
pub(crate) struct Breaker {
    state: Mutex<State>,
    turned_away: AtomicU64,
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
    /// Counts how often it has opened.
    openings: u64,
}

impl Breaker {
    pub(crate) fn is_open(&self) -> bool {
        self.state().open
    }

    /// Whether a call may be made.
    pub(crate) fn admits(&self) -> bool {
        let open = self.is_open();
        self.turned_away
            .fetch_add(u64::from(open), Ordering::Relaxed);
        !open
    }

    /// Notes how a call ended that was made at this time; if that has opened it, which opening it is.
    pub(crate) fn note(&self, call: Call, made: Instant) -> Option<u64> {
        let mut state = self.state();
        let opened;
        (*state, opened) = note(*state, call, made, Instant::now());
        opened.then_some(state.openings)
    }

    /// Whether it has not been closed since this opening.
    pub(crate) fn is_still_open(&self, opening: u64) -> bool {
        let state = self.state();
        state.open && state.openings == opening
    }

    /// Returns how many calls were not made meanwhile.
    pub(crate) fn close(&self) -> u64 {
        let mut state = self.state();
        *state = State {
            openings: state.openings,
            ..State::default()
        };
        self.turned_away.swap(0, Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note(mut state: State, call: Call, made: Instant, now: Instant) -> (State, bool) {
    if state.open {
        // What was sent before it opened.
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
        // Others have been answered since: it is not the server that is silent, but this connection.
        Call::Unanswered if state.last_answered.is_some_and(|last| last >= made) => {}
        Call::Unanswered => {
            if state.last_unanswered.is_some_and(|last| now - last > APART) {
                state.unanswered = 0;
            }
            state.unanswered += 1;
            state.last_unanswered = Some(now);
        }
    }
    let by_rate = state.calls >= CALLS_LEAST && state.failures * 100 >= state.calls * MAX_FAILED;
    // An answer is no reason, whatever came before it.
    state.open = call != Call::Answered && (by_rate || state.unanswered >= MAX_UNANSWERED);
    state.openings += u64::from(state.open);
    (state, state.open)
}

/// How long to wait before each probe: longer and longer, and on each node for another time.
pub(crate) fn waits() -> impl Iterator<Item = Duration> {
    let doubled = std::iter::successors(Some(FIRST_WAIT), |wait| Some(LAST_WAIT.min(*wait * 2)));
    doubled.map(|wait| wait.mul_f64(rand::random_range(0.5..=1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays calls, a millisecond apart, and says after which it opened.
    fn opens(calls: impl Iterator<Item = bool>) -> Option<usize> {
        let calls = calls.map(|failed| match failed {
            true => Call::Failed,
            false => Call::Answered,
        });
        plays(calls, Duration::from_millis(1))
    }

    fn plays(calls: impl Iterator<Item = Call>, apart: Duration) -> Option<usize> {
        let mut state = State::default();
        let mut now = Instant::now();
        for (number, call) in calls.enumerate() {
            let opened;
            (state, opened) = note(state, call, now, now);
            if opened {
                return Some(number + 1);
            }
            now += apart;
        }
        None
    }

    #[test]
    fn it_opens_by_a_few_calls_in_a_row_that_nobody_answers() {
        use Call::{Answered, Failed, Unanswered};
        let second = Duration::from_secs(1);
        for (calls, apart, opened) in [
            (&[Unanswered; 9][..], Duration::ZERO, Some(5)),
            (&[Unanswered; 9], 2 * second, Some(5)),
            (&[Unanswered; 9], 30 * second, Some(5)),
            (&[Unanswered; 9], 31 * second, None),
            (&[Unanswered; 4], second, None),
            // A connection that breaks takes many calls along.
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
            let actual = plays(calls.iter().copied(), apart);
            assert_eq!(actual, opened, "{calls:?}, {apart:?} apart");
        }
        // Five that were sent over one dead connection, beside others that were answered: they time out together.
        let (mut state, sent) = (State::default(), Instant::now());
        let answered = sent + Duration::from_millis(1);
        let over = sent + Duration::from_millis(500);
        (state, _) = note(state, Answered, sent, answered);
        for _ in 0..9 {
            let opened;
            (state, opened) = note(state, Unanswered, sent, over);
            assert!(!opened);
        }
    }

    #[test]
    fn it_opens_by_the_rate_of_failures() {
        let (good, bad) = (false, true);
        assert_eq!(opens([good; 1000].into_iter()), None);
        assert_eq!(opens([bad; 1000].into_iter()), Some(20));
        // A few failures mean nothing, however many there are in a row.
        assert_eq!(opens([bad; 19].into_iter()), None);
        let third = (0..3000).map(|number| number % 3 == 0);
        assert_eq!(opens(third), None);
        let half = (0..3000).map(|number| number % 2 == 0);
        assert_eq!(opens(half), Some(21));
        let then_well = (0..1000).map(|number| number < 19);
        assert_eq!(opens(then_well), None);
        // All was well for long, then nothing answers.
        let breaks = (0..2000).map(|number| number >= 1000);
        let opened = opens(breaks).unwrap();
        assert!((1020..1600).contains(&opened), "{opened}");
        // A failure every now and then.
        let rare = (0..5000).map(|number| number % 20 == 0);
        assert_eq!(opens(rare), None);
    }

    #[test]
    fn open_it_counts_nothing_and_closed_it_begins_anew() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        let opened = (0..30)
            .filter(|_| breaker.note(Call::Failed, now).is_some())
            .count();
        assert_eq!((opened, breaker.is_open()), (1, true));
        assert!(breaker.is_still_open(1) && !breaker.is_still_open(2));
        assert!(!breaker.admits() && !breaker.admits());
        assert_eq!(breaker.close(), 2);
        assert!(breaker.admits());
        assert_eq!(breaker.note(Call::Failed, now), None);
        assert!(!breaker.is_still_open(1));
        breaker.close();
        assert_eq!(breaker.close(), 0);
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
