//! A session as it was last read from or written to the store: changes are applied to it, and a compare-and-set replaces it.

use std::sync::Arc;

use crate::record::Record;
use crate::store::Stored;
use crate::token::Token;

/// A session as it was last read from or written to the store: changes are applied to it, and a compare-and-set replaces it.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    pub(crate) token: Token,
    pub(crate) stored: Stored,
    pub(crate) record: Arc<Record>,
}
