//! How a token travels between the client and the layer: in a cookie, or in a header for API clients.

use serde::{Deserialize, Serialize};

use crate::config::cookie::is_name;
use crate::error::config::ConfigError;

/// How the session's token travels.
///
/// A layer reads one place only: a layer with a cookie ignores the header, and the other way round. A token that was sent in a
/// cookie is invalid in a header, and the other way round, since the stored hash covers the place.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// In the session cookie, for browsers. The default.
    #[default]
    Cookie,
    /// In a header, for clients that are not browsers: see [`TokenHeader`].
    #[doc(alias("bearer", "authorization"))]
    Header(TokenHeader),
}

/// The headers that carry the token of an API client.
///
/// The client sends the token with each request, by default as `Authorization: Bearer <token>` (RFC 6750 §2.1). A response that
/// creates or rotates the session carries the new token in a header of its own, by default `X-Session-Token`, with
/// `Cache-Control: no-store`; the client keeps it and sends that one from then on. A response that only reads or changes the
/// session carries none. A layer with this transport never sets or removes a cookie.
///
/// ```
/// use axum::{Router, http::StatusCode, routing::{get, post}};
/// use sessile::{MemoryStore, Session, SessionError, SessionLayer, TokenHeader, Transport};
///
/// async fn sign_in(session: Session) -> Result<(), SessionError> {
///     session.set_principal("mia").await
/// }
///
/// async fn who(session: Session) -> Result<String, StatusCode> {
///     session.principal().ok_or(StatusCode::UNAUTHORIZED)
/// }
///
/// let layer = SessionLayer::new(MemoryStore::new());
/// let api = layer.clone().with_transport(Transport::Header(TokenHeader::default()))?;
/// let app: Router = Router::new()
///     .route("/", get(|| async { "for browsers" }))
///     .layer(layer)
///     .nest("/api", Router::new().route("/sign-in", post(sign_in)).route("/who", get(who)).layer(api));
/// # Ok::<(), sessile::ConfigError>(())
/// ```
///
/// A request without the header, with another scheme such as `Basic`, or with a token that opens no session is that of a new
/// visitor. After a logout or a timeout the client finds out as from any API: by the 401 with which a handler answers an
/// anonymous session. If the header is there several times, or is not a token, the request is that of a new visitor as well, and
/// sessile emits [`Event::MalformedHeader`](crate::Event::MalformedHeader).
///
/// # Security
///
/// For native and server-side clients. Not for scripts in a browser: the script has to keep the token, so that any injected
/// script (XSS) can take it away, which it cannot with an `HttpOnly` cookie. Browsers do not send the header by themselves, so a
/// request with it cannot be forged by another site.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "{ request = \"authorization\" }"
)]
pub struct TokenHeader {
    /// The header in which a request carries the token; `authorization` by default, whose value is `Bearer <token>`. The value of
    /// any other header is the token alone. Layers with different headers have different sessions.
    pub request: String,
    /// The header in which a response carries a new token; `x-session-token` by default. For a script of another origin, CORS must
    /// expose it (`Access-Control-Expose-Headers`).
    pub response: String,
}

impl Default for TokenHeader {
    fn default() -> Self {
        Self {
            request: "authorization".to_owned(),
            response: "x-session-token".to_owned(),
        }
    }
}

/// The headers that have another meaning, or that proxies and servers change.
const TAKEN: [&str; 12] = [
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "host",
    "proxy-authenticate",
    "proxy-authorization",
    "set-cookie",
    "te",
    "transfer-encoding",
    "upgrade",
    "vary",
];

impl TokenHeader {
    /// Sets the header of [requests](Self::request); `authorization` by default.
    #[must_use]
    pub fn with_request(mut self, request: impl Into<String>) -> Self {
        self.request = request.into();
        self
    }

    /// Sets the header of [responses](Self::response); `x-session-token` by default.
    #[must_use]
    pub fn with_response(mut self, response: impl Into<String>) -> Self {
        self.response = response.into();
        self
    }

    /// Whether requests carry the token as `Bearer <token>`.
    pub(crate) fn is_bearer(&self) -> bool {
        self.request.eq_ignore_ascii_case("authorization")
    }

    fn check(&self) -> Result<(), ConfigError> {
        for (setting, name, example) in [
            ("transport.header.request", &self.request, "authorization"),
            (
                "transport.header.response",
                &self.response,
                "x-session-token",
            ),
        ] {
            let is_taken = TAKEN.iter().any(|it| it.eq_ignore_ascii_case(name));
            if is_taken || !is_name(name) {
                let advice = format!(
                    "write the name of a header that carries nothing else, such as \"{example}\""
                );
                return Err(ConfigError::invalid(setting, name, advice));
            }
        }
        Ok(())
    }
}

impl Transport {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        match self {
            Self::Cookie => Ok(()),
            Self::Header(header) => header.check(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_cannot_carry_a_token_are_rejected() {
        let header = TokenHeader::default;
        for (header, expected) in [
            (header(), None),
            (
                header()
                    .with_request("X-My-Token")
                    .with_response("X-My-Token"),
                None,
            ),
            (header().with_request(""), Some("request = \"\"")),
            (header().with_request("a b"), Some("request = \"a b\"")),
            (
                header().with_request("Cookie"),
                Some("request = \"Cookie\""),
            ),
            (
                header().with_response("Set-Cookie"),
                Some("response = \"Set-Cookie\""),
            ),
            (header().with_response("x\r\ny"), Some("response")),
        ] {
            let checked = Transport::Header(header).check();
            match expected {
                None => checked.unwrap(),
                Some(expected) => {
                    let text = checked.unwrap_err().to_string();
                    assert!(
                        text.contains(expected) && text.contains("write the name"),
                        "{text}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_config_file_names_a_transport_and_its_headers() {
        let read = |json: &str| serde_json::from_str::<Transport>(json);
        assert_eq!(read(r#""cookie""#).unwrap(), Transport::Cookie);
        let bearer = Transport::Header(TokenHeader::default());
        assert_eq!(read(r#"{"header": {}}"#).unwrap(), bearer);
        let other = TokenHeader::default().with_request("x-api-session");
        let json = r#"{"header": {"request": "x-api-session"}}"#;
        assert_eq!(read(json).unwrap(), Transport::Header(other.clone()));
        assert!(read(r#"{"header": {"name": "x"}}"#).is_err());
        assert!(read(r#""bearer""#).is_err());
        let written = serde_json::to_string(&Transport::Header(other.clone())).unwrap();
        assert_eq!(read(&written).unwrap(), Transport::Header(other));
    }
}
