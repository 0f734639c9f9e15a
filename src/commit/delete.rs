//! Revocations: sessions are deleted now, or in the background once the store is back.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::Handle as Runtime;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::commit::backend::{Deletion, MAX_PENDING_DELETIONS};
use crate::commit::context::CommitContext;
use crate::commit::decide::{Action, Event as StepEvent, Goal, State, Verdict, step};
use crate::commit::span;
use crate::error::session::{Gone, SessionError};
use crate::error::store::StoreError;
use crate::event::{EndReason, Event};
use crate::metrics::gauge::Present;
use crate::record::Record;
use crate::record::format::Unreadable;
use crate::store::deadline::within;
use crate::store::erased::ErasedStore;
use crate::store::{Deleted, Durability, Freshness};
use crate::time::Millis;
use crate::token::{Handle, Token};

/// The waits between the attempts to delete a session; about five minutes in all.
const RETRY_WAITS: [Duration; 9] = [
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

/// With this many deletions pending, a session whose token was never sent is left to expire: a logout needs the place more.
const MAX_UNCLAIMED: usize = MAX_PENDING_DELETIONS / 2;

/// Deletes a session, and counts the calls of the store. The deletion may be sent any number of times.
async fn delete(
    store: &dyn ErasedStore,
    handle: Handle,
    durability: Durability,
    deadline: Instant,
    calls: &mut u32,
) -> Result<(), StoreError> {
    let mut state = State::new(Goal::Delete);
    let mut event = StepEvent::Begin;
    let mut failure = None;
    loop {
        let (next, action) = step(state, event, Instant::now() >= deadline);
        state = next;
        match action {
            Action::Finish(Verdict::Committed) => return Ok(()),
            Action::Finish(_) => {
                return Err(failure.unwrap_or_else(|| {
                    StoreError::unavailable(
                        "the request used up its `request_budget` before the deletion was sent",
                    )
                }));
            }
            _ => {
                *calls += 1;
                event = match within(deadline, store.delete(&handle, durability)).await {
                    Ok(Deleted::Done) => StepEvent::Done,
                    Ok(Deleted::Missing) => StepEvent::Gone,
                    Err(error) => {
                        let kind = error.kind();
                        failure = Some(error);
                        StepEvent::Failed(kind)
                    }
                };
            }
        }
    }
}

/// A session to end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Revocation {
    /// The request has shown the secret of the session.
    Verified(Handle),
    /// The token has not been compared with the record yet. It must open the session, or have opened it a moment before
    /// `asked`, the time of the logout.
    Unverified { token: Token, asked: Millis },
}

impl Revocation {
    pub(crate) fn handle(&self) -> Handle {
        match self {
            Self::Verified(handle) => *handle,
            Self::Unverified { token, .. } => token.handle,
        }
    }
}

/// The result of a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Revoked {
    Deleted,
    /// The token opens no session.
    NoSession,
    /// A later version of sessile has written the record, and only that version can check the token.
    Unreadable,
}

/// Ends a session, once its token has been checked. The check is kept in `revocation`: a deletion that is repeated for the
/// replicas finds no record to check.
async fn revoke(
    context: &CommitContext,
    revocation: &mut Revocation,
    deadline: Instant,
    calls: &mut u32,
) -> Result<Revoked, StoreError> {
    let store = &*context.backend.store;
    let handle = revocation.handle();
    if let Revocation::Unverified { token, asked } = revocation {
        *calls += 1;
        let load = store.load(&handle, Freshness::Latest);
        let record = match within(deadline, load).await?.bytes() {
            Ok(Some(stored)) => Record::decode(stored.value()),
            Ok(None) => return Ok(Revoked::NoSession),
            Err(error) => Err(error),
        };
        match record {
            Ok(record) if context.may_end(&record, &token.secret, *asked) => {}
            Ok(_) => return Ok(Revoked::NoSession),
            Err(error) => {
                context.emit(&Event::unreadable(handle, &error));
                return Ok(match error {
                    Unreadable::Newer(_) => Revoked::Unreadable,
                    Unreadable::Malformed(_) | Unreadable::NoVersion | Unreadable::NotBytes => {
                        Revoked::NoSession
                    }
                });
            }
        }
        *revocation = Revocation::Verified(handle);
    }
    let durability = context.policy.config.durability.revocations();
    delete(store, handle, durability, deadline, calls).await?;
    let why = EndReason::Logout;
    context.emit(&Event::Destroyed { handle, why });
    Ok(Revoked::Deleted)
}

