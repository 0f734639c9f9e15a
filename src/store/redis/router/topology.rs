//! The topology of a cluster: which nodes there are, which slots they have, and how to refresh that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use bb8_redis::bb8::ManageConnection as _;
use futures_util::FutureExt as _;
use futures_util::future::{select_all, select_ok};
use rand::seq::IteratorRandom as _;
use redis::{Cmd, ConnectionAddr, ConnectionInfo, RedisError, ServerError};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::store::StoreError;
use crate::store::redis::address::at_address;
use crate::store::redis::clock::{BETWEEN_SERVERS, Clock};
use crate::store::redis::config::RedisConfig;
use crate::store::redis::connections::Connections;
use crate::store::redis::connector::Target;
use crate::store::redis::error::RequestError;
use crate::store::redis::login::Login;
use crate::store::redis::manager::Manager;
use crate::store::redis::request::Request;
use crate::store::redis::router::slots::{Address, Map, Range, key_in, ranges, slot_of};
use crate::store::redis::throttle::Throttle;
use crate::store::stats::PoolStats;

/// The maximum of shared connections to each node; more bring no gain.
pub(crate) const MAX_POOL_SIZE: u32 = 2;

/// The minimum interval between two refreshes of the topology.
const REFRESH_INTERVAL: Duration = Duration::from_millis(250);

/// How many primaries a refresh asks at once. The first reply wins.
const MAX_ASKED: usize = 3;

/// The interval between two checks for the first topology.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub(crate) struct Router {
    inner: Arc<Inner>,
}

struct Inner {
    seeds: Vec<ConnectionInfo>,
    address: Arc<str>,
    /// The settings for one node.
    config: RedisConfig,
    login: Option<Arc<Login>>,
    clock: Arc<Clock>,
    map: RwLock<Map<Arc<Node>>>,
    /// Why the last refresh failed; `None` if it succeeded.
    failure: RwLock<Option<StoreError>>,
    throttle: Throttle,
    /// Whether a refresh is under way.
    refreshing: AtomicBool,
    /// The number of finished refreshes, successful or not.
    refreshes: watch::Sender<u64>,
}

/// A primary.
pub(crate) struct Node {
    pub(crate) host: String,
    pub(crate) connections: Arc<Connections>,
}

