//! A tower layer that lets signed-in users pass only.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use form_urlencoded::byte_serialize;
use http::header::{ACCEPT, CACHE_CONTROL, HeaderMap, HeaderValue, LOCATION};
use http::{Method, Request, Response, StatusCode, Uri};
use tower_layer::Layer;
use tower_service::Service;

use crate::error::config::ConfigError;
use crate::error::session::SessionError;
use crate::middleware::body::ResponseBody;
use crate::middleware::local_path::is_local;
use crate::middleware::service::ResponseFuture;
use crate::middleware::slot::{SessionSlots, original_uri};

/// The longest path that the address of the sign-in page names. Proxies reject responses whose headers take more than 4 to 8 KiB, and
/// encoding may make the path three times as long.
const LONGEST_NEXT: usize = 1024;

/// Lets only requests of signed-in users through. Others get 401, or are sent to the sign-in page.
///
/// Put it inside [`SessionLayer`](crate::SessionLayer), around the routes that need a user and not around the sign-in page:
///
/// ```
/// # use axum::{Router, routing::get};
/// # use sessile::{MemoryStore, Principal, RequirePrincipal, SessionLayer};
/// # async fn account(_: Principal) {}
/// # async fn sign_in() {}
/// let members = Router::new()
///     .route("/account", get(account))
///     .route_layer(RequirePrincipal::new().redirect_to("/sign-in")?);
/// let app: Router = Router::new()
///     .route("/sign-in", get(sign_in))
///     .merge(members)
///     .layer(SessionLayer::new(MemoryStore::new()));
/// # Ok::<(), sessile::ConfigError>(())
/// ```
///
/// The response of a layer inside is that of the handler for everybody who is signed in: whether this user may do that is for the
/// handler to decide.
///
/// If the session cannot be loaded, the response is 503, also under
/// [`OnStoreError::Anonymous`](crate::OnStoreError::Anonymous): an outage must not look like a sign-out.
///
/// # Redis
///
/// The commands of [`Session::from_parts`](crate::Session::from_parts); this layer loads the session if nobody has.
#[derive(Clone, Debug, Default)]
#[must_use]
#[doc(alias(
    "login_required",
    "LoginRequired",
    "permission_required",
    "authenticated",
    "require_auth"
))]
pub struct RequirePrincipal {
    sign_in: Option<Arc<str>>,
}

impl RequirePrincipal {
    /// Creates a layer that responds to anonymous visitors with 401.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends browsers to the sign-in page: requests that accept HTML get 303 and `Location: /sign-in?next=…`. Scripts and programs, which
    /// do not accept HTML, get 401 as before, since they would take the page for the answer.
    ///
    /// `next` is the path and query of the request, percent-encoded, for a `GET` or `HEAD` with up to 1 KiB of them: a form cannot be
    /// sent again. Read it as a [`LocalPath`](crate::LocalPath). A request for the sign-in page itself gets 401, since it would be
    /// redirected for ever.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] unless this is a path of this site, with or without a query.
    #[doc(alias("login_url", "login_page", "redirect_field_name"))]
    pub fn redirect_to(mut self, sign_in: impl Into<String>) -> Result<Self, ConfigError> {
        let sign_in = sign_in.into();
        if !is_local(&sign_in) || sign_in.contains('#') {
            let advice = "write a path of this site that begins with `/`, such as `/sign-in`";
            return Err(ConfigError::invalid("redirect_to", sign_in, advice));
        }
        self.sign_in = Some(sign_in.into());
        Ok(self)
    }
}

impl<S> Layer<S> for RequirePrincipal {
    type Service = RequirePrincipalService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequirePrincipalService {
            inner,
            sign_in: self.sign_in.clone(),
        }
    }
}

/// The service that [`RequirePrincipal`] creates.
#[derive(Clone)]
pub struct RequirePrincipalService<S> {
    inner: S,
    sign_in: Option<Arc<str>>,
}

impl<S> fmt::Debug for RequirePrincipalService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequirePrincipalService")
            .field("sign_in", &self.sign_in)
            .finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for RequirePrincipalService<S>
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
        let sign_in = self.sign_in.clone();
        ResponseFuture::new(async move {
            // Without the request: its body need not be `Sync`.
            let slot = SessionSlots::of(request.extensions());
            let principal = match slot {
                Ok(slot) => slot.session().await.and_then(|it| it.require_principal()),
                Err(error) => Err(error),
            };
            let error = match principal {
                Ok(_) => return Ok(inner.call(request).await?.map(ResponseBody::inner)),
                Err(error) => error,
            };
            let uri = original_uri(request.extensions(), request.uri());
            let location = match (&error, sign_in) {
                (SessionError::NotSignedIn, Some(sign_in)) => {
                    location(&sign_in, request.method(), request.headers(), uri)
                }
                _ => None,
            };
            Ok(match location {
                Some(location) => redirect(location),
                None => error.into_own_response(),
            })
        })
    }
}

