//! What can be wrong with settings, and with the store that they name.

use std::time::Duration;

use crate::error::store::Cause;
use crate::time::duration;

/// A setting that cannot work, or a store that cannot be reached; the text says what to write instead.
#[non_exhaustive]
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConfigError {
    /// A setting has a value that cannot work.
    #[error("{setting} = {value}: {advice}")]
    Invalid {
        /// The setting, as it is written in a configuration file.
        setting: &'static str,
        /// Its value; passwords are left out.
        value: String,
        /// What to write instead.
        advice: String,
    },
    /// A store was made outside of a tokio runtime.
    #[error("no tokio runtime: make the store inside of one, such as in `#[tokio::main]`")]
    NoRuntime,
    /// The store was not reached.
    #[error("cannot use the session store at {address}: {advice}")]
    Connect {
        /// Host and port, or the path of the socket.
        address: String,
        /// What to look at.
        advice: String,
        /// What went wrong.
        source: Cause,
    },
}

impl ConfigError {
    pub(crate) fn invalid(
        setting: &'static str,
        value: impl std::fmt::Debug,
        advice: impl Into<String>,
    ) -> Self {
        Self::Invalid {
            setting,
            value: format!("{value:?}"),
            advice: advice.into(),
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

/// The refusal of a duration that should lie in these limits.
pub(crate) fn bad_duration(
    setting: &'static str,
    value: Duration,
    shortest: Duration,
    longest: Duration,
) -> ConfigError {
    ConfigError::Invalid {
        setting,
        value: duration::text(value),
        advice: duration::advice(shortest, longest),
    }
}
