//! What can go wrong for a handler, and the response it becomes.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::store::StoreError;

/// A cause, cloneable so that an error can be left in the response's extensions.
pub(crate) type Cause = Arc<dyn Error + Send + Sync>;

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
    Decode {
        /// The key that was read.
        key: String,
        /// The Rust type asked for.
        type_name: &'static str,
        /// Why, without anything of the value.
        source: JsonError,
    },
    /// Used if `increment` or `decrement` meets a value that is not a whole number. The value is kept.
    #[error("session value {key:?} is not a whole number: count under another key")]
    NotANumber {
        /// The key that was counted.
        key: String,
    },
    /// Used if a counter would leave the range of `i64`. The value is kept.
    #[error("session counter {key:?} would leave the range of i64: the increment was not applied")]
    Overflow {
        /// The key that was counted.
        key: String,
    },
    /// Used if a key, a value, a principal or the whole session is larger than it may be. The store keeps what it had. A
    /// change that leaves a session no larger than it was is never too large.
    #[error("the {what} takes {size} bytes, more than {limit}: {advice}", advice = advice_for(what))]
    TooLarge {
        /// `key`, `value`, `principal` or `session`.
        what: &'static str,
        /// Bytes that it takes.
        size: usize,
        /// Bytes that it may take.
        limit: usize,
    },
    /// Used if a session is given a timeout that cannot work.
    #[error(
        "a timeout of {value:?} cannot work: choose one from a second to ten years that is not over already"
    )]
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
    Refused {
        /// The key that was to be updated.
        key: String,
    },
    /// Used if other requests kept changing the session for as long as the commit may take. Nothing was written.
    #[error("other requests kept changing the session: nothing was written in {attempts} attempts")]
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
    Busy {
        /// How long it may wait.
        wait: Duration,
    },
    /// Used if the session ended, or passed to another login, while the request ran. Nothing was written, and it will not
    /// be created again: a logout is final.
    #[error("the session {0}: nothing was written")]
    Gone(Gone),
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

/// What to do about something that is too large.
pub(crate) fn advice_for(what: &str) -> &'static str {
    match what {
        "key" | "principal" => "use a short name",
        _ => "store less, or raise `max_size`",
    }
}

/// Why a value cannot be written as JSON, or read from it.
///
/// It holds nothing of the value, and no message of a `Serialize` or `Deserialize` of yours, in which a value may be: it can be
/// logged.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// What is wrong.
    pub kind: JsonErrorKind,
    /// The line of the stored JSON at which reading stopped, from 1; 0 if it was written, or if that is not known.
    pub line: usize,
    /// The column of that line, in bytes, from 1.
    pub column: usize,
}

/// What is wrong with JSON, or with a value that was to become JSON.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonErrorKind {
    /// It is JSON, and of another type than the one that was asked for.
    Mismatch,
    /// It is not JSON.
    Syntax,
    /// It ends too early.
    Truncated,
    /// The type's `Serialize` failed, or it has a map whose keys are neither strings nor numbers.
    Unwritable,
    /// There is a float in it that is NaN or infinite.
    NotFinite,
    /// It is nested deeper than it can be read again.
    TooDeep {
        /// How many levels of lists, maps and structs there may be.
        limit: usize,
    },
}

impl JsonError {
    /// A value that cannot be written.
    pub(crate) fn in_value(kind: JsonErrorKind) -> Self {
        let (line, column) = (0, 0);
        Self { kind, line, column }
    }

    pub(crate) fn not_a_list() -> Self {
        Self {
            kind: JsonErrorKind::Mismatch,
            line: 1,
            column: 1,
        }
    }

    /// What serde_json says of JSON, without its words: they quote what they have found.
    pub(crate) fn reading(error: &serde_json::Error) -> Self {
        use serde_json::error::Category;
        Self {
            kind: match error.classify() {
                Category::Data => JsonErrorKind::Mismatch,
                Category::Eof => JsonErrorKind::Truncated,
                // Nothing is read from a stream.
                Category::Syntax | Category::Io => JsonErrorKind::Syntax,
            },
            line: error.line(),
            column: error.column(),
        }
    }
}

impl Error for JsonError {}

impl std::fmt::Display for JsonError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.kind.fmt(f)?;
        match self.line {
            0 => Ok(()),
            line => write!(f, " at line {line}, column {}", self.column),
        }
    }
}

