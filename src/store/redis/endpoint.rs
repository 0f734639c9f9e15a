//! Validates the settings, and turns the URL into the server to connect to: one server, a cluster, or the primary of sentinels.

use std::fmt;
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use crate::error::config::{ConfigError, bad_duration, check_duration};
#[cfg(feature = "cluster")]
use crate::store::redis::address::addresses;
use crate::store::redis::config::RedisConfig;
use crate::store::redis::sentinel::{SentinelConfig, Sentinels};
use crate::store::redis::tls::TlsConfig;
#[cfg(feature = "tls-rustls")]
use crate::store::redis::tls::{install_provider, with_certificates};
use crate::store::redis::url::{Kind, MultiHostUrl, is_login_cut, keys_of, port_of, without_login};
use crate::time::duration;

/// The servers that the URL names.
#[derive(Debug)]
pub(crate) enum Endpoint {
    Server(Box<ConnectionInfo>),
    #[cfg(feature = "cluster")]
    Cluster(Vec<ConnectionInfo>),
    Sentinels(Box<Sentinels>),
}

impl Endpoint {
    /// Whether the URL contains user and password.
    pub(crate) fn has_login(&self) -> bool {
        let has_password = |info: &ConnectionInfo| info.redis_settings().password().is_some();
        match self {
            Self::Server(info) => has_password(info),
            #[cfg(feature = "cluster")]
            Self::Cluster(nodes) => nodes.iter().any(has_password),
            Self::Sentinels(sentinels) => sentinels.has_login(),
        }
    }
}

/// Shows the addresses, without user and password.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(info) => info.addr().fmt(f),
            #[cfg(feature = "cluster")]
            Self::Cluster(nodes) => f.write_str(&addresses(nodes)),
            Self::Sentinels(sentinels) => sentinels.fmt(f),
        }
    }
}

/// How long a connection is idle before the kernel checks that the other end is alive; routers drop idle connections after some
/// minutes.
const KEEPALIVE: Duration = Duration::from_secs(15);

