//! A connection that one request has to itself: what WATCH watches and MULTI queues belongs to a connection, not to a
//! request, so on a shared one the changes of others would go unseen.

use bb8_redis::bb8::PooledConnection;
use redis::{Pipeline, Value};

use super::failed::Failed;
use super::odd;
use super::pool::{Connections, Manager, Request};

/// Taken out of the second pool. Dropped at any point, it is closed; only [`give_back`](Self::give_back) keeps it.
pub(super) struct Exclusive<'a> {
    connections: &'a Connections,
    guard: PooledConnection<'a, Manager>,
}

impl Connections {
    /// A connection that nobody else uses.
    pub(super) async fn exclusive(&self) -> Result<Exclusive<'_>, Failed> {
        let guard = self.check_out(&self.exclusive).await?;
        guard.set_dirty(true);
        Ok(Exclusive {
            connections: self,
            guard,
        })
    }
}

impl Exclusive<'_> {
    /// Sends all commands in one round trip. What the server says no to is among the answers, of which there are as many as
    /// commands.
    pub(super) async fn ask(&mut self, pipeline: &mut Pipeline) -> Result<Vec<Value>, Failed> {
        let request = Request::Pipeline(pipeline.ignore_errors());
        match self.connections.send_on(&mut self.guard, &request).await? {
            Value::Array(answers) if answers.len() == pipeline.len() => Ok(answers),
            _ => Err(odd("a pipeline").into()),
        }
    }

    /// What an error among the answers means.
    pub(super) fn refused(&self, error: redis::ServerError) -> Failed {
        self.connections.refused(error)
    }

    /// For the next one who needs it. Nothing may be watched, queued or unanswered.
    pub(super) fn give_back(self) {
        self.guard.set_dirty(false);
    }
}
