//! What can be configured of a Redis store, and what can be wrong with it.

use std::fmt;
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use serde::{Deserialize, Serialize};

use crate::error::config::{ConfigError, bad_duration, check_duration};
use crate::store::redis::sentinel::SentinelConfig;
use crate::store::redis::tls::TlsConfig;
use crate::store::redis::url::Place;
use crate::time::duration;

/// The settings of a [`RedisStore`](crate::RedisStore).
///
/// ```
/// use std::time::Duration;
/// use sessile::RedisConfig;
///
/// let mut config = RedisConfig::new("redis://127.0.0.1:6379/");
/// config.key_prefix = "shop:session:".to_owned();
/// config.command_timeout = Duration::from_millis(200);
/// ```
///
/// It is a serde type: durations are written as `"500ms"`, and what is left out has its default.
#[non_exhaustive]
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// Where the server is: `redis://user:password@host:port/database`, or `unix:///path/to/socket`. By default
    /// `redis://127.0.0.1:6379/`. An IPv6 address is written in brackets, `redis://[::1]:6379/`. With `rediss://` the
    /// connections are encrypted, which needs the feature `tls-rustls`. `?protocol=resp3` at the end speaks RESP3; after a
    /// path to a socket there may be `db`, `user` and `pass` too, as in `unix:///run/redis.sock?db=5&pass=secret`.
    ///
    /// Where there are several servers:
    ///
    /// - `redis+cluster://user:password@host:port,host:port/` is a Redis Cluster, with the feature `cluster`; encrypted,
    ///   `rediss+cluster://`. Name a few of its nodes, of which one must be there at the start; the others are found.
    /// - `redis+sentinel://user:password@sentinel:port,sentinel:port/name/database` is the primary that these sentinels know
    ///   by that name, such as `mymaster`. They are asked for every connection that is made. User and password are those of
    ///   the primary; [`sentinel`](Self::sentinel) has those of the sentinels. `rediss+sentinel://` encrypts the connections
    ///   to both, and the primary's certificate must be for the address or host name that the sentinels announce.
    pub url: String,
    /// Whose certificate the server must have, and which one we show; for `rediss://`,
    /// `rediss+cluster://` and `rediss+sentinel://` only.
    pub tls: TlsConfig,
    /// How the sentinels are asked: their user and password, and whether they speak TLS. For `redis+sentinel://` and
    /// `rediss+sentinel://` only. By default without logging in, and encrypted as the primary is.
    pub sentinel: SentinelConfig,
    /// What every key begins with; `sessile:` by default. Letters, digits, `_`, `-`, `.`, `/` and `:`. Applications that share
    /// a server need prefixes of their own.
    pub key_prefix: String,
    /// How many connections are kept open, each shared by many requests at once; 4 by default, from 1 to 1024. More help
    /// little: one connection carries tens of thousands of requests a second. On a cluster at most 2 are kept to each
    /// primary.
    #[doc(alias = "max_connections")]
    pub pool_size: u32,
    /// How a session is replaced only if nobody else has changed it meanwhile; `auto` by default.
    pub compare_and_set: CompareAndSet,
    /// How many connections there may be besides, for what needs one to itself: [`CompareAndSet::Watch`], and
    /// [`Durability::Replicas`](crate::store::Durability::Replicas), of which no more wait at once. 4 by default, from 1 to
    /// 1024. They are opened when they are needed first. On a cluster, to each primary.
    pub exclusive_pool_size: u32,
    /// How long connecting may take, with log-in; 1 s by default.
    #[serde(with = "duration")]
    pub connection_timeout: Duration,
    /// How long the server may take to answer one command, and how long a command waits for a connection; 500 ms by
    /// default, and never more than `request_budget`. On a cluster no redirection is followed after that time.
    #[serde(with = "duration")]
    pub command_timeout: Duration,
    /// How long one request may wait for a store that does not do its work: for its load, and for the commits and reloads that
    /// fail, together; 1 s by default. After a commit that succeeds, what is left counts for the next.
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

/// How a session is replaced only if nobody else has changed it meanwhile. All three keep the same promises, and nodes may
/// differ in it.
///
/// In a configuration file: `"auto"`, `"script"`, `"watch"` or `"if_eq"`. What is written there is tried when the store
/// connects; [`RedisStore::compare_and_set`](crate::RedisStore::compare_and_set) tells what is used.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompareAndSet {
    /// The first of `script`, `if_eq` and `watch` that the server has and lets this user call; the default. Chosen once,
    /// when the store connects or is first needed.
    #[default]
    Auto,
    /// A short script that runs in Redis: one round trip on a shared connection, and only the new value is sent. Needs
    /// `+evalsha +eval +getrange`.
    Script,
    /// `WATCH`, `MULTI` and `EXEC`, for servers where scripts are denied: two round trips on a connection that nobody else
    /// uses meanwhile, of which there are [`exclusive_pool_size`](RedisConfig::exclusive_pool_size). Needs
    /// `+watch +multi +exec +discard +getrange`.
    Watch,
    /// `SET … IFEQ`, which Valkey has from 8.1 and Redis from 8.4: one round trip on a shared connection, and the least
    /// work for the server, but the old value is sent too, and comes back. Needs no permission of its own.
    IfEq,
}

