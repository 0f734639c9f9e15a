//! How long keys live, as the server has answered lately, so that a read seldom has to ask.

use std::time::Duration;

use tokio::time::Instant;

use crate::lock::Lock;
use crate::time::duration_millis;
use crate::token::Handle;

/// How many keys are remembered at most, in about 800 KiB.
const KEYS: usize = 16_384;

/// How many keys share a place, so that two that are read in turn seldom displace each other.
const WAYS: usize = 2;

/// For how long an answer is used at most.
const LONGEST: Duration = Duration::from_secs(60);

/// And for at most this part of the time left. The time to live only decides whether half of the idle timeout has
/// passed, and need not be more exact than that.
const PART: u32 = 32;

/// The times to live that the server has answered lately.
///
/// Unless another node or program shortens it, a key lives at least as long as its last answer says: renewals extend it, and a
/// change begins anew. An answer from before the last connection was opened is not used, since another server may have taken over
/// meanwhile, without the latest renewals.
pub(crate) struct Expiries {
    base: Instant,
    /// A key has one place, by its handle. The last ones take it.
    places: Box<[Lock<Place>]>,
}

type Place = [Option<Expiry>; WAYS];

/// The times are milliseconds since the base.
#[derive(Clone, Copy)]
struct Expiry {
    handle: Handle,
    asked: u64,
    /// The answer is used until then.
    until: u64,
    ends: u64,
}

impl Expiries {
    pub(crate) fn new() -> Self {
        Self {
            base: Instant::now(),
            places: (0..KEYS / WAYS).map(|_| Lock::default()).collect(),
        }
    }

    /// How long the key lives at least, if the server has answered that lately, and since it was connected to.
    pub(crate) fn time_left(
        &self,
        handle: Handle,
        now: Instant,
        connected: Instant,
    ) -> Option<Duration> {
        let (now, connected) = (self.millis(now), self.millis(connected));
        let expiry = *of(handle, &mut self.place(handle).lock())?;
        let is_usable = expiry.asked > connected && (expiry.asked..expiry.until).contains(&now);
        is_usable.then(|| Duration::from_millis(expiry.ends.saturating_sub(now)))
    }

    /// Notes the answer to a question that was asked at this time.
    pub(crate) fn note(&self, handle: Handle, asked: Instant, left: Duration) {
        let asked = self.millis(asked);
        let expiry = Expiry {
            handle,
            asked,
            until: asked.saturating_add(duration_millis(LONGEST.min(left / PART))),
            ends: asked.saturating_add(duration_millis(left)),
        };
        let mut place = self.place(handle).lock();
        if let Some(known) = of(handle, &mut place) {
            *known = expiry;
        } else if let Some(oldest) = place
            .iter_mut()
            .min_by_key(|it| it.map_or(0, |it| it.asked))
        {
            *oldest = Some(expiry);
        }
    }

    /// Notes that a command has set the time to live. This does not put off the next question. After a shorter one the server is
    /// asked at once: a renewal by the former timeout may be under way.
    pub(crate) fn note_set(&self, handle: Handle, sent: Instant, ttl: Duration) {
        let ends = self.millis(sent).saturating_add(duration_millis(ttl));
        let mut place = self.place(handle).lock();
        if let Some(expiry) = of(handle, &mut place) {
            if ends < expiry.ends {
                expiry.until = expiry.asked;
            }
            expiry.ends = ends;
        }
    }

