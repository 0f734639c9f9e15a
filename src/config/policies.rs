//! The policies of a layer: when it loads a session, and how it handles failures, concurrent changes and caches.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::error::config::{ConfigError, check_duration};
use crate::record::lifetime::MAX_TIMEOUT;
use crate::store::Capabilities;
use crate::time::duration;

/// When the session is loaded.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// Before the handler runs, for every request that carries a session cookie, so that every request counts as use of the
    /// session. The default.
    #[default]
    Inbound,
    /// When a handler or middleware first asks for the session: for routers that also serve public pages.
    OnExtract,
}

/// What happens to a request whose session cannot be loaded, because the store is unavailable or does not respond.
///
/// Either way the response does not set a cookie, and removes one only for a logout: an outage does not log users out.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[doc(alias("fail_open", "fail_closed"))]
pub enum OnStoreError {
    /// A handler or middleware that asks for the session gets [`SessionError::Store`](crate::SessionError::Store), which
    /// becomes a 503 with `Retry-After`. A handler that does not ask runs as usual, and so does one that asks for
    /// [`Logout`](crate::Logout). With [`Concurrency::Exclusive`] and [`Load::Inbound`] no handler runs. The default.
    #[default]
    Reject,
    /// The handler runs with an empty session, as for a new visitor: for pages that are useful to everyone. The session cannot
    /// be changed: if the handler tries to, the response becomes 503 after all.
    /// [`destroy`](crate::Session::destroy) ends the session that could not be loaded, as [`Logout`](crate::Logout) does.
    Anonymous,
}

/// What happens to a request's changes if other requests have changed the session since this one loaded it.
///
/// Under every policy a destroyed session stays destroyed, and a rotation is not undone.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[doc(alias("SaveStrategy", "lock", "optimistic", "pessimistic"))]
pub enum Concurrency {
    /// The changes are replayed on the newer version, as the table at [`Session`](crate::Session) says. The default: no change
    /// is lost, and no request waits.
    #[default]
    Merge,
    /// The request's data replaces the stored data as a whole, as in other session libraries. Changes that other requests have
    /// made since this one loaded the session are lost, even to other keys: values that they took
    /// reappear, and their increments are undone. A request that did not change the data replaces nothing.
    LastWriteWins,
    /// Nothing is written, and the response becomes 409: for forms that must not overwrite changes that their user has not seen.
    Reject,
    /// The requests of one session run one after the other, across all nodes: for handlers that call external services, and must
    /// not do so concurrently.
    ///
    /// A request waits for its turn before its handler sees the session, and keeps its turn until its changes are committed. If it is
    /// stalled for so long that its lease expires, another request runs beside it. Its own changes are then rejected with 409
    /// if another request has changed something that it read (values, keys, messages, the principal) or wrote, and merged
    /// otherwise. This policy costs three more round trips per request, and more while a request waits. With
    /// [`Load::Inbound`] no handler runs without its turn, even if the store is unavailable.
    #[doc(alias("mutex", "session_locking", "session_lock", "block"))]
    Exclusive(Exclusive),
}

/// A name, or a table for `exclusive`. Written by hand for the error of `"exclusive"` alone, which lacks its `wait`.
impl<'de> Deserialize<'de> for Concurrency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const NAMES: [&str; 4] = ["merge", "last_write_wins", "reject", "exclusive"];

        struct Form;

        impl<'de> Visitor<'de> for Form {
            type Value = Concurrency;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"merge\", \"last_write_wins\", \"reject\" or { exclusive = { wait = \"5s\" } }")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Concurrency, E> {
                match name {
                    "merge" => Ok(Concurrency::Merge),
                    "last_write_wins" => Ok(Concurrency::LastWriteWins),
                    "reject" => Ok(Concurrency::Reject),
                    "exclusive" => Err(E::custom(
                        "concurrency = \"exclusive\": say how long a request waits, such as { exclusive = { wait = \"5s\" } }",
                    )),
                    name => Err(E::unknown_variant(name, &NAMES)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Concurrency, A::Error> {
                let exclusive = match map.next_key::<String>()?.as_deref() {
                    Some("exclusive") => map.next_value()?,
                    Some(name) => return Err(A::Error::unknown_variant(name, &NAMES)),
                    None => return Err(A::Error::missing_field("exclusive")),
                };
                match map.next_key::<String>()? {
                    None => Ok(Concurrency::Exclusive(exclusive)),
                    Some(other) => Err(A::Error::unknown_field(&other, &["exclusive"])),
                }
            }
        }

        deserializer.deserialize_any(Form)
    }
}

