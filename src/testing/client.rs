//! A client of an application under test, which keeps its session as a browser does.

use std::fmt;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use http::header::{COOKIE, ORIGIN};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body::Body;
use http_body_util::BodyExt as _;
use serde::Serialize;
use smallvec::SmallVec;
use tower_service::Service;

use crate::config::SessionConfig;
use crate::config::transport::Transport;
use crate::lock::Lock;
use crate::middleware::carrier::present;
use crate::middleware::client_ip::{PeerAddress, peer};
use crate::middleware::layer::SessionLayer;
use crate::record::key::SessionKey;
use crate::session::Session;
use crate::session::sessions::SignIn;
use crate::session::stored::{StoredSession, TokenState};
use crate::testing::jar::{Jar, joined};
use crate::testing::open::{open, with_causes};
use crate::testing::outcome::Outcome;
use crate::testing::request::TestRequest;
use crate::testing::store::TestStore;
use crate::token::{Handle, Token};

type App = dyn Fn(Request<String>) -> Answer + Send + Sync;
type Answer = Pin<Box<dyn Future<Output = Response<String>> + Send>>;

/// A client of an application under test: a browser, or an API client if the layer has [`Transport::Header`]. It keeps the
/// cookies that responses set, or the token, and sends them with its next request.
///
/// Requests are calls of the application's service, in this process. Clones are tabs of one browser: they share its cookies. It does
/// not follow redirects, and its cookies do not expire by time.
///
/// ```
/// use axum::{Router, routing::get};
/// use sessile::testing::{TestClient, TestStore};
/// use sessile::{Session, SessionError, SessionLayer};
///
/// async fn hello(session: Session) -> Result<String, SessionError> {
///     Ok(format!("Hello, {}", session.require_principal()?))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let layer = SessionLayer::new(TestStore::new());
/// let app = Router::new().route("/", get(hello)).layer(layer.clone());
///
/// let mia = TestClient::signed_in(app.clone(), &layer, "mia").await;
/// assert_eq!(mia.get("/").await.body(), "Hello, mia");
///
/// let visitor = TestClient::new(app, &layer);
/// assert_eq!(visitor.get("/").await.status(), 401);
/// # }
/// ```
#[derive(Clone)]
pub struct TestClient {
    layer: SessionLayer,
    app: Arc<App>,
    jar: Arc<Lock<Jar>>,
    address: Option<IpAddr>,
}

impl TestClient {
    /// A client without a session.
    ///
    /// The application is an axum `Router` or any other tower service. `layer` is a clone of the session layer around it; another
    /// layer of the same store and cookie name opens the same sessions, but [`settled`](Self::settled) does not wait for the
    /// application then.
    ///
    /// A service that takes one type of body only needs
    /// [`map_request`](https://docs.rs/tower/latest/tower/trait.ServiceExt.html#method.map_request), as in
    /// `service.map_request(|request: Request<String>| request.map(Body::from))`.
    pub fn new<S, R>(app: S, layer: &SessionLayer) -> Self
    where
        S: Service<Request<String>, Response = Response<R>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: fmt::Debug,
        R: Body + Send + 'static,
        R::Data: Send,
        R::Error: fmt::Debug,
    {
        let app = Lock::new(app);
        let app = move |request| -> Answer {
            let service = app.lock().clone();
            Box::pin(call(service, request))
        };
        Self {
            layer: layer.clone(),
            app: Arc::new(app),
            jar: Arc::default(),
            address: None,
        }
    }

