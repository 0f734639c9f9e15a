//! Protection from cross-site request forgery, as a tower layer.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Extensions, HeaderMap, HeaderName, Method, Request, Response, Uri};
use tower_layer::Layer;
use tower_service::Service;

use crate::config::transport::Transport;
use crate::error::config::ConfigError;
use crate::error::session::{CsrfFailure, SessionError};
use crate::event::Event;
use crate::middleware::body::ResponseBody;
use crate::middleware::csrf_check::{Verdict, is_safe, judge};
use crate::middleware::local_path::is_plain_path;
use crate::middleware::origin::Origin;
use crate::middleware::service::ResponseFuture;
use crate::middleware::slot::{SessionSlot, SessionSlots, original_uri};

/// Refuses requests that a page of another site makes a visitor's browser send: cross-site request forgery.
///
/// Put it inside [`SessionLayer`](crate::SessionLayer): in axum, call `.layer()` for it before that of `SessionLayer`; in a
/// `ServiceBuilder`, after it.
///
/// ```
/// # use axum::{Router, routing::post};
/// # use sessile::{CsrfLayer, MemoryStore, SessionLayer};
/// let app: Router = Router::new()
///     .route("/order", post(|| async {}))
///     .layer(CsrfLayer::new().exempt("/webhooks/")?)
///     .layer(SessionLayer::new(MemoryStore::new()));
/// # Ok::<(), sessile::ConfigError>(())
/// ```
///
/// # What it checks
///
/// `GET`, `HEAD`, `OPTIONS` and `TRACE` pass, so change nothing in their handlers; the handshake of a WebSocket is checked. The
/// first of these headers that a request has decides about it:
///
/// 1. `Sec-Fetch-Site`: `same-origin` and `none` pass. Anything else, also `same-site`, is refused unless the request comes from an
///    [allowed origin](Self::allow_origin).
/// 2. `Origin`: passes if it is the host and port that the request was sent to, or an allowed origin. Its scheme is not compared,
///    since it is unknown behind a proxy that ends TLS. `null` is refused.
/// 3. Without both, the request is from a browser of before 2020, or from a program. If it has a session cookie, it needs a
///    [token](crate::Session::csrf_token) of the session in the header `x-csrf-token`; otherwise it passes, since it has nothing that a
///    forger could use.
///
/// These are the rules of OWASP's Cross-Site Request Forgery Prevention Cheat Sheet (Fetch Metadata first, then the origin), and of Go's
/// `http.CrossOriginProtection`, which lets all requests of step 3 pass.
///
/// A refused request gets 403, a text that names the check, and an [`Event::CsrfRefused`](crate::Event::CsrfRefused); its handler does not
/// run. [`SessionLayer::with_on_error`](crate::SessionLayer::with_on_error) may answer it in another way.
///
/// The first two steps apply to requests without a session, too: nobody shall sign a visitor in to an account of the attacker
/// (login CSRF).
///
/// # Forms
///
/// The layer does not read bodies, so that it works with those of any type. A form of step 3 therefore needs its path to be
/// [exempt](Self::exempt), and a handler that takes `CsrfForm`, which checks a token in the form, or calls
/// [`verify_csrf`](crate::Session::verify_csrf).
///
/// # Clients that send no cookie
///
/// A forger's page cannot add a token that travels in a header, so the layer lets every request of a session layer with
/// [`Transport::Header`](crate::Transport::Header) pass.
#[derive(Clone, Debug, Default)]
#[must_use]
#[doc(alias(
    "CrossOriginProtection",
    "protect_from_forgery",
    "xsrf",
    "CsrfViewMiddleware"
))]
pub struct CsrfLayer {
    settings: Arc<Settings>,
}

#[derive(Clone, Debug)]
struct Settings {
    allowed: Vec<Origin>,
    exempt: Vec<String>,
    token_header: HeaderName,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            allowed: Vec::new(),
            exempt: Vec::new(),
            token_header: HeaderName::from_static("x-csrf-token"),
        }
    }
}

impl CsrfLayer {
    /// Creates a layer that allows no other origin and exempts no path.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets pages of another origin send requests, such as `https://app.example.org`. It is also the remedy for a proxy that does not
    /// pass on `Host`: name the address that browsers see.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] unless the text is a scheme, a host and, if need be, a port. There is no wildcard: each origin that is
    /// allowed can do what its visitors can.
    #[doc(alias("trusted_origins", "CSRF_TRUSTED_ORIGINS", "AddTrustedOrigin"))]
    pub fn allow_origin(mut self, origin: impl AsRef<str>) -> Result<Self, ConfigError> {
        let origin = origin.as_ref();
        let parsed = Origin::parse(origin).ok_or_else(|| {
            let advice = "write scheme, host and port only, such as `https://app.example.org`";
            ConfigError::invalid("allow_origin", origin, advice)
        })?;
        Arc::make_mut(&mut self.settings).allowed.push(parsed);
        Ok(self)
    }

