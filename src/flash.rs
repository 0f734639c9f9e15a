//! Flash messages: said once, on the next page.
//!
//! A flash waits in the session until a request takes it. Taking is committed at once, so that of two tabs that load at
//! the same time one shows it; and two requests that add one at the same time add two.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How many flashes wait in a session at most. Beyond that nobody reads them.
pub(crate) const MOST: usize = 64;

/// What kind of message a flash is; shown as `success`, `info`, `warning` or `error`, for use as a CSS class.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// It has worked.
    Success,
    /// Good to know.
    Info,
    /// Something to look at.
    Warning,
    /// It has not worked.
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
/// The text is what the application wrote, perhaps with words of a user in it: escape it as everything else on the page.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Flash {
    /// What kind of message it is.
    pub level: Level,
    /// The message.
    pub text: String,
}

impl Flash {
    pub(crate) fn new(level: Level, text: String) -> Self {
        Self { level, text }
    }
}

/// Adds a flash to those that wait; the oldest makes room.
pub(crate) fn add(waiting: &mut Vec<Flash>, flash: &Flash) {
    waiting.push(flash.clone());
    let surplus = waiting.len().saturating_sub(MOST);
    waiting.drain(..surplus);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let mut waiting = Vec::new();
        for number in 0..=MOST {
            add(&mut waiting, &Flash::new(Level::Info, number.to_string()));
        }
        assert_eq!((waiting.len(), waiting[0].text.as_str()), (MOST, "1"));
    }
}
