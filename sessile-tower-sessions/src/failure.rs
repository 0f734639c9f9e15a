//! What went wrong, in types that all versions of tower-sessions have in common.

use std::error::Error as _;
use std::time::Duration;

use sessile::StoreError;

use crate::stored::Unreadable;

/// A failure, before it becomes the error of a version of tower-sessions.
#[derive(Debug, PartialEq)]
pub(crate) enum Failure {
    Encode(String),
    Decode(String),
    Backend(String),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        // The peer's error has no source, so all causes go into its text.
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        Self::Backend(text)
    }
}

impl From<Unreadable> for Failure {
    fn from(error: Unreadable) -> Self {
        Self::Decode(error.to_string())
    }
}

impl Failure {
    pub(crate) fn ended() -> Self {
        Self::Backend(
            "the session has ended while this request ran, by a logout, a `cycle_id` or its expiry, and stays ended: nothing \
             was saved; load it again, or let the visitor start anew"
                .to_owned(),
        )
    }

    pub(crate) fn cleared_without_session() -> Self {
        Self::Backend(
            "the session has ended, and `clear` did not notice, since it does not load it: nothing was saved; at a login or a \
             logout call `flush` or `cycle_id`, not `clear` alone, so that what follows is saved as a new session"
                .to_owned(),
        )
    }

    pub(crate) fn not_bytes() -> Self {
        Self::Decode(
            "the key of the session does not hold a string: give the store of sessile-tower-sessions a `key_prefix` that \
             nothing else uses"
                .to_owned(),
        )
    }

    pub(crate) fn late(budget: Duration) -> Self {
        Self::Backend(format!(
            "no answer within {budget:?}, so it is not known whether a change was saved: see whether the store is reachable, \
             or raise its `request_budget`"
        ))
    }
}
