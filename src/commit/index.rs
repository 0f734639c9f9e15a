//! The sessions of a principal, as their index lists them and their records confirm.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::commit::context::CommitContext;
use crate::error::store::StoreError;
use crate::metrics::requests::index_healed;
use crate::record::Record;
use crate::record::format::Unreadable;
use crate::store::deadline::within;
use crate::store::{Entry, Freshness, IndexKey, IndexedSession, Stored};
use crate::time::{Millis, to_time};
use crate::token::Handle;

/// How many sessions are loaded at once.
pub(crate) const AT_ONCE: usize = 128;

/// The sessions of a principal.
pub(crate) struct Found {
    index: IndexKey,
    pub(crate) live: Vec<Live>,
    pub(crate) dead: Vec<Entry>,
}

/// A session that the principal is signed in to.
pub(crate) struct Live {
    pub(crate) entry: Entry,
    pub(crate) reserved: bool,
    pub(crate) stored: Stored,
    pub(crate) record: Record,
}

/// The latest time that it may be now, for a sign-out everywhere. Asks the store for something if it does not know its clock yet.
pub(crate) async fn latest_now(
    context: &CommitContext,
    index: &IndexKey,
    deadline: Instant,
) -> Result<SystemTime, StoreError> {
    let backend = &context.backend;
    if let Some(now) = backend.latest_now() {
        return Ok(now);
    }
    within(deadline, backend.store.list(index)).await?;
    backend.latest_now().ok_or_else(clock_unknown)
}

/// The earliest time at which the request may have begun; as [`latest_now`].
pub(crate) async fn earliest_begin(
    context: &CommitContext,
    index: &IndexKey,
    deadline: Instant,
) -> Result<SystemTime, StoreError> {
    let backend = &context.backend;
    if let Some(began) = context.began.earliest(backend) {
        return Ok(began);
    }
    within(deadline, backend.store.list(index)).await?;
    context.began.earliest(backend).ok_or_else(clock_unknown)
}

fn clock_unknown() -> StoreError {
    StoreError::unavailable("the store has not read its clock yet: try again once it is connected")
}

/// The entry of a session that has ended, in the index of the principal who was signed in to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left {
    index: IndexKey,
    entry: Entry,
}

impl Left {
    /// `None` for the session of an anonymous visitor.
    pub(crate) fn of(handle: Handle, record: &Record) -> Option<Self> {
        let principal = record.principal.as_ref()?;
        // It never comes back, so whenever it entered, it may leave.
        let until = to_time(Millis::MAX);
        Some(Self {
            index: IndexKey::of(principal),
            entry: Entry { handle, until },
        })
    }

    /// Removes the entry in the background. If that fails, the next list does.
    pub(crate) fn leave_later(self, context: &CommitContext) {
        if !context.backend.store.capabilities().index {
            return;
        }
        let (backend, deadline) = (Arc::clone(&context.backend), context.deadline());
        let leave = async move {
            let leave = backend
                .store
                .leave(&self.index, std::slice::from_ref(&self.entry));
            let _ = within(deadline, leave).await;
        };
        context.backend.background.spawn(leave);
    }
}

/// Takes the session out of the index of a principal who is not signed in to it any more, in the background. If that fails, the next
/// list does.
pub(crate) fn settle_later(
    context: &CommitContext,
    handle: Handle,
    before: &Record,
    after: &Record,
) {
    let Some(principal) = &before.principal else {
        return;
    };
    if after.principal.as_ref() == Some(principal) || !context.backend.store.capabilities().index {
        return;
    }
    let (context, principal) = (context.clone(), principal.clone());
    let background = context.backend.background.clone();
    background.spawn(async move { settle(&context, handle, &principal).await.ok() });
}

/// The session may belong to the principal again by now, so this looks it up.
async fn settle(
    context: &CommitContext,
    handle: Handle,
    principal: &str,
) -> Result<(), StoreError> {
    let (store, index) = (&context.backend.store, IndexKey::of(principal));
    let deadline = context.deadline();
    let indexed = within(deadline, store.list(&index)).await?;
    let session = indexed.sessions.iter().find(|it| it.entry.handle == handle);
    let Some(IndexedSession { entry, reserved }) = session else {
        return Ok(());
    };
    let loaded = within(deadline, store.load(&handle, Freshness::Latest))
        .await?
        .bytes();
    let record = loaded.and_then(|stored| stored.map(|it| Record::decode(it.value())).transpose());
    match judge(record.as_ref().map(Option::as_ref), *reserved, principal) {
        Verdict::Dead => within(deadline, store.leave(&index, std::slice::from_ref(entry))).await,
        Verdict::Live | Verdict::Unclear => Ok(()),
    }
}

