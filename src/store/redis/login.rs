//! Logs in with credentials from a provider, and again before they expire.
//!
//! The client's own support for this does not fit: it sends `AUTH` on a connection whatever else is under way there, and
//! between MULTI and EXEC the server would queue it as a command of the transaction; it gives up for good after the first
//! failure; and it sends the credentials to sentinels too.
//!
//! `Login::credentials` supplies credentials for a new connection, `Login::discard` drops refused ones, and
//! `Login::keep_logged_in` starts the task that logs an open connection in again.

use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{ErrorKind, RedisError, Value};
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::store::redis::config::RedisConfig;
use crate::store::redis::credentials::{Credentials, CredentialsProvider};
use crate::store::redis::error::{without_arguments, wrapped};
use crate::store::redis::link::Link;
use crate::store::redis::request::Request;
use crate::store::redis::throttle::{SECOND, Throttle};

type BoxError = Box<dyn Error + Send + Sync>;

/// [`CredentialsProvider`] as a trait object, so that stores need no type parameter.
trait AnyProvider: Send + Sync {
    fn call(self: Arc<Self>)
    -> Pin<Box<dyn Future<Output = Result<Credentials, BoxError>> + Send>>;
}

impl<P: CredentialsProvider> AnyProvider for P {
    fn call(
        self: Arc<Self>,
    ) -> Pin<Box<dyn Future<Output = Result<Credentials, BoxError>> + Send>> {
        Box::pin(async move { self.credentials().await })
    }
}

pub(crate) const PROVIDER_FAILED: &str = "the credentials provider failed";

