//! Errors of requests, and which requests to send again.

use std::error::Error;
use std::io;
use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::error::store::StoreError;
#[cfg(feature = "cluster")]
use crate::error::store::StoreErrorKind;
use crate::store::redis::breaker::Call;

/// A failed request.
pub(crate) struct RequestError {
    pub(crate) error: StoreError,
    /// The first word of the server's error, such as `OOM`.
    pub(crate) code: Option<String>,
    pub(crate) fault: Option<ConnectionFault>,
    pub(crate) redirection: Option<Box<Redirection>>,
}

/// The reply of a node of a cluster that does not have the key and has changed nothing: the address of the node that has it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Redirection {
    /// Host and port.
    pub(crate) to: String,
    /// The slot is migrating: the redirection applies to this request only.
    pub(crate) ask: bool,
}

impl Redirection {
    pub(crate) fn of(error: &RedisError) -> Option<Box<Self>> {
        let (to, _) = error.redirect_node()?;
        Some(Box::new(Self {
            to: to.to_owned(),
            ask: error.kind() == ErrorKind::Server(ServerErrorKind::Ask),
        }))
    }
}

/// Decides whether an idempotent request is sent again.
pub(crate) struct Retries {
    /// How many times, if connections turn out to be dead.
    left: u32,
    /// The first failure after which the outcome is unknown.
    unknown: Option<RequestError>,
    silent: bool,
}

impl Retries {
    /// Allows one retry for each connection, as all may be dead, and one for a connection that is silent.
    pub(crate) fn new(connections: u32) -> Self {
        Self {
            left: connections,
            unknown: None,
            silent: false,
        }
    }

    /// Returns the error to report, or `None` to send the request again. If an earlier attempt may have succeeded, the error
    /// says so, whatever the last attempt returned.
    pub(crate) fn final_error(&mut self, failed: RequestError) -> Option<RequestError> {
        let retry = match failed.fault {
            Some(ConnectionFault::Dropped) if self.left > 0 => {
                self.left -= 1;
                true
            }
            Some(ConnectionFault::Silent) => !std::mem::replace(&mut self.silent, true),
            _ => false,
        };
        if retry {
            self.unknown.get_or_insert(failed);
            return None;
        }
        Some(match self.unknown.take() {
            Some(unknown) if failed.fault.is_none() => unknown,
            _ => failed,
        })
    }
}

/// The fault of the connection.
#[derive(Clone, Copy)]
pub(crate) enum ConnectionFault {
    /// The other end closed it.
    Dropped,
    /// No reply came in time.
    Silent,
}

impl RequestError {
    pub(crate) fn new(error: StoreError) -> Self {
        Self {
            error,
            code: None,
            fault: None,
            redirection: None,
        }
    }

    /// The error of a client that was connected to this address.
    pub(crate) fn from_redis(address: &str, error: RedisError) -> Self {
        let error = without_arguments(error);
        let code = error.code().map(str::to_owned);
        let failure = match (error.kind(), &code) {
            (ErrorKind::Server(_) | ErrorKind::Extension, Some(code)) => {
                StoreError::refused(format!("Redis at {address} refused with {code}"))
            }
            _ => StoreError::unknown(format!("the connection to Redis at {address} failed")),
        };
        Self {
            code,
            redirection: Redirection::of(&error),
            ..Self::new(failure.with_source(error))
        }
    }

    /// The request can have changed nothing, with or without a reply.
    pub(crate) fn into_unavailable(mut self) -> Self {
        self.error = self.error.into_unavailable();
        self
    }

    /// Whether nothing was sent.
    #[cfg(feature = "cluster")]
    pub(crate) fn is_unsent(&self) -> bool {
        self.error.kind() == StoreErrorKind::Unavailable
    }

    pub(crate) fn is_dropped(&self) -> bool {
        matches!(self.fault, Some(ConnectionFault::Dropped))
    }

    /// The outcome for the circuit breaker.
    pub(crate) fn call(&self) -> Call {
        match self.fault {
            Some(ConnectionFault::Silent) => Call::Unanswered,
            _ if self.is_outage() => Call::Failed,
            _ => Call::Answered,
        }
    }

    /// Whether the server does not support the command, or denies it to this user.
    pub(crate) fn is_denial(&self) -> bool {
        matches!(self.code.as_deref(), Some("NOPERM" | "ERR"))
    }

