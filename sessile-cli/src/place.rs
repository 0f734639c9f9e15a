//! The servers that the store's URL names, for commands that the store itself does not send.
//!
//! The library has checked the URL before: `RedisStore::lazy` does, without connecting.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _,
    TlsCertificates,
};
use rustls::RootCertStore;
use sessile::{RedisConfig, TlsConfig};

use crate::failure::Failure;

/// Where the sessions are.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Server(Target),
    /// Some nodes of a cluster.
    Cluster(Vec<Target>),
    Sentinels {
        sentinels: Vec<Target>,
        name: String,
        /// How to log in to the primary; its address is that of a sentinel.
        primary: Target,
    },
}

/// Without the login.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = |targets: &[Target]| {
            let addresses: Vec<_> = targets.iter().map(Target::address).collect();
            addresses.join(",")
        };
        match self {
            Self::Server(target) => f.write_str(&target.address())?,
            Self::Cluster(nodes) => write!(f, "the cluster of {}", addresses(nodes))?,
            Self::Sentinels {
                sentinels, name, ..
            } => write!(f, "{name} of the sentinels {}", addresses(sentinels))?,
        }
        match self.login().database() {
            0 => Ok(()),
            database => write!(f, ", database {database}"),
        }
    }
}

/// One server, and how to log in to it.
#[derive(Clone)]
pub(crate) struct Target {
    info: ConnectionInfo,
    certificates: Option<TlsCertificates>,
}

/// Shows the address alone.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.address()).finish()
    }
}

/// How a connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Encrypted,
    /// A Unix socket, or the loopback interface.
    Local,
    /// An address that the internet does not route.
    Private,
    /// A host name, which may be anywhere.
    Named,
    Public,
}

impl Target {
    fn new(url: &str, tls: &TlsConfig) -> Result<Self, Failure> {
        let invalid = || Failure::Usage("url: write redis://host:6379/".to_owned());
        let info = url.into_connection_info().map_err(|_| invalid())?;
        // It would need a permission.
        let settings = info.redis_settings().clone().set_skip_set_lib_name();
        let info = info.set_redis_settings(settings);
        let certificates = match info.addr() {
            ConnectionAddr::TcpTls { .. } => Some(certificates(tls)?),
            _ => None,
        };
        Ok(Self { info, certificates })
    }

    pub(crate) fn client(&self) -> redis::RedisResult<Client> {
        match &self.certificates {
            Some(certificates) => Client::build_with_tls(self.info.clone(), certificates.clone()),
            None => Client::open(self.info.clone()),
        }
    }

    /// Host and port, or the path of the socket.
    pub(crate) fn address(&self) -> String {
        self.info.addr().to_string()
    }

    pub(crate) fn database(&self) -> i64 {
        self.info.redis_settings().db()
    }

    pub(crate) fn has_password(&self) -> bool {
        self.info.redis_settings().password().is_some()
    }

    /// Another server with the same login.
    pub(crate) fn at(&self, host: &str, port: u16) -> Self {
        let host = host.to_owned();
        let address = match self.info.addr().clone() {
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
        Self {
            info: self.info.clone().set_addr(address),
            certificates: self.certificates.clone(),
        }
    }

    pub(crate) fn host(&self) -> Option<&str> {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => Some(host),
            _ => None,
        }
    }

    pub(crate) fn link(&self) -> Link {
        match self.info.addr() {
            ConnectionAddr::TcpTls { .. } => Link::Encrypted,
            ConnectionAddr::Tcp(host, _) => unencrypted(host),
            _ => Link::Local,
        }
    }
}

fn unencrypted(host: &str) -> Link {
    use std::net::IpAddr;
    if host == "localhost" {
        return Link::Local;
    }
    match host.parse::<IpAddr>() {
        Err(_) => Link::Named,
        Ok(address) if address.is_loopback() => Link::Local,
        Ok(IpAddr::V4(address)) if address.is_private() || address.is_link_local() => Link::Private,
        Ok(IpAddr::V6(address)) if address.is_unique_local() || address.is_unicast_link_local() => {
            Link::Private
        }
        Ok(_) => Link::Public,
    }
}

impl Place {
    pub(crate) fn of(config: &RedisConfig) -> Result<Self, Failure> {
        let Some(url) = Several::split(&config.url) else {
            return Ok(Self::Server(Target::new(&config.url, &config.tls)?));
        };
        let Several {
            scheme,
            kind,
            login,
            hosts,
            path,
            query,
        } = url;
        match kind {
            "cluster" => {
                let node = |host: &&str| {
                    Target::new(&format!("{scheme}://{login}{host}/{query}"), &config.tls)
                };
                Ok(Self::Cluster(
                    hosts.iter().map(node).collect::<Result<_, _>>()?,
                ))
            }
            _ => {
                let (name, database) = path.split_once('/').unwrap_or((path, ""));
                let primary = format!("{scheme}://{login}{}/{database}{query}", hosts[0]);
                let sentinel = |host: &&str| sentinel(config, scheme, host);
                Ok(Self::Sentinels {
                    sentinels: hosts.iter().map(sentinel).collect::<Result<_, _>>()?,
                    name: name.to_owned(),
                    primary: Target::new(&primary, &config.tls)?,
                })
            }
        }
    }

    /// A target whose login is that of the servers with the sessions.
    pub(crate) fn login(&self) -> &Target {
        match self {
            Self::Server(target) => target,
            Self::Cluster(nodes) => &nodes[0],
            Self::Sentinels { primary, .. } => primary,
        }
    }
}

