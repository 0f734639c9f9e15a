//! The way in: from the cookie to the session.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::COOKIE;
use http::request::Parts;
use http::{HeaderValue, Method};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::change::Circumstances;
use crate::commit::lease::Lease;
use crate::commit::run::{Base, RestsOn, within};
use crate::config::{Concurrency, OnStoreError};
use crate::cookie::{Presented, read};
use crate::deadline::deadline;
use crate::error::{Gone, SessionError};
use crate::event::Event;
use crate::fingerprint::{Fingerprint, Fingerprinting, admits, compare};
use crate::kept::Kept;
use crate::layer::{Core, SessionLayer, Settings};
use crate::lifetime::{Millis, renewal, to_millis};
use crate::record::{Record, Unreadable};
use crate::session::Session;
use crate::shared::Shared;
use crate::state::{Standing, State};
use crate::store::{Freshness, Renewal, StoreError, Stored};
use crate::token::{Handle, SecretHash, Token};

/// One request under one layer: the token it carries, and the session once somebody has asked for it.
#[derive(Debug)]
pub(crate) struct Visit {
    core: Arc<Core>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) presented: Presented,
    network: Option<String>,
    shows_flashes: bool,
    session: OnceCell<Result<Session, SessionError>>,
    /// The response is on its way, whether or not the session was loaded by then.
    departed: AtomicBool,
    accessed: AtomicBool,
}

/// The visits of a request, one for each layer around the handler, the innermost last. Lives in the request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Visits(Vec<Arc<Visit>>);

impl Visits {
    /// The session of the innermost layer.
    pub(crate) async fn session(&self) -> Result<Session, SessionError> {
        let visit = self.0.last().ok_or(SessionError::MissingLayer)?;
        visit.accessed.store(true, Ordering::Relaxed);
        visit.session().await
    }
}

impl Visit {
    /// Notes a request on its way in. `None` if a layer further out has a cookie of the same name: its session is this
    /// one's too.
    pub(crate) fn begin(layer: &SessionLayer, parts: &mut Parts) -> Option<Arc<Self>> {
        let settings = &layer.settings;
        let name = &settings.config.cookie.name;
        let mut visits = parts
            .extensions
            .get::<Visits>()
            .map_or_else(Vec::new, |visits| visits.0.clone());
        let outer = visits
            .iter()
            .position(|visit| visit.settings.config.cookie.name == *name);
        if let Some(outer) = outer {
            // The innermost layer's session is the last.
            let outer = visits.remove(outer);
            layer.join(&outer.core, &outer.settings);
            visits.push(outer);
            parts.extensions.insert(Visits(visits));
            return None;
        }
        for (header, value) in &mut parts.headers {
            if header == COOKIE {
                value.set_sensitive(true);
            }
        }
        let presented = read(&parts.headers, name);
        match presented {
            Presented::Malformed => settings.emit(&Event::MalformedCookie),
            Presented::Ambiguous => settings.emit(&Event::AmbiguousCookie),
            Presented::Nothing | Presented::Token(_) => {}
        }
        let visit = Arc::new(Self {
            core: Arc::clone(&layer.core),
            settings: Arc::clone(settings),
            presented,
            network: settings.network(parts),
            shows_flashes: is_shown(parts),
            session: OnceCell::new(),
            departed: AtomicBool::new(false),
            accessed: AtomicBool::new(false),
        });
        visits.push(Arc::clone(&visit));
        parts.extensions.insert(Visits(visits));
        Some(visit)
    }

    /// The session, loaded the first time.
    pub(crate) async fn session(&self) -> Result<Session, SessionError> {
        let session = self.session.get_or_init(|| self.load()).await.clone()?;
        if self.departed.load(Ordering::SeqCst) {
            let mut state = session.shared().state();
            state.head_sent = true;
            state.lease = None;
        }
        Ok(session)
    }

    /// The session, if it has been loaded.
    pub(crate) fn loaded(&self) -> Option<&Session> {
        self.session.get()?.as_ref().ok()
    }

    /// The response goes: the session, if it has been loaded. One that is loaded later knows that it is late.
    pub(crate) fn depart(&self) -> Option<&Session> {
        self.departed.store(true, Ordering::SeqCst);
        self.loaded()
    }

    /// Whether the response depends on the session.
    pub(crate) fn is_accessed(&self) -> bool {
        self.accessed.load(Ordering::Relaxed)
    }

