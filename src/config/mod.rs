//! The settings of a layer, each with its default, its unit and its limits.
//!
//! Read this file first: `SessionConfig` holds all settings, and `check` rejects invalid ones. Then:
//!
//! 1. `policies.rs`: when to load a session (`Load`), and how to handle store failures (`OnStoreError`), concurrent changes
//!    (`Concurrency`) and caches (`SignedInCaching`). A *lease*, of `Concurrency::Exclusive`, lets one request at a time use a
//!    session.
//! 2. `cookie.rs`: the session cookie (`CookieConfig::check`). `domain.rs: check` decides which `Domain` attributes browsers
//!    accept.
//! 3. `transport.rs`: whether the token travels in a cookie or in a header (`Transport`).
//! 4. `durability.rs`: how many replicas must acknowledge a change (`DurabilityConfig::check`).
//! 5. `max_sessions.rs`: how many sessions a user may have (`MaxSessions::check`).
//! 6. `client_address.rs`: which proxies may say where a request comes from (`ClientAddress`). Its constructors reject what cannot
//!    work, so there is nothing left to check.
//!
//! 7. `store.rs`: which store to use (`StoreConfig`).
//! 8. `tree.rs: Tree` reads all settings from a file or the environment, in whatever format. `tree_error.rs: TreeError` says where
//!    something is wrong, and `nearest.rs: advice` which setting was meant.
//!
//! `middleware/layer.rs` sets single settings; `middleware/from_config.rs` makes a layer of them all.

pub(crate) mod client_address;
pub(crate) mod cookie;
pub(crate) mod domain;
pub(crate) mod durability;
pub(crate) mod max_sessions;
pub(crate) mod nearest;
pub(crate) mod policies;
pub(crate) mod store;
pub(crate) mod transport;
pub(crate) mod tree;
pub(crate) mod tree_error;

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::client_address::ClientAddress;
use crate::config::cookie::CookieConfig;
use crate::config::durability::DurabilityConfig;
use crate::config::max_sessions::MaxSessions;
use crate::config::policies::{Concurrency, Load, OnStoreError, SignedInCaching};
use crate::config::transport::Transport;
use crate::error::config::{ConfigError, check_duration};
use crate::record::fingerprint::Fingerprinting;
use crate::record::lifetime::{MAX_TIMEOUT, MIN_TIMEOUT};
use crate::store::Capabilities;
use crate::time::duration;

