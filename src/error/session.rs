//! The errors of session calls and of the commit after the handler.

use std::time::Duration;

use crate::error::json::JsonError;
use crate::error::store::{StoreError, StoreErrorKind};

/// Why a session call, or the commit after the handler, failed.
///
/// It implements axum's `IntoResponse`, so that a handler may return it with `?`; [`status`](Self::status) returns the status of
/// the response. The message is for the log; the body of the response does not show internals. The extensions of the response
/// hold the error itself.
///
/// ```
/// use axum::response::{IntoResponse, Redirect, Response};
/// use sessile::{Session, SessionError};
///
/// async fn buy(session: Session) -> Result<Response, SessionError> {
///     // Refuses once the stock is 0, whatever other requests have taken from it.
///     let taken = session.try_update("stock", |stock: Option<u32>| stock?.checked_sub(1));
///     match taken {
///         Err(SessionError::Refused { .. }) => return Ok(Redirect::to("/sold-out").into_response()),
///         taken => taken?,
///     };
///     Ok(Redirect::to("/thanks").into_response())
/// }
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, thiserror::Error)]
pub enum SessionError {
    /// The handler asked for a session, and there is no [`SessionLayer`](crate::SessionLayer) around it.
    #[error(
        "there is no session layer around this handler: add `.layer(SessionLayer::new(store))` to the router, after its routes"
    )]
    MissingLayer,
    /// A value cannot be written as JSON and read back, such as a map whose keys are not strings, a float that is NaN or
    /// infinite, or a value that is nested too deeply. The session stays as it was.
    #[error("session value {key:?} of type {type_name} cannot be written as JSON")]
    #[non_exhaustive]
    Encode {
        /// The key of the value.
        key: String,
        /// The Rust type of the value.
        type_name: &'static str,
        /// The cause; it does not show the value.
        source: JsonError,
    },
    /// A stored value does not have the type asked for. The value stays.
    #[error(
        "session value {key:?} is not a {type_name}: ask for the type it was stored as, or remove it with `discard`"
    )]
    #[non_exhaustive]
    Decode {
        /// The key of the value.
        key: String,
        /// The Rust type asked for.
        type_name: &'static str,
        /// The cause; it does not show the value.
        source: JsonError,
    },
    /// The values of the session do not fit the type that [`values`](crate::Session::values) was asked for. They stay.
    #[error(
        "the values of the session do not fit {type_name}{at}: give each field the type its value was stored as, and `#[serde(default)]` if the value may be missing",
        at = key.as_ref().map(|key| format!(" at {key:?}")).unwrap_or_default()
    )]
    #[non_exhaustive]
    DecodeAll {
        /// The key whose value is missing, has another type, or has no field in the type; `None` if it is not known.
        key: Option<String>,
        /// The Rust type asked for.
        type_name: &'static str,
        /// The cause; it does not show the values.
        source: JsonError,
    },
    /// `increment` or `decrement` found a value that is not an integer. The value stays.
    #[error("session value {key:?} is not an integer: count under another key")]
    #[non_exhaustive]
    NotANumber {
        /// The key of the value.
        key: String,
    },
    /// The sum of a counter and an increment overflows `i64`. The counter stays.
    #[error("session counter {key:?} overflows i64: the increment was not applied")]
    #[non_exhaustive]
    Overflow {
        /// The key of the counter.
        key: String,
    },
    /// A key, a value, a principal or the whole session exceeds its limit. The session stays as it was. A change that does not
    /// make the session larger never causes this error.
    #[error("the {part} takes {size} bytes, more than {limit}: {advice}", advice = part.advice())]
    #[non_exhaustive]
    TooLarge {
        /// The part that is too large.
        part: LimitedPart,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A call sets a session timeout that is out of range, or that has already passed.
    #[error(
        "invalid session timeout {value:?}: choose one between one second and ten years that has not passed yet"
    )]
    #[non_exhaustive]
    InvalidTimeout {
        /// The timeout.
        value: Duration,
    },
    /// A call needs to change the cookie, but the head of the response has been sent.
    #[error(
        "the response has been sent, so its cookie can no longer change: do this before the handler returns"
    )]
    ResponseSent,
    /// A change was dropped before its commit: by `discard_changes` or `destroy` on a clone, or because the request failed or was
    /// abandoned. Nothing was written.
    #[error(
        "the change was dropped before its commit: by a clone of the session, or because the request failed"
    )]
    Discarded,
    /// The closure of [`try_update`](crate::Session::try_update) refused to replace the value. The value stays.
    #[error("the closure of `try_update` refused to replace session value {key:?}")]
    #[non_exhaustive]
    Refused {
        /// The key of the value.
        key: String,
    },
    /// Other requests kept changing the session until the commit's deadline. Nothing was written.
    #[error("other requests kept changing the session: nothing was written in {attempts} attempts")]
    #[non_exhaustive]
    Conflict {
        /// How many compare-and-sets were tried.
        attempts: u32,
    },
    /// Other requests held the session for the whole time that this one may wait: for `wait` of
    /// [`Concurrency::Exclusive`](crate::Concurrency::Exclusive), or for the store's `request_budget` if a thousand requests
    /// change the session at once. Nothing was written.
    #[error(
        "other requests held the session for the {wait:?} that this one may wait: make them faster, or raise `wait` of `Concurrency::Exclusive`, or else `request_budget`"
    )]
    #[non_exhaustive]
    Busy {
        /// How long this request may wait.
        wait: Duration,
    },
    /// The session ended or was rotated while the request ran. Nothing was written, and an ended session is never created
    /// again: a logout is final.
    #[error("the session {0}: nothing was written")]
    Gone(Gone),
    /// The session exists, but this request may not use it. Nothing was written.
    #[error("the session {0}: nothing was written")]
    Denied(Denied),
    /// The index of the principal's sessions refused the sign-in. Nobody was signed in; if the session was stored before, it may
    /// have ended.
    #[error("the sign-in was refused: {0}")]
    SignInRefused(#[from] SignInRefused),
    /// The request failed its check against cross-site request forgery: by [`CsrfLayer`](crate::CsrfLayer), `CsrfForm` or
    /// [`verify_csrf`](crate::Session::verify_csrf). The handler has not run, or must not go on.
    #[error("the request was refused as a possible cross-site request forgery: {0}")]
    Csrf(CsrfFailure),
    /// The request needs a signed-in user, and the session is anonymous.
    #[error("nobody is signed in: sign the user in with `set_principal` before this request")]
    NotSignedIn,
    /// The closure of a [`transaction`](crate::Session::transaction) returned an error when a clone of the session committed it.
    /// Nothing was written. The caller of `transaction` gets the closure's error instead. A closure that does not need its own
    /// error type may return this one.
    #[error("the closure of a transaction aborted it: nothing was written")]
    Aborted,
    /// `save`, `increment_now`, `take`, `take_flashes` or `transaction` committed a part of the request's changes, and the rest was
    /// rejected. A retry of the request would apply the committed part twice.
    #[error(
        "a part of the request's changes was committed and the rest was not: make them in one `transaction`, or read the session before you retry"
    )]
    #[non_exhaustive]
    PartlyCommitted {
        /// Why the rest was not committed.
        #[source]
        rest: Box<Self>,
    },
    /// A commit was sent, and the store did not acknowledge it in time. The changes may have been applied, so do not blindly make
    /// them again. A rotation may have been applied as well, although the browser does not have the new token.
    ///
    /// This is also the error if fewer replicas than [`durability`](crate::DurabilityConfig) asks for have acknowledged the
    /// changes. The session then shows them and the response carries its cookie; a failover may still lose them.
    #[error(
        "the store did not acknowledge the commit in time: read the session in a new request before you retry"
    )]
    OutcomeUnknown,
    /// [`require_fresh`](crate::Session::require_fresh): the login is too old, or nobody is signed in.
    #[error(
        "the last login is not within {max_age:?}: ask the user to sign in again, then call `set_principal`"
    )]
    #[non_exhaustive]
    StaleLogin {
        /// How old the login may be.
        max_age: Duration,
    },
    /// The store cannot be reached, or rejects the operation. No request will see these changes. A deletion may have been applied,
    /// and is retried; a new session may have been stored, but no browser has its token, and sessile deletes it in the background.
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

    /// How to make it smaller.
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

