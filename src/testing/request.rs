//! One request of a client, and what happens while it runs.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::{Pin, pin};

use form_urlencoded::Serializer;
use futures_util::future::{Either, select};
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use serde::Serialize;

use crate::error::session::SessionError;
use crate::session::Session;
use crate::testing::client::TestClient;
use crate::testing::fault::{Call, Calls};
use crate::testing::open::with_causes;
use crate::testing::outcome::Outcome;
use crate::testing::store::TestStore;
use crate::testing::written::Written;

/// A request of a [`TestClient`]. Await it to send it; the response has the whole body as text.
///
/// ```
/// # use sessile::testing::TestClient;
/// # async fn test(mia: TestClient) {
/// let page = mia.post("/cart").form([("article", "tulip")]).await;
/// assert_eq!(page.status(), 303);
/// assert_eq!(page.headers()["location"], "/");
/// # }
/// ```
#[must_use = "a request is sent when it is awaited"]
pub struct TestRequest {
    client: TestClient,
    request: Request<String>,
}

impl TestRequest {
    pub(crate) fn new(client: TestClient, method: Method, path: &str) -> Self {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(String::new());
        let request = request.unwrap_or_else(|error| panic!("{path:?} is not a path: {error}"));
        Self { client, request }
    }

    /// Sets a header, and replaces it if it is there. A `cookie` is sent beside those of the client, and instead of one of the same name.
    ///
    /// # Panics
    ///
    /// If the name or the value is not valid.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value))
        else {
            panic!("{name:?} is not a header's name, or its value is not valid");
        };
        self.request.headers_mut().insert(name, value);
        self
    }

    /// Sets the body to the fields of a form.
    pub fn form<K: AsRef<str>, V: AsRef<str>>(
        mut self,
        fields: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let mut form = Serializer::new(String::new());
        form.extend_pairs(fields);
        *self.request.body_mut() = form.finish();
        self.header(CONTENT_TYPE.as_str(), "application/x-www-form-urlencoded")
    }

    /// Sets the body to a value as JSON.
    ///
    /// # Panics
    ///
    /// If serde cannot write the value as JSON.
    pub fn json(mut self, value: &impl Serialize) -> Self {
        let json = serde_json::to_string(value);
        *self.request.body_mut() = json.unwrap_or_else(|error| panic!("a body as JSON: {error}"));
        self.header(CONTENT_TYPE.as_str(), "application/json")
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<String>) -> Self {
        *self.request.body_mut() = body.into();
        self
    }

    /// Sets an extension of the request, such as axum's `ConnectInfo` with the address of the client.
    pub fn extension(mut self, extension: impl Clone + Send + Sync + 'static) -> Self {
        self.request.extensions_mut().insert(extension);
        self
    }

    /// Sends the request, and lets another request of the same browser, on another node, change the session meanwhile: a conflict
    /// that is real. The other request begins once this one is about to write, and ends before it does. It waits for no lease: under
    /// [`Concurrency::Exclusive`](crate::Concurrency::Exclusive) this is what happens after a lease has lapsed.
    ///
    /// ```
    /// # use sessile::testing::TestClient;
    /// # async fn test(mia: TestClient) {
    /// // Both add to the counter; the layer replays this request on what the other one has left.
    /// mia.post("/count").meanwhile(async |other| other.increment("n", 1)).await;
    ///
    /// // The other tab signs out, and this one comes too late.
    /// let page = mia.post("/count").meanwhile(async |other| other.destroy()).await;
    /// assert_eq!(page.status(), 409);
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If the layer's store is not a [`TestStore`], the client has no session yet, this request does not write to it, or the other
    /// request fails.
    #[doc(alias("conflict", "race", "concurrent"))]
    pub async fn meanwhile<O: Outcome>(
        self,
        other: impl AsyncFnOnce(Session) -> O,
    ) -> Response<String> {
        let name = self.to_string();
        let store = self.test_store().clone();
        let Some(handle) = self.client.handle() else {
            panic!(
                "{name}: the client has no session that another request could change; call `set` or `sign_in` first"
            );
        };
        let mut hold = store.hold_calls(Calls::WritesOf(handle));
        let other_tab = self.client.on_another_node(store);
        let request = pin!(self.send());
        let overtaken = match select(request, pin!(hold.arrived())).await {
            Either::Left((response, _)) => panic!(
                "{name} did not write to its session, so no other request could meet it: {}",
                summary(&response)
            ),
            Either::Right(((), request)) => request,
        };
        other_tab.with_session(other).await;
        hold.release();
        overtaken.await
    }

    /// Sends the request, waits until it does nothing in the background either ([`TestClient::settled`]), and asserts that no session
    /// was created, changed or deleted. A renewal of the time to live is allowed, since a read may cause one.
    ///
    /// Check the status as well: a path that does not exist writes nothing either.
    ///
    /// ```
    /// # use sessile::testing::TestClient;
    /// # async fn test(mia: TestClient) {
    /// let page = mia.get("/orders").assert_writes_nothing().await;
    /// assert_eq!(page.status(), 200);
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If something was written, which the message names by key; and if the layer's store is not a [`TestStore`].
    #[doc(alias("assert_unchanged", "read_only"))]
    pub async fn assert_writes_nothing(self) -> Response<String> {
        let name = self.to_string();
        let (response, mut writes) = self.with_writes().await;
        writes.retain(|written| written.call != Call::Touch);
        assert!(
            writes.is_empty(),
            "{name} must not write, and has written: {writes:?}; {}",
            summary(&response)
        );
        response
    }

    /// Sends the request, waits until it does nothing in the background either ([`TestClient::settled`]), and returns what was written
    /// meanwhile.
    ///
    /// ```
    /// # use sessile::testing::{Call, TestClient};
    /// # async fn test(mia: TestClient) {
    /// let (page, writes) = mia.post("/cart").with_writes().await;
    /// assert_eq!(writes.len(), 1);
    /// assert_eq!((writes[0].call, &*writes[0].keys), (Call::Replace, &["cart".to_owned()][..]));
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If the layer's store is not a [`TestStore`].
    pub async fn with_writes(self) -> (Response<String>, Vec<Written>) {
        let (store, client) = (self.test_store().clone(), self.client.clone());
        client.settled().await;
        let before = store.writes().len();
        let response = self.send().await;
        client.settled().await;
        (response, store.writes().split_off(before))
    }

    fn test_store(&self) -> &TestStore {
        let store = self.client.test_store();
        store.expect("a layer whose store is a `TestStore`: build it as `SessionLayer::new(TestStore::new())`")
    }

    async fn send(self) -> Response<String> {
        self.client.send(self.request).await
    }
}

impl IntoFuture for TestRequest {
    type Output = Response<String>;
    type IntoFuture = Pin<Box<dyn Future<Output = Response<String>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

/// Shown as method and path.
impl fmt::Display for TestRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.request.method(), self.request.uri().path())
    }
}

impl fmt::Debug for TestRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TestRequest({self})")
    }
}

/// A response for the message of a panic, with the error of its session.
fn summary(response: &Response<String>) -> String {
    let error = response.extensions().get::<SessionError>();
    let error = error.map(|error| format!(", {}", with_causes(error)));
    format!(
        "the response is {}{}",
        response.status(),
        error.unwrap_or_default()
    )
}
