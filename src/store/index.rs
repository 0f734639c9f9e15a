//! The index of a principal's sessions: its name, what is in it, and the outcomes of its operations.
//!
//! [`crate::store`] describes how a sign-in uses it.

use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::error::store::StoreError;
use crate::token::{Handle, random_bytes};

/// How long a reservation protects a session that is not confirmed yet: longer than any commit takes.
pub const RESERVED_FOR: Duration = Duration::from_secs(10);

/// How long an index remembers when all sessions of its principal were last ended: longer than any request takes.
pub const GENERATION_KEPT_FOR: Duration = Duration::from_secs(60 * 60);

/// Names the index of one principal: SHA-256 of the principal, so that it has a fixed length, and the keys of a store do not show
/// names of users.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexKey([u8; 32]);

impl IndexKey {
    /// The index of this principal.
    pub fn of(principal: &str) -> Self {
        Self(Sha256::digest(principal.as_bytes()).into())
    }

    /// The index of nobody, for tests of a [`SessionStore`](crate::SessionStore).
    ///
    /// # Panics
    ///
    /// Panics if the operating system cannot provide random bytes.
    pub fn random() -> Self {
        Self(random_bytes())
    }
}

impl fmt::Display for IndexKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for IndexKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IndexKey({self})")
    }
}

/// A session in an index.
#[allow(clippy::exhaustive_structs, reason = "complete: which, and how long")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The session.
    pub handle: Handle,
    /// When it ends at the latest, by the store's clock, to the millisecond.
    pub until: SystemTime,
}

/// Changes whenever all sessions of a principal are ended. The default is that of an index in which this has not happened for
/// [`GENERATION_KEPT_FOR`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

impl Generation {
    /// A generation, from the number that [`number`](Self::number) returns.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The number to store; 0 for the default.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// What an index must not say if a session is to enter it.
#[allow(clippy::exhaustive_structs, reason = "complete")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The sessions of the principal must not have been ended since.
    pub since: Since,
    /// How many sessions the index may hold, at least one; any number if `None`.
    pub limit: Option<u32>,
}

/// When a sign-in began.
#[allow(clippy::exhaustive_enums, reason = "complete: a time or a generation")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// At this time by the store's clock, or a little later.
    Time(SystemTime),
    /// In this generation.
    Generation(Generation),
}

/// The outcome of [`SessionStore::enter`](crate::SessionStore::enter).
#[must_use]
#[allow(
    clippy::exhaustive_enums,
    reason = "complete: in, or one of two reasons why not"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// The session is in the index, and reserved; this is the present generation.
    Done(Generation),
    /// The index holds as many sessions as it may. It is unchanged.
    Full,
    /// All sessions of the principal were ended since the sign-in began. The index is unchanged.
    Ended,
}

/// The outcome of [`SessionStore::confirm`](crate::SessionStore::confirm).
#[must_use]
#[allow(clippy::exhaustive_enums, reason = "complete: confirmed or not")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// The session is in the index.
    Done,
    /// The session is not in the index any more, or all sessions of the principal were ended since it entered.
    Ended,
}

/// What an index holds.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexed {
    /// The sessions, in no particular order.
    pub sessions: Vec<IndexedSession>,
    /// The present generation.
    pub generation: Generation,
}

impl Indexed {
    /// What an index of this generation holds.
    pub fn new(sessions: Vec<IndexedSession>, generation: Generation) -> Self {
        Self {
            sessions,
            generation,
        }
    }
}

/// A session that an index holds.
#[allow(clippy::exhaustive_structs, reason = "complete")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexedSession {
    /// The session.
    pub entry: Entry,
    /// Whether it is reserved: a sign-in to it may be under way.
    pub reserved: bool,
}

/// The part of an index that decides whether a session may enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// The generation, in the same unit as the time of the sign-in.
    pub(crate) generation: u64,
    /// Whether the session is in the index already.
    pub(crate) holds: bool,
    pub(crate) count: usize,
}

/// When a sign-in began, in the unit of the store's generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Began {
    At(u64),
    In(u64),
}

