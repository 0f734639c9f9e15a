//! Both layers at once: the middlewares of `docs/migration/tower-sessions.md` and `docs/migration/axum-login.md`, which take a session
//! over into sessile's own layer.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{COOKIE, RETRY_AFTER, SET_COOKIE};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, extract::Path};
use axum_login::{AuthManagerLayerBuilder, AuthSession, AuthUser as _, AuthnBackend};
use http_body_util::BodyExt as _;
use serde_json::Value;
use sessile::testing::{Call, Fault, TestStore};
use sessile::{MemoryStore, Session, SessionError, SessionLayer};
use sessile_tower_sessions::SessileStore;
use tower::ServiceExt as _;
use tower_sessions::SessionManagerLayer;

use crate::axum_login::Backend;
use crate::support::memory;

/// A visitor with several cookies.
#[derive(Clone, Default)]
struct Visitor(BTreeMap<String, String>);

impl Visitor {
    async fn get(&mut self, app: &Router, path: &str) -> String {
        let (status, text) = self.fetch(app, path).await;
        assert!(status.is_success(), "{path}: {status}");
        text
    }

    async fn fetch(&mut self, app: &Router, path: &str) -> (StatusCode, String) {
        let cookies: Vec<_> = self
            .0
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let request = Request::get(path).header(COOKIE, cookies.join("; "));
        let response = app
            .clone()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        let status = response.status();
        for cookie in response.headers().get_all(SET_COOKIE) {
            let (name, rest) = cookie.to_str().unwrap().split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            match value {
                "" => self.0.remove(name),
                value => self.0.insert(name.to_owned(), value.to_owned()),
            };
        }
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}

async fn show(session: Session) -> String {
    let cart: Option<i64> = session.get("cart").unwrap();
    format!("{:?} {cart:?}", session.principal())
}

async fn logout(session: Session) {
    session.destroy();
}

async fn take_over(
    session: Session,
    former: tower_sessions::Session,
    request: Request,
    next: Next,
) -> Result<Response, SessionError> {
    let user = match session.is_new() {
        true => former.get_value("user").await,
        false => Ok(None),
    };
    let Ok(user) = user else {
        return Ok(try_again()); // a visitor whose session cannot be read is not one without a session
    };
    if let Some(user) = user.as_ref().and_then(Value::as_str) {
        session.set_principal(user).await?;
        if let Ok(Some(cart)) = former.get_value("cart").await {
            session.insert("cart", cart)?;
        }
        session.save().await?; // it is stored before the other one ends
        if former.flush().await.is_err() {
            session.destroy(); // two sessions would remain, and the other one would outlive a logout
            return Ok(try_again());
        }
    }
    Ok(next.run(request).await)
}

fn try_again() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")]).into_response()
}

async fn login(session: tower_sessions::Session) {
    session.insert("user", "mia").await.unwrap();
    session.insert("cart", 7).await.unwrap();
}

fn with_take_over<S: sessile::SessionStore>(
    store: &MemoryStore,
    former: SessileStore<S>,
) -> Router {
    Router::new()
        .route("/show", get(show))
        .route("/logout", get(logout))
        .layer(from_fn(take_over))
        .layer(SessionLayer::new(store.clone()))
        .layer(SessionManagerLayer::new(former))
}