    /// Lets all requests for a path pass: for webhooks that carry a signature of their own, and for forms whose handler takes
    /// `CsrfForm`. A path that ends in `/` stands for all paths that begin with it.
    ///
    /// The path is the one that the browser requested, with the prefixes of nested routers. It is compared byte for byte, and one with
    /// empty, `.` or `..` segments, or with an encoded slash, is exempt only if it is named in full.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] if the path does not begin with `/`.
    #[doc(alias("csrf_exempt", "skip_forgery_protection", "AddInsecureBypassPattern"))]
    pub fn exempt(mut self, path: impl Into<String>) -> Result<Self, ConfigError> {
        let path = path.into();
        if !path.starts_with('/') {
            let advice = "begin the path with `/`, such as `/webhooks/`";
            return Err(ConfigError::invalid("exempt", path, advice));
        }
        Arc::make_mut(&mut self.settings).exempt.push(path);
        Ok(self)
    }

    /// Sets the header in which scripts send the token; `x-csrf-token` by default.
    pub fn with_token_header(mut self, name: HeaderName) -> Self {
        Arc::make_mut(&mut self.settings).token_header = name;
        self
    }
}

impl<S> Layer<S> for CsrfLayer {
    type Service = CsrfService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CsrfService {
            inner,
            settings: Arc::clone(&self.settings),
        }
    }
}

/// The service that [`CsrfLayer`] creates.
#[derive(Clone)]
pub struct CsrfService<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S> fmt::Debug for CsrfService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CsrfService")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for CsrfService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    B: Send + 'static,
    R: Send + 'static,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<R, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // Call the service that was polled ready: its clone may not be ready.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let admission = self.settings.admit(
            request.method(),
            request.uri(),
            request.headers(),
            request.extensions(),
        );
        ResponseFuture::new(async move {
            let admitted = match admission {
                Ok(None) => Ok(()),
                Ok(Some(check)) => check.verify().await,
                Err(error) => Err(error),
            };
            match admitted {
                Ok(()) => Ok(inner.call(request).await?.map(ResponseBody::inner)),
                Err(error) => Ok(error.into_own_response()),
            }
        })
    }
}

/// A token to verify once the session is loaded.
struct TokenToVerify {
    slot: Arc<SessionSlot>,
    token: String,
}

impl TokenToVerify {
    async fn verify(&self) -> Result<(), SessionError> {
        self.slot.session().await?.verify_csrf(&self.token)
    }
}

impl Settings {
    /// Whether the request may pass, and the token to verify before.
    fn admit(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Option<TokenToVerify>, SessionError> {
        if is_safe(method, headers) || is_exempt(&self.exempt, original_uri(extensions, uri).path())
        {
            return Ok(None);
        }
        let slot = SessionSlots::peek(extensions)?;
        if slot.context.policy.config.transport != Transport::Cookie {
            // No browser adds the token to a request by itself.
            return Ok(None);
        }
        match judge(headers, uri, &self.allowed, !slot.presented.is_empty()) {
            Verdict::Pass => Ok(None),
            Verdict::NeedsToken => {
                let token = headers.get(&self.token_header);
                let token = token.and_then(|token| token.to_str().ok()).unwrap_or("");
                Ok(Some(TokenToVerify {
                    slot: SessionSlots::of(extensions)?,
                    token: token.to_owned(),
                }))
            }
            Verdict::Refuse(why) => Err(refuse(&slot, why)),
        }
    }
}

fn refuse(slot: &SessionSlot, why: CsrfFailure) -> SessionError {
    let loaded = slot.loaded();
    let handle = loaded.and_then(|session| session.shared().state().backing.stored_handle());
    slot.context.emit(&Event::CsrfRefused { handle, why });
    SessionError::Csrf(why)
}

fn is_exempt(exempt: &[String], path: &str) -> bool {
    exempt.iter().any(|it| match it.ends_with('/') {
        // The server behind a prefix must not read the path as one beside it.
        true => path == it || path.starts_with(it) && is_plain_path(path),
        false => path == it,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_exempt_by_its_name_or_by_a_prefix_that_it_cannot_leave() {
        let exempt = ["/hook", "/webhooks/"].map(str::to_owned);
        for (path, expected) in [
            ("/hook", true),
            ("/hook/", false),
            ("/hook/x", false),
            ("/hooks", false),
            ("/HOOK", false),
            ("/webhooks/", true),
            ("/webhooks/stripe", true),
            ("/webhooks/stripe/1", true),
            ("/webhooks", false),
            ("/webhooksx", false),
            ("/webhooks/../order", false),
            ("/webhooks/%2e%2e/order", false),
            ("/webhooks/..%2forder", false),
            ("/webhooks//order", false),
            ("/order", false),
        ] {
            assert_eq!(is_exempt(&exempt, path), expected, "{path}");
        }
    }

    #[test]
    fn settings_that_cannot_work_say_what_to_write() {
        for bad in ["*", "null", "app.example.org", "https://app.example.org/"] {
            let error = CsrfLayer::new().allow_origin(bad).unwrap_err().to_string();
            assert!(error.contains("https://app.example.org"), "{error}");
        }
        let error = CsrfLayer::new().exempt("hook").unwrap_err().to_string();
        assert!(error.contains("begin the path with `/`"), "{error}");
    }
}
