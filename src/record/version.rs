//! Numbers that identify the stored values of a session, its epochs, its writers and their commits.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::record::text::Text;
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
    pub(crate) fn prefix(self) -> [u8; 29] {
        let mut prefix = *br#"{"version":"0000000000000000""#;
        prefix[12..28].copy_from_slice(&hex_digits::<16>(self.0));
        prefix
    }

    const RANDOM_BITS: u32 = 40;
    const COUNTER: u64 = (1 << 24) - 1;

    pub(crate) fn first() -> Self {
        Self(0).next()
    }

    pub(crate) fn next(self) -> Self {
        let counter = ((self.0 >> Self::RANDOM_BITS) + 1) & Self::COUNTER;
        // Not a secret: no more than unlikely to be drawn twice.
        let random = rand::random::<u64>() >> (64 - Self::RANDOM_BITS);
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
///
/// It is a secret of the server: CSRF tokens are made from it (`csrf.rs`), so `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Epoch(..)")
    }
}

impl Epoch {
    /// The epoch of a session that is not stored yet.
    pub(crate) fn none() -> Self {
        Self(0)
    }

    pub(crate) fn random() -> Self {
        Self(u64::from_be_bytes(random_bytes()))
    }

    pub(crate) fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
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
    ($type:ident, $digits:literal) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(text(&hex_digits::<$digits>(self.0)))
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let Text(text) = Text::deserialize(deserializer)?;
                Self::parse(&text)
                    .ok_or_else(|| D::Error::custom(concat!("expected ", $digits, " hex digits")))
            }
        }

        impl $type {
            pub(crate) fn parse(text: &str) -> Option<Self> {
                hex(text, $digits).map(Self)
            }
        }
    };
}

as_hex!(Version, 16);
as_hex!(Epoch, 16);

/// The value of up to 16 digits, of which there must be exactly this many.
fn hex(text: &str, digits: usize) -> Option<u64> {
    if text.len() != digits || !(1..=16).contains(&digits) {
        return None;
    }
    text.bytes().try_fold(0, |number, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u64::from(digit))
    })
}

/// The last digits of the number, with zeros in front.
fn hex_digits<const N: usize>(number: u64) -> [u8; N] {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let mut rest = number;
    let mut text = [b'0'; N];
    for digit in text.iter_mut().rev() {
        *digit = DIGITS[(rest & 0xf) as usize];
        rest >>= 4;
    }
    text
}

fn text(digits: &[u8]) -> &str {
    std::str::from_utf8(digits).expect("hex digits are ASCII")
}

/// Writes 8 hex digits of the writer, then the sequence number.
impl Serialize for CommitId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut digits = [0; 24];
        digits[..8].copy_from_slice(&hex_digits::<8>(self.writer.0.into()));
        let sequence = hex_digits::<16>(self.sequence);
        let zeros = (self.sequence | 1).leading_zeros() as usize / 4;
        let end = 24 - zeros;
        digits[8..end].copy_from_slice(&sequence[zeros..]);
        serializer.serialize_str(text(&digits[..end]))
    }
}

impl<'de> Deserialize<'de> for CommitId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(text) = Text::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("expected 9 or more hex digits"))
    }
}

impl CommitId {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (writer, sequence) = text.split_at_checked(8)?;
        let writer = Writer(u32::try_from(hex(writer, 8)?).ok()?);
        let sequence = hex(sequence, sequence.len())?;
        Some(Self { writer, sequence })
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