/// The address of the sign-in page for this request; `None` if it must not be redirected.
fn location(sign_in: &str, method: &Method, headers: &HeaderMap, uri: &Uri) -> Option<HeaderValue> {
    let path = sign_in.split('?').next().unwrap_or(sign_in);
    if !accepts_html(headers) || uri.path() == path {
        return None;
    }
    let wanted = uri.path_and_query().map_or("/", |wanted| wanted.as_str());
    let can_repeat = matches!(*method, Method::GET | Method::HEAD);
    let address = match can_repeat && wanted.len() <= LONGEST_NEXT && is_local(wanted) {
        true => {
            let separator = if sign_in.contains('?') { '&' } else { '?' };
            let next: String = byte_serialize(wanted.as_bytes()).collect();
            format!("{sign_in}{separator}next={next}")
        }
        false => sign_in.to_owned(),
    };
    HeaderValue::try_from(address).ok()
}

/// Whether the client shows pages: a browser that follows a link or sends a form, and not a script or a program, which accept
/// anything or JSON.
fn accepts_html(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(ACCEPT).iter();
    let mut items = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    items.any(|item| {
        let media_type = item.split(|byte| *byte == b';').next().unwrap_or_default();
        let media_type = media_type.trim_ascii();
        [&b"text/html"[..], b"application/xhtml+xml"]
            .iter()
            .any(|html| media_type.eq_ignore_ascii_case(html))
    })
}

fn redirect<R>(location: HeaderValue) -> Response<ResponseBody<R>> {
    let mut response = Response::new(ResponseBody::own(Bytes::new()));
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    headers.insert(LOCATION, location);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROWSER: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

    #[test]
    fn browsers_are_sent_to_the_sign_in_page_and_back_to_what_they_wanted() {
        let long = format!("/{}", "x".repeat(LONGEST_NEXT));
        for (sign_in, method, accept, uri, expected) in [
            (
                "/in",
                "GET",
                BROWSER,
                "/account",
                Some("/in?next=%2Faccount"),
            ),
            (
                "/in",
                "GET",
                BROWSER,
                "/orders?page=2&q=a%26b+c",
                Some("/in?next=%2Forders%3Fpage%3D2%26q%3Da%2526b%2Bc"),
            ),
            ("/in", "HEAD", BROWSER, "/", Some("/in?next=%2F")),
            (
                "/in?lang=de",
                "GET",
                BROWSER,
                "/a",
                Some("/in?lang=de&next=%2Fa"),
            ),
            (
                "/in",
                "GET",
                "Text/HTML;level=1",
                "/a",
                Some("/in?next=%2Fa"),
            ),
            (
                "/in",
                "GET",
                "application/xhtml+xml",
                "/a",
                Some("/in?next=%2Fa"),
            ),
            (
                "/in",
                "GET",
                BROWSER,
                "https://shop.example/a",
                Some("/in?next=%2Fa"),
            ),
            // The form is lost, and its path may not answer to `GET`.
            ("/in", "POST", BROWSER, "/order", Some("/in")),
            ("/in", "GET", BROWSER, "//evil.example", Some("/in")),
            ("/in", "GET", BROWSER, long.as_str(), Some("/in")),
            ("/in", "GET", BROWSER, "/in", None),
            ("/in?x", "GET", BROWSER, "/in?next=%2Fin", None),
            ("/in", "GET", "*/*", "/account", None),
            ("/in", "GET", "application/json", "/account", None),
            ("/in", "GET", "text/htmlx", "/account", None),
            ("/in", "GET", "", "/account", None),
        ] {
            let method: Method = method.parse().unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            let uri: Uri = uri.parse().unwrap();
            let location = location(sign_in, &method, &headers, &uri);
            let location = location.as_ref().map(|it| it.to_str().unwrap());
            assert_eq!(location, expected, "{sign_in} {method} {accept} {uri}");
        }
        let uri = Uri::from_static("/account");
        assert_eq!(location("/in", &Method::GET, &HeaderMap::new(), &uri), None);
    }

    #[test]
    fn the_sign_in_page_is_a_path_of_this_site() {
        for bad in [
            "",
            "sign-in",
            "//evil.example",
            "https://evil.example/",
            "/in#x",
            "/a\nb",
        ] {
            let error = RequirePrincipal::new().redirect_to(bad).unwrap_err();
            assert!(error.to_string().contains("such as `/sign-in`"), "{error}");
        }
    }
}