#[tokio::test]
async fn a_session_of_tower_sessions_is_taken_over_once_and_ends_with_the_logout() {
    let former = memory();
    let before = Router::new()
        .route("/login", get(login))
        .layer(SessionManagerLayer::new(former.clone()));
    let after = with_take_over(&MemoryStore::new(), former);

    let mut stranger = Visitor::default();
    assert_eq!(stranger.get(&after, "/show").await, "None None");
    assert!(stranger.0.is_empty());

    let mut visitor = Visitor::default();
    visitor.get(&before, "/login").await;
    let copy = visitor.clone();
    assert_eq!(visitor.get(&after, "/show").await, r#"Some("mia") Some(7)"#);
    assert_eq!(visitor.0.keys().collect::<Vec<_>>(), ["__Host-id"]);
    assert_eq!(visitor.get(&after, "/show").await, r#"Some("mia") Some(7)"#);
    assert_eq!(
        copy.clone().get(&after, "/show").await,
        "None None",
        "it is over"
    );
    let signed_in = visitor.clone();
    visitor.get(&after, "/logout").await;
    for mut visitor in [visitor, signed_in, copy] {
        assert_eq!(visitor.get(&after, "/show").await, "None None");
    }
}

/// While the former store fails, the visitor gets 503 and keeps what is there; then the session is taken over, and its logout is final.
async fn takes_over_once_the_former_store_works(
    mut visitor: Visitor,
    app: &Router,
    store: &MemoryStore,
    former: &TestStore,
    calls: &[Call],
) {
    for call in calls {
        former.fail_all(*call, Fault::Refuse);
        let before = visitor.0.clone();
        assert_eq!(visitor.fetch(app, "/show").await.0, 503, "{call:?}");
        assert_eq!((&visitor.0, store.stats().sessions), (&before, 0));
        former.recover();
    }
    let copy = visitor.clone();
    assert!(visitor.get(app, "/show").await.contains("mia"));
    visitor.get(app, "/logout").await;
    for mut visitor in [visitor, copy] {
        assert_eq!(visitor.get(app, "/show").await, "None None");
    }
}

#[tokio::test]
async fn a_session_of_tower_sessions_is_not_taken_over_while_it_cannot_be_deleted() {
    let (store, former) = (MemoryStore::new(), TestStore::new());
    let adapter = SessileStore::new(former.clone());
    let before = Router::new()
        .route("/login", get(login))
        .layer(SessionManagerLayer::new(adapter.clone()));
    let app = with_take_over(&store, adapter);
    let mut visitor = Visitor::default();
    visitor.get(&before, "/login").await;
    let calls = [Call::Load, Call::Delete];
    takes_over_once_the_former_store_works(visitor, &app, &store, &former, &calls).await;
}

async fn take_over_login<B>(
    session: Session,
    mut former: AuthSession<B>,
    request: Request,
    next: Next,
) -> Result<Response, SessionError>
where
    B: AuthnBackend + Send + Sync + 'static,
    B::User: 'static,
{
    let user = former.user.clone().filter(|_| session.is_new());
    if let Some(user) = user {
        session.set_principal(user.id().to_string()).await?;
        session.save().await?; // it is stored before the other one ends
        if former.logout().await.is_err() {
            session.destroy(); // two sessions would remain, and the other one would outlive a logout
            return Ok((StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")]).into_response());
        }
    }
    Ok(next.run(request).await)
}

/// The application before and after, with axum-login.
fn with_axum_login<S: sessile::SessionStore>(
    store: &MemoryStore,
    former: SessileStore<S>,
) -> [Router; 2] {
    async fn login(mut auth: AuthSession<Backend>, Path(name): Path<String>) {
        let user = auth.authenticate(name).await.unwrap().unwrap();
        auth.login(&user).await.unwrap();
    }
    let sessions = tower_sessions_0_14::SessionManagerLayer::new(former);
    let auth = AuthManagerLayerBuilder::new(Backend, sessions).build();
    let before = Router::new()
        .route("/login/{name}", get(login))
        .layer(auth.clone());
    let after = Router::new()
        .route("/show", get(show))
        .route("/logout", get(logout))
        .layer(from_fn(take_over_login::<Backend>))
        .layer(SessionLayer::new(store.clone()))
        .layer(auth);
    [before, after]
}

#[tokio::test]
async fn a_login_of_axum_login_is_taken_over_once_and_ends_with_the_logout() {
    let [before, after] = with_axum_login(&MemoryStore::new(), memory());
    let mut visitor = Visitor::default();
    visitor.get(&before, "/login/mia").await;
    let copy = visitor.clone();
    assert_eq!(visitor.get(&after, "/show").await, r#"Some("mia") None"#);
    assert_eq!(visitor.0.keys().collect::<Vec<_>>(), ["__Host-id"]);
    visitor.get(&after, "/logout").await;
    for mut visitor in [visitor, copy] {
        assert_eq!(visitor.get(&after, "/show").await, "None None");
    }
}

#[tokio::test]
async fn a_login_of_axum_login_is_not_taken_over_while_it_cannot_be_deleted() {
    let (store, former) = (MemoryStore::new(), TestStore::new());
    let [before, after] = with_axum_login(&store, SessileStore::new(former.clone()));
    let mut visitor = Visitor::default();
    visitor.get(&before, "/login/mia").await;
    let calls = [Call::Delete];
    takes_over_once_the_former_store_works(visitor, &after, &store, &former, &calls).await;
}
