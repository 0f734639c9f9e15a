//! What a change needs to know besides the record.

use std::time::Duration;

use crate::time::Millis;

/// What a change needs to know besides the record.
#[derive(Clone, Debug)]
pub(crate) struct ApplyContext {
    pub(crate) now: Millis,
    pub(crate) absolute_timeout: Duration,
    /// The network that the session is bound to when it has none yet, or changes hands.
    pub(crate) network: Option<String>,
}
