//! Opens connections to Redis, and tells which of them are unusable.
//!
//! bb8 pools them, with this manager instead of that of bb8-redis, which has no timeout, sends a PING at every check-out, and
//! never detects a broken connection.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use bb8_redis::bb8::{ErrorSink, ManageConnection};
#[cfg(feature = "cluster")]
use redis::Value;
use redis::{ErrorKind, RedisError};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::metrics::gauge::Present;
use crate::metrics::server::ServerMetrics;
use crate::store::redis::clock::{BETWEEN_SERVERS, Clock};
use crate::store::redis::config::RedisConfig;
use crate::store::redis::connector::{Connector, Target};
use crate::store::redis::credentials::Credentials;
use crate::store::redis::error::without_arguments;
use crate::store::redis::link::Link;
use crate::store::redis::login::{Login, is_provider_error, is_refusal, name_provider};
use crate::store::redis::request::Request;
use crate::store::redis::span::Peer;
use crate::store::redis::throttle::{SECOND, Throttle};
use crate::store::redis::tls::handshake_advice;

/// One socket: shared, unless it belongs to the second pool.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) link: Link,
    pub(crate) health: Arc<Health>,
}

pub(crate) struct Health {
    link: Link,
    /// Connections of an earlier generation than the pool's are retired.
    pub(crate) generation: u64,
    pub(crate) broken: Arc<AtomicBool>,
    /// A request uses it alone, or gave it up half-way: there may be a watched key, an open transaction or an unread reply.
    dirty: AtomicBool,
    /// When a request on it last got no answer in time.
    silent_at: Mutex<Option<Instant>>,
    /// Held by a request that uses the connection alone, and during an AUTH.
    auth_lock: Arc<AsyncMutex<()>>,
    /// The task that logs the connection in again; it ends with the connection.
    _login: Option<AbortOnDropHandle<()>>,
    _counted: Present,
}

/// Opens connections, for bb8.
#[derive(Clone)]
pub(crate) struct Manager {
    connector: Arc<Connector>,
    /// Supplies user and password, if the URL does not.
    login: Option<Arc<Login>>,
    pub(crate) timeout: Duration,
    pub(crate) peer: Arc<Peer>,
    pub(crate) metrics: Arc<ServerMetrics>,
    pub(crate) shared: Arc<Shared>,
}

/// The state that all connections to a server share.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) clock: Arc<Clock>,
    pub(crate) generation: AtomicU64,
    /// How the last attempt to connect failed; `None` after a success.
    pub(crate) failure: watch::Sender<Option<Failure>>,
    /// Limits how often connections are retired because the server is not a primary any more.
    pub(crate) retired: Throttle,
    /// Limits how often a silent connection is compared with a new one.
    pub(crate) checked: Throttle,
}

/// A failed attempt to connect.
#[derive(Clone)]
pub(crate) struct Failure {
    pub(crate) error: Arc<RedisError>,
    pub(crate) at: Instant,
}

impl Manager {
    pub(crate) fn new(to: Target, config: &RedisConfig, clock: Arc<Clock>) -> Self {
        let peer = Peer::of(&to);
        let shared = Shared {
            clock,
            ..Shared::default()
        };
        Self {
            connector: Arc::new(Connector::new(to, config.connection_timeout)),
            login: None,
            timeout: config.connection_timeout,
            metrics: Arc::new(ServerMetrics::new(&peer.to_string())),
            peer: Arc::new(peer),
            shared: Arc::new(shared),
        }
    }

    /// How far the clock of the next server may be from that of this one.
    pub(crate) fn between_servers(&self) -> Duration {
        match self.connector.follows_failovers() {
            true => BETWEEN_SERVERS,
            false => Duration::ZERO,
        }
    }

    /// Logs in with the credentials of a provider.
    pub(crate) fn with_login(mut self, login: Option<Arc<Login>>) -> Self {
        self.login = login;
        self
    }

