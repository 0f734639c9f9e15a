//! Which nodes a cluster has, and which of them has which slot.

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
use crate::store::redis::config::RedisConfig;
use crate::store::redis::connections::Connections;
use crate::store::redis::error::RequestError;
use crate::store::redis::link::To;
use crate::store::redis::login::Login;
use crate::store::redis::manager::{Clock, Manager};
use crate::store::redis::request::Request;
use crate::store::redis::router::slots::{Address, Map, Range, key_in, ranges, slot_of};
use crate::store::redis::throttle::Throttle;
use crate::store::stats::PoolStats;

/// Requests share this many connections to each node at most; more help nobody.
pub(crate) const MAX_SIZE: u32 = 2;

/// How far apart the cluster is asked where the slots are.
const APART: Duration = Duration::from_millis(250);

/// How many nodes are asked at once. The first answer counts.
const ASKED: usize = 3;

/// Between two looks for the first answer.
const AGAIN: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub(crate) struct Router {
    inner: Arc<Inner>,
}

struct Inner {
    seeds: Vec<ConnectionInfo>,
    address: Arc<str>,
    /// Those of one node.
    config: RedisConfig,
    login: Option<Arc<Login>>,
    clock: Arc<Clock>,
    map: RwLock<Map<Arc<Node>>>,
    /// Why the cluster did not say where the slots are, when it was last asked.
    failure: RwLock<Option<StoreError>>,
    due: Throttle,
    /// Whether it is being asked.
    asking: AtomicBool,
    /// Grows with each answer, or each failure to get one.
    answers: watch::Sender<u64>,
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
                pool_size: config.pool_size.min(MAX_SIZE),
                ..config.clone()
            },
            login,
            clock: Arc::default(),
            map: RwLock::default(),
            failure: RwLock::default(),
            due: Throttle::default(),
            asking: AtomicBool::new(false),
            answers: watch::Sender::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.inner.clock.now()
    }

    pub(crate) fn command_timeout(&self) -> Duration {
        self.inner.config.command_timeout
    }

    /// Waits for the first connection to one of the primaries, and returns a slot of it.
    pub(crate) async fn ready(&self) -> Result<u16, RequestError> {
        let deadline = Instant::now() + self.inner.config.connection_timeout;
        while self.map().is_empty() && Instant::now() < deadline {
            self.refresh_topology().await;
            tokio::time::sleep(AGAIN).await;
        }
        let ready: Vec<_> = self
            .owners()
            .into_iter()
            .map(|(slot, node)| {
                async move { node.connections.ready().await.map(|()| slot) }.boxed()
            })
            .collect();
        if ready.is_empty() {
            return Err(self.nobody());
        }
        select_ok(ready).await.map(|(slot, _)| slot)
    }

    /// All that have slots.
    pub(crate) async fn primaries(&self) -> Result<Vec<Arc<Connections>>, RequestError> {
        if self.map().is_empty() {
            self.refresh_topology().await;
        }
        let owners = self.owners();
        if owners.is_empty() {
            return Err(self.nobody());
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

    pub(crate) fn refused(&self, error: ServerError) -> RequestError {
        RequestError::of(&self.inner.address, error.into())
    }

    /// The node that has a slot; any if that is not known, as it will know more.
    pub(crate) fn owner(&self, slot: u16) -> Option<Arc<Node>> {
        let map = self.map();
        map.owner(slot).or_else(|| map.primaries().next()).cloned()
    }

    /// The node at an address, which may be new.
    pub(crate) fn at(&self, address: &Address) -> Option<Arc<Node>> {
        let mut map = self.map_mut();
        map.at_or(address, || self.open(address)).cloned()
    }

    pub(crate) fn move_to(&self, slot: u16, address: &Address) {
        let mut map = self.map_mut();
        map.move_to(slot, address, || self.open(address));
    }

    /// Asks the cluster where the slots are, and waits for the answer; or for that to a question under way, if the last was
    /// not long ago.
    pub(crate) async fn refresh_topology(&self) {
        let mut answers = self.inner.answers.subscribe();
        self.refresh_topology_soon();
        if self.inner.asking.load(Ordering::Acquire) {
            drop(tokio::time::timeout(self.command_timeout(), answers.changed()).await);
        }
    }

    /// The same without waiting.
    pub(crate) fn refresh_topology_soon(&self) {
        let inner = &self.inner;
        if inner.due.admits(APART) && !inner.asking.swap(true, Ordering::AcqRel) {
            let asking = Asking(self.clone());
            tokio::spawn(async move { asking.0.ask().await });
        }
    }

    /// Whether nothing is known of the cluster, and the last question has not helped.
    pub(crate) fn is_lost(&self) -> bool {
        let failure = self
            .inner
            .failure
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        failure.is_some() && self.map().is_empty()
    }

    async fn ask(&self) {
        let inner = &self.inner;
        let ranges = match self.ask_primaries().await {
            Some(ranges) => Ok(ranges),
            None => ask_seeds(&inner.seeds, &inner.config, inner.login.as_ref()).await,
        };
        let failure = match ranges {
            Ok(ranges) => {
                self.map_mut()
                    .replace(&ranges, |address| self.open(address));
                None
            }
            Err(error) => {
                let message = "the cluster did not say where its slots are";
                let error = StoreError::unavailable(message).with_source(error);
                tracing::debug!(target: "sessile", %error, "could not reach the cluster");
                Some(error)
            }
        };
        *inner
            .failure
            .write()
            .unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// Some of those that are known, so that one which has lost touch with the others is not always believed.
    async fn ask_primaries(&self) -> Option<Vec<Range>> {
        let some = {
            let map = self.map();
            let sound = map
                .primaries()
                .filter(|node| !node.connections.is_breaker_open());
            sound.cloned().sample(&mut rand::rng(), ASKED)
        };
        let question = where_slots_are();
        let answers = some.into_iter().map(|node| {
            let question = &question;
            async move {
                let request = Request::Command(question);
                let answer = node.connections.send(&request).await.map_err(drop)?;
                complete(ranges(answer, &node.host)).ok_or(())
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
        // A URL names one host at least.
        let info = at_address(inner.seeds[0].clone(), &address.host, address.port);
        let manager = Manager::new(
            To::Server(Box::new(info)),
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

    pub(crate) fn nobody(&self) -> RequestError {
        let failure = self
            .inner
            .failure
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let nobody = || StoreError::unavailable("no node of the cluster is known");
        failure.clone().unwrap_or_else(nobody).into()
    }
}

/// Whether one of the nodes that were named says where the slots are.
pub(crate) async fn try_seeds(
    seeds: &[ConnectionInfo],
    config: &RedisConfig,
    login: Option<&Arc<Login>>,
) -> Result<(), RedisError> {
    ask_seeds(seeds, config, login).await.map(drop)
}

/// A question under way. However it ends, whoever waits for the answer goes on.
struct Asking(Router);

impl Drop for Asking {
    fn drop(&mut self) {
        let inner = &self.0.inner;
        inner.asking.store(false, Ordering::Release);
        inner.answers.send_modify(|answers| *answers += 1);
    }
}

/// Asks all nodes that were named, and takes the first answer.
async fn ask_seeds(
    seeds: &[ConnectionInfo],
    config: &RedisConfig,
    login: Option<&Arc<Login>>,
) -> Result<Vec<Range>, RedisError> {
    let answers = seeds.iter().map(|seed| {
        let answer = tokio::time::timeout(config.connection_timeout, ask_seed(seed, config, login));
        async {
            let late = || Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
            answer.await.unwrap_or_else(|_| late())
        }
        .boxed()
    });
    // All of them, for the one whose failure tells most.
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
    let first_definite = failures
        .iter()
        .position(|error: &RedisError| !error.is_timeout());
    Err(failures.swap_remove(first_definite.unwrap_or_default()))
}

async fn ask_seed(
    seed: &ConnectionInfo,
    config: &RedisConfig,
    login: Option<&Arc<Login>>,
) -> Result<Vec<Range>, RedisError> {
    let to = To::Server(Box::new(seed.clone()));
    let manager = Manager::new(to, config, Arc::default()).with_login(login.cloned());
    let mut connection = manager.connect().await?;
    let question = where_slots_are();
    let answer = connection.ask(&Request::Command(&question)).await?;
    let host = match seed.addr() {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
        _ => "",
    };
    complete(ranges(answer.extract_error()?, host)).ok_or_else(|| {
        let message = "this node knows no primary with slots: see `CLUSTER INFO`";
        std::io::Error::other(message).into()
    })
}

/// An answer without any slots tells nothing.
fn complete(ranges: Vec<Range>) -> Option<Vec<Range>> {
    (!ranges.is_empty()).then_some(ranges)
}

fn where_slots_are() -> Cmd {
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    command
}

/// A key with this prefix in the slot of the other one.
pub(crate) fn beside(key: &str, prefix: &str) -> String {
    key_in(slot_of(key), prefix)
}
