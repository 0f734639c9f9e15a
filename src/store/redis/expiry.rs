//! How long keys live, as servers have answered a moment ago, so that the requests of one page need not all ask.

use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::Lock;
use crate::store::redis::throttle::SECOND;
use crate::time::duration_millis;
use crate::token::Handle;

/// How many keys are remembered at most: several times as many as one process reads in a second.
const KEYS: usize = 16_384;

/// For which part of the time to live an answer is used, so that one that is almost over is read again at once.
const PART: u32 = 32;

/// The times to live that were read within the last second.
///
/// A key can only live longer than its last answer says: renewals extend it, and a change begins anew. Where another program,
/// or a change of the timeouts, has shortened it, that is noticed a second later.
pub(crate) struct Expiries {
    base: Instant,
    /// A key has one place, by its handle. The last one takes it.
    places: Box<[Lock<Option<Expiry>>]>,
}

/// The times are milliseconds since the base.
#[derive(Clone, Copy)]
struct Expiry {
    handle: Handle,
    read: NonZeroU64,
    until: u64,
    ends: u64,
}

impl Expiries {
    pub(crate) fn new() -> Self {
        Self {
            base: Instant::now(),
            places: (0..KEYS).map(|_| Lock::default()).collect(),
        }
    }

    /// How long the key lives at least, if a server has answered that a moment ago.
    pub(crate) fn time_left(&self, handle: Handle, now: Instant) -> Option<Duration> {
        let now = self.millis(now);
        let expiry = (*self.place(handle).lock())?;
        let is_recent = expiry.handle == handle && (expiry.read.get()..expiry.until).contains(&now);
        is_recent.then(|| Duration::from_millis(expiry.ends.saturating_sub(now)))
    }

    /// Notes the answer to a question that was asked at this time.
    pub(crate) fn note(&self, handle: Handle, asked: Instant, left: Duration) {
        let read = self.millis(asked);
        let lasts = duration_millis(SECOND.min(left / PART));
        *self.place(handle).lock() = NonZeroU64::new(read).map(|read| Expiry {
            handle,
            read,
            until: read.get().saturating_add(lasts),
            ends: read.get().saturating_add(duration_millis(left)),
        });
    }

    /// Notes that a command has set the time to live since. That is no answer, so the next question is asked no later for it.
    pub(crate) fn note_set(&self, handle: Handle, sent: Instant, ttl: Duration) {
        let ends = self.millis(sent).saturating_add(duration_millis(ttl));
        let mut place = self.place(handle).lock();
        if let Some(expiry) = place.as_mut().filter(|expiry| expiry.handle == handle) {
            expiry.ends = ends;
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        // Zero stands for no time.
        1 + duration_millis(at.saturating_duration_since(self.base))
    }

    fn place(&self, handle: Handle) -> &Lock<Option<Expiry>> {
        &self.places[handle.modulo(self.places.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_used_for_a_second_at_most() {
        let (expiries, handle) = (Expiries::new(), Handle::random());
        let began = Instant::now();
        assert_eq!(expiries.time_left(handle, began), None);
        expiries.note(handle, began, 30 * MINUTE);
        let after = |wait| expiries.time_left(handle, began + wait);
        assert_eq!(after(Duration::ZERO), Some(30 * MINUTE));
        assert_eq!(after(millis(999)), Some(30 * MINUTE - millis(999)));
        assert_eq!(after(millis(1000)), None);
        // Before the answer: the clock of another thread.
        expiries.note(handle, began + MINUTE, 30 * MINUTE);
        assert_eq!(after(MINUTE - millis(1)), None);
        // A short life is read again sooner, and one that is over at once.
        expiries.note(handle, began, millis(3200));
        assert_eq!(after(millis(99)), Some(millis(3101)));
        assert_eq!(after(millis(100)), None);
        expiries.note(handle, began, Duration::ZERO);
        assert_eq!(after(Duration::ZERO), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_the_time_to_live_is_known_but_no_answer() {
        let (expiries, handle) = (Expiries::new(), Handle::random());
        let began = Instant::now();
        expiries.note_set(handle, began, 30 * MINUTE);
        assert_eq!(expiries.time_left(handle, began), None);
        expiries.note(handle, began, 10 * MINUTE);
        expiries.note_set(handle, began + millis(500), 30 * MINUTE);
        let left = expiries.time_left(handle, began + millis(600));
        assert_eq!(left, Some(30 * MINUTE - millis(100)));
        assert_eq!(expiries.time_left(handle, began + millis(1000)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_not_taken_for_another_in_its_place() {
        let (expiries, now) = (Expiries::new(), Instant::now());
        let one = Handle::random();
        let other = std::iter::repeat_with(Handle::random)
            .find(|other| *other != one && other.modulo(KEYS) == one.modulo(KEYS))
            .unwrap();
        expiries.note(one, now, 30 * MINUTE);
        expiries.note_set(other, now, MINUTE);
        assert_eq!(expiries.time_left(one, now), Some(30 * MINUTE));
        assert_eq!(expiries.time_left(other, now), None);
        expiries.note(other, now, MINUTE);
        assert_eq!(expiries.time_left(one, now), None);
    }
}
