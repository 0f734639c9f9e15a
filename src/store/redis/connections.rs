//! Sending to one server: each call is timed, and its circuit breaker hears how it ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use redis::{ErrorKind, RedisError, ServerError, Value};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio::time::error::Elapsed;

use crate::error::store::StoreError;
use crate::store::redis::breaker::{Breaker, Call, waits};
use crate::store::redis::config::RedisConfig;
use crate::store::redis::error::{ConnectionFault, Repetitions, RequestError};
use crate::store::redis::manager::{Connection, Manager, is_definite};
use crate::store::redis::pool::{Guard, Pools};
use crate::store::redis::request::Request;
use crate::store::stats::PoolStats;

/// The connections to a server, and its circuit breaker.
#[derive(Clone)]
pub(crate) struct Connections {
    pools: Pools,
    address: Arc<str>,
    command_timeout: Duration,
    size: u32,
    breaker: Arc<Breaker>,
}

impl Connections {
    /// Opens the connections in the background. Must be called within a tokio runtime.
    pub(crate) fn new(manager: Manager, address: Arc<str>, config: &RedisConfig) -> Self {
        Self {
            pools: Pools::new(manager, Arc::clone(&address), config),
            address,
            command_timeout: config.command_timeout,
            size: config.pool_size,
            breaker: Arc::default(),
        }
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.pools.now()
    }

    /// Sends once. Server errors inside a pipeline that ignores errors are part of the answer.
    ///
    /// # Cancel safety
    ///
    /// A request whose future is dropped may be sent or not; others on the connection are not disturbed.
    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Value, RequestError> {
        self.admit()?;
        self.send_at_all(request).await
    }

    /// The same though the breaker is open; an answer closes it.
    pub(crate) async fn send_anyway(&self, request: &Request<'_>) -> Result<Value, RequestError> {
        let answer = self.send_at_all(request).await;
        if !answer.as_ref().is_err_and(RequestError::is_outage) && self.breaker.is_open() {
            let turned_away = self.breaker.close();
            tracing::info!(target: "sessile", address = &*self.address, turned_away, "Redis answers again: the circuit breaker closes");
        }
        answer
    }

    async fn send_at_all(&self, request: &Request<'_>) -> Result<Value, RequestError> {
        let mut connection = Connection::clone(&*self.check_out().await?);
        self.send_on(&mut connection, request).await
    }

    pub(crate) async fn send_on(
        &self,
        connection: &mut Connection,
        request: &Request<'_>,
    ) -> Result<Value, RequestError> {
        let mut waiting = Waiting {
            connections: self,
            since: Some(Instant::now()),
        };
        let began = Instant::now();
        let answer = self
            .send_within(connection, request, self.command_timeout)
            .await;
        waiting.since = None;
        let call = answer
            .as_ref()
            .map_or_else(RequestError::call, |_| Call::Answered);
        self.note(call, began);
        answer
    }

    /// Sends something that may take another time than `command_timeout`. How long that is says nothing of the server, so the
    /// breaker does not hear of it.
    pub(crate) async fn send_within(
        &self,
        connection: &mut Connection,
        request: &Request<'_>,
        limit: Duration,
    ) -> Result<Value, RequestError> {
        let answer = connection.link.ask(request);
        let answer = tokio::time::timeout(limit, answer).await;
        self.read_answer(connection, answer, limit)
    }

    fn read_answer(
        &self,
        connection: &Connection,
        answer: Result<Result<Value, RedisError>, Elapsed>,
        limit: Duration,
    ) -> Result<Value, RequestError> {
        match answer {
            Ok(Ok(Value::ServerError(error))) => Err(self.judge(connection, error.into())),
            Ok(Ok(value)) => {
                if let Value::Array(values) = &value {
                    self.pools.find_demotion(connection, values);
                }
                Ok(value)
            }
            Ok(Err(error)) => Err(self.judge(connection, error)),
            Err(_) => {
                self.pools.compare_with_a_new_one(connection);
                let message = format!(
                    "Redis at {} did not answer within {limit:?}: see `command_timeout`",
                    self.address
                );
                Err(RequestError {
                    fault: Some(ConnectionFault::Silent),
                    ..RequestError::new(StoreError::unknown(message))
                })
            }
        }
    }

