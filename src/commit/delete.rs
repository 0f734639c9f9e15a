//! The end of a session: deleted now, or in the background once the store is back.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::Handle as Runtime;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::commit::backend::{Deletion, MAX_PENDING_DELETIONS};
use crate::commit::context::CommitContext;
use crate::commit::decide::{Action, Event as Happened, Goal, State, Verdict, step};
use crate::error::session::{Gone, SessionError};
use crate::error::store::StoreError;
use crate::event::Event;
use crate::record::Record;
use crate::record::format::Unreadable;
use crate::record::token_check::is_of;
use crate::store::deadline::within;
use crate::store::erased::AnyStore;
use crate::store::{Deleted, Durability, Freshness};
use crate::time::Millis;
use crate::token::{Handle, Token};

/// The waits between the attempts to carry out a destruction that failed; about five minutes in all.
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

/// Beyond this many deletions that wait, a session that nobody holds the token of is left to expire: a logout needs the place
/// more.
const MAX_UNCLAIMED: usize = MAX_PENDING_DELETIONS / 2;

/// Deletes a session. A deletion may be sent any number of times.
async fn delete(
    store: &dyn AnyStore,
    handle: Handle,
    durability: Durability,
    deadline: Instant,
) -> Result<(), StoreError> {
    let mut state = State::new(Goal::Delete);
    let mut event = Happened::Begin;
    let mut failure = None;
    loop {
        let (next, action) = step(state, event, Instant::now() >= deadline);
        state = next;
        match action {
            Action::Finish(Verdict::Committed) => return Ok(()),
            Action::Finish(_) => {
                return Err(failure.unwrap_or_else(|| {
                    StoreError::unavailable(
                        "the request's time was up before the deletion was sent",
                    )
                }));
            }
            _ => {
                event = match within(deadline, store.delete(&handle, durability)).await {
                    Ok(Deleted::Done) => Happened::Done,
                    Ok(Deleted::Missing) => Happened::Gone,
                    Err(error) => {
                        let kind = error.kind();
                        failure = Some(error);
                        Happened::Failed(kind)
                    }
                };
            }
        }
    }
}

/// A session that is to end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Revocation {
    /// Whoever has asked for it holds its secret.
    Verified(Handle),
    /// Nobody has looked yet whether the token is of this session, or was when this was asked for.
    Unverified { token: Token, asked: Millis },
}

impl Revocation {
    fn handle(&self) -> Handle {
        match self {
            Self::Verified(handle) => *handle,
            Self::Unverified { token, .. } => token.handle,
        }
    }
}

/// What became of a session that was to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Revoked {
    Deleted,
    /// There is none that the token is of.
    NoSession,
    /// What is stored was written by a later version of sessile, which alone can tell whose it is.
    Unreadable,
}

