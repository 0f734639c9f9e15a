//! Logging in with credentials that change.
//!
//! The client's own way to do this will not do: it sends `AUTH` on a connection whatever else is under way there, and between
//! MULTI and EXEC that would be queued as a command of the transaction; it gives up for good after the first refusal; and it
//! sends the credentials to sentinels too.

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

/// [`CredentialsProvider`] behind a pointer, so that stores need no type parameter.
trait AnyProvider: Send + Sync {
    fn ask(self: Arc<Self>) -> Pin<Box<dyn Future<Output = Result<Credentials, BoxError>> + Send>>;
}

impl<P: CredentialsProvider> AnyProvider for P {
    fn ask(self: Arc<Self>) -> Pin<Box<dyn Future<Output = Result<Credentials, BoxError>> + Send>> {
        Box::pin(async move { self.credentials().await })
    }
}

pub(crate) const PROVIDER_FAILED: &str = "the credentials provider failed";

/// Why there are no credentials: the provider's error, a panic or a timeout.
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

/// Whether a connection was not made because the provider failed.
pub(crate) fn is_providers(error: &RedisError) -> bool {
    wrapped::<ProviderFailed>(error).is_some()
}

/// The message of the error when the server refuses the provider's credentials.
pub(crate) const REFUSED: &str = "the server refused the credentials of the provider";

/// How long a call may take, whoever still waits for it: identities of a cloud are slow at first.
const LONGEST_CALL: Duration = Duration::from_secs(30);
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

type Answer = Result<Arc<Credentials>, ProviderFailed>;

/// The provider, and what it said last.
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
    /// The call under way, and its answer once there is one.
    call: Option<watch::Receiver<Option<Answer>>>,
    /// What the server did not take, and when.
    refused: Option<(Arc<Credentials>, Instant)>,
}

struct Latest {
    asked: Instant,
    answered: Instant,
    answer: Answer,
}

impl Latest {
    /// Whether it may answer a call that was made at `since`.
    fn serves(&self, since: Instant, now: Instant) -> bool {
        let is_good = |credentials: &Arc<Credentials>| {
            credentials.renew_at.is_some_and(|renew_at| now < renew_at)
        };
        let is_new = self.answered >= since || now < self.answered + SECOND;
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

    /// The credentials to log in with now, within what is left of `connection_timeout`.
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
                Some(latest) if latest.serves(now, now) => return latest.answer.clone(),
                _ => {}
            }
            // A runtime that has ended has taken its call along.
            let under_way = state.call.clone().filter(|call| call.has_changed().is_ok());
            under_way.unwrap_or_else(|| self.ask(&mut state))
        };
        match call.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(answer)) => answer.clone(),
            _ => Err(ProviderFailed::new("it was stopped")),
        }
    }

    /// Calls the provider, in a task of its own: whoever connects may give up sooner, and does not panic with it.
    fn ask(self: &Arc<Self>, state: &mut State) -> watch::Receiver<Option<Answer>> {
        let (sender, call) = watch::channel(None);
        let login = Arc::clone(self);
        tokio::spawn(async move {
            let asked = Instant::now();
            let asking = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&login.provider).ask()));
            let answer = match timeout(LONGEST_CALL, asking).await {
                Ok(Ok(answer)) => answer.map(Arc::new).map_err(ProviderFailed::new),
                Ok(Err(_)) => Err(ProviderFailed::new("it panicked")),
                Err(_) => Err(ProviderFailed::new(format!(
                    "no answer within {LONGEST_CALL:?}"
                ))),
            };
            let mut state = login.lock();
            state.call = None;
            state.latest = Some(Latest {
                asked,
                answered: Instant::now(),
                answer: answer.clone(),
            });
            drop(state);
            sender.send_replace(Some(answer));
        });
        state.call = Some(call.clone());
        call
    }

    /// Has new ones asked for, as the server does not take these. Returns whether there may be others: these were asked for
    /// before `since`, or somebody has had new ones asked for already.
    pub(crate) fn forget(&self, refused: &Arc<Credentials>, since: Instant) -> bool {
        let mut state = self.lock();
        let is_refused = |latest: &Latest| {
            let answer = latest.answer.as_ref();
            answer.is_ok_and(|credentials| Arc::ptr_eq(credentials, refused))
        };
        let Some(asked) = state.latest.as_ref().filter(|latest| is_refused(latest)) else {
            return true;
        };
        let is_old = asked.asked < since;
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

    /// Logs a connection in again whenever its credentials are about to expire, until it is dropped; `None` if they do not.
    ///
    /// `alone` is held by whoever has the connection to himself, and opens transactions on it.
    pub(crate) fn keep(
        self: &Arc<Self>,
        link: &Link,
        credentials: &Credentials,
        alone: &Arc<AsyncMutex<()>>,
        broken: &Arc<AtomicBool>,
    ) -> Option<AbortOnDropHandle<()>> {
        let due = credentials.renew_at?;
        let session = LoggedIn {
            login: Arc::clone(self),
            link: link.clone(),
            alone: Arc::clone(alone),
            broken: Arc::clone(broken),
        };
        Some(AbortOnDropHandle::new(tokio::spawn(session.keep(due))))
    }
}

