//! Principals: login, logout and rotation.

use std::time::{Duration, SystemTime};

use crate::error::session::{LimitedPart, SessionError};
use crate::record::change::{Change, Rotation};
use crate::record::lifetime::is_fresh;
use crate::record::version::Epoch;
use crate::session::Session;
use crate::session::sessions::SignIn;
use crate::session::state::backing::Backing;
use crate::time::to_time;
use crate::token::Secret;

/// The principal whom the session belongs to.
impl Session {
    /// Rotates the session: gives it a new token, and the old one stops working with the commit. The handle and the data
    /// stay. Call it whenever privileges change; [`set_principal`](Self::set_principal) rotates by itself.
    ///
    /// Changes of requests that were loaded before the rotation are rejected with 409. A session that is not stored yet gets
    /// a fresh token anyway.
    ///
    /// # Errors
    ///
    /// - [`SessionError::ResponseSent`]: the response has been sent, so its cookie can no longer change.
    /// - [`SessionError::Gone`]: the session was rotated by another request, or cannot be read.
    /// - [`SessionError::Denied`]: this request may not use the session.
    /// - [`SessionError::Store`]: the session could not be loaded.
    #[doc(alias("regenerate", "renew", "rotate", "migrate"))]
    pub fn cycle_id(&self) -> Result<(), SessionError> {
        self.shared().state().refuses_join = true;
        match self.may_rotate()? {
            true => self.change(Change::Rotate(self.rotation())),
            false => Ok(()),
        }
    }

    /// Ends the session: a logout. This drops the changes that the request has made so far. Later changes go into a new
    /// session with a new token, which is created once the deletion has succeeded.
    ///
    /// The session is deleted even if the handler is dropped, panics or fails. If the store fails, the response becomes 503 and
    /// still removes the cookie, and the deletion is retried in the background. The same holds for a session that could not be
    /// loaded ([`OnStoreError::Anonymous`](crate::OnStoreError::Anonymous)). A handler that must run even while the store is
    /// down takes [`Logout`](crate::Logout) instead of a session.
    ///
    /// If the browser sends several cookies of the session cookie's name, every session that one of them opens ends, and the
    /// response removes these cookies wherever they may be set.
    ///
    /// # Redis
    ///
    /// One `UNLINK` after the handler, one round trip; after the response, in the background. If the session could not be
    /// loaded, one `GET` and one `PTTL` come first. If a principal was signed in, one `EVALSHA` follows in the background, which
    /// removes the session from the index.
    #[doc(alias("invalidate", "flush", "purge", "logout", "clear_session"))]
    pub fn destroy(&self) {
        let apply_context = self.shared().context.apply_context();
        let revocations = {
            let mut state = self.shared().state();
            state.destroy(&apply_context);
            // No response follows whose commit would delete them.
            if state.phase.is_head_sent() {
                state.ending.take_pending()
            } else {
                Vec::new()
            }
        };
        self.shared().delete_later(revocations);
    }

    /// Signs in a principal, whom the session belongs to from now on. Rotates the session, as [`cycle_id`](Self::cycle_id), and
    /// restarts its absolute timeout. The data of an anonymous visitor stays; that of another principal is dropped. If the
    /// handler fails afterwards, nobody is signed in.
    ///
    /// A login that meets the same login, after a double click or a retry whose first answer was lost, joins it. It does so if
    /// the other login is of the same principal and has replaced this request's token, and nothing else was written since. The
    /// session then has a second token beside the first, three at most. Each response sets its own; all of them work until the
    /// next rotation or `destroy`. The changes of the joining request are replayed on the session that the first login has
    /// left; if the request came with the replaced token, it sees an empty session until its commit.
    ///
    /// Otherwise the login is rejected with 409, like any other change of a request that began before a rotation: for another
    /// principal, after `cycle_id`, `clear_principal` or `destroy` in the same request, and under
    /// [`Concurrency::Reject`](crate::Concurrency::Reject) if both logins run at once.
    ///
    /// # Sessions of the same principal
    ///
    /// The store lists the sessions of each principal; [`Sessions`](crate::Sessions) shows and ends them. If all of them are ended
    /// while this request runs, by [`destroy_all`](crate::Sessions::destroy_all) or
    /// [`destroy_others`](crate::Sessions::destroy_others), the login is refused: it may have checked the password that was
    /// changed. So is one that begins within the uncertainty of the clocks after that: less than a second on one server, some
    /// seconds on a cluster or with sentinels. To decide it exactly, and to sign in within a request that has ended all sessions, pass the
    /// [`SignIn`](crate::SignIn) that [`Sessions::sign_in`](crate::Sessions::sign_in) returns instead of a name.
    ///
    /// The call is async so that it may talk to the store in a later version; today it does not.
    ///
    /// # Redis
    ///
    /// None; the login is part of the commit after the handler, to which it adds two round trips: one `EVALSHA` before the commit,
    /// and one after it. [`MaxSessions`](crate::MaxSessions) adds more if the principal has as many sessions as it allows.
    ///
    /// # Errors
    ///
    /// - [`SessionError::TooLarge`]: the name is longer than `max_size`.
    /// - Those of [`cycle_id`](Self::cycle_id).
    ///
    /// The commit adds [`SessionError::SignInRefused`].
    #[doc(alias("login", "log_in", "authenticate"))]
    pub async fn set_principal(&self, who: impl Into<SignIn>) -> Result<(), SessionError> {
        let SignIn { who, guard } = who.into();
        if !self.may_join(&who) {
            self.may_rotate()?;
        }
        self.check_size(LimitedPart::Principal, who.len())?;
        self.change(Change::SetPrincipal {
            who: who.into(),
            rotation: self.rotation(),
            guard,
        })
    }

