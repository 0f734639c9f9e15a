//! Connections to Redis: a few sockets, each shared by many requests, replaced when they are no good any more.
//!
//! bb8 keeps them, with a manager of our own: bb8-redis's sets no timeout, sends a PING at every check-out, and never
//! finds a connection broken. A connection is multiplexed, so it is cloned out of bb8's guard, which is given back at
//! once; bb8 is in effect a list of sockets that is walked in turn.
//!
//! What needs a connection to itself gets one of a second pool ([`exclusive`](super::exclusive)): those of the first are
//! never exclusive, since clones of them may be in use.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bb8_redis::bb8::{ErrorSink, ManageConnection, Pool, PooledConnection, RunError};
use redis::{ErrorKind, RedisError, ServerError, ServerErrorKind, Value};
use tokio::runtime::Handle;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, watch};
use tokio::time::Instant;
use tokio::time::error::Elapsed;
use tokio_util::task::AbortOnDropHandle;

use crate::error::store::StoreError;
use crate::store::PoolStats;
use crate::store::redis::RedisConfig;
use crate::store::redis::advice::{handshake_advice, without_arguments};
use crate::store::redis::breaker::{Breaker, Call};
use crate::store::redis::credentials::{
    Credentials, Login, blame_provider, is_providers, is_refusal,
};
use crate::store::redis::error::{Failed, Repetitions, Trouble};
pub(crate) use crate::store::redis::link::Request;
use crate::store::redis::link::{Source, To, Wire};

mod prober;
mod silent;

use prober::Prober;

/// Between two looks for the first connection.
const AGAIN: Duration = Duration::from_millis(50);

/// How far apart connections are given up, or compared with new ones.
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// One socket: shared, unless it is of the second pool.
#[derive(Clone)]
pub(crate) struct Connection {
    wire: Wire,
    health: Arc<Health>,
}

struct Health {
    /// Connections of an earlier generation than the pool's are not used any more.
    generation: u64,
    broken: Arc<AtomicBool>,
    /// Somebody has it alone, or gave it up half-way: there may be a WATCH on it, an open MULTI or an unread answer.
    dirty: AtomicBool,
    /// Held by whoever has it alone, and while it logs in again.
    alone: Arc<AsyncMutex<()>>,
    /// Logs it in again; ends with it.
    _login: Option<AbortOnDropHandle<()>>,
}

/// Makes connections, for bb8.
#[derive(Clone)]
pub(crate) struct Manager {
    source: Arc<Source>,
    /// Whom to ask for user and password, if not the URL.
    login: Option<Arc<Login>>,
    timeout: Duration,
    shared: Arc<Shared>,
}

/// The servers' time, as it was last heard. The nodes of a cluster have one.
#[derive(Default)]
pub(crate) struct Clock(RwLock<Option<(std::time::Instant, SystemTime)>>);

/// What all connections to a server share.
#[derive(Default)]
struct Shared {
    clock: Arc<Clock>,
    generation: AtomicU64,
    /// How the last attempt to connect failed; `None` once one has worked.
    failure: watch::Sender<Option<Failure>>,
    /// When connections were last given up because the server is no primary any more.
    left: Seldom,
    /// When it was last tried whether a new connection is better than a silent one.
    compared: Seldom,
}

/// An attempt to connect that failed.
#[derive(Clone)]
struct Failure {
    error: Arc<RedisError>,
    at: Instant,
}

/// Something that is not to be done too often.
#[derive(Default)]
pub(crate) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Whether it may be done now, because the last time was so long ago.
    pub(crate) fn may_now(&self, apart: Duration) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|last| last.elapsed() >= apart);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}

/// The connections of a store.
#[derive(Clone)]
pub(crate) struct Connections {
    pool: Pool<Manager>,
    exclusive: Pool<Manager>,
    manager: Manager,
    shared: Arc<Shared>,
    address: Arc<str>,
    command_timeout: Duration,
    size: u32,
    breaker: Arc<Breaker>,
    /// A key that does not exist.
    probe: Arc<str>,
}