/// A sentinel has a login of its own.
fn sentinel(config: &RedisConfig, scheme: &str, host: &str) -> Result<Target, Failure> {
    let settings = &config.sentinel;
    let is_encrypted = settings.encrypted.unwrap_or(scheme == "rediss");
    let scheme = if is_encrypted { "rediss" } else { "redis" };
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let port = if has_port { "" } else { ":26379" };
    let tls = settings.tls.as_ref().unwrap_or(&config.tls);
    let mut target = Target::new(&format!("{scheme}://{host}{port}/"), tls)?;
    let mut login = target.info.redis_settings().clone();
    if let Some(username) = &settings.username {
        login = login.set_username(username);
    }
    if let Some(password) = &settings.password {
        login = login.set_password(password);
    }
    target.info = target.info.set_redis_settings(login);
    Ok(target)
}

fn certificates(tls: &TlsConfig) -> Result<TlsCertificates, Failure> {
    let read = |path: &std::path::PathBuf| {
        let name = path.display();
        std::fs::read(path).map_err(|error| Failure::Usage(format!("cannot read {name}: {error}")))
    };
    let client_tls = match (&tls.client_cert, &tls.client_key) {
        (Some(certificate), Some(key)) => Some(ClientTlsConfig {
            client_cert: read(certificate)?,
            client_key: read(key)?,
        }),
        _ => None,
    };
    let root_cert = match &tls.ca {
        Some(ca) => Some(read(ca)?),
        None => system_authorities(),
    };
    Ok(TlsCertificates {
        client_tls,
        root_cert,
    })
}

/// The authorities that the operating system trusts, in PEM; without any, the client takes Mozilla's. The store trusts both.
fn system_authorities() -> Option<Vec<u8>> {
    let mut pem = String::new();
    for certificate in rustls_native_certs::load_native_certs().certs {
        // A single unusable one would make all of them fail.
        if RootCertStore::empty().add(certificate.clone()).is_ok() {
            let body = BASE64_STANDARD.encode(&certificate);
            pem.push_str(&format!(
                "-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"
            ));
        }
    }
    (!pem.is_empty()).then(|| pem.into_bytes())
}

/// The parts of a URL with several hosts.
#[derive(Debug, PartialEq)]
struct Several<'a> {
    scheme: &'a str,
    kind: &'a str,
    /// With the `@`.
    login: &'a str,
    hosts: Vec<&'a str>,
    path: &'a str,
    /// With the `?`.
    query: &'a str,
}

impl<'a> Several<'a> {
    fn split(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (scheme, kind) = scheme.split_once('+')?;
        let (login, rest) = rest.split_at(rest.rfind('@').map_or(0, |at| at + 1));
        let (rest, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        Some(Self {
            scheme,
            kind,
            login,
            hosts: hosts.split(',').collect(),
            path,
            query,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Place {
        Place::of(&RedisConfig::new(url)).unwrap()
    }

    #[test]
    fn each_kind_of_url_leads_to_its_servers() {
        let Place::Server(server) = place("redis://mia:s3cret@h:1/5") else {
            panic!("one server");
        };
        let found = (server.address(), server.database(), server.has_password());
        assert_eq!(found, ("h:1".to_owned(), 5, true));

        let Place::Cluster(nodes) = place("redis+cluster://:a%40b@h:1,[::1]:2/?protocol=resp3")
        else {
            panic!("a cluster");
        };
        let addresses: Vec<_> = nodes.iter().map(Target::address).collect();
        assert_eq!(addresses, ["h:1", "::1:2"]);
        assert_eq!(nodes[1].info.redis_settings().password(), Some("a@b"));

        let sentinels = place("redis+sentinel://:primary@s,t:5/mymaster/3");
        let Place::Sentinels {
            sentinels,
            name,
            primary,
        } = sentinels
        else {
            panic!("sentinels");
        };
        let addresses: Vec<_> = sentinels.iter().map(Target::address).collect();
        assert_eq!(
            (addresses, name.as_str()),
            (vec!["s:26379".to_owned(), "t:5".to_owned()], "mymaster")
        );
        assert!(
            !sentinels[0].has_password(),
            "a sentinel has a login of its own"
        );
        assert_eq!((primary.database(), primary.has_password()), (3, true));
        assert_eq!(primary.at("p", 9).address(), "p:9");
        assert!(!format!("{primary:?}").contains(":primary"));
    }

    #[test]
    fn a_place_is_named_without_its_login() {
        for (url, expected) in [
            ("redis://mia:s3cret@h:1/", "h:1"),
            ("redis://:s3cret@h/5", "h:6379, database 5"),
            ("unix:///run/redis.sock", "/run/redis.sock"),
            ("redis+cluster://:s3cret@h:1,i:2/", "the cluster of h:1,i:2"),
            (
                "redis+sentinel://:s3cret@s,t:5/mymaster/3",
                "mymaster of the sentinels s:26379,t:5, database 3",
            ),
        ] {
            assert_eq!(place(url).to_string(), expected);
        }
    }

    #[test]
    fn an_address_says_who_may_listen() {
        for (url, expected) in [
            ("rediss://h/", Link::Encrypted),
            ("unix:///run/redis.sock", Link::Local),
            ("redis://127.0.0.1/", Link::Local),
            ("redis://localhost/", Link::Local),
            ("redis://[::1]/", Link::Local),
            ("redis://10.1.2.3/", Link::Private),
            ("redis://192.168.0.1/", Link::Private),
            ("redis://[fd00::1]/", Link::Private),
            ("redis://redis.internal/", Link::Named),
            ("redis://203.0.113.7/", Link::Public),
        ] {
            assert_eq!(place(url).login().link(), expected, "{url}");
        }
    }
}
