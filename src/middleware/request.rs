//! The way in: from the token to the session.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;
use smallvec::{SmallVec, smallvec};
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::commit::delete::Revocation;
use crate::commit::lease::Lease;
use crate::commit::renew::renew_if_due;
use crate::commit::span::{failure, record_failure};
use crate::commit::work::{ReadSet, Seen};
use crate::config::policies::{Concurrency, OnStoreError};
use crate::error::session::SessionError;
use crate::error::store::StoreError;
use crate::event::Event;
use crate::lock::assert_none_held;
use crate::metrics;
use crate::metrics::abandoned::IfAbandoned;
use crate::metrics::requests::{
    TokenRefused, loaded as loaded_in, token_refused, waited_for_lease,
};
use crate::metrics::timer::Timer;
use crate::middleware::choose::{Choice, candidate, choose, verified_handles};
use crate::middleware::slot::{LoadFailure, SessionSlot};
use crate::record::fingerprint::Fingerprint;
use crate::record::format::Unreadable;
use crate::record::lifetime::BrowserCookie;
use crate::record::token_check::TokenCheck;
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

/// The tokens of a request, each with what the store has under its handle.
type Fetched<'a> = SmallVec<[(&'a Token, Loaded); 1]>;

impl SessionSlot {
    /// Loads the session, in the span `session.load`.
    pub(crate) async fn load(&self) -> Result<Session, LoadFailure> {
        let span = tracing::debug_span!(target: "sessile", "session.load", handle = Empty, round_trips = Empty, outcome = Empty, "error.type" = Empty, otel.status_code = Empty);
        let timer = Timer::start();
        let if_abandoned = IfAbandoned::new(|| {
            loaded_in("abandoned", timer);
            span.record("outcome", "abandoned");
        });
        let loaded = self.load_in(&span).await;
        if_abandoned.disarm();
        if metrics::ENABLED || !span.is_disabled() {
            let (outcome, handle, has_lease, failure) = match &loaded {
                Ok(session) => {
                    let state = session.shared().state();
                    let (outcome, handle, failure) = outcome(&state.backing);
                    (outcome, handle, state.lease.is_some(), failure)
                }
                Err(LoadFailure { error, .. }) => {
                    (failure_outcome(error), None, false, failure(error))
                }
            };
            assert_none_held();
            if !self.presented.tokens.is_empty() {
                loaded_in(outcome, timer);
            }
            span.record("handle", handle.map(tracing::field::display));
            span.record("round_trips", self.round_trips(has_lease));
            span.record("outcome", outcome);
            record_failure(&span, failure);
        }
        loaded
    }

    /// The reads of a load; a lease costs more, and is read after once more.
    fn round_trips(&self, has_lease: bool) -> u32 {
        match self.presented.tokens.is_empty() {
            true => 0,
            false => 1 + u32::from(has_lease),
        }
    }

    /// Only work that ends with the load runs in its span: the tasks for the lease and the renewal outlive the load, and would
    /// keep the span open.
    async fn load_in(&self, span: &Span) -> Result<Session, LoadFailure> {
        let began = Instant::now();
        let budget = self.context.backend.request_budget();
        let fetch = self.fetch(Freshness::Recent, deadline(began, budget));
        let mut fetched = fetch.instrument(span.clone()).await;
        let mut spent = began.elapsed();
        let mut lease = None;
        if let Ok(first) = &fetched {
            lease = self
                .lease(first)
                .await
                .map_err(|error| LoadFailure { error, spent })?;
        }
        if lease.is_some() {
            // Another request may have changed the session during the wait.
            let began = Instant::now();
            let left = budget.saturating_sub(spent);
            let fetch = self.fetch(Freshness::Latest, deadline(began, left));
            fetched = fetch.instrument(span.clone()).await;
            spent += began.elapsed();
        }
        let now = self.context.backend.now();
        let session = match fetched {
            Ok(fetched) => self.open(fetched, now, span),
            Err(error) => match self.context.policy.config.on_store_error {
                OnStoreError::Reject => {
                    let error = SessionError::Store(error);
                    return Err(LoadFailure { error, spent });
                }
                OnStoreError::Anonymous => self.anonymous_session(error, now),
            },
        };
        let mut state = session.shared().state();
        state.spent = spent;
        state.lease = lease.map(Arc::new);
        drop(state);
        Ok(session)
    }

