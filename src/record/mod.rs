//! The record: everything that is stored of a session. A pure core: no tokio, no http, no clock, no store.

pub(crate) mod change;
pub(crate) mod context;
pub(crate) mod deferred;
pub(crate) mod fingerprint;
pub(crate) mod flash;
pub(crate) mod format;
pub(crate) mod json;
pub(crate) mod kept;
pub(crate) mod key;
pub(crate) mod lifetime;
pub(crate) mod limit;
pub(crate) mod log;
pub(crate) mod token_check;
pub(crate) mod transaction;
pub(crate) mod value;
pub(crate) mod values;
pub(crate) mod version;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::record::context::ApplyContext;
use crate::record::flash::Flash;
use crate::record::json::{Json, string_len};
use crate::record::kept::Kept;
use crate::record::version::{CommitId, Epoch, Version};
use crate::time::{Millis, after};
use crate::token::SecretHash;

/// How many writers' last commits a record remembers.
pub(crate) const WRITERS: usize = 8;

/// A secret that was replaced a moment ago, kept only to be recognised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Retired {
    pub(crate) secret: SecretHash,
    pub(crate) until: Millis,
}

/// A login that one of the same principal may join: see [`join`](crate::commit::join).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Login {
    /// That of the record as this login has left it, or the last that has joined it. A record of another has been written to
    /// since.
    pub(crate) version: Version,
    /// The secrets that it has retired.
    pub(crate) retired: Vec<SecretHash>,
}

/// Everything that is stored of a session.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) version: Version,
    /// The last commit of each of the last [`WRITERS`] writers, the latest at the end.
    pub(crate) applied: Vec<CommitId>,
    pub(crate) epoch: Epoch,
    pub(crate) secret: SecretHash,
    /// What opens the session besides, one for each login that has joined the last.
    pub(crate) added: Vec<SecretHash>,
    pub(crate) retired: Vec<Kept<Retired>>,
    /// The last commit, if it was a login.
    pub(crate) login: Option<Login>,
    pub(crate) created: Millis,
    /// When the absolute timeout began: at creation, or at the last login.
    pub(crate) started: Millis,
    pub(crate) last_accessed: Millis,
    pub(crate) deadline: Millis,
    /// The session's own idle timeout, instead of the layer's.
    pub(crate) idle_timeout: Option<Duration>,
    /// The session's own absolute timeout, instead of the layer's.
    pub(crate) absolute_timeout: Option<Duration>,
    /// Whether the cookie outlives the browser.
    pub(crate) persistent: bool,
    /// When a persistent cookie was sent last, as far as a commit has noted it.
    pub(crate) cookie_sent: Option<Millis>,
    pub(crate) principal: Option<String>,
    /// Whose data this is: the principal, or the last one that was. Never the principal's when they are equal.
    pub(crate) former_principal: Option<String>,
    pub(crate) fingerprint: Option<String>,
    pub(crate) data: BTreeMap<String, Json>,
    pub(crate) flash: Vec<Kept<Flash>>,
    /// Fields of a later version of sessile, kept as they came.
    pub(crate) unknown: Vec<(String, Json)>,
}

impl Record {
    /// The record of a session that is not stored yet: nobody's, and empty.
    pub(crate) fn new(apply_context: &ApplyContext) -> Self {
        Self {
            version: Version::none(),
            applied: Vec::new(),
            epoch: Epoch::none(),
            secret: SecretHash::of_nothing(),
            added: Vec::new(),
            retired: Vec::new(),
            login: None,
            created: apply_context.now,
            started: apply_context.now,
            last_accessed: apply_context.now,
            deadline: after(apply_context.now, apply_context.absolute_timeout),
            idle_timeout: None,
            absolute_timeout: None,
            persistent: false,
            cookie_sent: None,
            principal: None,
            former_principal: None,
            fingerprint: None,
            data: BTreeMap::new(),
            flash: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// What `max_size` limits: the data, keys and values as they are written, and the flashes. What sessile itself keeps is
    /// not counted, so that a session at its limit can still be signed in and out.
    pub(crate) fn size(&self) -> usize {
        let data = self.data.iter();
        let data = data.map(|(key, value)| string_len(key) + value.len());
        let flashes = self.flash.iter().map(Kept::len);
        data.chain(flashes).sum()
    }

    /// Whether changes that gave it no new secret have left it as `before` was.
    pub(crate) fn holds_the_same(&self, before: &Self) -> bool {
        let lifetimes = |of: &Self| (of.idle_timeout, of.absolute_timeout, of.persistent);
        self.deadline == before.deadline
            && lifetimes(self) == lifetimes(before)
            && self.data == before.data
            && self.flash == before.flash
    }

    /// The same, of a session that is not stored.
    pub(crate) fn holds_nothing(&self) -> bool {
        self.idle_timeout.is_none()
            && self.absolute_timeout.is_none()
            && !self.persistent
            && self.data.is_empty()
            && self.flash.is_empty()
    }

    /// Those that open the session.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &SecretHash> {
        std::iter::once(&self.secret).chain(&self.added)
    }

    /// Whether the data is that of another principal.
    pub(crate) fn is_anothers(&self, who: &str) -> bool {
        let owner = self.principal.as_ref().or(self.former_principal.as_ref());
        owner.is_some_and(|owner| owner != who)
    }

    /// Notes that `id` is the latest commit of its writer.
    pub(crate) fn note_applied(&mut self, id: CommitId) {
        self.applied.retain(|earlier| earlier.writer != id.writer);
        self.applied.push(id);
        let surplus = self.applied.len().saturating_sub(WRITERS);
        self.applied.drain(..surplus);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::record::version::Writer;
    use crate::token::Secret;

    pub(crate) fn record() -> Record {
        Record {
            version: Version::first(),
            applied: vec![CommitId {
                writer: Writer(0xab),
                sequence: 7,
            }],
            epoch: Epoch::random(),
            secret: Secret::random().hash("sessile:", "id"),
            added: Vec::new(),
            retired: Vec::new(),
            login: None,
            created: 1_000,
            started: 1_000,
            last_accessed: 2_000,
            deadline: 90_000,
            idle_timeout: None,
            absolute_timeout: None,
            persistent: false,
            cookie_sent: None,
            flash: Vec::new(),
            principal: None,
            former_principal: None,
            fingerprint: None,
            data: BTreeMap::new(),
            unknown: Vec::new(),
        }
    }

    #[test]
    fn the_last_commit_of_eight_writers_is_remembered() {
        let mut record = record();
        record.applied.clear();
        for writer in 0..10 {
            for sequence in [1, 2] {
                record.note_applied(CommitId {
                    writer: Writer(writer),
                    sequence,
                });
            }
        }
        record.note_applied(CommitId {
            writer: Writer(4),
            sequence: 3,
        });
        let ids: Vec<_> = record
            .applied
            .iter()
            .map(|id| (id.writer.0, id.sequence))
            .collect();
        assert_eq!(
            ids,
            [
                (2, 2),
                (3, 2),
                (5, 2),
                (6, 2),
                (7, 2),
                (8, 2),
                (9, 2),
                (4, 3)
            ]
        );
        let decoded = Record::decode(&record.encode().unwrap()).unwrap();
        assert_eq!(decoded.applied, record.applied);
    }
}