impl Snapshot {
    /// Decides whether a session may enter.
    pub(crate) fn enter(self, began: Began, limit: Option<u32>) -> Entered {
        let is_ended = match began {
            Began::At(time) => time <= self.generation,
            // A generation that was forgotten is no newer one: whoever compares is younger than that takes.
            Began::In(generation) => self.generation != 0 && generation != self.generation,
        };
        let is_full = limit.is_some_and(|limit| self.count >= limit.max(1) as usize);
        match (is_ended, is_full && !self.holds) {
            (true, _) => Entered::Ended,
            (false, true) => Entered::Full,
            (false, false) => Entered::Done(Generation(self.generation)),
        }
    }

    /// Decides whether a session that has entered in this generation is still in the index.
    pub(crate) fn confirm(self, entered_in: Generation) -> Confirmed {
        let is_same = self.generation == 0 || self.generation == entered_in.0;
        match self.holds && is_same {
            true => Confirmed::Done,
            false => Confirmed::Ended,
        }
    }
}

/// The generation that follows: the time of its begin, unless the last one has a later time.
pub(crate) fn next_generation(last: u64, now: u64) -> Generation {
    Generation(now.max(last.saturating_add(1)))
}

/// The source of the error of a store without an index.
#[derive(Debug, thiserror::Error)]
#[error("there is no index")]
struct NoIndex;

/// Whether the error says that the store has no index. A store that wraps another one may report its capabilities and not pass
/// these calls on; sign-ins to it work all the same.
pub(crate) fn is_missing(error: &StoreError) -> bool {
    error.is_caused_by::<NoIndex>()
}

/// For a store without an index.
pub(crate) fn no_index() -> StoreError {
    StoreError::refused(
        "this store has no index of the sessions of a principal: use another store, or implement `SessionStore::enter` and the methods beside it",
    )
    .with_source(NoIndex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_enters_unless_it_is_late_or_the_index_is_full() {
        let done = |generation| Entered::Done(Generation(generation));
        for (generation, holds, count, began, limit, expected) in [
            (0, false, 0, Began::At(1), None, done(0)),
            (5, false, 0, Began::At(6), None, done(5)),
            (5, false, 0, Began::At(5), None, Entered::Ended),
            (5, false, 0, Began::At(4), None, Entered::Ended),
            (0, false, 0, Began::In(0), None, done(0)),
            (5, false, 0, Began::In(5), None, done(5)),
            (5, false, 0, Began::In(0), None, Entered::Ended),
            (0, false, 0, Began::In(5), None, done(0)),
            (0, false, 2, Began::At(1), Some(3), done(0)),
            (0, false, 3, Began::At(1), Some(3), Entered::Full),
            (0, true, 3, Began::At(1), Some(3), done(0)),
            (0, true, 9, Began::At(1), Some(3), done(0)),
            (5, true, 9, Began::At(1), Some(3), Entered::Ended),
            (5, false, 9, Began::At(1), Some(3), Entered::Ended),
        ] {
            let snapshot = Snapshot {
                generation,
                holds,
                count,
            };
            assert_eq!(
                snapshot.enter(began, limit),
                expected,
                "{snapshot:?} {began:?}"
            );
        }
    }

    #[test]
    fn a_session_is_confirmed_if_it_is_there_in_the_generation_in_which_it_entered() {
        for (generation, holds, entered_in, expected) in [
            (0, true, 0, Confirmed::Done),
            (5, true, 5, Confirmed::Done),
            (5, false, 5, Confirmed::Ended),
            (6, true, 5, Confirmed::Ended),
            (0, true, 5, Confirmed::Done),
        ] {
            let snapshot = Snapshot {
                generation,
                holds,
                count: 1,
            };
            assert_eq!(snapshot.confirm(Generation(entered_in)), expected);
        }
    }

    #[test]
    fn generations_never_go_back() {
        assert_eq!(next_generation(0, 7), Generation(7));
        assert_eq!(next_generation(7, 7), Generation(8));
        assert_eq!(next_generation(9, 7), Generation(10));
    }

    #[test]
    fn an_index_is_named_by_the_hash_of_its_principal() {
        let key = IndexKey::of("mia").to_string();
        assert_eq!(key.len(), 43);
        assert_ne!(key, IndexKey::of("Mia").to_string());
    }
}
