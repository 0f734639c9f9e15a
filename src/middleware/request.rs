//! The way in: from the cookie to the session.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::commit::base::Base;
use crate::commit::delete::Revocation;
use crate::commit::lease::Lease;
use crate::commit::renew::renew_if_due;
use crate::commit::work::{ReadSet, Seen};
use crate::config::policies::{Concurrency, OnStoreError};
use crate::error::session::{Denied, Gone, SessionError};
use crate::error::store::StoreError;
use crate::event::Event;
use crate::middleware::authenticate::{Choice, choose, held, worth};
use crate::middleware::slot::{NotLoaded, Visit};
use crate::record::Record;
use crate::record::admission::{Admission, admit};
use crate::record::fingerprint::{Fingerprint, Fingerprinting, admits, compare};
use crate::record::format::Unreadable;
use crate::session::Session;
use crate::session::shared::Shared;
use crate::session::state::State;
use crate::session::state::backing::Standing;
use crate::session::state::reads::Reads;
use crate::store::deadline::within;
use crate::store::{Freshness, Loaded, Stored};
use crate::time::Millis;
use crate::time::deadline::deadline;
use crate::token::{Handle, Token};

impl Visit {
    /// The session, or why there is none. The span `session.load` lasts as long.
    pub(crate) async fn load(&self) -> Result<Session, NotLoaded> {
        let span = tracing::debug_span!(target: "sessile", "session.load", handle = Empty, outcome = Empty);
        let loaded = self.load_in(&span).await;
        if !span.is_disabled() {
            let (outcome, handle) = match &loaded {
                Ok(session) => outcome(&session.shared().state().standing),
                Err(failed) => (failed_outcome(&failed.error), None),
            };
            span.record("outcome", outcome);
            span.record("handle", handle.map(tracing::field::display));
        }
        loaded
    }

    /// Only what ends with the load runs in its span: the lease and the renewal go on beside the request, and would keep the
    /// span open.
    async fn load_in(&self, span: &Span) -> Result<Session, NotLoaded> {
        let began = Instant::now();
        let budget = self.context.backend.request_budget();
        let fetch = self.fetch(Freshness::Recent, deadline(began, budget));
        let mut found = fetch.instrument(span.clone()).await;
        let mut spent = began.elapsed();
        let mut lease = None;
        if let Ok(first) = &found {
            lease = self
                .lease(first)
                .await
                .map_err(|error| NotLoaded { error, spent })?;
        }
        if lease.is_some() {
            // Others may have had it meanwhile.
            let began = Instant::now();
            let left = budget.saturating_sub(spent);
            let fetch = self.fetch(Freshness::Latest, deadline(began, left));
            found = fetch.instrument(span.clone()).await;
            spent += began.elapsed();
        }
        let now = self.context.backend.now();
        let session = match found {
            Ok(found) => self.open(found, now, span),
            Err(error) => match self.context.policy.config.on_store_error {
                OnStoreError::Reject => {
                    let error = SessionError::Store(error);
                    return Err(NotLoaded { error, spent });
                }
                OnStoreError::Anonymous => self.could_not_be_loaded(error, now),
            },
        };
        let mut state = session.shared().state();
        state.spent = spent;
        state.lease = lease.map(Arc::new);
        drop(state);
        Ok(session)
    }

    /// A session that stands to the store like this.
    pub(crate) fn make(&self, standing: Standing, fingerprint: Fingerprint) -> Session {
        let circumstances = self.context.circumstances();
        let mut state = State::new(standing, fingerprint, &circumstances);
        state.reads = Reads::new(match self.context.policy.config.concurrency {
            Concurrency::Merge | Concurrency::LastWriteWins => ReadSet::Nothing,
            Concurrency::Reject => ReadSet::Everything,
            Concurrency::Exclusive(_) => ReadSet::These(Seen::default()),
        });
        let shared = Shared::new(
            Arc::clone(&self.engine),
            self.context.clone(),
            self.runtime.clone(),
            self.shows_flashes,
            state,
        );
        Session::new(Arc::new(shared))
    }

