//! A connection that one request has to itself: what WATCH watches, MULTI queues and WAIT waits for belongs to a connection,
//! not to a request, so on a shared one the changes of others would go unseen.

use std::time::Duration;

use redis::{Cmd, Pipeline, Value};
use tokio::sync::OwnedMutexGuard;

use crate::store::redis::connections::Connections;
use crate::store::redis::error::RequestError;
use crate::store::redis::pool::Guard;
use crate::store::redis::reply::unexpected_reply;
use crate::store::redis::request::Request;
#[cfg(feature = "cluster")]
use crate::store::redis::router::asking::with_asking;

/// Taken out of the second pool. Dropped at any point, it is closed; only [`give_back`](Self::give_back) keeps it.
pub(crate) struct Exclusive {
    connections: Connections,
    guard: Guard,
    /// An AUTH in between would be queued by MULTI as a command of the transaction.
    _alone: OwnedMutexGuard<()>,
    /// The server is a node of a cluster that the slot is on its way to.
    #[cfg(feature = "cluster")]
    asking: Option<Asking>,
}

#[cfg(feature = "cluster")]
struct Asking {
    in_transaction: bool,
}

impl Connections {
    /// A connection that nobody else uses.
    pub(crate) async fn exclusive(&self) -> Result<Exclusive, RequestError> {
        self.admit()?;
        let (guard, alone) = loop {
            let guard = self.check_out_exclusive().await?;
            let alone = guard.alone().await;
            // It may have broken while it logged in again.
            if self.is_usable(&guard) {
                break (guard, alone);
            }
        };
        guard.set_dirty(true);
        Ok(Exclusive {
            connections: self.clone(),
            guard,
            _alone: alone,
            #[cfg(feature = "cluster")]
            asking: None,
        })
    }
}

impl Exclusive {
    /// For a slot that is on its way to this server.
    #[cfg(feature = "cluster")]
    pub(crate) fn asking(self) -> Self {
        Self {
            asking: Some(Asking {
                in_transaction: false,
            }),
            ..self
        }
    }

    /// Sends all commands in one round trip. What the server says no to is among the answers, of which there are as many as
    /// commands.
    pub(crate) async fn ask(
        &mut self,
        pipeline: &mut Pipeline,
    ) -> Result<Vec<Value>, RequestError> {
        let request = Request::Pipeline(pipeline.ignore_errors());
        match self.send(&request).await? {
            Value::Array(answers) if answers.len() == pipeline.len() => Ok(answers),
            _ => Err(unexpected_reply("a pipeline").into()),
        }
    }

    /// Sends one command, and returns what the server does not say no to.
    pub(crate) async fn one(&mut self, command: &Cmd) -> Result<Value, RequestError> {
        self.send(&Request::Command(command)).await
    }

    /// The same, for one that takes this much longer by itself.
    pub(crate) async fn one_within(
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
            let (pipeline, form) = with_asking(request, &mut asking.in_transaction);
            let sent = Request::Pipeline(&pipeline);
            let answer = self.connections.send_on(&mut self.guard, &sent).await?;
            return form.read(answer, &self.connections);
        }
        self.connections.send_on(&mut self.guard, request).await
    }

    /// What an error among the answers means.
    pub(crate) fn refused(&self, error: redis::ServerError) -> RequestError {
        self.connections.refused(error)
    }

    /// For the next one who needs it. Nothing may be watched, queued or unanswered.
    pub(crate) fn give_back(self) {
        self.guard.set_dirty(false);
    }
}
