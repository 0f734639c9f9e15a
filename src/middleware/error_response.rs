//! The HTTP response of a session error.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::error::session::{CsrfFailure, Denied, SessionError, SignInRefused};
use crate::middleware::body::ResponseBody;

impl SessionError {
    /// Returns the status of the response for this error.
    ///
    /// It is 401 for `NotSignedIn`; 403 for `Csrf`, and for `StaleLogin`, since the visitor is known and the credentials are not
    /// sufficient (RFC 9110 §15.5.4); 409 for `Conflict`, `Gone`, `Denied`, `SignInRefused`, `Refused` and `Aborted`; 503 for `Store`
    /// and `Busy` (with `Retry-After`) and for `OutcomeUnknown` (without, since a retry may apply the changes twice); 500 for
    /// `PartlyCommitted`, and for errors that only a change of the application's code can fix.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotSignedIn => StatusCode::UNAUTHORIZED,
            Self::Csrf(_) | Self::StaleLogin { .. } => StatusCode::FORBIDDEN,
            Self::Conflict { .. }
            | Self::Gone(_)
            | Self::Denied(_)
            | Self::SignInRefused(_)
            | Self::Refused { .. }
            | Self::Aborted => StatusCode::CONFLICT,
            Self::Store(_) | Self::Busy { .. } | Self::OutcomeUnknown => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::MissingLayer
            | Self::Encode { .. }
            | Self::Decode { .. }
            | Self::DecodeAll { .. }
            | Self::NotANumber { .. }
            | Self::Overflow { .. }
            | Self::TooLarge { .. }
            | Self::InvalidTimeout { .. }
            | Self::Discarded
            | Self::PartlyCommitted { .. }
            | Self::ResponseSent => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The default [`response`](Self::response) with a body of any type, and with this error in its extensions, so that the session
    /// layer calls the hook of [`SessionLayer::with_on_error`](crate::SessionLayer::with_on_error) and drops the changes of the
    /// request. For tower services; axum handlers return the error itself.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http::{Extensions, Response};
    /// use http_body_util::Full;
    /// use sessile::{Session, SessionError};
    ///
    /// async fn whoami(extensions: &Extensions) -> Result<Response<Full<Bytes>>, SessionError> {
    ///     let session = Session::from_extensions(extensions).await?;
    ///     Ok(Response::new(Full::from(session.require_principal()?)))
    /// }
    ///
    /// async fn handle(extensions: &Extensions) -> Response<Full<Bytes>> {
    ///     whoami(extensions).await.unwrap_or_else(SessionError::into_http)
    /// }
    /// ```
    #[doc(alias = "into_response")]
    pub fn into_http<B: From<Bytes>>(self) -> Response<B> {
        self.into_response_of(B::from)
    }

    /// The same response, for a service of this crate.
    pub(crate) fn into_own_response<R>(self) -> Response<ResponseBody<R>> {
        self.into_response_of(ResponseBody::own)
    }

    fn into_response_of<B>(self, body: impl FnOnce(Bytes) -> B) -> Response<B> {
        self.log_fault();
        let mut response = self.response().map(body);
        response.extensions_mut().insert(self);
        response
    }

    /// Logs an error that only a change of the application can fix.
    fn log_fault(&self) {
        // These errors have their own events, and while the store is down every request returns one.
        let has_event = matches!(
            self,
            Self::Store(_) | Self::Busy { .. } | Self::OutcomeUnknown
        );
        if self.status().is_server_error() && !has_event {
            tracing::error!(target: "sessile", error = self as &dyn std::error::Error, "a handler returned a session error");
        }
    }