/// Why a session can no longer be written.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The session was destroyed, expired, or was evicted after it was loaded.
    Ended,
    /// The session was rotated after it was loaded, or the request carried a token that had already been replaced.
    Rotated,
    /// The value under the session's key is not a record, or a newer version of sessile wrote it.
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

/// Why a sign-in was refused.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignInRefused {
    /// All sessions of the principal were ended since the sign-in began, or began to be checked:
    /// [`Sessions::destroy_all`](crate::Sessions::destroy_all) or [`destroy_others`](crate::Sessions::destroy_others). Under
    /// [`MaxSessions`](crate::MaxSessions), another sign-in may have taken the place of this one.
    #[error("the sessions of the user were ended since it began; sign in again")]
    SignedOutEverywhere,
    /// The principal has as many sessions as [`MaxSessions`](crate::MaxSessions) allows.
    #[error("the user has as many sessions as `max_sessions` allows; sign out on another device")]
    TooManySessions,
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

/// Which check against cross-site request forgery a request has failed.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CsrfFailure {
    /// The browser says in `Sec-Fetch-Site` that a page of another site, or of another origin of this site, has sent the request.
    CrossOrigin,
    /// `Origin` names another host or port than the request was sent to, or cannot be read.
    OtherOrigin,
    /// `Origin` is `null`: the page hides where it comes from, as one in a sandbox does.
    OpaqueOrigin,
    /// The request has no token.
    MissingToken,
    /// The request's token is not one of its session since the last rotation.
    WrongToken,
}

