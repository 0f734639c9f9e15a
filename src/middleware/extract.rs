//! The session as an argument of axum handlers, and its errors as responses.

use axum::body::Body;
use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Response};
use http::request::Parts;

use crate::error::session::SessionError;
use crate::middleware::logout::Logout;
use crate::middleware::principal::Principal;
use crate::record::transaction::TransactionError;
use crate::session::Session;
use crate::session::read_only::ReadSession;
use crate::session::sessions::Sessions;

/// Extracts `session: Session`. Rejects with [`SessionError::MissingLayer`] if no layer is around the handler, and with
/// [`SessionError::Store`] if the session could not be loaded.
impl<S: Send + Sync> FromRequestParts<S> for Session {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Self::from_parts(parts).await
    }
}

/// Extracts `session: Option<Session>`, which is `None` if there is no layer. A failed store remains an error, since an outage
/// must not make a signed-in user anonymous.
impl<S: Send + Sync> OptionalFromRequestParts<S> for Session {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        unless_absent(Self::from_parts(parts).await)
    }
}

/// Extracts `session: ReadSession`, with the rejections of [`Session`].
impl<S: Send + Sync> FromRequestParts<S> for ReadSession {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Self::from_parts(parts).await
    }
}

/// Extracts `session: Option<ReadSession>`, which is `None` if there is no layer, with the rejections of `Option<Session>`.
impl<S: Send + Sync> OptionalFromRequestParts<S> for ReadSession {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        unless_absent(Self::from_parts(parts).await)
    }
}

/// Extracts `logout: Logout`. Rejects with [`SessionError::MissingLayer`] if no layer is around the handler, and never
/// otherwise.
impl<S: Send + Sync> FromRequestParts<S> for Logout {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Self::from_parts(parts)
    }
}

/// Extracts `logout: Option<Logout>`, which is `None` if there is no layer.
impl<S: Send + Sync> OptionalFromRequestParts<S> for Logout {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        unless_absent(Self::from_parts(parts))
    }
}

/// Extracts `sessions: Sessions`, with the rejections of [`Session`].
impl<S: Send + Sync> FromRequestParts<S> for Sessions {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Self::from_extensions(&parts.extensions).await
    }
}

/// Extracts `principal: Principal`. Rejects with [`SessionError::NotSignedIn`], 401, if nobody is signed in, and otherwise as
/// [`Session`].
impl<S: Send + Sync> FromRequestParts<S> for Principal {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Self::from_parts(parts).await
    }
}

/// Extracts `principal: Option<Principal>`, which is `None` if nobody is signed in. All other rejections remain: an outage must not
/// make a user anonymous.
impl<S: Send + Sync> OptionalFromRequestParts<S> for Principal {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        match Self::from_parts(parts).await {
            Ok(principal) => Ok(Some(principal)),
            Err(SessionError::NotSignedIn) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// `None` only if there is no layer.
fn unless_absent<T>(extracted: Result<T, SessionError>) -> Result<Option<T>, SessionError> {
    match extracted {
        Ok(extracted) => Ok(Some(extracted)),
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
        self.into_http::<Body>()
    }
}
