//! What the handler has seen of its session, and whether it was still so.

use crate::commit::work::{ReadSet, Seen};

/// What the handler has seen of its session.
#[derive(Clone, Debug)]
pub(crate) struct Reads {
    /// What must be in the store as it was loaded, for the log to be done to a newer record.
    pub(super) set: ReadSet,
    /// It was still so at the last commit, or when it was looked at since.
    proved: bool,
    /// The session is what others have made of it too, which this request has not asked to see.
    pub(super) overtaken: bool,
}

impl Reads {
    pub(crate) fn new(set: ReadSet) -> Self {
        Self {
            set,
            proved: false,
            overtaken: false,
        }
    }

    pub(crate) fn are_proved(&self) -> bool {
        self.proved
    }

    pub(crate) fn prove(&mut self) {
        self.proved = true;
    }

    /// What was read has to be looked at once more.
    pub(super) fn doubt(&mut self) {
        self.proved = false;
    }

    /// The handler has seen the value of a key.
    pub(crate) fn note_key(&mut self, key: &str) {
        self.note(|seen| {
            if !seen.keys.contains(key) {
                seen.keys.insert(key.to_owned());
            }
        });
    }

    /// The handler has seen something that is under no key.
    pub(crate) fn note(&mut self, note: impl FnOnce(&mut Seen)) {
        self.doubt();
        if let ReadSet::These(seen) = &mut self.set {
            note(seen);
        }
    }

    /// The handler has seen which keys there are.
    pub(crate) fn note_all(&mut self) {
        self.doubt();
        if let ReadSet::These(_) = self.set {
            self.set = ReadSet::Everything;
        }
    }
}
