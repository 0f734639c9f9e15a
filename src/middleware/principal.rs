//! The user who is signed in, as an argument of handlers that need one.

use std::fmt;
use std::ops::Deref;

use http::Extensions;
use http::request::Parts;

use crate::error::session::SessionError;
use crate::session::Session;

/// The *principal* of the session: the user who is signed in, by the name or id that
/// [`set_principal`](crate::Session::set_principal) was given.
///
/// Take it as an argument of a handler that needs a user. If nobody is signed in, the handler does not run and the response is 401;
/// `Option<Principal>` is `None` then. To send visitors to the sign-in page instead, use
/// [`RequirePrincipal`](crate::RequirePrincipal).
///
/// ```
/// # use axum::{Router, routing::get};
/// # use sessile::{MemoryStore, Principal, SessionLayer};
/// async fn account(principal: Principal) -> String {
///     format!("Hello, {principal}")
/// }
///
/// let app: Router = Router::new()
///     .route("/account", get(account))
///     .layer(SessionLayer::new(MemoryStore::new()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[doc(alias("AuthSession", "current_user", "user", "Identity"))]
pub struct Principal(String);

impl Principal {
    /// Returns the principal of a request, for tower services and middleware; handlers take it as an argument.
    ///
    /// # Redis
    ///
    /// The commands of [`Session::from_parts`].
    ///
    /// # Errors
    ///
    /// Those of [`Session::from_parts`] and of [`Session::require_principal`].
    pub async fn from_parts(parts: &Parts) -> Result<Self, SessionError> {
        Self::from_extensions(&parts.extensions).await
    }

    /// Returns the principal of the request that has these extensions, for tower services and middleware that keep the request whole.
    ///
    /// # Redis
    ///
    /// The commands of [`Session::from_parts`].
    ///
    /// # Errors
    ///
    /// Those of [`from_parts`](Self::from_parts).
    pub async fn from_extensions(extensions: &Extensions) -> Result<Self, SessionError> {
        let session = Session::from_extensions(extensions).await?;
        session.require_principal().map(Self)
    }

    /// The name or id.
    pub fn into_inner(self) -> String {
        self.0
    }
}

impl Deref for Principal {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Principal {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
