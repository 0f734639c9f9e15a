//! What a connection is made of, and what is sent over it.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, RedisError, Value};

use crate::store::redis::credentials::{Credentials, log_in};
use crate::store::redis::request::Request;
use crate::store::redis::sentinel::Sentinels;

/// How many requests may wait for a slot in one connection's queue.
const QUEUE: usize = 1024;

/// Where connections lead.
#[derive(Clone)]
pub(crate) enum To {
    Server(Box<ConnectionInfo>),
    /// Whichever server they call the primary.
    Sentinels(Box<Sentinels>),
}

/// Opens connections.
pub(crate) struct Source {
    to: To,
    config: AsyncConnectionConfig,
}

impl Source {
    pub(crate) fn new(to: To, limit: Duration) -> Self {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limit))
            // One timer around the whole command serves better than one more inside of it.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        Self { to, config }
    }

    /// Logs in with these credentials, if any, instead of those of the URL.
    /// `limit` is for all of it.
    pub(crate) async fn open(
        &self,
        credentials: Option<&Credentials>,
        limit: Duration,
    ) -> Result<Link, RedisError> {
        let socket = match &self.to {
            To::Server(info) => {
                Client::open(log_in((**info).clone(), credentials))?
                    .get_multiplexed_async_connection_with_config(&self.config)
                    .await?
            }
            To::Sentinels(sentinels) => sentinels.open(&self.config, limit, credentials).await?,
        };
        Ok(Link(socket))
    }
}

/// One socket.
#[derive(Clone)]
pub(crate) struct Link(MultiplexedConnection);

impl Link {
    pub(crate) async fn ask(&mut self, request: &Request<'_>) -> Result<Value, RedisError> {
        match request {
            Request::Command(command) => self.0.req_packed_command(command).await,
            Request::Pipeline(pipeline) => pipeline.query_async(&mut self.0).await,
        }
    }
}
