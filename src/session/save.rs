//! Commits the changes of a request, and brings the outcome back into its session.

use std::sync::Arc;

use tokio::runtime::Handle as Runtime;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::commit::batch::create;
use crate::commit::delete::{Revocation, revoke_all};
use crate::commit::outcome::CommitOutcome;
use crate::commit::queue::Ticket;
use crate::commit::span::{self, Cost};
use crate::error::session::{Gone, SessionError};
use crate::event::Event;
use crate::metrics::requests::{commit_ended, signed_in};
use crate::metrics::timer::Timer;
use crate::record::deferred::DeferredId;
use crate::session::running::{OutlivesCaller, RunningCommit, Task, run_to_its_end};
use crate::session::shared::Shared;
use crate::session::state::State;
use crate::session::state::backing::Backing;
use crate::store::Freshness;
use crate::store::deadline::within;
use crate::time::deadline::deadline;

/// The reason for a commit.
pub(crate) enum Trigger {
    /// A call of the handler. If the commit fails, the change with this deferred result is withdrawn, since its caller
    /// learns that it has not happened.
    Explicit { deferred: Option<DeferredId> },
    /// The handler has returned a response. `failed` if it is that of a failed request, whose changes are dropped.
    EndOfRequest { failed: bool },
}

/// How often changes that clones make meanwhile are committed too, before the rest is left to their own `save`.
const ROUNDS: u32 = 4;

/// Commits the pending changes, and deletes the sessions that have ended. Runs to its end even if the caller is dropped.
///
/// # Panics
///
/// If a closure of the application panics during a replay, as if the handler had panicked.
pub(crate) async fn commit_pending(
    shared: &Arc<Shared>,
    trigger: Trigger,
) -> Result<(), SessionError> {
    // If the gate is taken, a commit of another clone may be running, whose changes are not committed yet.
    if let Ok(_gate) = shared.gate.try_lock()
        && shared.edit(|state| rest(state, &trigger)) == Rest::Nothing
    {
        return Ok(());
    }
    let running = RunningCommit::begin(shared);
    // The server polls the end of a request until it is over. A handler may stop polling a call of its own, and must not hold up
    // the commits of other requests then. Timers need a runtime.
    let is_end = matches!(trigger, Trigger::EndOfRequest { .. });
    let by_caller = is_end && Runtime::try_current().is_ok();
    let task: Task = Box::pin(async move { commit_in_turn(&running.shared, trigger).await });
    let span = span::commit();
    match by_caller {
        true => OutlivesCaller::new(shared, task, span).await,
        false => run_to_its_end(shared, task.instrument(span)).await,
    }
}

/// Loads the session again, and replays the changes on it. Runs to its end even if the caller is dropped.
///
/// # Panics
///
/// As [`commit_pending`].
pub(crate) async fn reload(shared: &Arc<Shared>) -> Result<(), SessionError> {
    let running = RunningCommit::begin(shared);
    let task = async move { reload_in_turn(&running.shared).await };
    run_to_its_end(shared, task.in_current_span()).await
}

/// What is left of a request to commit.
#[derive(PartialEq)]
enum Rest {
    Nothing,
    /// The values that it has read may have changed, and nobody has checked that they have not.
    Reads,
    Changes,
}

/// What is left to commit. If it is nothing at the end of the request, the response head counts as sent then.
fn rest(state: &mut State, trigger: &Trigger) -> Rest {
    if let Trigger::EndOfRequest { failed: true } = trigger {
        state.drop_failed_changes();
    }
    if !state.has_nothing_pending() {
        return Rest::Changes;
    }
    if let Trigger::EndOfRequest { failed } = trigger {
        if !failed && state.unverified_reads().is_some() {
            return Rest::Reads;
        }
        state.remove_unchanging();
        state.send_head(true);
    }
    Rest::Nothing
}

/// Marks the commit as lost if a closure of the application panics during a replay: the response must not claim its changes.
struct LoseOnPanic<'a>(&'a Shared, Timer);

impl Drop for LoseOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.state().lose_in_flight();
            let handle = self.0.state().backing.stored_handle();
            span::record_end(handle, Cost::default(), "panicked", Some("panic"));
            commit_ended("panicked", self.1);
        }
    }
}

async fn commit_in_turn(shared: &Shared, trigger: Trigger) -> Result<(), SessionError> {
    let _gate = shared.gate.lock().await;
    let timer = Timer::start();
    let _lose_on_panic = LoseOnPanic(shared, timer);
    let began = Instant::now();
    let deadline = deadline(began, shared.time_left());
    let (handle, ends) = {
        let state = shared.state();
        let revocation = state.ending.pending().first();
        let handle = state.backing.stored_handle();
        (
            handle.or(revocation.map(Revocation::handle)),
            revocation.is_some(),
        )
    };
    let mut cost = Cost::default();
    let result = commit_by(shared, &trigger, deadline, &mut cost).await;
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
    let handle = handle.or_else(|| shared.state().backing.stored_handle());
    let outcome = match &result {
        Ok(()) if ends && cost.attempts == 0 => "destroyed",
        result => span::outcome(result),
    };
    let failure = result.as_ref().err().and_then(span::failure);
    span::record_end(handle, cost, outcome, failure);
    commit_ended(outcome, timer);
    if let Err(error) = &result {
        shared.report(error);
    }
    result.map_err(|error| match trigger {
        Trigger::EndOfRequest { .. } => shared.state().as_error_of_request(error),
        Trigger::Explicit { .. } => error,
    })
}