    /// Signs the principal out and rotates the session, which is then anonymous. Its data stays for this visitor and for the
    /// same principal; another principal who signs in later does not get it. To drop everything, use
    /// [`destroy`](Self::destroy).
    ///
    /// # Errors
    ///
    /// Those of [`cycle_id`](Self::cycle_id).
    pub fn clear_principal(&self) -> Result<(), SessionError> {
        self.shared().state().refuses_join = true;
        self.may_rotate()?;
        let is_anonymous = self.shared().state().is_certainly_anonymous();
        match is_anonymous {
            true => Ok(()),
            false => self.change(Change::ClearPrincipal(self.rotation())),
        }
    }

    /// The principal that is signed in; `None` for an anonymous visitor.
    #[doc(alias("user_id", "user"))]
    pub fn principal(&self) -> Option<String> {
        let mut state = self.shared().state();
        state.reads.note(|seen| seen.principal = true);
        state.view.principal.as_deref().map(str::to_owned)
    }

    /// The principal, or an error if nobody is signed in: for handlers that need a user.
    ///
    /// The extractor [`Principal`](crate::Principal) and the layer [`RequirePrincipal`](crate::RequirePrincipal) call it.
    ///
    /// # Errors
    ///
    /// - [`SessionError::NotSignedIn`]: the session is anonymous, or is hidden since it belongs to another network
    ///   ([`Fingerprinting::Strict`](crate::Fingerprinting::Strict)). The response is 401.
    /// - [`SessionError::Store`]: the session could not be loaded ([`OnStoreError::Anonymous`](crate::OnStoreError::Anonymous)), so
    ///   that nobody knows who is signed in.
    /// - [`SessionError::Gone`]: another request has rotated the session a moment ago, or it cannot be read. If that was a login, the
    ///   browser has, or will get, the new cookie.
    pub fn require_principal(&self) -> Result<String, SessionError> {
        if let Some(principal) = self.principal() {
            return Ok(principal);
        }
        match &self.shared().state().backing {
            Backing::Denied {
                why: why @ (SessionError::Store(_) | SessionError::Gone(_)),
                ..
            } => Err(why.clone()),
            Backing::New | Backing::Loaded(_) | Backing::Denied { .. } => {
                Err(SessionError::NotSignedIn)
            }
        }
    }

    /// When the principal signed in, by the store's clock: at the last [`set_principal`](Self::set_principal), also if the same
    /// principal was signed in before. `None` for an anonymous visitor. Neither a rotation nor a new timeout changes it.
    #[doc(alias("auth_time", "signed_in_at", "last_login"))]
    pub fn authenticated_at(&self) -> Option<SystemTime> {
        let mut state = self.shared().state();
        state.reads.note(|seen| seen.principal = true);
        let view = &state.view;
        view.principal.is_some().then(|| to_time(view.started))
    }

    /// Requires that the principal has signed in within this time, for a page that needs a recent password, such as a change
    /// of the password or the mail address (OWASP Authentication Cheat Sheet, "Require Re-authentication for Sensitive
    /// Features").
    ///
    /// If it fails, ask for the password, and call [`set_principal`](Self::set_principal) with the same principal once it is
    /// right: the login is then fresh, the data stays, and the session is rotated.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use axum::response::{IntoResponse, Redirect, Response};
    /// # use sessile::{Session, SessionError};
    /// async fn change_password(session: Session) -> Result<Response, SessionError> {
    ///     match session.require_fresh(Duration::from_secs(10 * 60)) {
    ///         Err(SessionError::StaleLogin { .. }) => return Ok(Redirect::to("/confirm-password").into_response()),
    ///         fresh => fresh?,
    ///     }
    ///     // …
    /// #   Ok(().into_response())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// - [`SessionError::StaleLogin`]: the login is older, or nobody is signed in.
    /// - [`SessionError::Gone`], [`SessionError::Denied`], [`SessionError::Store`]: the session cannot be used, so it is not known
    ///   who is signed in.
    #[doc(alias("confirm_password", "sudo", "step_up", "reauthenticate"))]
    pub fn require_fresh(&self, max_age: Duration) -> Result<(), SessionError> {
        let now = self.shared().context.backend.now();
        let mut state = self.shared().state();
        if let Backing::Denied { why, .. } = &state.backing
            && state.view.principal.is_none()
        {
            return Err(why.clone());
        }
        state.reads.note(|seen| seen.principal = true);
        match is_fresh(&state.view, max_age, now) {
            true => Ok(()),
            false => Err(SessionError::StaleLogin { max_age }),
        }
    }

    /// Whether a login of this principal joins the login that has retired this request's token.
    fn may_join(&self, who: &str) -> bool {
        let context = self.shared().context.clone();
        let state = self.shared().state();
        !state.phase.is_head_sent() && state.joined_by(who, &context).is_some()
    }

    /// Whether there is a token to replace; an error if this request must not replace it.
    fn may_rotate(&self) -> Result<bool, SessionError> {
        let state = self.shared().state();
        match &state.backing {
            _ if state.phase.is_head_sent() => Err(SessionError::ResponseSent),
            Backing::Denied { why, .. } => Err(why.clone()),
            Backing::Loaded(_) => Ok(true),
            Backing::New => Ok(false),
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
