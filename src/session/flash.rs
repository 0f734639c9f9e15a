//! Flash messages: the calls that leave a message for the next page, and those that take or show them.

use crate::error::session::{LimitedPart, SessionError};
use crate::record::change::Change;
use crate::record::deferred::Deferred;
use crate::record::flash::{Flash, Level, known};
use crate::record::kept::Kept;
use crate::session::Session;

/// Messages for the next page.
impl Session {
    /// Leaves a message for the next page: the first request that calls [`take_flashes`](Self::take_flashes) gets it.
    ///
    /// At most 64 messages wait; one more replaces the oldest.
    ///
    /// # Errors
    ///
    /// [`SessionError::TooLarge`]: the message is larger than `max_size`.
    #[doc(alias("flash_message", "add_flash"))]
    pub fn flash(&self, level: Level, text: impl Into<String>) -> Result<(), SessionError> {
        self.add_flash(Kept::new(Flash::new(level, text.into())))
    }

    fn add_flash(&self, flash: Kept<Flash>) -> Result<(), SessionError> {
        self.check_size(LimitedPart::Value, flash.len())?;
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

    /// Adds a message to this page: [`take_flashes`](Self::take_flashes) returns it later in this request, and nothing is
    /// stored.
    pub fn flash_now(&self, level: Level, text: impl Into<String>) {
        let flash = Flash::new(level, text.into());
        self.shared().state().flash_now.push(flash);
    }

    /// Takes the waiting messages, to show them. Each message goes to one request only, across all tabs and nodes. Commits
    /// everything this request has changed so far.
    ///
    /// Requests whose response no user sees get no messages and leave them waiting: `HEAD`, and pages that the browser
    /// prefetches (`Sec-Purpose: prefetch`).
    ///
    /// # Redis
    ///
    /// None if no message waited when the session was loaded; otherwise the same as [`save`](Self::save).
    ///
    /// # Errors
    ///
    /// Those of [`save`](Self::save). Unless the error is `OutcomeUnknown`, the messages still wait.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the messages may be removed although no page has shown them.
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
                state.reads.note(|seen| seen.flashes = true);
            }
            waits
        };
        if waits {
            let deferred = Deferred::new();
            self.change(Change::TakeFlashes {
                deferred: deferred.clone(),
            })?;
            flashes = self.commit_for(&deferred).await?.unwrap_or_default();
        }
        let mut state = self.shared().state();
        flashes.extend(state.flash_now.drain(..).map(Kept::new));
        state.flashes_taken.extend_from_slice(&flashes);
        Ok(known(&flashes).collect())
    }

    /// The waiting messages, without taking them; another request may show them.
    pub fn peek_flashes(&self) -> Vec<Flash> {
        let mut state = self.shared().state();
        state.reads.note(|seen| seen.flashes = true);
        let for_this_page = state.flash_now.iter().cloned();
        known(&state.view.flash).chain(for_this_page).collect()
    }

    /// Puts the messages that this request has taken back, for the next page, including those of
    /// [`flash_now`](Self::flash_now). After a [`destroy`](Self::destroy) or the login of another principal it leaves none,
    /// since they were for another user.
    ///
    /// # Errors
    ///
    /// Those of [`flash`](Self::flash).
    #[doc(alias = "reflash")]
    pub fn keep_flashes(&self) -> Result<(), SessionError> {
        let taken = std::mem::take(&mut self.shared().state().flashes_taken);
        for (index, flash) in taken.iter().enumerate() {
            if let Err(error) = self.add_flash(flash.clone()) {
                self.shared()
                    .state()
                    .flashes_taken
                    .extend_from_slice(&taken[index..]);
                return Err(error);
            }
        }
        Ok(())
    }
}
