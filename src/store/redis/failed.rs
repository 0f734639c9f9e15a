//! What a request that failed tells.

use super::breaker::Call;
use crate::store::StoreError;

/// A request that failed.
pub(super) struct Failed {
    pub(super) error: StoreError,
    /// The first word of what the server said, such as `OOM`.
    pub(super) code: Option<String>,
    pub(super) trouble: Option<Trouble>,
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
