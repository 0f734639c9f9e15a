//! Whole requests through an axum router, without a network.

use axum::Router;
use axum::body::Body;
use axum::extract::Query;
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{HeaderValue, Request, Response};
use axum::routing::get;
use serde::Deserialize;
use sessile::{Load, Session, SessionError, SessionLayer, SessionStore};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;

/// A browser, and the application that it visits.
pub(crate) struct Visitor {
    runtime: Runtime,
    app: Router,
    cookie: Option<HeaderValue>,
}

/// The values of a session: how many, and how many bytes of JSON they are together.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Shape {
    pub(crate) values: usize,
    pub(crate) bytes: usize,
}

async fn plain() -> &'static str {
    "hello"
}

async fn fill(session: Session, Query(shape): Query<Shape>) -> Result<(), SessionError> {
    // Without the quotes.
    let text = "x".repeat((shape.bytes / shape.values).saturating_sub(2));
    for number in 0..shape.values {
        session.insert(format!("value{number:02}"), &text)?;
    }
    Ok(())
}

async fn read(session: Session) -> Result<String, SessionError> {
    Ok(session.get::<String>("value00")?.unwrap_or_default())
}

async fn change(session: Session) -> Result<String, SessionError> {
    Ok(session.increment("visits", 1)?.to_string())
}

impl Visitor {
    /// A visitor of the application without sessile.
    pub(crate) fn without_layer() -> Self {
        Self::of(Router::new().route("/plain", get(plain)))
    }

    /// A visitor without a session.
    pub(crate) fn new(store: impl SessionStore, load: Load) -> Self {
        let app = Router::new()
            .route("/plain", get(plain))
            .route("/fill", get(fill))
            .route("/read", get(read))
            .route("/change", get(change));
        Self::of(app.layer(SessionLayer::new(store).with_load(load)))
    }

    /// A visitor with a session of this shape.
    pub(crate) fn with_session(store: impl SessionStore, load: Load, shape: Shape) -> Self {
        let mut visitor = Self::new(store, load);
        let Shape { values, bytes } = shape;
        let fill = visitor.request(&format!("/fill?values={values}&bytes={bytes}"));
        let filled = visitor.send(fill);
        let cookie = filled.headers()[SET_COOKIE].to_str().unwrap();
        let pair = cookie.split(';').next().unwrap();
        visitor.cookie = Some(pair.parse().unwrap());
        visitor
    }

    fn of(app: Router) -> Self {
        Self {
            runtime: Builder::new_current_thread().enable_all().build().unwrap(),
            app,
            cookie: None,
        }
    }

    pub(crate) fn request(&self, path: &str) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = path.parse().unwrap();
        if let Some(cookie) = &self.cookie {
            request.headers_mut().insert(COOKIE, cookie.clone());
        }
        request
    }

    pub(crate) fn send(&self, request: Request<Body>) -> Response<Body> {
        let response = self.app.clone().oneshot(request);
        let response = self.runtime.block_on(response).unwrap();
        assert!(response.status().is_success(), "{}", response.status());
        response
    }
}