/// The settings of a [`SessionLayer`](crate::SessionLayer).
///
/// Invalid settings fail at startup, with a message that says how to fix them: see
/// [`SessionLayer::try_new`](crate::SessionLayer::try_new).
///
/// ```
/// use std::time::Duration;
/// use sessile::{CookieConfig, MemoryStore, SessionConfig, SessionLayer};
///
/// let config = SessionConfig::default()
///     .with_idle_timeout(Duration::from_secs(15 * 60))
///     .with_cookie(CookieConfig::default().with_name("__Host-shop"));
/// let layer = SessionLayer::try_new(MemoryStore::new(), config)?;
/// # Ok::<(), sessile::ConfigError>(())
/// ```
///
/// In a configuration file, a setting that is left out has its default, and durations are written as `"30d"`, `"1h 30m"` or
/// `"500ms"`. A day has 24 hours; months and years are rejected.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionConfig {
    /// The session cookie.
    pub cookie: CookieConfig,
    /// How the token travels; in the cookie by default.
    pub transport: Transport,
    /// How long a session lives without being used; 30 min by default (OWASP: 15–30 min for low-risk applications), from 1 s
    /// to ten years.
    ///
    /// It is the TTL of the session's key, and is renewed only once half of it has passed: a session may expire after being
    /// unused for half of this time. With [`full_idle_timeout`](Self::full_idle_timeout) it lives for all of this time.
    #[serde(with = "duration")]
    #[doc(alias = "ttl")]
    pub idle_timeout: Duration,
    /// Whether the [`idle_timeout`](Self::idle_timeout) is the least time that an unused session lives; `false` by default, since
    /// it is then the most, which is what a limit against stolen tokens has to be (OWASP).
    ///
    /// If `true`, a session that was used at some time lives for the idle timeout after that, and for one and a half times as long
    /// at most: its key has half of the timeout more, and is renewed, as ever, once half of the timeout has passed. The absolute
    /// timeout still ends it. A session counts its idle timeout as the layer did that changed it last, so after a change of this
    /// setting the sessions that are only read go by the former one, and nodes with and without it may share sessions.
    pub full_idle_timeout: bool,
    /// How long a session lives after its creation or its last login, however much it is used; 24 h by default (NIST SP
    /// 800-63B: at most 24 h for AAL2), from 1 s to ten years.
    #[serde(with = "duration")]
    pub absolute_timeout: Duration,
    /// Whether a request prolongs the session that it loads; `true` by default. Turn it off for requests that a page sends by
    /// itself, such as polls, so that a session ends by its idle timeout although a tab is open:
    /// [`SessionLayer::with_renewal`](crate::SessionLayer::with_renewal).
    ///
    /// Such a request changes neither the time to live of the session nor its [`last_accessed`](crate::Session::last_accessed), and
    /// its changes are written without prolonging it either. A creation, a rotation, a login, and new timeouts do prolong it, and so
    /// does [`touch`](crate::Session::touch). A time to live that has become too long is shortened all the same.
    pub renewal: bool,
    /// Whether the cookies of new sessions outlive the browser; `false` by default, so that a session ends with the browser on a
    /// computer that others use too. It holds from the creation of a session, and again when another principal signs in to it;
    /// [`Session::set_persistent`](crate::Session::set_persistent) decides otherwise for one session.
    ///
    /// The session itself lives as long as its timeouts allow, so set these too.
    pub persistent: bool,
    /// How many bytes a session's data and flash messages may take, with keys and values in JSON; 64 KiB by default, so that
    /// no request can fill the store, from 1 KiB to 128 MiB. The half kilobyte or so that sessile itself stores does not
    /// count.
    ///
    /// A change that does not make the session larger always succeeds, even after the limit was lowered: signing in and out,
    /// rotating, and removing values. A change beyond the limit is rejected with
    /// [`SessionError::TooLarge`](crate::SessionError::TooLarge) and is an [`Event::TooLarge`](crate::Event::TooLarge).
    pub max_size: usize,
    /// When the session is loaded; [`Load::Inbound`] by default.
    pub load: Load,
    /// What happens when the session cannot be loaded; [`OnStoreError::Reject`] by default.
    pub on_store_error: OnStoreError,
    /// What happens to concurrent changes of a session; [`Concurrency::Merge`] by default.
    pub concurrency: Concurrency,
    /// What happens when a session is used from another network; [`Fingerprinting::Soft`] by default.
    pub fingerprinting: Fingerprinting,
    /// Where the client's address comes from; [`ClientAddress::peer`] by default. Behind a proxy, that is the proxy's address for
    /// every client: name the proxies, as in `client_address = { trusted_proxies = ["10.0.0.0/8"] }`.
    pub client_address: ClientAddress,
    /// How many bits of an IPv4 address identify its network; 24 by default, from 8 to 32.
    pub ipv4_prefix: u8,
    /// How many bits of an IPv6 address identify its network; 64 by default, from 32 to 128.
    pub ipv6_prefix: u8,
    /// Whether changes are committed when the handler responds with a status of 500 or above; `false` by default, since such a
    /// request has usually stopped half-way. A logout and a rotation are committed in any case. If a handler returns a
    /// [`SessionError`](crate::SessionError), only these are committed, whatever this setting.
    pub commit_on_server_error: bool,
    /// Whether caches may store the pages of signed-in users; [`SignedInCaching::NoStore`] by default.
    pub signed_in_caching: SignedInCaching,
    /// How far changes must have spread before a response reports success; to the primary by default.
    pub durability: DurabilityConfig,
    /// How many sessions a principal may be signed in to at once; any number by default.
    pub max_sessions: Option<MaxSessions>,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            cookie: CookieConfig::default(),
            transport: Transport::default(),
            idle_timeout: Duration::from_secs(30 * 60),
            full_idle_timeout: false,
            absolute_timeout: Duration::from_secs(24 * 60 * 60),
            renewal: true,
            persistent: false,
            max_size: 64 * 1024,
            load: Load::default(),
            on_store_error: OnStoreError::default(),
            concurrency: Concurrency::default(),
            fingerprinting: Fingerprinting::default(),
            client_address: ClientAddress::default(),
            ipv4_prefix: 24,
            ipv6_prefix: 64,
            commit_on_server_error: false,
            signed_in_caching: SignedInCaching::default(),
            durability: DurabilityConfig::default(),
            max_sessions: None,
        }
    }
}