async fn commit_by(
    shared: &Shared,
    trigger: &Trigger,
    deadline: Instant,
    cost: &mut Cost,
) -> Result<(), SessionError> {
    let mut committed = false;
    for _ in 0..ROUNDS {
        match shared.edit(|state| rest(state, trigger)) {
            Rest::Nothing => break,
            Rest::Reads => {
                cost.round_trips += 1;
                verify_reads(shared, deadline).await?;
                continue;
            }
            Rest::Changes => {}
        }
        match commit_once(shared, deadline, cost).await {
            // The changes of the call are committed; later changes of clones are theirs to save.
            Ok(true) if matches!(trigger, Trigger::Explicit { .. }) => break,
            Ok(was_committed) => committed |= was_committed,
            // The changes of the handler are in the store, and the response says so. Only a failed logout must not go
            // unnoticed.
            Err(_) if committed && shared.state().ending.pending().is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Checks that the values which a request has read have not changed, if it was to have the session for itself and its lease
/// has expired.
async fn verify_reads(shared: &Shared, deadline: Instant) -> Result<(), SessionError> {
    let unverified = shared.state().unverified_reads();
    let Some((reads, base)) = unverified else {
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
    let records = &shared.context.backend.records;
    let record = records
        .decode(base.token.handle, stored.value())
        .map_err(|_| SessionError::Gone(Gone::Unreadable))?;
    if record.epoch != base.record.epoch {
        return Err(SessionError::Gone(Gone::Rotated));
    }
    if reads.conflicts_with(&base.record, &record) {
        return Err(SessionError::Conflict { attempts: 0 });
    }
    shared.state().reads.mark_verified();
    Ok(())
}

/// Takes the next step: deletes sessions, resolves an earlier commit, or commits the changes. True if changes were
/// committed.
async fn commit_once(
    shared: &Shared,
    deadline: Instant,
    cost: &mut Cost,
) -> Result<bool, SessionError> {
    delete_pending(shared, deadline, cost).await?;
    if shared.state().in_flight.is_lost() {
        return Err(SessionError::OutcomeUnknown);
    }
    let handle = shared.state().backing.handle_to_commit();
    let ticket = handle.map(|handle| shared.engine.queues.join(handle));
    if let Some(ticket) = &ticket
        && shared.state().in_flight.is_unresolved()
    {
        resolve(shared, ticket, deadline, cost).await?;
        // If the request has failed, the changes that came back are dropped first.
        return Ok(false);
    }
    let work = shared.state().take_work(shared.context.clone())?;
    let Some((work, generation)) = work else {
        return Ok(false);
    };
    let (outcome, spent) = match &ticket {
        Some(ticket) => ticket.commit(work, deadline).await,
        None => create(work, deadline).await,
    };
    *cost += spent;
    apply_outcome(shared, outcome, generation)?;
    Ok(true)
}

/// Deletes the sessions that this request has ended. A deletion that fails is retried in the background.
async fn delete_pending(
    shared: &Shared,
    deadline: Instant,
    cost: &mut Cost,
) -> Result<(), SessionError> {
    // They stay in the state until they are carried out, so that none gets lost unnoticed if the runtime shuts down.
    let pending = shared.state().ending.pending().to_vec();
    if pending.is_empty() {
        return Ok(());
    }
    let deletions = revoke_all(&shared.context, pending.clone(), deadline).await;
    cost.round_trips += deletions.round_trips;
    // The response must not claim the remaining deletions, even if the handler ignores the error of a `save`.
    let remaining = deletions.failed.iter().chain(&deletions.unreadable);
    let remaining: Vec<Revocation> = remaining.cloned().collect();
    shared.state().ending.note_done(&pending, remaining);
    if deletions.result.is_ok()
        && let Some(left) = shared.state().left.take()
    {
        left.leave_later(&shared.context);
    }
    shared.delete_later(deletions.failed);
    deletions.result
}

/// Resolves the commit of this session that got no answer, if there is one.
async fn resolve(
    shared: &Shared,
    ticket: &Ticket,
    deadline: Instant,
    cost: &mut Cost,
) -> Result<(), SessionError> {
    let unresolved = shared.state().take_unresolved();
    let Some((unresolved, generation)) = unresolved else {
        return Ok(());
    };
    let (outcome, spent) = ticket.resolve(unresolved, deadline).await;
    *cost += spent;
    apply_outcome(shared, outcome, generation)
}

async fn reload_in_turn(shared: &Shared) -> Result<(), SessionError> {
    let _gate = shared.gate.lock().await;
    let began = Instant::now();
    let result = reload_by(shared, deadline(began, shared.time_left())).await;
    if result.is_err() {
        shared.state().spend(began.elapsed());
    }
    result
}

async fn reload_by(shared: &Shared, deadline: Instant) -> Result<(), SessionError> {
    let handle = match &shared.state().backing {
        Backing::New => return Ok(()),
        Backing::Denied { why, .. } => return Err(why.clone()),
        Backing::Loaded(base) => base.token.handle,
    };
    // The record that is read may have the changes of this commit already, and a replay would apply them twice.
    if shared.state().in_flight.may_be_applied_unseen() {
        let ticket = shared.engine.queues.join(handle);
        resolve(shared, &ticket, deadline, &mut Cost::default()).await?;
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
    let records = &shared.context.backend.records;
    let record = records
        .decode(handle, stored.value())
        .map_err(|_| SessionError::Gone(Gone::Unreadable))?;
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

/// Brings the outcome of a commit into the request's session, and emits its events.
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
            if committed.signed_in {
                signed_in();
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
            if done.signed_in {
                signed_in();
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
        // `destroy` was called meanwhile, so the token of the new session is never sent.
        shared.delete_later(vec![Revocation::Verified(handle)]);
    }
    result
}