/// Shows where the server is, without user and password.
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

/// How long a connection is idle before its other end is asked whether it is there; routers forget one after some minutes.
const KEEPALIVE: Duration = Duration::from_secs(15);

const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(60);

impl RedisConfig {
    /// The default settings for the server at this URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ..Self::default()
        }
    }

    /// Says what cannot work, or how to connect.
    pub(crate) fn check(&self) -> Result<Place, ConfigError> {
        let limits = SHORTEST..=LONGEST;
        let (command, budget) = (self.command_timeout, self.request_budget);
        check_duration(
            "connection_timeout",
            self.connection_timeout,
            SHORTEST,
            LONGEST,
        )?;
        // What is advised of one of them goes with the other.
        if !limits.contains(&budget) {
            let shortest = command.clamp(SHORTEST, LONGEST);
            return Err(bad_duration("request_budget", budget, shortest, LONGEST));
        }
        if !limits.contains(&command) {
            return Err(bad_duration("command_timeout", command, SHORTEST, budget));
        }
        if self.command_timeout > self.request_budget {
            let advice = format!(
                "it is more than request_budget = {}, so it could never be used up: lower it, or raise the budget",
                duration::text(self.request_budget)
            );
            return Err(ConfigError::Invalid {
                setting: "command_timeout",
                value: duration::text(self.command_timeout),
                advice,
            });
        }
        for (setting, size) in [
            ("pool_size", self.pool_size),
            ("exclusive_pool_size", self.exclusive_pool_size),
        ] {
            if !(1..=1024).contains(&size) {
                let advice = "write a number of connections from 1 to 1024, such as 4";
                return Err(ConfigError::invalid(setting, size, advice));
            }
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-:./".contains(&byte);
        if !(1..=128).contains(&self.key_prefix.len()) || !self.key_prefix.bytes().all(plain) {
            let advice = "write 1 to 128 letters, digits, `_`, `-`, `.`, `/` or `:`, such as \"sessile:\"; `{` and `}` would put all \
                          sessions of a cluster on one server, and `*`, `?`, `[` and `\\` are patterns where keys are listed";
            return Err(ConfigError::invalid("key_prefix", &self.key_prefix, advice));
        }
        if is_login_cut(&self.url) {
            return Err(self.bad_url(
                "user and password end at the first `/`, `?` or `#`: encode these in a password as %2F, %3F and %23, and `@` as %40",
            ));
        }
        self.place()
    }

    pub(crate) fn bad_url(&self, advice: &str) -> ConfigError {
        ConfigError::invalid("url", without_login(&self.url), advice)
    }

    pub(crate) fn connection_info(&self) -> Result<ConnectionInfo, ConfigError> {
        let invalid = |advice: &str| ConfigError::invalid("url", without_login(&self.url), advice);
        let encrypted = self.url.starts_with("rediss:") || self.url.starts_with("valkeys:");
        if encrypted && cfg!(not(feature = "tls-rustls")) {
            return Err(invalid(
                "TLS needs the feature `tls-rustls`: write `cargo add sessile --features tls-rustls`",
            ));
        }
        if !encrypted && self.tls != TlsConfig::default() {
            let advice = "it would be ignored: write `rediss://host:6379/0` into `url`";
            return Err(ConfigError::invalid("tls", &self.tls, advice));
        }
        if self.url.contains('#') {
            return Err(invalid(
                "what follows `#` would be ignored, and no certificate goes unchecked: leave it out; encode `#` in a password as %23",
            ));
        }
        let info = self.url.as_str().into_connection_info().map_err(|_| {
            invalid("write `redis://user:password@host:6379/0` or `unix:///path/to/socket`; encode `@`, `:` and `/` in a password as %40, %3A and %2F")
        })?;
        if info.redis_settings().username().is_some() && info.redis_settings().password().is_none()
        {
            return Err(invalid(
                "a user without a password would be ignored: give the user a password, and write `redis://user:password@host:6379/0`",
            ));
        }
        match info.addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. }
                if host.contains('%') =>
            {
                return Err(invalid(
                    "a host has no `%`: encode `@` only within user and password, and write the one before the host as it is",
                ));
            }
            ConnectionAddr::Unix(path) if path.to_string_lossy().contains("pass=") => {
                return Err(invalid(
                    "the password would be a part of the path: write `?` before the settings, as in `unix:///path/to/socket?pass=…`",
                ));
            }
            _ => {}
        }
        let query = self.url.split_once('?').map_or("", |(_, query)| query);
        let (known, advice): (&[&str], _) = match info.addr() {
            ConnectionAddr::Tcp(..) | ConnectionAddr::TcpTls { .. } => (
                &["protocol"],
                "of what follows `?` only `protocol=resp3` would be used: write the database as `redis://host:6379/5`",
            ),
            ConnectionAddr::Unix(_) => (
                &["db", "user", "pass", "protocol"],
                "of what follows `?` only `db`, `user`, `pass` and `protocol` would be used: write `unix:///path/to/socket?db=5`",
            ),
            _ => {
                return Err(invalid(
                    "write `redis://host:6379/0` or `unix:///path/to/socket`",
                ));
            }
        };
        if !keys_of(query).all(|key| known.contains(&key)) {
            return Err(invalid(advice));
        }
        // Sent with every connection, it needs a permission and would hide why a connection is refused.
        let settings = info.redis_settings().clone().set_skip_set_lib_name();
        let info = info.set_redis_settings(settings);
        // So that a router that forgets idle connections is told of them, and one whose other end is gone is found.
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(keepalive);
        // The kernel then gives up a connection whose other end is gone, instead of waiting for a quarter of an hour.
        #[cfg(any(target_os = "linux", target_os = "android", target_os = "fuchsia"))]
        let tcp = tcp.set_user_timeout(self.command_timeout * 4);
        let info = info.set_tcp_settings(tcp);
        #[cfg(feature = "tls-rustls")]
        if encrypted {
            crate::store::redis::tls::install_provider();
            return crate::store::redis::tls::with_certificates(info, &self.tls);
        }
        Ok(info)
    }
}

