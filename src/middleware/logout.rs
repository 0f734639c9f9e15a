//! A logout that works although the store is away.

use std::fmt;
use std::sync::Arc;

use http::Extensions;
use http::request::Parts;

use crate::error::session::SessionError;
use crate::middleware::slot::{SessionSlot, SessionSlots};

/// Ends the session of a request, without loading it: a logout that works although the store is away.
///
/// Take it as an argument of the handler that signs out, in place of a [`Session`](crate::Session), which cannot be had while
/// the store is away:
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
/// With [`Concurrency::Exclusive`](crate::Concurrency::Exclusive) and [`Load::Inbound`](crate::Load::Inbound) a request whose
/// session cannot be loaded does not reach its handler: give the route a layer of its own without them.
#[derive(Clone)]
#[doc(alias("signout", "sign_out", "log_out"))]
pub struct Logout(Arc<SessionSlot>);

impl Logout {
    /// The logout of a request, for tower services and middleware; handlers take it as an argument. Nothing is asked of the
    /// store.
    ///
    /// # Errors
    ///
    /// [`SessionError::MissingLayer`]: there is no layer around this service.
    pub fn from_parts(parts: &Parts) -> Result<Self, SessionError> {
        Self::from_extensions(&parts.extensions)
    }

    /// The logout of the request that has these extensions, for tower services and middleware that keep the request whole. The
    /// store is not asked.
    ///
    /// # Errors
    ///
    /// As [`from_parts`](Self::from_parts).
    pub fn from_extensions(extensions: &Extensions) -> Result<Self, SessionError> {
        SessionSlots::of(extensions).map(Self)
    }

    /// Ends the session, as [`Session::destroy`](crate::Session::destroy) does, whether or not it has been loaded. For a
    /// request without a session cookie nothing is done.
    ///
    /// The response takes the cookie away in any case. It is the handler's once the session is deleted, and 503 if that could
    /// not be done within the request's budget. Then it is tried again in the background for about five minutes. If that fails, it is an
    /// [`Event::DestroyFailed`](crate::Event::DestroyFailed); so it is for the oldest if more than 1024 logouts of sessions
    /// that could not be loaded wait for the store.
    ///
    /// Only a session of which the cookie holds the secret is deleted, or held it until a moment ago. If what is stored was
    /// written by a later version of sessile and cannot be read, it stays, and the response is 409.
    ///
    /// # Redis
    ///
    /// A session that has been loaded: one `UNLINK` after the handler, one round trip. Otherwise one `GET` and one `PTTL`
    /// before it, in one round trip.
    pub fn end_session(&self) {
        self.0.end_session();
    }
}

impl fmt::Debug for Logout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logout").finish_non_exhaustive()
    }
}
