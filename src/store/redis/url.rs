//! Where the sessions are: one server, a cluster, or whichever server the sentinels call the primary.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo};

use crate::error::config::ConfigError;
use crate::store::redis::RedisConfig;
use crate::store::redis::sentinel::{SentinelConfig, Sentinels};
use crate::store::redis::tls::TlsConfig;

/// What the URL leads to.
#[derive(Debug)]
pub(crate) enum Place {
    Server(Box<ConnectionInfo>),
    #[cfg(feature = "cluster")]
    Cluster(Vec<ConnectionInfo>),
    Sentinels(Box<Sentinels>),
}

impl Place {
    /// Whether the URL has user and password.
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

/// Without user and password.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(info) => info.addr().fmt(f),
            #[cfg(feature = "cluster")]
            Self::Cluster(nodes) => f.write_str(&addresses(nodes)),
            Self::Sentinels(sentinels) => sentinels.fmt(f),
        }
    }
}

pub(crate) fn addresses(nodes: &[ConnectionInfo]) -> String {
    let addresses: Vec<_> = nodes.iter().map(|node| node.addr().to_string()).collect();
    addresses.join(",")
}

/// How to connect to a server that another one has named, as to that one.
pub(crate) fn at_address(info: ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let host = host.to_owned();
    let address = match info.addr().clone() {
        ConnectionAddr::TcpTls {
            insecure,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure,
            tls_params,
        },
        _ => ConnectionAddr::Tcp(host, port),
    };
    info.set_addr(address)
}

/// A URL that names several servers, in its parts.
#[derive(Debug, PartialEq)]
struct Several<'a> {
    kind: Kind,
    /// `redis` or `rediss`.
    scheme: &'a str,
    /// User and password with the `@`, if there are any.
    login: &'a str,
    hosts: Vec<&'a str>,
    /// What follows the first `/` after the hosts.
    path: &'a str,
    query: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Cluster,
    Sentinel,
}

impl<'a> Several<'a> {
    fn of(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (scheme, kind) = match scheme.split_once('+')? {
            (scheme @ ("redis" | "rediss"), "cluster") => (scheme, Kind::Cluster),
            (scheme @ ("redis" | "rediss"), "sentinel") => (scheme, Kind::Sentinel),
            _ => return None,
        };
        let (login, rest) = rest.split_at(rest.rfind('@').map_or(0, |at| at + 1));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        Some(Self {
            kind,
            scheme,
            login,
            hosts: hosts.split(',').collect(),
            path,
            query,
        })
    }
}

impl RedisConfig {
    /// What the URL leads to, or what is wrong with it.
    pub(crate) fn place(&self) -> Result<Place, ConfigError> {
        let several = Several::of(&self.url);
        let has_sentinels = several
            .as_ref()
            .is_some_and(|several| several.kind == Kind::Sentinel);
        if !has_sentinels && self.sentinel != SentinelConfig::default() {
            let advice =
                "it would be ignored: write `redis+sentinel://sentinel:26379/mymaster` into `url`";
            return Err(ConfigError::invalid("sentinel", &self.sentinel, advice));
        }
        let Some(several) = several else {
            return Ok(Place::Server(Box::new(self.connection_info()?)));
        };
        if several.hosts.iter().any(|host| host.is_empty()) {
            return Err(self.bad_url(several.kind.form()));
        }
        match several.kind {
            Kind::Cluster => self.cluster(&several),
            Kind::Sentinel => self.sentinels(&several),
        }
    }

    fn cluster(&self, several: &Several<'_>) -> Result<Place, ConfigError> {
        if cfg!(not(feature = "cluster")) {
            return Err(self.bad_url(
                "Redis Cluster needs the feature `cluster`: write `cargo add sessile --features cluster`",
            ));
        }
        if !matches!(several.path, "" | "0") {
            return Err(self.bad_url(
                "a cluster has no databases but 0: leave the number out, and tell applications apart by `key_prefix`",
            ));
        }
        let node = |host: &&str| self.at(several, several.login, host, "");
        let nodes: Result<Vec<_>, _> = several.hosts.iter().map(node).collect();
        #[cfg(feature = "cluster")]
        return nodes.map(Place::Cluster);
        #[cfg(not(feature = "cluster"))]
        return nodes.and(Err(self.bad_url(several.kind.form())));
    }

