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

/// How long a session lives without being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Idle {
    pub(crate) timeout: Duration,
    /// Whether the session lives for the whole timeout after every use. Otherwise it lives no longer than that.
    pub(crate) is_full: bool,
}

impl Idle {
    /// The time to live of a key that is renewed. A full timeout takes half of it more, since a key is renewed only once half of
    /// the timeout has passed.
    pub(crate) fn ttl(self) -> Duration {
        match self.is_full {
            true => self.timeout + self.timeout / 2,
            false => self.timeout,
        }
    }

    /// A key that has no more than this left is renewed: the least time that a session lives after a use.
    pub(crate) fn least(self) -> Duration {
        match self.is_full {
            true => self.timeout,
            false => self.timeout / 2,
        }
    }
}

/// The time to live that a session may have now, or `None` once its deadline has passed.
pub(crate) fn ttl(idle: Idle, deadline: Millis, now: Millis) -> Option<Duration> {
    let rest = Duration::from_millis(deadline.saturating_sub(now));
    (!rest.is_zero()).then(|| idle.ttl().min(rest))
}

/// Returns the time to live to set after a load, or `None` if the key does not need a new one.
///
/// sessile renews a key once half of the idle timeout has passed since it was last renewed, if that gains enough to be worth a
/// command. It shortens the time to live of a key that would outlive its deadline or idle timeout, and sets one on a key that has
/// none.
pub(crate) fn renewal(
    time_left: Option<Duration>,
    idle: Idle,
    deadline: Millis,
    now: Millis,
) -> Option<Renewal> {
    let allowed = ttl(idle, deadline, now)?;
    let Some(left) = time_left else {
        return Some(Renewal::Set(allowed));
    };
    // Clocks and rounding differ slightly. A second is not worth a command, unless the timeout itself is that short.
    let least_gain = Duration::from_secs(1).min(idle.timeout / 10);
    if left <= idle.least() && allowed > left + least_gain {
        Some(Renewal::Extend(allowed))
    } else {
        (left > allowed + least_gain).then_some(Renewal::Set(allowed))
    }
}

/// The time to live that a change keeps if it must not renew its session; `None` if the session may not have as much any more.
pub(crate) fn kept_ttl(time_left: Duration, allowed: Duration) -> Option<Duration> {
    (time_left <= allowed).then_some(time_left)
}

/// How long the browser keeps a persistent cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CookieLife {
    deadline: Millis,
    /// Set if the cookie is to expire with an unused session, and not at the deadline.
    rolls: Option<Idle>,
}

impl CookieLife {
    /// `None` if the browser drops the cookie when it is closed.
    pub(crate) fn of(record: &Record, rolls: Option<Idle>) -> Option<Self> {
        record.persistent.then_some(Self {
            deadline: record.deadline,
            rolls,
        })
    }

    /// When a cookie that is sent at this time expires.
    pub(crate) fn end(self, sent: Millis) -> Millis {
        let longest = self.rolls.map_or(MAX_COOKIE_AGE, Idle::ttl);
        after(sent, longest.min(MAX_COOKIE_AGE)).min(self.deadline)
    }

    /// Whether a cookie that was sent at this time is to be sent again, since it would expire too early.
    fn is_old(self, sent: Millis, now: Millis) -> bool {
        let half = MAX_COOKIE_AGE / 2;
        let pause = self.rolls.map_or(half, |idle| idle.ttl() - idle.least());
        self.end(sent) < self.deadline && now >= after(sent, pause.min(half))
    }
}

/// The session cookie in the browser, before the response to a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BrowserCookie {
    /// `None` if the browser drops it when it is closed.
    pub(crate) life: Option<CookieLife>,
    /// Whether the response must send it again: the browser would drop it before the session ends, or the response to a faster
    /// request may have set another one.
    pub(crate) is_old: bool,
}

impl BrowserCookie {
    /// The cookie in a browser that has sent a token of this session.
    pub(crate) fn of(record: &Record, life: Option<CookieLife>, now: Millis) -> Self {
        let sent = record.cookie_sent.unwrap_or(record.started);
        Self {
            life,
            is_old: life.is_some_and(|life| life.is_old(sent, now)),
        }
    }

    /// Whether the response must send the cookie again, even if the token stays the same.
    pub(crate) fn is_outdated_by(self, life: Option<CookieLife>) -> bool {
        self.is_old || self.life != life
    }
}

