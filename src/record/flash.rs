//! Flash messages: said once, on the next page.
//!
//! A flash waits in the session until a request takes it. Taking is committed at once, so that of two tabs that load at
//! the same time one shows it; and two requests that add one at the same time add two.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::session::SessionError;
use crate::record::answer::Answer;
use crate::record::change::Change;
use crate::record::json::Json;
use crate::record::kept::Kept;
use crate::session::Session;

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
    /// A message, as a template is given in a test; [`Session::flash`] leaves one for the next page.
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
    let surplus = waiting.len().saturating_sub(MOST);
    waiting.drain(..surplus);
}

/// Takes the flashes that can be shown; those that only a later version can read wait for it.
pub(crate) fn take(waiting: &mut Vec<Kept<Flash>>) -> Vec<Kept<Flash>> {
    waiting
        .extract_if(.., |flash| flash.known().is_some())
        .collect()
}

fn known(flashes: &[Kept<Flash>]) -> impl Iterator<Item = Flash> {
    flashes.iter().filter_map(Kept::known).cloned()
}

/// Messages for the next page.
impl Session {
    /// Leaves a message for the next page: whichever request first calls [`take_flashes`](Self::take_flashes).
    ///
    /// 64 wait at most: one more takes the place of the oldest.
    ///
    /// # Errors
    ///
    /// [`SessionError::TooLarge`]: it takes more than `max_size`.
    #[doc(alias("flash_message", "add_flash"))]
    pub fn flash(&self, level: Level, text: impl Into<String>) -> Result<(), SessionError> {
        self.add_flash(Kept::new(Flash::new(level, text.into())))
    }

    fn add_flash(&self, flash: Kept<Flash>) -> Result<(), SessionError> {
        self.check_size("value", flash.len())?;
        self.change(Change::AddFlash(flash))
    }

    /// [`flash`](Self::flash) with [`Level::Success`].
    ///
    /// # Errors
    ///
    /// Those of [`flash`](Self::flash).
    pub fn flash_success(&self, text: impl Into<String>) -> Result<(), SessionError> {
        self.flash(Level::Success, text)
    }

    /// [`flash`](Self::flash) with [`Level::Info`].
    ///
    /// # Errors
    ///
    /// Those of [`flash`](Self::flash).
    pub fn flash_info(&self, text: impl Into<String>) -> Result<(), SessionError> {
        self.flash(Level::Info, text)
    }

    /// [`flash`](Self::flash) with [`Level::Warning`].
    ///
    /// # Errors
    ///
    /// Those of [`flash`](Self::flash).
    pub fn flash_warning(&self, text: impl Into<String>) -> Result<(), SessionError> {
        self.flash(Level::Warning, text)
    }

    /// [`flash`](Self::flash) with [`Level::Error`].
    ///
    /// # Errors
    ///
    /// Those of [`flash`](Self::flash).
    pub fn flash_error(&self, text: impl Into<String>) -> Result<(), SessionError> {
        self.flash(Level::Error, text)
    }

    /// Leaves a message for this very page: [`take_flashes`](Self::take_flashes) returns it later in this request, and
    /// nothing is stored.
    pub fn flash_now(&self, level: Level, text: impl Into<String>) {
        let flash = Flash::new(level, text.into());
        self.shared().state().flash_now.push(flash);
    }

    /// Takes the messages that wait, to show them. Each is returned to one request only, over all tabs and nodes. Commits
    /// everything this request has changed so far.
    ///
    /// Requests that show nothing get none and leave them waiting: `HEAD`, and pages that the browser loads in advance
    /// (`Sec-Purpose: prefetch`).
    ///
    /// # Redis
    ///
    /// None if no message waited when the session was loaded; otherwise as [`save`](Self::save).
    ///
    /// # Errors
    ///
    /// Those of [`save`](Self::save). Unless it is `OutcomeUnknown`, the messages still wait.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the messages may be gone and nobody has shown them.
    #[doc(alias("get_flashes", "consume_flashes", "flash_messages"))]
    pub async fn take_flashes(&self) -> Result<Vec<Flash>, SessionError> {
        if !self.shared().shows_flashes {
            return Ok(Vec::new());
        }
        let mut flashes = Vec::new();
        let waits = {
            let mut state = self.shared().state();
            let waits = known(&state.view.flash).next().is_some();
            if !waits {
                state.note_seen(|seen| seen.flashes = true);
            }
            waits
        };
        if waits {
            let answer = Answer::new();
            self.change(Change::TakeFlashes {
                answer: answer.clone(),
            })?;
            flashes = self.settle_for(&answer).await?.unwrap_or_default();
        }
        let mut state = self.shared().state();
        flashes.extend(state.flash_now.drain(..).map(Kept::new));
        state.flashes_taken.extend_from_slice(&flashes);
        Ok(known(&flashes).collect())
    }

    /// The messages that wait, without taking them; another request may show them.
    pub fn peek_flashes(&self) -> Vec<Flash> {
        let mut state = self.shared().state();
        state.note_seen(|seen| seen.flashes = true);
        let for_this_page = state.flash_now.iter().cloned();
        known(&state.view.flash).chain(for_this_page).collect()
    }

    /// Leaves the messages that this request has taken for the next page after all, also those of
    /// [`flash_now`](Self::flash_now). After a [`destroy`](Self::destroy) or the login of another principal there are none: they
    /// were for somebody else.
    ///
    /// # Errors
    ///
    /// Those of [`flash`](Self::flash).
    #[doc(alias = "reflash")]
    pub fn keep_flashes(&self) -> Result<(), SessionError> {
        let taken = std::mem::take(&mut self.shared().state().flashes_taken);
        for (kept, flash) in taken.iter().enumerate() {
            if let Err(error) = self.add_flash(flash.clone()) {
                self.shared()
                    .state()
                    .flashes_taken
                    .extend_from_slice(&taken[kept..]);
                return Err(error);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let mut waiting = Vec::new();
        for number in 0..=MOST {
            let flash = Flash::new(Level::Info, number.to_string());
            add(&mut waiting, &Kept::new(flash));
        }
        let oldest = waiting[0].known().unwrap();
        assert_eq!((waiting.len(), oldest.text.as_str()), (MOST, "1"));
    }
}
