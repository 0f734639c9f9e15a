//! CSRF tokens of a session.

use crate::error::session::{CsrfFailure, SessionError};
use crate::record::change::Change;
use crate::record::csrf::CsrfKey;
use crate::record::version::Epoch;
use crate::session::Session;
use crate::session::state::backing::Backing;

/// Tokens against cross-site request forgery.
impl Session {
    /// A token that a page of this session sends back with its requests, which shows that they came from a page of this site:
    /// in a hidden field of a form, or in a header that a script sets.
    ///
    /// [`CsrfLayer`](crate::CsrfLayer) protects requests of today's browsers without a token. Use tokens for sign-in forms and
    /// wherever a second check matters, and check them by [`verify_csrf`](Self::verify_csrf).
    ///
    /// A token is valid until the session is rotated or ends: a login, a sign-out or `cycle_id` ends it, so that nobody can prepare
    /// a token for another user. Ask for it after such calls of the same handler; it is then that of the session as it will be
    /// after the commit. A login that *joins* another one (see [`set_principal`](Self::set_principal)) may void a token that
    /// its own response shows; redirect after a login. Each call returns another text, and all of them are valid, so that
    /// compressed pages do not leak the token (BREACH).
    ///
    /// If the session is not stored yet, this call stores it and sets its cookie, since a token without a session protects nothing.
    /// So ask only where a page has a form: crawlers would create sessions everywhere else. If the request fails, the session is
    /// not stored.
    ///
    /// The response becomes `Cache-Control: no-store`, unless it says `private`: a cache must not serve one visitor's token to
    /// another.
    ///
    /// # Redis
    ///
    /// None for a stored session. A new one is created by the commit after the handler.
    ///
    /// # Errors
    ///
    /// - [`SessionError::Gone`], [`SessionError::Denied`], [`SessionError::Store`]: the session was rotated by another request, cannot
    ///   be read, or must not be used by this request.
    /// - [`SessionError::ResponseSent`]: the session is new, and its cookie can no longer be sent.
    #[doc(alias("authenticity_token", "get_token", "form_authenticity_token", "xsrf"))]
    pub fn csrf_token(&self) -> Result<String, SessionError> {
        let epoch = match self.csrf_epoch()? {
            Some(epoch) => epoch,
            None => {
                let epoch = Epoch::random();
                self.change(Change::Create(epoch))?;
                epoch
            }
        };
        self.shared().state().shows_csrf_token = true;
        Ok(self.csrf_key(epoch).token())
    }

    /// Checks a token that the request has sent back. Call it before any call that rotates the session, since that ends the tokens
    /// of the pages before.
    ///
    /// The comparison takes the same time whatever the token is. A wrong one is reported by
    /// [`Event::CsrfRefused`](crate::Event::CsrfRefused).
    ///
    /// # Redis
    ///
    /// None.
    ///
    /// # Errors
    ///
    /// - [`SessionError::Csrf`]: the text is empty, or is not a token of this session since its last rotation. The response is 403.
    /// - [`SessionError::Gone`], [`SessionError::Denied`], [`SessionError::Store`]: as for [`csrf_token`](Self::csrf_token).
    #[doc(alias("check_csrf", "valid_authenticity_token"))]
    pub fn verify_csrf(&self, token: &str) -> Result<(), SessionError> {
        let failure = match self.readable_epoch()? {
            _ if token.is_empty() => CsrfFailure::MissingToken,
            Some(epoch) if self.accepts(epoch, token) => return Ok(()),
            _ => CsrfFailure::WrongToken,
        };
        let error = SessionError::Csrf(failure);
        self.shared().report(&error);
        Err(error)
    }

    /// The epoch that the session will have after the commit; `None` if it is not stored and nothing has set one yet.
    fn csrf_epoch(&self) -> Result<Option<Epoch>, SessionError> {
        let context = self.shared().context.clone();
        {
            let state = self.shared().state();
            // A login that joins another one keeps the epoch of that one.
            if let Backing::Denied { .. } = &state.backing
                && let Some(who) = state.log.login()
                && let Some(base) = state.joined_by(who, &context)
            {
                return Ok(Some(base.record.epoch));
            }
            let is_new = matches!(state.backing, Backing::New);
            if is_new && state.phase.is_head_sent() {
                return Err(SessionError::ResponseSent);
            }
        }
        self.readable_epoch()
    }

    fn readable_epoch(&self) -> Result<Option<Epoch>, SessionError> {
        let state = self.shared().state();
        match &state.backing {
            Backing::Denied { why, .. } => Err(why.clone()),
            Backing::New | Backing::Loaded(_) => {
                Ok(Some(state.view.epoch).filter(|epoch| *epoch != Epoch::none()))
            }
        }
    }

    fn csrf_key(&self, epoch: Epoch) -> CsrfKey {
        let context = &self.shared().context;
        let namespace = context.backend.store.namespace();
        CsrfKey::new(namespace, &context.policy.config.secret_name(), epoch)
    }

    /// Whether the token is one of this epoch, also if it was made while the cookie had a former name.
    fn accepts(&self, epoch: Epoch, token: &str) -> bool {
        let context = &self.shared().context;
        let namespace = context.backend.store.namespace();
        let former = context.policy.config.former_secret_names().iter();
        let mut former = former.map(|name| CsrfKey::new(namespace, name, epoch));
        self.csrf_key(epoch).accepts(token) || former.any(|key| key.accepts(token))
    }
}
