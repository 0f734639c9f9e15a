//! What the clones of a session share, and the lock that guards it.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle as Runtime;
use tokio::sync::Mutex as AsyncMutex;

use crate::commit::context::CommitContext;
use crate::commit::delete::{Revocation, revoke_later};
use crate::commit::engine::Engine;
use crate::error::session::SessionError;
use crate::error::store::StoreError;
use crate::event::Event;
use crate::lock::{Guard, Lock};
use crate::metrics::requests::conflict_rejected;
use crate::record::Record;
use crate::record::log::ChangeLog;
use crate::session::state::backing::Backing;
use crate::session::state::{State, View};

/// How often the view is rebuilt because changes have come meanwhile.
const PASSES: u32 = 8;

/// What the clones of a session share.
pub(crate) struct Shared {
    pub(crate) engine: Arc<Engine>,
    pub(crate) context: CommitContext,
    /// The runtime that the request arrived on.
    runtime: Option<Runtime>,
    /// How long commits of this request may take in all.
    pub(crate) budget: Duration,
    /// Whether a user sees the response, and the messages on it.
    pub(crate) shows_flashes: bool,
    /// One commit of a request at a time.
    pub(crate) gate: AsyncMutex<()>,
    state: Lock<State>,
}

/// The locked state. Logs that were removed from it are dropped once the lock is released.
pub(crate) struct StateGuard<'a> {
    // Dropped in this order.
    state: Guard<'a, State>,
    removed: Vec<ChangeLog>,
}

impl Drop for StateGuard<'_> {
    fn drop(&mut self) {
        if self.state.has_removed() {
            self.removed = self.state.take_removed();
        }
    }
}

impl Deref for StateGuard<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for StateGuard<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Shared {
    pub(crate) fn new(
        engine: Arc<Engine>,
        context: CommitContext,
        runtime: Option<Runtime>,
        shows_flashes: bool,
        state: State,
    ) -> Self {
        let (gate, state) = (AsyncMutex::new(()), Lock::new(state));
        Self {
            budget: context.backend.request_budget(),
            engine,
            context,
            runtime,
            shows_flashes,
            gate,
            state,
        }
    }

    /// Never held across an `await`, nor while code of the application runs.
    pub(crate) fn state(&self) -> StateGuard<'_> {
        StateGuard {
            state: self.state.lock(),
            removed: Vec::new(),
        }
    }

    /// The runtime for background work. The caller may be on a thread of its own by now, or on a runtime that is about to
    /// shut down.
    pub(crate) fn runtime(&self) -> Result<Runtime, StoreError> {
        let kept = self.runtime.clone();
        kept.or_else(|| Runtime::try_current().ok()).ok_or_else(|| {
            StoreError::unavailable("there is no tokio runtime: load the session inside of one")
        })
    }

    /// Ends sessions in the background.
    pub(crate) fn delete_later(&self, revocations: Vec<Revocation>) {
        for revocation in revocations {
            revoke_later(&self.context, self.runtime(), revocation);
        }
    }

    pub(crate) fn emit(&self, event: &Event) {
        self.context.emit(event);
    }

    /// Emits the event of a commit that failed, or of a call that was rejected.
    pub(crate) fn report(&self, error: &SessionError) {
        let handle = match &self.state().backing {
            Backing::Loaded(base) => Some(base.token.handle),
            Backing::New => None,
            Backing::Denied { handle, .. } => *handle,
        };
        match error {
            SessionError::Gone(why) => self.emit(&Event::Refused { handle, why: *why }),
            SessionError::Busy { .. } => self.emit(&Event::Busy { handle }),
            SessionError::SignInRefused(why) => {
                self.emit(&Event::SignInRefused { handle, why: *why });
            }
            SessionError::Csrf(why) => self.emit(&Event::CsrfRefused { handle, why: *why }),
            SessionError::Denied(why) => self.emit(&Event::Denied { handle, why: *why }),
            SessionError::TooLarge { part, size, limit } => self.emit(&Event::TooLarge {
                handle,
                part: *part,
                size: *size,
                limit: *limit,
            }),
            SessionError::OutcomeUnknown => self.emit(&Event::OutcomeUnknown { handle }),
            SessionError::Store(error) => {
                self.emit(&Event::StoreFailed {
                    handle,
                    error: error.clone(),
                });
            }
            SessionError::Conflict { .. } => conflict_rejected(),
            _ => {}
        }
    }

    /// Changes the state, and rebuilds the view if it is stale then.
    pub(crate) fn edit<R>(&self, edit: impl FnOnce(&mut State) -> R) -> R {
        let result = edit(&mut self.state());
        self.refresh_view();
        result
    }

    /// Rebuilds the view if it is stale. Closures of the application run here, which may use the session, so no lock is held
    /// meanwhile.
    fn refresh_view(&self) {
        // Bounded, since a closure may change its session every time it runs.
        for pass in 1..=PASSES {
            let (base, log, revision) = {
                let state = self.state();
                if state.view_is != View::Stale {
                    return;
                }
                let base = match &state.backing {
                    Backing::Loaded(base) => Some(Arc::clone(&base.record)),
                    Backing::New | Backing::Denied { .. } => None,
                };
                let mut log = state.in_flight.log().cloned().unwrap_or_default();
                log.append(&state.log);
                (base, log, state.revision)
            };
            let apply_context = self.context.apply_context();
            let mut view = base.unwrap_or_else(|| Arc::new(Record::new(&apply_context)));
            let exact =
                log.is_empty() || log.replay_all_possible(Arc::make_mut(&mut view), &apply_context);
            let mut state = self.state();
            let unchanged = state.revision == revision;
            if unchanged || pass == PASSES {
                state.view = view;
                state.view_is = match exact && unchanged {
                    true => View::Exact,
                    false => View::Partial,
                };
                return;
            }
        }
    }

    /// How long a commit or a load that begins now may take.
    pub(crate) fn time_left(&self) -> Duration {
        let state = self.state();
        match state.phase.is_head_sent() {
            true => self.budget,
            false => self.budget.saturating_sub(state.spent),
        }
    }

    /// Carries out the `destroy` of a handler that did not finish, and drops its other changes.
    pub(crate) fn abandon(&self) {
        // The view is not rebuilt: the handler may be unwinding, and a second panic, of a closure, would abort the process.
        let (revocations, _lease) = {
            let mut state = self.state();
            let lease = state.lease.take();
            (state.abandon(), lease)
        };
        self.delete_later(revocations);
    }
}

/// Carries out a pending `destroy`. Other changes that were made after the response and never saved are lost, which an event
/// reports.
impl Drop for Shared {
    fn drop(&mut self) {
        let (revocations, lost, handle) = {
            let mut state = self.state();
            let revocations = state.ending.take_pending();
            (
                revocations,
                state.phase.is_head_sent() && !state.phase.is_abandoned() && !state.log.is_empty(),
                state.backing.stored_handle(),
            )
        };
        self.delete_later(revocations);
        if lost {
            self.emit(&Event::ChangesLost { handle });
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