/// Redis closes the connection, which other requests share, if a value exceeds 512 MiB (`proto-max-bulk-len`). A record is larger
/// than the size that `max_size` limits: by two bytes for each entry, and by the names of two principals, which are user names.
const LARGEST: usize = 128 * 1024 * 1024;

impl SessionConfig {
    /// Sets the session [`cookie`](Self::cookie).
    #[must_use]
    pub fn with_cookie(mut self, cookie: CookieConfig) -> Self {
        self.cookie = cookie;
        self
    }

    /// Sets how the token [travels](Self::transport); in the cookie by default.
    #[must_use]
    pub fn with_transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// Sets the [`idle_timeout`](Self::idle_timeout); 30 min by default.
    #[must_use]
    #[doc(alias("with_expiry", "OnInactivity", "with_lifetime", "state_ttl"))]
    pub fn with_idle_timeout(mut self, idle_timeout: Duration) -> Self {
        self.idle_timeout = idle_timeout;
        self
    }

    /// Sets whether an unused session lives for [at least](Self::full_idle_timeout) the idle timeout; `false` by default.
    #[must_use]
    pub fn with_full_idle_timeout(mut self, full_idle_timeout: bool) -> Self {
        self.full_idle_timeout = full_idle_timeout;
        self
    }

    /// Sets the [`absolute_timeout`](Self::absolute_timeout); 24 h by default.
    #[must_use]
    #[doc(alias("AtDateTime", "with_max_lifetime", "login_deadline"))]
    pub fn with_absolute_timeout(mut self, absolute_timeout: Duration) -> Self {
        self.absolute_timeout = absolute_timeout;
        self
    }

    /// Sets whether a request [prolongs its session](Self::renewal); `true` by default.
    #[must_use]
    #[doc(alias("with_always_save", "TtlExtensionPolicy"))]
    pub fn with_renewal(mut self, renewal: bool) -> Self {
        self.renewal = renewal;
        self
    }

