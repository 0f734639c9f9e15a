//! The way back to a server that is left alone.

use std::sync::Arc;

use crate::store::redis::breaker::waits;
use crate::store::redis::pool::{Connections, Request};

/// Looks for a server that is left alone to come back. If it goes before that, as with its runtime, the breaker closes: nobody
/// else would.
pub(crate) struct Prober {
    connections: Connections,
    opening: u64,
}

impl Prober {
    pub(crate) fn new(connections: Connections, opening: u64) -> Self {
        Self {
            connections,
            opening,
        }
    }

    pub(crate) async fn probe(self) {
        let connections = &self.connections;
        let key = connections.probe();
        for wait in waits() {
            tokio::time::sleep(wait).await;
            // Or else the store is gone, or somebody who asked for its health has had an answer.
            let is_wanted = Arc::strong_count(&connections.breaker) > 1;
            if !is_wanted || !connections.breaker.is_still_open(self.opening) {
                return;
            }
            drop(connections.send_anyway(&Request::Command(&key)).await);
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        if self.connections.breaker.is_still_open(self.opening) {
            self.connections.breaker.close();
        }
    }
}