    /// Sends something that may be sent any number of times. Again at once if the connection turns out to be dead, which
    /// after a restart of the server may be so for all of them; and once more, on another connection, if it does not
    /// answer.
    pub(crate) async fn send_idempotent(
        &self,
        request: &Request<'_>,
    ) -> Result<Value, RequestError> {
        let mut repetitions = Repetitions::new(self.size);
        loop {
            let failed = match self.send(request).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            if let Some(failed) = repetitions.last(failed) {
                return Err(failed);
            }
        }
    }

    pub(crate) fn command_timeout(&self) -> Duration {
        self.command_timeout
    }

    /// Fails at once while the breaker is open.
    pub(crate) fn admit(&self) -> Result<(), RequestError> {
        if self.breaker.admits() {
            return Ok(());
        }
        let message = format!(
            "the circuit breaker of Redis at {} is open, as too many calls have failed: it closes when Redis answers a probe",
            self.address
        );
        let error = StoreError::unavailable(message);
        Err(RequestError::new(match self.pools.cause() {
            Some(cause) => error.with_source(cause),
            None => error,
        }))
    }

    /// Tells the breaker how a call ended. If that opens it, somebody looks for the server to come back.
    fn note(&self, call: Call, made: Instant) {
        // Without a runtime nobody could find out that it is back.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let Some(opening) = self.breaker.note(call, made) else {
            return;
        };
        tracing::warn!(target: "sessile", address = &*self.address, "the circuit breaker opens, as too many calls to Redis have failed: it closes when Redis answers a probe");
        let prober = Prober::new(self.clone(), opening);
        runtime.spawn(prober.probe());
    }

    pub(crate) fn stats(&self) -> PoolStats {
        self.pools.stats(self.breaker.is_open())
    }

    #[cfg(feature = "cluster")]
    pub(crate) fn is_breaker_open(&self) -> bool {
        self.breaker.is_open()
    }

    pub(crate) fn is_usable(&self, connection: &Connection) -> bool {
        self.pools.is_usable(connection)
    }

    async fn check_out(&self) -> Result<Guard, RequestError> {
        let began = Instant::now();
        let guard = self.pools.check_out().await;
        // Nobody has waited for what is refused at once.
        let refused = self.pools.cause().is_some_and(|cause| is_definite(&cause));
        guard.inspect_err(|_| match refused {
            true => self.note(Call::Failed, began),
            false => self.note(Call::Unanswered, began),
        })
    }

    /// Waits for the first connection, which may take longer to make than a request waits for one.
    pub(crate) async fn ready(&self) -> Result<(), RequestError> {
        self.pools.ready().await
    }

    /// A connection that nobody else has.
    pub(crate) async fn check_out_exclusive(&self) -> Result<Guard, RequestError> {
        self.pools.check_out_exclusive().await
    }

    /// What an error means for the connection, and for what was sent.
    fn judge(&self, connection: &Connection, error: RedisError) -> RequestError {
        let dropped = error.is_connection_dropped();
        if dropped {
            self.pools.give_up(connection.health.generation);
        }
        if dropped || error.is_unrecoverable_error() {
            connection.health.broken.store(true, Ordering::Release);
        }
        if let ErrorKind::Server(kind) = error.kind() {
            self.pools.leave_if_demoted(connection, kind);
        }
        RequestError {
            fault: dropped.then_some(ConnectionFault::Dropped),
            ..self.failed(error)
        }
    }

    /// What the server said of one command in a pipeline.
    pub(crate) fn refused(&self, error: ServerError) -> RequestError {
        self.failed(error.into())
    }

    fn failed(&self, error: RedisError) -> RequestError {
        RequestError::of(&self.address, error)
    }
}

/// A call that was sent and has no answer yet. Its request may be given up before its time is over.
struct Waiting<'a> {
    connections: &'a Connections,
    since: Option<Instant>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // What was given up sooner, as by a browser that hangs up, says nothing of the server.
        let long = self.connections.command_timeout / 2;
        if let Some(since) = self.since.filter(|since| since.elapsed() >= long) {
            self.connections.note(Call::Unanswered, since);
        }
    }
}

/// Probes a server while its breaker is open. If this ends before the server answers, as with its runtime, the breaker closes:
/// nobody else would close it.
struct Prober {
    connections: Connections,
    opening: u64,
}

impl Prober {
    fn new(connections: Connections, opening: u64) -> Self {
        Self {
            connections,
            opening,
        }
    }

    async fn probe(self) {
        let connections = &self.connections;
        let key = connections.pools.probe();
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