/// How long requests wait for their turn under [`Concurrency::Exclusive`], and how long the lease of a node that died remains.
///
/// ```
/// use std::time::Duration;
/// use sessile::{Concurrency, Exclusive, MemoryStore, SessionLayer};
///
/// let ten_seconds = Exclusive::new(Duration::from_secs(10));
/// let layer = SessionLayer::new(MemoryStore::new()).with_concurrency(Concurrency::Exclusive(ten_seconds));
/// ```
///
/// In a configuration file: `{ exclusive = { wait = "10s", lease = "5s" } }`, where `lease` is optional. A value in a file that
/// exceeds its limits is rejected; the constructors use the nearest limit instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Exclusive {
    #[serde(with = "duration")]
    wait: Duration,
    #[serde(with = "duration")]
    lease: Duration,
}

impl Exclusive {
    /// Requests wait this long for their turn, at most ten years; after that, the response is 503 with `Retry-After`. The wait does
    /// not count towards the store's request budget.
    pub fn new(wait: Duration) -> Self {
        Self {
            wait: wait.clamp(WAIT.0, WAIT.1),
            lease: DEFAULT_LEASE,
        }
    }

    /// Sets how long a lease lasts, from 100 ms to 1 h; 5 s by default. If a node dies, other requests wait this long for its
    /// lease.
    ///
    /// While a request runs, sessile renews its lease each time a third of it has passed, so the lease may be shorter than the
    /// request.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease.clamp(LEASE.0, LEASE.1);
        self
    }

    /// How long a request waits for its turn.
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// How long a lease lasts unless it is renewed.
    pub fn lease(&self) -> Duration {
        self.lease
    }
}

const WAIT: (Duration, Duration) = (Duration::ZERO, MAX_TIMEOUT);
/// A shorter lease would expire before its renewal reaches the store.
const LEASE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3600));
const DEFAULT_LEASE: Duration = Duration::from_secs(5);

/// An [`Exclusive`] as read from a configuration file, before its limits are checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "{ wait = \"5s\" }")]
struct Unchecked {
    #[serde(with = "duration")]
    wait: Duration,
    #[serde(with = "duration", default = "default_lease")]
    lease: Duration,
}

fn default_lease() -> Duration {
    DEFAULT_LEASE
}

impl TryFrom<Unchecked> for Exclusive {
    type Error = ConfigError;

    fn try_from(Unchecked { wait, lease }: Unchecked) -> Result<Self, ConfigError> {
        check_duration("concurrency.exclusive.wait", wait, WAIT.0, WAIT.1)?;
        check_duration("concurrency.exclusive.lease", lease, LEASE.0, LEASE.1)?;
        Ok(Self { wait, lease })
    }
}

/// Whether caches may store a response whose handler asked for the session of a signed-in user, which is a session that has a
/// principal when it is loaded or committed.
///
/// Without `no-store`, a browser may show such a page from its history or its cache after the logout, to anyone who presses the
/// back button, and a shared cache may serve it to others.
///
/// The cost: browsers keep a page with `no-store` out of their back/forward cache, or evict it when a cookie changes, so that
/// going back loads the page again. Where that matters more, set a `Cache-Control` in the handler, such as `private, no-cache`:
/// sessile does not change it, unless it contains `public` or `s-maxage`.
///
/// Sources: RFC 9111 §5.2.2.5; OWASP Session Management Cheat Sheet, "Web Content Caching".
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[doc(alias("back_button", "bfcache", "cache_limiter"))]
pub enum SignedInCaching {
    /// Sends `Cache-Control: no-store`, unless the handler has set a `Cache-Control` without `public` and `s-maxage`. Removes
    /// headers that let shared caches store the response, such as `CDN-Cache-Control`. The default.
    #[default]
    NoStore,
    /// Leaves the handler's headers as they are. sessile still keeps a response that sets or removes the session cookie out of
    /// shared caches.
    Unchanged,
}

