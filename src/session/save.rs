//! From the changes of a request to the store, and back into its session.

use std::future::Future;
use std::sync::Arc;

use tokio::runtime::Handle as Runtime;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::commit::batch::create;
use crate::commit::delete::{Revocation, revoke_all};
use crate::commit::lease::Lease;
use crate::commit::outcome::CommitOutcome;
use crate::commit::queue::Ticket;
use crate::commit::span;
use crate::error::session::{Gone, SessionError};
use crate::event::Event;
use crate::record::Record;
use crate::record::deferred::DeferredId;
use crate::session::shared::Shared;
use crate::session::state::State;
use crate::session::state::backing::Backing;
use crate::store::Freshness;
use crate::store::deadline::within;
use crate::time::deadline::deadline;

/// When a session is committed.
pub(crate) enum Trigger {
    /// A call of the handler. On failure the change that would have given this answer is taken back, since its caller is
    /// told that it has not happened.
    Explicit { deferred: Option<DeferredId> },
    /// The handler has answered, and failed or not.
    EndOfRequest { failed: bool },
}

/// How often changes that clones make meanwhile are committed too, before the rest is left to them.
const ROUNDS: u32 = 4;

/// Brings the store to where the session is. Runs to its end although the caller is dropped.
///
/// # Panics
///
/// If a closure of the application panics when it is replayed; as if the handler had.
pub(crate) async fn commit_pending(
    shared: &Arc<Shared>,
    trigger: Trigger,
) -> Result<(), SessionError> {
    // Without the gate a commit of another clone may be under way, and what it has taken is not committed.
    if let Ok(_gate) = shared.gate.try_lock()
        && shared.edit(|state| is_done(state, &trigger))
    {
        return Ok(());
    }
    let running = RunningCommit::begin(shared);
    let task = async move { commit_in_turn(&running.shared, trigger).await };
    to_its_end(shared, task.instrument(span::commit())).await
}

/// Brings the session to where the store is. Runs to its end although the caller is dropped.
///
/// # Panics
///
/// As [`commit_pending`].
pub(crate) async fn reload(shared: &Arc<Shared>) -> Result<(), SessionError> {
    let running = RunningCommit::begin(shared);
    let task = async move { reload_in_turn(&running.shared).await };
    to_its_end(shared, task.in_current_span()).await
}

async fn to_its_end(
    shared: &Shared,
    task: impl Future<Output = Result<(), SessionError>> + Send + 'static,
) -> Result<(), SessionError> {
    let here = Runtime::try_current();
    let runtime = here.or_else(|_| shared.runtime())?;
    let background = &shared.context.backend.background;
    match background.spawn_on(task, &runtime).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down and took the task with it.
            Err(_) => Err(SessionError::OutcomeUnknown),
        },
    }
}

/// A commit that waits or is under way, and so keeps its changes from being given up.
struct RunningCommit {
    shared: Arc<Shared>,
    /// Kept until the commit is over, although the request may be before.
    _lease: Option<Arc<Lease>>,
}

impl RunningCommit {
    fn begin(shared: &Arc<Shared>) -> Self {
        let mut state = shared.state();
        state.running_commits += 1;
        Self {
            shared: Arc::clone(shared),
            _lease: state.lease.clone(),
        }
    }
}

impl Drop for RunningCommit {
    fn drop(&mut self) {
        let doomed = self.shared.state().end_commit();
        self.shared.delete_later(doomed);
    }
}

