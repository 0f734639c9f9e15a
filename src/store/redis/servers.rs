//! Whom a request goes to: the one server, or that node of a cluster which has its key.

#![cfg_attr(
    not(feature = "cluster"),
    allow(unused_variables, reason = "one server has every key")
)]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bb8_redis::bb8::ManageConnection as _;
use futures_util::future::join_all;
use redis::{RedisError, ServerError, Value};

use crate::store::redis::config::RedisConfig;
use crate::store::redis::connections::Connections;
use crate::store::redis::endpoint::Endpoint;
use crate::store::redis::error::RequestError;
use crate::store::redis::exclusive::Exclusive;
use crate::store::redis::link::To;
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
            Endpoint::Server(info) => To::Server(info),
            Endpoint::Sentinels(sentinels) => To::Sentinels(sentinels),
            #[cfg(feature = "cluster")]
            Endpoint::Cluster(seeds) => {
                return Self::Cluster(Router::new(seeds, address, config, login));
            }
        };
        let manager = Manager::new(to, config, Arc::default()).with_login(login);
        Self::One(Arc::new(Connections::new(manager, address, config)))
    }

    /// Connects once, to see whether it works.
    pub(crate) async fn try_out(
        endpoint: Endpoint,
        config: &RedisConfig,
        login: Option<Arc<Login>>,
    ) -> Result<(), RedisError> {
        let to = match endpoint {
            Endpoint::Server(info) => To::Server(info),
            Endpoint::Sentinels(sentinels) => To::Sentinels(sentinels),
            #[cfg(feature = "cluster")]
            Endpoint::Cluster(seeds) => {
                return topology::try_seeds(&seeds, config, login.as_ref()).await;
            }
        };
        let manager = Manager::new(to, config, Arc::default()).with_login(login);
        manager.connect().await.map(drop)
    }

    /// Waits for the first connection, and returns a key that is on its server and begins with the prefix.
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

    /// Sends once to whoever has the key. Server errors inside a pipeline that ignores errors are part of the answer.
    ///
    /// # Cancel safety
    ///
    /// A request whose future is dropped may be sent or not; others on the connection are not disturbed.
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

    /// Sends something that may be sent any number of times.
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

    /// The way to a connection of one's own to whoever has the key.
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

    /// The same, asked anew.
    pub(crate) async fn primaries_now(&self) -> Result<Vec<Arc<Connections>>, RequestError> {
        #[cfg(feature = "cluster")]
        if let Self::Cluster(router) = self {
            router.refresh_topology().await;
        }
        self.primaries().await
    }

    /// Sends to each of them, though its breaker may be open; an answer closes it. The first failure is the whole's, unless there
    /// are others by now. That a node of a cluster does not have the key is an answer.
    pub(crate) async fn ask_all(&self, request: &Request<'_>) -> Result<(), RequestError> {
        let answered = self.ask_each(request).await;
        #[cfg(feature = "cluster")]
        if let (Self::Cluster(router), Err(_)) = (self, &answered) {
            router.refresh_topology().await;
            return self.ask_each(request).await;
        }
        answered
    }

    async fn ask_each(&self, request: &Request<'_>) -> Result<(), RequestError> {
        let primaries = self.primaries().await?;
        let asked =
            primaries
                .iter()
                .map(async |primary| match primary.send_anyway(request).await {
                    Err(failed) if failed.redirection.is_none() => Err(failed),
                    _ => Ok(()),
                });
        join_all(asked).await.into_iter().collect()
    }

    /// Does once what redirections need, with a key that does not exist.
    pub(crate) async fn try_redirections(&self, key: &str) -> Result<(), RequestError> {
        match self {
            Self::One(_) => Ok(()),
            #[cfg(feature = "cluster")]
            Self::Cluster(router) => router.try_asking(key).await,
        }
    }

    pub(crate) fn stats(&self) -> PoolStats {
        match self {
            Self::One(connections) => connections.stats(),
            #[cfg(feature = "cluster")]
            Self::Cluster(router) => router.stats(),
        }
    }

    /// What the server said of one command in a pipeline.
    pub(crate) fn refused(&self, error: ServerError) -> RequestError {
        match self {
            Self::One(connections) => connections.refused(error),
            #[cfg(feature = "cluster")]
            Self::Cluster(router) => router.refused(error),
        }
    }

    pub(crate) fn command_timeout(&self) -> Duration {
        match self {
            Self::One(connections) => connections.command_timeout(),
            #[cfg(feature = "cluster")]
            Self::Cluster(router) => router.command_timeout(),
        }
    }

    /// A key that is on the same server as this one: the prefix, with something behind it on a cluster.
    pub(crate) fn beside(&self, key: &str, prefix: &str) -> String {
        match self {
            Self::One(_) => prefix.to_owned(),
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => topology::beside(key, prefix),
        }
    }
}

/// The way of something that needs a connection to itself: one server, or one after the other while nodes redirect it.
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

    /// Whether what has failed so has changed nothing, and is to be done again where this leads to now.
    pub(crate) async fn goes_on(&mut self, failed: &RequestError) -> bool {
        match self {
            Self::Direct(_) => false,
            #[cfg(feature = "cluster")]
            Self::Routed(route) => route.goes_on(failed).await,
        }
    }
}
