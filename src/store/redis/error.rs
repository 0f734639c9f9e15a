//! What a request that failed tells.

use std::error::Error;
use std::io;
use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::error::store::StoreError;
#[cfg(feature = "cluster")]
use crate::error::store::StoreErrorKind;
use crate::store::redis::breaker::Call;

/// A request that failed.
pub(crate) struct RequestError {
    pub(crate) error: StoreError,
    /// The first word of what the server said, such as `OOM`.
    pub(crate) code: Option<String>,
    pub(crate) fault: Option<ConnectionFault>,
    pub(crate) redirection: Option<Box<Redirection>>,
}

/// A node of a cluster that has done nothing, and says who has the key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Redirection {
    /// Host and port.
    pub(crate) to: String,
    /// The slot is on its way there: this holds for one request only.
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

/// How often something is sent that may be sent any number of times.
pub(crate) struct Repetitions {
    /// For connections that turn out to be dead.
    left: u32,
    /// Something was sent, and is done or not.
    unsure: Option<RequestError>,
    silent: bool,
}

impl Repetitions {
    /// One for each of the connections, which may all be dead, and one for a connection that does not answer.
    pub(crate) fn new(connections: u32) -> Self {
        Self {
            left: connections,
            unsure: None,
            silent: false,
        }
    }

    /// What the whole has come to, unless it is to be sent once more. What was sent first may be done, whatever is said of
    /// the last.
    pub(crate) fn last(&mut self, failed: RequestError) -> Option<RequestError> {
        let again = match failed.fault {
            Some(ConnectionFault::Dropped) if self.left > 0 => {
                self.left -= 1;
                true
            }
            Some(ConnectionFault::Silent) => !std::mem::replace(&mut self.silent, true),
            _ => false,
        };
        if again {
            self.unsure.get_or_insert(failed);
            return None;
        }
        Some(match self.unsure.take() {
            Some(unsure) if failed.fault.is_none() => unsure,
            _ => failed,
        })
    }
}

/// What was wrong with the connection.
#[derive(Clone, Copy)]
pub(crate) enum ConnectionFault {
    /// The other end is gone.
    Dropped,
    /// No answer came in time.
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

    /// What a client that was connected to there says.
    pub(crate) fn of(address: &str, error: RedisError) -> Self {
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

    /// What was sent could change nothing, whether it was answered or not.
    pub(crate) fn unsent(mut self) -> Self {
        self.error = self.error.unsent();
        self
    }

    /// Nothing was sent.
    #[cfg(feature = "cluster")]
    pub(crate) fn is_unsent(&self) -> bool {
        self.error.kind() == StoreErrorKind::Unavailable
    }

    pub(crate) fn is_dropped(&self) -> bool {
        matches!(self.fault, Some(ConnectionFault::Dropped))
    }

    /// What it says of the server.
    pub(crate) fn call(&self) -> Call {
        match self.fault {
            Some(ConnectionFault::Silent) => Call::Unanswered,
            _ if self.is_outage() => Call::Failed,
            _ => Call::Answered,
        }
    }

    /// The server does not have the command, or not for this user.
    pub(crate) fn is_denial(&self) -> bool {
        matches!(self.code.as_deref(), Some("NOPERM" | "ERR"))
    }

    /// The same for certain, whatever the arguments were.
    pub(crate) fn is_missing(&self) -> bool {
        let message = Error::source(&self.error).map(ToString::to_string);
        let is_unknown = message.is_some_and(|message| message.contains("unknown command"));
        self.code.as_deref() == Some("NOPERM") || is_unknown
    }

    /// The server does not do its work, whatever it is asked.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(
            self.code.as_deref(),
            None | Some("LOADING" | "MASTERDOWN" | "BUSY")
        )
    }

    /// The server takes no writes at present.
    pub(crate) fn is_of_writes(&self) -> bool {
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

/// An error of another kind that has come through the client as one of its own.
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

/// The error without what the server repeats of a command that it does not know, which may be a password or a part of a
/// session.
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
    fn what_a_failure_says_of_the_server() {
        let server_error = |text: &str| {
            let parsed = redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap();
            RequestError::of("h:1", parsed.extract_error().unwrap_err()).call()
        };
        for (text, call) in [
            ("LOADING dataset", Call::Failed),
            ("MASTERDOWN no link", Call::Failed),
            ("BUSY running a script", Call::Failed),
            // It serves reads, or has lost one slot.
            ("CLUSTERDOWN Hash slot not served", Call::Answered),
            ("MOVED 1 h:2", Call::Answered),
            ("READONLY replica", Call::Answered),
            ("OOM full", Call::Answered),
        ] {
            assert_eq!(server_error(text), call, "{text}");
        }
    }

    #[test]
    fn what_may_be_done_is_not_said_to_be_undone() {
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
            let mut repetitions = Repetitions::new(2);
            let mut outcome = None;
            for (number, failed) in (1..).zip(failures) {
                if let Some(failed) = repetitions.last(failed) {
                    outcome = Some((number, failed.error.kind()));
                    break;
                }
            }
            assert_eq!(outcome, Some((sent, kind)), "case {number}");
        }
    }
}
