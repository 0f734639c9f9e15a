//! The settings of a Redis store.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::store::redis::sentinel::SentinelConfig;
use crate::store::redis::tls::TlsConfig;
use crate::store::redis::url::without_login;
use crate::time::duration;

/// The settings of a [`RedisStore`](crate::RedisStore).
///
/// ```
/// use std::time::Duration;
/// use sessile::RedisConfig;
///
/// let config = RedisConfig::new("redis://127.0.0.1:6379/")
///     .with_key_prefix("shop:session:")
///     .with_command_timeout(Duration::from_millis(200));
/// ```
///
/// It implements `Deserialize`: durations are written as `"500ms"`, and omitted settings have their defaults.
#[non_exhaustive]
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// The address of the server: `redis://user:password@host:port/database`, or `unix:///path/to/socket`. By default
    /// `redis://127.0.0.1:6379/`. An IPv6 address is written in brackets, `redis://[::1]:6379/`. `rediss://` encrypts the
    /// connections, which needs the feature `tls-rustls`. `?protocol=resp3` at the end selects RESP3; the path to a socket may
    /// also be followed by `db`, `user` and `pass`, as in `unix:///run/redis.sock?db=5&pass=secret`.
    ///
    /// For more than one server:
    ///
    /// - `redis+cluster://user:password@host:port,host:port/` is a Redis Cluster, with the feature `cluster`; encrypted,
    ///   `rediss+cluster://`. Name a few of its nodes, of which one must be reachable at the start; sessile discovers the
    ///   others.
    /// - `redis+sentinel://user:password@sentinel:port,sentinel:port/name/database` is the primary that these sentinels know by
    ///   that name, such as `mymaster`. sessile asks them for its address whenever it opens a connection. User and password are
    ///   those of the primary; [`sentinel`](Self::sentinel) holds those of the sentinels. `rediss+sentinel://` encrypts the
    ///   connections to both, and the primary's certificate must be for the address or host name that the sentinels announce.
    pub url: String,
    /// The authorities to trust, and the client certificate; for `rediss://`, `rediss+cluster://` and `rediss+sentinel://`
    /// only.
    pub tls: TlsConfig,
    /// How to connect to the sentinels: their user and password, and whether to use TLS. For `redis+sentinel://` and
    /// `rediss+sentinel://` only. By default without a login, and encrypted if the connections to the primary are.
    pub sentinel: SentinelConfig,
    /// The prefix of every key; `sessile:` by default. Letters, digits, `_`, `-`, `.`, `/` and `:`. Applications that share a
    /// server need different prefixes.
    pub key_prefix: String,
    /// How many connections the store keeps open, each shared by many requests at once; 4 by default, from 1 to 1024. The requests
    /// of one worker thread share one, since commands that travel together cost less, and take another one when it is silent or
    /// breaks. More help little: one connection carries tens of thousands of requests a second. On a cluster at most 2 to each
    /// primary.
    #[doc(alias = "max_connections")]
    pub pool_size: u32,
    /// How to replace a session only if no other request has changed it meanwhile; `auto` by default.
    pub compare_and_set: CompareAndSet,
    /// How many additional connections the store may open, for commands that cannot share one: [`CompareAndSet::Watch`], and
    /// [`Durability::Replicas`](crate::store::Durability::Replicas), of which no more can wait at once. 4 by default, from 1 to
    /// 1024. They are opened when first needed. On a cluster, this many to each primary.
    pub exclusive_pool_size: u32,
    /// How long connecting may take, including the login; 1 s by default.
    #[serde(with = "duration")]
    pub connection_timeout: Duration,
    /// How long the server may take to answer one command, and how long a command may wait for a connection; 500 ms by default,
    /// and never more than `request_budget`. On a cluster, no redirection is followed after that time.
    #[serde(with = "duration")]
    pub command_timeout: Duration,
    /// How long one request may wait for an unresponsive store: for its load and for the commits and reloads that fail,
    /// together; 1 s by default. Commits that succeed do not count.
    #[serde(with = "duration")]
    pub request_budget: Duration,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379/".to_owned(),
            tls: TlsConfig::default(),
            sentinel: SentinelConfig::default(),
            key_prefix: "sessile:".to_owned(),
            pool_size: 4,
            compare_and_set: CompareAndSet::default(),
            exclusive_pool_size: 4,
            connection_timeout: Duration::from_secs(1),
            command_timeout: Duration::from_millis(500),
            request_budget: Duration::from_secs(1),
        }
    }
}

/// How to replace a session only if no other request has changed it meanwhile. All three strategies make the same guarantees,
/// and nodes may use different ones.
///
/// In a configuration file: `"auto"`, `"script"`, `"watch"` or `"if_eq"`. The store tries the configured strategy when it
/// connects; [`RedisStore::compare_and_set`](crate::RedisStore::compare_and_set) returns the one in use.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompareAndSet {
    /// The first of `script`, `if_eq` and `watch` that the server supports and this user may call; the default. Detected once,
    /// when the store connects or first needs it.
    #[default]
    Auto,
    /// A short script that runs in Redis: one round trip on a shared connection, which sends only the new value. Needs
    /// `+evalsha +eval +getrange`.
    Script,
    /// `WATCH`, `MULTI` and `EXEC`, for servers that deny scripts: two round trips on a connection that no other request uses
    /// meanwhile, of which there are [`exclusive_pool_size`](RedisConfig::exclusive_pool_size). Needs `+watch +multi +exec
    /// +discard +getrange`.
    Watch,
    /// `SET … IFEQ`, which Valkey has from 8.1 and Redis from 8.4: one round trip on a shared connection, and the least work
    /// for the server, but the request contains the old value too, and so does the reply. Needs no additional permission.
    IfEq,
}