impl Concurrency {
    /// Rejects a policy that this store does not support.
    pub(crate) fn check_for(self, store: Capabilities) -> Result<(), ConfigError> {
        if matches!(self, Self::Exclusive(_)) && !store.lease {
            return Err(ConfigError::Invalid {
                setting: "concurrency".into(),
                value: "exclusive".to_owned(),
                advice: "this store has no leases: use another store, or write \"merge\""
                    .to_owned(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(wait: &str, lease: &str) -> Result<Concurrency, String> {
        let json = format!(r#"{{"exclusive": {{"wait": "{wait}", "lease": "{lease}"}}}}"#);
        serde_json::from_str(&json).map_err(|error| error.to_string())
    }

    #[test]
    fn exclusive_clamps_wait_and_lease_to_their_limits() {
        let year = Duration::from_secs(365 * 24 * 60 * 60);
        for (value, wait, lease) in [
            (Duration::ZERO, Duration::ZERO, LEASE.0),
            (Duration::from_nanos(1), Duration::from_nanos(1), LEASE.0),
            (LEASE.0, LEASE.0, LEASE.0),
            (
                Duration::from_secs(9),
                Duration::from_secs(9),
                Duration::from_secs(9),
            ),
            (LEASE.1, LEASE.1, LEASE.1),
            (year, year, LEASE.1),
            (year * 10, year * 10, LEASE.1),
            (Duration::MAX, year * 10, LEASE.1),
        ] {
            let exclusive = Exclusive::new(value).with_lease(value);
            assert_eq!((exclusive.wait(), exclusive.lease()), (wait, lease));
            assert_eq!(Exclusive::new(value).lease(), Duration::from_secs(5));
            // A file accepts a value if the constructors keep it, and rejects it if they clamp it.
            let text = duration::text(value);
            let read = read(&text, &text);
            assert_eq!(read.is_ok(), value == wait && value == lease, "{read:?}");
        }
    }

    #[test]
    fn a_config_file_names_a_policy_and_the_wait_of_an_exclusive_one() {
        let read = |json: &str| serde_json::from_str::<Concurrency>(json);
        for (json, expected) in [
            (r#""merge""#, Concurrency::Merge),
            (r#""reject""#, Concurrency::Reject),
            (r#""last_write_wins""#, Concurrency::LastWriteWins),
        ] {
            assert_eq!(read(json).unwrap(), expected);
            assert_eq!(serde_json::to_string(&expected).unwrap(), json);
        }
        for (json, expected) in [
            (
                r#""exclusive""#,
                r#"such as { exclusive = { wait = "5s" } }"#,
            ),
            (r#""lock""#, "expected one of `merge`"),
            (r#"{"lock": {}}"#, "expected one of `merge`"),
            (
                r#"{"exclusive": {"wait": "5s"}, "lease": "5s"}"#,
                "unknown field `lease`",
            ),
            ("{}", "missing field `exclusive`"),
            ("5", r#"expected "merge""#),
        ] {
            let error = read(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }

    #[test]
    fn a_config_file_with_a_wait_or_lease_beyond_its_limits_is_rejected() {
        for (wait, lease, expected) in [
            ("0s", "100ms", None),
            ("3650d", "1h", None),
            (
                "3651d",
                "5s",
                Some(("concurrency.exclusive.wait = 3651d", "\"3650d\"")),
            ),
            (
                "1s",
                "99ms",
                Some(("concurrency.exclusive.lease = 99ms", "\"100ms\"")),
            ),
            (
                "1s",
                "61m",
                Some(("concurrency.exclusive.lease = 1h 1m", "\"1h\"")),
            ),
        ] {
            match (read(wait, lease), expected) {
                (Ok(read), None) => {
                    let written = serde_json::to_string(&read).unwrap();
                    assert_eq!(serde_json::from_str::<Concurrency>(&written).unwrap(), read);
                }
                (Err(text), Some((setting, limit))) => {
                    assert!(text.starts_with(setting) && text.contains(limit), "{text}");
                }
                (read, _) => panic!("{wait} {lease}: {read:?}"),
            }
        }
    }

    #[test]
    fn a_config_file_may_leave_out_the_lease_and_nothing_else() {
        let read = |json| serde_json::from_str::<Concurrency>(json);
        let exclusive = read(r#"{"exclusive": {"wait": "10s"}}"#).unwrap();
        let expected = Exclusive::new(Duration::from_secs(10));
        assert_eq!(exclusive, Concurrency::Exclusive(expected));
        for json in [
            r#""exclusive""#,
            r#"{"exclusive": {}}"#,
            r#"{"exclusive": {"lease": "5s"}}"#,
            r#"{"exclusive": {"wait": "10s", "leese": "5s"}}"#,
        ] {
            assert!(read(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_store_without_leases_is_rejected() {
        let exclusive = Concurrency::Exclusive(Exclusive::new(Duration::ZERO));
        let (without, with) = (Capabilities::new(), Capabilities::new().with_lease(true));
        assert!(Concurrency::Merge.check_for(without).is_ok());
        assert!(exclusive.check_for(with).is_ok());
        let text = exclusive.check_for(without).unwrap_err().to_string();
        assert!(text.starts_with("concurrency = exclusive: "), "{text}");
        assert!(
            text.contains("no leases") && text.contains("write \"merge\""),
            "{text}"
        );
    }
}
