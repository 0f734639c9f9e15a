//! Makes connections to Redis, and tells which are no good any more.
//!
//! bb8 keeps them, with a manager of our own: bb8-redis's sets no timeout, sends a PING at every check-out, and never
//! finds a connection broken. A connection is multiplexed, so it is cloned out of bb8's guard, which is given back at
//! once; bb8 is in effect a list of sockets that is walked in turn.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bb8_redis::bb8::{ErrorSink, ManageConnection};
#[cfg(feature = "cluster")]
use redis::Value;
use redis::{ErrorKind, RedisError};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::store::redis::config::RedisConfig;
use crate::store::redis::credentials::Credentials;
use crate::store::redis::error::without_arguments;
use crate::store::redis::link::{Link, Source, To};
use crate::store::redis::login::{Login, blame_provider, is_providers, is_refusal};
use crate::store::redis::request::Request;
use crate::store::redis::throttle::Throttle;
use crate::store::redis::tls::handshake_advice;

/// One socket: shared, unless it is of the second pool.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) link: Link,
    pub(crate) health: Arc<Health>,
}

pub(crate) struct Health {
    /// Connections of an earlier generation than the pool's are not used any more.
    pub(crate) generation: u64,
    pub(crate) broken: Arc<AtomicBool>,
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
    pub(crate) timeout: Duration,
    pub(crate) shared: Arc<Shared>,
}

/// The servers' time, as it was last heard. The nodes of a cluster have one.
#[derive(Default)]
pub(crate) struct Clock(RwLock<Option<(std::time::Instant, SystemTime)>>);

/// What all connections to a server share.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) clock: Arc<Clock>,
    pub(crate) generation: AtomicU64,
    /// How the last attempt to connect failed; `None` once one has worked.
    pub(crate) failure: watch::Sender<Option<Failure>>,
    /// When connections were last given up because the server is no primary any more.
    pub(crate) left: Throttle,
    /// When it was last tried whether a new connection is better than a silent one.
    pub(crate) compared: Throttle,
}

/// An attempt to connect that failed.
#[derive(Clone)]
pub(crate) struct Failure {
    pub(crate) error: Arc<RedisError>,
    pub(crate) at: Instant,
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
        let mut link = self.source.open(credentials, limit).await?;
        // Proves that the server answers this user, and tells its time.
        let time = link.ask(&Request::Command(&redis::cmd("TIME"))).await?;
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
                .and_then(|(login, credentials)| login.keep(&link, credentials, &alone, &broken)),
            broken,
            dirty: AtomicBool::new(false),
            alone,
        };
        Ok(Connection {
            link,
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
        self.link.ask(request).await
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
    pub(crate) fn is_usable(&self, connection: &Connection) -> bool {
        let health = &connection.health;
        !health.broken.load(Ordering::Acquire)
            && !health.dirty.load(Ordering::Acquire)
            && health.generation >= self.generation.load(Ordering::Acquire)
    }
}

/// Hears of connections that bb8 could not make.
pub(crate) struct Failures(pub(crate) Arc<Shared>);

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

/// Returns once an attempt to connect has been refused, or was a moment ago.
pub(crate) async fn refusal(failures: &mut watch::Receiver<Option<Failure>>, moment: Duration) {
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
pub(crate) fn is_definite(error: &RedisError) -> bool {
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
