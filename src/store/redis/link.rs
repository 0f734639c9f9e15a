//! Opens sockets, and sends requests over them.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, RedisError, Value};

use crate::store::redis::credentials::{Credentials, log_in};
use crate::store::redis::request::Request;
use crate::store::redis::sentinel::Sentinels;

/// How many requests may wait to be written to one socket.
const QUEUE_SIZE: usize = 1024;

/// The server that connections lead to.
#[derive(Clone)]
pub(crate) enum Target {
    Server(Box<ConnectionInfo>),
    /// The server that the sentinels name as the primary.
    Sentinels(Box<Sentinels>),
}

/// Opens connections.
pub(crate) struct Connector {
    to: Target,
    config: AsyncConnectionConfig,
}

impl Connector {
    pub(crate) fn new(to: Target, limit: Duration) -> Self {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limit))
            // The caller times the whole command, so a second timer inside of it would be useless.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE_SIZE);
        Self { to, config }
    }

    /// Opens a socket and logs in with these credentials, if any, instead of those of the URL. With sentinels, `limit` bounds
    /// the whole; otherwise the caller does.
    pub(crate) async fn open(
        &self,
        credentials: Option<&Credentials>,
        limit: Duration,
    ) -> Result<Link, RedisError> {
        let socket = match &self.to {
            Target::Server(info) => {
                Client::open(log_in((**info).clone(), credentials))?
                    .get_multiplexed_async_connection_with_config(&self.config)
                    .await?
            }
            Target::Sentinels(sentinels) => {
                sentinels.open(&self.config, limit, credentials).await?
            }
        };
        Ok(Link(socket))
    }
}

/// One socket.
#[derive(Clone)]
pub(crate) struct Link(MultiplexedConnection);

impl Link {
    pub(crate) async fn send(&mut self, request: &Request<'_>) -> Result<Value, RedisError> {
        match request {
            Request::Command(command) => self.0.send_packed_command(command).await,
            Request::Pipeline(pipeline) => {
                let replies = self.0.send_packed_commands(pipeline, 0, pipeline.len());
                replies.await.map(Value::Array)
            }
        }
    }
}