    /// The same, but certain whatever the arguments were.
    pub(crate) fn is_command_missing(&self) -> bool {
        let message = Error::source(&self.error).map(ToString::to_string);
        let is_unknown = message.is_some_and(|message| message.contains("unknown command"));
        self.code.as_deref() == Some("NOPERM") || is_unknown
    }

    /// Whether the server serves no requests at all.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(
            self.code.as_deref(),
            None | Some("LOADING" | "MASTERDOWN" | "BUSY")
        )
    }

    /// Whether the server accepts no writes at present.
    pub(crate) fn is_write_refusal(&self) -> bool {
        matches!(
            self.code.as_deref(),
            Some("OOM" | "READONLY" | "MISCONF" | "NOREPLICAS")
        )
    }
}

impl From<StoreError> for RequestError {
    fn from(error: StoreError) -> Self {
        Self::new(error)
    }
}

impl From<RequestError> for StoreError {
    fn from(failed: RequestError) -> Self {
        failed.error
    }
}

/// The error of another type that the client has wrapped.
pub(crate) fn wrapped<T: Error + 'static>(error: &RedisError) -> Option<&T> {
    let source = error.source()?;
    let source: &(dyn Error + 'static) = match source.downcast_ref::<Arc<dyn Error + Send + Sync>>()
    {
        Some(shared) => &**shared,
        None => source,
    };
    match source.downcast_ref::<io::Error>() {
        Some(error) => error.get_ref()?.downcast_ref(),
        None => source.downcast_ref(),
    }
}

/// The error without the arguments that the server repeats of an unknown command, which may be a password or part of a session.
pub(crate) fn without_arguments(error: RedisError) -> RedisError {
    const REPEATED: &str = ", with args beginning with";
    if !error.to_string().contains(REPEATED) {
        return error;
    }
    let message = error
        .detail()
        .and_then(|message| message.split_once(REPEATED));
    let message = message
        .map_or("unknown command", |(message, _)| message)
        .to_owned();
    (error.kind(), "the server has refused a command", message).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::store::StoreErrorKind::{self, Refused, Unavailable, Unknown};

    #[test]
    fn only_errors_of_a_server_that_is_down_count_as_failed_calls() {
        let server_error = |text: &str| {
            let parsed = redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap();
            RequestError::from_redis("h:1", parsed.extract_error().unwrap_err()).call()
        };
        for (text, call) in [
            ("LOADING dataset", Call::Failed),
            ("MASTERDOWN no link", Call::Failed),
            ("BUSY running a script", Call::Failed),
            // The server serves reads, or has lost one slot.
            ("CLUSTERDOWN Hash slot not served", Call::Answered),
            ("MOVED 1 h:2", Call::Answered),
            ("READONLY replica", Call::Answered),
            ("OOM full", Call::Answered),
        ] {
            assert_eq!(server_error(text), call, "{text}");
        }
    }

    #[test]
    fn after_a_retry_a_request_that_may_have_succeeded_is_reported_as_unknown() {
        let failed = |kind: StoreErrorKind, fault| {
            let error = match kind {
                Refused => StoreError::refused("no"),
                Unavailable => StoreError::unavailable("no connection"),
                _ => StoreError::unknown("no answer"),
            };
            RequestError {
                fault,
                ..RequestError::new(error)
            }
        };
        let dropped = || failed(Unknown, Some(ConnectionFault::Dropped));
        let silent = || failed(Unknown, Some(ConnectionFault::Silent));
        let refused = || failed(Refused, None);
        let unavailable = || failed(Unavailable, None);
        type Case = (Vec<RequestError>, usize, StoreErrorKind);
        let cases: Vec<Case> = vec![
            (vec![refused()], 1, Refused),
            (vec![unavailable()], 1, Unavailable),
            (vec![silent(), silent(), silent()], 2, Unknown),
            (vec![dropped(), dropped(), dropped(), dropped()], 3, Unknown),
            (vec![silent(), unavailable()], 2, Unknown),
            (vec![silent(), refused()], 2, Unknown),
            (vec![dropped(), unavailable()], 2, Unknown),
            (vec![dropped(), silent(), refused()], 3, Unknown),
        ];
        for (number, (failures, sent, kind)) in cases.into_iter().enumerate() {
            let mut retries = Retries::new(2);
            let mut outcome = None;
            for (number, failed) in (1..).zip(failures) {
                if let Some(failed) = retries.final_error(failed) {
                    outcome = Some((number, failed.error.kind()));
                    break;
                }
            }
            assert_eq!(outcome, Some((sent, kind)), "case {number}");
        }
    }
}
