//! Sends requests to one server: each call has a timeout, and the circuit breaker records its outcome.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use redis::{ErrorKind, RedisError, ServerError, Value};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio::time::error::Elapsed;
use tracing::Instrument as _;

use crate::error::store::StoreError;
use crate::metrics::server::ServerMetrics;
use crate::store::redis::breaker::{Breaker, Call, waits};
use crate::store::redis::config::RedisConfig;
use crate::store::redis::error::{ConnectionFault, RequestError, Retries};
use crate::store::redis::manager::{Connection, Manager, is_persistent};
use crate::store::redis::pool::{Guard, Pools};
use crate::store::redis::request::Request;
use crate::store::redis::span::record;
use crate::store::stats::PoolStats;
use crate::time::deadline::deadline;

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

    /// How far the time may be from the server's.
    pub(crate) fn clock_error(&self) -> Option<Duration> {
        self.pools.clock_error()
    }

    /// When the last connection was opened.
    pub(crate) fn connected(&self) -> Option<Instant> {
        self.pools.connected()
    }

    /// Sends once. Server errors inside a pipeline that ignores errors are part of the reply.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the request may be sent or not; others on the connection are not affected.
    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Value, RequestError> {
        self.admit()?;
        self.send_unchecked(request).await
    }

    /// Like [`send`](Self::send), but also while the breaker is open; a reply closes it.
    pub(crate) async fn send_despite_breaker(
        &self,
        request: &Request<'_>,
    ) -> Result<Value, RequestError> {
        let answer = self.send_unchecked(request).await;
        if !answer.as_ref().is_err_and(RequestError::is_outage) && self.breaker.is_open() {
            let rejected = self.breaker.close();
            tracing::info!(target: "sessile", address = &*self.address, rejected, "the circuit breaker closes, since Redis answers again");
        }
        answer
    }

    async fn send_unchecked(&self, request: &Request<'_>) -> Result<Value, RequestError> {
        let mut connection = self.check_out().await?;
        self.send_on(&mut connection, request).await
    }

    pub(crate) async fn send_on(
        &self,
        connection: &mut Connection,
        request: &Request<'_>,
    ) -> Result<Value, RequestError> {
        let began = Instant::now();
        let mut waiting = Waiting {
            connections: self,
            since: Some(began),
        };
        let until = deadline(began, self.command_timeout);
        let answer = self.exchange(connection, request, until, self.command_timeout);
        let answer = answer.await;
        waiting.since = None;
        let call = answer
            .as_ref()
            .map_or_else(RequestError::call, |_| Call::Answered);
        self.record(call, began);
        answer
    }

    /// Sends a request with a timeout other than `command_timeout`. Such a request may be slow on a healthy server, so the
    /// breaker does not record it.
    pub(crate) async fn send_within(
        &self,
        connection: &mut Connection,
        request: &Request<'_>,
        limit: Duration,
    ) -> Result<Value, RequestError> {
        let until = deadline(Instant::now(), limit);
        self.exchange(connection, request, until, limit).await
    }

    /// One round trip, in its span.
    async fn exchange(
        &self,
        connection: &mut Connection,
        request: &Request<'_>,
        until: Instant,
        limit: Duration,
    ) -> Result<Value, RequestError> {
        let span = self.pools.peer().span(request);
        let answer = {
            let _counted = self.pools.metrics().in_flight();
            let answer = connection.link.send(request).instrument(span.clone());
            tokio::time::timeout_at(until, answer).await
        };
        let answer = self.read_answer(connection, answer, limit);
        record(&span, &answer);
        answer
    }

    fn read_answer(
        &self,
        connection: &Connection,
        answer: Result<Result<Value, RedisError>, Elapsed>,
        limit: Duration,
    ) -> Result<Value, RequestError> {
        match answer {
            Ok(Ok(Value::ServerError(error))) => {
                Err(self.connection_error(connection, error.into()))
            }
            Ok(Ok(value)) => {
                if let Value::Array(values) = &value {
                    self.pools.find_demotion(connection, values);
                }
                Ok(value)
            }
            Ok(Err(error)) => Err(self.connection_error(connection, error)),
            Err(_) => {
                connection.note_silence();
                self.pools.check_silent_connection(connection);
                let message = format!(
                    "Redis at {} did not answer within {limit:?}: check its load, or raise `command_timeout`",
                    self.address
                );
                Err(RequestError {
                    fault: Some(ConnectionFault::Silent),
                    ..RequestError::new(StoreError::unknown(message))
                })
            }
        }
    }

    /// Sends an idempotent request. Sends it again at once if the connection turns out to be dead, as all of them may be after
    /// a restart of the server; and once more, on another connection, if there is no reply in time.
    pub(crate) async fn send_idempotent(
        &self,
        request: &Request<'_>,
    ) -> Result<Value, RequestError> {
        let mut retries = Retries::new(self.size);
        loop {
            let failed = match self.send(request).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            if let Some(failed) = retries.final_error(failed) {
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
        self.pools.metrics().breaker_rejected();
        let message = format!(
            "the circuit breaker of Redis at {} is open, since too many calls have failed: it closes when Redis answers a probe",
            self.address
        );
        let error = StoreError::unavailable(message);
        Err(RequestError::new(match self.pools.cause() {
            Some(cause) => error.with_source(cause),
            None => error,
        }))
    }

    /// Records the outcome of a call in the breaker. If that opens it, starts a probe in the background.
    fn record(&self, call: Call, made: Instant) {
        // Without a runtime no probe could close the breaker again. An answered call does not open it.
        let runtime = match call {
            Call::Answered => None,
            Call::Failed | Call::Unanswered => match Handle::try_current() {
                Ok(runtime) => Some(runtime),
                Err(_) => return,
            },
        };
        let Some(opening) = self.breaker.record(call, made) else {
            return;
        };
        let counted = self.pools.metrics().breaker_opened();
        self.breaker.count_opening(opening, counted);
        tracing::warn!(target: "sessile", address = &*self.address, "the circuit breaker opens, since too many calls to Redis have failed: it closes when Redis answers a probe");
        let prober = Prober::new(self.clone(), opening);
        if let Some(runtime) = runtime {
            runtime.spawn(prober.probe());
        }
    }

    pub(crate) fn stats(&self) -> PoolStats {
        self.pools.stats(self.breaker.is_open())
    }

    #[cfg(feature = "cluster")]
    pub(crate) fn is_breaker_open(&self) -> bool {
        self.breaker.is_open()
    }

    pub(crate) fn metrics(&self) -> &ServerMetrics {
        self.pools.metrics()
    }

    pub(crate) fn is_usable(&self, connection: &Connection) -> bool {
        self.pools.is_usable(connection)
    }

    async fn check_out(&self) -> Result<Connection, RequestError> {
        let began = Instant::now();
        let connection = self.pools.check_out(began).await;
        if connection.is_ok() {
            return connection;
        }
        // A call that is refused at once did not wait.
        let refused = self
            .pools
            .cause()
            .is_some_and(|cause| is_persistent(&cause));
        match refused {
            true => self.record(Call::Failed, began),
            false => self.record(Call::Unanswered, began),
        }
        connection
    }

    /// Waits for the first connection, which may take longer to open than a request waits for one.
    pub(crate) async fn ready(&self) -> Result<(), RequestError> {
        self.pools.ready().await
    }

    /// A connection that no other request uses.
    pub(crate) async fn check_out_exclusive(&self) -> Result<Guard, RequestError> {
        self.pools.check_out_exclusive().await
    }

    /// Retires connections that the error shows to be useless, and describes the failure.
    fn connection_error(&self, connection: &Connection, error: RedisError) -> RequestError {
        let dropped = error.is_connection_dropped();
        if dropped {
            self.pools.retire(connection.health.generation);
        }
        if dropped || error.is_unrecoverable_error() {
            connection.health.broken.store(true, Ordering::Release);
        }
        if let ErrorKind::Server(kind) = error.kind() {
            self.pools.retire_if_demoted(connection, kind);
        }
        RequestError {
            fault: dropped.then_some(ConnectionFault::Dropped),
            ..self.redis_error(error)
        }
    }

    /// The error for one reply of a pipeline.
    pub(crate) fn server_error(&self, error: ServerError) -> RequestError {
        self.redis_error(error.into())
    }

    fn redis_error(&self, error: RedisError) -> RequestError {
        RequestError::from_redis(&self.address, error)
    }
}

/// A call that waits for its reply. Its request may be cancelled before the timeout.
struct Waiting<'a> {
    connections: &'a Connections,
    since: Option<Instant>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // A call that was cancelled early, as when a browser closes the connection, says nothing about the server.
        let long = self.connections.command_timeout / 2;
        if let Some(since) = self.since.filter(|since| since.elapsed() >= long) {
            self.connections.record(Call::Unanswered, since);
        }
    }
}

/// Probes a server while its breaker is open. If the task ends before the server replies, as when its runtime shuts down, the
/// breaker closes: nothing else would close it.
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
            // Otherwise the store was dropped, or a health check has had a reply and closed the breaker.
            let is_wanted = Arc::strong_count(&connections.breaker) > 1;
            if !is_wanted || !connections.breaker.is_still_open(self.opening) {
                return;
            }
            drop(
                connections
                    .send_despite_breaker(&Request::Command(&key))
                    .await,
            );
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
