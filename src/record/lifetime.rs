//! The lifetime of a session: idle timeout, absolute timeout, and when to renew the key in the store.
//!
//! Times are milliseconds since 1970 by the store's clock.

use std::time::Duration;

use crate::error::session::SessionError;
use crate::record::Record;
use crate::time::{Millis, after, duration_millis};

/// A new time to live for a session that was read but not written.
#[allow(clippy::exhaustive_enums, reason = "complete: at least, or exactly")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// At least this long. A longer time to live, which another request may have set meanwhile, stays.
    Extend(Duration),
    /// Exactly this long, even if the present time to live is longer, or the session has none.
    Set(Duration),
}

/// A session with a timeout of less than a second could not be renewed in time. More than ten years is most likely a number in the
/// wrong unit.
pub(crate) const MIN_TIMEOUT: Duration = Duration::from_secs(1);
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Browsers do not keep a cookie for longer (RFC 6265bis §5.6).
pub(crate) const MAX_COOKIE_AGE: Duration = Duration::from_secs(400 * 24 * 60 * 60);

pub(crate) fn check_timeout(value: Duration) -> Result<(), SessionError> {
    match (MIN_TIMEOUT..=MAX_TIMEOUT).contains(&value) {
        true => Ok(()),
        false => Err(SessionError::InvalidTimeout { value }),
    }
}

/// The time to live that a session may have now, or `None` once its deadline has passed.
pub(crate) fn ttl(idle: Duration, deadline: Millis, now: Millis) -> Option<Duration> {
    let rest = Duration::from_millis(deadline.saturating_sub(now));
    (!rest.is_zero()).then(|| idle.min(rest))
}

/// Returns the time to live to set after a load, or `None` if the key does not need a new one.
///
/// sessile renews a key once half of the idle timeout has passed, if that gains enough to be worth a command. It shortens the time
/// to live of a key that would outlive its deadline or idle timeout, and sets one on a key that has none.
pub(crate) fn renewal(
    time_left: Option<Duration>,
    idle: Duration,
    deadline: Millis,
    now: Millis,
) -> Option<Renewal> {
    let allowed = ttl(idle, deadline, now)?;
    let Some(left) = time_left else {
        return Some(Renewal::Set(allowed));
    };
    // Clocks and rounding differ slightly. A second is not worth a command, unless the timeout itself is that short.
    let least_gain = Duration::from_secs(1).min(idle / 10);
    if left <= idle / 2 && allowed > left + least_gain {
        Some(Renewal::Extend(allowed))
    } else {
        (left > allowed + least_gain).then_some(Renewal::Set(allowed))
    }
}

/// The time to live that a change keeps if it must not renew its session; `None` if the session may not have as much any more.
pub(crate) fn kept_ttl(time_left: Duration, allowed: Duration) -> Option<Duration> {
    (time_left <= allowed).then_some(time_left)
}

/// The session cookie in the browser, before the response to a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BrowserCookie {
    /// When it expires; `None` if the browser drops it when it is closed.
    pub(crate) ends: Option<Millis>,
    /// Whether the response must send it again: the browser would drop it before the session ends, or the response to a faster
    /// request may have set another one.
    pub(crate) is_old: bool,
}

impl BrowserCookie {
    /// The cookie in a browser that has sent a token of this session.
    pub(crate) fn of(record: &Record, now: Millis) -> Self {
        let sent = record.cookie_sent.unwrap_or(record.started);
        let dropped = after(sent, MAX_COOKIE_AGE);
        Self {
            ends: cookie_end(record),
            is_old: record.persistent
                && dropped < record.deadline
                && now >= after(sent, MAX_COOKIE_AGE / 2),
        }
    }

    /// Whether the response must send the cookie again, even if the token stays the same.
    pub(crate) fn is_outdated_by(self, record: &Record) -> bool {
        self.is_old || self.ends != cookie_end(record)
    }
}

/// When the session's cookie expires; `None` if the browser drops it when it is closed.
pub(crate) fn cookie_end(record: &Record) -> Option<Millis> {
    record.persistent.then_some(record.deadline)
}

/// When the session was last used, computed from the part of its idle timeout that has passed. `written` is the time in the record.
pub(crate) fn last_accessed(
    time_left: Option<Duration>,
    idle: Duration,
    deadline: Millis,
    now: Millis,
    written: Millis,
) -> Millis {
    let Some(left) = time_left else {
        return written;
    };
    let end = after(now, left);
    // If the deadline has limited the time to live, it does not show when it was set.
    if end >= deadline {
        return written;
    }
    end.saturating_sub(duration_millis(idle))
        .max(written)
        .min(now)
}

