//! Connections that do not answer, though the server may.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bb8_redis::bb8::ManageConnection as _;

use crate::store::redis::pool::{Connection, Connections, Request, SECOND};

impl Connections {
    /// A connection is silent if the server hangs; or else if its other end has gone without a word, as after a failover or
    /// behind a router that has forgotten it, and then most likely all of its generation have. A new one tells which. Once a
    /// second at most, so that a server that hangs is not asked for more and more connections.
    pub(crate) fn compare_with_a_new_one(&self, silent: &Connection) {
        if !self.shared.is_usable(silent) || !self.shared.compared.may_now(SECOND) {
            return;
        }
        let (connections, mut silent) = (self.clone(), silent.clone());
        tokio::spawn(async move {
            if connections.manager.connect().await.is_err() {
                return;
            }
            let mut other = connections.another_than(&silent).await;
            let (silent_still, other_too) =
                tokio::join!(connections.is_silent(&mut silent), async {
                    match &mut other {
                        Some(other) => connections.is_silent(other).await,
                        None => true,
                    }
                });
            if silent_still && other_too {
                tracing::warn!(target: "sessile", address = &*connections.address, "connections to Redis are silent and a new one is not: all are replaced");
                connections.give_up(silent.health.generation);
            } else if silent_still {
                silent.health.broken.store(true, Ordering::Release);
            }
        });
    }

    async fn is_silent(&self, connection: &mut Connection) -> bool {
        let key = self.probe();
        let request = Request::Command(&key);
        let answer = connection.wire.ask(&request);
        let answer = tokio::time::timeout(self.command_timeout, answer).await;
        answer.is_err()
    }

    /// Another of the connections that requests share.
    async fn another_than(&self, one: &Connection) -> Option<Connection> {
        for _ in 0..self.size {
            let next = Connection::clone(&*self.wait_for(&self.pool).await.ok()?);
            if !Arc::ptr_eq(&next.health, &one.health) {
                return Some(next);
            }
        }
        None
    }
}
