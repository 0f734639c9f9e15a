//! Ends a session without its token: on behalf of its principal, only while it is theirs; or of an operator.

use std::time::Duration;

use tokio::time::Instant;

use crate::commit::base::Base;
use crate::commit::context::CommitContext;
use crate::error::store::{StoreError, StoreErrorKind};
use crate::event::{EndReason, Event};
use crate::record::Record;
use crate::record::format::Unreadable;
use crate::store::deadline::within;
use crate::store::{Durability, Freshness, Replaced, Stored, Write};
use crate::token::{Handle, Secret};

/// How often a session is read again that changes all the time.
const MAX_ROUNDS: usize = 16;

/// How the attempt to end a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Done,
    /// It is not stored.
    Missing,
    /// It is not signed in to by this principal, or is not a session.
    NotTheirs,
    /// A later version of sessile has written it; or it is not a session, and nobody asked on behalf of a principal.
    Unreadable,
}

/// Ends a session, if a principal is given only while they are signed in to it. It has ended once its record is replaced, whatever its requests do.
pub(crate) async fn end(
    context: &CommitContext,
    handle: Handle,
    principal: Option<&str>,
    why: EndReason,
    deadline: Instant,
) -> Result<Ended, StoreError> {
    let store = &context.backend.store;
    // Something else that nobody may end on behalf of a user, while an operator has to know that it stays.
    let not_a_session = match principal {
        Some(_) => Ended::NotTheirs,
        None => Ended::Unreadable,
    };
    for _ in 0..MAX_ROUNDS {
        let loaded = within(deadline, store.load(&handle, Freshness::Latest)).await?;
        let stored = match loaded.bytes() {
            Ok(Some(stored)) => stored,
            Ok(None) => return missing(context, handle, deadline).await,
            Err(_) => return Ok(not_a_session),
        };
        let record = match Record::decode(stored.value()) {
            Ok(record) => record,
            Err(Unreadable::Newer(_)) => return Ok(Ended::Unreadable),
            Err(_) => return Ok(not_a_session),
        };
        if principal.is_some() && record.principal.as_deref() != principal {
            return Ok(Ended::NotTheirs);
        }
        match replace(context, handle, (&stored, &record), why, deadline).await? {
            Replaced::Done => return Ok(Ended::Done),
            Replaced::Gone => return missing(context, handle, deadline).await,
            Replaced::Unreadable => return Ok(not_a_session),
            // A request has changed it meanwhile.
            Replaced::Conflict(_) => {}
        }
    }
    let message = "the session changed again and again while sessile tried to end it: try again";
    Err(StoreError::refused(message))
}

/// The session is not stored. An earlier attempt may have ended it on the primary only, so the replicas must acknowledge that.
async fn missing(
    context: &CommitContext,
    handle: Handle,
    deadline: Instant,
) -> Result<Ended, StoreError> {
    let durability = context.policy.config.durability.revocations();
    if durability != Durability::Primary {
        let deleted = context.backend.store.delete(&handle, durability);
        let _ = within(deadline, deleted).await?;
    }
    Ok(Ended::Missing)
}

/// Ends a session if nobody has written it since. True if it has ended.
pub(crate) async fn end_unchanged(
    context: &CommitContext,
    written: &Base,
    deadline: Instant,
) -> Result<bool, StoreError> {
    let (handle, session) = (written.token.handle, (&written.stored, &*written.record));
    let why = EndReason::SignInRefused;
    let replaced = replace(context, handle, session, why, deadline).await?;
    Ok(matches!(replaced, Replaced::Done | Replaced::Gone))
}

/// Replaces the record by one that nobody can use, and deletes that. A deletion alone could meet another record: that of
/// somebody who has signed in with the same browser meanwhile.
async fn replace(
    context: &CommitContext,
    handle: Handle,
    (stored, record): (&Stored, &Record),
    why: EndReason,
    deadline: Instant,
) -> Result<Replaced, StoreError> {
    let store = &context.backend.store;
    let unusable = context.hash(&Secret::random());
    let Ok(value) = record.ended(unusable, context.backend.now()).encode() else {
        return Ok(Replaced::Unreadable);
    };
    let ttl = Duration::from_millis(1);
    let durability = context.policy.config.durability.revocations();
    let write = Write::new(&value, ttl).with_durability(durability);
    let replaced = within(deadline, store.replace(&handle, stored, write)).await;
    let is_on_primary = match &replaced {
        Ok(replaced) => *replaced == Replaced::Done,
        Err(error) => error.kind() == StoreErrorKind::NotDurable,
    };
    if is_on_primary {
        context.emit(&Event::Destroyed { handle, why });
        // It expires at once, unless a renewal that was under way extends it.
        let deleted = store.delete(&handle, Durability::Primary);
        let _ = within(deadline, deleted).await;
    }
    replaced
}