/// The provider's error, its panic or a timeout.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the credentials provider failed: {0}")]
pub(crate) struct ProviderFailed(#[source] Arc<dyn Error + Send + Sync>);

impl ProviderFailed {
    fn new(error: impl Into<BoxError>) -> Self {
        let error: BoxError = error.into();
        Self(error.into())
    }
}

impl From<ProviderFailed> for RedisError {
    fn from(failed: ProviderFailed) -> Self {
        io::Error::other(failed).into()
    }
}

/// Whether a connection failed because the provider did.
pub(crate) fn is_provider_error(error: &RedisError) -> bool {
    wrapped::<ProviderFailed>(error).is_some()
}

/// The message of the error when the server refuses the provider's credentials.
pub(crate) const CREDENTIALS_REFUSED: &str = "the server refused the credentials of the provider";

/// How long one call to the provider may take, even if no connection waits for it: cloud identities are slow at first.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

type Answer = Result<Arc<Credentials>, ProviderFailed>;

/// The provider, and its latest answer.
pub(crate) struct Login {
    provider: Arc<dyn AnyProvider>,
    state: Mutex<State>,
    warned: Throttle,
    connection_timeout: Duration,
    command_timeout: Duration,
}

#[derive(Default)]
struct State {
    latest: Option<Latest>,
    /// The call under way, which receives the answer.
    call: Option<watch::Receiver<Option<Answer>>>,
    /// The credentials that the server refused last, and when.
    refused: Option<(Arc<Credentials>, Instant)>,
}

struct Latest {
    asked_at: Instant,
    answered_at: Instant,
    answer: Answer,
}

impl Latest {
    /// Whether this answer may serve a connection that was requested at `since`.
    fn is_valid_for(&self, since: Instant, now: Instant) -> bool {
        let is_good = |credentials: &Arc<Credentials>| {
            credentials.renew_at.is_some_and(|renew_at| now < renew_at)
        };
        let is_new = self.answered_at >= since || now < self.answered_at + SECOND;
        is_new || self.answer.as_ref().is_ok_and(is_good)
    }
}

impl Login {
    pub(crate) fn new(provider: impl CredentialsProvider, config: &RedisConfig) -> Arc<Self> {
        Arc::new(Self {
            provider: Arc::new(provider),
            state: Mutex::default(),
            warned: Throttle::default(),
            connection_timeout: config.connection_timeout,
            command_timeout: config.command_timeout,
        })
    }

    /// The credentials for a new connection, within the rest of `connection_timeout`.
    pub(crate) async fn credentials(self: &Arc<Self>, left: Duration) -> Answer {
        match timeout(left, self.latest()).await {
            Ok(answer) => answer,
            Err(_) => Err(ProviderFailed::new(format!(
                "no answer within connection_timeout = {:?}",
                self.connection_timeout
            ))),
        }
    }

    async fn latest(self: &Arc<Self>) -> Answer {
        let mut call = {
            let mut state = self.lock();
            let now = Instant::now();
            match &state.latest {
                Some(latest) if latest.is_valid_for(now, now) => return latest.answer.clone(),
                _ => {}
            }
            // If the runtime of the call has shut down, so has the call.
            let under_way = state.call.clone().filter(|call| call.has_changed().is_ok());
            under_way.unwrap_or_else(|| self.call_provider(&mut state))
        };
        match call.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(answer)) => answer.clone(),
            _ => Err(ProviderFailed::new("it was stopped")),
        }
    }

    /// Calls the provider in a task of its own: the call outlives a connection that stops waiting, and a panic does not spread.
    fn call_provider(self: &Arc<Self>, state: &mut State) -> watch::Receiver<Option<Answer>> {
        let (sender, call) = watch::channel(None);
        let login = Arc::clone(self);
        tokio::spawn(async move {
            let asked_at = Instant::now();
            let asking = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&login.provider).call()));
            let answer = match timeout(CALL_TIMEOUT, asking).await {
                Ok(Ok(answer)) => answer.map(Arc::new).map_err(ProviderFailed::new),
                Ok(Err(_)) => Err(ProviderFailed::new("it panicked")),
                Err(_) => Err(ProviderFailed::new(format!(
                    "no answer within {CALL_TIMEOUT:?}"
                ))),
            };
            let mut state = login.lock();
            state.call = None;
            state.latest = Some(Latest {
                asked_at,
                answered_at: Instant::now(),
                answer: answer.clone(),
            });
            drop(state);
            sender.send_replace(Some(answer));
        });
        state.call = Some(call.clone());
        call
    }

    /// Discards credentials that the server has refused. Returns whether another attempt may get other credentials: these were
    /// requested before `since`, or have been discarded already.
    pub(crate) fn discard(&self, refused: &Arc<Credentials>, since: Instant) -> bool {
        let mut state = self.lock();
        let is_refused = |latest: &Latest| {
            let answer = latest.answer.as_ref();
            answer.is_ok_and(|credentials| Arc::ptr_eq(credentials, refused))
        };
        let Some(latest) = state.latest.as_ref().filter(|latest| is_refused(latest)) else {
            return true;
        };
        let is_old = latest.asked_at < since;
        let is_the_same = |(before, at): &(Arc<Credentials>, Instant)| {
            at.elapsed() < SECOND && before.is_same(refused)
        };
        if state.refused.as_ref().is_some_and(is_the_same) {
            return false;
        }
        state.refused = Some((Arc::clone(refused), Instant::now()));
        state.latest = None;
        is_old
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a task that logs a connection in again whenever its credentials are about to expire; returns `None` if they do not.
    /// Dropping the handle stops the task.
    ///
    /// A request that uses the connection alone, and may open transactions on it, holds `auth_lock`.
    pub(crate) fn keep_logged_in(
        self: &Arc<Self>,
        link: &Link,
        credentials: &Credentials,
        auth_lock: &Arc<AsyncMutex<()>>,
        broken: &Arc<AtomicBool>,
    ) -> Option<AbortOnDropHandle<()>> {
        let due = credentials.renew_at?;
        let session = LoggedIn {
            login: Arc::clone(self),
            link: link.clone(),
            auth_lock: Arc::clone(auth_lock),
            broken: Arc::clone(broken),
        };
        Some(AbortOnDropHandle::new(tokio::spawn(session.run(due))))
    }
}

/// A connection whose credentials expire.
struct LoggedIn {
    login: Arc<Login>,
    link: Link,
    auth_lock: Arc<AsyncMutex<()>>,
    broken: Arc<AtomicBool>,
}

