//! The way into the store: nothing lost, nothing twice, and a logout is final.
//!
//! A session is written by compare-and-set. If another request was faster, the request's changes are done again to the
//! record that won, and sent again. A record names the commits that made it, so that a commit whose answer was lost is
//! found there and not done twice. [`decide`] holds the rules, [`run`] carries them out, [`queue`] lets one commit of a
//! session at a time through; this module takes the changes from a request's session and puts the result back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::change::{ChangeLog, Circumstances};
use crate::error::SessionError;
use crate::event::Event;
use crate::state::{Shared, Standing, State};
use crate::store::StoreError;
use crate::token::Handle;

pub(crate) mod decide;
pub(crate) mod queue;
pub(crate) mod run;

use run::{Base, Commit, Ended, Work, delete};

/// Brings the store to where the session is. Runs to its end although the caller is dropped.
///
/// # Panics
///
/// If a closure of the application panics when it is replayed; as if the handler had.
pub(crate) async fn settle(shared: &Arc<Shared>) -> Result<(), SessionError> {
    if shared.state().is_settled() {
        return Ok(());
    }
    let shared = Arc::clone(shared);
    match tokio::spawn(async move { settle_in_turn(&shared).await }).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down and took the task with it.
            Err(_) => Err(SessionError::OutcomeUnknown),
        },
    }
}

async fn settle_in_turn(shared: &Shared) -> Result<(), SessionError> {
    let _gate = shared.gate.lock().await;
    let began = Instant::now();
    let (spent, head_sent) = {
        let state = shared.state();
        (state.spent, state.head_sent)
    };
    let deadline = began + shared.budget.saturating_sub(spent);
    let result = settle_before(shared, deadline).await;
    if let Err(error) = &result {
        if !head_sent {
            shared.state().spent += began.elapsed();
        }
        shared.report(error);
    }
    result
}

async fn settle_before(shared: &Shared, deadline: Instant) -> Result<(), SessionError> {
    let doomed = shared.state().doomed.take();
    if let Some(handle) = doomed {
        destroy(shared, handle, deadline).await?;
    }
    let resolvable = resolvable(&shared.state());
    if let Some((handle, generation)) = resolvable {
        let _turn = turn(shared, handle, deadline).await?;
        let unresolved = shared.state().unresolved.take();
        if let Some(commit) = unresolved {
            let ended = commit.run(&shared.terms(), deadline).await;
            conclude(shared, ended, generation)?;
        }
    }
    // Waited for before the log is taken, so that a request that gives up still has it.
    let handle = match &shared.state().standing {
        Standing::Stored(base) => Some(base.token.handle),
        Standing::New | Standing::Barred { .. } => None,
    };
    let _turn = match handle {
        Some(handle) => Some(turn(shared, handle, deadline).await?),
        None => None,
    };
    let Some((work, generation)) = take_work(&mut shared.state())? else {
        return Ok(());
    };
    let commit = Commit::new(work, shared.core.next_commit());
    let ended = commit.run(&shared.terms(), deadline).await;
    conclude(shared, ended, generation)
}

/// The session whose earlier commit is to be resolved first.
fn resolvable(state: &State) -> Option<(Handle, u32)> {
    let Standing::Stored(base) = &state.standing else {
        return None;
    };
    state
        .unresolved
        .as_ref()
        .map(|_| (base.token.handle, state.generation))
}

/// Takes what is to be committed out of the request's session.
fn take_work(state: &mut State) -> Result<Option<(Work, u32)>, SessionError> {
    let base = match &state.standing {
        Standing::Barred { why, .. } if state.destroyed || !state.log.is_empty() => {
            return Err(SessionError::Gone(*why));
        }
        _ if state.log.is_empty() => return Ok(None),
        Standing::New if state.head_sent => return Err(SessionError::ResponseSent),
        Standing::Stored(base) => Some(Base::clone(base)),
        Standing::New | Standing::Barred { .. } => None,
    };
    let log = std::mem::take(&mut state.log);
    let done = state.view_is_exact.then(|| Arc::clone(&state.view));
    Ok(Some((Work { base, log, done }, state.generation)))
}

/// Puts the result of a commit into the request's session.
fn conclude(shared: &Shared, ended: Ended, generation: u32) -> Result<(), SessionError> {
    let circumstances = shared.terms().circumstances();
    let mut state = shared.state();
    let current = state.generation == generation;
    match ended {
        Ended::Committed { base, attempts } => {
            report_commit(shared, &state, &base, attempts);
            if current {
                state.standing = Standing::Stored(base);
                state.refresh_view(&circumstances);
            } else if matches!(state.standing, Standing::New) && state.doomed.is_none() {
                // Created while another clone of the session called `destroy`: nobody will ever hold its token.
                state.doomed = Some(base.token.handle);
            }
            Ok(())
        }
        Ended::Failed { log, error } => {
            if current {
                put_back(&mut state, log, &circumstances);
            }
            Err(error)
        }
        Ended::Unknown(commit) => {
            if current {
                state.unresolved = Some(commit);
            }
            Err(SessionError::OutcomeUnknown)
        }
    }
}

fn put_back(state: &mut State, log: ChangeLog, circumstances: &Circumstances) {
    state.log.put_back(log);
    state.refresh_view(circumstances);
}

fn report_commit(shared: &Shared, state: &State, base: &Base, attempts: u32) {
    let handle = base.token.handle;
    match &state.standing {
        Standing::Stored(before) if before.token != base.token => {
            shared.emit(&Event::Rotated { handle });
        }
        Standing::Stored(_) => {}
        Standing::New | Standing::Barred { .. } => shared.emit(&Event::Created { handle }),
    }
    if attempts > 1 {
        shared.emit(&Event::ConflictMerged { handle, attempts });
    }
}

async fn turn(
    shared: &Shared,
    handle: Handle,
    deadline: Instant,
) -> Result<queue::Turn, SessionError> {
    tokio::time::timeout_at(deadline, shared.core.turns.take(handle))
        .await
        .map_err(|_| SessionError::Conflict { attempts: 0 })
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
    // Bounded, so that an outage does not pile up tasks: the sessions of the rest end with their idle timeout.
    let Ok(place) = Arc::clone(&shared.core.background).try_acquire_owned() else {
        let error = StoreError::unavailable("too many destructions are waiting for the store");
        shared.emit(&Event::DestroyFailed { handle, error });
        return;
    };
    let (core, settings) = (Arc::clone(&shared.core), Arc::clone(&shared.settings));
    let budget = core.store.capabilities().request_budget;
    runtime.spawn(async move {
        let _place = place;
        let mut waits = LATER.iter();
        loop {
            let Err(error) = delete(&*core.store, handle, Instant::now() + budget).await else {
                return settings.emit(&Event::Destroyed { handle });
            };
            match waits.next() {
                Some(wait) => tokio::time::sleep(*wait).await,
                None => return settings.emit(&Event::DestroyFailed { handle, error }),
            }
        }
    });
}
