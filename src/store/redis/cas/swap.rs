//! The arguments of a compare-and-set.

use crate::store::contract::Stored;

/// The arguments of a compare-and-set, for every strategy.
#[derive(Clone, Copy)]
pub(crate) struct Swap<'a> {
    pub(crate) key: &'a str,
    /// The expected value, identified by its version.
    pub(crate) expected: &'a Stored,
    pub(crate) value: &'a [u8],
    /// In milliseconds; `None` keeps the present time to live.
    pub(crate) ttl: Option<u64>,
}
