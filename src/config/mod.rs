//! What can be configured of a layer.

pub(crate) mod cookie;
pub(crate) mod domain;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::cookie::CookieConfig;
use crate::error::config::{ConfigError, check_duration};
use crate::record::fingerprint::Fingerprinting;
use crate::record::lifetime::{LONGEST, SHORTEST};
use crate::store::{Capabilities, Durability};
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

/// How far what a request has done must have spread before it is answered with success.
///
/// Redis tells a client that a write is done once the primary has it, and replicas get it a moment later: what a replica
/// has not got when it takes over is lost. To wait for replicas costs a round trip and theirs, and makes requests fail while
/// there are none. It is worth that for what must not come undone, such as a logout:
///
/// ```
/// use std::time::Duration;
/// use sessile::SessionConfig;
/// use sessile::store::Durability;
///
/// let mut config = SessionConfig::default();
/// config.durability.endings = Some(Durability::Replicas {
///     n: 1,
///     timeout: Duration::from_millis(200),
/// });
/// ```
///
/// If too few replicas have it in time, it is in the store all the same, and done once. The response is then
///
/// - 503 without `Retry-After`, [`SessionError::OutcomeUnknown`](crate::SessionError::OutcomeUnknown), for a change of a
///   session that exists: whether it will still be there after a failover is what is not known, and to repeat it may do it
///   twice. The session shows it from then on. After `cycle_id`, `set_principal` or `clear_principal` the response carries the
///   new cookie, which works; if a failover then forgets them, that browser is signed out;
/// - 503 with `Retry-After`, [`SessionError::Store`](crate::SessionError::Store), for a new session, whose token nobody has
///   got, and for a logout, which is repeated in the background and may be by the visitor.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DurabilityConfig {
    /// For every change; [`Durability::Primary`] by default.
    pub commits: Durability,
    /// For what ends the use of a token: `destroy`, `cycle_id`, `set_principal` and `clear_principal`. As `commits` by
    /// default.
    pub endings: Option<Durability>,
}

impl DurabilityConfig {
    pub(crate) fn endings(&self) -> Durability {
        self.endings.unwrap_or(self.commits)
    }

    /// Whether anything waits for replicas.
    pub(crate) fn waits(&self) -> bool {
        [self.commits, self.endings()] != [Durability::Primary; 2]
    }
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

/// The settings of a [`SessionLayer`](crate::SessionLayer), checked by
/// [`SessionLayer::with_config`](crate::SessionLayer::with_config).
///
/// ```
/// use std::time::Duration;
/// use sessile::{MemoryStore, SessionConfig, SessionLayer};
///
/// let mut config = SessionConfig::default();
/// config.idle_timeout = Duration::from_secs(15 * 60);
/// config.cookie.name = "__Host-shop".to_owned();
/// let layer = SessionLayer::with_config(MemoryStore::new(), config)?;
/// # Ok::<(), sessile::ConfigError>(())
/// ```
///
/// It is a serde type: durations are written as `"30d"`, `"1h 30m"` or `"500ms"`, and what is left out has its default. A day
/// has 24 hours; months and years are refused.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionConfig {
    /// The cookie.
    pub cookie: CookieConfig,
    /// The session ends when it is not used for this long, at the earliest after half of it: it is kept as the key's TTL,
    /// and renewed only once half is used up. For a time that is guaranteed, set twice as much. 30 min by default (OWASP:
    /// 15–30 min for low-risk applications).
    #[serde(with = "duration")]
    #[doc(alias = "ttl")]
    pub idle_timeout: Duration,
    /// The session ends this long after it was created, or after the last login, however much it is used; 24 h by default
    /// (NIST SP 800-63B: at most 24 h for AAL2).
    #[serde(with = "duration")]
    pub absolute_timeout: Duration,
    /// How many bytes a session's data and flash messages may take, keys and values as they are written in JSON; 64 KiB by
    /// default, so that no request can fill the store, from 1 KiB to 128 MiB. About half a kilobyte that sessile itself keeps
    /// is not counted.
    ///
    /// A change that leaves the session no larger than it was always fits, also after the limit was lowered: signing in and
    /// out, rotating, and removing things. What does not fit is refused with
    /// [`SessionError::TooLarge`](crate::SessionError::TooLarge) and is an [`Event::TooLarge`](crate::Event::TooLarge).
    pub max_size: usize,
    /// When the session is loaded.
    pub load: Load,
    /// What happens if the session cannot be loaded.
    pub on_store_error: OnStoreError,
    /// What happens if other requests have changed the session meanwhile.
    pub concurrency: Concurrency,
    /// What to do when a session is used from another network.
    pub fingerprinting: Fingerprinting,
    /// How many bits of an IPv4 address are its network; 24 by default, from 8 to 32.
    pub ipv4_prefix: u8,
    /// How many bits of an IPv6 address are its network; 64 by default, from 32 to 128.
    pub ipv6_prefix: u8,
    /// Whether changes are committed although the handler answered with a status of 500 or above; off by default, since
    /// such a request has usually stopped half-way. A logout and a rotation are committed in any case, and if the handler
    /// returned a [`SessionError`](crate::SessionError), nothing else is.
    pub commit_on_server_error: bool,
    /// What caches are told of responses that depend on who is signed in; `no_store` by default.
    pub signed_in_caching: SignedInCaching,
    /// How far changes must have spread before a request is answered with success; on the primary by default.
    pub durability: DurabilityConfig,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            cookie: CookieConfig::default(),
            idle_timeout: Duration::from_secs(30 * 60),
            absolute_timeout: Duration::from_secs(24 * 60 * 60),
            max_size: 64 * 1024,
            load: Load::default(),
            on_store_error: OnStoreError::default(),
            concurrency: Concurrency::default(),
            fingerprinting: Fingerprinting::default(),
            ipv4_prefix: 24,
            ipv6_prefix: 64,
            commit_on_server_error: false,
            signed_in_caching: SignedInCaching::default(),
            durability: DurabilityConfig::default(),
        }
    }
}

