//! Flash messages, which are shown once, on the next page.
//!
//! A flash waits in the session until a request takes it. sessile commits the taking at once, so that only one of two tabs that
//! load at the same time shows it. Two requests that each add one at the same time add two.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::record::json::Json;
use crate::record::kept::Kept;

/// How many flashes wait in a session at most. No user would read more.
pub(crate) const MAX_WAITING: usize = 64;

/// What kind of message a flash is; shown as `success`, `info`, `warning` or `error`, for use as a CSS class.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// An operation succeeded.
    Success,
    /// Useful information.
    Info,
    /// Something needs attention.
    Warning,
    /// An operation failed.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Success => "success",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// A message for the next page.
///
/// The text comes from the application and may contain user input: escape it like everything else on the page.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Flash {
    /// The kind of the message.
    pub level: Level,
    /// The text of the message.
    pub text: String,
}

impl Flash {
    /// Creates a message, for example to test a template; [`Session::flash`](crate::Session::flash) adds one to the session.
    pub fn new(level: Level, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { level, text }
    }
}

/// Reads a flash that any version of sessile may have written. An unknown level becomes [`Level::Info`].
pub(crate) fn read(json: &Json) -> Option<Flash> {
    #[derive(Deserialize)]
    struct Fields {
        level: Option<Box<RawValue>>,
        text: String,
    }

    let Fields { level, text } = json.decode().ok()?;
    let level = level.and_then(|level| serde_json::from_str(level.get()).ok());
    Some(Flash::new(level.unwrap_or(Level::Info), text))
}

/// Adds a flash; drops the oldest ones beyond [`MAX_WAITING`].
pub(crate) fn add(waiting: &mut Vec<Kept<Flash>>, flash: &Kept<Flash>) {
    waiting.push(flash.clone());
    let surplus = waiting.len().saturating_sub(MAX_WAITING);
    waiting.drain(..surplus);
}

/// Takes the flashes that this version of sessile can read; those of later versions stay.
pub(crate) fn take(waiting: &mut Vec<Kept<Flash>>) -> Vec<Kept<Flash>> {
    waiting
        .extract_if(.., |flash| flash.known().is_some())
        .collect()
}

pub(crate) fn known(flashes: &[Kept<Flash>]) -> impl Iterator<Item = Flash> {
    flashes.iter().filter_map(Kept::known).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_flash_is_dropped_beyond_the_limit() {
        let mut waiting = Vec::new();
        for number in 0..=MAX_WAITING {
            let flash = Flash::new(Level::Info, number.to_string());
            add(&mut waiting, &Kept::new(flash));
        }
        let oldest = waiting[0].known().unwrap();
        assert_eq!((waiting.len(), oldest.text.as_str()), (MAX_WAITING, "1"));
    }
}