    /// Connects with the credentials of a provider.
    async fn log_in(&self, login: &Arc<Login>) -> Result<Connection, RedisError> {
        let began = Instant::now();
        let left = || self.timeout.saturating_sub(began.elapsed());
        let mut first = true;
        loop {
            let credentials = login.credentials(left()).await?;
            let opened = within(left(), self.open(Some((login, &credentials)), left())).await;
            match opened {
                Err(error) if is_refusal(&error) => {
                    // The answer that the store had kept may be outdated.
                    let may_retry = login.discard(&credentials, began);
                    if !may_retry || !first || left().is_zero() {
                        return Err(name_provider(error));
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
        let mut link = self.connector.open(credentials, limit).await?;
        // Shows that the server answers this user, and reads its time.
        let asked = std::time::Instant::now();
        let time = link.send(&Request::Command(&redis::cmd("TIME"))).await?;
        let delay = asked.elapsed();
        let (secs, micros): (u64, u32) = redis::from_redis_value(time.extract_error()?)?;
        let since = Duration::from_secs(secs).saturating_add(Duration::from_micros(micros.into()));
        let now = UNIX_EPOCH.checked_add(since).ok_or_else(|| {
            let message = "the reply to TIME is not a time: is there a proxy between the application and Redis?";
            std::io::Error::new(std::io::ErrorKind::InvalidData, message)
        })?;
        self.shared.clock.set(now, delay);
        self.shared.failure.send_replace(None);
        let (auth_lock, broken) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let health = Health {
            link: link.clone(),
            generation,
            _login: login.and_then(|(login, credentials)| {
                login.keep_logged_in(&link, credentials, &auth_lock, &broken)
            }),
            broken,
            dirty: AtomicBool::new(false),
            silent_at: Mutex::default(),
            auth_lock,
            _counted: self.metrics.connected(),
        };
        Ok(Connection {
            link,
            health: Arc::new(health),
        })
    }
}

impl Connection {
    /// The connection that has this health.
    pub(crate) fn of(health: Arc<Health>) -> Self {
        Self {
            link: health.link.clone(),
            health,
        }
    }

    /// Sends a request without a timeout, and without the breaker.
    #[cfg(feature = "cluster")]
    pub(crate) async fn send(&mut self, request: &Request<'_>) -> Result<Value, RedisError> {
        self.link.send(request).await
    }

    pub(crate) fn set_dirty(&self, dirty: bool) {
        self.health.dirty.store(dirty, Ordering::Release);
    }

    pub(crate) fn note_silence(&self) {
        *self.silent_at() = Some(Instant::now());
    }

    /// Whether a request on it got no answer a moment ago, so that another connection is the better choice.
    pub(crate) fn was_silent(&self, now: Instant) -> bool {
        self.silent_at()
            .is_some_and(|at| now.duration_since(at) < SECOND)
    }

    fn silent_at(&self) -> MutexGuard<'_, Option<Instant>> {
        let silent_at = self.health.silent_at.lock();
        silent_at.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for an AUTH under way, and prevents others until the guard is dropped.
    pub(crate) async fn lock_auth(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.health.auth_lock).lock_owned().await
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
        connection.map_err(|error| {
            self.metrics.connect_failed();
            without_arguments(error)
        })
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
    pub(crate) fn is_usable(&self, connection: &Connection) -> bool {
        let health = &connection.health;
        !health.broken.load(Ordering::Acquire)
            && !health.dirty.load(Ordering::Acquire)
            && health.generation >= self.generation.load(Ordering::Acquire)
    }
}

/// Receives the errors of connections that bb8 could not open.
pub(crate) struct FailureSink(pub(crate) Arc<Shared>);

impl ErrorSink<RedisError> for FailureSink {
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

impl fmt::Debug for FailureSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailureSink").finish_non_exhaustive()
    }
}

/// Returns once an attempt to connect fails persistently, or if one did within the last `moment`.
pub(crate) async fn persistent_failure(
    failures: &mut watch::Receiver<Option<Failure>>,
    moment: Duration,
) {
    let is_recent = |failure: &Option<Failure>| {
        let failure = failure.as_ref();
        failure.is_some_and(|Failure { error, at }| is_persistent(error) && at.elapsed() < moment)
    };
    loop {
        if is_recent(&failures.borrow_and_update()) {
            return;
        }
        if failures.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Whether the next attempt to connect will most likely fail too: nothing listens there, or the server refuses.
pub(crate) fn is_persistent(error: &RedisError) -> bool {
    let refused = matches!(
        error.code(),
        Some("ERR" | "NOAUTH" | "WRONGPASS" | "NOPERM")
    );
    refused
        || error.is_connection_refusal()
        || error.kind() == ErrorKind::AuthenticationFailed
        || is_provider_error(error)
        || handshake_advice(error).is_some()
}