    /// Creates the `Session` for this backing.
    pub(crate) fn new_session(&self, backing: Backing, fingerprint: Fingerprint) -> Session {
        let apply_context = self.context.apply_context();
        let policy = &self.context.policy;
        let cookie = match &backing {
            Backing::Loaded(base) => policy.browser_cookie(&base.record, apply_context.now),
            Backing::New | Backing::Denied { .. } => BrowserCookie::default(),
        };
        let mut state = State::new(backing, fingerprint, &apply_context);
        state.cookie = cookie;
        state.reads = Reads::new(match policy.config.concurrency {
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

    /// The empty session that the handler gets if the store failed. `destroy` ends the stored one, if the token fits it.
    fn anonymous_session(&self, error: StoreError, now: Millis) -> Session {
        let denied = Backing::Denied {
            handle: None,
            retired_by: None,
            why: SessionError::Store(error),
        };
        let session = self.new_session(denied, self.compare(None));
        let tokens = self.presented.tokens.iter().cloned();
        session.shared().state().revocable = tokens
            .map(|token| Revocation::Unverified { token, asked: now })
            .collect();
        session
    }

    /// Authenticates the tokens against the fetched records, and creates the session; renews it if that is due.
    fn open(&self, fetched: Fetched<'_>, now: Millis, span: &Span) -> Session {
        let (backing, fingerprint, revocable) = span.in_scope(|| self.pick(fetched, now));
        if let Backing::Loaded(base) = &backing {
            renew_if_due(&self.context, base, now);
        }
        let session = self.new_session(backing, fingerprint);
        session.shared().state().revocable = revocable;
        session
    }

    fn examine(&self, token: &Token, loaded: Loaded, now: Millis) -> (Backing, Fingerprint) {
        match loaded {
            Loaded::Found(stored) => self.authenticate(token, stored, now),
            Loaded::Unreadable => {
                token_refused(TokenRefused::Unreadable);
                let event = Event::unreadable(token.handle, &Unreadable::NotBytes);
                self.context.emit(&event);
                (Backing::New, self.compare(None))
            }
            Loaded::Missing => {
                token_refused(TokenRefused::Unknown);
                (Backing::New, self.compare(None))
            }
        }
    }

    /// Picks the session of the request. If it carries several tokens, also returns the sessions that a logout ends with it.
    fn pick(&self, fetched: Fetched<'_>, now: Millis) -> (Backing, Fingerprint, Vec<Revocation>) {
        let mut authenticated: SmallVec<[_; 1]> = fetched
            .into_iter()
            .map(|(token, loaded)| self.examine(token, loaded, now))
            .collect();
        if authenticated.len() <= 1 {
            let only = authenticated.pop();
            let (backing, fingerprint) = only.unwrap_or_else(|| (Backing::New, self.compare(None)));
            return (backing, fingerprint, Vec::new());
        }
        let candidates: Vec<_> = authenticated
            .iter()
            .map(|(backing, _)| candidate(backing))
            .collect();
        let (backing, fingerprint) = match choose(&candidates) {
            Choice::Use(index) => authenticated.swap_remove(index),
            Choice::None => (Backing::New, self.compare(None)),
            Choice::Ambiguous => {
                self.context.emit(&Event::AmbiguousCookie);
                (Backing::New, self.compare(None))
            }
        };
        if let Backing::Loaded(base) = &backing
            && self.presented.has_several_tokens()
        {
            let handle = base.token.handle;
            let reported = &self.context.backend.reported;
            if reported.several_cookies.is_first(handle) {
                self.context.emit(&Event::SeveralCookies { handle });
            }
        }
        let revocable = verified_handles(&candidates)
            .into_iter()
            .map(Revocation::Verified);
        (backing, fingerprint, revocable.collect())
    }

    /// Loads the values under the handles of the request's tokens, concurrently and each handle once.
    async fn fetch(
        &self,
        freshness: Freshness,
        deadline: Instant,
    ) -> Result<Fetched<'_>, StoreError> {
        let tokens = &self.presented.tokens;
        if let [token] = &tokens[..] {
            let loaded = self.fetch_one(&token.handle, freshness, deadline).await?;
            return Ok(smallvec![(token, loaded)]);
        }
        let mut handles: Vec<Handle> = tokens.iter().map(|token| token.handle).collect();
        handles.sort_unstable();
        handles.dedup();
        let loads = handles
            .iter()
            .map(|handle| self.fetch_one(handle, freshness, deadline));
        let loaded = join_all(loads).await.into_iter();
        let loaded = loaded.collect::<Result<Vec<_>, _>>()?;
        let index_of = |token: &Token| handles.iter().position(|handle| *handle == token.handle);
        let value = |token| index_of(token).map_or(Loaded::Missing, |index| loaded[index].clone());
        Ok(tokens.iter().map(|token| (token, value(token))).collect())
    }

    async fn fetch_one(
        &self,
        handle: &Handle,
        freshness: Freshness,
        deadline: Instant,
    ) -> Result<Loaded, StoreError> {
        let load = self.context.backend.store.load(handle, freshness);
        within(deadline, load).await.inspect_err(|error| {
            let (handle, error) = (Some(*handle), error.clone());
            self.context.emit(&Event::StoreFailed { handle, error });
        })
    }

    /// Acquires the session's lease, under `Concurrency::Exclusive` only. The token's secret must be valid: a handle is not
    /// secret, and whoever knows one must not be able to make the session's requests wait.
    async fn lease(&self, fetched: &[(&Token, Loaded)]) -> Result<Option<Lease>, SessionError> {
        let Concurrency::Exclusive(exclusive) = self.context.policy.config.concurrency else {
            return Ok(None);
        };
        let now = self.context.backend.now();
        let valid_handle = |(token, loaded): &(&Token, Loaded)| {
            let Loaded::Found(stored) = loaded else {
                return None;
            };
            let records = &self.context.backend.records;
            let record = records.decode(token.handle, stored.value()).ok()?;
            let check = self.context.check_secret(&record, &token.secret, now);
            (check == TokenCheck::Valid).then_some(token.handle)
        };
        let handles: BTreeSet<Handle> = fetched.iter().filter_map(valid_handle).collect();
        // With tokens of different sessions the request uses none of them.
        let (Some(leased), 1) = (handles.first().copied(), handles.len()) else {
            return Ok(None);
        };
        let handle = Some(leased);
        let (queues, wait, lease) = (
            &self.engine.lease_queues,
            exclusive.wait(),
            exclusive.lease(),
        );
        let timer = Timer::start();
        let if_abandoned = IfAbandoned::new(|| waited_for_lease("abandoned", timer));
        let acquired = Lease::take(&self.context, queues, leased, wait, lease).await;
        if_abandoned.disarm();
        let outcome = acquired.as_ref().err().map(failure_outcome);
        waited_for_lease(outcome.unwrap_or("acquired"), timer);
        match &acquired {
            Err(SessionError::Store(error)) => {
                let error = error.clone();
                self.context.emit(&Event::StoreFailed { handle, error });
            }
            Err(_) => self.context.emit(&Event::Busy { handle }),
            Ok(_) => {}
        }
        acquired.map(Some)
    }
}

/// The fields of a load's span: the outcome, the handle if the session is stored, and the name of the error if the store failed.
fn outcome(backing: &Backing) -> (&'static str, Option<Handle>, Option<&'static str>) {
    match backing {
        Backing::New => ("new", None, None),
        Backing::Loaded(base) => ("loaded", Some(base.token.handle), None),
        Backing::Denied {
            why: why @ SessionError::Store(_),
            ..
        } => ("failed", None, failure(why)),
        Backing::Denied {
            handle, retired_by, ..
        } => {
            let retired = || retired_by.as_ref().map(|base| base.token.handle);
            ("denied", handle.or_else(retired), None)
        }
    }
}

fn failure_outcome(error: &SessionError) -> &'static str {
    match error {
        SessionError::Busy { .. } => "busy",
        _ => "failed",
    }
}