impl LoggedIn {
    async fn run(mut self, mut due: Instant) {
        let mut failures = 0;
        loop {
            sleep_until(due).await;
            match self.log_in_again().await {
                Ok(None) => return,
                Ok(Some(renew_at)) => {
                    failures = if renew_at > Instant::now() {
                        0
                    } else {
                        failures + 1
                    };
                    due = renew_at;
                }
                // The pool replaces a broken connection, and the new one logs in anew.
                Err(error) if error.is_connection_dropped() || error.is_timeout() => {
                    self.broken.store(true, Ordering::Release);
                    return;
                }
                Err(error) => {
                    failures += 1;
                    if self.login.warned.admits(SECOND) {
                        tracing::warn!(target: "sessile", %error, "a connection to Redis could not log in with new credentials: it keeps its login, and sessile tries again");
                    }
                }
            }
            due = due.max(Instant::now() + pause(failures));
        }
    }

    /// Returns when to log in the next time; `None` if the credentials do not expire.
    async fn log_in_again(&mut self) -> Result<Option<Instant>, RedisError> {
        let began = Instant::now();
        let credentials = self.login.latest().await?;
        let mut auth = redis::cmd("AUTH");
        auth.arg(credentials.username.as_str())
            .arg(credentials.password.as_str());
        let auth_lock = self.auth_lock.lock().await;
        let request = Request::Command(&auth);
        let answer = timeout(self.login.command_timeout, self.link.send(&request)).await;
        drop(auth_lock);
        let answer = match answer {
            Ok(answer) => answer.and_then(Value::extract_error),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        };
        match answer {
            Ok(_) => Ok(credentials.renew_at),
            Err(error) => {
                if is_refusal(&error) {
                    self.login.discard(&credentials, began);
                }
                Err(without_arguments(error))
            }
        }
    }
}

/// The minimum wait after this many consecutive attempts without fresh credentials.
fn pause(failures: u32) -> Duration {
    let doubled = MIN_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(5));
    doubled.min(MAX_PAUSE)
}

/// Whether the server refuses the credentials.
pub(crate) fn is_refusal(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("WRONGPASS" | "NOAUTH"))
}