impl CsrfFailure {
    /// The variant's name in snake case, such as `cross_origin`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CrossOrigin => "cross_origin",
            Self::OtherOrigin => "other_origin",
            Self::OpaqueOrigin => "opaque_origin",
            Self::MissingToken => "missing_token",
            Self::WrongToken => "wrong_token",
        }
    }
}

impl std::fmt::Display for CsrfFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::CrossOrigin => {
                "`Sec-Fetch-Site` names another origin: if that is one of yours, name it in `CsrfLayer::allow_origin`"
            }
            Self::OtherOrigin => {
                "`Origin` is not the host of the request: make the proxy pass on `Host`, or name the origin in `CsrfLayer::allow_origin`"
            }
            Self::OpaqueOrigin => {
                "`Origin` is `null`: send the request from a page that is neither sandboxed nor local, and without `Referrer-Policy: no-referrer`"
            }
            Self::MissingToken => {
                "it has no token: send that of `Session::csrf_token` in a header or a form field, or exempt the path by `CsrfLayer::exempt`"
            }
            Self::WrongToken => {
                "its token does not belong to the session: reload the page, whose token ended with the last login or sign-out"
            }
        })
    }
}

impl SessionError {
    /// The variant's name in snake case, with its reason if it has one, such as `conflict`, `gone_rotated` or
    /// `store_unavailable`: for metrics, traces and answers that programs read. It says nothing about the session's content.
    pub fn name(&self) -> &'static str {
        match self {
            Self::MissingLayer => "missing_layer",
            Self::Encode { .. } => "encode",
            Self::Decode { .. } => "decode",
            Self::DecodeAll { .. } => "decode_all",
            Self::NotANumber { .. } => "not_a_number",
            Self::Overflow { .. } => "overflow",
            Self::TooLarge { .. } => "too_large",
            Self::InvalidTimeout { .. } => "invalid_timeout",
            Self::ResponseSent => "response_sent",
            Self::Discarded => "discarded",
            Self::Refused { .. } => "refused",
            Self::Conflict { .. } => "conflict",
            Self::Busy { .. } => "busy",
            Self::Gone(Gone::Ended) => "gone_ended",
            Self::Gone(Gone::Rotated) => "gone_rotated",
            Self::Gone(Gone::Unreadable) => "gone_unreadable",
            Self::Denied(Denied::OtherNetwork) => "denied_other_network",
            Self::SignInRefused(SignInRefused::SignedOutEverywhere) => {
                "sign_in_refused_signed_out_everywhere"
            }
            Self::SignInRefused(SignInRefused::TooManySessions) => {
                "sign_in_refused_too_many_sessions"
            }
            Self::Csrf(CsrfFailure::CrossOrigin) => "csrf_cross_origin",
            Self::Csrf(CsrfFailure::OtherOrigin) => "csrf_other_origin",
            Self::Csrf(CsrfFailure::OpaqueOrigin) => "csrf_opaque_origin",
            Self::Csrf(CsrfFailure::MissingToken) => "csrf_missing_token",
            Self::Csrf(CsrfFailure::WrongToken) => "csrf_wrong_token",
            Self::NotSignedIn => "not_signed_in",
            Self::Aborted => "aborted",
            Self::PartlyCommitted { .. } => "partly_committed",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::StaleLogin { .. } => "stale_login",
            Self::Store(error) => match error.kind() {
                StoreErrorKind::Unavailable => "store_unavailable",
                StoreErrorKind::Refused => "store_refused",
                StoreErrorKind::Unknown => "store_unknown",
                StoreErrorKind::NotDurable => "store_not_durable",
            },
        }
    }

    /// Converts the error for a request that has already committed a part of its changes. `will_end` says whether a deletion of
    /// the session is still pending.
    pub(crate) fn after_partial_commit(self, will_end: bool) -> Self {
        match self {
            Self::OutcomeUnknown | Self::PartlyCommitted { .. } => self,
            _ if will_end => Self::OutcomeUnknown,
            error => Self::PartlyCommitted {
                rest: Box::new(error),
            },
        }
    }
}
