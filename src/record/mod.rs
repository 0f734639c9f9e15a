//! The pure core: the record of a session, and the changes to it. It does not use tokio, http, a clock or a store.
//!
//! Words of this folder: a *handle* names the session; whoever presents its *secret* may use it. A *rotation* replaces the secret.
//! The *principal* is the user who is signed in. An *epoch* begins with each rotation.
//!
//! Read the files in this order:
//!
//! 1. This file: `Record` holds everything that is stored of a session. `version.rs` has the numbers that identify a stored value
//!    (`Version`), a period between two rotations (`Epoch`), and a commit (`CommitId`).
//! 2. `format.rs: Record::encode` and `decode`: the record's bytes. `canonical.rs: read` reads the form in which sessile writes them,
//!    `raw.rs: RawRecord` any other; `text.rs: Text` is a string of them that is not copied; `cache.rs: RecordCache` keeps decoded
//!    records. `kept.rs: Kept` preserves list entries of later versions of sessile.
//! 3. `json/mod.rs: Json`: one value of the session. `values.rs: Values` holds all of them, split when it is asked for
//!    more than one (`object.rs: Entries`), and its `decode_all` decodes them as one
//!    type; `value.rs` counts and appends, `key.rs` names values, `limit.rs: check_size` limits their size.
//! 4. `change.rs: Change::apply`: one operation of a request, such as "add 1 to `visits`", and how it merges. `context.rs:
//!    ApplyContext` holds the inputs that are not in the record. `transaction.rs: Transaction` is the change whose closure sees all
//!    values; `deferred.rs: Deferred` holds the result of a change until its commit.
//! 5. `log.rs: ChangeLog`: the operations of one request in order, and their replay on a newer record (`apply`, `join`).
//! 6. `token_check.rs: check_token`, `fingerprint.rs: compare`, `lifetime.rs: renewal`, `flash.rs: take` and `csrf.rs: CsrfKey`: the
//!    rules for tokens, networks, lifetimes, flash messages and CSRF tokens.

pub(crate) mod cache;
pub(crate) mod canonical;
pub(crate) mod change;
pub(crate) mod context;
pub(crate) mod csrf;
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
pub(crate) mod object;
pub(crate) mod raw;
pub(crate) mod text;
pub(crate) mod token_check;
pub(crate) mod transaction;
pub(crate) mod value;
pub(crate) mod values;
pub(crate) mod version;

use std::time::Duration;

use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::record::context::ApplyContext;
use crate::record::flash::Flash;
use crate::record::json::{Json, string_len};
use crate::record::kept::Kept;
use crate::record::values::Values;
use crate::record::version::{CommitId, Epoch, Version};
use crate::time::{Millis, after};
use crate::token::SecretHash;

/// For how many writers a record lists the last commit.
pub(crate) const WRITERS: usize = 8;

/// A secret that was replaced a moment ago. It no longer gives access, but sessile still recognizes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Retired {
    pub(crate) secret: SecretHash,
    pub(crate) until: Millis,
}

/// The last login, if another login of the same principal may join it: see [`join`](crate::commit::join).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Login {
    /// The version that this login, or the last one that joined it, has written. If the record has another version, something else
    /// was written since, and no login may join.
    pub(crate) version: Version,
    /// The secrets that the login retired.
    pub(crate) retired: Vec<SecretHash>,
}

/// Everything that is stored of a session. A clone shares the strings and values, and seldom allocates.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) version: Version,
    /// The last commit of each of the last [`WRITERS`] writers, the latest one last.
    pub(crate) applied: SmallVec<[CommitId; 4]>,
    pub(crate) epoch: Epoch,
    pub(crate) secret: SecretHash,
    /// Further valid secrets, one for each login that joined the last one.
    pub(crate) added: Vec<SecretHash>,
    pub(crate) retired: Vec<Kept<Retired>>,
    /// The last login, if nothing was committed since.
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
    /// Whether the idle timeout is the least time that the session lives after a use: [`Idle`](lifetime::Idle). The layer of the
    /// last commit has decided that.
    pub(crate) full_idle_timeout: bool,
    /// Whether the browser keeps the cookie after it is closed.
    pub(crate) persistent: bool,
    /// When a persistent cookie was last sent, as far as a commit has recorded it.
    pub(crate) cookie_sent: Option<Millis>,
    pub(crate) principal: Option<ByteString>,
    /// The last principal who signed out: the data is theirs while `principal` is `None`. A login clears it.
    pub(crate) former_principal: Option<ByteString>,
    pub(crate) fingerprint: Option<ByteString>,
    /// What the application calls the visitor's device.
    pub(crate) label: Option<ByteString>,
    pub(crate) data: Values,
    pub(crate) flash: Vec<Kept<Flash>>,
    /// Fields of a later version of sessile, preserved byte for byte.
    pub(crate) unknown: Vec<(ByteString, Json)>,
}