/// The result of several revocations.
pub(crate) struct Deletions {
    /// To be retried.
    pub(crate) failed: Vec<Revocation>,
    /// Not to be retried: this version of sessile cannot check their tokens.
    pub(crate) unreadable: Vec<Revocation>,
    pub(crate) result: Result<(), SessionError>,
    /// Calls of the store, one after the other.
    pub(crate) round_trips: u32,
}

/// Carries out revocations, all at once.
pub(crate) async fn revoke_all(
    context: &CommitContext,
    revocations: Vec<Revocation>,
    deadline: Instant,
) -> Deletions {
    let results = revocations.into_iter().map(|mut revocation| async move {
        let mut calls = 0;
        let result = revoke(context, &mut revocation, deadline, &mut calls).await;
        (revocation, result, calls)
    });
    let mut deletions = Deletions {
        failed: Vec::new(),
        unreadable: Vec::new(),
        result: Ok(()),
        round_trips: 0,
    };
    for (revocation, result, calls) in join_all(results).await {
        // They run side by side.
        deletions.round_trips = deletions.round_trips.max(calls);
        match result {
            Ok(Revoked::Deleted | Revoked::NoSession) => {}
            Ok(Revoked::Unreadable) => {
                deletions.unreadable.push(revocation);
                let unreadable = SessionError::Gone(Gone::Unreadable);
                deletions.result = deletions.result.and(Err(unreadable));
            }
            Err(error) => {
                deletions.failed.push(revocation);
                deletions.result = Err(SessionError::Store(error));
            }
        }
    }
    deletions
}

/// Carries out a revocation in the background, for a request that is over or has failed. So a logout takes effect even if
/// the store was down at the time.
pub(crate) fn revoke_later(
    context: &CommitContext,
    runtime: Result<Runtime, StoreError>,
    mut revocation: Revocation,
) {
    let handle = revocation.handle();
    let failed = |error| Event::DestroyFailed { handle, error };
    let too_many = || failed(StoreError::unavailable("too many deletions are pending"));
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return context.emit(&failed(error)),
    };
    let backend = &context.backend;
    let (entry, displaced) = match &revocation {
        Revocation::Verified(handle) => {
            match backend.begin_deletion(*handle, MAX_PENDING_DELETIONS) {
                Deletion::Started => (Entry::Deletion(*handle), None),
                Deletion::Pending => return,
                Deletion::TooMany => return context.emit(&too_many()),
            }
        }
        Revocation::Unverified { token, .. } => match backend.logouts.join(token) {
            Some(place) => (Entry::Logout(place.number), Some(place.displaced)),
            None => return,
        },
    };
    let background = backend.background.clone();
    let pending = PendingDeletion {
        context: context.clone(),
        _counted: Present::pending_deletion(matches!(entry, Entry::Logout(_))),
        entry,
        failure_event: Some(failed(StoreError::unavailable(
            "the tokio runtime shut down before the store was back: await `SessionLayer::drained` before it does",
        ))),
    };
    let too_many = too_many();
    let task = async move {
        let displaced = async {
            match displaced {
                Some(displaced) => drop(displaced.await),
                None => std::future::pending().await,
            }
        };
        let done = revoke_with_retries(&pending.context, &mut revocation);
        let failure_event = tokio::select! {
            biased;
            done = done => done.err().map(|error| Event::DestroyFailed { handle, error }),
            () = displaced => Some(too_many),
        };
        pending.finish(failure_event);
    };
    background.spawn_on(task.instrument(span::background(handle)), &runtime);
}

