//! What a connection is made of, and what is sent over it.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, Cmd, RedisError, Value};

use super::RedisConfig;
#[cfg(feature = "cluster")]
use super::cluster::{self, Cluster};
use super::place::Place;
use super::sentinel::Sentinels;

/// How many requests may wait for a slot in one connection's queue.
const QUEUE: usize = 1024;

/// What is sent in one go.
pub(super) enum Request<'a> {
    Command(&'a Cmd),
    /// On a cluster its commands are sent one by one, all at once, each to where its key is.
    Pipeline(&'a redis::Pipeline),
    /// A command about a part of the keys.
    #[cfg_attr(
        not(feature = "cluster"),
        allow(dead_code, reason = "without clusters there is one part only")
    )]
    On(Shard, &'a Cmd),
}

/// A part of the keys that is on a server of its own: everything, or what is with this slot of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shard(pub(super) Option<u16>);

/// Opens connections.
pub(super) struct Source {
    to: To,
    config: AsyncConnectionConfig,
    limit: Duration,
}

enum To {
    Server(Box<Client>),
    Sentinels(Box<Sentinels>),
    #[cfg(feature = "cluster")]
    Cluster(Box<redis::cluster::ClusterClient>),
}

impl Source {
    pub(super) fn new(place: Place, config: &RedisConfig) -> Result<Self, RedisError> {
        let to = match place {
            Place::Server(info) => To::Server(Box::new(Client::open(*info)?)),
            Place::Sentinels(sentinels) => To::Sentinels(sentinels),
            #[cfg(feature = "cluster")]
            Place::Cluster(nodes) => To::Cluster(Box::new(cluster::client(nodes, config)?)),
        };
        let limit = config.connection_timeout;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limit))
            // One timer around the whole command serves better than one more inside of it.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        Ok(Self { to, config, limit })
    }

    pub(super) async fn open(&self) -> Result<Wire, RedisError> {
        let socket = match &self.to {
            To::Server(client) => {
                client
                    .get_multiplexed_async_connection_with_config(&self.config)
                    .await?
            }
            To::Sentinels(sentinels) => sentinels.open(&self.config, self.limit).await?,
            #[cfg(feature = "cluster")]
            To::Cluster(client) => return Cluster::open(client).await.map(Wire::Cluster),
        };
        Ok(Wire::Socket(socket))
    }
}

/// One socket, or those of a cluster.
#[derive(Clone)]
pub(super) enum Wire {
    Socket(MultiplexedConnection),
    #[cfg(feature = "cluster")]
    Cluster(Cluster),
}

impl Wire {
    pub(super) async fn ask(&mut self, request: &Request<'_>) -> Result<Value, RedisError> {
        match self {
            Self::Socket(socket) => match request {
                Request::Command(command) | Request::On(_, command) => {
                    socket.req_packed_command(command).await
                }
                Request::Pipeline(pipeline) => pipeline.query_async(socket).await,
            },
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.ask(request).await,
        }
    }

    /// The parts of the keys; together they are all.
    pub(super) async fn shards(&mut self) -> Result<Vec<Shard>, RedisError> {
        match self {
            Self::Socket(_) => Ok(vec![Shard(None)]),
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.shards().await,
        }
    }

    /// Whether it finds lost or demoted servers anew by itself. If so, this is the hint that it may have to.
    pub(super) fn mend(&self) -> bool {
        match self {
            Self::Socket(_) => false,
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => {
                cluster.renew();
                true
            }
        }
    }
}