/// Redis closes the connection, on which other requests wait too, for a value of more than 512 MiB (`proto-max-bulk-len`). The
/// record is larger than what is counted: by two bytes for each entry, and by the names of two principals.
const LARGEST: usize = 128 * 1024 * 1024;

impl SessionConfig {
    /// Says what cannot work.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        self.cookie.check()?;
        for (setting, value) in [
            ("idle_timeout", self.idle_timeout),
            ("absolute_timeout", self.absolute_timeout),
        ] {
            check_duration(setting, value, SHORTEST, LONGEST)?;
        }
        self.concurrency.check()?;
        for (setting, bits, range) in [
            ("ipv4_prefix", self.ipv4_prefix, 8..=32),
            ("ipv6_prefix", self.ipv6_prefix, 32..=128),
        ] {
            if !range.contains(&bits) {
                let advice = format!(
                    "write a number of bits from {} to {}",
                    range.start(),
                    range.end()
                );
                return Err(ConfigError::invalid(setting, bits, advice));
            }
        }
        self.durability.check()?;
        if !(1024..=LARGEST).contains(&self.max_size) {
            let advice = "write a number of bytes from 1024 to 134217728: Redis takes no record that is much larger";
            return Err(ConfigError::invalid("max_size", self.max_size, advice));
        }
        Ok(())
    }

    /// The settings that differ from those of another.
    pub(crate) fn differences(&self, other: &Self) -> Vec<&'static str> {
        // Taken apart, so that a new setting is not forgotten here.
        let Self {
            cookie,
            idle_timeout,
            absolute_timeout,
            max_size,
            load,
            on_store_error,
            concurrency,
            fingerprinting,
            ipv4_prefix,
            ipv6_prefix,
            commit_on_server_error,
            signed_in_caching,
            durability,
        } = self;
        let commit_anyway = *commit_on_server_error;
        let settings = [
            ("cookie", *cookie != other.cookie),
            ("idle_timeout", *idle_timeout != other.idle_timeout),
            (
                "absolute_timeout",
                *absolute_timeout != other.absolute_timeout,
            ),
            ("max_size", *max_size != other.max_size),
            ("load", *load != other.load),
            ("on_store_error", *on_store_error != other.on_store_error),
            ("concurrency", *concurrency != other.concurrency),
            ("fingerprinting", *fingerprinting != other.fingerprinting),
            ("ipv4_prefix", *ipv4_prefix != other.ipv4_prefix),
            ("ipv6_prefix", *ipv6_prefix != other.ipv6_prefix),
            (
                "commit_on_server_error",
                commit_anyway != other.commit_on_server_error,
            ),
            (
                "signed_in_caching",
                *signed_in_caching != other.signed_in_caching,
            ),
            (
                "durability",
                durability.settings() != other.durability.settings(),
            ),
        ];
        let different = |(name, different): (_, bool)| different.then_some(name);
        settings.into_iter().filter_map(different).collect()
    }

    /// Says what this store cannot do.
    pub(crate) fn check_for(&self, can: Capabilities) -> Result<(), ConfigError> {
        if matches!(self.concurrency, Concurrency::Exclusive { .. }) && !can.lease {
            let advice = "this store has no leases: use another store, or write \"merge\"";
            return Err(ConfigError::invalid(
                "concurrency",
                self.concurrency,
                advice,
            ));
        }
        for (setting, durability) in self.durability.settings() {
            let Durability::Replicas { timeout, .. } = durability else {
                continue;
            };
            if !can.durability {
                let advice = "this store has no replicas to wait for: use another store, or write \"primary\"";
                return Err(ConfigError::invalid(setting, durability, advice));
            }
            if timeout > can.request_budget {
                let advice = format!(
                    "its timeout is more than the store's request_budget = {}, so it could never be used up: lower it, or \
                     raise the budget",
                    duration::text(can.request_budget)
                );
                return Err(ConfigError::invalid(setting, durability, advice));
            }
        }
        Ok(())
    }
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
}