/// A connection that is logged in for a time.
struct LoggedIn {
    login: Arc<Login>,
    link: Link,
    alone: Arc<AsyncMutex<()>>,
    broken: Arc<AtomicBool>,
}

impl LoggedIn {
    async fn keep(mut self, mut due: Instant) {
        let mut fruitless = 0;
        loop {
            sleep_until(due).await;
            match self.log_in_again().await {
                Ok(None) => return,
                Ok(Some(renew_at)) => {
                    fruitless = if renew_at > Instant::now() {
                        0
                    } else {
                        fruitless + 1
                    };
                    due = renew_at;
                }
                // It is replaced by one that logs in anew.
                Err(error) if error.is_connection_dropped() || error.is_timeout() => {
                    self.broken.store(true, Ordering::Release);
                    return;
                }
                Err(error) => {
                    fruitless += 1;
                    if self.login.warned.admits(SECOND) {
                        tracing::warn!(target: "sessile", %error, "a connection to Redis could not log in with new credentials: it stays as it is, and this is tried again");
                    }
                }
            }
            due = due.max(Instant::now() + pause(fruitless));
        }
    }

    /// Returns when it is to be done again.
    async fn log_in_again(&mut self) -> Result<Option<Instant>, RedisError> {
        let began = Instant::now();
        let credentials = self.login.latest().await?;
        let mut auth = redis::cmd("AUTH");
        auth.arg(credentials.username.as_str())
            .arg(credentials.password.as_str());
        let alone = self.alone.lock().await;
        let request = Request::Command(&auth);
        let answer = timeout(self.login.command_timeout, self.link.ask(&request)).await;
        drop(alone);
        let answer = match answer {
            Ok(answer) => answer.and_then(Value::extract_error),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        };
        match answer {
            Ok(_) => Ok(credentials.renew_at),
            Err(error) => {
                if is_refusal(&error) {
                    self.login.forget(&credentials, began);
                }
                Err(without_arguments(error))
            }
        }
    }
}

/// How long to wait at least after this many attempts in a row without fresh credentials.
fn pause(fruitless: u32) -> Duration {
    let doubled = SHORTEST_PAUSE.saturating_mul(1 << fruitless.saturating_sub(1).min(5));
    doubled.min(LONGEST_PAUSE)
}

/// Whether the server does not take the credentials.
pub(crate) fn is_refusal(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("WRONGPASS" | "NOAUTH"))
}

