//! Where a compare-and-set is sent: over whichever connection is next, or over one of its own.

use redis::Value;

use super::exclusive::Exclusive;
use super::failed::Failed;
use super::pool::{Connections, Request};

pub(super) enum Lane<'a, 'c> {
    Shared(&'a Connections),
    /// Whoever comes with it has more to ask on the same connection.
    Own(&'a mut Exclusive<'c>),
}

impl Lane<'_, '_> {
    pub(super) async fn send(&mut self, request: &Request<'_>) -> Result<Value, Failed> {
        match self {
            Self::Shared(connections) => connections.send(request).await,
            Self::Own(connection) => connection.send(request).await,
        }
    }

    pub(super) fn connections(&self) -> &Connections {
        match self {
            Self::Shared(connections) => connections,
            Self::Own(connection) => connection.connections(),
        }
    }
}
