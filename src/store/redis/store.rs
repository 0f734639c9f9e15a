//! The store: translates each operation into commands.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use redis::Value;
use tokio::time::Instant;

use crate::error::store::StoreError;
use crate::record::lifetime::Renewal;
use crate::store::contract::{
    Capabilities, Created, Deleted, Durability, Freshness, Loaded, Replaced, SessionStore, Stored,
    Touched, Write,
};
use crate::store::index::{Admission, Confirmed, Entered, Entry, Generation, IndexKey, Indexed};
use crate::store::lease::{Leased, Owner};
use crate::store::redis::cas::Cas;
use crate::store::redis::cas::swap::Swap;
use crate::store::redis::config::{CompareAndSet, RedisConfig};
use crate::store::redis::expiry::Expiries;
use crate::store::redis::index::Indexes;
use crate::store::redis::lease;
use crate::store::redis::read::{load, load_value};
use crate::store::redis::replicas::{self, Wanted};
use crate::store::redis::reply::unexpected_reply;
use crate::store::redis::request::{Request, millis};
use crate::store::redis::servers::Servers;
use crate::token::Handle;

/// Keeps sessions in Redis (from 7.0) or Valkey, for any number of nodes.
///
/// A read asks for the `PTTL` again once a 32nd of the time that it found left has passed, or a minute, or after a reconnection: it
/// only has to tell whether half of the idle timeout has passed.
///
/// A session is one string under `<key_prefix><handle>`, readable JSON, with a time to live. Clones share the connections.
///
/// ```no_run
/// # use std::time::Duration;
/// use sessile::{RedisConfig, RedisStore, SessionLayer};
///
/// # async fn layer() -> Result<SessionLayer, Box<dyn std::error::Error>> {
/// let store = RedisStore::from_url("redis://127.0.0.1/").await?;
/// // The same, with settings:
/// let config = RedisConfig::new("redis://127.0.0.1/").with_command_timeout(Duration::from_millis(500));
/// let store = RedisStore::from_config(config).await?;
/// # Ok(SessionLayer::new(store))
/// # }
/// ```
///
/// Redis does not know which sessions have a user ([`Write::signed_in`]), so set `maxmemory-policy noeviction`: any other
/// policy logs users out to make room for anonymous visitors.
///
/// # Redis
///
/// | operation | commands | round trips |
/// |---|---|---|
/// | load | `PTTL`, `GET` in one pipeline; only `GET` if the reply to a `PTTL` is recent enough | 1; 2 if a connection is opened meanwhile |
/// | create | `SET … NX PX` | 1 |
/// | replace, by script | `EVALSHA`: `GETRANGE`, `SET … PX` | 1 |
/// | the same, if the server does not know the script yet | `EVALSHA`, `EVAL` | 2 |
/// | replace, by `IFEQ` | `PTTL`, `SET … IFEQ … GET PX` in one pipeline | 1 |
/// | replace, by `WATCH` | `WATCH`, `GETRANGE`, `MULTI`; `SET … XX PX`, `EXEC` | 2 |
/// | the same, in a conflict | `WATCH`, `GETRANGE`, `MULTI`; `DISCARD`, `PTTL`, `GET` | 2; 4 if the value changes between `WATCH` and `EXEC` |
/// | renew | `PEXPIRE` | 1, concurrently with the handler |
/// | delete | `UNLINK` | 1 |
/// | acquire a lease | `SET … NX PX` | 1 |
/// | renew a lease, or find it taken | `SET … NX PX`, and as for replace | 1 more than replace |
/// | release a lease | as for replace | as for replace |
/// | enter, confirm, extend or leave an index, or begin a generation of it, by script | `EVALSHA` | 1 |
/// | the same, if sessions are not replaced by script | `WATCH`, `ZSCORE`, `ZRANGE`, `MULTI`; the writes, `EXEC` | 2; more if the index changes meanwhile |
/// | list an index | `ZRANGE` | 1 |
/// | [`Durability::Replicas`]: create, replace or delete | `WAIT` after the write | 1 more, which takes until replicas have it |
/// | the same: delete a session that is gone already | `UNLINK`, `SET … PX`, `WAIT` | 3 |
///
/// A write that [keeps the time to live](Write::keep_ttl) says `KEEPTTL` instead of `PX`.
///
/// A write that waits for replicas uses a connection alone meanwhile, one of [`RedisConfig::exclusive_pool_size`].
///
/// [`RedisConfig::compare_and_set`] sets how sessions are replaced. A lease is a key of its own, `<key_prefix><handle>:lease`.
/// The index of a principal is a sorted set, `<key_prefix>of:{<hash>}`; see [`store`](crate::store#the-index).
///
/// The user needs these permissions and no more, on its own keys: `+get +pttl +set +pexpire +unlink +time`, and to replace
///
/// - by script `+getrange +evalsha +eval`,
/// - by `WATCH` `+getrange +watch +multi +exec +discard`,
/// - by `IFEQ` `+watch +multi +exec +discard`, for the indexes;
///
/// for the indexes `+zadd +zrange +zrem +zremrangebyscore +zscore`; and `+select` for a database other than 0, `+wait` for [`Durability::Replicas`], and on a cluster `+asking +cluster|slots`.
/// With sentinels, `+role` lets the store detect a server that is not a primary any more when it connects; without it the first
/// write does.
///
/// # Encrypted connections
///
/// They need the feature `tls-rustls` and a `rediss://` URL. The server's certificate must be for the host in the URL, and from
/// an authority of [`TlsConfig::ca`](crate::TlsConfig::ca); without that setting, from one that browsers trust too, or, with
/// the feature `tls-native-roots`, the operating system. A server that asks for a certificate gets
/// [`TlsConfig::client_cert`](crate::TlsConfig::client_cert). If the process has not installed a `CryptoProvider` of rustls by
/// the time it creates the first store, the store installs that of ring; an application that wants another installs it before.
///
/// # A cluster, or sentinels
///
/// The [URL](RedisConfig::url) selects them. On a Redis Cluster a session belongs to one slot, and the store's clock is that of
/// any of the primaries. Each primary has connections and a circuit breaker of its own. A node that does not have the slot any
/// more redirects the request to the one that has; following the redirection costs one more round trip, within
/// `command_timeout`. `CLUSTER SLOTS` returns where all slots are: the store asks at most three primaries, or else all nodes
/// that the URL names; at the start, and after failures, at most four times a second. With encryption, a node's certificate
/// must be for the host under which the cluster announces it, which is an address unless `cluster-preferred-endpoint-type` says
/// otherwise.
///
/// With sentinels the store looks up the primary for each new connection. It replaces a connection that is lost, or whose
/// server has become a replica, and the new one leads to the new primary.
///
/// During a failover, requests for the sessions of that primary get 503, and no cookie is removed.
///
/// # Passwords and tokens that change
///
/// With [`from_config_with_credentials`](Self::from_config_with_credentials) your
/// [`CredentialsProvider`](crate::CredentialsProvider) supplies user and password: for passwords that are rotated while the
/// application runs, and for tokens of cloud identities.
///
/// # A client of your own
///
/// A store does not accept a connection, pool or client that you have created: its guarantees depend on the number of
/// connections, their timeouts, their settings and their protocol, and no type of the crate `redis` is part of this API, so
/// that its next version is not a breaking change here. If a setting is missing, please open an issue; to use a client of
/// yours, implement [`SessionStore`] with it, which `sessile::conformance` (feature `conformance`) checks.
#[derive(Clone)]
#[doc(alias("RedisSessionStorage", "RedisSessionStore"))]
pub struct RedisStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) servers: Servers,
    pub(crate) cas: Cas,
    pub(crate) expiries: Expiries,
    pub(crate) indexes: Indexes,
    pub(crate) config: RedisConfig,
    pub(crate) address: Arc<str>,
}

