//! A connection for one request alone: WATCH, MULTI and WAIT apply to a connection, not to a request, so on a shared one they
//! would also apply to the commands of other requests.

use std::time::Duration;

use redis::{Cmd, Pipeline, Value};
use tokio::sync::OwnedMutexGuard;

use crate::metrics::gauge::Present;
use crate::store::redis::connections::Connections;
use crate::store::redis::error::RequestError;
use crate::store::redis::pool::Guard;
use crate::store::redis::reply::unexpected_reply;
use crate::store::redis::request::Request;
#[cfg(feature = "cluster")]
use crate::store::redis::router::asking::with_asking;

/// A connection of the second pool. If it is dropped, it is closed; only [`return_to_pool`](Self::return_to_pool) keeps it.
pub(crate) struct Exclusive {
    connections: Connections,
    guard: Guard,
    /// Without this lock, AUTH could be sent in between, and MULTI would queue it as a command of the transaction.
    _auth_lock: OwnedMutexGuard<()>,
    /// Set if the slot is migrating to this node of a cluster.
    #[cfg(feature = "cluster")]
    asking: Option<Asking>,
    _counted: Present,
}

#[cfg(feature = "cluster")]
struct Asking {
    in_transaction: bool,
}

impl Connections {
    /// A connection that no other request uses.
    pub(crate) async fn exclusive(&self) -> Result<Exclusive, RequestError> {
        self.admit()?;
        let (guard, auth_lock) = loop {
            let guard = self.check_out_exclusive().await?;
            let auth_lock = guard.lock_auth().await;
            // It may have broken during an AUTH.
            if self.is_usable(&guard) {
                break (guard, auth_lock);
            }
        };
        guard.set_dirty(true);
        Ok(Exclusive {
            connections: self.clone(),
            guard,
            _auth_lock: auth_lock,
            #[cfg(feature = "cluster")]
            asking: None,
            _counted: self.metrics().exclusive(),
        })
    }
}

impl Exclusive {
    /// For a slot that is migrating to this server.
    #[cfg(feature = "cluster")]
    pub(crate) fn asking(self) -> Self {
        Self {
            asking: Some(Asking {
                in_transaction: false,
            }),
            ..self
        }
    }

    /// Sends all commands in one round trip. Returns one reply for each command; an error of the server is a reply.
    pub(crate) async fn send_pipeline(
        &mut self,
        pipeline: &mut Pipeline,
    ) -> Result<Vec<Value>, RequestError> {
        let request = Request::Pipeline(pipeline.ignore_errors());
        match self.send(&request).await? {
            Value::Array(answers) if answers.len() == pipeline.len() => Ok(answers),
            _ => Err(unexpected_reply("a pipeline").into()),
        }
    }

    /// Sends one command. An error of the server is an error.
    pub(crate) async fn send_command(&mut self, command: &Cmd) -> Result<Value, RequestError> {
        self.send(&Request::Command(command)).await
    }

    /// Like [`send_command`](Self::send_command), for a command that takes this much longer by itself.
    pub(crate) async fn send_command_within(
        &mut self,
        command: &Cmd,
        longer: Duration,
    ) -> Result<Value, RequestError> {
        let limit = self.connections.command_timeout().saturating_add(longer);
        let request = Request::Command(command);
        self.connections
            .send_within(&mut self.guard, &request, limit)
            .await
    }

    pub(crate) async fn send(&mut self, request: &Request<'_>) -> Result<Value, RequestError> {
        #[cfg(feature = "cluster")]
        if let Some(asking) = &mut self.asking {
            let (pipeline, filter) = with_asking(request, &mut asking.in_transaction);
            let sent = Request::Pipeline(&pipeline);
            let answer = self.connections.send_on(&mut self.guard, &sent).await?;
            return filter.read(answer, &self.connections);
        }
        self.connections.send_on(&mut self.guard, request).await
    }

    /// The error for one reply of a pipeline.
    pub(crate) fn server_error(&self, error: redis::ServerError) -> RequestError {
        self.connections.server_error(error)
    }

    /// Makes the connection available to other requests. There must be no watched key, open transaction or unread reply.
    pub(crate) fn return_to_pool(self) {
        self.guard.set_dirty(false);
    }
}