    async fn load(&self) -> Result<Session, SessionError> {
        let began = Instant::now();
        let store = &*self.core.store;
        let budget = self.core.request_budget();
        let mut stored = self.fetch(Freshness::Recent, deadline(began, budget)).await;
        let mut spent = began.elapsed();
        let mut lease = None;
        if let Ok(Some((token, found))) = &stored
            && let Some(taken) = self.lease(token, found).await?
        {
            // Others may have had it meanwhile.
            let began = Instant::now();
            let left = budget.saturating_sub(spent);
            stored = self.fetch(Freshness::Latest, deadline(began, left)).await;
            spent += began.elapsed();
            lease = Some(taken);
        }
        let circumstances = Circumstances {
            now: to_millis(store.now()),
            absolute_timeout: self.settings.config.absolute_timeout,
            network: self.network.clone(),
        };
        let (standing, fingerprint) = match stored {
            Ok(Some((token, stored))) => self.judge(token, stored, circumstances.now),
            Ok(None) => (Standing::New, self.compare(None)),
            Err(error) => match self.settings.config.on_store_error {
                OnStoreError::Reject => return Err(SessionError::Store(error)),
                OnStoreError::Anonymous => {
                    let (handle, why) = (None, SessionError::Store(error));
                    (
                        Standing::Barred {
                            handle,
                            retired_by: None,
                            why,
                        },
                        self.compare(None),
                    )
                }
            },
        };
        let mut state = State::new(standing, fingerprint, &circumstances);
        state.spent = spent;
        state.lease = lease.map(Arc::new);
        state.rests_on = match self.settings.config.concurrency {
            Concurrency::Merge | Concurrency::LastWriteWins => RestsOn::Nothing,
            Concurrency::Reject => RestsOn::Everything,
            Concurrency::Exclusive { .. } => RestsOn::Keys(BTreeSet::new()),
        };
        let shared = Shared::new(
            Arc::clone(&self.core),
            Arc::clone(&self.settings),
            self.network.as_deref().map(Arc::from),
            budget,
            self.shows_flashes,
            state,
        );
        Ok(Session::new(Arc::new(shared)))
    }

    /// What is stored under the handle of the request's token.
    async fn fetch(
        &self,
        want: Freshness,
        deadline: Instant,
    ) -> Result<Option<(&Token, Stored)>, StoreError> {
        let Presented::Token(token) = &self.presented else {
            return Ok(None);
        };
        let load = self.core.store.load(&token.handle, want);
        let loaded = within(deadline, load).await.inspect_err(|error| {
            let (handle, error) = (Some(token.handle), error.clone());
            self.settings.emit(&Event::StoreFailed { handle, error });
        })?;
        Ok(loaded.map(|stored| (token, stored)))
    }

    /// Waits for the session's other requests, if the layer says so. Only whoever holds the session's secret may make them
    /// wait: its handle is no secret.
    async fn lease(&self, token: &Token, found: &Stored) -> Result<Option<Lease>, SessionError> {
        let Concurrency::Exclusive { wait, lease } = self.settings.config.concurrency else {
            return Ok(None);
        };
        let now = to_millis(self.core.store.now());
        let holds = |record: &Record| admit(record, &self.hash(token), now) == Admission::Holder;
        if !Record::decode(found).is_ok_and(|record| holds(&record)) {
            return Ok(None);
        }
        let handle = Some(token.handle);
        let taken = Lease::take(&self.core, &self.settings, token.handle, wait, lease).await;
        match &taken {
            Err(SessionError::Store(error)) => {
                let error = error.clone();
                self.settings.emit(&Event::StoreFailed { handle, error });
            }
            Err(_) => self.settings.emit(&Event::Busy { handle }),
            Ok(_) => {}
        }
        taken.map(Some)
    }

    fn hash(&self, token: &Token) -> SecretHash {
        let cookie = &self.settings.config.cookie.name;
        token.secret.hash(self.core.store.namespace(), cookie)
    }

    /// What this token may do with what is stored under its handle.
    fn judge(&self, token: &Token, stored: Stored, now: Millis) -> (Standing, Fingerprint) {
        let handle = token.handle;
        let config = &self.settings.config;
        let record = match Record::decode(&stored) {
            Ok(record) => record,
            Err(error) => {
                let reason = match &error {
                    Unreadable::Malformed(source) => format!("{error}: {source}"),
                    Unreadable::Newer(_) | Unreadable::NoVersion => error.to_string(),
                };
                self.settings
                    .emit(&Event::UnreadableRecord { handle, reason });
                // A newer version of sessile may know the token; what is no record at all knows none.
                let standing = match error {
                    Unreadable::Newer(_) => Standing::Barred {
                        handle: None,
                        retired_by: None,
                        why: SessionError::Gone(Gone::Unreadable),
                    },
                    Unreadable::Malformed(_) | Unreadable::NoVersion => Standing::New,
                };
                return (standing, self.compare(None));
            }
        };
        match admit(&record, &self.hash(token), now) {
            Admission::Nobody => (Standing::New, self.compare(None)),
            Admission::Retired => {
                let base = Base {
                    token: token.clone(),
                    stored,
                    record: Arc::new(record),
                };
                let standing = Standing::Barred {
                    handle: None,
                    retired_by: Some(Box::new(base)),
                    why: SessionError::Gone(Gone::Rotated),
                };
                (standing, self.compare(None))
            }
            Admission::Holder => {
                let fingerprint = self.compare(record.fingerprint.as_deref());
                self.report(token, &fingerprint);
                if !admits(config.fingerprinting, &fingerprint) {
                    let standing = Standing::Barred {
                        handle: Some(handle),
                        retired_by: None,
                        why: SessionError::Gone(Gone::OtherNetwork),
                    };
                    return (standing, fingerprint);
                }
                let idle = record.idle_timeout.unwrap_or(config.idle_timeout);
                let renewal = renewal(stored.time_left(), idle, record.deadline, now);
                if let Some(renewal) = renewal
                    && self.core.may_renew(handle, renewal, idle, now)
                {
                    renew(&self.core, &self.settings, handle, renewal);
                }
                let record = Arc::new(record);
                let base = Base {
                    token: token.clone(),
                    stored,
                    record,
                };
                (Standing::Stored(Box::new(base)), fingerprint)
            }
        }
    }

