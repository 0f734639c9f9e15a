//! What can go wrong for a handler.

use std::time::Duration;

use crate::error::json::JsonError;
use crate::error::store::StoreError;

/// Why a session call, or the commit after the handler, failed.
///
/// Implements axum's `IntoResponse`, so that a handler may return it with `?`; [`status`](Self::status) says which status
/// it becomes. The text is for the log; the response holds no internals. The error that a response stands for is left in
/// that response's extensions.
#[non_exhaustive]
#[derive(Clone, Debug, thiserror::Error)]
pub enum SessionError {
    /// Used if the handler asks for a session and no [`SessionLayer`](crate::SessionLayer) is around it.
    #[error(
        "no session layer around this handler: add `.layer(SessionLayer::new(store))` to the router, after its routes"
    )]
    MissingLayer,
    /// Used if a value cannot be written as JSON and read again, such as a map whose keys are not strings, a float that is
    /// NaN or infinite, or a value that is nested too deeply. The session is as it was.
    #[error("session value {key:?} of type {type_name} cannot be written as JSON")]
    #[non_exhaustive]
    Encode {
        /// The key that was written.
        key: String,
        /// The Rust type of the value.
        type_name: &'static str,
        /// Why, without anything of the value.
        source: JsonError,
    },
    /// Used if a stored value is not of the type asked for. The value is kept as it is.
    #[error(
        "session value {key:?} is not a {type_name}: ask for the type it was stored as, or drop it with `discard`"
    )]
    #[non_exhaustive]
    Decode {
        /// The key that was read.
        key: String,
        /// The Rust type asked for.
        type_name: &'static str,
        /// Why, without anything of the value.
        source: JsonError,
    },
    /// Used if [`values`](crate::Session::values) asks for a type that the values of the session do not make up. They are
    /// kept as they are.
    #[error(
        "the values of the session are not a {type_name}{at}: give its fields the types the values were stored as, and `#[serde(default)]` to those that may be missing",
        at = key.as_ref().map(|key| format!(" at {key:?}")).unwrap_or_default()
    )]
    #[non_exhaustive]
    DecodeAll {
        /// The key whose value is missing or of another type, or that the type does not have; `None` if that is not known.
        key: Option<String>,
        /// The Rust type asked for.
        type_name: &'static str,
        /// Why, without anything of the values.
        source: JsonError,
    },
    /// Used if `increment` or `decrement` meets a value that is not a whole number. The value is kept.
    #[error("session value {key:?} is not a whole number: count under another key")]
    #[non_exhaustive]
    NotANumber {
        /// The key that was counted.
        key: String,
    },
    /// Used if a counter would leave the range of `i64`. The value is kept.
    #[error("session counter {key:?} would leave the range of i64: the increment was not applied")]
    #[non_exhaustive]
    Overflow {
        /// The key that was counted.
        key: String,
    },
    /// Used if a key, a value, a principal or the whole session is larger than it may be. The store keeps what it had. A
    /// change that leaves a session no larger than it was is never too large.
    #[error("the {part} takes {size} bytes, more than {limit}: {advice}", advice = part.advice())]
    #[non_exhaustive]
    TooLarge {
        /// What is too large.
        part: LimitedPart,
        /// Bytes that it takes.
        size: usize,
        /// Bytes that it may take.
        limit: usize,
    },
    /// Used if a session is given a timeout that cannot work.
    #[error(
        "a timeout of {value:?} cannot work: choose one from a second to ten years that is not over already"
    )]
    #[non_exhaustive]
    InvalidTimeout {
        /// The timeout.
        value: Duration,
    },
    /// Used if a call needs to change the cookie and the response's head is already on its way.
    #[error(
        "the response has been sent, so the cookie cannot change any more: do this before the handler returns"
    )]
    ResponseSent,
    /// Used if a change was dropped before it was committed: by `discard_changes` or `destroy` on a clone, or since the
    /// request failed or was given up. Nothing was written.
    #[error(
        "the change was discarded before it was committed: by a clone of the session, or since the request failed"
    )]
    Discarded,
    /// Used if the closure of [`try_update`](crate::Session::try_update) said no.
    #[error("the update of session value {key:?} was refused by its closure")]
    #[non_exhaustive]
    Refused {
        /// The key that was to be updated.
        key: String,
    },
    /// Used if other requests kept changing the session for as long as the commit may take. Nothing was written.
    #[error("other requests kept changing the session: nothing was written in {attempts} attempts")]
    #[non_exhaustive]
    Conflict {
        /// Compare-and-sets that were tried.
        attempts: u32,
    },
    /// Used if other requests had the session for as long as this one may wait: `wait` of
    /// [`Concurrency::Exclusive`](crate::Concurrency::Exclusive), or the store's `request_budget` if a thousand want to change
    /// it at once. Nothing was written.
    #[error(
        "other requests of the session took all of the {wait:?} that this one may wait: make them faster, or raise it"
    )]
    #[non_exhaustive]
    Busy {
        /// How long it may wait.
        wait: Duration,
    },
    /// Used if the session ended, or passed to another login, while the request ran. Nothing was written, and it will not
    /// be created again: a logout is final.
    #[error("the session {0}: nothing was written")]
    Gone(Gone),
    /// Used if the session exists and this request may not use it. Nothing was written.
    #[error("the session {0}: nothing was written")]
    Denied(Denied),
    /// Used if the closure of a [`transaction`](crate::Session::transaction) said no when its session was committed by a clone
    /// of it; the caller of `transaction` itself gets what the closure returned. Nothing was written.
    #[error(
        "a transaction on a clone of the session was aborted by its closure: nothing was written"
    )]
    Aborted,
    /// Used if a part of what a request has changed is in the store, since `save`, `increment_now`, `take`, `take_flashes` or
    /// `transaction` has committed it, and the rest is not. To repeat the request would do that part twice.
    #[error(
        "a part of the request's changes was committed, and the rest was not: do all of them in one `transaction`, or look at the session before repeating"
    )]
    #[non_exhaustive]
    PartlyCommitted {
        /// Why the rest is not in the store.
        #[source]
        rest: Box<Self>,
    },
    /// Used if a commit was sent and no answer came: it may have been applied, and must not be sent again blindly. A
    /// rotation may have been applied too, without the browser having the new token. Used too if it has been applied, and on
    /// fewer replicas than [`durability`](crate::DurabilityConfig) asks for: the session then shows it, the response carries the
    /// cookie that goes with it, and whether it outlives the primary is what is unknown.
    #[error(
        "the store did not say in time that the session is changed for good: look at it in a new request before repeating"
    )]
    OutcomeUnknown,
    /// Used if the store cannot be reached or refuses the operation. Nothing that anyone can see was written: a deletion may
    /// have happened, and is tried again; a new session may have been stored whose token nobody has, and is deleted in the
    /// background.
    #[error("the session store failed")]
    Store(#[from] StoreError),
}

