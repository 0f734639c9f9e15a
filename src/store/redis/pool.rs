//! The connections to one server: a few sockets, each shared by many requests, and replaced when they are unusable.
//!
//! A connection is multiplexed, so it is cloned out of bb8's guard, which is returned at once; bb8 is in effect a list of
//! sockets. `recent.rs: Recent` keeps one of them at hand for each thread, so that a request seldom asks bb8.
//!
//! Commands that cannot share a connection get one of a second pool ([`exclusive`](crate::store::redis::exclusive)): those of
//! the first are never exclusive, since clones of them may be in use.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bb8_redis::bb8::{ManageConnection as _, Pool, PooledConnection, RunError};
use redis::{RedisError, ServerErrorKind, Value};
use tokio::time::Instant;

use crate::error::store::StoreError;
use crate::metrics::server::ServerMetrics;
use crate::store::redis::config::RedisConfig;
use crate::store::redis::error::RequestError;
use crate::store::redis::manager::{Connection, FailureSink, Manager, persistent_failure};
use crate::store::redis::recent::Recent;
use crate::store::redis::request::Request;
use crate::store::redis::span::Peer;
use crate::store::redis::throttle::SECOND;
use crate::store::stats::PoolStats;

/// The interval between two checks for the first connection.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A connection that is checked out.
pub(crate) type Guard = PooledConnection<'static, Manager>;

#[derive(Clone)]
pub(crate) struct Pools {
    shared: Pool<Manager>,
    /// The connections that one request uses alone.
    exclusive: Pool<Manager>,
    recent: Arc<Recent>,
    manager: Manager,
    address: Arc<str>,
    command_timeout: Duration,
    size: u32,
    /// A key that does not exist.
    probe: Arc<str>,
}

impl Pools {
    /// Opens the connections in the background. Must be called within a tokio runtime.
    pub(crate) fn new(manager: Manager, address: Arc<str>, config: &RedisConfig) -> Self {
        let state = Arc::clone(&manager.shared);
        let builder = || {
            Pool::builder()
                .test_on_check_out(false)
                // bb8 also rests this long between attempts, so it must be short. The manager bounds the time of connecting.
                .connection_timeout(config.connection_timeout.min(config.command_timeout))
                .error_sink(Box::new(FailureSink(Arc::clone(&state))))
        };
        let size = config.pool_size;
        let shared = builder()
            .max_size(size)
            // A pool only grows if none of its connections is idle, and one that was cloned out is always idle.
            .min_idle(size)
            .build_unchecked(manager.clone());
        let exclusive = builder()
            .max_size(config.exclusive_pool_size)
            .build_unchecked(manager.clone());
        Self {
            shared,
            exclusive,
            recent: Arc::new(Recent::new(size)),
            manager,
            address,
            command_timeout: config.command_timeout,
            size,
            probe: format!("{}probe", config.key_prefix).into(),
        }
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.manager.shared.clock.now()
    }

    /// How far the time may be from the server's.
    pub(crate) fn clock_error(&self) -> Option<Duration> {
        let between = self.manager.between_servers();
        Some(self.manager.shared.clock.error()? + between)
    }

    /// When the last connection was opened.
    pub(crate) fn connected(&self) -> Option<Instant> {
        self.manager.shared.clock.connected()
    }

    /// Reads a key that does not exist.
    pub(crate) fn probe(&self) -> redis::Cmd {
        let mut key = redis::cmd("GET");
        key.arg(&*self.probe);
        key
    }

    pub(crate) fn stats(&self, breaker_open: bool) -> PoolStats {
        let state = self.shared.state();
        let counted = &state.statistics;
        PoolStats {
            size: self.size,
            open: state.connections,
            made: counted.connections_created,
            broken: counted.connections_closed_broken,
            timed_out: counted.get_timed_out,
            breaker_open,
        }
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.manager.peer
    }

    pub(crate) fn metrics(&self) -> &ServerMetrics {
        &self.manager.metrics
    }

    pub(crate) fn is_usable(&self, connection: &Connection) -> bool {
        self.manager.shared.is_usable(connection)
    }

    /// A connection that requests share. There is none only if none can be opened.
    pub(crate) async fn check_out(&self, now: Instant) -> Result<Connection, RequestError> {
        let is_good = |it: &Connection| self.is_usable(it) && !it.was_silent(now);
        let slot = match self.recent.of_this_thread(now, is_good) {
            Ok(connection) => return Ok(connection),
            Err(slot) => slot,
        };
        let mut left = self.size;
        let connection = loop {
            let guard = self.wait_for(&self.shared).await;
            let guard = guard.map_err(|error| self.unavailable(error))?;
            left = left.saturating_sub(1);
            if left == 0 || is_good(&guard) {
                break Connection::clone(&guard);
            }
        };
        self.recent.note(slot, &connection, now);
        Ok(connection)
    }

    /// Waits for the first connection, which may take longer to open than a request waits for one.
    pub(crate) async fn ready(&self) -> Result<(), RequestError> {
        let deadline = Instant::now() + self.manager.timeout;
        loop {
            match self.wait_for(&self.shared).await {
                Err(error) if Instant::now() >= deadline => return Err(self.unavailable(error)),
                // Such a failure may be temporary: too many clients, of which one has just left.
                Err(RunError::TimedOut) => tokio::time::sleep(POLL_INTERVAL).await,
                connected => return connected.map(drop).map_err(|error| self.unavailable(error)),
            }
        }
    }