    /// Lets all requests of this client come from this address, by a [`PeerAddress`] in their extensions; by default none has an
    /// address. [`Fingerprinting::Strict`](crate::Fingerprinting::Strict) needs one from the first request on, so begin with
    /// [`new`](Self::new). A request that has a `PeerAddress`, or axum's `ConnectInfo`, keeps it.
    ///
    /// ```
    /// # use axum::Router;
    /// # use sessile::SessionLayer;
    /// use sessile::testing::TestClient;
    ///
    /// # async fn test(app: Router, layer: SessionLayer) {
    /// let mia = TestClient::new(app, &layer).with_address([203, 0, 113, 7].into());
    /// mia.sign_in("mia").await;
    /// let thief = mia.clone().with_address([198, 51, 100, 7].into()); // the same cookies, on another network
    /// assert_eq!(thief.get("/account").await.status(), 401);
    /// # }
    /// ```
    #[doc(alias("ip", "peer", "ConnectInfo"))]
    #[must_use]
    pub fn with_address(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// A client with the session of this principal: [`new`](Self::new), then [`sign_in`](Self::sign_in).
    #[doc(alias("force_login", "acting_as"))]
    pub async fn signed_in<S, R>(app: S, layer: &SessionLayer, who: impl Into<SignIn>) -> Self
    where
        S: Service<Request<String>, Response = Response<R>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: fmt::Debug,
        R: Body + Send + 'static,
        R::Data: Send,
        R::Error: fmt::Debug,
    {
        let client = Self::new(app, layer);
        client.sign_in(who).await;
        client
    }

    /// Signs in this principal, as a login of the application does: [`Session::set_principal`], in a request of its own through the
    /// layer.
    ///
    /// # Panics
    ///
    /// As [`with_session`](Self::with_session).
    pub async fn sign_in(&self, who: impl Into<SignIn>) {
        self.with_session(async |session| session.set_principal(who).await)
            .await;
    }

    /// Stores a value in this client's session, and begins one if there is none: [`Session::insert`], in a request of its own through
    /// the layer.
    ///
    /// # Panics
    ///
    /// As [`with_session`](Self::with_session).
    pub async fn set<T: Serialize>(&self, key: impl SessionKey<T>, value: T) {
        self.with_session(async |session| session.insert(key, value))
            .await;
    }

    /// Runs a closure on this client's session, in a request of its own through the layer, and returns what it returns: to prepare a
    /// session, or to look at it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use sessile::testing::TestClient;
    /// # async fn test(mia: TestClient) {
    /// let token = mia
    ///     .with_session(async |session| {
    ///         session.flash_success("Saved.")?;
    ///         session.set_idle_timeout(Duration::from_secs(60))?;
    ///         session.csrf_token()
    ///     })
    ///     .await;
    /// let page = mia.post("/order").form([("_csrf", token)]).await;
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If the session cannot be loaded or committed, or the closure returns an error, which then commits nothing.
    #[doc(alias("edit_session", "init_test_session"))]
    pub async fn with_session<O: Outcome>(&self, run: impl AsyncFnOnce(Session) -> O) -> O::Value {
        let mut request = Request::new(());
        *request.headers_mut() = self.credentials(&self.config().cookie.path);
        self.add_address(request.extensions_mut());
        match open(&self.layer, request, run).await {
            Ok((value, headers)) => {
                self.keep(&headers);
                value
            }
            Err(error) => panic!(
                "the test cannot use the session of its client: {}",
                with_causes(&error)
            ),
        }
    }

    /// Begins a `GET` request; await it to send it.
    pub fn get(&self, path: &str) -> TestRequest {
        self.request(Method::GET, path)
    }

    /// Begins a `POST` request, as a page of this site sends it; await it to send it.
    pub fn post(&self, path: &str) -> TestRequest {
        self.request(Method::POST, path)
    }

    /// Begins a request; await it to send it.
    pub fn request(&self, method: Method, path: &str) -> TestRequest {
        TestRequest::new(self.clone(), method, path)
    }

    /// Adds to a request what this client sends with it: its cookies, and `Sec-Fetch-Site: same-origin`, by which it passes
    /// [`CsrfLayer`](crate::CsrfLayer); or its token; and its [address](Self::with_address). A header that is there already stays, and so
    /// does the origin of a request that has an `Origin`; its cookies join those of this client of other names. For requests that the test sends by itself; [`keep`](Self::keep) takes their responses.
    ///
    /// ```
    /// # use axum::{Router, http::Request};
    /// # use sessile::testing::TestClient;
    /// use tower::ServiceExt as _;
    ///
    /// # async fn test(app: Router, mia: TestClient) {
    /// let request = mia.prepare(Request::get("/events").body(String::new()).unwrap());
    /// let response = app.oneshot(request).await.unwrap(); // its body may be a stream
    /// mia.keep(response.headers());
    /// # }
    /// ```
    pub fn prepare<B>(&self, mut request: Request<B>) -> Request<B> {
        const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
        let mut headers = self.credentials(request.uri().path());
        if *self.transport() == Transport::Cookie && !request.headers().contains_key(ORIGIN) {
            headers.insert(SEC_FETCH_SITE, HeaderValue::from_static("same-origin"));
        }
        if let Some(cookies) = headers.get(COOKIE) {
            let sent = joined(&request.headers().get_all(COOKIE), cookies);
            request.headers_mut().insert(COOKIE, sent);
        }
        for (name, value) in headers {
            if let Some(name) = name {
                request.headers_mut().entry(name).or_insert(value);
            }
        }
        self.add_address(request.extensions_mut());
        request
    }

    /// Stores and removes cookies as these headers of a response say, or keeps the new token. Requests of this client do so by
    /// themselves.
    pub fn keep(&self, headers: &HeaderMap) {
        self.jar.lock().keep(self.transport(), headers);
    }

    /// The handle of this client's session, if it has one. The session may have ended.
    pub fn handle(&self) -> Option<Handle> {
        self.tokens().first().map(|token| token.handle)
    }

    /// The session that this client's token opens, as it is stored, also while a [`TestStore`] fails; `None` if the client has no session,
    /// or it has ended. It does not prolong the session.
    ///
    /// ```
    /// # use sessile::testing::TestClient;
    /// # async fn test(mia: TestClient) {
    /// let stored = mia.stored().await.expect("a session");
    /// assert_eq!(stored.principal(), Some("mia"));
    /// assert_eq!(stored.get("orders").unwrap(), Some(1));
    /// assert_eq!(stored.flashes()[0].text, "Saved.");
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If the session cannot be read.
    #[doc(alias("session", "assert_session_has"))]
    pub async fn stored(&self) -> Option<StoredSession> {
        let layer = match self.test_store() {
            Some(store) => self.layer.on_another_node(store.direct()),
            None => self.layer.clone(),
        };
        let sessions = layer.sessions();
        for token in self.tokens() {
            let token = token.encode();
            let found = sessions.find_by_token(&token).await;
            let found = found.unwrap_or_else(|error| {
                panic!("the session cannot be read: {}", with_causes(&error))
            });
            let opens = |it: &StoredSession| it.check_token(&token) == TokenState::Valid;
            if let Some(session) = found.filter(opens) {
                return Some(session);
            }
        }
        None
    }

    /// Waits until nothing of the application runs in the background: renewals, deletions, and commits of requests that were dropped.
    /// See [`SessionLayer::drained`].
    pub async fn settled(&self) {
        self.layer.drained().await;
    }

    /// Sends a request, and keeps what its response sets.
    pub(crate) async fn send(&self, request: Request<String>) -> Response<String> {
        let response = (self.app)(self.prepare(request)).await;
        self.keep(response.headers());
        response
    }

    /// The store of the layer, if it is one of this kit.
    pub(crate) fn test_store(&self) -> Option<&TestStore> {
        let store = &self.layer.parts().engine.backend.store;
        store.as_any().downcast_ref()
    }

    /// This client on another node of the application, before this store.
    pub(crate) fn on_another_node(&self, store: TestStore) -> Self {
        Self {
            layer: self.layer.on_another_node(store),
            ..self.clone()
        }
    }

    fn add_address(&self, extensions: &mut Extensions) {
        if let Some(address) = self.address
            && peer(extensions).is_none()
        {
            extensions.insert(PeerAddress(address));
        }
    }

    fn credentials(&self, path: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        self.jar.lock().write(self.transport(), path, &mut headers);
        headers
    }

    fn tokens(&self) -> SmallVec<[Token; 1]> {
        let mut headers = self.credentials(&self.config().cookie.path);
        present(&self.layer.parts().policy, &mut headers).tokens
    }

    fn transport(&self) -> &Transport {
        &self.config().transport
    }

    fn config(&self) -> &SessionConfig {
        &self.layer.parts().policy.config
    }
}

impl fmt::Debug for TestClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestClient")
            .field("handle", &self.handle())
            .finish_non_exhaustive()
    }
}

/// Calls a service, and reads the whole body of its response.
///
/// # Panics
///
/// If the service fails without a response, or its body fails.
async fn call<S, R>(mut service: S, request: Request<String>) -> Response<String>
where
    S: Service<Request<String>, Response = Response<R>>,
    S::Error: fmt::Debug,
    R: Body,
    R::Error: fmt::Debug,
{
    let ready = poll_fn(|context| service.poll_ready(context)).await;
    ready.expect("the application accepts a request");
    let response = service.call(request).await;
    let (head, body) = response
        .expect("the application sends a response")
        .into_parts();
    let body = body.collect().await.expect("the application sends a body");
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Response::from_parts(head, text)
}
