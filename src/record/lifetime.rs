//! How long a session lives: idle timeout, absolute timeout, and when to renew.
//!
//! Times are milliseconds since 1970 by the store's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::commit::attempt::Base;
use crate::commit::renew::look_and_renew;
use crate::error::session::SessionError;
use crate::record::Record;
use crate::record::change::{Change, Lifetimes};
use crate::session::Session;
use crate::session::state::Standing;
use crate::store::Renewal;

/// Milliseconds since 1970.
pub(crate) type Millis = u64;

pub(crate) fn to_millis(time: SystemTime) -> Millis {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

pub(crate) fn to_time(millis: Millis) -> SystemTime {
    // The end of the year 9999, which every platform's clock can tell; some cannot tell much more.
    const LATEST: Duration = Duration::from_secs(253_402_300_799);
    UNIX_EPOCH
        .checked_add(Duration::from_millis(millis))
        .unwrap_or(UNIX_EPOCH + LATEST)
}

pub(crate) fn duration_millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

pub(crate) fn after(now: Millis, wait: Duration) -> Millis {
    now.saturating_add(duration_millis(wait))
}

/// Below a second a session cannot be renewed in time; beyond ten years a number was meant in another unit.
pub(crate) const SHORTEST: Duration = Duration::from_secs(1);
pub(crate) const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Browsers keep no cookie for longer (RFC 6265bis §5.6).
pub(crate) const LONGEST_COOKIE: Duration = Duration::from_secs(400 * 24 * 60 * 60);

pub(crate) fn check_timeout(value: Duration) -> Result<(), SessionError> {
    match (SHORTEST..=LONGEST).contains(&value) {
        true => Ok(()),
        false => Err(SessionError::InvalidTimeout { value }),
    }
}

/// The time to live that a session may have now, or `None` once its deadline has passed.
pub(crate) fn ttl(idle: Duration, deadline: Millis, now: Millis) -> Option<Duration> {
    let rest = Duration::from_millis(deadline.saturating_sub(now));
    (!rest.is_zero()).then(|| idle.min(rest))
}

/// The time to live to set at a load, or `None` to leave the key alone.
///
/// A key is renewed at half of the idle timeout or below, if that gains anything worth a command; a key that would
/// outlive what it may, or has no time to live at all, is cut.
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
    // Clocks and rounding may differ by a little; a second is not worth a command, unless all of it is about a second.
    let worth = Duration::from_secs(1).min(idle / 10);
    if left <= idle / 2 && allowed > left + worth {
        Some(Renewal::Extend(allowed))
    } else {
        (left > allowed + worth).then_some(Renewal::Set(allowed))
    }
}

/// What the browser has of a session's cookie, before the response to a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BrowserCookie {
    /// When it ends by itself; `None` if with the browser.
    pub(crate) ends: Option<Millis>,
    /// It has grown so old that the browser would drop it before the session ends, or the browser may have got another from
    /// a request that was faster.
    pub(crate) is_old: bool,
}

impl BrowserCookie {
    /// What the browser has that sends the token of this session.
    pub(crate) fn of(record: &Record, now: Millis) -> Self {
        let sent = record.cookie_sent.unwrap_or(record.started);
        let dropped = after(sent, LONGEST_COOKIE);
        Self {
            ends: cookie_end(record),
            is_old: record.persistent
                && dropped < record.deadline
                && now >= after(sent, LONGEST_COOKIE / 2),
        }
    }

    /// Whether the response sends the cookie again, although the token stays as it is.
    pub(crate) fn is_outdated_by(self, record: &Record) -> bool {
        self.is_old || self.ends != cookie_end(record)
    }
}

/// When the session's cookie is to end by itself.
pub(crate) fn cookie_end(record: &Record) -> Option<Millis> {
    record.persistent.then_some(record.deadline)
}

/// When the session was last seen, told by how much of its idle timeout is used up.
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
    // Cut short by the deadline, the time left no longer tells when it was granted.
    if end >= deadline {
        return written;
    }
    end.saturating_sub(duration_millis(idle))
        .max(written)
        .min(now)
}

/// How long the session lives.
impl Session {
    /// When the session was created, by the store's clock.
    pub fn created_at(&self) -> SystemTime {
        to_time(self.shared().state().view.created)
    }

    /// When the session was last used before this request loaded or saved it, by the store's clock; exact to half of the
    /// idle timeout, since a read that needs no renewal leaves no trace.
    pub fn last_accessed(&self) -> SystemTime {
        let now = to_millis(self.shared().core.store.now());
        let state = self.shared().state();
        let Standing::Stored(base) = &state.standing else {
            return to_time(state.view.last_accessed);
        };
        let idle = self.shared().idle_timeout(&base.record);
        let (deadline, written) = (base.record.deadline, base.record.last_accessed);
        to_time(last_accessed(
            base.stored.time_left(),
            idle,
            deadline,
            now,
            written,
        ))
    }

    /// When the session ends if it is not used again, by the store's clock: its idle timeout, counted from its last renewal,
    /// or its absolute timeout, whichever comes first.
    pub fn expires_at(&self) -> SystemTime {
        let now = to_millis(self.shared().core.store.now());
        let state = self.shared().state();
        let idle = self.shared().idle_timeout(&state.view);
        let renewed = after(now, idle).min(state.view.deadline);
        let end = match &state.standing {
            Standing::Stored(base) if state.is_settled() => {
                let left = base.stored.time_left();
                match (renewal(left, idle, base.record.deadline, now), left) {
                    (None, Some(left)) => after(now, left),
                    // It is being renewed beside the handler.
                    _ => renewed,
                }
            }
            // The commit renews it.
            Standing::Stored(_) | Standing::New | Standing::Barred { .. } => renewed,
        };
        to_time(end)
    }

