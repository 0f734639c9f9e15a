//! What the clones of a session share, and how they get at it.

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
use crate::record::Record;
use crate::record::log::ChangeLog;
use crate::session::state::backing::Backing;
use crate::session::state::{State, View};

/// How often a view is made anew for changes that come while it is made.
const PASSES: u32 = 8;

/// What the clones of a session share.
pub(crate) struct Shared {
    pub(crate) engine: Arc<Engine>,
    pub(crate) context: CommitContext,
    /// The one that the request came in on.
    runtime: Option<Runtime>,
    /// How long commits of this request may take in all.
    pub(crate) budget: Duration,
    /// Whether the response is shown to somebody, who then reads the messages on it.
    pub(crate) shows_flashes: bool,
    /// One commit of a request at a time.
    pub(crate) gate: AsyncMutex<()>,
    state: Lock<State>,
}

/// The state, locked. Logs that were removed from it are dropped once it is not locked any more.
pub(crate) struct StateGuard<'a> {
    // In this order.
    state: Guard<'a, State>,
    removed: Vec<ChangeLog>,
}

impl Drop for StateGuard<'_> {
    fn drop(&mut self) {
        self.removed = self.state.take_removed();
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

    /// Where to run what nobody waits for: the caller may be on a thread of its own by now, or on a runtime that is about to
    /// end.
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

    /// Tells of a commit that failed, or of a call that was refused before.
    pub(crate) fn report(&self, error: &SessionError) {
        let handle = match &self.state().backing {
            Backing::Loaded(base) => Some(base.token.handle),
            Backing::New => None,
            Backing::Denied { handle, .. } => *handle,
        };
        match error {
            SessionError::Gone(why) => self.emit(&Event::Refused { handle, why: *why }),
            SessionError::Busy { .. } => self.emit(&Event::Busy { handle }),
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
            _ => {}
        }
    }

    /// Changes the state, and makes the view anew if it is outdated then.
    pub(crate) fn edit<R>(&self, edit: impl FnOnce(&mut State) -> R) -> R {
        let result = edit(&mut self.state());
        self.refresh_view();
        result
    }

    /// Closures of the application run here, which may use the session: no lock is held meanwhile.
    fn refresh_view(&self) {
        // A closure that changes the session it is run for would have no end.
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

    /// Carries out a `destroy` for a handler that did not come to its end, and forgets the rest.
    pub(crate) fn abandon(&self) {
        // The view is not made anew: the handler may be unwinding, and a closure that panics too would end the process.
        let (doomed, _lease) = {
            let mut state = self.state();
            let lease = state.lease.take();
            (state.abandon(), lease)
        };
        self.delete_later(doomed);
    }
}

/// A `destroy` that nobody has carried out yet is carried out. Other changes that were made after the response and never
/// saved are lost; that is an event, not silence.
impl Drop for Shared {
    fn drop(&mut self) {
        let (doomed, lost, handle) = {
            let mut state = self.state();
            let doomed = state.ending.take_pending();
            (
                doomed,
                state.phase.is_head_sent() && !state.phase.is_abandoned() && !state.log.is_empty(),
                state.backing.stored_handle(),
            )
        };
        self.delete_later(doomed);
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
