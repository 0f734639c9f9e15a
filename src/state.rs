//! What one request knows of its session: the record it loaded, and the changes since.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;

use crate::change::{Change, ChangeLog, Circumstances};
use crate::commit::destroy_later;
use crate::commit::run::{Base, Commit, Terms};
use crate::error::{Gone, SessionError};
use crate::event::Event;
use crate::fingerprint::Fingerprint;
use crate::layer::{Core, Settings};
use crate::record::{Json, Record};
use crate::token::Handle;

/// How the request stands to the store.
#[derive(Debug)]
pub(crate) enum Standing {
    /// Nothing of this session is stored; its first commit creates it.
    New,
    /// Loaded, or written since.
    Stored(Box<Base>),
    /// The token names a living session that this request may not use. It sees an empty one, writes nothing, and never
    /// gets a cookie that would push out the one that works. `handle` is there if it may still be destroyed.
    Barred { handle: Option<Handle>, why: Gone },
}

/// The session of one request, shared by all clones of its [`Session`](crate::Session).
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) standing: Standing,
    /// The record with the log done to it: what the handler sees.
    pub(crate) view: Arc<Record>,
    /// Whether the view is what the whole log makes of the record.
    pub(crate) view_is_exact: bool,
    pub(crate) log: ChangeLog,
    /// A commit that got no answer; nothing else is committed before it is resolved.
    pub(crate) unresolved: Option<Box<Commit>>,
    /// To be deleted before anything else is done.
    pub(crate) doomed: Option<Handle>,
    /// `destroy` was called: what the browser holds is void.
    pub(crate) destroyed: bool,
    /// Grows with every `destroy`, so that a commit under way knows that it is history.
    pub(crate) generation: u32,
    /// The response is on its way: no cookie can be set any more.
    pub(crate) head_sent: bool,
    pub(crate) fingerprint: Fingerprint,
    /// Time that failed commits took of the request's budget.
    pub(crate) spent: Duration,
}

impl State {
    pub(crate) fn new(standing: Standing, fingerprint: Fingerprint, fresh: &Circumstances) -> Self {
        let view = match &standing {
            Standing::Stored(base) => Arc::clone(&base.record),
            Standing::New | Standing::Barred { .. } => Arc::new(Record::new(fresh)),
        };
        Self {
            standing,
            view,
            view_is_exact: true,
            log: ChangeLog::default(),
            unresolved: None,
            doomed: None,
            destroyed: false,
            generation: 0,
            head_sent: false,
            fingerprint,
            spent: Duration::ZERO,
        }
    }

    pub(crate) fn change(
        &mut self,
        change: Change,
        circumstances: &Circumstances,
    ) -> Result<(), SessionError> {
        change.apply(Arc::make_mut(&mut self.view), circumstances)?;
        self.log.push(change);
        Ok(())
    }

    /// Notes a change that was done already, and its result.
    pub(crate) fn note(&mut self, change: Change, key: &str, value: Json) {
        Arc::make_mut(&mut self.view)
            .data
            .insert(key.to_owned(), value);
        self.log.push(change);
    }

    /// Does the log again, to what is in the store now.
    pub(crate) fn refresh_view(&mut self, circumstances: &Circumstances) {
        self.view = match &self.standing {
            Standing::Stored(base) => Arc::clone(&base.record),
            Standing::New | Standing::Barred { .. } => Arc::new(Record::new(circumstances)),
        };
        // A change that no longer applies is reported by the commit.
        self.view_is_exact = self.log.is_empty()
            || self
                .log
                .replay_what_applies(Arc::make_mut(&mut self.view), circumstances);
    }

    /// Forgets the session and everything done to it; what is written from here on goes into a fresh one.
    pub(crate) fn destroy(&mut self, circumstances: &Circumstances) {
        match std::mem::replace(&mut self.standing, Standing::New) {
            Standing::New => {}
            Standing::Stored(base) => self.doomed = Some(base.token.handle),
            Standing::Barred {
                handle: Some(handle),
                ..
            } => self.doomed = Some(handle),
            barred @ Standing::Barred { handle: None, .. } => self.standing = barred,
        }
        self.destroyed = true;
        self.generation += 1;
        self.log = ChangeLog::default();
        self.unresolved = None;
        self.refresh_view(circumstances);
    }

    /// Whether there is anything to tell the store.
    pub(crate) fn is_settled(&self) -> bool {
        let refused = self.destroyed && matches!(self.standing, Standing::Barred { .. });
        self.log.is_empty() && self.unresolved.is_none() && self.doomed.is_none() && !refused
    }
}

/// What the clones of a session share.
pub(crate) struct Shared {
    pub(crate) core: Arc<Core>,
    pub(crate) settings: Arc<Settings>,
    network: Option<String>,
    /// How long commits of this request may take in all.
    pub(crate) budget: Duration,
    /// One commit of a request at a time.
    pub(crate) gate: AsyncMutex<()>,
    state: Mutex<State>,
}

impl Shared {
    pub(crate) fn new(
        core: Arc<Core>,
        settings: Arc<Settings>,
        network: Option<String>,
        budget: Duration,
        state: State,
    ) -> Self {
        let (gate, state) = (AsyncMutex::new(()), Mutex::new(state));
        Self {
            core,
            settings,
            network,
            budget,
            gate,
            state,
        }
    }

    /// Never held across an `await`, nor while code of the application runs.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn terms(&self) -> Terms<'_> {
        let config = &self.settings.config;
        Terms {
            store: &*self.core.store,
            cookie: &config.cookie.name,
            idle_timeout: config.idle_timeout,
            absolute_timeout: config.absolute_timeout,
            max_size: config.max_size,
            fingerprinting: config.fingerprinting,
            network: self.network.as_deref(),
        }
    }

    pub(crate) fn emit(&self, event: &Event) {
        self.settings.emit(event);
    }

    /// Tells of a commit that failed.
    pub(crate) fn report(&self, error: &SessionError) {
        let handle = match &self.state().standing {
            Standing::Stored(base) => Some(base.token.handle),
            Standing::New => None,
            Standing::Barred { handle, .. } => *handle,
        };
        match error {
            SessionError::Gone(why) => self.emit(&Event::Refused { handle, why: *why }),
            SessionError::OutcomeUnknown => self.emit(&Event::OutcomeUnknown { handle }),
            SessionError::Store(error) => {
                self.emit(&Event::StoreFailed {
                    handle,
                    error: error.clone(),
                });
            }
            _ => {}
        }
    }

    /// Drops what a failed request must not leave behind.
    pub(crate) fn drop_failed_changes(&self) {
        let circumstances = self.terms().circumstances();
        let mut state = self.state();
        state.log.retain_for_failed_request();
        state.refresh_view(&circumstances);
    }

    /// Carries out a `destroy` for a handler that did not come to its end.
    pub(crate) fn destroy_if_doomed(&self) {
        let doomed = self.state().doomed.take();
        if let Some(handle) = doomed {
            destroy_later(self, handle);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
