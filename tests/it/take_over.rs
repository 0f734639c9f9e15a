//! The take-overs of `docs/migration/`: users of axum_session and actix-session whose sessions are in Redis stay signed in.
//!
//! The functions are those of the guides, word for word: `the_guides_have_this_code` compares them.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, header};
use axum::middleware::from_fn_with_state;
use redis::aio::MultiplexedConnection;
use redis::cmd;
use sessile::{MemoryStore, SessionLayer};

use crate::support::app::routes;
use crate::support::browser::{Page, fetch};
use crate::support::proxy::Fault;
use crate::support::{Browser, Proxy, Server};

mod axum_session {
    use std::collections::HashMap;

    use axum::extract::{Request, State};
    use axum::http::StatusCode;
    use axum::http::header::{COOKIE, RETRY_AFTER};
    use axum::middleware::Next;
    use axum::response::{IntoResponse, Response};
    use redis::aio::MultiplexedConnection;
    use serde_json::Value;
    use sessile::{Session, SessionError};

    // As in the guide.
    #[derive(serde::Deserialize)]
    struct Former {
        data: HashMap<String, String>, // each value is JSON in a text
    }

    fn former_key(request: &Request) -> Option<String> {
        let cookies = request.headers().get(COOKIE)?.to_str().ok()?;
        let mut pairs = cookies.split("; ").filter_map(|pair| pair.split_once('='));
        let (_, id) = pairs.find(|(name, _)| *name == "session")?;
        Some(format!("sessions:{id}"))
    }

    fn values(stored: Option<String>) -> HashMap<String, String> {
        let former = stored.and_then(|stored| serde_json::from_str::<Former>(&stored).ok());
        former.map(|former| former.data).unwrap_or_default()
    }

    /// Users have a text or an integer as their id.
    fn user_id(value: &Value) -> Option<String> {
        let text = value.as_str().map(str::to_owned);
        text.or_else(|| Some(value.as_i64()?.to_string()))
    }

    fn try_again() -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")]).into_response()
    }

    pub async fn take_over(
        State(mut redis): State<MultiplexedConnection>,
        session: Session,
        request: Request,
        next: Next,
    ) -> Result<Response, SessionError> {
        let Some(key) = former_key(&request).filter(|_| session.is_new()) else {
            return Ok(next.run(request).await);
        };
        let Ok(stored) = redis::cmd("GET").arg(&key).query_async(&mut redis).await else {
            return Ok(try_again()); // a visitor whose session cannot be read is not one without a session
        };
        let values = values(stored);
        let value = |key: &str| serde_json::from_str::<Value>(values.get(key)?).ok();
        let Some(user) = value("user").as_ref().and_then(user_id) else {
            return Ok(next.run(request).await);
        };
        session.set_principal(user).await?;
        if let Some(cart) = value("cart") {
            session.insert("cart", cart)?;
        }
        session.save().await?; // stored before the former session is deleted, whatever the handler does

        // Of two requests at once, one deletes it, and only this one's new session stays. The other one would outlive a logout.
        match redis::cmd("DEL").arg(&key).query_async(&mut redis).await {
            Ok(1) => Ok(next.run(request).await),
            _ => {
                session.destroy();
                Ok(try_again())
            }
        }
    }
}

mod actix_session {
    use std::collections::HashMap;

    use axum::extract::{Request, State};
    use axum::http::StatusCode;
    use axum::http::header::{COOKIE, RETRY_AFTER};
    use axum::middleware::Next;
    use axum::response::{IntoResponse, Response};
    use redis::aio::MultiplexedConnection;
    use serde_json::Value;
    use sessile::{Session, SessionError};

    /// Stands for the key of the cookies, which are not encrypted here.
    #[derive(Clone)]
    pub struct Key;

    fn former_key(request: &Request, _: &Key) -> Option<String> {
        let cookies = request.headers().get(COOKIE)?.to_str().ok()?;
        let mut pairs = cookies.split("; ").filter_map(|pair| pair.split_once('='));
        Some(pairs.find(|(name, _)| *name == "id")?.1.to_owned())
    }

    // As in the guide.
    fn values(stored: Option<String>) -> HashMap<String, String> {
        let former = stored.and_then(|stored| serde_json::from_str(&stored).ok());
        former.unwrap_or_default()
    }

    /// Users have a text or an integer as their id.
    fn user_id(value: &Value) -> Option<String> {
        let text = value.as_str().map(str::to_owned);
        text.or_else(|| Some(value.as_i64()?.to_string()))
    }