impl Manager {
    pub(crate) fn new(to: To, config: &RedisConfig, clock: Arc<Clock>) -> Self {
        let shared = Shared {
            clock,
            ..Shared::default()
        };
        Self {
            source: Arc::new(Source::new(to, config.connection_timeout)),
            login: None,
            timeout: config.connection_timeout,
            shared: Arc::new(shared),
        }
    }

    /// Has it log in with what a provider says.
    pub(crate) fn with_login(mut self, login: Option<Arc<Login>>) -> Self {
        self.login = login;
        self
    }

    /// Connects with what the provider says.
    async fn log_in(&self, login: &Arc<Login>) -> Result<Connection, RedisError> {
        let began = Instant::now();
        let left = || self.timeout.saturating_sub(began.elapsed());
        let mut first = true;
        loop {
            let credentials = login.credentials(left()).await?;
            let opened = within(left(), self.open(Some((login, &credentials)), left())).await;
            match opened {
                Err(error) if is_refusal(&error) => {
                    // What was known already may have been replaced since.
                    let again = login.forget(&credentials, began);
                    if !again || !first || left().is_zero() {
                        return Err(blame_provider(error));
                    }
                    first = false;
                }
                opened => return opened,
            }
        }
    }

    async fn open(
        &self,
        login: Option<(&Arc<Login>, &Credentials)>,
        limit: Duration,
    ) -> Result<Connection, RedisError> {
        let generation = self.shared.generation.load(Ordering::Acquire);
        let credentials = login.map(|(_, credentials)| credentials);
        let mut wire = self.source.open(credentials, limit).await?;
        // Proves that the server answers this user, and tells its time.
        let time = wire.ask(&Request::Command(&redis::cmd("TIME"))).await?;
        let (secs, micros): (u64, u32) = redis::from_redis_value(time.extract_error()?)?;
        let since = Duration::from_secs(secs).saturating_add(Duration::from_micros(micros.into()));
        let now = UNIX_EPOCH.checked_add(since).ok_or_else(|| {
            let message = "the answer to TIME is no time: is a proxy between?";
            std::io::Error::new(std::io::ErrorKind::InvalidData, message)
        })?;
        self.shared.clock.set(now);
        self.shared.failure.send_replace(None);
        let (alone, broken) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let health = Health {
            generation,
            _login: login
                .and_then(|(login, credentials)| login.keep(&wire, credentials, &alone, &broken)),
            broken,
            dirty: AtomicBool::new(false),
            alone,
        };
        Ok(Connection {
            wire,
            health: Arc::new(health),
        })
    }
}

impl Clock {
    fn set(&self, now: SystemTime) {
        let mut clock = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *clock = Some((std::time::Instant::now(), now));
    }

    /// The server's time, advanced since it was last heard; the local time until then.
    pub(crate) fn now(&self) -> SystemTime {
        match *self.0.read().unwrap_or_else(PoisonError::into_inner) {
            Some((heard, time)) => time.checked_add(heard.elapsed()).unwrap_or(time),
            None => SystemTime::now(),
        }
    }
}

impl Connection {
    /// Sends what is no request of the store's, and bounds nothing.
    #[cfg(feature = "cluster")]
    pub(crate) async fn ask(&mut self, request: &Request<'_>) -> Result<Value, RedisError> {
        self.wire.ask(request).await
    }

    pub(crate) fn set_dirty(&self, dirty: bool) {
        self.health.dirty.store(dirty, Ordering::Release);
    }

    /// Waits while it logs in again, and keeps it from that.
    pub(crate) async fn alone(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.health.alone).lock_owned().await
    }
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = RedisError;

    async fn connect(&self) -> Result<Connection, RedisError> {
        let connection = match &self.login {
            None => within(self.timeout, self.open(None, self.timeout)).await,
            Some(login) => self.log_in(login).await,
        };
        connection.map_err(without_arguments)
    }

    async fn is_valid(&self, _: &mut Connection) -> Result<(), RedisError> {
        Ok(())
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        !self.shared.is_usable(connection)
    }
}