impl DurabilityConfig {
    fn settings(&self) -> [(&'static str, Durability); 2] {
        [
            ("durability.commits", self.commits),
            ("durability.endings", self.endings()),
        ]
    }

    fn check(&self) -> Result<(), ConfigError> {
        for (setting, durability) in self.settings() {
            if let Durability::Replicas { n, timeout } = durability {
                if !(1..=1024).contains(&n) {
                    let advice = "write a number of replicas from 1 to 1024, or \"primary\"";
                    return Err(ConfigError::invalid(setting, durability, advice));
                }
                // WAIT takes whole milliseconds, and waits for ever at zero.
                let (shortest, longest) = (Duration::from_millis(1), Duration::from_secs(60));
                check_duration(setting, timeout, shortest, longest)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cookie::SameSite;

    fn with(change: impl Fn(&mut SessionConfig)) -> Result<(), ConfigError> {
        let mut config = SessionConfig::default();
        change(&mut config);
        config.check()
    }

    #[test]
    fn what_cannot_work_is_named_with_what_to_write_instead() {
        assert!(with(|_| ()).is_ok());
        assert!(with(|c| c.cookie.name = "id".into()).is_ok());
        type Case = (&'static str, fn(&mut SessionConfig));
        let cases: [Case; 23] = [
            ("cookie.name", |c| c.cookie.name = String::new()),
            ("cookie.name", |c| c.cookie.name = "a b".into()),
            ("cookie.name", |c| c.cookie.name = "a=b".into()),
            ("cookie.name", |c| c.cookie.name = "é".into()),
            ("cookie.name", |c| c.cookie.name = "x".repeat(257)),
            ("cookie.name", |c| c.cookie.secure = false),
            ("cookie.name", |c| c.cookie.path = "/app".into()),
            ("cookie.name", |c| {
                c.cookie.domain = Some("example.org".into())
            }),
            ("cookie.name", |c| {
                c.cookie.name = "__sEcure-id".into();
                c.cookie.secure = false;
            }),
            ("cookie.path", |c| c.cookie.path = "app".into()),
            ("cookie.path", |c| c.cookie.path = "/a;b".into()),
            ("cookie.domain", |c| {
                c.cookie.domain = Some("http://x".into())
            }),
            ("cookie.same_site", |c| {
                c.cookie = CookieConfig {
                    name: "id".into(),
                    secure: false,
                    same_site: SameSite::None,
                    ..c.cookie.clone()
                };
            }),
            ("cookie.partitioned", |c| {
                c.cookie = CookieConfig {
                    name: "id".into(),
                    secure: false,
                    partitioned: true,
                    ..c.cookie.clone()
                };
            }),
            ("idle_timeout", |c| c.idle_timeout = Duration::ZERO),
            ("idle_timeout", |c| c.idle_timeout = Duration::MAX),
            ("absolute_timeout", |c| {
                c.absolute_timeout = Duration::from_millis(1)
            }),
            ("ipv4_prefix", |c| c.ipv4_prefix = 33),
            ("durability.commits", |c| {
                c.durability.commits = replicas(0, 100);
            }),
            ("durability.endings", |c| {
                c.durability.endings = Some(replicas(1, 0));
            }),
            ("durability.endings", |c| {
                c.durability.endings = Some(replicas(1, 61_000));
            }),
            ("max_size", |c| c.max_size = 0),
            // With what is not counted, the record would be more than Redis takes.
            ("max_size", |c| c.max_size = 512 * 1024 * 1024),
        ];
        for (expected, change) in cases {
            let error = with(change).unwrap_err();
            let ConfigError::Invalid {
                setting, advice, ..
            } = &error
            else {
                panic!("{error}")
            };
            assert_eq!(*setting, expected, "{error}");
            assert!(
                advice.contains("write") || advice.contains("keep") || advice.contains("set it"),
                "{error}"
            );
        }
    }

    fn replicas(n: u32, millis: u64) -> Durability {
        Durability::Replicas {
            n,
            timeout: Duration::from_millis(millis),
        }
    }

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

    #[test]
    fn what_a_store_cannot_do_is_told() {
        let with = |change: fn(&mut SessionConfig)| {
            let mut config = SessionConfig::default();
            change(&mut config);
            config
        };
        let (none, all) = (
            Capabilities::new(),
            Capabilities::new().with_durability(true),
        );
        let plain = with(|_| ());
        let commits = with(|c| c.durability.commits = replicas(1, 100));
        let endings = with(|c| c.durability.endings = Some(replicas(1, 100)));
        let both = with(|c| {
            c.durability.commits = replicas(1, 100);
            c.durability.endings = Some(Durability::Primary);
        });
        let slow = with(|c| c.durability.endings = Some(replicas(1, 1001)));
        for (config, can, told) in [
            (&plain, none, None),
            (&commits, none, Some(("durability.commits", "no replicas"))),
            (&endings, none, Some(("durability.endings", "no replicas"))),
            (&both, none, Some(("durability.commits", "no replicas"))),
            (&commits, all, None),
            (&endings, all, None),
            (
                &slow,
                all,
                Some(("durability.endings", "request_budget = 1s")),
            ),
        ] {
            match (config.check_for(can), told) {
                (Ok(()), None) => {}
                (Err(error), Some((setting, named))) => {
                    let text = error.to_string();
                    assert!(text.starts_with(setting) && text.contains(named), "{text}");
                }
                (result, _) => panic!("{result:?} {told:?}"),
            }
        }
        assert_eq!(commits.durability.endings(), replicas(1, 100));
        assert_eq!(both.durability.endings(), Durability::Primary);
    }

    #[test]
    fn durability_can_be_read_from_a_file() {
        let json = r#"{"durability": {"endings": {"replicas": {"n": 2, "timeout": "50ms"}}}}"#;
        let config: SessionConfig = serde_json::from_str(json).unwrap();
        assert_eq!(config.durability.commits, Durability::Primary);
        assert_eq!(config.durability.endings(), replicas(2, 50));
        let json = r#"{"durability": {"commits": {"replicas": {"n": 2}}}}"#;
        assert!(serde_json::from_str::<SessionConfig>(json).is_err());
    }

    #[test]
    fn a_config_file_may_leave_things_out_and_may_not_misspell_them() {
        let json =
            r#"{"idle_timeout": "15m", "cookie": {"name": "__Host-shop", "same_site": "strict"}}"#;
        let config: SessionConfig = serde_json::from_str(json).unwrap();
        assert_eq!(config.idle_timeout, Duration::from_secs(900));
        assert_eq!(config.absolute_timeout, Duration::from_secs(86_400));
        assert_eq!(config.cookie.same_site, SameSite::Strict);
        for (word, expected) in [
            ("no_store", SignedInCaching::NoStore),
            ("unchanged", SignedInCaching::Unchanged),
        ] {
            let json = format!(r#"{{"signed_in_caching": "{word}"}}"#);
            let config: SessionConfig = serde_json::from_str(&json).unwrap();
            assert_eq!(config.signed_in_caching, expected);
        }
        let written = serde_json::to_string(&config).unwrap();
        assert_eq!(
            serde_json::from_str::<SessionConfig>(&written).unwrap(),
            config
        );
        assert!(serde_json::from_str::<SessionConfig>(r#"{"idle_timout": "15m"}"#).is_err());
    }

    #[test]
    fn without_tls_the_cookie_keeps_what_it_can() {
        for (name, domain, plain) in [
            ("__Host-id", None, "id"),
            ("__host-shop", None, "shop"),
            ("__Host-", None, "id"),
            ("__Host-Http-id", None, "id"),
            ("__Host-__Secure-id", None, "id"),
            ("__Secure-id", Some("example.org"), "id"),
            ("__Http-id", Some("example.org"), "id"),
            ("id", Some("example.org"), "id"),
        ] {
            let mut config = SessionConfig::default();
            config.cookie.name = name.to_owned();
            config.cookie.domain = domain.map(str::to_owned);
            config.check().unwrap();
            config.cookie = config.cookie.without_tls();
            config.check().unwrap();
            let cookie = &config.cookie;
            assert_eq!((cookie.name.as_str(), cookie.secure), (plain, false));
            assert_eq!(cookie.domain, None, "{name}: localhost is in no domain");
        }
    }
}