    fn compare(&self, bound: Option<&str>) -> Fingerprint {
        compare(
            self.settings.config.fingerprinting,
            bound,
            self.network.as_deref(),
        )
    }

    fn report(&self, token: &Token, fingerprint: &Fingerprint) {
        let handle = token.handle;
        match fingerprint {
            Fingerprint::Mismatch { bound, seen } if self.core.first_mismatch(handle, seen) => {
                let (bound, seen) = (bound.clone(), seen.clone());
                self.settings.emit(&Event::FingerprintMismatch {
                    handle,
                    bound,
                    seen,
                });
            }
            Fingerprint::Unknown
                if self.settings.config.fingerprinting == Fingerprinting::Strict
                    && self.core.first_missing_address() =>
            {
                self.settings.emit(&Event::AddressUnknown);
            }
            _ => {}
        }
    }
}

/// Renews the key beside whatever the request does. If it fails, the next request does it.
fn renew(core: &Arc<Core>, settings: &Arc<Settings>, handle: Handle, renewal: Renewal) {
    let (core, settings) = (Arc::clone(core), Arc::clone(settings));
    let background = core.background.clone();
    let task = async move {
        let deadline = deadline(Instant::now(), core.request_budget());
        if let Err(error) = within(deadline, core.store.touch(&handle, renewal)).await {
            let handle = Some(handle);
            settings.emit(&Event::StoreFailed { handle, error });
        }
    };
    background.spawn(task.in_current_span());
}

/// Whether somebody looks at the response. Messages on a page that the browser loads in advance may never be seen.
fn is_shown(parts: &Parts) -> bool {
    let in_advance = ["sec-purpose", "purpose", "x-moz"]
        .into_iter()
        .any(|header| {
            let says = |value: &HeaderValue| value.as_bytes().starts_with(b"prefetch");
            parts.headers.get(header).is_some_and(says)
        });
    parts.method != Method::HEAD && !in_advance
}

/// Who the bearer of a token is to a record.
#[derive(Debug, PartialEq)]
pub(crate) enum Admission {
    /// Nobody: the secret is wrong, or the session is past its deadline.
    Nobody,
    /// Held the secret until a moment ago; another response brings the new one.
    Retired,
    /// Holds the secret.
    Holder,
}

pub(crate) fn admit(record: &Record, secret: &SecretHash, now: Millis) -> Admission {
    if record.deadline <= now {
        Admission::Nobody
    } else if record.secrets().any(|live| live == secret) {
        Admission::Holder
    } else if record
        .retired
        .iter()
        .filter_map(Kept::known)
        .any(|retired| retired.until > now && retired.secret == *secret)
    {
        Admission::Retired
    } else {
        Admission::Nobody
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Retired;
    use crate::record::tests::record;
    use crate::token::Secret;

    #[test]
    fn only_the_present_secrets_open_a_living_session() {
        let mut record = record();
        let old = Secret::random().hash("sessile:", "id");
        let retired = Retired {
            secret: old.clone(),
            until: 20_000,
        };
        record.retired.push(Kept::new(retired));
        record.deadline = 90_000;
        let added = Secret::random().hash("sessile:", "id");
        record.added.push(added.clone());
        let right = record.secret.clone();
        let wrong = Secret::random().hash("sessile:", "id");
        for (secret, now, expected) in [
            (&right, 1, Admission::Holder),
            (&right, 89_999, Admission::Holder),
            (&added, 89_999, Admission::Holder),
            (&added, 90_000, Admission::Nobody),
            (&right, 90_000, Admission::Nobody),
            (&old, 19_999, Admission::Retired),
            (&old, 20_000, Admission::Nobody),
            (&wrong, 1, Admission::Nobody),
        ] {
            assert_eq!(admit(&record, secret, now), expected, "{now}");
        }
    }
}