/// The URL without user and password, whatever it is: what may be a part of them is left out. Those of Unix sockets carry the
/// password in the query.
fn without_login(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['@', ':']) => (format!("{scheme}://"), rest),
        _ => (String::new(), url),
    };
    let (shown, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let is_socket = scheme.contains("unix") || shown.starts_with("unix:/");
    let host = shown.rsplit_once('@');
    let shown = match host {
        // Where the login ends cannot be told.
        _ if query.contains('@') || (scheme.is_empty() && host.is_some()) => "…",
        None if is_socket && !shown.contains(['=', '%']) => shown,
        Some((_, host)) if are_hosts(host) => host,
        None if !is_socket && are_hosts(shown) => shown,
        _ => "…",
    };
    format!("{scheme}{shown}")
}

/// Whether this is one host or several, with ports or without, and perhaps a path.
fn are_hosts(text: &str) -> bool {
    let hosts = text.split('/').next().unwrap_or_default();
    hosts.split(',').all(|host| {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !host.ends_with(']') => (name, port),
            _ => (host, ""),
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_address = |byte: u8| byte.is_ascii_hexdigit() || b":.".contains(&byte);
        let address = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        let known = address.map_or_else(
            || !name.is_empty() && name.bytes().all(is_name),
            |address| address.bytes().all(is_address),
        );
        known && port.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn keys_of(query: &str) -> impl Iterator<Item = &str> {
    let settings = query.split('&').filter(|setting| !setting.is_empty());
    settings.map(|setting| setting.split_once('=').map_or(setting, |(key, _)| key))
}

/// Whether an `@` comes after what would end the part of a URL that holds user, password and hosts: then that part was to be
/// longer than any parser takes it.
fn is_login_cut(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else {
        return false;
    };
    let ends = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    !scheme.contains("unix") && rest[ends..].contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_named_with_what_to_write_instead() {
        let good = RedisConfig::default();
        good.check().unwrap();
        for url in [
            "unix:///run/redis.sock",
            "unix:///run/redis.sock?db=5&user=mia&pass=s3cret&protocol=resp3",
            "redis://localhost/?protocol=3",
            "redis://localhost/5?protocol=resp2",
            "redis://localhost/5?",
        ] {
            RedisConfig::new(url).check().unwrap();
        }
        let mut config = good.clone();
        config.key_prefix = "shop.example/session:".into();
        config.check().unwrap();
        type Case = (&'static str, fn(&mut RedisConfig));
        let cases: [Case; 25] = [
            ("url", |c| {
                c.url = "unix:///run/redis.sock?database=5".into()
            }),
            ("url", |c| c.url = "unix:///run/redis.sock?db=5&x".into()),
            ("url", |c| c.url = "redis://localhost/?protocol=4".into()),
            ("url", |c| c.url = "redis://mia:1?x@localhost/".into()),
            ("url", |c| c.url = "redis://mia:1/x@localhost/".into()),
            ("url", |c| c.url = "redis+sentinel://mia:1?x@a:1/m".into()),
            ("url", |c| c.url = String::new()),
            ("url", |c| c.url = "localhost:6379".into()),
            ("url", |c| c.url = "http://localhost/".into()),
            ("url", |c| c.url = "redis://localhost:x/".into()),
            ("url", |c| c.url = "redis://localhost/notanumber".into()),
            ("url", |c| c.url = "rediss://localhost/#insecure".into()),
            ("tls", |c| c.tls.ca = Some("/ca.pem".into())),
            ("url", |c| c.url = "redis://mia@localhost/".into()),
            ("url", |c| c.url = "redis://localhost/?db=5".into()),
            ("key_prefix", |c| c.key_prefix = String::new()),
            ("key_prefix", |c| c.key_prefix = "a{b}".into()),
            ("key_prefix", |c| c.key_prefix = "a*".into()),
            ("key_prefix", |c| c.key_prefix = "x".repeat(129)),
            ("pool_size", |c| c.pool_size = 0),
            ("exclusive_pool_size", |c| c.exclusive_pool_size = 0),
            ("exclusive_pool_size", |c| c.exclusive_pool_size = 1025),
            ("command_timeout", |c| c.command_timeout = Duration::ZERO),
            ("command_timeout", |c| {
                c.command_timeout = Duration::from_secs(2)
            }),
            ("connection_timeout", |c| {
                c.connection_timeout = Duration::MAX
            }),
        ];
        for (expected, change) in cases {
            let mut config = good.clone();
            change(&mut config);
            let error = config.check().unwrap_err();
            assert!(error.to_string().starts_with(expected), "{error}");
        }
        let tls = RedisConfig::new("rediss://localhost/").check();
        let told = tls.map_or_else(|error| error.to_string(), |_| String::new());
        assert_eq!(
            told.contains("--features tls-rustls"),
            cfg!(not(feature = "tls-rustls")),
            "{told}"
        );
        let mut slow = good;
        slow.command_timeout = Duration::from_secs(2);
        let text = slow.check().unwrap_err().to_string();
        assert!(text.contains("request_budget = 1s"), "{text}");
    }

    #[test]
    fn no_password_is_ever_shown() {
        for url in [
            "redis://mia:s3cret@host:6379/0",
            "redis://mia:s3@cret@host:6379/x",
            "redis+unix:///run/redis.sock?pass=s3cret&db=1",
            "redis+cluster://mia:s3cret@a:1,b:2/5",
            "redis+sentinel://mia:s3@cret@a:1,b:2/",
            "redis+sentinel://mia:s3cret@a:1,b:2/mymaster",
            "rediss://:s3cret@host",
            "s3cret@host",
            "unix:/run/redis.sock?pass=s3cret&db=1",
            "unix:/run/redis.sock?pass=s3cret&db=x",
            "unix:///run/redis.sock?pass=s3cret@x",
            "redis://:s3?ret@h/",
            "redis://:s3?s3@ret@h/",
            "redis://mia:1?s3@h/",
            "redis://mia:1/s3@h/",
            "redis://mia:1#s3@h/",
            "redis+cluster://mia:s3?ret@a:1,b:2/",
            "redis+sentinel://mia:s3/ret@a:1/mymaster",
            "redis://h/?password=s3@cret",
            "redis://mia:s3cret%40h:6379/",
            "redis://s3cret%40h:6379/",
            "redis://mia:s3cret",
            "redis://:s3cret/",
            "redis:mia:s3cret",
            "unix:///run/r.sock&pass=s3cret",
            "unix:///run/r.sock%3Fpass=s3cret",
            "mia:s3cret@h://",
            "redis:mia:s3cret@h",
        ] {
            let config = RedisConfig::new(url);
            let shown = format!("{config:?}");
            assert!(!shown.contains("s3"), "{shown}");
            let told = match config.check() {
                Ok(place) => place.to_string(),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!told.contains("s3"), "{url}: {told}");
        }
        for (url, shown) in [
            ("redis://mia:x@h.example:1/5", "redis://h.example:1/5"),
            (
                "redis+cluster://mia:x@a:1,[::1]:2,c/",
                "redis+cluster://a:1,[::1]:2,c/",
            ),
            ("unix:///run/redis.sock?pass=x", "unix:///run/redis.sock"),
            ("localhost:6379", "localhost:6379"),
        ] {
            assert_eq!(without_login(url), shown);
        }
    }

    #[test]
    fn it_can_be_read_from_a_file() {
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
}
