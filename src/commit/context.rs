//! The context of a commit: the store, the settings, and the client's network.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::commit::backend::Backend;
use crate::commit::join::Joining;
use crate::config::SessionConfig;
use crate::event::{Event, Log, Observer};
use crate::lock::assert_none_held;
use crate::record::Record;
use crate::record::context::ApplyContext;
use crate::record::fingerprint::{Fingerprinting, Network};
use crate::record::lifetime::{BrowserCookie, CookieLife, Idle, Renewal, renewal};
use crate::time::Millis;
use crate::time::deadline::deadline;
use crate::token::{Secret, SecretHash, Token};

/// The settings of a layer, and the observer of its events.
#[derive(Clone)]
pub(crate) struct Policy {
    pub(crate) config: SessionConfig,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    log: Arc<Log>,
}

impl Policy {
    pub(crate) fn new(config: SessionConfig) -> Self {
        Self {
            config,
            observer: None,
            log: Arc::default(),
        }
    }

    /// Logs an event, counts it, and passes it to the observer.
    pub(crate) fn emit(&self, event: &Event) {
        assert_none_held();
        self.log.write(event);
        #[cfg(feature = "metrics")]
        crate::metrics::count(event);
        self.notify(event);
    }

    /// Passes an event to the observer.
    pub(crate) fn notify(&self, event: &Event) {
        if let Some(observer) = &self.observer {
            // Events are emitted in the middle of commits, which a panic of the observer must not break.
            let result = catch_unwind(AssertUnwindSafe(|| observer.on_event(event)));
            if result.is_err() {
                tracing::error!(target: "sessile", event = event.name(), "the observer panicked");
            }
        }
    }

    /// The idle timeout of a session.
    pub(crate) fn idle_timeout(&self, record: &Record) -> Duration {
        record.idle_timeout.unwrap_or(self.config.idle_timeout)
    }

    /// How long a session lives without being used, as the last commit has left it.
    pub(crate) fn idle(&self, record: &Record) -> Idle {
        Idle {
            timeout: self.idle_timeout(record),
            is_full: record.full_idle_timeout,
        }
    }

    /// How long a session lives without being used once this layer has committed it.
    pub(crate) fn idle_after_commit(&self, record: &Record) -> Idle {
        Idle {
            is_full: self.config.full_idle_timeout,
            ..self.idle(record)
        }
    }

    /// How long the browser keeps the cookie of this session, if that is persistent.
    pub(crate) fn cookie_life(&self, record: &Record) -> Option<CookieLife> {
        let rolls = self.config.cookie.rolling.then(|| self.idle(record));
        CookieLife::of(record, rolls)
    }

    /// The cookie in a browser that has sent a token of this session. A request that does not prolong the session does not prolong
    /// a rolling cookie either.
    pub(crate) fn browser_cookie(&self, record: &Record, now: Millis) -> BrowserCookie {
        let mut cookie = BrowserCookie::of(record, self.cookie_life(record), now);
        cookie.is_old &= self.config.renewal || !self.config.cookie.rolling;
        cookie
    }

    /// The renewal that is due after a load, if any. Without [`renewal`](SessionConfig::renewal) only one that shortens the time
    /// to live is.
    pub(crate) fn renewal(
        &self,
        time_left: Option<Duration>,
        record: &Record,
        now: Millis,
    ) -> Option<Renewal> {
        renewal(time_left, self.idle(record), record.deadline, now)
            .filter(|due| self.config.renewal || matches!(due, Renewal::Set(_)))
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The parts of the layer and of the request that a commit uses.
#[derive(Clone, Debug)]
pub(crate) struct CommitContext {
    pub(crate) backend: Arc<Backend>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) network: Option<Network>,
    /// The earliest time at which the request may have begun, by the store's clock.
    pub(crate) began: SystemTime,
}

impl CommitContext {
    /// The context in which changes are applied now.
    pub(crate) fn apply_context(&self) -> ApplyContext {
        self.apply_context_at(self.backend.now())
    }

    pub(crate) fn apply_context_at(&self, now: Millis) -> ApplyContext {
        let config = &self.policy.config;
        let bind = config.fingerprinting != Fingerprinting::Off;
        ApplyContext {
            now,
            absolute_timeout: config.absolute_timeout,
            persistent: config.persistent,
            network: self.network.filter(|_| bind),
        }
    }

    /// A login of this principal, by a request that carries this token.
    pub(crate) fn joining(&self, who: &str, token: &Token) -> Joining {
        Joining {
            who: who.into(),
            secret: self.hash(&token.secret),
            fingerprinting: self.policy.config.fingerprinting,
            network: self.network,
        }
    }

    /// The hash of a secret, as the record stores it.
    pub(crate) fn hash(&self, secret: &Secret) -> SecretHash {
        let namespace = self.backend.store.namespace();
        secret.hash(namespace, &self.policy.config.cookie.name)
    }

    pub(crate) fn emit(&self, event: &Event) {
        self.policy.emit(event);
    }

    /// The deadline of work that begins now: the request budget of the store, from now on.
    pub(crate) fn deadline(&self) -> Instant {
        deadline(Instant::now(), self.backend.request_budget())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    pub(crate) fn context() -> CommitContext {
        context_of(SessionConfig::default())
    }

    #[test]
    fn without_renewal_a_time_to_live_is_only_shortened() {
        let mut record = crate::record::tests::record();
        record.deadline = Millis::MAX;
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        for (left, due) in [
            (Some(20), None),
            (Some(10), Some(Renewal::Extend(minutes(30)))),
            (Some(40), Some(Renewal::Set(minutes(30)))),
            (None, Some(Renewal::Set(minutes(30)))),
        ] {
            for renewal in [true, false] {
                let policy = Policy::new(SessionConfig::default().with_renewal(renewal));
                let extends = matches!(due, Some(Renewal::Extend(_)));
                let expected = due.filter(|_| renewal || !extends);
                let found = policy.renewal(left.map(minutes), &record, 0);
                assert_eq!(found, expected, "{left:?} {renewal}");
            }
        }
    }

    /// The context of commits under these settings.
    pub(crate) fn context_of(config: SessionConfig) -> CommitContext {
        CommitContext {
            backend: Arc::new(Backend::new(Box::new(MemoryStore::new()))),
            policy: Arc::new(Policy::new(config)),
            network: None,
            began: SystemTime::now(),
        }
    }
}
