//! The way in: from the cookie to the session.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::commit::delete::Revocation;
use crate::commit::lease::Lease;
use crate::commit::renew::renew_if_due;
use crate::commit::work::{ReadSet, Seen};
use crate::config::policies::{Concurrency, OnStoreError};
use crate::error::session::SessionError;
use crate::error::store::StoreError;
use crate::event::Event;
use crate::lock::assert_none_held;
use crate::middleware::choose::{Choice, choose, held, worth};
use crate::middleware::slot::{LoadFailure, SessionSlot};
use crate::record::Record;
use crate::record::fingerprint::Fingerprint;
use crate::record::format::Unreadable;
use crate::record::token_check::{TokenCheck, check_token};
use crate::session::Session;
use crate::session::shared::Shared;
use crate::session::state::State;
use crate::session::state::backing::Backing;
use crate::session::state::reads::Reads;
use crate::store::deadline::within;
use crate::store::{Freshness, Loaded};
use crate::time::Millis;
use crate::time::deadline::deadline;
use crate::token::{Handle, Token};

impl SessionSlot {
    /// The session, or why there is none. The span `session.load` lasts as long.
    pub(crate) async fn load(&self) -> Result<Session, LoadFailure> {
        let span = tracing::debug_span!(target: "sessile", "session.load", handle = Empty, outcome = Empty);
        let loaded = self.load_in(&span).await;
        if !span.is_disabled() {
            let (outcome, handle) = match &loaded {
                Ok(session) => outcome(&session.shared().state().backing),
                Err(failed) => (failed_outcome(&failed.error), None),
            };
            assert_none_held();
            span.record("outcome", outcome);
            span.record("handle", handle.map(tracing::field::display));
        }
        loaded
    }

    /// Only what ends with the load runs in its span: the lease and the renewal go on beside the request, and would keep the
    /// span open.
    async fn load_in(&self, span: &Span) -> Result<Session, LoadFailure> {
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
                .map_err(|error| LoadFailure { error, spent })?;
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
                    return Err(LoadFailure { error, spent });
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
    pub(crate) fn make(&self, backing: Backing, fingerprint: Fingerprint) -> Session {
        let apply_context = self.context.apply_context();
        let mut state = State::new(backing, fingerprint, &apply_context);
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
        let denied = Backing::Denied {
            handle: None,
            retired_by: None,
            why: SessionError::Store(error),
        };
        let session = self.make(denied, self.compare(None));
        let tokens = self.presented.tokens.iter().cloned();
        session.shared().state().revocable = tokens
            .map(|token| Revocation::Unverified { token, asked: now })
            .collect();
        session
    }

    /// The session that the tokens open, out of what is stored under their handles.
    fn open(&self, found: Vec<(&Token, Loaded)>, now: Millis, span: &Span) -> Session {
        let (backing, fingerprint, revocable) = span.in_scope(|| self.pick(found, now));
        if let Backing::Loaded(base) = &backing {
            renew_if_due(&self.context, base, now);
        }
        let session = self.make(backing, fingerprint);
        session.shared().state().revocable = revocable;
        session
    }

    /// What the request has, and the sessions that it may end besides, if it carries several tokens.
    fn pick(
        &self,
        found: Vec<(&Token, Loaded)>,
        now: Millis,
    ) -> (Backing, Fingerprint, Vec<Revocation>) {
        let several = found.len() > 1;
        let mut judged: Vec<_> = found
            .into_iter()
            .map(|(token, loaded)| match loaded {
                Loaded::Found(stored) => self.authenticate(token, stored, now),
                Loaded::Unreadable => {
                    let event = Event::unreadable(token.handle, &Unreadable::NotBytes);
                    self.context.emit(&event);
                    (Backing::New, self.compare(None))
                }
                Loaded::Missing => (Backing::New, self.compare(None)),
            })
            .collect();
        let worth: Vec<_> = judged.iter().map(|(backing, _)| worth(backing)).collect();
        let (backing, fingerprint) = match choose(&worth) {
            Choice::Use(index) => judged.swap_remove(index),
            Choice::Nobody => (Backing::New, self.compare(None)),
            Choice::Ambiguous => {
                self.context.emit(&Event::AmbiguousCookie);
                (Backing::New, self.compare(None))
            }
        };
        if !several {
            return (backing, fingerprint, Vec::new());
        }
        if let Backing::Loaded(base) = &backing {
            let handle = base.token.handle;
            let reported = &self.context.backend.reported;
            if reported.several_cookies.is_first(handle) {
                self.context.emit(&Event::SeveralCookies { handle });
            }
        }
        let revocable = held(&worth).into_iter().map(Revocation::Verified);
        (backing, fingerprint, revocable.collect())
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
            let holds =
                check_token(&record, &self.context.hash(&token.secret), now) == TokenCheck::Valid;
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
}

/// What the span of a load says of a session, and its handle if the store knows the session.
fn outcome(backing: &Backing) -> (&'static str, Option<Handle>) {
    match backing {
        Backing::New => ("new", None),
        Backing::Loaded(base) => ("loaded", Some(base.token.handle)),
        Backing::Denied {
            why: SessionError::Store(_),
            ..
        } => ("failed", None),
        Backing::Denied {
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
