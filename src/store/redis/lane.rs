//! Where a compare-and-set is sent: over whichever connection is next, or over one of its own.

use redis::{ServerError, Value};

use super::exclusive::Exclusive;
use super::failed::Failed;
use super::pool::Request;
use super::servers::Servers;

pub(super) struct Lane<'a> {
    servers: &'a Servers,
    key: &'a str,
    /// Whoever comes with it has more to ask on the same connection.
    own: Option<&'a mut Exclusive>,
}

impl<'a> Lane<'a> {
    pub(super) fn shared(servers: &'a Servers, key: &'a str) -> Self {
        Self {
            servers,
            key,
            own: None,
        }
    }

    pub(super) fn own(servers: &'a Servers, key: &'a str, connection: &'a mut Exclusive) -> Self {
        Self {
            servers,
            key,
            own: Some(connection),
        }
    }

    pub(super) fn key(&self) -> &'a str {
        self.key
    }

    pub(super) fn servers(&self) -> &'a Servers {
        self.servers
    }

    pub(super) async fn send(&mut self, request: &Request<'_>) -> Result<Value, Failed> {
        match &mut self.own {
            Some(connection) => connection.send(request).await,
            None => self.servers.send(self.key, request).await,
        }
    }

    /// What an error among the answers means.
    pub(super) fn refused(&self, error: ServerError) -> Failed {
        match &self.own {
            Some(connection) => connection.refused(error),
            None => self.servers.refused(error),
        }
    }
}
