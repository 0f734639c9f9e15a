//! Sessions in Redis or Valkey, one string each.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use redis::{RedisError, Value};

use crate::error::config::ConfigError;
use crate::error::store::StoreError;
use crate::record::lifetime::Renewal;
use crate::store::{
    Capabilities, Created, Deleted, Durability, Freshness, Leased, Owner, Replaced, SessionStore,
    Stored, Touched, Write,
};
use crate::token::Handle;

mod advice;
mod breaker;
mod cas;
mod channel;
mod config;
mod credentials;
mod error;
mod exclusive;
mod lease;
mod link;
mod pool;
mod probe;
mod replicas;
#[cfg(feature = "cluster")]
mod router;
mod sentinel;
mod servers;
mod stats;
mod tls;
mod url;

use advice::{connect_error, without_arguments};
use cas::{Replacer, Swap};
pub use config::{CompareAndSet, RedisConfig};
use credentials::Login;
pub use credentials::{Credentials, CredentialsProvider};
use error::Failed;
use pool::Request;
use replicas::Wanted;
pub use sentinel::SentinelConfig;
use servers::Servers;
pub use tls::TlsConfig;
use url::Place;

/// Keeps sessions in Redis (from 7.0) or Valkey, for any number of nodes.
///
/// A session is one string under `<key_prefix><handle>`, readable JSON, with a time to live. Clones share the
/// connections.
///
/// Redis does not learn who is signed in ([`Write::signed_in`]), so set `maxmemory-policy noeviction`: any other policy
/// logs users out to make room for anonymous visitors.
///
/// # Redis
///
/// | operation | commands | round trips |
/// |---|---|---|
/// | load | `GET`, `PTTL` in one pipeline | 1 |
/// | create | `SET … NX PX` | 1 |
/// | replace, by script | `EVALSHA`: `GETRANGE`, `SET … PX` | 1 |
/// | the same, on a server that does not know the script yet | `EVALSHA`, `EVAL` | 2 |
/// | replace, by `IFEQ` | `PTTL`, `SET … IFEQ … GET PX` in one pipeline | 1 |
/// | replace, by `WATCH` | `WATCH`, `GETRANGE`, `MULTI`; `SET … XX PX`, `EXEC` | 2 |
/// | the same, when another request was faster | `WATCH`, `GETRANGE`, `MULTI`; `DISCARD`, `PTTL`, `GET` | 2; 4 if it was so in between |
/// | renew | `PEXPIRE` | 1, beside the handler |
/// | delete | `UNLINK` | 1 |
/// | take a lease | `SET … NX PX` | 1 |
/// | renew it, or meet another owner's | `SET … NX PX`, and as to replace | 1 more than to replace |
/// | give it up | as to replace | as to replace |
/// | [`Durability::Replicas`]: create, replace or delete | `WAIT` after what it writes | 1 more, which lasts until replicas have it |
/// | the same: delete what is gone already | `UNLINK`, `SET … PX`, `WAIT` | 3 |
///
/// What waits for replicas has a connection to itself meanwhile, one of [`RedisConfig::exclusive_pool_size`].
///
/// How sessions are replaced is a setting, [`RedisConfig::compare_and_set`]. A lease is a key of its own,
/// `<key_prefix><handle>:lease`.
///
/// The user needs these permissions and no more, on its own keys: `+get +pttl +set +pexpire +unlink +time`, and to replace
///
/// - by script `+getrange +evalsha +eval`,
/// - by `WATCH` `+getrange +watch +multi +exec +discard`,
/// - by `IFEQ` nothing else,
///
/// with `+select` for another database than 0, `+wait` for [`Durability::Replicas`], and on a cluster `+asking
/// +cluster|slots`. With sentinels, `+role` tells a server that is no primary any more when it is connected to, and without it
/// the first write does.
///
/// # Encrypted connections
///
/// With the feature `tls-rustls` and a `rediss://` URL. The server's certificate must be for the host in the URL, and of an
/// authority of [`TlsConfig::ca`]; without that, of one that browsers trust too, or, with the feature `tls-native-roots`, the
/// operating system. A server that asks for a certificate gets [`TlsConfig::client_cert`]. If the process has not chosen a
/// `CryptoProvider` of rustls by the time the first store is made, that of ring is installed for it; an application that wants
/// another installs it before.
///
/// # A cluster, or sentinels
///
/// The [URL](RedisConfig::url) says so. On a Redis Cluster a session is in one slot, and the time of day is that of any of the
/// primaries. Each primary has connections and a circuit breaker of its own. A node that does not have the slot any more names
/// the one that has, and the request is sent there, at the cost of one more round trip, within its `command_timeout`. `CLUSTER
/// SLOTS` tells where all slots are: three primaries at most are asked, or else all nodes that the URL names; at the start, and
/// after trouble, at most four times a second. Encrypted, a node's certificate must be for the host that the cluster names it
/// by, which is an address unless `cluster-preferred-endpoint-type` says otherwise.
///
/// With sentinels the primary is looked up for each connection that is made. A connection that is lost, or whose server is a
/// replica by now, is replaced, and so leads to the new primary.
///
/// While a replica takes over, the sessions of its primary answer 503, and no cookie is taken away.
///
/// # Passwords and tokens that change
///
/// With [`from_config_with_credentials`](Self::from_config_with_credentials) a [`CredentialsProvider`] of yours supplies user and
/// password: for passwords that are rotated while the application runs, and for tokens of a cloud's identities.
///
/// # A client of your own
///
/// A store takes no connection, pool or client that you have made: how many connections there are, how long they may take,
/// what is set on them and which protocol they speak decides whether its promises hold, and no type of the crate `redis` is
/// part of this API, so that its next version is not a breaking change here. If a setting is missing, please open an issue; to
/// use a client of yours, implement [`SessionStore`] with it, which
/// `sessile::conformance` (feature `conformance`) checks.
#[derive(Clone)]
#[doc(alias("RedisSessionStorage", "RedisSessionStore"))]
pub struct RedisStore {
    inner: Arc<Inner>,
}