    /// Has the server asked again.
    pub(crate) fn forget(&self, handle: Handle) {
        if let Some(expiry) = of(handle, &mut self.place(handle).lock()) {
            expiry.until = expiry.asked;
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        duration_millis(at.saturating_duration_since(self.base))
    }

    fn place(&self, handle: Handle) -> &Lock<Place> {
        &self.places[handle.modulo(self.places.len())]
    }
}

/// What is known of this key in its place.
fn of(handle: Handle, place: &mut Place) -> Option<&mut Expiry> {
    let mut known = place.iter_mut().flatten();
    known.find(|expiry| expiry.handle == handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Expiries of a server to which the connection was opened a minute ago, and the time now.
    fn expiries() -> (Expiries, Instant, Instant) {
        let expiries = Expiries::new();
        let connected = expiries.base;
        (expiries, connected, connected + MINUTE)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_used_for_a_32nd_of_the_time_left_and_a_minute_at_most() {
        let ((expiries, connected, began), handle) = (expiries(), Handle::random());
        let after = |wait| expiries.time_left(handle, began + wait, connected);
        assert_eq!(after(Duration::ZERO), None);
        for (left, used) in [
            (millis(3200), millis(100)),
            (16 * MINUTE, MINUTE / 2),
            (32 * MINUTE, MINUTE),
            (64 * MINUTE, MINUTE),
        ] {
            expiries.note(handle, began, left);
            assert_eq!(after(Duration::ZERO), Some(left));
            let last = used - millis(1);
            assert_eq!(after(last), Some(left - last), "{left:?}");
            assert_eq!(after(used), None, "{left:?}");
        }
        expiries.note(handle, began, Duration::ZERO);
        assert_eq!(after(Duration::ZERO), None);
        expiries.note(handle, began, Duration::MAX);
        assert!(after(Duration::ZERO) > Some(MINUTE));
        // By the clock of a slower thread.
        let earlier = expiries.time_left(handle, began - millis(1), connected);
        assert_eq!(earlier, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_from_before_the_last_connection_is_not_used() {
        let ((expiries, connected, now), handle) = (expiries(), Handle::random());
        expiries.note(handle, now, 30 * MINUTE);
        for (connected, left) in [
            (connected, Some(30 * MINUTE)),
            (now - millis(1), Some(30 * MINUTE)),
            (now, None),
            (now + millis(1), None),
        ] {
            assert_eq!(expiries.time_left(handle, now, connected), left);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_the_time_to_live_is_known_but_no_answer() {
        let ((expiries, connected, began), handle) = (expiries(), Handle::random());
        let after = |wait| expiries.time_left(handle, began + wait, connected);
        expiries.note_set(handle, began, 30 * MINUTE);
        assert_eq!(after(Duration::ZERO), None);
        expiries.note(handle, began, 16 * MINUTE);
        expiries.note_set(handle, began + millis(500), 30 * MINUTE);
        assert_eq!(after(millis(600)), Some(30 * MINUTE - millis(100)));
        assert_eq!(after(MINUTE / 2), None);
        for forget in [
            |expiries: &Expiries, handle, at| expiries.note_set(handle, at, MINUTE),
            |expiries: &Expiries, handle, _| expiries.forget(handle),
        ] {
            expiries.note(handle, began, 16 * MINUTE);
            forget(&expiries, handle, began + millis(500));
            assert_eq!(after(millis(600)), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_share_a_place_and_the_one_that_was_read_last_drives_out_the_oldest() {
        let (expiries, connected, now) = expiries();
        let first = Handle::random();
        let place = |handle: &Handle| handle.modulo(KEYS / WAYS);
        let mut keys = vec![first];
        while keys.len() <= WAYS {
            keys.extend(Some(Handle::random()).filter(|it| place(it) == place(&first)));
        }
        let left = |handle| expiries.time_left(handle, now + MINUTE / 4, connected);
        for (number, key) in (0..).zip(&keys[..WAYS]) {
            expiries.note(*key, now + millis(number), 30 * MINUTE);
        }
        expiries.note_set(keys[WAYS], now, MINUTE);
        assert!(keys[..WAYS].iter().all(|key| left(*key).is_some()));
        assert_eq!(left(keys[WAYS]), None);
        expiries.note(first, now + MINUTE / 8, 30 * MINUTE);
        expiries.note(keys[WAYS], now + MINUTE / 8, 30 * MINUTE);
        assert!(left(first).is_some() && left(keys[WAYS]).is_some());
        assert_eq!(left(keys[1]), None);
    }
}