    /// A connection that no other request uses. If all of them are in use, that says nothing about the server.
    pub(crate) async fn check_out_exclusive(&self) -> Result<Guard, RequestError> {
        let guard = self.wait_for(&self.exclusive).await;
        guard.map_err(|error| {
            let may_be_more = self.exclusive.state().connections < self.exclusive.config().max_size;
            if may_be_more && self.cause().is_some() {
                return self.unavailable(error);
            }
            let config = self.exclusive.config();
            let message = format!(
                "all {} connections to Redis at {} for WATCH and WAIT were in use for {:?}: \
                 raise `exclusive_pool_size`",
                config.max_size, self.address, config.connection_timeout
            );
            RequestError::new(StoreError::unavailable(message))
        })
    }

    async fn wait_for(&self, pool: &Pool<Manager>) -> Result<Guard, RunError<RedisError>> {
        let mut failures = self.manager.shared.failure.subscribe();
        let _counted = self.manager.metrics.waiting();
        loop {
            let guard = tokio::select! {
                biased;
                guard = pool.get_owned() => guard,
                // The next attempts would fail as well: waiting would only pile up requests. If there are connections, one of
                // them will become free.
                () = persistent_failure(&mut failures, self.command_timeout), if pool.state().connections == 0 => {
                    Err(RunError::TimedOut)
                }
            };
            let guard = guard.inspect_err(|_| self.manager.metrics.timed_out())?;
            if self.manager.shared.is_usable(&guard) {
                return Ok(guard);
            }
            // Dropping the guard makes bb8 drop the connection and open another.
        }
    }

    /// Why the last attempt to connect failed; `None` if one has succeeded since.
    pub(crate) fn cause(&self) -> Option<Arc<RedisError>> {
        let failure = self.manager.shared.failure.borrow();
        failure.as_ref().map(|failure| Arc::clone(&failure.error))
    }

    fn unavailable(&self, error: RunError<RedisError>) -> RequestError {
        let cause = match error {
            RunError::User(error) => Some(Arc::new(error)),
            RunError::TimedOut => self.cause(),
        };
        let message = format!("no connection to Redis at {}", self.address);
        let error = StoreError::unavailable(message);
        RequestError::new(match cause {
            Some(cause) => error.with_source(cause),
            None => error,
        })
    }

    /// Retires all connections of this generation and earlier ones: most likely they were lost together, in a restart or a
    /// failover. New ones cost little.
    pub(crate) fn retire(&self, generation: u64) {
        self.manager
            .shared
            .generation
            .fetch_max(generation + 1, Ordering::AcqRel);
    }

    /// A server that was demoted, or has lost its primary, keeps its connections open: they must be retired, so that the
    /// address leads to the new primary. At most once a second, in case the address still leads to the old one.
    pub(crate) fn retire_if_demoted(&self, connection: &Connection, kind: ServerErrorKind) {
        let demoted = matches!(
            kind,
            ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown
        );
        if demoted && self.manager.shared.retired.admits(SECOND) {
            self.retire(connection.health.generation);
        }
    }

    /// Looks for such errors among the replies of a pipeline or a transaction.
    pub(crate) fn find_demotion(&self, connection: &Connection, values: &[Value]) {
        for value in values {
            match value {
                Value::Array(values) => self.find_demotion(connection, values),
                Value::ServerError(error) => {
                    if let Some(kind) = error.kind() {
                        self.retire_if_demoted(connection, kind);
                    }
                }
                _ => {}
            }
        }
    }

    /// A connection is silent if the server hangs, or if its other end is gone without notice, as after a failover or behind a
    /// router that has dropped it; then most likely all connections of its generation are dead. Opens a new connection to find
    /// out which. At most once a second, so that a server that hangs does not get more and more connections.
    pub(crate) fn check_silent_connection(&self, silent: &Connection) {
        if !self.manager.shared.is_usable(silent) || !self.manager.shared.checked.admits(SECOND) {
            return;
        }
        let (pools, mut silent) = (self.clone(), silent.clone());
        tokio::spawn(async move {
            if pools.manager.connect().await.is_err() {
                return;
            }
            let mut other = pools.other_than(&silent).await;
            let (is_silent, other_is_silent) = tokio::join!(pools.is_silent(&mut silent), async {
                match &mut other {
                    Some(other) => pools.is_silent(other).await,
                    None => true,
                }
            });
            if is_silent && other_is_silent {
                tracing::warn!(target: "sessile", address = &*pools.address, "connections to Redis are silent, but a new one is not: sessile replaces all of them");
                pools.retire(silent.health.generation);
            } else if is_silent {
                silent.health.broken.store(true, Ordering::Release);
            }
        });
    }

    async fn is_silent(&self, connection: &mut Connection) -> bool {
        let key = self.probe();
        let request = Request::Command(&key);
        let answer = connection.link.send(&request);
        let answer = tokio::time::timeout(self.command_timeout, answer).await;
        answer.is_err()
    }

    /// Another of the connections that requests share.
    async fn other_than(&self, one: &Connection) -> Option<Connection> {
        for _ in 0..self.size {
            let next = Connection::clone(&*self.wait_for(&self.shared).await.ok()?);
            if !Arc::ptr_eq(&next.health, &one.health) {
                return Some(next);
            }
        }
        None
    }
}