    /// Renews the session now, whatever is left of its idle timeout: for a connection that stays open and asks nothing.
    /// Requests renew it by themselves.
    ///
    /// It looks first, and goes by the timeouts that the session has by then, whoever has set them. A session that has ended
    /// or was rotated since it was loaded, or that [`Fingerprinting::Strict`](crate::Fingerprinting) hides from this
    /// client, is left alone.
    ///
    /// # Redis
    ///
    /// One `GET` and one `PTTL`, in one round trip, and then one `PEXPIRE`, all in the background. None if the session is not
    /// stored.
    #[doc(alias("keep_alive", "extend"))]
    pub fn touch(&self) {
        let shared = self.shared();
        let base = match &shared.state().standing {
            Standing::Stored(base) => Base::clone(base),
            Standing::New | Standing::Barred { .. } => return,
        };
        if let Ok(runtime) = shared.runtime() {
            look_and_renew(&base, shared.terms(), &runtime);
        }
    }

    /// Gives this session an idle timeout of its own, instead of the layer's, on every node, until it ends or another
    /// principal signs in.
    ///
    /// # Errors
    ///
    /// [`SessionError::InvalidTimeout`] below a second or above ten years.
    pub fn set_idle_timeout(&self, timeout: Duration) -> Result<(), SessionError> {
        check_timeout(timeout)?;
        self.change(Change::Lifetimes(Lifetimes {
            idle: Some(timeout),
            ..Lifetimes::default()
        }))
    }

    /// Gives this session an absolute timeout of its own, counted from its creation or its last login, on every node,
    /// until it ends or another principal signs in.
    ///
    /// # Errors
    ///
    /// [`SessionError::InvalidTimeout`] below a second or above ten years, or if the session is older than that; to end it,
    /// use [`destroy`](Self::destroy).
    pub fn set_absolute_timeout(&self, timeout: Duration) -> Result<(), SessionError> {
        check_timeout(timeout)?;
        let now = to_millis(self.shared().core.store.now());
        if after(self.shared().state().view.started, timeout) <= now {
            return Err(SessionError::InvalidTimeout { value: timeout });
        }
        let absolute = Some(timeout);
        self.change(Change::Lifetimes(Lifetimes {
            absolute,
            ..Lifetimes::default()
        }))
    }

    /// Says whether the cookie outlives the browser: "remember me". It then has a `Max-Age` of what is left of the absolute
    /// timeout, 400 days at most (RFC 6265bis §5.6): if the session lives for longer, a response whose handler asked for it
    /// sends the cookie again once it is 200 days old. The session itself lives as long as its timeouts say, so set these
    /// too.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use sessile::{Session, SessionError};
    /// const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);
    ///
    /// # async fn sign_in(session: Session) -> Result<(), SessionError> {
    /// session.set_principal("mia").await?;
    /// session.set_idle_timeout(MONTH)?;
    /// session.set_absolute_timeout(MONTH)?;
    /// session.set_persistent(true)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`SessionError::ResponseSent`]: it is too late to set a cookie.
    #[doc(alias("remember_me", "set_longterm"))]
    pub fn set_persistent(&self, persistent: bool) -> Result<(), SessionError> {
        if self.shared().state().head_sent {
            return Err(SessionError::ResponseSent);
        }
        let persistent = Some(persistent);
        self.change(Change::Lifetimes(Lifetimes {
            persistent,
            ..Lifetimes::default()
        }))
    }
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
    fn a_time_is_what_it_was_and_none_is_too_late_to_be_told() {
        assert_eq!(to_time(1_500), UNIX_EPOCH + Duration::from_millis(1_500));
        assert_eq!(to_millis(to_time(1_500)), 1_500);
        let end_of_9999 = UNIX_EPOCH + secs(253_402_300_799);
        assert!(to_time(Millis::MAX) >= end_of_9999);
    }

    #[test]
    fn timeouts_are_of_a_second_to_ten_years() {
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
    fn the_ttl_is_the_smaller_of_idle_and_rest() {
        assert_eq!(ttl(IDLE, FAR, 0), Some(IDLE));
        assert_eq!(ttl(IDLE, 5_000, 0), Some(secs(5)));
        assert_eq!(ttl(IDLE, 5_000, 5_000), None);
        assert_eq!(ttl(IDLE, 5_000, 9_000), None);
        assert_eq!(ttl(IDLE, Millis::MAX, 0), Some(IDLE));
    }

    #[test]
    fn a_key_is_renewed_at_half_and_cut_when_too_long() {
        let (extend, set) = (Renewal::Extend, Renewal::Set);
        for (left, deadline, expected) in [
            (Some(secs(30 * MIN)), FAR, None),
            (Some(secs(15 * MIN + 1)), FAR, None),
            (Some(secs(15 * MIN)), FAR, Some(extend(IDLE))),
            (Some(secs(1)), FAR, Some(extend(IDLE))),
            (None, FAR, Some(set(IDLE))),
            (Some(secs(31 * MIN)), FAR, Some(set(IDLE))),
            // Ten minutes to the deadline: nothing to gain, so nothing is sent.
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
    fn a_cookie_is_old_at_half_of_its_life_if_it_ends_before_the_session() {
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
    fn last_seen_is_told_by_the_time_left() {
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
