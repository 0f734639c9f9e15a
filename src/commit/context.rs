//! The context of a commit: the store, the settings, and the client's network.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::commit::backend::Backend;
use crate::commit::join::Joining;
use crate::config::SessionConfig;
use crate::event::{Event, Log, Observer};
use crate::lock::assert_none_held;
use crate::metrics::requests::happened;
use crate::record::Record;
use crate::record::context::ApplyContext;
use crate::record::fingerprint::{Fingerprinting, Network};
use crate::record::lifetime::{BrowserCookie, CookieLife, Idle, Renewal, renewal};
use crate::record::token_check::{TokenCheck, check_token};
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
        happened(event);
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

/// When a request began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Began {
    /// The earliest time that it may have been, by the store's clock, if that was known.
    earliest: Option<SystemTime>,
    at: std::time::Instant,
}

impl Began {
    /// It begins now.
    pub(crate) fn now(backend: &Backend) -> Self {
        Self {
            earliest: backend.earliest_now(),
            at: std::time::Instant::now(),
        }
    }

    /// The earliest time that it may have been; `None` while the store does not know its clock.
    pub(crate) fn earliest(&self, backend: &Backend) -> Option<SystemTime> {
        let computed = || backend.earliest_now()?.checked_sub(self.at.elapsed());
        self.earliest.or_else(computed)
    }
}

/// The parts of the layer and of the request that a commit uses.
#[derive(Clone, Debug)]
pub(crate) struct CommitContext {
    pub(crate) backend: Arc<Backend>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) network: Option<Network>,
    pub(crate) began: Began,
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
            secrets: self.hashes(&token.secret),
            fingerprinting: self.policy.config.fingerprinting,
            network: self.network,
        }
    }

    /// The hash of a new secret, as the record stores it.
    pub(crate) fn hash(&self, secret: &Secret) -> SecretHash {
        let namespace = self.backend.store.namespace();
        secret.hash(namespace, &self.policy.config.secret_name())
    }

    /// The hashes of a secret under the former names of its cookie, in one of which the record may list it.
    fn former_hashes<'a>(&'a self, secret: &'a Secret) -> impl Iterator<Item = SecretHash> + 'a {
        let namespace = self.backend.store.namespace();
        let names = self.policy.config.former_secret_names().iter();
        names.map(move |name| secret.hash(namespace, name))
    }

    /// All hashes of a secret in one of which the record may list it.
    fn hashes(&self, secret: &Secret) -> SmallVec<[SecretHash; 1]> {
        let hash = std::iter::once(self.hash(secret));
        hash.chain(self.former_hashes(secret)).collect()
    }

    /// Checks a secret against a record, under the present name of the cookie and its former ones.
    pub(crate) fn check_secret(&self, record: &Record, secret: &Secret, now: Millis) -> TokenCheck {
        let check = |hash: SecretHash| check_token(record, &hash, now);
        let is_found = |found: &TokenCheck| *found != TokenCheck::Invalid;
        let present = check(self.hash(secret));
        if is_found(&present) {
            return present;
        }
        let mut former = self.former_hashes(secret).map(check);
        former.find(is_found).unwrap_or(TokenCheck::Invalid)
    }

    /// Whether the secret is valid or was replaced a moment ago, so that its holder may end the session.
    pub(crate) fn may_end(&self, record: &Record, secret: &Secret, now: Millis) -> bool {
        self.check_secret(record, secret, now) != TokenCheck::Invalid
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
    use crate::commit::decide::Entry;
    use crate::commit::join::entry;
    use crate::config::transport::{TokenHeader, Transport};
    use crate::record::kept::Kept;
    use crate::record::tests::record;
    use crate::record::version::Version;
    use crate::record::{Login, Retired};
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
            began: Began {
                earliest: None,
                at: std::time::Instant::now(),
            },
        }
    }

    fn named(name: &str, former: &[&str]) -> CommitContext {
        let mut config = SessionConfig::default();
        config.cookie.name = name.to_owned();
        config.cookie.former_names = former.iter().map(|&it| it.to_owned()).collect();
        context_of(config)
    }

    fn by_header(name: &str) -> CommitContext {
        let header = TokenHeader::default().with_request(name);
        context_of(SessionConfig::default().with_transport(Transport::Header(header)))
    }

    #[test]
    fn a_secret_is_checked_under_the_present_name_and_the_former_ones() {
        let token = Token::random();
        let contexts = || {
            [
                ("new", named("new", &["old"])),
                ("old", named("old", &["new"])),
                ("third", named("third", &["new", "old"])),
                ("unrelated", named("third", &[])),
                ("header", by_header("authorization")),
            ]
        };
        for (issuer, valid) in [("new", 3), ("old", 3), ("third", 2), ("header", 1)] {
            let issued_by = contexts().into_iter().find(|(name, _)| *name == issuer);
            let (_, issued_by) = issued_by.unwrap();
            let (mut current, mut retired, mut signed_in) = (record(), record(), record());
            let hash = issued_by.hash(&token.secret);
            current.secret = hash.clone();
            retired.retired.push(Kept::new(Retired {
                secret: hash.clone(),
                until: 20_000,
            }));
            signed_in.principal = Some("mia".into());
            signed_in.version = Version::first();
            signed_in.login = Some(Login {
                version: signed_in.version,
                retired: vec![hash],
            });
            let mut accepting = 0;
            for (name, context) in contexts() {
                let current = context.check_secret(&current, &token.secret, 1);
                let retired = context.check_secret(&retired, &token.secret, 1);
                let is_accepted = current == TokenCheck::Valid;
                let expected = match is_accepted {
                    true => TokenCheck::Retired,
                    false => TokenCheck::Invalid,
                };
                assert_eq!(retired, expected, "{issuer} {name}");
                let joining = context.joining("mia", &token);
                let joins = entry(None, Some(&joining), &signed_in) != Entry::OtherEpoch;
                assert_eq!(joins, is_accepted, "{issuer} {name}");
                accepting += usize::from(is_accepted);
            }
            // A layer that does not know the name of the issuer accepts nothing of it.
            assert_eq!(accepting, valid, "{issuer}");
        }
    }

    #[test]
    fn the_hash_of_a_secret_covers_the_place_in_which_it_travels() {
        let secret = Secret::random();
        let hashes: Vec<SecretHash> = [
            named("authorization", &[]),
            named("header", &[]),
            by_header("authorization"),
            by_header("x-session"),
        ]
        .iter()
        .map(|context| context.hash(&secret))
        .collect();
        for (index, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..index].contains(hash), "{index}");
        }
        let other_case = by_header("Authorization").hash(&secret);
        assert!(other_case == hashes[2]);
    }
}