/// When the session was last used, computed from the part of its idle timeout that has passed. `written` is the time in the record.
pub(crate) fn last_accessed(
    time_left: Option<Duration>,
    idle: Idle,
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
    end.saturating_sub(duration_millis(idle.ttl()))
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
    use proptest::prelude::*;

    use super::*;

    const MIN: u64 = 60;
    const TIMEOUT: Duration = Duration::from_secs(30 * MIN);
    const IDLE: Idle = Idle {
        timeout: TIMEOUT,
        is_full: false,
    };
    const FULL: Idle = Idle {
        timeout: TIMEOUT,
        is_full: true,
    };
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
        assert_eq!(ttl(IDLE, FAR, 0), Some(TIMEOUT));
        assert_eq!(ttl(FULL, FAR, 0), Some(secs(45 * MIN)));
        assert_eq!(ttl(FULL, 40 * MIN * 1000, 0), Some(secs(40 * MIN)));
        assert_eq!(ttl(IDLE, 5_000, 0), Some(secs(5)));
        assert_eq!(ttl(IDLE, 5_000, 5_000), None);
        assert_eq!(ttl(IDLE, 5_000, 9_000), None);
        assert_eq!(ttl(IDLE, Millis::MAX, 0), Some(TIMEOUT));
    }

    #[test]
    fn a_key_is_renewed_at_half_of_the_idle_timeout_and_shortened_if_too_long() {
        let (extend, set) = (Renewal::Extend, Renewal::Set);
        for (left, deadline, expected) in [
            (Some(secs(30 * MIN)), FAR, None),
            (Some(secs(15 * MIN + 1)), FAR, None),
            (Some(secs(15 * MIN)), FAR, Some(extend(TIMEOUT))),
            (Some(secs(1)), FAR, Some(extend(TIMEOUT))),
            (None, FAR, Some(set(TIMEOUT))),
            (Some(secs(31 * MIN)), FAR, Some(set(TIMEOUT))),
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
        let second = Idle {
            timeout: secs(1),
            is_full: false,
        };
        let short = renewal(Some(secs(1) / 2), second, FAR, 0);
        assert_eq!(short, Some(extend(secs(1))));
    }

    #[test]
    fn a_full_idle_timeout_is_left_after_every_use() {
        let (extend, set) = (Renewal::Extend, Renewal::Set);
        for (left, deadline, expected) in [
            (Some(45), 24 * 60, None),
            (Some(31), 24 * 60, None),
            (Some(30), 24 * 60, Some(extend(secs(45 * MIN)))),
            (Some(1), 24 * 60, Some(extend(secs(45 * MIN)))),
            (None, 24 * 60, Some(set(secs(45 * MIN)))),
            (Some(46), 24 * 60, Some(set(secs(45 * MIN)))),
            (Some(30), 30, None),
            (Some(25), 35, Some(extend(secs(35 * MIN)))),
            (Some(40), 35, Some(set(secs(35 * MIN)))),
        ] {
            let time_left = left.map(|minutes: u64| secs(minutes * MIN));
            assert_eq!(
                renewal(time_left, FULL, deadline * MIN * 1000, 0),
                expected,
                "{left:?} {deadline}"
            );
        }
    }

    /// What becomes of a key that is used after each of these pauses: when it was renewed, and whether it lived to the end.
    fn used_after(pauses: &[u64], idle: Idle) -> (Vec<Millis>, bool) {
        let (mut now, mut ends, mut renewed) = (0, duration_millis(idle.ttl()), Vec::new());
        for pause in pauses {
            now += pause;
            if now >= ends {
                return (renewed, false);
            }
            let left = Duration::from_millis(ends - now);
            if let Some(Renewal::Extend(ttl) | Renewal::Set(ttl)) =
                renewal(Some(left), idle, Millis::MAX, now)
            {
                ends = now + duration_millis(ttl);
                renewed.push(now);
            }
        }
        (renewed, true)
    }

    proptest! {
        /// However a session is used, it lives for at least this long after each use, ends once it was unused for its time to
        /// live, and costs at most one renewal in half of its idle timeout.
        #[test]
        fn a_session_lives_as_long_after_each_use_as_is_promised(
            timeout in 1_000_u64..10_000_000,
            is_full in any::<bool>(),
            parts in proptest::collection::vec(0_u64..2_000, 1..50),
        ) {
            let idle = Idle { timeout: Duration::from_millis(timeout), is_full };
            let least = duration_millis(idle.least());
            prop_assert_eq!(least, if is_full { timeout } else { timeout / 2 });
            let pauses: Vec<u64> = parts.iter().map(|part| timeout * part / 1_000).collect();
            let (renewed, alive) = used_after(&pauses, idle);
            if pauses.iter().all(|pause| *pause < least) {
                prop_assert!(alive);
            }
            if pauses.iter().any(|pause| *pause >= duration_millis(idle.ttl())) {
                prop_assert!(!alive);
            }
            let apart = renewed.windows(2).all(|pair| pair[1] - pair[0] >= timeout / 2);
            prop_assert!(apart && renewed.first().is_none_or(|at| *at >= timeout / 2));
        }
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
            let life = CookieLife::of(&record, None);
            let cookie = BrowserCookie::of(&record, life, now * DAY);
            assert_eq!(cookie.is_old, is_old, "{sent:?} {deadline} {now}");
            assert_eq!(cookie.is_outdated_by(life), is_old);
            record.deadline += 1;
            let later = CookieLife::of(&record, None);
            assert_eq!(cookie.is_outdated_by(later), is_old || persistent);
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
    fn a_rolling_cookie_expires_with_an_unused_session_and_is_sent_again_before() {
        const DAY: u64 = 24 * 60;
        let years = Idle {
            timeout: secs(2 * 365 * DAY * MIN),
            is_full: false,
        };
        // All in minutes. The cookie is sent at the start.
        for (idle, deadline, end, old_from) in [
            (IDLE, DAY, 30, Some(15)),
            (FULL, DAY, 45, Some(15)),
            (IDLE, 31, 30, Some(15)),
            // It lasts as long as the session.
            (IDLE, 30, 30, None),
            (FULL, 40, 40, None),
            (years, 3_650 * DAY, 400 * DAY, Some(200 * DAY)),
        ] {
            let minutes = |minutes: u64| minutes * MIN * 1000;
            let mut record = crate::record::tests::record();
            record.persistent = true;
            record.cookie_sent = Some(0);
            record.deadline = minutes(deadline);
            let life = CookieLife::of(&record, Some(idle));
            assert_eq!(life.map(|it| it.end(0)), Some(minutes(end)));
            let is_old = |now| BrowserCookie::of(&record, life, now).is_old;
            match old_from {
                Some(from) => {
                    assert!(!is_old(minutes(from) - 1), "{idle:?} {deadline}");
                    assert!(is_old(minutes(from)), "{idle:?} {deadline}");
                }
                None => assert!(!is_old(minutes(deadline) - 1), "{idle:?} {deadline}"),
            }
            let cookie = BrowserCookie::of(&record, life, 0);
            let fixed = CookieLife::of(&record, None);
            assert!(!cookie.is_outdated_by(life) && cookie.is_outdated_by(fixed));
        }
    }

    proptest! {
        /// The browser has a rolling cookie for as long after each use as the session is promised to live, whichever of the
        /// requests record when they sent it.
        #[test]
        fn a_browser_keeps_a_rolling_cookie_for_as_long_as_an_unused_session_lives(
            timeout in 1_000_u64..10_000_000,
            is_full in any::<bool>(),
            uses in proptest::collection::vec((0_u64..1_000, any::<bool>()), 1..50),
        ) {
            let idle = Idle { timeout: Duration::from_millis(timeout), is_full };
            let mut record = crate::record::tests::record();
            (record.persistent, record.started, record.cookie_sent) = (true, 0, Some(0));
            record.deadline = Millis::MAX;
            let life = CookieLife::of(&record, Some(idle)).unwrap();
            let (mut now, mut ends) = (0, life.end(0));
            for (part, is_change) in uses {
                now += duration_millis(idle.least()) * part / 1_000;
                prop_assert!(now < ends, "the cookie is there");
                if BrowserCookie::of(&record, Some(life), now).is_old {
                    ends = life.end(now);
                    record.cookie_sent = if is_change { Some(now) } else { record.cookie_sent };
                }
                prop_assert!(ends - now >= duration_millis(idle.least()));
                prop_assert!(ends - now <= duration_millis(idle.ttl()));
            }
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
        let left = Some(secs(20 * MIN));
        assert_eq!(last_accessed(left, FULL, FAR, now, 0), 75 * MIN * 1000);
    }
}
