//! The end of a session: deleted now, or in the background once the store is back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument as _;

use super::decide::{Action, Event as Happened, Goal, State, Verdict, step};
use super::run::within;
use crate::deadline::deadline;
use crate::event::Event;
use crate::layer::{Core, DESTROYING_MOST, Destroying};
use crate::shared::Shared;
use crate::store::{AnyStore, Deleted, Durability, StoreError};
use crate::token::Handle;

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

/// Beyond this many deletions that wait, a session that nobody holds the token of is left to expire: a logout needs the place
/// more.
const UNCLAIMED_MOST: usize = DESTROYING_MOST / 2;

/// Deletes a session. A deletion may be sent any number of times.
pub(super) async fn delete(
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

/// Destroys a session in the background, for a request that is over or has failed. A logout is carried out although the
/// store was away when it was asked for.
pub(crate) fn destroy_later(shared: &Shared, handle: Handle) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return;
    };
    let (core, settings) = (Arc::clone(&shared.core), Arc::clone(&shared.settings));
    match core.begin_destroying(handle, DESTROYING_MOST) {
        Destroying::Begun => {}
        Destroying::UnderWay => return,
        Destroying::TooMany => {
            let error = StoreError::unavailable("too many destructions wait for the store");
            return shared.emit(&Event::DestroyFailed { handle, error });
        }
    }
    let background = core.background.clone();
    let task = async move {
        let durability = settings.config.durability.endings();
        let event = match delete_patiently(&core, handle, durability).await {
            Ok(()) => Event::Destroyed { handle },
            Err(error) => Event::DestroyFailed { handle, error },
        };
        settings.emit(&event);
    };
    background.spawn_on(task.in_current_span(), &runtime);
}

/// Deletes in the background what a creation without a clear answer may have left, whose token nobody holds. If that fails, it
/// ends with its idle timeout; a copy that arrives later still does too.
pub(super) fn delete_unclaimed(core: &Arc<Core>, handle: Handle) {
    match core.begin_destroying(handle, UNCLAIMED_MOST) {
        Destroying::Begun => {}
        Destroying::UnderWay | Destroying::TooMany => return,
    }
    let (core, background) = (Arc::clone(core), core.background.clone());
    let task = async move {
        // Replicas that do not have the creation need not be waited for, and one stream brings them both.
        let deleted = delete_patiently(&core, handle, Durability::Primary).await;
        if let Err(error) = deleted {
            tracing::debug!(target: "sessile", %handle, %error, "a session that nobody holds the token of is left to expire");
        }
    };
    background.spawn(task.in_current_span());
}

/// Deletes a session, and tries again for about five minutes.
async fn delete_patiently(
    core: &Core,
    handle: Handle,
    durability: Durability,
) -> Result<(), StoreError> {
    let mut waits = LATER.iter();
    let deleted = loop {
        let deadline = deadline(Instant::now(), core.request_budget());
        let deleted = delete(&*core.store, handle, durability, deadline).await;
        match (&deleted, waits.next()) {
            (Err(_), Some(wait)) => tokio::time::sleep(*wait).await,
            _ => break deleted,
        }
    };
    core.end_destroying(handle);
    deleted
}
