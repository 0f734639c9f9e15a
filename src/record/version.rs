//! Numbers that identify the stored values of a session, its epochs, its writers and their commits.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::token::random_bytes;

/// Identifies and orders the stored values of one session: a 24-bit counter, and 40 random bits that are drawn for every commit.
///
/// Stores compare all bits, so that a version which a failover lost never comes back as that of another value. The counter only
/// measures how many commits lie between two versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version(u64);

impl Version {
    /// The version of a session that is not stored yet.
    pub(crate) fn none() -> Self {
        Self(0)
    }

    /// The first bytes of a stored value of this version.
    pub(crate) fn prefix(self) -> String {
        format!("{{\"version\":\"{:016x}\"", self.0)
    }

    const RANDOM_BITS: u32 = 40;
    const COUNTER: u64 = (1 << 24) - 1;

    pub(crate) fn first() -> Self {
        Self(0).next()
    }

    pub(crate) fn next(self) -> Self {
        let counter = ((self.0 >> Self::RANDOM_BITS) + 1) & Self::COUNTER;
        let random = u64::from_be_bytes(random_bytes()) >> (64 - Self::RANDOM_BITS);
        Self(counter << Self::RANDOM_BITS | random)
    }

    /// How many commits lie between `earlier` and this one.
    pub(crate) fn distance_from(self, earlier: Self) -> u32 {
        let counter = |version: Self| version.0 >> Self::RANDOM_BITS;
        let distance = counter(self).wrapping_sub(counter(earlier)) & Self::COUNTER;
        u32::try_from(distance).unwrap_or(u32::MAX)
    }

    /// Whether this version was most likely written after the other. The counter wraps, so it may be wrong after 8 million commits.
    pub(crate) fn is_after(self, other: Self) -> bool {
        let distance = u64::from(self.distance_from(other));
        (1..=Self::COUNTER / 2).contains(&distance)
    }
}

/// Drawn anew at each rotation: at a login, a logout of the principal, or `cycle_id`. Changes that were made in one epoch are never
/// replayed on a record of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

impl Epoch {
    /// The epoch of a session that is not stored yet.
    pub(crate) fn none() -> Self {
        Self(0)
    }

    pub(crate) fn random() -> Self {
        Self(u64::from_be_bytes(random_bytes()))
    }
}

/// Identifies a writer: a layer with its clones, in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Writer(pub(crate) u32);

impl Writer {
    pub(crate) fn random() -> Self {
        Self(u32::from_be_bytes(random_bytes()))
    }
}

/// Identifies one commit: the writer, and a sequence number that only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitId {
    pub(crate) writer: Writer,
    pub(crate) sequence: u64,
}

macro_rules! as_hex {
    ($type:ident, $inner:ident, $digits:literal) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&format_args!(concat!("{:0", $digits, "x}"), self.0))
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                hex(&text, $digits)
                    .and_then(|number| $inner::try_from(number).ok())
                    .map(Self)
                    .ok_or_else(|| D::Error::custom(concat!("expected ", $digits, " hex digits")))
            }
        }
    };
}

as_hex!(Version, u64, 16);
as_hex!(Epoch, u64, 16);

fn hex(text: &str, digits: usize) -> Option<u64> {
    let plain = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == digits && text.bytes().all(plain))
        .then(|| u64::from_str_radix(text, 16).ok())
        .flatten()
}

/// Writes 8 hex digits of the writer, then the sequence number.
impl Serialize for CommitId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:08x}{:x}", self.writer.0, self.sequence))
    }
}

impl<'de> Deserialize<'de> for CommitId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parse = || {
            let (writer, sequence) = text.split_at_checked(8)?;
            let writer = Writer(u32::try_from(hex(writer, 8)?).ok()?);
            let sequence = hex(sequence, sequence.len())?;
            Some(Self { writer, sequence })
        };
        parse().ok_or_else(|| D::Error::custom("expected 9 or more hex digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_count_commits_and_the_counter_wraps() {
        let mut version = Version((Version::COUNTER - 1) << Version::RANDOM_BITS);
        let start = version;
        assert!(!start.is_after(start));
        for distance in 1..=5 {
            let next = version.next();
            assert_ne!(next, version);
            version = next;
            assert_eq!(version.distance_from(start), distance);
            assert!(version.is_after(start) && !start.is_after(version));
        }
    }
}
