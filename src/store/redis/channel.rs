//! Where a compare-and-set is sent: over whichever connection is next, or over one of its own.

use redis::{ServerError, Value};

use crate::store::redis::error::Failed;
use crate::store::redis::exclusive::Exclusive;
use crate::store::redis::request::Request;
use crate::store::redis::servers::Servers;

pub(crate) struct Lane<'a> {
    servers: &'a Servers,
    key: &'a str,
    /// Whoever comes with it has more to ask on the same connection.
    own: Option<&'a mut Exclusive>,
}

impl<'a> Lane<'a> {
    pub(crate) fn shared(servers: &'a Servers, key: &'a str) -> Self {
        Self {
            servers,
            key,
            own: None,
        }
    }

    pub(crate) fn own(servers: &'a Servers, key: &'a str, connection: &'a mut Exclusive) -> Self {
        Self {
            servers,
            key,
            own: Some(connection),
        }
    }

    pub(crate) fn key(&self) -> &'a str {
        self.key
    }

    pub(crate) fn servers(&self) -> &'a Servers {
        self.servers
    }

    pub(crate) async fn send(&mut self, request: &Request<'_>) -> Result<Value, Failed> {
        match &mut self.own {
            Some(connection) => connection.send(request).await,
            None => self.servers.send(self.key, request).await,
        }
    }

    /// What an error among the answers means.
    pub(crate) fn refused(&self, error: ServerError) -> Failed {
        match &self.own {
            Some(connection) => connection.refused(error),
            None => self.servers.refused(error),
        }
    }
}
