//! Who the session belongs to: rotation, login and logout.

use crate::error::session::{LimitedPart, SessionError};
use crate::record::change::{Change, Rotation};
use crate::record::version::Epoch;
use crate::session::Session;
use crate::session::state::backing::Standing;
use crate::token::Secret;

/// Who the session belongs to.
impl Session {
    /// Gives the session a new token; the old one is dead from the commit on. Do it whenever privileges change.
    /// [`set_principal`](Self::set_principal) does it by itself.
    ///
    /// What other requests, loaded before, still want to write is refused with 409. A session that is not stored yet
    /// gets a fresh token anyway.
    ///
    /// # Errors
    ///
    /// - [`SessionError::ResponseSent`]: it is too late to set a cookie.
    /// - [`SessionError::Gone`]: this request may not use the session.
    #[doc(alias("regenerate", "renew", "rotate", "migrate"))]
    pub fn cycle_id(&self) -> Result<(), SessionError> {
        self.shared().state().joins_none = true;
        match self.may_rotate()? {
            true => self.change(Change::Rotate(self.rotation())),
            false => Ok(()),
        }
    }

    /// Ends the session: a logout. What this request has changed so far is dropped; what it writes from here on goes into
    /// a fresh session with a new token, which is created once the deletion has succeeded.
    ///
    /// It is carried out even if the handler is dropped, panics or fails. If the store fails, the response becomes 503,
    /// takes the cookie away all the same, and the deletion is tried again in the background. So it is for a session that
    /// could not be loaded ([`OnStoreError::Anonymous`](crate::OnStoreError::Anonymous)). A handler that must run although
    /// the store is away takes [`Logout`](crate::Logout) instead of a session.
    ///
    /// If the browser has several cookies of the session cookie's name, every session that one of them opens is ended, and
    /// they are taken away wherever they may be.
    ///
    /// # Redis
    ///
    /// One `UNLINK` after the handler, one round trip; after the response, in the background. One `GET` and one `PTTL` before
    /// it if the session could not be loaded.
    #[doc(alias("invalidate", "flush", "purge", "logout", "clear_session"))]
    pub fn destroy(&self) {
        let circumstances = self.shared().context.circumstances();
        let late = {
            let mut state = self.shared().state();
            state.destroy(&circumstances);
            // No response comes that would do it.
            if state.phase.is_head_sent() {
                state.ending.take_pending()
            } else {
                Vec::new()
            }
        };
        self.shared().delete_later(late);
    }

    /// Says who the session belongs to from here on: a login. Gives it a new token ([`cycle_id`](Self::cycle_id)) and
    /// restarts its absolute timeout. An anonymous visitor's data is kept; that of another principal is dropped.
    ///
    /// A login that meets its own login, by a double click or since it is tried again after its answer was lost, joins it: if
    /// the other has the same name and has replaced this request's token, and nothing else was written since, the session
    /// gets a second token beside the first, three at most. Each response brings its own, both work, and the next rotation
    /// or `destroy` ends them all. This request's changes are done to the session as the first login has left it; if it came
    /// with the replaced token, it sees an empty one until it is committed. After `cycle_id`, `clear_principal` or `destroy` in
    /// the same request, under [`Concurrency::Reject`](crate::Concurrency::Reject) if both are under way at once, or by another
    /// name, it is refused with 409 as any other write.
    ///
    /// If the handler then fails, the login does not happen. It is async so that it may talk to the store one day; today it
    /// does not.
    ///
    /// # Redis
    ///
    /// None now; part of the commit after the handler.
    ///
    /// # Errors
    ///
    /// - [`SessionError::TooLarge`]: the name is longer than `max_size`.
    /// - Those of [`cycle_id`](Self::cycle_id).
    #[doc(alias("login", "log_in", "authenticate"))]
    pub async fn set_principal(&self, who: impl Into<String>) -> Result<(), SessionError> {
        let who = who.into();
        if !self.may_join(&who) {
            self.may_rotate()?;
        }
        self.check_size(LimitedPart::Principal, who.len())?;
        self.change(Change::SetPrincipal {
            who,
            rotation: self.rotation(),
        })
    }

    /// Makes the session anonymous and gives it a new token. Its data stays, for this visitor or for the same principal;
    /// another principal who signs in later does not get it. To drop everything, use [`destroy`](Self::destroy).
    ///
    /// # Errors
    ///
    /// Those of [`cycle_id`](Self::cycle_id).
    pub fn clear_principal(&self) -> Result<(), SessionError> {
        self.shared().state().joins_none = true;
        self.may_rotate()?;
        let nobodys = self.shared().state().is_nobodys();
        match nobodys {
            true => Ok(()),
            false => self.change(Change::ClearPrincipal(self.rotation())),
        }
    }

    /// Who the session belongs to; `None` for an anonymous visitor.
    #[doc(alias("user_id", "user"))]
    pub fn principal(&self) -> Option<String> {
        let mut state = self.shared().state();
        state.reads.note(|seen| seen.principal = true);
        state.view.principal.clone()
    }

    /// Whether to sign in is to join the login that has retired this request's token.
    fn may_join(&self, who: &str) -> bool {
        let terms = self.shared().context.clone();
        let state = self.shared().state();
        !state.phase.is_head_sent() && state.joined_by(who, &terms).is_some()
    }

    /// Whether there is a token to replace; an error if it cannot be.
    fn may_rotate(&self) -> Result<bool, SessionError> {
        let state = self.shared().state();
        match &state.standing {
            _ if state.phase.is_head_sent() => Err(SessionError::ResponseSent),
            Standing::Barred { why, .. } => Err(why.clone()),
            Standing::Stored(_) => Ok(true),
            Standing::New => Ok(false),
        }
    }

    fn rotation(&self) -> Rotation {
        let secret = Secret::random();
        let hash = self.shared().context.hash(&secret);
        Rotation {
            secret,
            hash,
            epoch: Epoch::random(),
        }
    }
}