    /// Sets whether the cookies of new sessions [outlive the browser](Self::persistent); `false` by default.
    #[must_use]
    #[doc(alias(
        "remember_me",
        "expire_on_close",
        "PersistentSession",
        "session_ttl",
        "OnSessionEnd"
    ))]
    pub fn with_persistent(mut self, persistent: bool) -> Self {
        self.persistent = persistent;
        self
    }

    /// Sets the [`max_size`](Self::max_size) of a session in bytes; 64 KiB by default.
    #[must_use]
    pub fn with_max_size(mut self, max_size: usize) -> Self {
        self.max_size = max_size;
        self
    }

    /// Sets when the session is loaded; [`Load::Inbound`] by default.
    #[must_use]
    pub fn with_load(mut self, load: Load) -> Self {
        self.load = load;
        self
    }

    /// Sets what happens when the session cannot be loaded; [`OnStoreError::Reject`] by default.
    #[must_use]
    pub fn with_on_store_error(mut self, on_store_error: OnStoreError) -> Self {
        self.on_store_error = on_store_error;
        self
    }

    /// Sets what happens to concurrent changes; [`Concurrency::Merge`] by default.
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: Concurrency) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Sets what happens when a session is used from another network; [`Fingerprinting::Soft`] by default.
    #[must_use]
    pub fn with_fingerprinting(mut self, fingerprinting: Fingerprinting) -> Self {
        self.fingerprinting = fingerprinting;
        self
    }

    /// Sets where the [client's address](Self::client_address) comes from; the peer of the connection by default.
    #[must_use]
    pub fn with_client_address(mut self, client_address: ClientAddress) -> Self {
        self.client_address = client_address;
        self
    }

    /// Sets how many bits of an IPv4 address identify its network; 24 by default.
    #[must_use]
    pub fn with_ipv4_prefix(mut self, ipv4_prefix: u8) -> Self {
        self.ipv4_prefix = ipv4_prefix;
        self
    }

    /// Sets how many bits of an IPv6 address identify its network; 64 by default.
    #[must_use]
    pub fn with_ipv6_prefix(mut self, ipv6_prefix: u8) -> Self {
        self.ipv6_prefix = ipv6_prefix;
        self
    }

    /// Sets whether [changes are committed on a server error](Self::commit_on_server_error); `false` by default.
    #[must_use]
    pub fn with_commit_on_server_error(mut self, commit_on_server_error: bool) -> Self {
        self.commit_on_server_error = commit_on_server_error;
        self
    }

    /// Sets whether caches may store the pages of signed-in users; [`SignedInCaching::NoStore`] by default.
    #[must_use]
    pub fn with_signed_in_caching(mut self, signed_in_caching: SignedInCaching) -> Self {
        self.signed_in_caching = signed_in_caching;
        self
    }

    /// Sets the [`durability`](Self::durability) of changes; to the primary by default.
    #[must_use]
    pub fn with_durability(mut self, durability: DurabilityConfig) -> Self {
        self.durability = durability;
        self
    }

    /// Sets the [`max_sessions`](Self::max_sessions) of a principal; any number by default.
    #[must_use]
    pub fn with_max_sessions(mut self, max_sessions: MaxSessions) -> Self {
        self.max_sessions = Some(max_sessions);
        self
    }

    /// Rejects settings that cannot work.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        self.cookie.check()?;
        self.transport.check()?;
        for (setting, value) in [
            ("idle_timeout", self.idle_timeout),
            ("absolute_timeout", self.absolute_timeout),
        ] {
            check_duration(setting, value, MIN_TIMEOUT, MAX_TIMEOUT)?;
        }
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
        self.max_sessions.map_or(Ok(()), MaxSessions::check)?;
        if !(1024..=LARGEST).contains(&self.max_size) {
            let advice = "write a number of bytes from 1024 to 134217728: Redis does not accept records that are much larger";
            return Err(ConfigError::invalid("max_size", self.max_size, advice));
        }
        Ok(())
    }

    /// The settings that differ from those of `other`.
    pub(crate) fn differences(&self, other: &Self) -> Vec<&'static str> {
        // Destructured, so that a new setting does not compile until it is compared here.
        let Self {
            cookie,
            transport,
            idle_timeout,
            full_idle_timeout,
            absolute_timeout,
            renewal,
            persistent,
            max_size,
            load,
            on_store_error,
            concurrency,
            fingerprinting,
            client_address,
            ipv4_prefix,
            ipv6_prefix,
            commit_on_server_error,
            signed_in_caching,
            durability,
            max_sessions,
        } = self;
        let commit_anyway = *commit_on_server_error;
        let settings = [
            ("cookie", *cookie != other.cookie),
            ("transport", *transport != other.transport),
            ("idle_timeout", *idle_timeout != other.idle_timeout),
            (
                "full_idle_timeout",
                *full_idle_timeout != other.full_idle_timeout,
            ),
            (
                "absolute_timeout",
                *absolute_timeout != other.absolute_timeout,
            ),
            ("renewal", *renewal != other.renewal),
            ("persistent", *persistent != other.persistent),
            ("max_size", *max_size != other.max_size),
            ("load", *load != other.load),
            ("on_store_error", *on_store_error != other.on_store_error),
            ("concurrency", *concurrency != other.concurrency),
            ("fingerprinting", *fingerprinting != other.fingerprinting),
            ("client_address", *client_address != other.client_address),
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
            ("max_sessions", *max_sessions != other.max_sessions),
        ];
        let different = |(name, different): (_, bool)| different.then_some(name);
        settings.into_iter().filter_map(different).collect()
    }

    /// The name that the hash of a secret covers: that of the cookie, or of the header, with a colon, which no cookie's name has.
    pub(crate) fn secret_name(&self) -> Cow<'_, str> {
        match &self.transport {
            Transport::Cookie => Cow::Borrowed(&self.cookie.name),
            Transport::Header(header) => {
                Cow::Owned(format!("header:{}", header.request.to_ascii_lowercase()))
            }
        }
    }

    /// The names that the hash of a secret may have covered before.
    pub(crate) fn former_secret_names(&self) -> &[String] {
        match &self.transport {
            Transport::Cookie => &self.cookie.former_names,
            Transport::Header(_) => &[],
        }
    }

    /// Rejects settings that this store does not support.
    pub(crate) fn check_for(&self, store: Capabilities) -> Result<(), ConfigError> {
        self.concurrency.check_for(store)?;
        self.durability.check_for(store)?;
        self.max_sessions.map_or(Ok(()), |max| max.check_for(store))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::config::cookie::SameSite;
    use crate::config::transport::TokenHeader;
    use crate::store::Durability;

    fn with(change: impl Fn(&mut SessionConfig)) -> Result<(), ConfigError> {
        let mut config = SessionConfig::default();
        change(&mut config);
        config.check()
    }

    #[test]
    fn invalid_settings_are_rejected_with_a_message_that_says_how_to_fix_them() {
        assert!(with(|_| ()).is_ok());
        assert!(with(|c| c.cookie.name = "id".into()).is_ok());
        type Case = (&'static str, fn(&mut SessionConfig));
        let cases: [Case; 31] = [
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
            ("cookie.former_names", |c| {
                c.cookie.former_names = vec!["a b".into()];
            }),
            ("cookie.former_names", |c| {
                c.cookie.former_names = vec![String::new()];
            }),
            ("cookie.former_names", |c| {
                c.cookie.former_names = vec!["id".into(), "__Host-id".into()];
            }),
            ("cookie.former_names", |c| {
                c.cookie.former_names = vec!["id".into(), "sid".into(), "id".into()];
            }),
            ("cookie.former_names", |c| {
                c.cookie.former_names = (0..9).map(|n| format!("id{n}")).collect();
            }),
            ("cookie.domains", |c| {
                c.cookie.domains = vec!["example.org".into()];
            }),
            ("cookie.domains", |c| {
                c.cookie.name = "id".into();
                c.cookie.domains = vec!["example.org".into(), "co.uk".into()];
            }),
            ("transport.header.request", |c| {
                let header = TokenHeader::default().with_request("cookie");
                c.transport = Transport::Header(header);
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
            ("durability.revocations", |c| {
                c.durability.revocations = Some(replicas(1, 0));
            }),
            ("durability.revocations", |c| {
                c.durability.revocations = Some(replicas(1, 61_000));
            }),
            ("max_size", |c| c.max_size = 0),
            // With the bytes that do not count, the record would be larger than Redis accepts.
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
                ["write", "keep", "set it", "leave it out"]
                    .iter()
                    .any(|verb| advice.contains(verb)),
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
    fn a_config_file_may_leave_out_settings_but_not_misspell_them() {
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

    /// The fields that differ, as a configuration file names them.
    fn changed<T: Serialize>(before: &T, after: &T) -> BTreeMap<String, Value> {
        let [before, after] = [before, after].map(fields);
        let changed = |(name, value): &(String, Value)| before[name] != *value;
        after.into_iter().filter(changed).collect()
    }

    fn fields<T: Serialize>(config: &T) -> BTreeMap<String, Value> {
        serde_json::from_value(serde_json::to_value(config).unwrap()).unwrap()
    }

    fn assert_each_field_has_its_setter<T: Default + Serialize>(cases: Vec<(&str, T, Value)>) {
        let default = T::default();
        let mut without_setter = fields(&default);
        for (name, config, expected) in cases {
            let expected = BTreeMap::from([(name.to_owned(), expected)]);
            assert_eq!(changed(&default, &config), expected);
            without_setter.remove(name);
        }
        assert_eq!(without_setter, BTreeMap::new());
    }

    #[test]
    fn each_setting_has_a_setter_that_changes_nothing_else() {
        let config = SessionConfig::default;
        let cookie = CookieConfig::default;
        let durability = DurabilityConfig::default;
        let cookie_id = json!({
            "name": "id", "former_names": [], "path": "/", "domain": null, "domains": [], "same_site": "lax",
            "secure": true, "partitioned": false, "rolling": false
        });
        let one = json!({ "replicas": { "n": 1, "timeout": "100ms" } });
        assert_each_field_has_its_setter(vec![
            (
                "cookie",
                config().with_cookie(cookie().with_name("id")),
                cookie_id,
            ),
            (
                "transport",
                config().with_transport(Transport::Header(TokenHeader::default())),
                json!({ "header": { "request": "authorization", "response": "x-session-token" } }),
            ),
            (
                "idle_timeout",
                config().with_idle_timeout(Duration::from_secs(900)),
                json!("15m"),
            ),
            (
                "full_idle_timeout",
                config().with_full_idle_timeout(true),
                json!(true),
            ),
            (
                "absolute_timeout",
                config().with_absolute_timeout(Duration::from_secs(900)),
                json!("15m"),
            ),
            ("renewal", config().with_renewal(false), json!(false)),
            ("persistent", config().with_persistent(true), json!(true)),
            ("max_size", config().with_max_size(1024), json!(1024)),
            (
                "load",
                config().with_load(Load::OnExtract),
                json!("on_extract"),
            ),
            (
                "on_store_error",
                config().with_on_store_error(OnStoreError::Anonymous),
                json!("anonymous"),
            ),
            (
                "concurrency",
                config().with_concurrency(Concurrency::Reject),
                json!("reject"),
            ),
            (
                "fingerprinting",
                config().with_fingerprinting(Fingerprinting::Off),
                json!("off"),
            ),
            (
                "client_address",
                config().with_client_address(ClientAddress::hops(2).unwrap()),
                json!({ "hops": 2, "header": "x-forwarded-for" }),
            ),
            ("ipv4_prefix", config().with_ipv4_prefix(8), json!(8)),
            ("ipv6_prefix", config().with_ipv6_prefix(48), json!(48)),
            (
                "commit_on_server_error",
                config().with_commit_on_server_error(true),
                json!(true),
            ),
            (
                "signed_in_caching",
                config().with_signed_in_caching(SignedInCaching::Unchanged),
                json!("unchanged"),
            ),
            (
                "durability",
                config().with_durability(durability().with_commits(replicas(1, 100))),
                json!({ "commits": one, "revocations": null }),
            ),
            (
                "max_sessions",
                config().with_max_sessions(MaxSessions::refuse(3)),
                json!({ "n": 3, "when_full": "refuse" }),
            ),
        ]);
        assert_each_field_has_its_setter(vec![
            ("name", cookie().with_name("id"), json!("id")),
            (
                "former_names",
                cookie().with_former_names(["id", "sid"]),
                json!(["id", "sid"]),
            ),
            ("path", cookie().with_path("/app"), json!("/app")),
            (
                "domain",
                cookie().with_domain("example.org"),
                json!("example.org"),
            ),
            (
                "domains",
                cookie().with_domains(["example.org"]),
                json!(["example.org"]),
            ),
            (
                "same_site",
                cookie().with_same_site(SameSite::Strict),
                json!("strict"),
            ),
            ("secure", cookie().with_secure(false), json!(false)),
            ("partitioned", cookie().with_partitioned(true), json!(true)),
            ("rolling", cookie().with_rolling(true), json!(true)),
        ]);
        let header = TokenHeader::default;
        assert_each_field_has_its_setter(vec![
            ("request", header().with_request("x-a"), json!("x-a")),
            ("response", header().with_response("x-b"), json!("x-b")),
        ]);
        assert_each_field_has_its_setter(vec![
            (
                "commits",
                durability().with_commits(replicas(1, 100)),
                one.clone(),
            ),
            (
                "revocations",
                durability().with_revocations(replicas(1, 100)),
                one,
            ),
        ]);
    }
}
