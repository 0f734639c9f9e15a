//! The connections to one server: a few sockets, each shared by many requests, replaced when they are no good any more.
//!
//! A connection is multiplexed, so it is cloned out of bb8's guard, which is given back at once; bb8 is in effect a list of
//! sockets that is walked in turn.
//!
//! What needs a connection to itself gets one of a second pool ([`exclusive`](crate::store::redis::exclusive)): those of the first are
//! never exclusive, since clones of them may be in use.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bb8_redis::bb8::{ManageConnection as _, Pool, PooledConnection, RunError};
use redis::{RedisError, ServerErrorKind, Value};
use tokio::time::Instant;

use crate::error::store::StoreError;
use crate::store::redis::config::RedisConfig;
use crate::store::redis::error::RequestError;
use crate::store::redis::manager::{Connection, Failures, Manager, refusal};
use crate::store::redis::request::Request;
use crate::store::redis::throttle::SECOND;
use crate::store::stats::PoolStats;

/// Between two looks for the first connection.
const AGAIN: Duration = Duration::from_millis(50);

/// A connection that is checked out.
pub(crate) type Guard = PooledConnection<'static, Manager>;

#[derive(Clone)]
pub(crate) struct Pools {
    shared: Pool<Manager>,
    /// Of those that one request has to itself.
    exclusive: Pool<Manager>,
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
        let heard = Arc::clone(&manager.shared);
        let builder = || {
            Pool::builder()
                .test_on_check_out(false)
                // Also how long bb8 rests between attempts, so it must not be long. The manager has the timer for connecting.
                .connection_timeout(config.connection_timeout.min(config.command_timeout))
                .error_sink(Box::new(Failures(Arc::clone(&heard))))
        };
        let size = config.pool_size;
        let shared = builder()
            .max_size(size)
            // A pool only grows when none is idle; a connection that is cloned out is always idle.
            .min_idle(size)
            .build_unchecked(manager.clone());
        let exclusive = builder()
            .max_size(config.exclusive_pool_size)
            .build_unchecked(manager.clone());
        Self {
            shared,
            exclusive,
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

    /// Asks for a key that does not exist.
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

    pub(crate) fn is_usable(&self, connection: &Connection) -> bool {
        self.manager.shared.is_usable(connection)
    }

    /// One of those that requests share, so that none there means that none can be made.
    pub(crate) async fn check_out(&self) -> Result<Guard, RequestError> {
        let guard = self.wait_for(&self.shared).await;
        guard.map_err(|error| self.unavailable(error))
    }

    /// Waits for the first connection, which may take longer to make than a request waits for one.
    pub(crate) async fn ready(&self) -> Result<(), RequestError> {
        let deadline = Instant::now() + self.manager.timeout;
        loop {
            match self.wait_for(&self.shared).await {
                Err(error) if Instant::now() >= deadline => return Err(self.unavailable(error)),
                // What the server says no to at once may be over soon: too many clients, of which one has just left.
                Err(RunError::TimedOut) => tokio::time::sleep(AGAIN).await,
                connected => return connected.map(drop).map_err(|error| self.unavailable(error)),
            }
        }
    }

    /// A connection that nobody else has. That others have them all says nothing of the server.
    pub(crate) async fn check_out_exclusive(&self) -> Result<Guard, RequestError> {
        let guard = self.wait_for(&self.exclusive).await;
        guard.map_err(|error| {
            let may_be_more = self.exclusive.state().connections < self.exclusive.config().max_size;
            if may_be_more && self.cause().is_some() {
                return self.unavailable(error);
            }
            let config = self.exclusive.config();
            let message = format!(
                "none of the {} connections to Redis at {} that WATCH and WAIT need to themselves was free within {:?}: \
                 raise `exclusive_pool_size`",
                config.max_size, self.address, config.connection_timeout
            );
            RequestError::new(StoreError::unavailable(message))
        })
    }

    async fn wait_for(&self, pool: &Pool<Manager>) -> Result<Guard, RunError<RedisError>> {
        let mut failures = self.manager.shared.failure.subscribe();
        loop {
            let guard = tokio::select! {
                biased;
                guard = pool.get_owned() => guard,
                // The next attempts would fail as well: waiting would only pile up requests. Where there are connections, one
                // of them will be free.
                () = refusal(&mut failures, self.command_timeout), if pool.state().connections == 0 => {
                    Err(RunError::TimedOut)
                }
            };
            let guard = guard?;
            if self.manager.shared.is_usable(&guard) {
                return Ok(guard);
            }
            // Dropping the guard makes bb8 drop the connection and open another.
        }
    }

    /// Why the last attempt to connect failed, unless one has worked since.
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

    /// No connection of this generation or an earlier one is used again: they were most likely lost together, in a restart
    /// or a failover. New ones cost little.
    pub(crate) fn give_up(&self, generation: u64) {
        self.manager
            .shared
            .generation
            .fetch_max(generation + 1, Ordering::AcqRel);
    }

    /// A server that was demoted, or has lost its primary, does not close its connections: they must be left, so that the
    /// address leads to the new primary. At most once a second, in case it keeps leading to the old one.
    pub(crate) fn leave_if_demoted(&self, connection: &Connection, kind: ServerErrorKind) {
        let demoted = matches!(
            kind,
            ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown
        );
        if demoted && self.manager.shared.left.admits(SECOND) {
            self.give_up(connection.health.generation);
        }
    }

    /// Looks for the same among the answers of a pipeline or a transaction, whose errors are not the whole's.
    pub(crate) fn find_demotion(&self, connection: &Connection, values: &[Value]) {
        for value in values {
            match value {
                Value::Array(values) => self.find_demotion(connection, values),
                Value::ServerError(error) => {
                    if let Some(kind) = error.kind() {
                        self.leave_if_demoted(connection, kind);
                    }
                }
                _ => {}
            }
        }
    }

    /// A connection is silent if the server hangs; or else if its other end has gone without a word, as after a failover or
    /// behind a router that has forgotten it, and then most likely all of its generation have. A new one tells which. Once a
    /// second at most, so that a server that hangs is not asked for more and more connections.
    pub(crate) fn compare_with_a_new_one(&self, silent: &Connection) {
        if !self.manager.shared.is_usable(silent) || !self.manager.shared.compared.admits(SECOND) {
            return;
        }
        let (pools, mut silent) = (self.clone(), silent.clone());
        tokio::spawn(async move {
            if pools.manager.connect().await.is_err() {
                return;
            }
            let mut other = pools.another_than(&silent).await;
            let (silent_still, other_too) = tokio::join!(pools.is_silent(&mut silent), async {
                match &mut other {
                    Some(other) => pools.is_silent(other).await,
                    None => true,
                }
            });
            if silent_still && other_too {
                tracing::warn!(target: "sessile", address = &*pools.address, "connections to Redis are silent and a new one is not: all are replaced");
                pools.give_up(silent.health.generation);
            } else if silent_still {
                silent.health.broken.store(true, Ordering::Release);
            }
        });
    }

    async fn is_silent(&self, connection: &mut Connection) -> bool {
        let key = self.probe();
        let request = Request::Command(&key);
        let answer = connection.link.ask(&request);
        let answer = tokio::time::timeout(self.command_timeout, answer).await;
        answer.is_err()
    }

    /// Another of the connections that requests share.
    async fn another_than(&self, one: &Connection) -> Option<Connection> {
        for _ in 0..self.size {
            let next = Connection::clone(&*self.wait_for(&self.shared).await.ok()?);
            if !Arc::ptr_eq(&next.health, &one.health) {
                return Some(next);
            }
        }
        None
    }
}
