//! The sessions of a principal, as their index lists them and their records confirm.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::commit::context::CommitContext;
use crate::error::store::StoreError;
use crate::record::Record;
use crate::record::format::Unreadable;
use crate::store::deadline::within;
use crate::store::{Entry, Freshness, IndexKey, IndexedSession, Stored};
use crate::time::to_time;
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
        let until = to_time(record.deadline);
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
        within(deadline, leave).await
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
