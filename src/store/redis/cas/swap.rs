//! What every way to compare and set is given.

use crate::store::contract::Stored;

/// What a compare-and-set is to do.
#[derive(Clone, Copy)]
pub(crate) struct Swap<'a> {
    pub(crate) key: &'a str,
    /// The value that must be there, told by its version.
    pub(crate) expected: &'a Stored,
    pub(crate) value: &'a [u8],
    /// In milliseconds.
    pub(crate) ttl: u64,
}