/// Whether a principal is signed in and has signed in no longer ago than this.
pub(crate) fn is_fresh(record: &Record, max_age: Duration, now: Millis) -> bool {
    let age = Duration::from_millis(now.saturating_sub(record.started));
    record.principal.is_some() && age <= max_age
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: u64 = 60;
    const IDLE: Duration = Duration::from_secs(30 * MIN);
    const FAR: Millis = 24 * 60 * MIN * 1000;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_timeout_lasts_from_one_second_to_ten_years() {
        const TEN_YEARS: Duration = Duration::from_secs(315_360_000);
        for (timeout, is_fine) in [
            (secs(1), true),
            (TEN_YEARS, true),
            (Duration::from_millis(999), false),
            (TEN_YEARS + Duration::from_millis(1), false),
        ] {
            assert_eq!(check_timeout(timeout).is_ok(), is_fine, "{timeout:?}");
        }
    }

    #[test]
    fn the_ttl_is_the_idle_timeout_or_the_rest_to_the_deadline() {
        assert_eq!(ttl(IDLE, FAR, 0), Some(IDLE));
        assert_eq!(ttl(IDLE, 5_000, 0), Some(secs(5)));
        assert_eq!(ttl(IDLE, 5_000, 5_000), None);
        assert_eq!(ttl(IDLE, 5_000, 9_000), None);
        assert_eq!(ttl(IDLE, Millis::MAX, 0), Some(IDLE));
    }

    #[test]
    fn a_key_is_renewed_at_half_of_the_idle_timeout_and_shortened_if_too_long() {
        let (extend, set) = (Renewal::Extend, Renewal::Set);
        for (left, deadline, expected) in [
            (Some(secs(30 * MIN)), FAR, None),
            (Some(secs(15 * MIN + 1)), FAR, None),
            (Some(secs(15 * MIN)), FAR, Some(extend(IDLE))),
            (Some(secs(1)), FAR, Some(extend(IDLE))),
            (None, FAR, Some(set(IDLE))),
            (Some(secs(31 * MIN)), FAR, Some(set(IDLE))),
            // The deadline is in ten minutes, so a renewal gains nothing.
            (Some(secs(10 * MIN)), 10 * MIN * 1000, None),
            // A second more or less is not worth a command.
            (Some(secs(10 * MIN - 1)), 10 * MIN * 1000, None),
            (Some(secs(10 * MIN + 1)), 10 * MIN * 1000, None),
            (
                Some(secs(5 * MIN)),
                10 * MIN * 1000,
                Some(extend(secs(10 * MIN))),
            ),
            (
                Some(secs(20 * MIN)),
                10 * MIN * 1000,
                Some(set(secs(10 * MIN))),
            ),
            (Some(secs(10)), 0, None),
        ] {
            assert_eq!(
                renewal(left, IDLE, deadline, 0),
                expected,
                "{left:?} {deadline}"
            );
        }
        let short = renewal(Some(secs(1) / 2), secs(1), FAR, 0);
        assert_eq!(short, Some(extend(secs(1))));
    }

    #[test]
    fn a_change_keeps_the_time_left_unless_the_session_may_not_have_as_much() {
        for (left, allowed, kept) in [
            (10, 30, true),
            (30, 30, true),
            (31, 30, false),
            (0, 30, true),
        ] {
            let expected = kept.then(|| secs(left));
            assert_eq!(kept_ttl(secs(left), secs(allowed)), expected, "{left}");
        }
    }

    #[test]
    fn a_cookie_that_expires_before_the_session_is_old_at_half_of_its_life() {
        const DAY: Millis = 24 * 60 * MIN * 1000;
        for (persistent, sent, deadline, now, is_old) in [
            (true, None, 1000, 199, false),
            (true, None, 1000, 200, true),
            (true, None, 401, 200, true),
            (true, None, 400, 399, false),
            (false, None, 1000, 200, false),
            (true, Some(200), 1000, 399, false),
            (true, Some(200), 1000, 400, true),
            (true, Some(600), 1000, 999, false),
        ] {
            let mut record = crate::record::tests::record();
            record.started = 0;
            record.persistent = persistent;
            record.cookie_sent = sent.map(|day: Millis| day * DAY);
            record.deadline = deadline * DAY;
            let cookie = BrowserCookie::of(&record, now * DAY);
            assert_eq!(cookie.is_old, is_old, "{sent:?} {deadline} {now}");
            assert_eq!(cookie.is_outdated_by(&record), is_old);
            record.deadline += 1;
            assert_eq!(cookie.is_outdated_by(&record), is_old || persistent);
        }
    }

    #[test]
    fn a_login_is_fresh_up_to_the_given_age_and_an_anonymous_visitor_never() {
        for (principal, started, now, is_expected) in [
            (Some("mia"), 1_000, 61_000, true),
            (Some("mia"), 1_000, 61_001, false),
            (Some("mia"), 1_000, 1_000, true),
            // By the clock of another primary, which is behind.
            (Some("mia"), 1_000, 999, true),
            (None, 1_000, 1_000, false),
        ] {
            let mut record = crate::record::tests::record();
            record.principal = principal.map(Into::into);
            record.started = started;
            assert_eq!(is_fresh(&record, secs(MIN), now), is_expected, "{now}");
        }
    }

    #[test]
    fn the_last_access_follows_from_the_remaining_ttl() {
        let now = 100 * MIN * 1000;
        let seen = |left, deadline, written| last_accessed(left, IDLE, deadline, now, written);
        assert_eq!(seen(Some(secs(20 * MIN)), FAR, 0), 90 * MIN * 1000);
        assert_eq!(seen(Some(secs(20 * MIN)), 120 * MIN * 1000, 7), 7);
        assert_eq!(
            seen(Some(secs(20 * MIN)), FAR, 95 * MIN * 1000),
            95 * MIN * 1000
        );
        assert_eq!(seen(Some(secs(40 * MIN)), FAR, 0), now);
        assert_eq!(seen(None, FAR, 7), 7);
    }
}