impl RedisStore {
    /// The strategy that replaces sessions: the one that [`CompareAndSet::Auto`] has detected, or the configured one. `None`
    /// until the store has asked the server, which a store of [`lazy`](Self::lazy) does with the first request that needs it.
    pub fn compare_and_set(&self) -> Option<CompareAndSet> {
        self.inner.cas.chosen()
    }

    /// Whether `other` uses the same keys of the same server.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let (one, other) = (&self.inner.config, &other.inner.config);
        one.url == other.url && one.key_prefix == other.key_prefix
    }

    fn key(&self, handle: &Handle) -> String {
        self.key_with(handle, "")
    }

    fn indexes(&self) -> (&Indexes, (&Servers, &Cas)) {
        let Inner { servers, cas, .. } = &*self.inner;
        (&self.inner.indexes, (servers, cas))
    }

    fn lease_key(&self, handle: &Handle) -> String {
        self.key_with(handle, ":lease")
    }

    fn key_with(&self, handle: &Handle, end: &str) -> String {
        let (prefix, mut text) = (&self.inner.config.key_prefix, [0; 22]);
        let handle = handle.encode(&mut text);
        let mut key = String::with_capacity(prefix.len() + handle.len() + end.len());
        for part in [prefix, handle, end] {
            key.push_str(part);
        }
        key
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

    fn clock_error(&self) -> Option<Duration> {
        self.inner.servers.clock_error()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
            .with_request_budget(self.inner.config.request_budget)
            .with_lease(true)
            .with_durability(true)
            .with_index(true)
    }

    async fn load(&self, handle: &Handle, want: Freshness) -> Result<Loaded, StoreError> {
        let (Inner { servers, .. }, key) = (&*self.inner, self.key(handle));
        let expiries = &self.inner.expiries;
        if want == Freshness::Recent
            && let Some(connected) = servers.connected()
            && let Some(left) = expiries.time_left(*handle, Instant::now(), connected)
        {
            let loaded = load_value(servers, &key, left).await?;
            // A connection that was opened meanwhile may lead to another server.
            let is_same = servers.connected() == Some(connected);
            if is_same || !matches!(loaded, Loaded::Found(_)) {
                return Ok(loaded);
            }
        }
        let asked = Instant::now();
        let loaded = load(servers, &key).await?;
        if let Loaded::Found(stored) = &loaded
            && let Some(left) = stored.time_left()
        {
            expiries.note(*handle, asked, left);
        }
        Ok(loaded)
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
            _ => Err(unexpected_reply("SET")),
        }
    }

    async fn replace(
        &self,
        key: &Handle,
        expected: &Stored,
        write: Write<'_>,
    ) -> Result<Replaced, StoreError> {
        let Inner { servers, cas, .. } = &*self.inner;
        let sent = Instant::now();
        let swap = Swap {
            key: &self.key(key),
            expected,
            value: write.value,
            ttl: (!write.keep_ttl).then(|| millis(write.ttl)),
        };
        let replaced = match wanted(write.durability) {
            Some(wanted) => replicas::replace(servers, cas, swap, wanted).await,
            None => cas.replace(servers, swap).await,
        }?;
        if replaced == Replaced::Done && !write.keep_ttl {
            self.inner.expiries.note_set(*key, sent, write.ttl);
        }
        Ok(replaced)
    }

    async fn touch(&self, handle: &Handle, renewal: Renewal) -> Result<Touched, StoreError> {
        let (key, sent) = (self.key(handle), Instant::now());
        let mut command = redis::cmd("PEXPIRE");
        command.arg(&key);
        let (Renewal::Extend(ttl) | Renewal::Set(ttl)) = renewal;
        command.arg(millis(ttl));
        if let Renewal::Extend(_) = renewal {
            command.arg("GT");
        }
        match self
            .inner
            .servers
            .send_idempotent(&key, &Request::Command(&command))
            .await?
        {
            Value::Int(1) => {
                self.inner.expiries.note_set(*handle, sent, ttl);
                Ok(Touched::Done)
            }
            Value::Int(0) => {
                self.inner.expiries.forget(*handle);
                Ok(Touched::Unchanged)
            }
            _ => Err(unexpected_reply("PEXPIRE")),
        }
    }

    async fn delete(&self, key: &Handle, durability: Durability) -> Result<Deleted, StoreError> {
        let (servers, key) = (&self.inner.servers, self.key(key));
        if let Some(wanted) = wanted(durability) {
            let marker = format!("{}mark", self.inner.config.key_prefix);
            return replicas::delete(servers, &key, &marker, wanted).await;
        }
        let mut command = redis::cmd("UNLINK");
        command.arg(&key);
        match servers
            .send_idempotent(&key, &Request::Command(&command))
            .await?
        {
            Value::Int(0) => Ok(Deleted::Missing),
            Value::Int(_) => Ok(Deleted::Done),
            _ => Err(unexpected_reply("UNLINK")),
        }
    }

    async fn acquire(
        &self,
        key: &Handle,
        owner: Owner,
        lease: Duration,
    ) -> Result<Leased, StoreError> {
        let (inner, key) = (&self.inner, self.lease_key(key));
        lease::acquire(&inner.servers, &inner.cas, &key, owner, lease).await
    }

    async fn release(&self, key: &Handle, owner: Owner) -> Result<(), StoreError> {
        let (inner, key) = (&self.inner, self.lease_key(key));
        lease::release(&inner.servers, &inner.cas, &key, owner).await
    }

    async fn enter(
        &self,
        index: &IndexKey,
        entry: Entry,
        admission: Admission,
    ) -> Result<Entered, StoreError> {
        let (indexes, server) = self.indexes();
        indexes.enter(server, index, entry, admission).await
    }

    async fn confirm(
        &self,
        index: &IndexKey,
        handle: &Handle,
        entered_in: Generation,
    ) -> Result<Confirmed, StoreError> {
        let (indexes, server) = self.indexes();
        indexes.confirm(server, index, *handle, entered_in).await
    }

    async fn extend(&self, index: &IndexKey, entry: Entry) -> Result<(), StoreError> {
        let (indexes, server) = self.indexes();
        indexes.extend(server, index, entry).await
    }

    async fn list(&self, index: &IndexKey) -> Result<Indexed, StoreError> {
        let (indexes, server) = self.indexes();
        indexes.list(server, index).await
    }

    async fn begin_generation(
        &self,
        index: &IndexKey,
        at: SystemTime,
    ) -> Result<Generation, StoreError> {
        let (indexes, server) = self.indexes();
        indexes.begin_generation(server, index, at).await
    }

    async fn leave(&self, index: &IndexKey, entries: &[Entry]) -> Result<(), StoreError> {
        let (indexes, server) = self.indexes();
        indexes.leave(server, index, entries).await
    }
}

/// The replicas that must acknowledge a write, if any.
fn wanted(durability: Durability) -> Option<Wanted> {
    match durability {
        Durability::Primary => None,
        Durability::Replicas { n, timeout } => Some(Wanted { n, timeout }),
    }
}
