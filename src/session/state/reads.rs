//! What the handler has read of its session, and whether that is known to be unchanged.

use crate::commit::work::{ReadSet, Seen};

/// What the handler has read of its session.
#[derive(Clone, Debug)]
pub(crate) struct Reads {
    /// What must be unchanged in a newer record for the log to be replayed on it.
    pub(super) set: ReadSet,
    /// It was unchanged at the last commit, or at a check since.
    verified: bool,
    /// The session includes changes of other requests that this one has not asked to see.
    pub(super) overtaken: bool,
}

impl Reads {
    pub(crate) fn new(set: ReadSet) -> Self {
        Self {
            set,
            verified: false,
            overtaken: false,
        }
    }

    pub(crate) fn are_verified(&self) -> bool {
        self.verified
    }

    /// What was read was unchanged a moment ago.
    pub(crate) fn mark_verified(&mut self) {
        self.verified = true;
    }

    /// What was read must be checked again.
    pub(super) fn mark_unverified(&mut self) {
        self.verified = false;
    }

    /// The handler has read the value of a key.
    pub(crate) fn note_key(&mut self, key: &str) {
        self.note(|seen| {
            if !seen.keys.contains(key) {
                seen.keys.insert(key.into());
            }
        });
    }

    /// The handler has read something that has no key.
    pub(crate) fn note(&mut self, note: impl FnOnce(&mut Seen)) {
        self.mark_unverified();
        if let ReadSet::These(seen) = &mut self.set {
            note(seen);
        }
    }

    /// The handler has read which keys there are.
    pub(crate) fn note_all(&mut self) {
        self.mark_unverified();
        if let ReadSet::These(_) = self.set {
            self.set = ReadSet::Everything;
        }
    }
}