struct Inner {
    servers: Servers,
    replacer: Replacer,
    config: RedisConfig,
    address: Arc<str>,
}

impl RedisStore {
    /// Connects to the server at this URL, with the default settings.
    ///
    /// # Redis
    ///
    /// `TIME` on each connection, after `AUTH` and `SELECT` where the URL asks for them; and once `HELLO` and every command that
    /// requests will need, on a key that does not exist. On a cluster also `CLUSTER SLOTS` and `ASKING`, and one primary is
    /// tried for all.
    ///
    /// # Errors
    ///
    /// - [`ConfigError::Invalid`]: the URL is not valid.
    /// - [`ConfigError::Connect`]: the server was not reached, or does not let this user do what is needed, such as to
    ///   replace sessions in the configured way. It names host, port and cause.
    #[doc(alias = "connect")]
    pub async fn from_url(url: impl Into<String>) -> Result<Self, ConfigError> {
        Self::from_config(RedisConfig::new(url)).await
    }

    /// Connects with settings of your own.
    ///
    /// # Errors
    ///
    /// Those of [`from_url`](Self::from_url), and [`ConfigError::Invalid`] for a setting that cannot work.
    pub async fn from_config(config: RedisConfig) -> Result<Self, ConfigError> {
        Self::connect(config, None).await
    }

    /// Connects with settings of your own, and with user and password from a provider, for those that change while the store
    /// is in use: rotated passwords, and tokens. [`CredentialsProvider`] has an example.
    ///
    /// The URL then has no user and no password. Sentinels are asked with those of
    /// [`RedisConfig::sentinel`] as ever.
    ///
    /// # Errors
    ///
    /// Those of [`from_config`](Self::from_config); [`ConfigError::Invalid`] for a URL with a user and a password; and [`ConfigError::Connect`] with the provider's error if it fails.
    pub async fn from_config_with_credentials(
        config: RedisConfig,
        provider: impl CredentialsProvider,
    ) -> Result<Self, ConfigError> {
        let login = Login::new(provider, &config);
        Self::connect(config, Some(login)).await
    }

    async fn connect(config: RedisConfig, login: Option<Arc<Login>>) -> Result<Self, ConfigError> {
        let place = config.check()?;
        refuse_second_login(&config, &place, login.as_ref())?;
        let address = place.to_string();
        let failed = |error: RedisError| connect_error(&address, &config, error);
        Servers::try_out(place, &config, login.clone())
            .await
            .map_err(failed)?;
        let store = Self::in_background(config, login)?;
        store.probe().await?;
        Ok(store)
    }

    /// A store that connects in the background, for an application that must start although Redis is away. Until it is
    /// there, requests with a session cookie get 503.
    ///
    /// # Errors
    ///
    /// - [`ConfigError::Invalid`]: a setting cannot work.
    /// - [`ConfigError::NoRuntime`]: it was called outside of a tokio runtime.
    pub fn lazy(config: RedisConfig) -> Result<Self, ConfigError> {
        Self::in_background(config, None)
    }