async fn within(
    limit: Duration,
    connecting: impl Future<Output = Result<Connection, RedisError>>,
) -> Result<Connection, RedisError> {
    match tokio::time::timeout(limit, connecting).await {
        Ok(connection) => connection,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

impl Shared {
    fn is_usable(&self, connection: &Connection) -> bool {
        let health = &connection.health;
        !health.broken.load(Ordering::Acquire)
            && !health.dirty.load(Ordering::Acquire)
            && health.generation >= self.generation.load(Ordering::Acquire)
    }
}

/// Hears of connections that bb8 could not make.
struct Failures(Arc<Shared>);

impl ErrorSink<RedisError> for Failures {
    fn sink(&self, error: RedisError) {
        self.0.failure.send_replace(Some(Failure {
            error: Arc::new(error),
            at: Instant::now(),
        }));
    }

    fn boxed_clone(&self) -> Box<dyn ErrorSink<RedisError>> {
        Box::new(Self(Arc::clone(&self.0)))
    }
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failures").finish_non_exhaustive()
    }
}

impl Connections {
    /// Opens the connections in the background. Must be called within a tokio runtime.
    pub(crate) fn new(manager: Manager, address: Arc<str>, config: &RedisConfig) -> Self {
        let shared = Arc::clone(&manager.shared);
        let builder = || {
            Pool::builder()
                .test_on_check_out(false)
                // Also how long bb8 rests between attempts, so it must not be long. The manager has the timer for connecting.
                .connection_timeout(config.connection_timeout.min(config.command_timeout))
                .error_sink(Box::new(Failures(Arc::clone(&shared))))
        };
        let size = config.pool_size;
        let pool = builder()
            .max_size(size)
            // A pool only grows when none is idle; a connection that is cloned out is always idle.
            .min_idle(size)
            .build_unchecked(manager.clone());
        let exclusive = builder()
            .max_size(config.exclusive_pool_size)
            .build_unchecked(manager.clone());
        Self {
            pool,
            exclusive,
            manager,
            shared,
            address,
            command_timeout: config.command_timeout,
            size,
            breaker: Arc::default(),
            probe: format!("{}probe", config.key_prefix).into(),
        }
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.shared.clock.now()
    }

    /// Sends once. Server errors inside a pipeline that ignores errors are part of the answer.
    ///
    /// # Cancel safety
    ///
    /// A request whose future is dropped may be sent or not; others on the connection are not disturbed.
    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Value, Failed> {
        self.admit()?;
        self.send_at_all(request).await
    }

    /// The same though the breaker is open; an answer closes it.
    pub(crate) async fn send_anyway(&self, request: &Request<'_>) -> Result<Value, Failed> {
        let answer = self.send_at_all(request).await;
        if !answer.as_ref().is_err_and(Failed::is_outage) && self.breaker.is_open() {
            let turned_away = self.breaker.close();
            tracing::info!(target: "sessile", address = &*self.address, turned_away, "Redis answers again");
        }
        answer
    }

    async fn send_at_all(&self, request: &Request<'_>) -> Result<Value, Failed> {
        let mut connection = Connection::clone(&*self.check_out().await?);
        self.send_on(&mut connection, request).await
    }

    pub(crate) async fn send_on(
        &self,
        connection: &mut Connection,
        request: &Request<'_>,
    ) -> Result<Value, Failed> {
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
            .map_or_else(Failed::call, |_| Call::Answered);
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
    ) -> Result<Value, Failed> {
        let answer = connection.wire.ask(request);
        let answer = tokio::time::timeout(limit, answer).await;
        self.read_answer(connection, answer, limit)
    }

    fn read_answer(
        &self,
        connection: &Connection,
        answer: Result<Result<Value, RedisError>, Elapsed>,
        limit: Duration,
    ) -> Result<Value, Failed> {
        match answer {
            Ok(Ok(Value::ServerError(error))) => Err(self.judge(connection, error.into())),
            Ok(Ok(value)) => {
                if let Value::Array(values) = &value {
                    self.find_demotion(connection, values);
                }
                Ok(value)
            }
            Ok(Err(error)) => Err(self.judge(connection, error)),
            Err(_) => {
                self.compare_with_a_new_one(connection);
                let message = format!(
                    "Redis at {} did not answer within {limit:?}: see `command_timeout`",
                    self.address
                );
                Err(Failed {
                    trouble: Some(Trouble::Silent),
                    ..Failed::new(StoreError::unknown(message))
                })
            }
        }
    }

    /// Sends something that may be sent any number of times. Again at once if the connection turns out to be dead, which
    /// after a restart of the server may be so for all of them; and once more, on another connection, if it does not
    /// answer.
    pub(crate) async fn send_idempotent(&self, request: &Request<'_>) -> Result<Value, Failed> {
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

    /// Fails at once while the server is left alone.
    pub(crate) fn admit(&self) -> Result<(), Failed> {
        if self.breaker.admits() {
            return Ok(());
        }
        let message = format!(
            "Redis at {} has failed too often and is left alone for a moment",
            self.address
        );
        let error = StoreError::unavailable(message);
        Err(Failed::new(match self.cause() {
            Some(cause) => error.with_source(cause),
            None => error,
        }))
    }

    /// Why the last attempt to connect failed, unless one has worked since.
    fn cause(&self) -> Option<Arc<RedisError>> {
        let failure = self.shared.failure.borrow();
        failure.as_ref().map(|failure| Arc::clone(&failure.error))
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
        tracing::warn!(target: "sessile", address = &*self.address, "Redis fails too often: it is left alone until it answers a probe");
        let prober = Prober::new(self.clone(), opening);
        runtime.spawn(prober.probe());
    }

    /// Asks for a key that does not exist.
    fn probe(&self) -> redis::Cmd {
        let mut key = redis::cmd("GET");
        key.arg(&*self.probe);
        key
    }

    pub(crate) fn stats(&self) -> PoolStats {
        let state = self.pool.state();
        let counted = &state.statistics;
        PoolStats {
            size: self.size,
            open: state.connections,
            made: counted.connections_created,
            broken: counted.connections_closed_broken,
            timed_out: counted.get_timed_out,
            left_alone: self.breaker.is_open(),
        }
    }

    #[cfg(feature = "cluster")]
    pub(crate) fn is_left_alone(&self) -> bool {
        self.breaker.is_open()
    }

    pub(crate) fn is_usable(&self, connection: &Connection) -> bool {
        self.shared.is_usable(connection)
    }

    /// A connection of the pool whose connections are shared, so that none there means that none can be made.
    async fn check_out(&self) -> Result<PooledConnection<'static, Manager>, Failed> {
        let began = Instant::now();
        let guard = self.wait_for(&self.pool).await;
        let guard = guard.map_err(|error| self.unavailable(error));
        // Nobody has waited for what is refused at once.
        let refused = self.cause().is_some_and(|cause| is_definite(&cause));
        guard.inspect_err(|_| match refused {
            true => self.note(Call::Failed, began),
            false => self.note(Call::Unanswered, began),
        })
    }

    /// Waits for the first connection, which may take longer to make than a request waits for one.
    pub(crate) async fn ready(&self) -> Result<(), Failed> {
        let deadline = Instant::now() + self.manager.timeout;
        loop {
            match self.wait_for(&self.pool).await {
                Err(error) if Instant::now() >= deadline => return Err(self.unavailable(error)),
                // What the server says no to at once may be over soon: too many clients, of which one has just left.
                Err(RunError::TimedOut) => tokio::time::sleep(AGAIN).await,
                connected => return connected.map(drop).map_err(|error| self.unavailable(error)),
            }
        }
    }

    /// A connection that nobody else has. That others have them all says nothing of the server.
    pub(crate) async fn check_out_exclusive(
        &self,
    ) -> Result<PooledConnection<'static, Manager>, Failed> {
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
            Failed::new(StoreError::unavailable(message))
        })
    }

    async fn wait_for(
        &self,
        pool: &Pool<Manager>,
    ) -> Result<PooledConnection<'static, Manager>, RunError<RedisError>> {
        let mut failures = self.shared.failure.subscribe();
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
            if self.shared.is_usable(&guard) {
                return Ok(guard);
            }
            // Dropping the guard makes bb8 drop the connection and open another.
        }
    }

    fn unavailable(&self, error: RunError<RedisError>) -> Failed {
        let cause = match error {
            RunError::User(error) => Some(Arc::new(error)),
            RunError::TimedOut => self.cause(),
        };
        let message = format!("no connection to Redis at {}", self.address);
        let error = StoreError::unavailable(message);
        Failed::new(match cause {
            Some(cause) => error.with_source(cause),
            None => error,
        })
    }

    /// No connection of this generation or an earlier one is used again: they were most likely lost together, in a restart
    /// or a failover. New ones cost little.
    fn give_up(&self, generation: u64) {
        self.shared
            .generation
            .fetch_max(generation + 1, Ordering::AcqRel);
    }

    /// A server that was demoted, or has lost its primary, does not close its connections: they must be left, so that the
    /// address leads to the new primary. At most once a second, in case it keeps leading to the old one.
    fn leave_if_demoted(&self, connection: &Connection, kind: ServerErrorKind) {
        let demoted = matches!(
            kind,
            ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown
        );
        if demoted && self.shared.left.may_now(SECOND) {
            self.give_up(connection.health.generation);
        }
    }

    /// Looks for the same among the answers of a pipeline or a transaction, whose errors are not the whole's.
    fn find_demotion(&self, connection: &Connection, values: &[Value]) {
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

    /// What an error means for the connection, and for what was sent.
    fn judge(&self, connection: &Connection, error: RedisError) -> Failed {
        let dropped = error.is_connection_dropped();
        if dropped {
            self.give_up(connection.health.generation);
        }
        if dropped || error.is_unrecoverable_error() {
            connection.health.broken.store(true, Ordering::Release);
        }
        if let ErrorKind::Server(kind) = error.kind() {
            self.leave_if_demoted(connection, kind);
        }
        Failed {
            trouble: dropped.then_some(Trouble::Dropped),
            ..self.failed(error)
        }
    }

    /// What the server said of one command in a pipeline.
    pub(crate) fn refused(&self, error: ServerError) -> Failed {
        self.failed(error.into())
    }

    fn failed(&self, error: RedisError) -> Failed {
        Failed::of(&self.address, error)
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

/// Returns once an attempt to connect has been refused, or was a moment ago.
async fn refusal(failures: &mut watch::Receiver<Option<Failure>>, moment: Duration) {
    let is_refused = |failure: &Option<Failure>| {
        let failure = failure.as_ref();
        failure.is_some_and(|Failure { error, at }| is_definite(error) && at.elapsed() < moment)
    };
    loop {
        if is_refused(&failures.borrow_and_update()) {
            return;
        }
        if failures.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Whether the next attempt to connect will most likely fail too: nothing listens there, or the server has said no.
fn is_definite(error: &RedisError) -> bool {
    let said_no = matches!(
        error.code(),
        Some("ERR" | "NOAUTH" | "WRONGPASS" | "NOPERM")
    );
    said_no
        || error.is_connection_refusal()
        || error.kind() == ErrorKind::AuthenticationFailed
        || is_providers(error)
        || handshake_advice(error).is_some()
}
