//! The way into the store: nothing lost, nothing twice, and a logout is final.
//!
//! A session is written by compare-and-set. If another request was faster, the request's changes are done again to the
//! record that won, and sent again. A record names the commits that made it, so that a commit whose answer was lost is
//! found there and not done twice. [`decide`] holds the rules, [`run`] carries them out, [`queue`] lets one commit of a
//! session at a time through; this module takes the changes from a request's session and puts the result back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument as _;

use crate::answer::AnswerId;
use crate::error::SessionError;
use crate::event::Event;
use crate::layer::Destroying;
use crate::shared::Shared;
use crate::state::{Outcome, State};
use crate::store::StoreError;
use crate::token::Handle;

pub(crate) mod decide;
pub(crate) mod queue;
pub(crate) mod run;

use run::{Commit, Committed, Ended, delete};

/// When a session is committed.
pub(crate) enum Occasion {
    /// A call of the handler. On failure the change that would have given this answer is taken back, since its caller is
    /// told that it has not happened.
    Call { answer: Option<AnswerId> },
    /// The handler has answered, and failed or not.
    Head { failed: bool },
}

/// How often changes that clones make meanwhile are committed too, before the rest is left to them.
const ROUNDS: u32 = 4;

/// Brings the store to where the session is. Runs to its end although the caller is dropped.
///
/// # Panics
///
/// If a closure of the application panics when it is replayed; as if the handler had.
pub(crate) async fn settle(shared: &Arc<Shared>, occasion: Occasion) -> Result<(), SessionError> {
    // Without the gate a commit of another clone may be under way, and what it has taken is not settled.
    if let Ok(_gate) = shared.gate.try_lock()
        && shared.edit(|state| is_settled_for(state, &occasion))?
    {
        return Ok(());
    }
    let settling = Settling::begin(shared);
    let task = async move { settle_in_turn(&settling.0, occasion).await };
    match tokio::spawn(task.in_current_span()).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down and took the task with it.
            Err(_) => Err(SessionError::OutcomeUnknown),
        },
    }
}

/// A commit that waits or is under way, and so keeps its changes from being given up.
struct Settling(Arc<Shared>);

impl Settling {
    fn begin(shared: &Arc<Shared>) -> Self {
        shared.state().settling += 1;
        Self(Arc::clone(shared))
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        self.0.state().settling -= 1;
    }
}

/// Whether nothing is left to do; if so, the head may go. An error if changes were dropped that the caller meant to save.
fn is_settled_for(state: &mut State, occasion: &Occasion) -> Result<bool, SessionError> {
    match occasion {
        Occasion::Head { failed: true } => state.drop_failed_changes(),
        Occasion::Head { failed: false } => {}
        Occasion::Call { .. } if std::mem::take(&mut state.dropped) => {
            return Err(SessionError::Discarded);
        }
        Occasion::Call { .. } => {}
    }
    let settled = state.is_settled();
    if settled && let Occasion::Head { .. } = occasion {
        state.send_head(true);
    }
    Ok(settled)
}

/// If a closure of the application panics when it is done again, the response must not claim its change.
struct Unwound<'a>(&'a Shared);

impl Drop for Unwound<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.state().lose_in_flight();
        }
    }
}

async fn settle_in_turn(shared: &Shared, occasion: Occasion) -> Result<(), SessionError> {
    let _gate = shared.gate.lock().await;
    let _unwound = Unwound(shared);
    let began = Instant::now();
    let result = settle_before(shared, &occasion, began + shared.time_left()).await;
    shared.edit(|state| {
        if result.is_err() {
            if !state.head_sent {
                state.spent += began.elapsed();
            }
            if let Occasion::Call {
                answer: Some(answer),
            } = occasion
            {
                state.withdraw(answer);
            }
        }
        if let Occasion::Head { .. } = occasion {
            state.send_head(result.is_ok());
        }
    });
    if let Err(error) = &result {
        shared.report(error);
    }
    result
}