/// Whether nothing is left to do; if so, the head may go.
fn is_done(state: &mut State, trigger: &Trigger) -> bool {
    if let Trigger::EndOfRequest { failed: true } = trigger {
        state.drop_failed_changes();
    }
    let committed = state.has_nothing_pending();
    if committed && let Trigger::EndOfRequest { failed } = trigger {
        if !failed && state.unproved_reads().is_some() {
            return false;
        }
        state.remove_unchanging();
        state.send_head(true);
    }
    committed
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

async fn commit_in_turn(shared: &Shared, trigger: Trigger) -> Result<(), SessionError> {
    let _gate = shared.gate.lock().await;
    let _unwound = Unwound(shared);
    let began = Instant::now();
    let deadline = deadline(began, shared.time_left());
    let result = commit_before(shared, &trigger, deadline).await;
    shared.edit(|state| {
        if result.is_err() {
            state.spend(began.elapsed());
            if let Trigger::Explicit {
                deferred: Some(deferred),
            } = trigger
            {
                state.withdraw(deferred);
            }
        }
        if let Trigger::EndOfRequest { .. } = trigger {
            state.send_head(result.is_ok());
        }
    });
    span::record_end(shared.state().backing.stored_handle(), &result);
    if let Err(error) = &result {
        shared.report(error);
    }
    result.map_err(|error| match trigger {
        Trigger::EndOfRequest { .. } => shared.state().of_the_request(error),
        Trigger::Explicit { .. } => error,
    })
}

async fn commit_before(
    shared: &Shared,
    trigger: &Trigger,
    deadline: Instant,
) -> Result<(), SessionError> {
    let mut committed = false;
    for _ in 0..ROUNDS {
        if shared.edit(|state| is_done(state, trigger)) {
            break;
        }
        if shared.state().has_nothing_pending() {
            prove_reads(shared, deadline).await?;
            continue;
        }
        match commit_once(shared, deadline).await {
            // What a call has made is among what was committed; what clones have changed since is theirs to save.
            Ok(true) if matches!(trigger, Trigger::Explicit { .. }) => break,
            Ok(worked) => committed |= worked,
            // What the handler has done is in the store, and the response says so; only a logout must not fail unnoticed.
            Err(_) if committed && shared.state().ending.pending().is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Looks whether what a request has read is still so, that was to have the session for itself and has lost its lease.
async fn prove_reads(shared: &Shared, deadline: Instant) -> Result<(), SessionError> {
    let unproved = shared.state().unproved_reads();
    let Some((reads, base)) = unproved else {
        return Ok(());
    };
    let load = shared
        .context
        .backend
        .store
        .load(&base.token.handle, Freshness::Latest);
    let stored = within(deadline, load).await?.bytes();
    let stored = stored.map_err(|_| SessionError::Gone(Gone::Unreadable))?;
    let stored = stored.ok_or(SessionError::Gone(Gone::Ended))?;
    let record =
        Record::decode(stored.value()).map_err(|_| SessionError::Gone(Gone::Unreadable))?;
    if record.epoch != base.record.epoch {
        return Err(SessionError::Gone(Gone::Rotated));
    }
    if reads.conflicts_with(&base.record, &record) {
        return Err(SessionError::Conflict { attempts: 0 });
    }
    shared.state().reads.prove();
    Ok(())
}

/// Does what is to be done next; true if changes were committed.
async fn commit_once(shared: &Shared, deadline: Instant) -> Result<bool, SessionError> {
    delete_pending(shared, deadline).await?;
    if shared.state().in_flight.is_lost() {
        return Err(SessionError::OutcomeUnknown);
    }
    let handle = shared.state().backing.handle_to_commit();
    let ticket = handle.map(|handle| shared.engine.queues.join(handle));
    if let Some(ticket) = &ticket
        && shared.state().in_flight.is_unresolved()
    {
        resolve(shared, ticket, deadline).await?;
        // What a failed request has back now is to be dropped.
        return Ok(false);
    }
    let work = shared.state().take_work(shared.context.clone())?;
    let Some((work, generation)) = work else {
        return Ok(false);
    };
    let outcome = match &ticket {
        Some(ticket) => ticket.commit(work, deadline).await,
        None => create(work, deadline).await,
    };
    apply_outcome(shared, outcome, generation)?;
    Ok(true)
}

/// Ends the sessions of a request that are to end. What cannot be done now is done later.
async fn delete_pending(shared: &Shared, deadline: Instant) -> Result<(), SessionError> {
    // They stay in the state until they are done, so that a runtime that ends meanwhile takes none along unnoticed.
    let pending = shared.state().ending.pending().to_vec();
    if pending.is_empty() {
        return Ok(());
    }
    let deletions = revoke_all(&shared.context, pending.clone(), deadline).await;
    // The response must not claim what is left, though the handler swallows the error of a `save`.
    let left = deletions.failed.iter().chain(&deletions.unreadable);
    let left: Vec<Revocation> = left.cloned().collect();
    shared.state().ending.note_done(&pending, left);
    shared.delete_later(deletions.failed);
    deletions.result
}

/// Finds out what became of a commit of this session that got no answer, if there is one.
async fn resolve(shared: &Shared, ticket: &Ticket, deadline: Instant) -> Result<(), SessionError> {
    let unresolved = shared.state().take_unresolved();
    let Some((unresolved, generation)) = unresolved else {
        return Ok(());
    };
    let outcome = ticket.resolve(unresolved, deadline).await;
    apply_outcome(shared, outcome, generation)
}

async fn reload_in_turn(shared: &Shared) -> Result<(), SessionError> {
    let _gate = shared.gate.lock().await;
    let began = Instant::now();
    let result = reload_before(shared, deadline(began, shared.time_left())).await;
    if result.is_err() {
        shared.state().spend(began.elapsed());
    }
    result
}

async fn reload_before(shared: &Shared, deadline: Instant) -> Result<(), SessionError> {
    let handle = match &shared.state().backing {
        Backing::New => return Ok(()),
        Backing::Denied { why, .. } => return Err(why.clone()),
        Backing::Loaded(base) => base.token.handle,
    };
    // What is read may hold its changes already, and they would be done to it once more.
    if shared.state().in_flight.shows_too_little() {
        let ticket = shared.engine.queues.join(handle);
        resolve(shared, &ticket, deadline).await?;
    }
    let (epoch, generation) = match &*shared.state() {
        State {
            backing: Backing::Loaded(base),
            generation,
            ..
        } => (base.record.epoch, *generation),
        // Destroyed meanwhile.
        _ => return Ok(()),
    };
    let load = shared
        .context
        .backend
        .store
        .load(&handle, Freshness::Latest);
    let stored = within(deadline, load).await?.bytes();
    let stored = stored.map_err(|_| SessionError::Gone(Gone::Unreadable))?;
    let stored = stored.ok_or(SessionError::Gone(Gone::Ended))?;
    let record =
        Record::decode(stored.value()).map_err(|_| SessionError::Gone(Gone::Unreadable))?;
    if record.epoch != epoch {
        return Err(SessionError::Gone(Gone::Rotated));
    }
    shared.edit(|state| {
        if state.generation == generation {
            state.replace_base(stored, record);
        }
    });
    Ok(())
}

/// Puts the result of a commit into the request's session.
fn apply_outcome(
    shared: &Shared,
    outcome: CommitOutcome,
    generation: u32,
) -> Result<(), SessionError> {
    let mut created = None;
    let result = match &outcome {
        CommitOutcome::Committed(committed) => {
            let handle = committed.base.token.handle;
            if committed.created {
                created = Some(handle);
                shared.emit(&Event::Created { handle });
            }
            if committed.rotated {
                shared.emit(&Event::Rotated { handle });
            }
            shared.state().cookie.is_old |= committed.changes_cookie;
            Ok(())
        }
        CommitOutcome::NotApplied(_) => Ok(()),
        CommitOutcome::Failed { error, .. } => Err(error.clone()),
        CommitOutcome::NotDurable { done, .. } => {
            if done.rotated {
                let handle = done.base.token.handle;
                shared.emit(&Event::Rotated { handle });
            }
            Err(SessionError::OutcomeUnknown)
        }
        CommitOutcome::Unknown(_) | CommitOutcome::NeverKnown => Err(SessionError::OutcomeUnknown),
        CommitOutcome::Panicked(_) => Err(SessionError::Discarded),
    };
    if let CommitOutcome::Panicked(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    let is_current = shared.edit(|state| state.apply_outcome(generation, outcome));
    if let Some(handle) = created.filter(|_| !is_current) {
        // `destroy` was called meanwhile, and nobody will ever hold the token of this session.
        shared.delete_later(vec![Revocation::Verified(handle)]);
    }
    result
}
