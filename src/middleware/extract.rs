//! The session as an argument of axum handlers, its errors as responses.

use axum::body::Body;
use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Response};
use http::request::Parts;

use crate::error::session::SessionError;
use crate::middleware::logout::Logout;
use crate::record::transaction::TransactionError;
use crate::session::Session;
use crate::session::read_only::ReadSession;

/// Used as `session: Session`. Rejected with [`SessionError::MissingLayer`] if no layer is around the handler, and with
/// [`SessionError::Store`] if the session could not be loaded.
impl<S: Send + Sync> FromRequestParts<S> for Session {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Self::from_parts(parts).await
    }
}

/// Used as `session: Option<Session>` where the layer may be absent, which gives `None`. A store that fails stays an
/// error: nobody is anonymous because of an outage.
impl<S: Send + Sync> OptionalFromRequestParts<S> for Session {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        unless_absent(Self::from_parts(parts).await)
    }
}

/// Used as `session: ReadSession`; rejected as [`Session`] is.
impl<S: Send + Sync> FromRequestParts<S> for ReadSession {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Self::from_parts(parts).await
    }
}

/// Used as `session: Option<ReadSession>`, as [`Session`] is.
impl<S: Send + Sync> OptionalFromRequestParts<S> for ReadSession {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        unless_absent(Self::from_parts(parts).await)
    }
}

/// Used as `logout: Logout`. Rejected with [`SessionError::MissingLayer`] if no layer is around the handler, and for nothing
/// else.
impl<S: Send + Sync> FromRequestParts<S> for Logout {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Self::from_parts(parts)
    }
}

/// Used as `logout: Option<Logout>` where the layer may be absent, which gives `None`.
impl<S: Send + Sync> OptionalFromRequestParts<S> for Logout {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        unless_absent(Self::from_parts(parts))
    }
}

/// `None` only where there is no layer.
fn unless_absent<T>(found: Result<T, SessionError>) -> Result<Option<T>, SessionError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(SessionError::MissingLayer) => Ok(None),
        Err(error) => Err(error),
    }
}

impl<E: IntoResponse> IntoResponse for TransactionError<E> {
    fn into_response(self) -> Response {
        match self {
            Self::Aborted(error) => error.into_response(),
            Self::Session(error) => error.into_response(),
        }
    }
}

impl IntoResponse for SessionError {
    fn into_response(self) -> Response {
        // These have events of their own, and a store that is away makes as many as there are requests.
        let is_told = matches!(
            self,
            Self::Store(_) | Self::Busy { .. } | Self::OutcomeUnknown
        );
        if self.status().is_server_error() && !is_told {
            tracing::error!(target: "sessile", error = &self as &dyn std::error::Error, "a handler failed for its session");
        }
        let mut response = self.response().map(Body::from);
        response.extensions_mut().insert(self);
        response
    }
}