    fn try_again() -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")]).into_response()
    }

    pub async fn take_over(
        State((mut redis, key)): State<(MultiplexedConnection, Key)>,
        session: Session,
        request: Request,
        next: Next,
    ) -> Result<Response, SessionError> {
        let Some(key) = former_key(&request, &key).filter(|_| session.is_new()) else {
            return Ok(next.run(request).await);
        };
        let Ok(stored) = redis::cmd("GET").arg(&key).query_async(&mut redis).await else {
            return Ok(try_again()); // a visitor whose session cannot be read is not one without a session
        };
        let values = values(stored);
        let value = |key: &str| serde_json::from_str::<Value>(values.get(key)?).ok();
        let Some(user) = value("user_id").as_ref().and_then(user_id) else {
            return Ok(next.run(request).await);
        };
        session.set_principal(user).await?;
        if let Some(counter) = value("counter") {
            session.insert("counter", counter)?;
        }
        session.save().await?; // stored before the former session is deleted, whatever the handler does

        // Of two requests at once, one deletes it, and only this one's new session stays. The other one would outlive a logout.
        match redis::cmd("DEL").arg(&key).query_async(&mut redis).await {
            Ok(1) => Ok(next.run(request).await),
            _ => {
                session.destroy();
                Ok(try_again())
            }
        }
    }
}

/// Text without line breaks, spaces and last commas, which rustfmt sets otherwise here than in the guides.
fn squeezed(text: &str) -> String {
    let text: String = text.split_whitespace().collect();
    text.replace(",)", ")")
}

#[test]
fn the_guides_have_this_code() {
    let source = include_str!("take_over.rs");
    for (module, guide) in [
        (
            "mod axum_session {",
            include_str!("../../docs/migration/axum_session.md"),
        ),
        (
            "mod actix_session {",
            include_str!("../../docs/migration/actix-session.md"),
        ),
    ] {
        let code = source.split(module).nth(1).unwrap();
        let code = code.split("// As in the guide.").nth(1).unwrap();
        let code = code.split("\n}\n").next().unwrap();
        let code = squeezed(code).replace("pubasyncfn", "asyncfn");
        assert!(squeezed(guide).contains(&code), "{module} {code}");
    }
}

/// What a library keeps in Redis, and how its guide takes it over.
#[derive(Clone, Copy, Debug)]
enum Library {
    AxumSession,
    ActixSession,
}

const LIBRARIES: [Library; 2] = [Library::AxumSession, Library::ActixSession];

impl Library {
    fn cookie(self) -> &'static str {
        match self {
            Self::AxumSession => "session=former",
            Self::ActixSession => "id=former",
        }
    }

    /// Stores a session of this user, whose id is JSON.
    fn store(self, server: &Server, user: &str) {
        let values = |user: &str, data: &str| {
            let values = [(user, "@"), (data, "7")].map(|(key, value)| (key, value.to_owned()));
            serde_json::json!(std::collections::HashMap::from(values)).to_string()
        };
        let (key, stored) = match self {
            Self::AxumSession => {
                let data = values("user", "cart");
                (
                    "sessions:former",
                    format!(r#"{{"id":"former","data":{data}}}"#),
                )
            }
            Self::ActixSession => ("former", values("user_id", "counter")),
        };
        let user = serde_json::json!(user).to_string();
        let stored = stored.replace("\"@\"", &user);
        let () = cmd("SET")
            .arg(key)
            .arg(stored)
            .query(&mut server.connection())
            .unwrap();
    }

    fn is_stored(self, server: &Server) -> bool {
        let keys: Vec<String> = cmd("KEYS")
            .arg("*former")
            .query(&mut server.connection())
            .unwrap();
        !keys.is_empty()
    }

    /// A node, which reaches the former sessions at this address.
    async fn node(self, store: &MemoryStore, url: &str) -> Router {
        let client = redis::Client::open(url).unwrap();
        // A test that holds a request takes its time.
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        let redis: MultiplexedConnection = client
            .get_multiplexed_async_connection_with_config(&patient)
            .await
            .unwrap();
        let app = match self {
            Self::AxumSession => routes().layer(from_fn_with_state(redis, axum_session::take_over)),
            Self::ActixSession => routes().layer(from_fn_with_state(
                (redis, actix_session::Key),
                actix_session::take_over,
            )),
        };
        app.layer(SessionLayer::new(store.clone()))
    }
}

/// A browser that has the cookie of the former library, too.
#[derive(Clone, Debug)]
struct Visitor {
    library: Library,
    own: Browser,
}

impl Visitor {
    fn of(library: Library) -> Self {
        let own = Browser::default();
        Self { library, own }
    }