    fn sentinels(&self, several: &Several<'_>) -> Result<Place, ConfigError> {
        let (name, database) = several.path.split_once('/').unwrap_or((several.path, ""));
        if name.is_empty() || database.contains('/') {
            return Err(self.bad_url(several.kind.form()));
        }
        if several.scheme == "redis" && self.tls != TlsConfig::default() {
            let advice = "it would be ignored: write `rediss+sentinel://` into `url`, or what is meant for the sentinels into \
                          `sentinel.tls`";
            return Err(ConfigError::invalid("tls", &self.tls, advice));
        }
        let sentinel = |host: &&str| self.sentinel_at(several, host);
        let nodes: Result<Vec<_>, _> = several.hosts.iter().map(sentinel).collect();
        // Its address is found out when it is needed.
        let primary = self.at(several, several.login, several.hosts[0], database)?;
        let sentinels = Sentinels::new(nodes?, name.to_owned(), primary);
        Ok(Place::Sentinels(Box::new(sentinels)))
    }

    /// How to ask one of the sentinels.
    fn sentinel_at(
        &self,
        several: &Several<'_>,
        host: &str,
    ) -> Result<ConnectionInfo, ConfigError> {
        let host = match port_of(host) {
            Some(_) => host.to_owned(),
            None => format!("{host}:26379"),
        };
        let encrypted = self
            .sentinel
            .encrypted
            .unwrap_or(several.scheme == "rediss");
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
        let several = Several {
            scheme,
            hosts: Vec::new(),
            ..*several
        };
        let sentinel = as_sentinels.at(&several, "", &host, "");
        let sentinel = sentinel.map_err(|error| self.sentinel.name_settings(error))?;
        Ok(self.sentinel.log_in(sentinel))
    }

    /// How to connect to one of several servers.
    fn at(
        &self,
        several: &Several<'_>,
        login: &str,
        host: &str,
        database: &str,
    ) -> Result<ConnectionInfo, ConfigError> {
        let Several { scheme, query, .. } = several;
        let mark = if query.is_empty() { "" } else { "?" };
        let one = Self {
            url: format!("{scheme}://{login}{host}/{database}{mark}{query}"),
            ..self.clone()
        };
        one.connection_info()
    }
}

impl Kind {
    fn form(self) -> &'static str {
        match self {
            Self::Cluster => "write `redis+cluster://user:password@host:6379,host:6379/`",
            Self::Sentinel => {
                "write `redis+sentinel://user:password@sentinel:26379,sentinel:26379/mymaster/0`, with the name that the \
                 sentinels know the primary by in the place of `mymaster`"
            }
        }
    }
}

fn port_of(host: &str) -> Option<u16> {
    host.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Result<Place, ConfigError> {
        RedisConfig::new(url).place()
    }

    #[test]
    fn urls_lead_to_places() {
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
            assert_eq!(place(url).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_leads_nowhere_is_answered_with_what_to_write() {
        for (url, advice) in [
            ("redis+sentinel://a:1,,b/mymaster", "sentinel:26379"),
            ("redis+sentinel://a:1/", "in the place of `mymaster`"),
            ("redis+sentinel://a:1/m/0/1", "in the place of `mymaster`"),
            ("redis+sentinel://mia@a:1/m", "without a password"),
            #[cfg(feature = "cluster")]
            ("redis+cluster://a,/", "redis+cluster://user:password"),
            #[cfg(feature = "cluster")]
            ("redis+cluster://a/5", "no databases but 0"),
            #[cfg(feature = "cluster")]
            ("redis+cluster://a:x/", "redis://user:password"),
            #[cfg(not(feature = "cluster"))]
            ("redis+cluster://a:1,b:2/", "--features cluster"),
        ] {
            let text = place(url).unwrap_err().to_string();
            assert!(
                text.starts_with("url") && text.contains(advice),
                "{url}: {text}"
            );
        }
    }

    #[test]
    fn settings_of_sentinels_that_cannot_work_are_answered_with_what_to_write() {
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
    fn sentinels_have_a_log_in_of_their_own() {
        let mut config = RedisConfig::new("redis+sentinel://mia:first@a,b/m");
        config.sentinel.username = Some("noa".to_owned());
        config.sentinel.password = Some("second".to_owned());
        let shown = format!("{:?}", config.place().unwrap());
        let logins = |name: &str| shown.matches(&format!("{name:?}")).count();
        assert_eq!((logins("mia"), logins("noa")), (1, 2), "{shown}");
        assert!(
            !shown.contains("first") && !shown.contains("second"),
            "{shown}"
        );
        config.sentinel = SentinelConfig::default();
        let shown = format!("{:?}", config.place().unwrap());
        assert_eq!(shown.matches(r#""mia""#).count(), 1, "{shown}");
    }
}
