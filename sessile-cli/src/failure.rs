//! How a command ends: its result, its errors, and the exit codes of both.

use std::io;
use std::process::ExitCode;

use sessile::{ConfigError, SessionError, StoreError};

/// What a command has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Fine,
    /// Problems, a session that would be refused, or no session at all.
    Found,
    /// Ctrl-C ended it.
    Interrupted,
}

/// Why a command could not do its work. The messages hold neither passwords nor tokens.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Store(String),
    /// Ctrl-C at a question.
    #[error("interrupted")]
    Interrupted,
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// Whether whoever reads the output has seen enough, as `head` has.
    fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match error {
            // `Debug` shows the causes, too.
            ConfigError::Connect { .. } => Self::Store(format!("{error:?}")),
            error => Self::Usage(error.to_string()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(with_causes(&error))
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        Self::Store(with_causes(&error))
    }
}

/// The message of an error and of those that caused it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let causes = std::iter::successors(error.source(), |&error| error.source());
    for cause in causes.map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The exit code, and the message for stderr.
pub(crate) fn exit(result: Result<Outcome, Failure>) -> (u8, Option<String>) {
    match result {
        Ok(Outcome::Fine) => (0, None),
        Ok(Outcome::Found) => (1, None),
        Ok(Outcome::Interrupted) | Err(Failure::Interrupted) => (130, None),
        Err(failure) if failure.is_closed_pipe() => (0, None),
        Err(failure) => {
            let code = match failure {
                Failure::Usage(_) => 2,
                Failure::Interrupted | Failure::Store(_) | Failure::Output(_) => 3,
            };
            (code, Some(failure.to_string()))
        }
    }
}

/// Ends the process with this code.
pub(crate) fn code(code: u8) -> ExitCode {
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_code() {
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        for (result, expected) in [
            (Ok(Outcome::Fine), (0, false)),
            (Ok(Outcome::Found), (1, false)),
            (Ok(Outcome::Interrupted), (130, false)),
            (Err(Failure::Usage("wrong".to_owned())), (2, true)),
            (Err(Failure::Store("away".to_owned())), (3, true)),
            (Err(Failure::Interrupted), (130, false)),
            (Err(closed.into()), (0, false)),
            (Err(full.into()), (3, true)),
        ] {
            let (code, message) = exit(result);
            assert_eq!((code, message.is_some()), expected);
        }
    }
}
