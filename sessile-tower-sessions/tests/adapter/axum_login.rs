//! axum-login, which uses tower-sessions 0.14.

use std::collections::HashSet;
use std::convert::Infallible;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::get;
use axum_login::{
    AuthManagerLayerBuilder, AuthUser, AuthnBackend, AuthzBackend, login_required,
    permission_required,
};
use sessile::SessionStore;
use sessile_tower_sessions::SessileStore;
use tower_sessions_0_14::{Session, SessionManagerLayer};

use crate::support::{Browser, on_both_stores};

#[derive(Clone, Debug)]
pub struct User(String);

impl AuthUser for User {
    type Id = String;

    fn id(&self) -> String {
        self.0.clone()
    }

    fn session_auth_hash(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Users who are called as they say.
#[derive(Clone)]
pub struct Backend;

impl AuthnBackend for Backend {
    type User = User;
    type Credentials = String;
    type Error = Infallible;

    async fn authenticate(&self, name: String) -> Result<Option<User>, Infallible> {
        Ok((name != "nobody").then_some(User(name)))
    }

    async fn get_user(&self, name: &String) -> Result<Option<User>, Infallible> {
        Ok(Some(User(name.clone())))
    }
}

impl AuthzBackend for Backend {
    type Permission = String;

    async fn get_group_permissions(&self, user: &User) -> Result<HashSet<String>, Infallible> {
        let permissions = if user.0 == "admin" {
            vec!["delete"]
        } else {
            Vec::new()
        };
        Ok(permissions.into_iter().map(str::to_owned).collect())
    }
}

type AuthSession = axum_login::AuthSession<Backend>;

async fn login(mut auth: AuthSession, Path(name): Path<String>) -> StatusCode {
    match auth.authenticate(name).await.unwrap() {
        Some(user) => {
            auth.login(&user).await.unwrap();
            StatusCode::OK
        }
        None => StatusCode::UNAUTHORIZED,
    }
}

async fn logout(mut auth: AuthSession) {
    auth.logout().await.unwrap();
}

async fn name(auth: AuthSession) -> String {
    auth.user.map_or("nobody".to_owned(), |user| user.0)
}

async fn count(session: Session) -> String {
    let count: i64 = session.get("count").await.unwrap().unwrap_or_default();
    session.insert("count", count + 1).await.unwrap();
    count.to_string()
}

fn app<S: SessionStore>(store: SessileStore<S>) -> Router {
    let sessions = SessionManagerLayer::new(store);
    let auth = AuthManagerLayerBuilder::new(Backend, sessions).build();
    Router::new()
        .route("/delete", get(name))
        .route_layer(permission_required!(Backend, "delete".to_owned()))
        .route("/account", get(name))
        .route_layer(login_required!(Backend, login_url = "/login"))
        .route("/login/{name}", get(login))
        .route("/logout", get(logout))
        .route("/name", get(name))
        .route("/count", get(count))
        .layer(auth)
}

on_both_stores!(
    a_user_signs_in_is_permitted_and_signs_out,
    a_login_replaces_the_id_and_keeps_the_data
);

async fn a_user_signs_in_is_permitted_and_signs_out<S: SessionStore>(store: SessileStore<S>) {
    let app = app(store);
    let mut browser = Browser::default();
    assert_eq!(browser.get(&app, "/account").await.0, 307);
    assert_eq!(browser.get(&app, "/login/nobody").await.0, 401);
    assert_eq!(browser.get(&app, "/login/mia").await.0, 200);
    assert_eq!(
        browser.get(&app, "/account").await,
        (StatusCode::OK, "mia".to_owned())
    );
    assert_eq!(browser.get(&app, "/delete").await.0, 403);
    let of_mia = browser.clone();
    assert_eq!(browser.get(&app, "/logout").await.0, 200);
    assert_eq!(browser.cookie, None);
    assert_eq!(of_mia.clone().get(&app, "/name").await.1, "nobody");

    assert_eq!(browser.get(&app, "/login/admin").await.0, 200);
    assert_eq!(
        browser.get(&app, "/delete").await,
        (StatusCode::OK, "admin".to_owned())
    );
}

async fn a_login_replaces_the_id_and_keeps_the_data<S: SessionStore>(store: SessileStore<S>) {
    let app = app(store);
    let mut browser = Browser::default();
    assert_eq!(browser.get(&app, "/count").await.1, "0");
    let before = browser.clone();
    assert_eq!(browser.get(&app, "/login/mia").await.0, 200);
    assert_ne!(browser.cookie, before.cookie);
    assert_eq!(browser.get(&app, "/count").await.1, "1");
    assert_eq!(browser.get(&app, "/name").await.1, "mia");
    assert_eq!(before.clone().get(&app, "/name").await.1, "nobody");
    assert_eq!(before.clone().get(&app, "/count").await.1, "0");
}