/// Ends a session, once it is known that the token is of it. From then on that need not be known again: the deletion may
/// have to be repeated for replicas when nothing is left to look at.
async fn revoke(
    context: &CommitContext,
    revocation: &mut Revocation,
    deadline: Instant,
) -> Result<Revoked, StoreError> {
    let store = &*context.backend.store;
    let handle = revocation.handle();
    if let Revocation::Unverified { token, asked } = revocation {
        let load = store.load(&handle, Freshness::Latest);
        let record = match within(deadline, load).await?.bytes() {
            Ok(Some(stored)) => Record::decode(stored.value()),
            Ok(None) => return Ok(Revoked::NoSession),
            Err(error) => Err(error),
        };
        let secret = context.hash(&token.secret);
        match record {
            Ok(record) if is_of(&record, &secret, *asked) => {}
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
    delete(store, handle, durability, deadline).await?;
    context.emit(&Event::Destroyed { handle });
    Ok(Revoked::Deleted)
}

/// What became of sessions that were to end.
pub(crate) struct Deletions {
    /// These are to be tried again.
    pub(crate) failed: Vec<Revocation>,
    /// These cannot be ended.
    pub(crate) unreadable: Vec<Revocation>,
    pub(crate) result: Result<(), SessionError>,
}

/// Ends sessions, all at once.
pub(crate) async fn revoke_all(
    context: &CommitContext,
    revocations: Vec<Revocation>,
    deadline: Instant,
) -> Deletions {
    let ends = revocations.into_iter().map(|mut revocation| async move {
        let ended = revoke(context, &mut revocation, deadline).await;
        (revocation, ended)
    });
    let mut deletions = Deletions {
        failed: Vec::new(),
        unreadable: Vec::new(),
        result: Ok(()),
    };
    for (revocation, ended) in join_all(ends).await {
        match ended {
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

/// Ends a session in the background, for a request that is over or has failed. A logout is carried out although the store was
/// away when it was asked for.
pub(crate) fn revoke_later(
    context: &CommitContext,
    runtime: Result<Runtime, StoreError>,
    mut revocation: Revocation,
) {
    let handle = revocation.handle();
    let failed = |error| Event::DestroyFailed { handle, error };
    let too_many = || {
        failed(StoreError::unavailable(
            "too many logouts wait for the store",
        ))
    };
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
        entry,
        news: Some(failed(StoreError::unavailable(
            "the tokio runtime ended before the store was back: wait for `SessionLayer::drained`",
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
        let news = tokio::select! {
            biased;
            done = done => done.err().map(|error| Event::DestroyFailed { handle, error }),
            () = displaced => Some(too_many),
        };
        pending.end(news);
    };
    background.spawn_on(task.in_current_span(), &runtime);
}

/// Deletes in the background what a creation without a clear answer may have left, whose token nobody holds. If that fails, it
/// ends with its idle timeout; a copy that arrives later still does too.
pub(crate) fn delete_unclaimed(context: &CommitContext, handle: Handle) {
    let backend = &context.backend;
    match backend.begin_deletion(handle, MAX_UNCLAIMED) {
        Deletion::Started => {}
        Deletion::Pending | Deletion::TooMany => return,
    }
    let (context, background) = (context.clone(), backend.background.clone());
    let task = async move {
        // Replicas that do not have the creation need not be waited for, and one stream brings them both.
        let deleted = delete_with_retries(&context, handle, Durability::Primary).await;
        if let Err(error) = deleted {
            tracing::debug!(target: "sessile", %handle, %error, "a session that nobody holds the token of is left to expire");
        }
    };
    background.spawn(task.in_current_span());
}

/// Deletes a session, and tries again for about five minutes.
async fn delete_with_retries(
    context: &CommitContext,
    handle: Handle,
    durability: Durability,
) -> Result<(), StoreError> {
    let mut waits = RETRY_WAITS.iter();
    let deleted = loop {
        let store = &*context.backend.store;
        let deleted = delete(store, handle, durability, context.deadline()).await;
        match (&deleted, waits.next()) {
            (Err(_), Some(wait)) => tokio::time::sleep(*wait).await,
            _ => break deleted,
        }
    };
    context.backend.end_deletion(handle);
    deleted
}

async fn revoke_with_retries(
    context: &CommitContext,
    revocation: &mut Revocation,
) -> Result<(), StoreError> {
    let mut waits = RETRY_WAITS.iter();
    loop {
        let error = match revoke(context, revocation, context.deadline()).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        match waits.next() {
            Some(wait) => tokio::time::sleep(*wait).await,
            None => return Err(error),
        }
    }
}

/// A session that is being ended in the background. That it could not be is told when this goes, also if the runtime ends
/// and takes it along.
struct PendingDeletion {
    context: CommitContext,
    entry: Entry,
    news: Option<Event>,
}

enum Entry {
    Deletion(Handle),
    Logout(u64),
}

impl PendingDeletion {
    fn end(mut self, news: Option<Event>) {
        self.news = news;
    }
}

impl Drop for PendingDeletion {
    fn drop(&mut self) {
        match self.entry {
            Entry::Deletion(handle) => self.context.backend.end_deletion(handle),
            Entry::Logout(number) => self.context.backend.logouts.leave(number),
        }
        if let Some(news) = &self.news {
            self.context.emit(news);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::context::tests::context;

    #[test]
    fn sessions_that_nobody_holds_the_token_of_leave_half_of_the_places_to_logouts() {
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
}