const MIN_TIMEOUT: Duration = Duration::from_millis(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

impl RedisConfig {
    /// Validates the settings and returns the endpoint.
    pub(crate) fn check(&self) -> Result<Endpoint, ConfigError> {
        let limits = MIN_TIMEOUT..=MAX_TIMEOUT;
        let (command, budget) = (self.command_timeout, self.request_budget);
        check_duration(
            "connection_timeout",
            self.connection_timeout,
            MIN_TIMEOUT,
            MAX_TIMEOUT,
        )?;
        // The advice for one of the two must not contradict the other.
        if !limits.contains(&budget) {
            let shortest = command.clamp(MIN_TIMEOUT, MAX_TIMEOUT);
            return Err(bad_duration(
                "request_budget",
                budget,
                shortest,
                MAX_TIMEOUT,
            ));
        }
        if !limits.contains(&command) {
            return Err(bad_duration(
                "command_timeout",
                command,
                MIN_TIMEOUT,
                budget,
            ));
        }
        if self.command_timeout > self.request_budget {
            let advice = format!(
                "it is more than request_budget = {}, so it would never be reached: lower it, or raise the budget",
                duration::text(self.request_budget)
            );
            return Err(ConfigError::Invalid {
                setting: "command_timeout".into(),
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
                          sessions of a cluster on one server, and `*`, `?`, `[` and `\\` would be patterns in `SCAN`";
            return Err(ConfigError::invalid("key_prefix", &self.key_prefix, advice));
        }
        if is_login_cut(&self.url) {
            return Err(self.bad_url(
                "user and password end at the first `/`, `?` or `#`: encode these characters in a password as %2F, %3F and %23, and `@` as %40",
            ));
        }
        self.endpoint()
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
            let advice = "without TLS it would be ignored: write `rediss://host:6379/0` into `url`";
            return Err(ConfigError::invalid(
                "tls",
                format_args!("{}", self.tls.text()),
                advice,
            ));
        }
        if self.url.contains('#') {
            return Err(invalid(
                "the part after `#` would be ignored, and certificates are always verified: leave it out; encode `#` in a password as %23",
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
                    "a host cannot contain `%`: encode `@` only within user and password, and write the `@` before the host as it is",
                ));
            }
            ConnectionAddr::Unix(path) if path.to_string_lossy().contains("pass=") => {
                return Err(invalid(
                    "the password would be part of the path: write `?` before the parameters, as in `unix:///path/to/socket?pass=…`",
                ));
            }
            _ => {}
        }
        let query = self.url.split_once('?').map_or("", |(_, query)| query);
        let (known, advice): (&[&str], _) = match info.addr() {
            ConnectionAddr::Tcp(..) | ConnectionAddr::TcpTls { .. } => (
                &["protocol"],
                "the only parameter after `?` is `protocol=resp3`: write the database as `redis://host:6379/5`",
            ),
            ConnectionAddr::Unix(_) => (
                &["db", "user", "pass", "protocol"],
                "the only parameters after `?` are `db`, `user`, `pass` and `protocol`: write `unix:///path/to/socket?db=5`",
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
        // The client would send its name and version on every connection: that needs a permission, and its failure would hide
        // why a connection was refused.
        let settings = info.redis_settings().clone().set_skip_set_lib_name();
        let info = info.set_redis_settings(settings);
        // Keeps idle connections alive in routers, and detects those whose other end is gone.
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(keepalive);
        // The kernel then closes a connection whose other end is gone, instead of waiting for a quarter of an hour.
        #[cfg(any(target_os = "linux", target_os = "android", target_os = "fuchsia"))]
        let tcp = tcp.set_user_timeout(self.command_timeout * 4);
        let info = info.set_tcp_settings(tcp);
        #[cfg(feature = "tls-rustls")]
        if encrypted {
            install_provider();
            return with_certificates(info, &self.tls);
        }
        Ok(info)
    }

    /// The endpoint of the URL, or an error with advice.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, ConfigError> {
        let url = MultiHostUrl::parse(&self.url);
        let has_sentinels = url.as_ref().is_some_and(|url| url.kind == Kind::Sentinel);
        if !has_sentinels && self.sentinel != SentinelConfig::default() {
            let advice = "without sentinels it would be ignored: write `redis+sentinel://sentinel:26379/mymaster` into `url`";
            return Err(ConfigError::invalid(
                "sentinel",
                format_args!("{{ … }}"),
                advice,
            ));
        }
        let Some(url) = url else {
            return Ok(Endpoint::Server(Box::new(self.connection_info()?)));
        };
        if url.hosts.iter().any(|host| host.is_empty()) {
            return Err(self.bad_url(url.kind.form()));
        }
        match url.kind {
            Kind::Cluster => self.cluster(&url),
            Kind::Sentinel => self.sentinels(&url),
        }
    }

    fn cluster(&self, url: &MultiHostUrl<'_>) -> Result<Endpoint, ConfigError> {
        if cfg!(not(feature = "cluster")) {
            return Err(self.bad_url(
                "Redis Cluster needs the feature `cluster`: write `cargo add sessile --features cluster`",
            ));
        }
        if !matches!(url.path, "" | "0") {
            return Err(self.bad_url(
                "a cluster has only database 0: leave the number out, and separate applications by `key_prefix`",
            ));
        }
        let node = |host: &&str| self.server_info(url, url.login, host, "");
        let nodes: Result<Vec<_>, _> = url.hosts.iter().map(node).collect();
        #[cfg(feature = "cluster")]
        return nodes.map(Endpoint::Cluster);
        #[cfg(not(feature = "cluster"))]
        return nodes.and(Err(self.bad_url(url.kind.form())));
    }

    fn sentinels(&self, url: &MultiHostUrl<'_>) -> Result<Endpoint, ConfigError> {
        let (name, database) = url.path.split_once('/').unwrap_or((url.path, ""));
        if name.is_empty() || database.contains('/') {
            return Err(self.bad_url(url.kind.form()));
        }
        if url.scheme == "redis" && self.tls != TlsConfig::default() {
            let advice = "without TLS it would be ignored: write `rediss+sentinel://` into `url`, or write the settings for the sentinels into \
                          `sentinel.tls`";
            return Err(ConfigError::invalid(
                "tls",
                format_args!("{}", self.tls.text()),
                advice,
            ));
        }
        let sentinel = |host: &&str| self.sentinel_info(url, host);
        let nodes: Result<Vec<_>, _> = url.hosts.iter().map(sentinel).collect();
        // The address of the primary is a placeholder: the sentinels name the real one for each connection.
        let primary = self.server_info(url, url.login, url.hosts[0], database)?;
        let sentinels = Sentinels::new(nodes?, name.to_owned(), primary);
        Ok(Endpoint::Sentinels(Box::new(sentinels)))
    }

    /// How to connect to one of the sentinels.
    fn sentinel_info(
        &self,
        url: &MultiHostUrl<'_>,
        host: &str,
    ) -> Result<ConnectionInfo, ConfigError> {
        let host = match port_of(host) {
            Some(_) => host.to_owned(),
            None => format!("{host}:26379"),
        };
        let encrypted = self.sentinel.encrypted.unwrap_or(url.scheme == "rediss");
        self.sentinel.check(encrypted)?;
        let (scheme, tls) = match encrypted {
            true => (
                "rediss",
                self.sentinel.tls.as_ref().unwrap_or(&self.tls).clone(),
            ),
            false => ("redis", TlsConfig::default()),
        };
        let as_sentinels = Self {
            tls,
            ..self.clone()
        };
        let url = MultiHostUrl {
            scheme,
            hosts: Vec::new(),
            ..*url
        };
        let sentinel = as_sentinels.server_info(&url, "", &host, "");
        let sentinel = sentinel.map_err(|error| self.sentinel.name_settings(error))?;
        Ok(self.sentinel.log_in(sentinel))
    }

    /// How to connect to one server of a URL that names several.
    fn server_info(
        &self,
        url: &MultiHostUrl<'_>,
        login: &str,
        host: &str,
        database: &str,
    ) -> Result<ConnectionInfo, ConfigError> {
        let MultiHostUrl { scheme, query, .. } = url;
        let separator = if query.is_empty() { "" } else { "?" };
        let config = Self {
            url: format!("{scheme}://{login}{host}/{database}{separator}{query}"),
            ..self.clone()
        };
        config.connection_info()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_setting_is_named_in_the_error() {
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
        let text = tls.map_or_else(|error| error.to_string(), |_| String::new());
        assert_eq!(
            text.contains("--features tls-rustls"),
            cfg!(not(feature = "tls-rustls")),
            "{text}"
        );
        let mut slow = good;
        slow.command_timeout = Duration::from_secs(2);
        let text = slow.check().unwrap_err().to_string();
        assert!(text.contains("request_budget = 1s"), "{text}");
    }

    #[test]
    fn errors_and_debug_output_show_no_password() {
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
            let text = match config.check() {
                Ok(endpoint) => endpoint.to_string(),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!text.contains("s3"), "{url}: {text}");
        }
    }

    fn endpoint(url: &str) -> Result<Endpoint, ConfigError> {
        RedisConfig::new(url).endpoint()
    }

    #[test]
    fn a_url_becomes_an_endpoint() {
        for (url, shown) in [
            ("redis://h:1/5", "h:1"),
            (
                "redis+sentinel://mia:s3cret@a:1,b,[::1]:3/mymaster/2",
                "mymaster of the sentinels a:1,b:26379,::1:3",
            ),
            (
                "redis+sentinel://a/mymaster",
                "mymaster of the sentinels a:26379",
            ),
            #[cfg(feature = "cluster")]
            ("redis+cluster://mia:s3c@ret@a:1,b:2/", "a:1,b:2"),
            #[cfg(feature = "cluster")]
            ("redis+cluster://a/0?protocol=resp3", "a:6379"),
        ] {
            assert_eq!(endpoint(url).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn an_invalid_url_is_rejected_with_advice() {
        for (url, advice) in [
            ("redis+sentinel://a:1,,b/mymaster", "sentinel:26379"),
            ("redis+sentinel://a:1/", "in place of `mymaster`"),
            ("redis+sentinel://a:1/m/0/1", "in place of `mymaster`"),
            ("redis+sentinel://mia@a:1/m", "without a password"),
            #[cfg(feature = "cluster")]
            ("redis+cluster://a,/", "redis+cluster://user:password"),
            #[cfg(feature = "cluster")]
            ("redis+cluster://a/5", "only database 0"),
            #[cfg(feature = "cluster")]
            ("redis+cluster://a:x/", "redis://user:password"),
            #[cfg(not(feature = "cluster"))]
            ("redis+cluster://a:1,b:2/", "--features cluster"),
        ] {
            let text = endpoint(url).unwrap_err().to_string();
            assert!(
                text.starts_with("url") && text.contains(advice),
                "{url}: {text}"
            );
        }
    }

    #[test]
    fn invalid_settings_for_sentinels_are_rejected_with_advice() {
        type Change = Box<dyn FnOnce(&mut RedisConfig)>;
        let sentinel = |json: &str| -> Change {
            let sentinel = serde_json::from_str(json).unwrap();
            Box::new(move |config| config.sentinel = sentinel)
        };
        let password = r#"{"password": "s3cret"}"#;
        let plain = "redis+sentinel://a/m";
        let cases: Vec<(&str, Change, &str, &str)> = Vec::from([
            (
                "redis://a/",
                sentinel(password),
                "sentinel",
                "redis+sentinel://",
            ),
            #[cfg(feature = "cluster")]
            (
                "redis+cluster://a/",
                sentinel(password),
                "sentinel",
                "redis+sentinel://",
            ),
            (
                plain,
                sentinel(r#"{"username": "s3cret"}"#),
                "sentinel.username",
                "`sentinel.password`",
            ),
            (
                plain,
                sentinel(r#"{"tls": {"ca": "/ca.pem"}}"#),
                "sentinel.tls",
                "`sentinel.encrypted = true`",
            ),
            (
                plain,
                Box::new(|config: &mut RedisConfig| config.tls.ca = Some("/ca.pem".into()))
                    as Change,
                "tls",
                "`sentinel.tls`",
            ),
            #[cfg(feature = "tls-rustls")]
            (
                plain,
                sentinel(r#"{"encrypted": true, "tls": {"ca": "/none.pem"}}"#),
                "sentinel.tls.ca",
                "correct the path",
            ),
            #[cfg(feature = "tls-rustls")]
            (
                plain,
                sentinel(r#"{"encrypted": true, "tls": {"client_cert": "/none.pem"}}"#),
                "sentinel.tls.client_cert",
                "`sentinel.tls.client_key`",
            ),
            #[cfg(not(feature = "tls-rustls"))]
            (
                plain,
                sentinel(r#"{"encrypted": true}"#),
                "sentinel.encrypted",
                "--features tls-rustls",
            ),
        ]);
        for (url, change, setting, advice) in cases {
            let mut config = RedisConfig::new(url);
            change(&mut config);
            let error = config.check().unwrap_err();
            let text = format!("{error} {error:?} {config:?}");
            assert!(text.starts_with(&format!("{setting} = ")), "{text}");
            assert!(text.contains(advice), "{text}");
            assert!(!text.contains("s3cret"), "{text}");
        }
    }

    #[test]
    fn sentinels_have_a_login_of_their_own() {
        let mut config = RedisConfig::new("redis+sentinel://mia:first@a,b/m");
        config.sentinel.username = Some("noa".to_owned());
        config.sentinel.password = Some("second".to_owned());
        let shown = format!("{:?}", config.endpoint().unwrap());
        let logins = |name: &str| shown.matches(&format!("{name:?}")).count();
        assert_eq!((logins("mia"), logins("noa")), (1, 2), "{shown}");
        assert!(
            !shown.contains("first") && !shown.contains("second"),
            "{shown}"
        );
        config.sentinel = SentinelConfig::default();
        let shown = format!("{:?}", config.endpoint().unwrap());
        assert_eq!(shown.matches(r#""mia""#).count(), 1, "{shown}");
    }
}