/// Deletes in the background the session that a creation without a clear answer may have left. Its token was never sent. If
/// the deletion fails, the session expires by its idle timeout, and so does one that a late copy of the creation leaves.
pub(crate) fn delete_unclaimed(context: &CommitContext, handle: Handle) {
    let backend = &context.backend;
    match backend.begin_deletion(handle, MAX_UNCLAIMED) {
        Deletion::Started => {}
        Deletion::Pending | Deletion::TooMany => return,
    }
    let background = backend.background.clone();
    let pending = PendingDeletion {
        context: context.clone(),
        entry: Entry::Deletion(handle),
        failure_event: None,
        _counted: Present::pending_deletion(false),
    };
    let task = async move {
        // There is no need to wait for replicas: they get the creation and the deletion in the same stream.
        let deleted = delete_with_retries(&pending.context, handle, Durability::Primary).await;
        if let Err(error) = deleted {
            tracing::debug!(target: "sessile", %handle, %error, "could not delete a session whose token was never sent; it expires by its idle timeout");
        }
    };
    background.spawn(task.instrument(span::background(handle)));
}

/// Deletes a session, and retries for about five minutes.
async fn delete_with_retries(
    context: &CommitContext,
    handle: Handle,
    durability: Durability,
) -> Result<(), StoreError> {
    let mut waits = RETRY_WAITS.iter();
    loop {
        let (store, deadline) = (&*context.backend.store, context.deadline());
        let deleted = delete(store, handle, durability, deadline, &mut 0).await;
        match (&deleted, waits.next()) {
            (Err(_), Some(wait)) => tokio::time::sleep(*wait).await,
            _ => return deleted,
        }
    }
}

async fn revoke_with_retries(
    context: &CommitContext,
    revocation: &mut Revocation,
) -> Result<(), StoreError> {
    let mut waits = RETRY_WAITS.iter();
    loop {
        let revoked = revoke(context, revocation, context.deadline(), &mut 0).await;
        match (&revoked, waits.next()) {
            (Err(_), Some(wait)) => tokio::time::sleep(*wait).await,
            _ => return revoked.map(|_| ()),
        }
    }
}

/// A revocation that is pending in the background. Its failure is reported when this is dropped, even if the runtime shuts
/// down and drops the task.
struct PendingDeletion {
    context: CommitContext,
    entry: Entry,
    failure_event: Option<Event>,
    _counted: Present,
}

/// The place of a pending revocation.
enum Entry {
    Deletion(Handle),
    Logout(u64),
}

impl PendingDeletion {
    fn finish(mut self, failure_event: Option<Event>) {
        self.failure_event = failure_event;
    }
}

impl Drop for PendingDeletion {
    fn drop(&mut self) {
        match self.entry {
            Entry::Deletion(handle) => self.context.backend.end_deletion(handle),
            Entry::Logout(number) => self.context.backend.logouts.leave(number),
        }
        if let Some(failure_event) = &self.failure_event {
            self.context.emit(failure_event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::context::tests::context;

    #[test]
    fn sessions_whose_token_was_never_sent_leave_half_of_the_places_to_logouts() {
        let context = context();
        let fill = |most: usize| {
            let begin = || context.backend.begin_deletion(Handle::random(), most);
            std::iter::repeat_with(begin)
                .take_while(|begun| matches!(begun, Deletion::Started))
                .count()
        };
        assert_eq!(fill(MAX_UNCLAIMED), 512);
        assert_eq!(fill(MAX_PENDING_DELETIONS), 512);
    }

    #[test]
    fn a_deletion_that_the_runtime_drops_gives_its_place_back() {
        let (context, handle) = (context(), Handle::random());
        let begin = || {
            context
                .backend
                .begin_deletion(handle, MAX_PENDING_DELETIONS)
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        {
            let _entered = runtime.enter();
            delete_unclaimed(&context, handle);
        }
        assert!(matches!(begin(), Deletion::Pending));
        drop(runtime);
        assert!(matches!(begin(), Deletion::Started));
    }
}
