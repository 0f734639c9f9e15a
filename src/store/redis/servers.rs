//! Sends each request to the right server: the only one, or the node of a cluster that has its key.

#![cfg_attr(
    not(feature = "cluster"),
    allow(unused_variables, reason = "one server has every key")
)]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bb8_redis::bb8::ManageConnection as _;
use futures_util::future::join_all;
use redis::{RedisError, ServerError, Value};
use tokio::time::Instant;

use crate::store::redis::config::RedisConfig;
use crate::store::redis::connections::Connections;
use crate::store::redis::connector::Target;
use crate::store::redis::endpoint::Endpoint;
use crate::store::redis::error::RequestError;
use crate::store::redis::exclusive::Exclusive;
use crate::store::redis::login::Login;
use crate::store::redis::manager::Manager;
use crate::store::redis::request::Request;
#[cfg(feature = "cluster")]
use crate::store::redis::router::{
    route, slots,
    topology::{self, Router},
};
use crate::store::stats::PoolStats;

/// The servers of a store.
#[derive(Clone)]
pub(crate) enum Servers {
    One(Arc<Connections>),
    #[cfg(feature = "cluster")]
    Cluster(Router),
}

impl Servers {
    /// Connects in the background. Must be called within a tokio runtime.
    pub(crate) fn new(
        endpoint: Endpoint,
        address: Arc<str>,
        config: &RedisConfig,
        login: Option<Arc<Login>>,
    ) -> Self {
        let to = match endpoint {
            Endpoint::Server(info) => Target::Server(info),
            Endpoint::Sentinels(sentinels) => Target::Sentinels(sentinels),
            #[cfg(feature = "cluster")]
            Endpoint::Cluster(seeds) => {
                return Self::Cluster(Router::new(seeds, address, config, login));
            }
        };
        let manager = Manager::new(to, config, Arc::default()).with_login(login);
        Self::One(Arc::new(Connections::new(manager, address, config)))
    }

    /// Connects once, to see whether it works.
    pub(crate) async fn connect_once(
        endpoint: Endpoint,
        config: &RedisConfig,
        login: Option<Arc<Login>>,
    ) -> Result<(), RedisError> {
        let to = match endpoint {
            Endpoint::Server(info) => Target::Server(info),
            Endpoint::Sentinels(sentinels) => Target::Sentinels(sentinels),
            #[cfg(feature = "cluster")]
            Endpoint::Cluster(seeds) => {
                return topology::try_seeds(&seeds, config, login.as_ref()).await;
            }
        };
        let manager = Manager::new(to, config, Arc::default()).with_login(login);
        manager.connect().await.map(drop)
    }

    /// Waits for the first connection, and returns a key that belongs to its server and begins with the prefix.
    pub(crate) async fn ready(&self, prefix: String) -> Result<String, RequestError> {
        match self {
            Self::One(connections) => connections.ready().await.map(|()| prefix),
            #[cfg(feature = "cluster")]
            Self::Cluster(router) => Ok(slots::key_in(router.ready().await?, &prefix)),
        }
    }

    pub(crate) fn now(&self) -> SystemTime {
        match self {
            Self::One(connections) => connections.now(),
            #[cfg(feature = "cluster")]
            Self::Cluster(router) => router.now(),
        }
    }

    /// How far the time may be from that of the server, or of any server of a cluster.
    pub(crate) fn clock_error(&self) -> Option<Duration> {
        match self {
            Self::One(connections) => connections.clock_error(),
            #[cfg(feature = "cluster")]
            Self::Cluster(router) => router.clock_error(),
        }
    }

    /// When the last connection to any server was opened.
    pub(crate) fn connected(&self) -> Option<Instant> {
        match self {
            Self::One(connections) => connections.connected(),
            #[cfg(feature = "cluster")]
            Self::Cluster(router) => router.connected(),
        }
    }

    /// Sends once to the server that has the key. Server errors inside a pipeline that ignores errors are part of the reply.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the request may be sent or not; others on the connection are not affected.
    pub(crate) async fn send(
        &self,
        key: &str,
        request: &Request<'_>,
    ) -> Result<Value, RequestError> {
        match self {
            Self::One(connections) => connections.send(request).await,
            #[cfg(feature = "cluster")]
            Self::Cluster(router) => router.send(key, request).await,
        }
    }

