//! The inputs of a change that are not in the record.

use std::time::Duration;

use crate::record::fingerprint::Network;
use crate::time::Millis;

/// The inputs of a change that are not in the record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ApplyContext {
    pub(crate) now: Millis,
    pub(crate) absolute_timeout: Duration,
    /// Whether a new session, and one that another principal signs in to, is persistent.
    pub(crate) persistent: bool,
    /// The client's network, to which a login binds the session, and so does any commit if the session is not bound yet to a
    /// network of the same address family.
    pub(crate) network: Option<Network>,
}
