//! Flash messages: said once, on the next page.
//!
//! A flash waits in the session until a request takes it. Taking is committed at once, so that of two tabs that load at
//! the same time one shows it; and two requests that add one at the same time add two.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::record::json::Json;
use crate::record::kept::Kept;

/// How many flashes wait in a session at most. Beyond that nobody reads them.
pub(crate) const MAX_WAITING: usize = 64;

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
    /// A message, as a template is given in a test; [`Session::flash`](crate::Session::flash) leaves one for the next page.
    pub fn new(level: Level, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { level, text }
    }
}

/// Reads a flash that any version may have written: a level that is not known here is shown as [`Level::Info`].
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

/// Adds a flash to those that wait; the oldest makes room.
pub(crate) fn add(waiting: &mut Vec<Kept<Flash>>, flash: &Kept<Flash>) {
    waiting.push(flash.clone());
    let surplus = waiting.len().saturating_sub(MAX_WAITING);
    waiting.drain(..surplus);
}

/// Takes the flashes that can be shown; those that only a later version can read wait for it.
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
    fn the_oldest_makes_room() {
        let mut waiting = Vec::new();
        for number in 0..=MAX_WAITING {
            let flash = Flash::new(Level::Info, number.to_string());
            add(&mut waiting, &Kept::new(flash));
        }
        let oldest = waiting[0].known().unwrap();
        assert_eq!((waiting.len(), oldest.text.as_str()), (MAX_WAITING, "1"));
    }
}