    /// Sends an idempotent request, again if the connection is dead or silent.
    pub(crate) async fn send_idempotent(
        &self,
        key: &str,
        request: &Request<'_>,
    ) -> Result<Value, RequestError> {
        match self {
            Self::One(connections) => connections.send_idempotent(request).await,
            #[cfg(feature = "cluster")]
            Self::Cluster(router) => router.send_idempotent(key, request).await,
        }
    }

    /// The route to an exclusive connection to the server that has the key.
    pub(crate) fn route<'a>(&'a self, key: &str) -> Route<'a> {
        match self {
            Self::One(connections) => Route::Direct(connections),
            #[cfg(feature = "cluster")]
            Self::Cluster(router) => Route::Routed(router.route(key)),
        }
    }

    /// All servers that have sessions.
    pub(crate) async fn primaries(&self) -> Result<Vec<Arc<Connections>>, RequestError> {
        match self {
            Self::One(connections) => Ok(vec![Arc::clone(connections)]),
            #[cfg(feature = "cluster")]
            Self::Cluster(router) => router.primaries().await,
        }
    }

    /// Like [`primaries`](Self::primaries), after a refresh of the topology.
    pub(crate) async fn refreshed_primaries(&self) -> Result<Vec<Arc<Connections>>, RequestError> {
        #[cfg(feature = "cluster")]
        if let Self::Cluster(router) = self {
            router.refresh_topology().await;
        }
        self.primaries().await
    }

    /// Sends to each primary, even if its breaker is open; a reply closes it. Returns the first failure; on a cluster only
    /// after a refresh of the topology and a second attempt. A redirection counts as a reply.
    pub(crate) async fn send_to_all(&self, request: &Request<'_>) -> Result<(), RequestError> {
        let answered = self.send_to_each(request).await;
        #[cfg(feature = "cluster")]
        if let (Self::Cluster(router), Err(_)) = (self, &answered) {
            router.refresh_topology().await;
            return self.send_to_each(request).await;
        }
        answered
    }

    async fn send_to_each(&self, request: &Request<'_>) -> Result<(), RequestError> {
        let primaries = self.primaries().await?;
        let sends = primaries.iter().map(async |primary| {
            match primary.send_despite_breaker(request).await {
                Err(failed) if failed.redirection.is_none() => Err(failed),
                _ => Ok(()),
            }
        });
        join_all(sends).await.into_iter().collect()
    }

    /// Sends the command that following redirections needs, with a key that does not exist.
    pub(crate) async fn probe_asking(&self, key: &str) -> Result<(), RequestError> {
        match self {
            Self::One(_) => Ok(()),
            #[cfg(feature = "cluster")]
            Self::Cluster(router) => router.probe_asking(key).await,
        }
    }

    pub(crate) fn stats(&self) -> PoolStats {
        match self {
            Self::One(connections) => connections.stats(),
            #[cfg(feature = "cluster")]
            Self::Cluster(router) => router.stats(),
        }
    }

    /// The error for one reply of a pipeline.
    pub(crate) fn server_error(&self, error: ServerError) -> RequestError {
        match self {
            Self::One(connections) => connections.server_error(error),
            #[cfg(feature = "cluster")]
            Self::Cluster(router) => router.server_error(error),
        }
    }

    pub(crate) fn command_timeout(&self) -> Duration {
        match self {
            Self::One(connections) => connections.command_timeout(),
            #[cfg(feature = "cluster")]
            Self::Cluster(router) => router.command_timeout(),
        }
    }

    /// A key on the same server as `key`: the prefix, with a number behind it on a cluster.
    pub(crate) fn colocated_key(&self, key: &str, prefix: &str) -> String {
        match self {
            Self::One(_) => prefix.to_owned(),
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => topology::colocated_key(key, prefix),
        }
    }
}

/// The route of an operation that needs an exclusive connection: to one server, or from node to node as they redirect it.
pub(crate) enum Route<'a> {
    Direct(&'a Connections),
    #[cfg(feature = "cluster")]
    Routed(route::Route<'a>),
}

impl Route<'_> {
    pub(crate) async fn exclusive(&mut self) -> Result<Exclusive, RequestError> {
        match self {
            Self::Direct(connections) => connections.exclusive().await,
            #[cfg(feature = "cluster")]
            Self::Routed(route) => route.exclusive().await,
        }
    }

    /// Whether the failed operation has changed nothing and must be tried again on this route, which now leads to the right
    /// server.
    pub(crate) async fn prepare_retry(&mut self, failed: &RequestError) -> bool {
        match self {
            Self::Direct(_) => false,
            #[cfg(feature = "cluster")]
            Self::Routed(route) => route.prepare_retry(failed).await,
        }
    }
}