/// What a record says about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Live,
    /// The session has ended, or is not theirs any more.
    Dead,
    /// It may be theirs in a moment, or only a later version of sessile can read it.
    Unclear,
}

fn judge(record: Result<Option<&Record>, &Unreadable>, reserved: bool, principal: &str) -> Verdict {
    match record {
        Ok(Some(record)) if record.principal.as_deref() == Some(principal) => Verdict::Live,
        Err(Unreadable::Newer(_)) => Verdict::Unclear,
        _ if reserved => Verdict::Unclear,
        _ => Verdict::Dead,
    }
}

/// Lists the sessions of a principal, and loads each.
///
/// # Errors
///
/// If the index or any session cannot be read: an incomplete list could hide a session from its user.
pub(crate) async fn sessions_of(
    context: &CommitContext,
    principal: &str,
    deadline: Instant,
) -> Result<Found, StoreError> {
    let (store, index) = (&context.backend.store, IndexKey::of(principal));
    let indexed = within(deadline, store.list(&index)).await?;
    let mut found = Found {
        index,
        live: Vec::new(),
        dead: Vec::new(),
    };
    for sessions in indexed.sessions.chunks(AT_ONCE) {
        let loads = sessions.iter().map(async |session| {
            let handle = session.entry.handle;
            within(deadline, store.load(&handle, Freshness::Latest)).await
        });
        for (session, loaded) in sessions.iter().zip(join_all(loads).await) {
            found.add(*session, loaded?.bytes(), principal);
        }
    }
    Ok(found)
}

impl Found {
    fn add(
        &mut self,
        IndexedSession { entry, reserved }: IndexedSession,
        loaded: Result<Option<Stored>, Unreadable>,
        principal: &str,
    ) {
        let read = |stored: Stored| Record::decode(stored.value()).map(|record| (stored, record));
        let session = loaded.and_then(|stored| stored.map(read).transpose());
        let record = session
            .as_ref()
            .map(|it| it.as_ref().map(|(_, record)| record));
        match judge(record, reserved, principal) {
            Verdict::Live => {
                if let Ok(Some((stored, record))) = session {
                    self.live.push(Live {
                        entry,
                        reserved,
                        stored,
                        record,
                    });
                }
            }
            Verdict::Dead => self.dead.push(entry),
            Verdict::Unclear => {}
        }
    }

    /// Removes the dead entries from the index.
    pub(crate) async fn heal(
        &self,
        context: &CommitContext,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        if self.dead.is_empty() {
            return Ok(());
        }
        let leave = context.backend.store.leave(&self.index, &self.dead);
        within(deadline, leave).await?;
        index_healed(self.dead.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::json::{JsonError, JsonErrorKind};
    use crate::record::tests::record;

    #[test]
    fn only_an_entry_that_cannot_become_theirs_any_more_is_dead() {
        let of = |principal: Option<&str>| {
            let mut record = record();
            record.principal = principal.map(Into::into);
            record
        };
        let (mias, leos, nobodys) = (of(Some("mia")), of(Some("leo")), of(None));
        let newer = Unreadable::Newer(9);
        let broken = Unreadable::Malformed(JsonError::in_value(JsonErrorKind::Syntax));
        for (record, settled, reserved) in [
            (Ok(Some(&mias)), Verdict::Live, Verdict::Live),
            (Ok(Some(&leos)), Verdict::Dead, Verdict::Unclear),
            (Ok(Some(&nobodys)), Verdict::Dead, Verdict::Unclear),
            (Ok(None), Verdict::Dead, Verdict::Unclear),
            (Err(&newer), Verdict::Unclear, Verdict::Unclear),
            (Err(&broken), Verdict::Dead, Verdict::Unclear),
        ] {
            assert_eq!(judge(record, false, "mia"), settled);
            assert_eq!(judge(record, true, "mia"), reserved);
        }
    }
}