/// A part of a session whose size is limited.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitedPart {
    /// The key of a value: 1 KiB at most.
    Key,
    /// One value, or one message: `max_size` at most.
    Value,
    /// The name of the principal: `max_size` at most.
    Principal,
    /// All data and messages of the session together: `max_size` at most.
    Session,
}

impl LimitedPart {
    /// The variant's name in lower case, such as `key`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Value => "value",
            Self::Principal => "principal",
            Self::Session => "session",
        }
    }

    /// What to do if it is too large.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::Key | Self::Principal => "use a short name",
            Self::Value | Self::Session => "store less, or raise `max_size`",
        }
    }
}

impl std::fmt::Display for LimitedPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a session may not be written to any more.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It was destroyed, expired or was evicted since it was loaded.
    Ended,
    /// It was rotated, or its principal changed, since it was loaded; or the request carried the token of before.
    Rotated,
    /// What is stored under its key cannot be read, or was written by a newer version of sessile.
    Unreadable,
}

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ended => "was destroyed or has expired",
            Self::Rotated => "was rotated by another request",
            Self::Unreadable => "cannot be read by this version of sessile",
        })
    }
}

/// Why a request may not use a session that exists.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// [`Fingerprinting::Strict`](crate::Fingerprinting): the session belongs to another network.
    OtherNetwork,
}

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::OtherNetwork => "is bound to another network",
        })
    }
}

impl SessionError {
    /// What it means for a request of which a part is in the store already. `will_end`: the session is still to be deleted.
    pub(crate) fn after_a_part(self, will_end: bool) -> Self {
        match self {
            Self::OutcomeUnknown | Self::PartlyCommitted { .. } => self,
            _ if will_end => Self::OutcomeUnknown,
            error => Self::PartlyCommitted {
                rest: Box::new(error),
            },
        }
    }
}
