//! Both layers at once: the middlewares of `docs/migration/tower-sessions.md` and `docs/migration/axum-login.md`, which take a session
//! over into sessile's own layer.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use axum::{Router, extract::Path};
use axum_login::{AuthManagerLayerBuilder, AuthSession, AuthUser as _, AuthnBackend};
use http_body_util::BodyExt as _;
use sessile::{MemoryStore, Session, SessionError, SessionLayer};
use tower::ServiceExt as _;
use tower_sessions::SessionManagerLayer;

use crate::axum_login::Backend;
use crate::support::memory;

/// A visitor with several cookies.
#[derive(Clone, Default)]
struct Visitor(BTreeMap<String, String>);

impl Visitor {
    async fn get(&mut self, app: &Router, path: &str) -> String {
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
        assert!(
            response.status().is_success(),
            "{path}: {}",
            response.status()
        );
        for cookie in response.headers().get_all(SET_COOKIE) {
            let (name, rest) = cookie.to_str().unwrap().split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            match value {
                "" => self.0.remove(name),
                value => self.0.insert(name.to_owned(), value.to_owned()),
            };
        }
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
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
        true => former.get::<String>("user").await.unwrap_or_default(),
        false => None,
    };
    if let Some(user) = user {
        session.set_principal(user).await?;
        if let Ok(Some(cart)) = former.get_value("cart").await {
            session.insert("cart", cart)?;
        }
        session.save().await?;
        let _ = former.flush().await;
    }
    Ok(next.run(request).await)
}

#[tokio::test]
async fn a_session_of_tower_sessions_is_taken_over_once_and_ends_with_the_logout() {
    let former = memory();
    async fn login(session: tower_sessions::Session) {
        session.insert("user", "mia").await.unwrap();
        session.insert("cart", 7).await.unwrap();
    }
    let before = Router::new()
        .route("/login", get(login))
        .layer(SessionManagerLayer::new(former.clone()));
    let after = Router::new()
        .route("/show", get(show))
        .route("/logout", get(logout))
        .layer(from_fn(take_over))
        .layer(SessionLayer::new(MemoryStore::new()))
        .layer(SessionManagerLayer::new(former));

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
        session.save().await?;
        let _ = former.logout().await;
    }
    Ok(next.run(request).await)
}

#[tokio::test]
async fn a_login_of_axum_login_is_taken_over_once_and_ends_with_the_logout() {
    async fn login(mut auth: AuthSession<Backend>, Path(name): Path<String>) {
        let user = auth.authenticate(name).await.unwrap().unwrap();
        auth.login(&user).await.unwrap();
    }
    let sessions = tower_sessions_0_14::SessionManagerLayer::new(memory());
    let auth = AuthManagerLayerBuilder::new(Backend, sessions).build();
    let before = Router::new()
        .route("/login/{name}", get(login))
        .layer(auth.clone());
    let after = Router::new()
        .route("/show", get(show))
        .route("/logout", get(logout))
        .layer(from_fn(take_over_login::<Backend>))
        .layer(SessionLayer::new(MemoryStore::new()))
        .layer(auth);

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