    async fn get(&mut self, app: &Router, path: &str) -> Page {
        let cookies = [
            Some(self.library.cookie().to_owned()),
            self.own.cookie.clone(),
        ];
        let cookies: Vec<String> = cookies.into_iter().flatten().collect();
        let request = Request::get(path).header(header::COOKIE, cookies.join("; "));
        let page = fetch(app, request.body(Body::empty()).unwrap()).await;
        for cookie in page.set_cookies() {
            self.own.keep(cookie);
        }
        page
    }

    async fn name(&mut self, app: &Router) -> String {
        self.get(app, "/whoami").await.ok()
    }
}

#[tokio::test]
async fn a_former_session_is_taken_over_once_and_ends_with_the_logout() {
    let server = Server::start();
    for library in LIBRARIES {
        for (id, name) in [(r#""mia""#, "mia"), ("42", "42"), ("-1", "-1")] {
            library.store(&server, id);
            let app = library.node(&MemoryStore::new(), &server.url()).await;
            let mut visitor = Visitor::of(library);
            assert_eq!(visitor.name(&app).await, name);
            assert!(!library.is_stored(&server));
            assert_eq!(visitor.name(&app).await, name);
            let data = match library {
                Library::AxumSession => "/number?k=cart",
                Library::ActixSession => "/number?k=counter",
            };
            assert_eq!(visitor.get(&app, data).await.ok(), "7");
            visitor.get(&app, "/logout").await.ok();
            assert_eq!(visitor.name(&app).await, "");
        }
    }
}

#[tokio::test]
async fn a_session_without_a_user_stays_where_it_is() {
    let server = Server::start();
    for library in LIBRARIES {
        for id in ["null", "1.5", "{", r#"{"id":1}"#] {
            library.store(&server, id);
            let store = MemoryStore::new();
            let app = library.node(&store, &server.url()).await;
            let mut visitor = Visitor::of(library);
            assert_eq!(visitor.name(&app).await, "", "{id}");
            assert!(library.is_stored(&server), "{id}");
            assert_eq!((visitor.own.cookie, store.stats().sessions), (None, 0));
        }
    }
}

#[tokio::test]
async fn a_user_stays_signed_in_although_the_first_handler_fails() {
    let server = Server::start();
    for library in LIBRARIES {
        library.store(&server, r#""mia""#);
        let app = library.node(&MemoryStore::new(), &server.url()).await;
        let mut visitor = Visitor::of(library);
        assert_eq!(visitor.get(&app, "/fail?status=500").await.status, 500);
        assert_eq!(visitor.name(&app).await, "mia");
    }
}

#[tokio::test]
async fn a_former_store_that_fails_is_no_missing_session() {
    let server = Server::start();
    for library in LIBRARIES {
        for command in ["GET", "DEL"] {
            library.store(&server, r#""mia""#);
            let proxy = Proxy::before(server.address()).await;
            let store = MemoryStore::new();
            let app = library.node(&store, &proxy.url()).await;
            let mut visitor = Visitor::of(library);
            proxy.inject(command, Fault::LoseRequest, 1);
            assert_eq!(visitor.get(&app, "/whoami").await.status, 503, "{command}");
            assert_eq!(proxy.faults_left(), 0, "the fault happened");
            assert_eq!((&visitor.own.cookie, store.stats().sessions), (&None, 0));
            let app = library.node(&store, &server.url()).await;
            assert_eq!(visitor.name(&app).await, "mia", "{command}");
        }
    }
}

#[tokio::test]
async fn of_two_requests_at_once_one_takes_over_and_the_other_does_not_outlive_a_logout() {
    let server = Server::start();
    for library in LIBRARIES {
        library.store(&server, r#""mia""#);
        let proxy = Proxy::before(server.address()).await;
        let store = MemoryStore::new();
        let slow = library.node(&store, &proxy.url()).await;
        let app = library.node(&store, &server.url()).await;
        let mut visitor = Visitor::of(library);

        let held = proxy.hold("DEL");
        let mut tab = visitor.clone();
        let other = tokio::spawn(async move {
            let page = tab.get(&slow, "/whoami").await;
            (
                page.status,
                page.headers.get("retry-after").cloned(),
                tab.own.cookie,
            )
        });
        held.arrived().await;
        assert_eq!(visitor.name(&app).await, "mia");
        visitor.get(&app, "/logout").await.ok();
        held.release();
        let (status, retry_after, cookie) = other.await.unwrap();
        assert_eq!(
            (status.as_u16(), retry_after.unwrap().as_bytes()),
            (503, &b"1"[..])
        );
        assert_eq!((cookie, store.stats().sessions), (None, 0));
        assert_eq!(visitor.name(&app).await, "");
    }
}