    /// The empty session of a visitor whom the store knows, perhaps.
    fn could_not_be_loaded(&self, error: StoreError, now: Millis) -> Session {
        let barred = Standing::Barred {
            handle: None,
            retired_by: None,
            why: SessionError::Store(error),
        };
        let session = self.make(barred, self.compare(None));
        let tokens = self.presented.tokens.iter().cloned();
        session.shared().state().revocable = tokens
            .map(|token| Revocation::Unverified { token, asked: now })
            .collect();
        session
    }

    /// The session that the tokens open, out of what is stored under their handles.
    fn open(&self, found: Vec<(&Token, Loaded)>, now: Millis, span: &Span) -> Session {
        let (standing, fingerprint, revocable) = span.in_scope(|| self.pick(found, now));
        if let Standing::Stored(base) = &standing {
            renew_if_due(&self.context, base, now);
        }
        let session = self.make(standing, fingerprint);
        session.shared().state().revocable = revocable;
        session
    }

    /// What the request has, and the sessions that it may end besides, if it carries several tokens.
    fn pick(
        &self,
        found: Vec<(&Token, Loaded)>,
        now: Millis,
    ) -> (Standing, Fingerprint, Vec<Revocation>) {
        let several = found.len() > 1;
        let mut judged: Vec<_> = found
            .into_iter()
            .map(|(token, loaded)| match loaded {
                Loaded::Found(stored) => self.judge(token, stored, now),
                Loaded::Unreadable => {
                    let event = Event::unreadable(token.handle, &Unreadable::NotBytes);
                    self.context.emit(&event);
                    (Standing::New, self.compare(None))
                }
                Loaded::Missing => (Standing::New, self.compare(None)),
            })
            .collect();
        let worth: Vec<_> = judged.iter().map(|(standing, _)| worth(standing)).collect();
        let (standing, fingerprint) = match choose(&worth) {
            Choice::Use(index) => judged.swap_remove(index),
            Choice::Nobody => (Standing::New, self.compare(None)),
            Choice::Ambiguous => {
                self.context.emit(&Event::AmbiguousCookie);
                (Standing::New, self.compare(None))
            }
        };
        if !several {
            return (standing, fingerprint, Vec::new());
        }
        if let Standing::Stored(base) = &standing {
            let handle = base.token.handle;
            let reported = &self.context.backend.reported;
            if reported.several_cookies.is_first(handle) {
                self.context.emit(&Event::SeveralCookies { handle });
            }
        }
        let revocable = held(&worth).into_iter().map(Revocation::Verified);
        (standing, fingerprint, revocable.collect())
    }

    /// What is stored under the handles of the request's tokens, asked for at once.
    async fn fetch(
        &self,
        want: Freshness,
        deadline: Instant,
    ) -> Result<Vec<(&Token, Loaded)>, StoreError> {
        let tokens = &self.presented.tokens;
        let mut handles: Vec<Handle> = tokens.iter().map(|token| token.handle).collect();
        handles.sort_unstable();
        handles.dedup();
        let loads = handles.iter().map(|handle| async move {
            let load = self.context.backend.store.load(handle, want);
            within(deadline, load).await.inspect_err(|error| {
                let (handle, error) = (Some(*handle), error.clone());
                self.context.emit(&Event::StoreFailed { handle, error });
            })
        });
        let loaded = join_all(loads).await.into_iter();
        let loaded = loaded.collect::<Result<Vec<_>, _>>()?;
        let of = |token: &Token| handles.iter().position(|handle| *handle == token.handle);
        let loaded = |token| of(token).map_or(Loaded::Missing, |index| loaded[index].clone());
        Ok(tokens.iter().map(|token| (token, loaded(token))).collect())
    }

