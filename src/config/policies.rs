//! The policies of a layer: when it loads a session, and what it does about failures, conflicts and caches.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::config::{ConfigError, check_duration};
use crate::record::lifetime::LONGEST;
use crate::store::Capabilities;
use crate::time::duration;

/// When the session is loaded.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// On the way in, for every request that carries a session cookie: idle time then counts on every request. The
    /// default.
    #[default]
    Inbound,
    /// When a handler or middleware first asks for the session: for routers that also serve public pages.
    OnExtract,
}

/// What happens to a request whose session cannot be loaded, since the store is away or hangs.
///
/// Whatever it is, no cookie is set, and none is taken away but by a logout: an outage logs nobody out.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[doc(alias("fail_open", "fail_closed"))]
pub enum OnStoreError {
    /// Whoever asks for the session gets [`SessionError::Store`](crate::SessionError::Store), which as a response is 503 with
    /// `Retry-After`. A handler that does not ask runs, and so does a [`Logout`](crate::Logout). With
    /// [`Concurrency::Exclusive`] and [`Load::Inbound`] no handler runs. The default.
    #[default]
    Reject,
    /// The handler runs with an empty session, as for a visitor without one: for pages that are worth something to anybody.
    /// Nothing can be written; if the handler tries to, the response becomes 503 after all.
    /// [`destroy`](crate::Session::destroy) ends the session that could not be loaded, as [`Logout`](crate::Logout) does.
    Anonymous,
}

/// What happens to the changes of a request if other requests have changed its session since it was loaded.
///
/// Whatever it is, a session that was destroyed does not come back, and a rotation is not undone.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[doc(alias("SaveStrategy", "lock", "optimistic", "pessimistic"))]
pub enum Concurrency {
    /// They are done again to what the others made of it, as the table at [`Session`](crate::Session) says. The default: no
    /// change is lost, and nobody waits.
    #[default]
    Merge,
    /// The request's data replaces that of the others, whole, as in other session libraries: their changes of other keys are
    /// lost too, and what they have taken or counted since this request was loaded comes back. A request that changed no
    /// data replaces none.
    LastWriteWins,
    /// Nothing is written, and the response becomes 409: for forms that must not overwrite what their user has not seen.
    Reject,
    /// Requests of one session run one after the other, on all nodes: for handlers that call the outside world and must not
    /// do so twice at once.
    ///
    /// A request waits for its turn before its handler sees the session, and keeps it until its changes are committed. If it is held
    /// up for so long that its lease ends, another one runs beside it: its own changes are then refused with 409 if
    /// something that it has read (values, keys, messages, the principal) or written was changed, and merged otherwise. Costs three more round trips a request, and
    /// more while it waits. With [`Load::Inbound`] no handler runs without its turn, also if the store is away.
    #[doc(alias("mutex", "session_locking", "session_lock", "block"))]
    Exclusive {
        /// How long a request waits for its turn before its response becomes 503 with `Retry-After`; ten years at most. It is
        /// not counted against the store's budget.
        #[serde(with = "duration")]
        wait: Duration,
        /// How long others wait for a node that has died, and at what intervals, a third of it, the lease of a running
        /// request is renewed; 5 s is a good value, from 100 ms to an hour. Leases need not outlast requests.
        #[serde(with = "duration")]
        lease: Duration,
    },
}

/// What caches are told of a response whose handler asked for the session of somebody who is signed in: of one that has a
/// principal when it is loaded or committed.
///
/// Without `no-store` a browser may show such a page after the logout, out of its history or its cache, to whoever presses
/// the back button, and a shared cache may show it to others.
///
/// The cost: browsers keep a page with `no-store` out of their back/forward cache, or take it out at the next change of a
/// cookie, so that going back loads it again. Where that matters more, give the response a `Cache-Control` of its own, such
/// as `private, no-cache`: it stays as it is, unless it says `public` or `s-maxage`.
///
/// Sources: RFC 9111 §5.2.2.5; OWASP Session Management Cheat Sheet, "Web Content Caching".
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[doc(alias("back_button", "bfcache", "cache_limiter"))]
pub enum SignedInCaching {
    /// `Cache-Control: no-store`, unless the handler has set a `Cache-Control` without `public` and `s-maxage`. Fields that
    /// let shared caches store it, such as `CDN-Cache-Control`, are removed. The default.
    #[default]
    NoStore,
    /// What the handler says, and nothing besides. A response that sets the session cookie or takes it away is kept out of
    /// shared caches all the same.
    Unchanged,
}

/// The limits of [`Concurrency::Exclusive`]. A shorter lease would end while it is on its way.
const WAIT: (Duration, Duration) = (Duration::ZERO, LONGEST);
const LEASE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3600));

impl Concurrency {
    pub(crate) fn check(self) -> Result<(), ConfigError> {
        let Self::Exclusive { wait, lease } = self else {
            return Ok(());
        };
        check_duration("concurrency.exclusive.wait", wait, WAIT.0, WAIT.1)?;
        check_duration("concurrency.exclusive.lease", lease, LEASE.0, LEASE.1)
    }

    /// The nearest that works.
    pub(crate) fn clamped(self) -> Self {
        match self {
            Self::Exclusive { wait, lease } => Self::Exclusive {
                wait: wait.clamp(WAIT.0, WAIT.1),
                lease: lease.clamp(LEASE.0, LEASE.1),
            },
            other => other,
        }
    }

    /// Says what this store cannot do.
    pub(crate) fn check_for(self, can: Capabilities) -> Result<(), ConfigError> {
        if matches!(self, Self::Exclusive { .. }) && !can.lease {
            let advice = "this store has no leases: use another store, or write \"merge\"";
            return Err(ConfigError::invalid("concurrency", self, advice));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_waits_and_leases_that_work_are_those_that_the_check_lets_pass() {
        let extremes = [
            Duration::ZERO,
            Duration::from_nanos(1),
            Duration::from_secs(5),
            Duration::from_secs(u64::MAX),
            Duration::MAX,
        ];
        for wait in extremes {
            for lease in extremes {
                let concurrency = Concurrency::Exclusive { wait, lease };
                let clamped = concurrency.clamped();
                clamped.check().unwrap();
                assert_eq!(concurrency.check().is_ok(), concurrency == clamped);
            }
        }
        assert_eq!(Concurrency::Reject.clamped(), Concurrency::Reject);
    }
}