async fn settle_before(
    shared: &Shared,
    occasion: &Occasion,
    deadline: Instant,
) -> Result<(), SessionError> {
    let mut committed = false;
    for _ in 0..ROUNDS {
        if shared.edit(|state| is_settled_for(state, occasion))? {
            break;
        }
        match settle_once(shared, deadline).await {
            // What a call has made is among what was committed; what clones have changed since is theirs to save.
            Ok(true) if matches!(occasion, Occasion::Call { .. }) => break,
            Ok(worked) => committed |= worked,
            // What the handler has done is in the store, and the response says so; only a logout must not fail unnoticed.
            Err(_) if committed && shared.state().doomed.is_none() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Does what is to be done next; true if changes were committed.
async fn settle_once(shared: &Shared, deadline: Instant) -> Result<bool, SessionError> {
    let doomed = shared.state().doomed.take();
    if let Some(handle) = doomed {
        destroy(shared, handle, deadline).await?;
    }
    if shared.state().lost {
        return Err(SessionError::OutcomeUnknown);
    }
    let handle = shared.state().stored_handle();
    let _turn = match handle {
        Some(handle) => Some(turn(shared, handle, deadline).await?),
        None => None,
    };
    let unresolved = shared.state().take_unresolved();
    if let Some((commit, generation)) = unresolved {
        let ended = commit.run(&shared.terms(), deadline).await;
        conclude(shared, ended, generation)?;
    }
    let work = shared.state().take_work()?;
    let Some((work, generation)) = work else {
        return Ok(false);
    };
    let commit = Commit::new(work, shared.core.next_commit());
    let ended = commit.run(&shared.terms(), deadline).await;
    conclude(shared, ended, generation)?;
    Ok(true)
}

/// Puts the result of a commit into the request's session.
fn conclude(shared: &Shared, ended: Ended, generation: u32) -> Result<(), SessionError> {
    match ended {
        Ended::Committed(committed) => {
            report_commit(shared, &committed);
            let (handle, created) = (committed.base.token.handle, committed.created);
            let current =
                shared.edit(|state| state.conclude(generation, Outcome::Committed(committed.base)));
            if created && !current {
                // `destroy` was called meanwhile, and nobody will ever hold the token of this session.
                destroy_later(shared, handle);
            }
            Ok(())
        }
        Ended::Failed { log, error } => {
            shared.edit(|state| state.conclude(generation, Outcome::Failed(log)));
            Err(error)
        }
        Ended::Unknown(commit) => {
            shared.edit(|state| state.conclude(generation, Outcome::Unresolved(commit)));
            Err(SessionError::OutcomeUnknown)
        }
        Ended::NeverKnown => {
            shared.edit(|state| state.conclude(generation, Outcome::Lost));
            Err(SessionError::OutcomeUnknown)
        }
    }
}

fn report_commit(shared: &Shared, committed: &Committed) {
    let handle = committed.base.token.handle;
    if committed.created {
        shared.emit(&Event::Created { handle });
    }
    if committed.rotated {
        shared.emit(&Event::Rotated { handle });
    }
    if committed.attempts > 1 {
        let attempts = committed.attempts;
        shared.emit(&Event::ConflictMerged { handle, attempts });
    }
}

/// Waits until this process has no other commit of the session under way.
async fn turn(
    shared: &Shared,
    handle: Handle,
    deadline: Instant,
) -> Result<queue::Turn, SessionError> {
    let turn = tokio::time::timeout_at(deadline, shared.core.turns.take(handle)).await;
    turn.map_err(|_| match shared.state().is_unresolved() {
        true => SessionError::OutcomeUnknown,
        false => SessionError::Store(StoreError::unavailable(
            "other commits of this session took all of the request's budget: see `request_budget`",
        )),
    })
}

async fn destroy(shared: &Shared, handle: Handle, deadline: Instant) -> Result<(), SessionError> {
    match delete(&*shared.core.store, handle, deadline).await {
        Ok(()) => {
            shared.emit(&Event::Destroyed { handle });
            Ok(())
        }
        Err(error) => {
            shared.state().doomed.get_or_insert(handle);
            destroy_later(shared, handle);
            Err(SessionError::Store(error))
        }
    }
}

/// The waits between the attempts to carry out a destruction that failed; about five minutes in all.
const LATER: [Duration; 9] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(90),
    Duration::from_secs(100),
];

/// Destroys a session in the background, for a request that is over or has failed. A logout is carried out although the
/// store was away when it was asked for.
pub(crate) fn destroy_later(shared: &Shared, handle: Handle) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return;
    };
    let (core, settings) = (Arc::clone(&shared.core), Arc::clone(&shared.settings));
    match core.begin_destroying(handle) {
        Destroying::Begun => {}
        Destroying::UnderWay => return,
        Destroying::TooMany => {
            let error = StoreError::unavailable("too many destructions wait for the store");
            return shared.emit(&Event::DestroyFailed { handle, error });
        }
    }
    let task = async move {
        let budget = core.store.capabilities().request_budget;
        let mut waits = LATER.iter();
        let event = loop {
            let Err(error) = delete(&*core.store, handle, Instant::now() + budget).await else {
                break Event::Destroyed { handle };
            };
            match waits.next() {
                Some(wait) => tokio::time::sleep(*wait).await,
                None => break Event::DestroyFailed { handle, error },
            }
        };
        core.end_destroying(handle);
        settings.emit(&event);
    };
    runtime.spawn(task.in_current_span());
}
