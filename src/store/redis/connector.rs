//! Opens connections to the server that the settings name, or that the sentinels name as the primary.

use std::time::Duration;

use redis::{AsyncConnectionConfig, ConnectionInfo, RedisError};

use crate::store::redis::credentials::Credentials;
use crate::store::redis::link::Link;
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

    /// Whether another server may take the place of the present one.
    pub(crate) fn follows_failovers(&self) -> bool {
        matches!(self.to, Target::Sentinels(_))
    }

    /// Opens a socket and logs in with these credentials, if any, instead of those of the URL. With sentinels, `limit` bounds
    /// the whole; otherwise the caller does.
    pub(crate) async fn open(
        &self,
        credentials: Option<&Credentials>,
        limit: Duration,
    ) -> Result<Link, RedisError> {
        match &self.to {
            Target::Server(info) => Link::open((**info).clone(), &self.config, credentials).await,
            Target::Sentinels(sentinels) => sentinels.open(&self.config, limit, credentials).await,
        }
    }
}
