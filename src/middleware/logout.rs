//! A logout that works even if the store is unavailable.

use std::fmt;
use std::sync::Arc;

use http::Extensions;
use http::request::Parts;

use crate::error::session::SessionError;
use crate::middleware::slot::{SessionSlot, SessionSlots};

/// Ends the session of a request without loading it, so that users can sign out even if the store is unavailable.
///
/// Take it as an argument of the handler that signs out, in place of a [`Session`](crate::Session), which cannot be loaded while
/// the store is unavailable:
///
/// ```
/// # use axum::{Router, response::Redirect, routing::post};
/// # use sessile::{Logout, MemoryStore, SessionLayer};
/// async fn sign_out(logout: Logout) -> Redirect {
///     logout.end_session();
///     Redirect::to("/")
/// }
///
/// let app: Router = Router::new()
///     .route("/sign-out", post(sign_out))
///     .layer(SessionLayer::new(MemoryStore::new()));
/// ```
///
/// With [`Concurrency::Exclusive`](crate::Concurrency::Exclusive) and [`Load::Inbound`](crate::Load::Inbound), a request whose
/// session cannot be loaded does not reach its handler: give the route its own layer without these settings.
#[derive(Clone)]
#[doc(alias("signout", "sign_out", "log_out"))]
pub struct Logout(Arc<SessionSlot>);

impl Logout {
    /// Returns the logout of a request, for tower services and middleware; handlers take it as an argument. This sends nothing
    /// to the store.
    ///
    /// # Errors
    ///
    /// [`SessionError::MissingLayer`] if there is no layer around this service.
    pub fn from_parts(parts: &Parts) -> Result<Self, SessionError> {
        Self::from_extensions(&parts.extensions)
    }

    /// Returns the logout of the request that has these extensions, for tower services and middleware that keep the request
    /// whole. This sends nothing to the store.
    ///
    /// # Errors
    ///
    /// Those of [`from_parts`](Self::from_parts).
    pub fn from_extensions(extensions: &Extensions) -> Result<Self, SessionError> {
        SessionSlots::of(extensions).map(Self)
    }

    /// Ends the session, as [`Session::destroy`](crate::Session::destroy) does, whether or not it has been loaded. Does nothing
    /// if the request carries no token.
    ///
    /// The response removes the cookie in any case; a header has nothing to remove. Once the session is deleted, the handler's response is sent. If the session
    /// cannot be deleted within the request's budget, the response is 503, and sessile retries the deletion in the background for
    /// about five minutes. If the retries fail, sessile emits [`Event::DestroyFailed`](crate::Event::DestroyFailed). If more than
    /// 1024 logouts of sessions that could not be loaded are pending, sessile drops the oldest and emits the same event for it.
    ///
    /// sessile deletes a session only if the token holds its secret, or a secret that was replaced a moment ago. If a later
    /// version of sessile wrote the record, and this one cannot read it, the session stays and the response is 409.
    ///
    /// # Redis
    ///
    /// If the session has been loaded: one `UNLINK` after the handler, in one round trip. Otherwise also one `GET` and one `PTTL`
    /// before that, in one round trip.
    pub fn end_session(&self) {
        self.0.end_session();
    }
}

impl fmt::Debug for Logout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logout").finish_non_exhaustive()
    }
}