/// The error with the provider named in it, if the server does not take the credentials: they are not in `url`.
pub(crate) fn blame_provider(error: RedisError) -> RedisError {
    match is_refusal(&error) {
        true => (ErrorKind::AuthenticationFailed, REFUSED).into(),
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
        asked: Arc<AtomicU32>,
        takes: Duration,
        valid_for: Option<Duration>,
        fails: bool,
    }

    impl CredentialsProvider for Counting {
        async fn credentials(&self) -> Result<Credentials, BoxError> {
            let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
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
        let asked = Arc::new(AtomicU32::new(0));
        let provider = Counting {
            asked: Arc::clone(&asked),
            takes: Duration::from_millis(takes),
            valid_for: valid_for.map(Duration::from_secs),
            fails,
        };
        (Login::new(provider, &RedisConfig::default()), asked)
    }

    async fn password(login: &Arc<Login>) -> String {
        login.credentials(LIMIT).await.unwrap().password.to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_without_an_end_are_asked_for_at_every_connection() {
        for fails in [false, true] {
            let (login, asked) = login(10, None, fails);
            for (wait, calls) in [(0, 1), (500, 1), (499, 1), (1, 2), (5000, 3)] {
                tokio::time::sleep(Duration::from_millis(wait)).await;
                assert_eq!(login.credentials(LIMIT).await.is_err(), fails);
                assert_eq!(asked.load(Ordering::SeqCst), calls, "{wait}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_that_expire_are_kept_for_three_quarters_of_their_time() {
        let (login, _) = login(0, Some(100), false);
        for (wait, expected) in [(0, "1"), (74, "1"), (1, "2"), (74, "2"), (1000, "3")] {
            tokio::time::sleep(Duration::from_secs(wait)).await;
            assert_eq!(password(&login).await, expected, "{wait}");
        }
        let refused = login.credentials(LIMIT).await.unwrap();
        tokio::time::sleep(LIMIT).await;
        assert!(login.forget(&refused, Instant::now()));
        assert_eq!(password(&login).await, "4");
        // It is gone already, and the next one is not refused.
        assert!(login.forget(&refused, Instant::now()));
        assert_eq!(password(&login).await, "4");
        // Nothing newer can be had at once.
        let fresh = login.credentials(LIMIT).await.unwrap();
        assert!(!login.forget(&fresh, Instant::now()));
        assert_eq!(password(&login).await, "5");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_again_and_again_is_asked_for_once_a_second() {
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
            login.forget(&refused, Instant::now());
            tokio::time::sleep(LIMIT / 100).await;
        }
        let asked = provider.0.load(Ordering::SeqCst);
        assert!((10..=12).contains(&asked), "{asked}");
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_are_made_together_ask_once() {
        for fails in [false, true] {
            let (login, asked) = login(900, None, fails);
            let all = (0..16).map(|_| login.credentials(LIMIT));
            let answers = futures_util::future::join_all(all).await;
            assert!(answers.iter().all(|answer| answer.is_err() == fails));
            assert_eq!(asked.load(Ordering::SeqCst), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_hangs_is_named_after_the_connection_timeout() {
        let (login, asked) = login(u64::MAX / 2, None, false);
        let began = Instant::now();
        let error = RedisError::from(login.credentials(LIMIT).await.unwrap_err());
        assert_eq!(began.elapsed().as_secs(), 1);
        assert!(is_providers(&error), "{error:?}");
        let text = error.to_string();
        assert!(text.starts_with(PROVIDER_FAILED), "{text}");
        assert!(text.contains("connection_timeout = 1s"), "{text}");
        // The call goes on for others to wait for, and is given up in the end.
        login.credentials(LIMIT).await.unwrap_err();
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        let error = login.latest().await.unwrap_err().to_string();
        assert!(error.contains("30s"), "{error}");
        tokio::time::sleep(LIMIT).await;
        login.credentials(LIMIT).await.unwrap_err();
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_is_slow_serves_the_next_connection() {
        let (login, asked) = login(1500, Some(100), false);
        login.credentials(LIMIT).await.unwrap_err();
        assert_eq!(password(&login).await, "1");
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn attempts_in_vain_are_made_less_and_less_often() {
        let pauses: Vec<_> = (0..8).map(|fruitless| pause(fruitless).as_secs()).collect();
        assert_eq!(pauses, [1, 1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }

    #[test]
    fn credentials_are_never_shown_and_end_at_any_time() {
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