impl Record {
    /// The empty, anonymous record of a session that is not stored yet.
    pub(crate) fn new(apply_context: &ApplyContext) -> Self {
        Self {
            version: Version::none(),
            applied: SmallVec::new(),
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
            full_idle_timeout: false,
            persistent: apply_context.persistent,
            cookie_sent: None,
            principal: None,
            former_principal: None,
            fingerprint: None,
            label: None,
            data: Values::default(),
            flash: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// The size that `max_size` limits, in bytes: keys and values of the data as JSON, and the flash messages. The fields of
    /// sessile itself do not count, so that a user can still sign in to a session at its limit, or out of it.
    pub(crate) fn size(&self) -> usize {
        let data = self.data.iter();
        let data = data.map(|(key, value)| string_len(key) + value.len());
        let flashes = self.flash.iter().map(Kept::len);
        data.chain(flashes).sum()
    }

    /// Whether [`size`](Self::size) is at most this many bytes.
    pub(crate) fn fits(&self, limit: usize) -> bool {
        // In the worst case each byte of a key becomes six: `\u001f`. That is seldom too much.
        let data: usize = match self.data.as_stored() {
            Some(stored) => stored.len(),
            None => {
                let data = self.data.iter();
                data.map(|(key, value)| 2 + 6 * key.len() + value.len())
                    .sum()
            }
        };
        let flashes: usize = self.flash.iter().map(Kept::len).sum();
        data + flashes <= limit || self.size() <= limit
    }

    pub(crate) fn has_same_lifetimes(&self, before: &Self) -> bool {
        let lifetimes = |of: &Self| {
            let timeouts = (of.idle_timeout, of.absolute_timeout);
            (of.deadline, timeouts, of.persistent)
        };
        lifetimes(self) == lifetimes(before)
    }

    /// Whether changes that did not rotate the session have left it the same as `before`.
    pub(crate) fn has_same_content(&self, before: &Self) -> bool {
        self.has_same_lifetimes(before)
            && self.label == before.label
            && self.data == before.data
            && self.flash == before.flash
    }

    /// Whether changes that did not rotate the session have left a session that is not stored empty, and without timeouts of its
    /// own. It has an epoch if a CSRF token was made from that.
    pub(crate) fn is_empty(&self) -> bool {
        self.epoch == Epoch::none()
            && self.idle_timeout.is_none()
            && self.absolute_timeout.is_none()
            && self.label.is_none()
            && self.data.is_empty()
            && self.flash.is_empty()
    }

    /// This session once it has ended: nobody may use it, and no commit applies to it.
    pub(crate) fn ended(&self, unusable: SecretHash, now: Millis) -> Self {
        Self {
            version: self.version.next(),
            applied: SmallVec::new(),
            epoch: Epoch::random(),
            secret: unusable,
            added: Vec::new(),
            retired: Vec::new(),
            login: None,
            deadline: now,
            principal: None,
            former_principal: None,
            fingerprint: None,
            label: None,
            data: Values::default(),
            flash: Vec::new(),
            unknown: Vec::new(),
            ..self.clone()
        }
    }

    /// The valid secrets.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &SecretHash> {
        std::iter::once(&self.secret).chain(&self.added)
    }

    /// Whether the data belongs to another principal.
    pub(crate) fn belongs_to_another(&self, who: &str) -> bool {
        let owner = self.principal.as_ref().or(self.former_principal.as_ref());
        owner.is_some_and(|owner| owner != who)
    }

    /// Records that `id` is the latest commit of its writer.
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
            applied: smallvec::smallvec![CommitId {
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
            full_idle_timeout: false,
            persistent: false,
            cookie_sent: None,
            flash: Vec::new(),
            principal: None,
            former_principal: None,
            fingerprint: None,
            label: None,
            data: Values::default(),
            unknown: Vec::new(),
        }
    }

    #[test]
    fn a_record_lists_the_last_commit_of_the_last_eight_writers() {
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