impl std::fmt::Display for JsonErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Mismatch => "the JSON is of another type",
            Self::Syntax => "this is not JSON",
            Self::Truncated => "the JSON ends too early",
            Self::Unwritable => "its `Serialize` failed, or the keys of a map are not strings",
            Self::NotFinite => "JSON has no NaN and no infinity: use an `Option`, or a string",
            Self::TooDeep { limit } => {
                return write!(
                    f,
                    "it is nested deeper than the {limit} levels that can be read"
                );
            }
        })
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
    /// [`Fingerprinting::Strict`](crate::Fingerprinting): it belongs to another network.
    OtherNetwork,
    /// What is stored under its key cannot be read, or was written by a newer version of sessile.
    Unreadable,
}

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ended => "was destroyed or has expired",
            Self::Rotated => "was rotated by another request",
            Self::OtherNetwork => "is bound to another network",
            Self::Unreadable => "cannot be read by this version of sessile",
        })
    }
}

impl SessionError {
    /// The status of the response that this error becomes.
    ///
    /// 409 for `Conflict`, `Gone`, `Refused` and `Aborted`; 503 for `Store` and `Busy` (with `Retry-After`) and `OutcomeUnknown`
    /// (without, since repeating the request may do its work twice); 500 for `PartlyCommitted`, and for everything that only the
    /// application's code can mend.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Conflict { .. } | Self::Gone(_) | Self::Refused { .. } | Self::Aborted => {
                StatusCode::CONFLICT
            }
            Self::Store(_) | Self::Busy { .. } | Self::OutcomeUnknown => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::MissingLayer
            | Self::Encode { .. }
            | Self::Decode { .. }
            | Self::NotANumber { .. }
            | Self::Overflow { .. }
            | Self::TooLarge { .. }
            | Self::InvalidTimeout { .. }
            | Self::Discarded
            | Self::PartlyCommitted { .. }
            | Self::ResponseSent => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

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

    /// The default response: the status, one plain sentence, never cached.
    pub(crate) fn response(&self) -> Response<Bytes> {
        let text: &'static str = match self {
            Self::OutcomeUnknown => {
                "It is not known whether this was done. Look before you repeat it.\n"
            }
            Self::Store(_) | Self::Busy { .. } => {
                "The session is unavailable right now. Try again in a moment.\n"
            }
            Self::PartlyCommitted { .. } => {
                "A part of this was done and the rest was not. Look before you repeat it.\n"
            }
            Self::Refused { .. } | Self::Aborted => {
                "This is not possible any more. Load the page again.\n"
            }
            Self::Gone(Gone::OtherNetwork) => "The session cannot be used from this network.\n",
            Self::Gone(_) | Self::Conflict { .. } => {
                "The session was changed by another request. Load the page again.\n"
            }
            _ => "Internal server error.\n",
        };
        let mut response = Response::new(Bytes::from_static(text.as_bytes()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if matches!(self, Self::Store(_) | Self::Busy { .. }) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failed_store_invites_to_try_again() {
        let store = SessionError::Store(StoreError::unavailable("down"));
        for (error, status, retry) in [
            (store, 503, true),
            (SessionError::OutcomeUnknown, 503, false),
            (
                SessionError::Busy {
                    wait: Duration::ZERO,
                },
                503,
                true,
            ),
            (SessionError::Conflict { attempts: 3 }, 409, false),
            (SessionError::Gone(Gone::Ended), 409, false),
            (SessionError::Refused { key: "k".into() }, 409, false),
            (SessionError::Aborted, 409, false),
            (
                SessionError::PartlyCommitted {
                    rest: Box::new(SessionError::Store(StoreError::unavailable("down"))),
                },
                500,
                false,
            ),
            (SessionError::MissingLayer, 500, false),
            (
                SessionError::TooLarge {
                    what: "value",
                    size: 2,
                    limit: 1,
                },
                500,
                false,
            ),
        ] {
            let response = error.response();
            assert_eq!(response.status(), status, "{error}");
            assert_eq!(
                response.headers().contains_key("retry-after"),
                retry,
                "{error}"
            );
            assert_eq!(response.headers()["cache-control"], "no-store");
        }
    }
}