    /// Waits for the session's other requests, if the layer says so. Only whoever holds the session's secret may make them
    /// wait: its handle is no secret.
    async fn lease(&self, found: &[(&Token, Loaded)]) -> Result<Option<Lease>, SessionError> {
        let Concurrency::Exclusive(exclusive) = self.context.policy.config.concurrency else {
            return Ok(None);
        };
        let now = self.context.backend.now();
        let holds = |(token, loaded): &(&Token, Loaded)| {
            let Loaded::Found(stored) = loaded else {
                return None;
            };
            let record = Record::decode(stored.value()).ok()?;
            let holds = admit(&record, &self.context.hash(&token.secret), now) == Admission::Holder;
            holds.then_some(token.handle)
        };
        let opened: BTreeSet<Handle> = found.iter().filter_map(holds).collect();
        // Several different sessions are none.
        let (Some(held), 1) = (opened.first().copied(), opened.len()) else {
            return Ok(None);
        };
        let handle = Some(held);
        let (queues, wait, lease) = (
            &self.engine.lease_queues,
            exclusive.wait(),
            exclusive.lease(),
        );
        let taken = Lease::take(&self.context, queues, held, wait, lease).await;
        match &taken {
            Err(SessionError::Store(error)) => {
                let error = error.clone();
                self.context.emit(&Event::StoreFailed { handle, error });
            }
            Err(_) => self.context.emit(&Event::Busy { handle }),
            Ok(_) => {}
        }
        taken.map(Some)
    }

    /// What this token may do with what is stored under its handle.
    fn judge(&self, token: &Token, stored: Stored, now: Millis) -> (Standing, Fingerprint) {
        let handle = token.handle;
        let config = &self.context.policy.config;
        let record = match Record::decode(stored.value()) {
            Ok(record) => record,
            Err(error) => {
                self.context.emit(&Event::unreadable(handle, &error));
                // A newer version of sessile may know the token; what is no record at all knows none.
                let standing = match error {
                    Unreadable::Newer(_) => Standing::Barred {
                        handle: None,
                        retired_by: None,
                        why: SessionError::Gone(Gone::Unreadable),
                    },
                    Unreadable::Malformed(_) | Unreadable::NoVersion | Unreadable::NotBytes => {
                        Standing::New
                    }
                };
                return (standing, self.compare(None));
            }
        };
        match admit(&record, &self.context.hash(&token.secret), now) {
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
                        why: SessionError::Denied(Denied::OtherNetwork),
                    };
                    return (standing, fingerprint);
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

    pub(crate) fn compare(&self, bound: Option<&str>) -> Fingerprint {
        compare(
            self.context.policy.config.fingerprinting,
            bound,
            self.context.network.as_deref(),
        )
    }

    fn is_first_mismatch(&self, handle: Handle, network: &str) -> bool {
        let mismatches = &self.context.backend.reported.mismatches;
        mismatches.is_first((handle, network.to_owned()))
    }

    fn report(&self, token: &Token, fingerprint: &Fingerprint) {
        let handle = token.handle;
        match fingerprint {
            Fingerprint::Mismatch { bound, seen } if self.is_first_mismatch(handle, seen) => {
                let (bound, seen) = (bound.clone(), seen.clone());
                self.context.emit(&Event::FingerprintMismatch {
                    handle,
                    bound,
                    seen,
                });
            }
            Fingerprint::Unknown
                if self.context.policy.config.fingerprinting == Fingerprinting::Strict
                    && self.context.backend.reported.first_missing_address() =>
            {
                self.context.emit(&Event::AddressUnknown);
            }
            _ => {}
        }
    }
}

/// What the span of a load says of a session, and its handle if the store knows the session.
fn outcome(standing: &Standing) -> (&'static str, Option<Handle>) {
    match standing {
        Standing::New => ("new", None),
        Standing::Stored(base) => ("loaded", Some(base.token.handle)),
        Standing::Barred {
            why: SessionError::Store(_),
            ..
        } => ("failed", None),
        Standing::Barred {
            handle, retired_by, ..
        } => {
            let retired = || retired_by.as_ref().map(|base| base.token.handle);
            ("denied", handle.or_else(retired))
        }
    }
}

fn failed_outcome(error: &SessionError) -> &'static str {
    match error {
        SessionError::Busy { .. } => "busy",
        _ => "failed",
    }
}