/// Replaces a refusal of the credentials by an error that names the provider, since the credentials are not in `url`.
pub(crate) fn name_provider(error: RedisError) -> RedisError {
    match is_refusal(&error) {
        true => (ErrorKind::AuthenticationFailed, CREDENTIALS_REFUSED).into(),
        false => error,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    /// Numbers its answers.
    struct Counting {
        calls: Arc<AtomicU32>,
        takes: Duration,
        valid_for: Option<Duration>,
        fails: bool,
    }

    impl CredentialsProvider for Counting {
        async fn credentials(&self) -> Result<Credentials, BoxError> {
            let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::time::sleep(self.takes).await;
            if self.fails {
                return Err(format!("no token {number}").into());
            }
            let credentials = Credentials::new("app", number.to_string());
            Ok(match self.valid_for {
                Some(time) => credentials.valid_for(time),
                None => credentials,
            })
        }
    }

    fn login(takes: u64, valid_for: Option<u64>, fails: bool) -> (Arc<Login>, Arc<AtomicU32>) {
        let calls = Arc::new(AtomicU32::new(0));
        let provider = Counting {
            calls: Arc::clone(&calls),
            takes: Duration::from_millis(takes),
            valid_for: valid_for.map(Duration::from_secs),
            fails,
        };
        (Login::new(provider, &RedisConfig::default()), calls)
    }

    async fn password(login: &Arc<Login>) -> String {
        login.credentials(LIMIT).await.unwrap().password.to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn the_provider_is_asked_at_every_connection_if_credentials_do_not_expire() {
        for fails in [false, true] {
            let (login, calls) = login(10, None, fails);
            for (wait, expected) in [(0, 1), (500, 1), (499, 1), (1, 2), (5000, 3)] {
                tokio::time::sleep(Duration::from_millis(wait)).await;
                assert_eq!(login.credentials(LIMIT).await.is_err(), fails);
                assert_eq!(calls.load(Ordering::SeqCst), expected, "{wait}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_that_expire_are_reused_for_three_quarters_of_their_time() {
        let (login, _) = login(0, Some(100), false);
        for (wait, expected) in [(0, "1"), (74, "1"), (1, "2"), (74, "2"), (1000, "3")] {
            tokio::time::sleep(Duration::from_secs(wait)).await;
            assert_eq!(password(&login).await, expected, "{wait}");
        }
        let refused = login.credentials(LIMIT).await.unwrap();
        tokio::time::sleep(LIMIT).await;
        assert!(login.discard(&refused, Instant::now()));
        assert_eq!(password(&login).await, "4");
        // They are discarded already; the next ones are not refused.
        assert!(login.discard(&refused, Instant::now()));
        assert_eq!(password(&login).await, "4");
        // The credentials are as new as can be.
        let fresh = login.credentials(LIMIT).await.unwrap();
        assert!(!login.discard(&fresh, Instant::now()));
        assert_eq!(password(&login).await, "5");
    }

    #[tokio::test(start_paused = true)]
    async fn the_provider_is_asked_once_a_second_while_the_server_refuses_its_credentials() {
        struct Same(AtomicU32);
        impl CredentialsProvider for Arc<Same> {
            async fn credentials(&self) -> Result<Credentials, BoxError> {
                self.0.fetch_add(1, Ordering::SeqCst);
                Ok(Credentials::new("app", "same").valid_for(LIMIT * 3600))
            }
        }
        let provider = Arc::new(Same(AtomicU32::new(0)));
        let login = Login::new(Arc::clone(&provider), &RedisConfig::default());
        for _ in 0..1000 {
            let refused = login.credentials(LIMIT).await.unwrap();
            login.discard(&refused, Instant::now());
            tokio::time::sleep(LIMIT / 100).await;
        }
        let calls = provider.0.load(Ordering::SeqCst);
        assert!((10..=12).contains(&calls), "{calls}");
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_open_together_share_one_call() {
        for fails in [false, true] {
            let (login, calls) = login(900, None, fails);
            let all = (0..16).map(|_| login.credentials(LIMIT));
            let answers = futures_util::future::join_all(all).await;
            assert!(answers.iter().all(|answer| answer.is_err() == fails));
            assert_eq!(calls.load(Ordering::SeqCst), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_names_a_provider_that_hangs() {
        let (login, calls) = login(u64::MAX / 2, None, false);
        let began = Instant::now();
        let error = RedisError::from(login.credentials(LIMIT).await.unwrap_err());
        assert_eq!(began.elapsed().as_secs(), 1);
        assert!(is_provider_error(&error), "{error:?}");
        let text = error.to_string();
        assert!(text.starts_with(PROVIDER_FAILED), "{text}");
        assert!(text.contains("connection_timeout = 1s"), "{text}");
        // The call continues for later connections, and times out in the end.
        login.credentials(LIMIT).await.unwrap_err();
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        let error = login.latest().await.unwrap_err().to_string();
        assert!(error.contains("30s"), "{error}");
        tokio::time::sleep(LIMIT).await;
        login.credentials(LIMIT).await.unwrap_err();
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_of_the_provider_serves_the_next_connection() {
        let (login, calls) = login(1500, Some(100), false);
        login.credentials(LIMIT).await.unwrap_err();
        assert_eq!(password(&login).await, "1");
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn the_pause_doubles_after_each_failed_attempt() {
        let pauses: Vec<_> = (0..8).map(|failures| pause(failures).as_secs()).collect();
        assert_eq!(pauses, [1, 1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pause(u32::MAX), MAX_PAUSE);
    }

    #[test]
    fn debug_output_shows_no_credentials_however_long_they_are_valid() {
        let credentials = Credentials::new("mia", "s3cret");
        for time in [Duration::ZERO, Duration::from_secs(900), Duration::MAX] {
            let credentials = credentials.clone().valid_for(time);
            let shown = format!("{credentials:?}");
            assert!(
                !shown.contains("mia") && !shown.contains("s3cret"),
                "{shown}"
            );
        }
    }
}
