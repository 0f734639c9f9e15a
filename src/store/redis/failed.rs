//! What a request that failed tells.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::advice::without_arguments;
use super::breaker::Call;
use crate::store::StoreError;

/// A request that failed.
pub(super) struct Failed {
    pub(super) error: StoreError,
    /// The first word of what the server said, such as `OOM`.
    pub(super) code: Option<String>,
    pub(super) trouble: Option<Trouble>,
    pub(super) redirection: Option<Box<Redirection>>,
}

/// A node of a cluster that has done nothing, and says who has the key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Redirection {
    pub(super) slot: u16,
    /// Host and port.
    pub(super) to: String,
    /// The slot is on its way there: this holds for one request only.
    pub(super) ask: bool,
}

impl Redirection {
    pub(super) fn of(error: &RedisError) -> Option<Box<Self>> {
        let (to, slot) = error.redirect_node()?;
        Some(Box::new(Self {
            slot,
            to: to.to_owned(),
            ask: error.kind() == ErrorKind::Server(ServerErrorKind::Ask),
        }))
    }
}

/// What was wrong with the connection.
#[derive(Clone, Copy)]
pub(super) enum Trouble {
    /// The other end is gone.
    Dropped,
    /// No answer came in time.
    Silent,
}

impl Failed {
    pub(super) fn new(error: StoreError) -> Self {
        Self {
            error,
            code: None,
            trouble: None,
            redirection: None,
        }
    }

    /// What a client that was connected to there says.
    pub(super) fn of(address: &str, error: RedisError) -> Self {
        let error = without_arguments(error);
        let code = error.code().map(str::to_owned);
        let told = match (error.kind(), &code) {
            (ErrorKind::Server(_) | ErrorKind::Extension, Some(code)) => {
                StoreError::refused(format!("Redis at {address} refused with {code}"))
            }
            _ => StoreError::unknown(format!("the connection to Redis at {address} failed")),
        };
        Self {
            code,
            redirection: Redirection::of(&error),
            ..Self::new(told.with_source(error))
        }
    }

    /// What was sent could change nothing, whether it was answered or not.
    pub(super) fn unsent(mut self) -> Self {
        self.error = self.error.unsent();
        self
    }

    pub(super) fn is_silent(&self) -> bool {
        matches!(self.trouble, Some(Trouble::Silent))
    }

    /// Nothing was sent.
    #[cfg(feature = "cluster")]
    pub(super) fn is_unsent(&self) -> bool {
        self.error.kind() == crate::store::StoreErrorKind::Unavailable
    }

    pub(super) fn is_dropped(&self) -> bool {
        matches!(self.trouble, Some(Trouble::Dropped))
    }

    /// What it says of the server.
    pub(super) fn call(&self) -> Call {
        match self.trouble {
            Some(Trouble::Silent) => Call::Unanswered,
            _ if self.is_outage() => Call::Failed,
            _ => Call::Answered,
        }
    }

    /// The server does not have the command, or not for this user.
    pub(super) fn is_denial(&self) -> bool {
        matches!(self.code.as_deref(), Some("NOPERM" | "ERR"))
    }

    /// The server does not do its work, whatever it is asked.
    pub(super) fn is_outage(&self) -> bool {
        matches!(
            self.code.as_deref(),
            None | Some("LOADING" | "CLUSTERDOWN" | "MASTERDOWN" | "BUSY")
        )
    }

    /// The server takes no writes at present.
    pub(super) fn is_of_writes(&self) -> bool {
        matches!(
            self.code.as_deref(),
            Some("OOM" | "READONLY" | "MISCONF" | "NOREPLICAS")
        )
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::new(error)
    }
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}