    /// The default response: the [`status`](Self::status) and one sentence of plain text, with `Cache-Control: no-store`, and with
    /// `Retry-After` where a retry of the request is safe. A hook of
    /// [`SessionLayer::with_on_error`](crate::SessionLayer::with_on_error) may begin with it.
    pub fn response(&self) -> Response<Bytes> {
        let text: &'static str = match self {
            Self::OutcomeUnknown => {
                "It is unknown whether this was done. Check before you repeat it.\n"
            }
            Self::Store(_) | Self::Busy { .. } => {
                "The session is unavailable right now. Try again in a moment.\n"
            }
            Self::PartlyCommitted { .. } => {
                "A part of this was done and the rest was not. Check before you repeat it.\n"
            }
            Self::Refused { .. } | Self::Aborted => {
                "This is no longer possible. Reload the page.\n"
            }
            Self::NotSignedIn => "Sign in first.\n",
            Self::Csrf(failure) => csrf_text(*failure),
            Self::StaleLogin { .. } => "Sign in again to do this.\n",
            Self::Denied(Denied::OtherNetwork) => "The session cannot be used from this network.\n",
            Self::SignInRefused(SignInRefused::SignedOutEverywhere) => {
                "All sessions were ended in the meantime. Sign in again.\n"
            }
            Self::SignInRefused(SignInRefused::TooManySessions) => {
                "There are too many sessions. Sign out on another device.\n"
            }
            Self::Gone(_) | Self::Conflict { .. } => {
                "Another request has changed the session. Reload the page.\n"
            }
            _ => "Internal server error.\n",
        };
        let mut response = Response::new(Bytes::from_static(text.as_bytes()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if matches!(self, Self::Store(_) | Self::Busy { .. }) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

fn csrf_text(failure: CsrfFailure) -> &'static str {
    match failure {
        CsrfFailure::CrossOrigin => "The request came from another site (Sec-Fetch-Site).\n",
        CsrfFailure::OtherOrigin => "The request came from another site (Origin).\n",
        CsrfFailure::OpaqueOrigin => "The request came from a page without an origin (Origin).\n",
        CsrfFailure::MissingToken => "The request has no CSRF token. Reload the page.\n",
        CsrfFailure::WrongToken => "The page is out of date (CSRF token). Reload it.\n",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::session::{Gone, LimitedPart};
    use crate::error::store::StoreError;

    /// The layer finds it there, and drops the changes of the request.
    #[test]
    fn a_response_without_axum_holds_its_error() {
        let response: Response<Vec<u8>> = SessionError::NotSignedIn.into_http();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.body(), b"Sign in first.\n");
        let error = response.extensions().get();
        assert!(matches!(error, Some(SessionError::NotSignedIn)));
    }

    #[test]
    fn only_an_unavailable_or_busy_session_invites_a_retry() {
        let store = SessionError::Store(StoreError::unavailable("down"));
        for (error, status, retry) in [
            (store, 503, true),
            (SessionError::OutcomeUnknown, 503, false),
            (
                SessionError::Busy {
                    wait: Duration::ZERO,
                },
                503,
                true,
            ),
            (SessionError::Conflict { attempts: 3 }, 409, false),
            (SessionError::Gone(Gone::Ended), 409, false),
            (SessionError::Denied(Denied::OtherNetwork), 409, false),
            (SessionError::Refused { key: "k".into() }, 409, false),
            (SessionError::Aborted, 409, false),
            (SessionError::NotSignedIn, 401, false),
            (SessionError::Csrf(CsrfFailure::WrongToken), 403, false),
            (
                SessionError::StaleLogin {
                    max_age: Duration::ZERO,
                },
                403,
                false,
            ),
            (
                SessionError::PartlyCommitted {
                    rest: Box::new(SessionError::Store(StoreError::unavailable("down"))),
                },
                500,
                false,
            ),
            (SessionError::MissingLayer, 500, false),
            (
                SessionError::TooLarge {
                    part: LimitedPart::Value,
                    size: 2,
                    limit: 1,
                },
                500,
                false,
            ),
        ] {
            let response = error.response();
            assert_eq!(response.status(), status, "{error}");
            assert_eq!(
                response.headers().contains_key("retry-after"),
                retry,
                "{error}"
            );
            assert_eq!(response.headers()["cache-control"], "no-store");
        }
    }
}
