//! Errors in settings, and errors of the store that they name.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::iter;
use std::time::Duration;

use crate::error::store::Cause;
use crate::time::duration;

/// An invalid setting, or a store that cannot be used. The message says how to fix it.
///
/// `Debug` shows the message and its causes, so that a `main` which returns the error prints them.
#[non_exhaustive]
#[derive(Clone, thiserror::Error)]
pub enum ConfigError {
    /// The value of a setting is invalid.
    #[error("{setting} = {value}: {advice}")]
    #[non_exhaustive]
    Invalid {
        /// The setting, as a configuration file names it.
        setting: Cow<'static, str>,
        /// Its value, without passwords.
        value: String,
        /// How to fix it.
        advice: String,
    },
    /// A store was created outside of a tokio runtime.
    #[error("not in a tokio runtime: create the store inside of one, such as in `#[tokio::main]`")]
    NoRuntime,
    /// The store cannot be reached, or lacks a feature that sessions need.
    #[error("cannot use the session store at {address}: {advice}")]
    #[non_exhaustive]
    Connect {
        /// Host and port, or the path of the socket.
        address: String,
        /// How to fix it.
        advice: String,
        /// The cause.
        source: Cause,
    },
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.to_string();
        for cause in iter::successors(self.source(), |&error| error.source()) {
            let cause = cause.to_string();
            // Advice may quote its cause, and so may the cause of a cause.
            if !text.contains(&cause) {
                text = format!("{text}; caused by: {cause}");
            }
        }
        f.write_str(&text)
    }
}

impl ConfigError {
    pub(crate) fn invalid(
        setting: &'static str,
        value: impl std::fmt::Debug,
        advice: impl Into<String>,
    ) -> Self {
        Self::Invalid {
            setting: setting.into(),
            value: format!("{value:?}"),
            advice: advice.into(),
        }
    }

    /// The same error for a setting of this table.
    pub(crate) fn under(self, table: &str) -> Self {
        match self {
            Self::Invalid {
                setting,
                value,
                advice,
            } => Self::Invalid {
                setting: format!("{table}.{setting}").into(),
                value,
                advice,
            },
            other => other,
        }
    }
}

pub(crate) fn check_duration(
    setting: &'static str,
    value: Duration,
    shortest: Duration,
    longest: Duration,
) -> Result<(), ConfigError> {
    if (shortest..=longest).contains(&value) {
        return Ok(());
    }
    Err(bad_duration(setting, value, shortest, longest))
}

/// The error for a duration beyond these limits.
pub(crate) fn bad_duration(
    setting: &'static str,
    value: Duration,
    shortest: Duration,
    longest: Duration,
) -> ConfigError {
    ConfigError::Invalid {
        setting: setting.into(),
        value: duration::text(value),
        advice: duration::advice(shortest, longest),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::error::store::StoreError;

    #[test]
    fn debug_shows_the_message_and_its_causes() {
        let connect = |advice: &str, source: StoreError| ConfigError::Connect {
            address: "h:6379".to_owned(),
            advice: advice.to_owned(),
            source: Arc::new(source),
        };
        let reset = StoreError::unavailable("reset by peer");
        let wrapped = StoreError::unavailable("handshake failed").with_source(reset);
        let cause = StoreError::unavailable("handshake failed").with_source(wrapped);
        for (error, expected) in [
            (
                ConfigError::invalid("max_size", 0, "write a number"),
                "max_size = 0: write a number",
            ),
            (
                ConfigError::NoRuntime,
                "not in a tokio runtime: create the store inside of one, such as in `#[tokio::main]`",
            ),
            (
                connect("start the server", cause),
                "cannot use the session store at h:6379: start the server; caused by: handshake failed; caused by: reset by peer",
            ),
            (
                connect("NOAUTH: write a password", StoreError::refused("NOAUTH")),
                "cannot use the session store at h:6379: NOAUTH: write a password",
            ),
        ] {
            // `fn main() -> Result<(), Box<dyn Error>>` prints this.
            let returned: Box<dyn Error> = Box::new(error);
            assert_eq!(format!("{returned:?}"), expected);
            assert_eq!(format!("{returned:#?}"), expected);
        }
    }
}
