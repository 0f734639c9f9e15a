//! The connection for a compare-and-set: one that requests share, or an exclusive one.

use redis::{ServerError, Value};

use crate::store::redis::error::RequestError;
use crate::store::redis::exclusive::Exclusive;
use crate::store::redis::request::Request;
use crate::store::redis::servers::Servers;

pub(crate) struct Channel<'a> {
    servers: &'a Servers,
    key: &'a str,
    /// The caller has more to send on the same connection.
    exclusive: Option<&'a mut Exclusive>,
}

impl<'a> Channel<'a> {
    pub(crate) fn shared(servers: &'a Servers, key: &'a str) -> Self {
        Self {
            servers,
            key,
            exclusive: None,
        }
    }

    pub(crate) fn exclusive(
        servers: &'a Servers,
        key: &'a str,
        connection: &'a mut Exclusive,
    ) -> Self {
        Self {
            servers,
            key,
            exclusive: Some(connection),
        }
    }

    pub(crate) fn key(&self) -> &'a str {
        self.key
    }

    pub(crate) fn servers(&self) -> &'a Servers {
        self.servers
    }

    pub(crate) async fn send(&mut self, request: &Request<'_>) -> Result<Value, RequestError> {
        match &mut self.exclusive {
            Some(connection) => connection.send(request).await,
            None => self.servers.send(self.key, request).await,
        }
    }

    /// The error for one reply of a pipeline.
    pub(crate) fn server_error(&self, error: ServerError) -> RequestError {
        match &self.exclusive {
            Some(connection) => connection.server_error(error),
            None => self.servers.server_error(error),
        }
    }
}