/// Shows the address of the server, without user and password.
impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("url", &without_login(&self.url))
            .field("tls", &self.tls)
            .field("sentinel", &self.sentinel)
            .field("key_prefix", &self.key_prefix)
            .field("pool_size", &self.pool_size)
            .field("compare_and_set", &self.compare_and_set)
            .field("exclusive_pool_size", &self.exclusive_pool_size)
            .field("connection_timeout", &self.connection_timeout)
            .field("command_timeout", &self.command_timeout)
            .field("request_budget", &self.request_budget)
            .finish()
    }
}

impl RedisConfig {
    /// The default settings for the server at this URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ..Self::default()
        }
    }

    /// Sets [`tls`](Self::tls).
    #[must_use]
    pub fn with_tls(mut self, tls: TlsConfig) -> Self {
        self.tls = tls;
        self
    }

    /// Sets [`sentinel`](Self::sentinel).
    #[must_use]
    pub fn with_sentinel(mut self, sentinel: SentinelConfig) -> Self {
        self.sentinel = sentinel;
        self
    }

    /// Sets [`key_prefix`](Self::key_prefix).
    #[must_use]
    #[doc(alias("cache_keygen", "with_table_name"))]
    pub fn with_key_prefix(mut self, key_prefix: impl Into<String>) -> Self {
        self.key_prefix = key_prefix.into();
        self
    }

    /// Sets [`pool_size`](Self::pool_size).
    #[must_use]
    pub fn with_pool_size(mut self, pool_size: u32) -> Self {
        self.pool_size = pool_size;
        self
    }

    /// Sets [`compare_and_set`](Self::compare_and_set).
    #[must_use]
    pub fn with_compare_and_set(mut self, compare_and_set: CompareAndSet) -> Self {
        self.compare_and_set = compare_and_set;
        self
    }

    /// Sets [`exclusive_pool_size`](Self::exclusive_pool_size).
    #[must_use]
    pub fn with_exclusive_pool_size(mut self, exclusive_pool_size: u32) -> Self {
        self.exclusive_pool_size = exclusive_pool_size;
        self
    }

    /// Sets [`connection_timeout`](Self::connection_timeout).
    #[must_use]
    pub fn with_connection_timeout(mut self, connection_timeout: Duration) -> Self {
        self.connection_timeout = connection_timeout;
        self
    }

    /// Sets [`command_timeout`](Self::command_timeout).
    #[must_use]
    pub fn with_command_timeout(mut self, command_timeout: Duration) -> Self {
        self.command_timeout = command_timeout;
        self
    }

    /// Sets [`request_budget`](Self::request_budget).
    #[must_use]
    pub fn with_request_budget(mut self, request_budget: Duration) -> Self {
        self.request_budget = request_budget;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_file_can_set_it() {
        let json = r#"{"url": "redis://h/", "command_timeout": "200ms", "pool_size": 2}"#;
        let config: RedisConfig = serde_json::from_str(json).unwrap();
        assert_eq!(config.command_timeout, Duration::from_millis(200));
        assert_eq!(
            (config.pool_size, config.key_prefix.as_str()),
            (2, "sessile:")
        );
        assert_eq!(config.compare_and_set, CompareAndSet::Auto);
        let json = r#"{"url": "rediss://h/", "tls": {"ca": "/etc/ca.pem"}}"#;
        let config: RedisConfig = serde_json::from_str(json).unwrap();
        assert_eq!(config.tls.ca.as_deref(), Some("/etc/ca.pem".as_ref()));
        let json = r#"{"url": "rediss://h/", "tls": {"insecure": true}}"#;
        assert!(serde_json::from_str::<RedisConfig>(json).is_err());
        for (name, expected) in [
            ("auto", CompareAndSet::Auto),
            ("script", CompareAndSet::Script),
            ("watch", CompareAndSet::Watch),
            ("if_eq", CompareAndSet::IfEq),
        ] {
            let json = format!(r#"{{"compare_and_set": "{name}"}}"#);
            let config: RedisConfig = serde_json::from_str(&json).unwrap();
            assert_eq!(config.compare_and_set, expected);
        }
    }

    #[test]
    fn each_setting_has_a_setter() {
        let seconds = Duration::from_secs;
        let tls = TlsConfig::default()
            .with_ca("ca.pem")
            .with_client_cert("cert.pem")
            .with_client_key("key.pem");
        let sentinel = SentinelConfig::default()
            .with_username("mia")
            .with_password("s3cret")
            .with_encrypted(true)
            .with_tls(tls.clone());
        let set = RedisConfig::new("rediss+sentinel://h/m")
            .with_tls(tls)
            .with_sentinel(sentinel)
            .with_key_prefix("shop:")
            .with_pool_size(2)
            .with_compare_and_set(CompareAndSet::Watch)
            .with_exclusive_pool_size(3)
            .with_connection_timeout(seconds(4))
            .with_command_timeout(seconds(5))
            .with_request_budget(seconds(6));
        let tls = || TlsConfig {
            ca: Some("ca.pem".into()),
            client_cert: Some("cert.pem".into()),
            client_key: Some("key.pem".into()),
        };
        let expected = RedisConfig {
            url: "rediss+sentinel://h/m".to_owned(),
            tls: tls(),
            sentinel: SentinelConfig {
                username: Some("mia".to_owned()),
                password: Some("s3cret".to_owned()),
                encrypted: Some(true),
                tls: Some(tls()),
            },
            key_prefix: "shop:".to_owned(),
            pool_size: 2,
            compare_and_set: CompareAndSet::Watch,
            exclusive_pool_size: 3,
            connection_timeout: seconds(4),
            command_timeout: seconds(5),
            request_budget: seconds(6),
        };
        assert!(set == expected);
    }
}