    /// The same with user and password from a provider, as
    /// [`from_config_with_credentials`](Self::from_config_with_credentials) takes one. If the provider fails at first, it is
    /// asked again as connections are needed.
    ///
    /// # Errors
    ///
    /// Those of [`lazy`](Self::lazy), and [`ConfigError::Invalid`] for a URL with a user and a password.
    pub fn lazy_with_credentials(
        config: RedisConfig,
        provider: impl CredentialsProvider,
    ) -> Result<Self, ConfigError> {
        let login = Login::new(provider, &config);
        Self::in_background(config, Some(login))
    }

    fn in_background(config: RedisConfig, login: Option<Arc<Login>>) -> Result<Self, ConfigError> {
        let place = config.check()?;
        refuse_second_login(&config, &place, login.as_ref())?;
        let address: Arc<str> = place.to_string().into();
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(ConfigError::NoRuntime);
        }
        let probe = format!("{}probe", config.key_prefix);
        let inner = Inner {
            servers: Servers::new(place, Arc::clone(&address), &config, login),
            replacer: Replacer::new(config.compare_and_set, probe),
            config,
            address,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// How sessions are replaced: what [`CompareAndSet::Auto`] has chosen, or what was configured. `None` until the server
    /// was asked, which [`lazy`](Self::lazy) leaves to the first request that needs it.
    pub fn compare_and_set(&self) -> Option<CompareAndSet> {
        self.inner.replacer.chosen()
    }

    /// Whether the other uses the same keys of the same server.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let (one, other) = (&self.inner.config, &other.inner.config);
        one.url == other.url && one.key_prefix == other.key_prefix
    }

    fn key(&self, handle: &Handle) -> String {
        format!("{}{handle}", self.inner.config.key_prefix)
    }