impl Router {
    pub(crate) fn new(
        seeds: Vec<ConnectionInfo>,
        address: Arc<str>,
        config: &RedisConfig,
        login: Option<Arc<Login>>,
    ) -> Self {
        let inner = Inner {
            seeds,
            address,
            config: RedisConfig {
                pool_size: config.pool_size.min(MAX_POOL_SIZE),
                ..config.clone()
            },
            login,
            clock: Arc::default(),
            map: RwLock::default(),
            failure: RwLock::default(),
            throttle: Throttle::default(),
            refreshing: AtomicBool::new(false),
            refreshes: watch::Sender::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.inner.clock.now()
    }

    /// How far the time may be from that of another node's clock.
    pub(crate) fn clock_error(&self) -> Option<Duration> {
        Some(self.inner.clock.error()? + BETWEEN_SERVERS)
    }

    /// When the last connection to any node was opened.
    pub(crate) fn connected(&self) -> Option<Instant> {
        self.inner.clock.connected()
    }

    pub(crate) fn command_timeout(&self) -> Duration {
        self.inner.config.command_timeout
    }

    /// Waits for the first connection to one of the primaries, and returns one of its slots.
    pub(crate) async fn ready(&self) -> Result<u16, RequestError> {
        let deadline = Instant::now() + self.inner.config.connection_timeout;
        while self.map().is_empty() && Instant::now() < deadline {
            self.refresh_topology().await;
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let ready: Vec<_> = self
            .owners()
            .into_iter()
            .map(|(slot, node)| {
                async move { node.connections.ready().await.map(|()| slot) }.boxed()
            })
            .collect();
        if ready.is_empty() {
            return Err(self.no_primary());
        }
        select_ok(ready).await.map(|(slot, _)| slot)
    }

    /// All primaries that have slots.
    pub(crate) async fn primaries(&self) -> Result<Vec<Arc<Connections>>, RequestError> {
        if self.map().is_empty() {
            self.refresh_topology().await;
        }
        let owners = self.owners();
        if owners.is_empty() {
            return Err(self.no_primary());
        }
        let connections = owners
            .into_iter()
            .map(|(_, node)| Arc::clone(&node.connections));
        Ok(connections.collect())
    }

    fn owners(&self) -> Vec<(u16, Arc<Node>)> {
        let map = self.map();
        let owners = map.owners();
        owners
            .map(|(slot, node)| (slot, Arc::clone(node)))
            .collect()
    }

    pub(crate) fn stats(&self) -> PoolStats {
        let map = self.map();
        let nodes = map.primaries().map(|node| node.connections.stats());
        nodes.fold(PoolStats::default(), |sum, node| PoolStats {
            size: sum.size + node.size,
            open: sum.open + node.open,
            made: sum.made + node.made,
            broken: sum.broken + node.broken,
            timed_out: sum.timed_out + node.timed_out,
            breaker_open: sum.breaker_open || node.breaker_open,
        })
    }

    pub(crate) fn server_error(&self, error: ServerError) -> RequestError {
        RequestError::from_redis(&self.inner.address, error.into())
    }

    /// The node that has a slot. If that is unknown, any node, which will redirect the request.
    pub(crate) fn owner(&self, slot: u16) -> Option<Arc<Node>> {
        let map = self.map();
        map.owner(slot).or_else(|| map.primaries().next()).cloned()
    }

    /// The node at an address, which may be new.
    pub(crate) fn node_at(&self, address: &Address) -> Option<Arc<Node>> {
        let mut map = self.map_mut();
        map.get_or_open(address, || self.open(address)).cloned()
    }

    pub(crate) fn move_to(&self, slot: u16, address: &Address) {
        let mut map = self.map_mut();
        map.move_to(slot, address, || self.open(address));
    }

    /// Refreshes the topology, and waits for it. If the last refresh began a moment ago, waits for that one, or not at all if
    /// it has finished.
    pub(crate) async fn refresh_topology(&self) {
        let mut refreshes = self.inner.refreshes.subscribe();
        self.refresh_topology_soon();
        if self.inner.refreshing.load(Ordering::Acquire) {
            drop(tokio::time::timeout(self.command_timeout(), refreshes.changed()).await);
        }
    }

    /// Refreshes the topology in the background.
    pub(crate) fn refresh_topology_soon(&self) {
        let inner = &self.inner;
        if inner.throttle.admits(REFRESH_INTERVAL) && !inner.refreshing.swap(true, Ordering::AcqRel)
        {
            let refresh = Refresh(self.clone());
            tokio::spawn(async move { refresh.0.refresh_now().await });
        }
    }

    /// Whether no node is known and the last refresh failed.
    pub(crate) fn is_unreachable(&self) -> bool {
        let failure = self
            .inner
            .failure
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        failure.is_some() && self.map().is_empty()
    }

    async fn refresh_now(&self) {
        let inner = &self.inner;
        let ranges = match self.slots_from_primaries().await {
            Some(ranges) => Ok(ranges),
            None => slots_from_seeds(&inner.seeds, &inner.config, inner.login.as_ref()).await,
        };
        let failure = match ranges {
            Ok(ranges) => {
                self.map_mut()
                    .replace(&ranges, |address| self.open(address));
                None
            }
            Err(error) => {
                let message = "could not get the slots of the cluster";
                let error = StoreError::unavailable(message).with_source(error);
                tracing::debug!(target: "sessile", %error, "could not refresh the topology of the cluster");
                Some(error)
            }
        };
        *inner
            .failure
            .write()
            .unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// Asks a random choice of known primaries, so that one that has lost touch with the others is not always believed.
    async fn slots_from_primaries(&self) -> Option<Vec<Range>> {
        let sample = {
            let map = self.map();
            let healthy = map
                .primaries()
                .filter(|node| !node.connections.is_breaker_open());
            healthy.cloned().sample(&mut rand::rng(), MAX_ASKED)
        };
        let request = cluster_slots();
        let answers = sample.into_iter().map(|node| {
            let request = &request;
            async move {
                let request = Request::Command(request);
                let answer = node.connections.send(&request).await.map_err(drop)?;
                non_empty(ranges(answer, &node.host)).ok_or(())
            }
            .boxed()
        });
        let answers: Vec<_> = answers.collect();
        if answers.is_empty() {
            return None;
        }
        select_ok(answers).await.ok().map(|(ranges, _)| ranges)
    }

    fn open(&self, address: &Address) -> Arc<Node> {
        let inner = &self.inner;
        // A URL contains at least one host.
        let info = at_address(inner.seeds[0].clone(), &address.host, address.port);
        let manager = Manager::new(
            Target::Server(Box::new(info)),
            &inner.config,
            Arc::clone(&inner.clock),
        );
        let manager = manager.with_login(inner.login.clone());
        let shown = address.to_string().into();
        let connections = Connections::new(manager, shown, &inner.config);
        Arc::new(Node {
            host: address.host.clone(),
            connections: Arc::new(connections),
        })
    }

    fn map(&self) -> RwLockReadGuard<'_, Map<Arc<Node>>> {
        self.inner
            .map
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn map_mut(&self) -> RwLockWriteGuard<'_, Map<Arc<Node>>> {
        self.inner
            .map
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn no_primary(&self) -> RequestError {
        let failure = self
            .inner
            .failure
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let unknown = || StoreError::unavailable("no node of the cluster is known");
        failure.clone().unwrap_or_else(unknown).into()
    }
}

/// Checks that one of the nodes in the URL returns the topology.
pub(crate) async fn try_seeds(
    seeds: &[ConnectionInfo],
    config: &RedisConfig,
    login: Option<&Arc<Login>>,
) -> Result<(), RedisError> {
    slots_from_seeds(seeds, config, login).await.map(drop)
}

/// A refresh under way. However it ends, its waiters continue.
struct Refresh(Router);

impl Drop for Refresh {
    fn drop(&mut self) {
        let inner = &self.0.inner;
        inner.refreshing.store(false, Ordering::Release);
        inner.refreshes.send_modify(|refreshes| *refreshes += 1);
    }
}

/// Asks all nodes in the URL, and takes the first reply.
async fn slots_from_seeds(
    seeds: &[ConnectionInfo],
    config: &RedisConfig,
    login: Option<&Arc<Login>>,
) -> Result<Vec<Range>, RedisError> {
    let answers = seeds.iter().map(|seed| {
        let answer = tokio::time::timeout(
            config.connection_timeout,
            slots_from_seed(seed, config, login),
        );
        async {
            let timed_out = || Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
            answer.await.unwrap_or_else(|_| timed_out())
        }
        .boxed()
    });
    // Waits for all of them, to report the most telling failure.
    let mut failures = Vec::new();
    let mut answers = answers.collect::<Vec<_>>();
    while !answers.is_empty() {
        let (answer, _, left) = select_all(answers).await;
        match answer {
            Ok(ranges) => return Ok(ranges),
            Err(error) => failures.push(error),
        }
        answers = left;
    }
    let most_telling = failures
        .iter()
        .position(|error: &RedisError| !error.is_timeout());
    Err(failures.swap_remove(most_telling.unwrap_or_default()))
}

async fn slots_from_seed(
    seed: &ConnectionInfo,
    config: &RedisConfig,
    login: Option<&Arc<Login>>,
) -> Result<Vec<Range>, RedisError> {
    let to = Target::Server(Box::new(seed.clone()));
    let manager = Manager::new(to, config, Arc::default()).with_login(login.cloned());
    let mut connection = manager.connect().await?;
    let request = cluster_slots();
    let answer = connection.send(&Request::Command(&request)).await?;
    let host = match seed.addr() {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
        _ => "",
    };
    non_empty(ranges(answer.extract_error()?, host)).ok_or_else(|| {
        let message = "this node knows of no primary with slots: see `CLUSTER INFO`";
        std::io::Error::other(message).into()
    })
}

/// A reply without any slots says nothing.
fn non_empty(ranges: Vec<Range>) -> Option<Vec<Range>> {
    (!ranges.is_empty()).then_some(ranges)
}

fn cluster_slots() -> Cmd {
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    command
}

/// A key with this prefix in the slot of another key.
pub(crate) fn colocated_key(key: &str, prefix: &str) -> String {
    key_in(slot_of(key), prefix)
}