    fn lease_key(&self, handle: &Handle) -> String {
        format!("{}{handle}:lease", self.inner.config.key_prefix)
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

impl SessionStore for RedisStore {
    fn namespace(&self) -> &str {
        &self.inner.config.key_prefix
    }

    fn now(&self) -> SystemTime {
        self.inner.servers.now()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
            .with_request_budget(self.inner.config.request_budget)
            .with_lease(true)
            .with_durability(true)
    }

    async fn load(&self, key: &Handle, _: Freshness) -> Result<Option<Stored>, StoreError> {
        Ok(load(&self.inner.servers, &self.key(key)).await?)
    }

    async fn create(&self, key: &Handle, write: Write<'_>) -> Result<Created, StoreError> {
        let (servers, key) = (&self.inner.servers, self.key(key));
        let mut command = redis::cmd("SET");
        command
            .arg(&key)
            .arg(&write.value[..])
            .arg("NX")
            .arg("PX")
            .arg(millis(write.ttl));
        if let Some(wanted) = wanted(write.durability) {
            return replicas::create(servers, &key, &command, wanted).await;
        }
        match servers.send(&key, &Request::Command(&command)).await? {
            Value::Okay => Ok(Created::Done),
            Value::Nil => Ok(Created::Exists),
            _ => Err(odd("SET")),
        }
    }

    async fn replace(
        &self,
        key: &Handle,
        expected: &Stored,
        write: Write<'_>,
    ) -> Result<Replaced, StoreError> {
        let Inner {
            servers, replacer, ..
        } = &*self.inner;
        let swap = Swap {
            key: &self.key(key),
            expected,
            value: write.value,
            ttl: millis(write.ttl),
        };
        match wanted(write.durability) {
            Some(wanted) => replicas::replace(servers, replacer, swap, wanted).await,
            None => replacer.replace(servers, swap).await,
        }
    }

    async fn touch(&self, key: &Handle, renewal: Renewal) -> Result<Touched, StoreError> {
        let key = self.key(key);
        let mut command = redis::cmd("PEXPIRE");
        command.arg(&key);
        match renewal {
            Renewal::Extend(ttl) => command.arg(millis(ttl)).arg("GT"),
            Renewal::Set(ttl) => command.arg(millis(ttl)),
        };
        match self
            .inner
            .servers
            .send_idempotent(&key, &Request::Command(&command))
            .await?
        {
            Value::Int(1) => Ok(Touched::Done),
            Value::Int(0) => Ok(Touched::Unchanged),
            _ => Err(odd("PEXPIRE")),
        }
    }

    async fn delete(&self, key: &Handle, durability: Durability) -> Result<Deleted, StoreError> {
        let (servers, key) = (&self.inner.servers, self.key(key));
        if let Some(wanted) = wanted(durability) {
            let mark = format!("{}mark", self.inner.config.key_prefix);
            return replicas::delete(servers, &key, &mark, wanted).await;
        }
        let mut command = redis::cmd("UNLINK");
        command.arg(&key);
        match servers
            .send_idempotent(&key, &Request::Command(&command))
            .await?
        {
            Value::Int(0) => Ok(Deleted::Missing),
            Value::Int(_) => Ok(Deleted::Done),
            _ => Err(odd("UNLINK")),
        }
    }

    async fn acquire(
        &self,
        key: &Handle,
        owner: Owner,
        lease: Duration,
    ) -> Result<Leased, StoreError> {
        let (inner, key) = (&self.inner, self.lease_key(key));
        lease::acquire(&inner.servers, &inner.replacer, &key, owner, lease).await
    }

    async fn release(&self, key: &Handle, owner: Owner) -> Result<(), StoreError> {
        let (inner, key) = (&self.inner, self.lease_key(key));
        lease::release(&inner.servers, &inner.replacer, &key, owner).await
    }
}

/// With a provider, user and password in the URL would be ignored.
fn refuse_second_login(
    config: &RedisConfig,
    place: &Place,
    login: Option<&Arc<Login>>,
) -> Result<(), ConfigError> {
    if login.is_none() {
        return Ok(());
    }
    match place.has_login() {
        true => Err(config.bad_url(
            "user and password would be ignored, as the credentials provider returns them: leave them out",
        )),
        false => Ok(()),
    }
}

async fn load(servers: &Servers, key: &str) -> Result<Option<Stored>, Failed> {
    let mut pipeline = redis::pipe();
    // In this order a commit in between leaves a time that is too short for its record, and that a renewal mends; in the
    // other, one that looks too long.
    pipeline
        .cmd("PTTL")
        .arg(key)
        .cmd("GET")
        .arg(key)
        .ignore_errors();
    let answer = servers
        .send_idempotent(key, &Request::Pipeline(&pipeline))
        .await?;
    let Value::Array(answers) = answer else {
        return Err(odd("GET").into());
    };
    match <[Value; 2]>::try_from(answers) {
        Ok([left, value]) => Ok(stored(value, &left)?),
        Err(_) => Err(odd("GET").into()),
    }
}

/// The replicas that must have a write, if any.
fn wanted(durability: Durability) -> Option<Wanted> {
    match durability {
        Durability::Primary => None,
        Durability::Replicas { n, timeout } => Some(Wanted { n, timeout }),
    }
}

/// What is there instead of the expected value.
fn found(value: Value, left: &Value) -> Result<Replaced, StoreError> {
    Ok(stored(value, left)?.map_or(Replaced::Gone, Replaced::Conflict))
}

/// What GET and PTTL said.
fn stored(value: Value, left: &Value) -> Result<Option<Stored>, StoreError> {
    let value = match value {
        Value::BulkString(value) => Bytes::from(value),
        Value::Nil => return Ok(None),
        Value::ServerError(error) if error.code() == "WRONGTYPE" => {
            return Ok(Some(Stored::unreadable()));
        }
        Value::ServerError(error) => {
            let message = format!("Redis refused GET with {}", error.code());
            return Err(StoreError::refused(message).with_source(without_arguments(error.into())));
        }
        _ => return Err(odd("GET")),
    };
    let left = match left {
        Value::Int(-1) => None,
        // It expired between the two commands.
        Value::Int(-2) => return Ok(None),
        Value::Int(left) => Some(Duration::from_millis(
            u64::try_from(*left).unwrap_or_default(),
        )),
        _ => return Err(odd("PTTL")),
    };
    Ok(Some(Stored::new(value, left)))
}

/// Redis takes whole milliseconds, and deletes the key at zero.
fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis())
        .unwrap_or(u64::MAX)
        .clamp(1, i64::MAX as u64 / 2)
}

fn is_wrong_type(failed: &Failed) -> bool {
    failed.code.as_deref() == Some("WRONGTYPE")
}

/// An answer that no Redis gives: something else speaks its protocol there.
fn odd(command: &str) -> StoreError {
    StoreError::unknown(format!(
        "the answer to {command} is none that Redis gives: is a proxy between?"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_never_zero_and_never_too_large() {
        assert_eq!(millis(Duration::ZERO), 1);
        assert_eq!(millis(Duration::from_micros(1)), 1);
        assert_eq!(millis(Duration::from_secs(1800)), 1_800_000);
        assert!(millis(Duration::MAX) < i64::MAX as u64);
    }
}
