//! How do I log users in and out?
//!
//! Run `cargo run --example login` and open the address that it prints; the user is `mia`, her password `tulip`. The example stores
//! sessions in memory, or in Redis if `REDIS_URL` is set. `PORT` sets the port; 3000 by default.

use axum::Router;
use axum::extract::Form;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use sessile::{Key, Logout, MemoryStore, RedisStore, Session, SessionError, SessionLayer};

const NOTICE: Key<String> = Key::new("notice");

#[derive(Deserialize)]
struct Credentials {
    user: String,
    password: String,
}

/// Stands for a look-up of the user and a check of the password's hash, with a crate such as argon2.
fn is_known(credentials: &Credentials) -> bool {
    credentials.user == "mia" && credentials.password == "tulip"
}

async fn home(session: Session) -> Result<Html<String>, SessionError> {
    // Only one page shows the notice, even if two tabs load at once.
    let notice = session.take(NOTICE).await?.unwrap_or_default();
    let form = match session.principal() {
        // `is_known` has checked the name; a name that users choose themselves must be escaped.
        Some(user) => format!(
            "<p>Hello, {user}. <form method=post action=/logout><button>Sign out</button></form>"
        ),
        None => "<form method=post action=/login>
            <input name=user placeholder=user autofocus> <input name=password type=password placeholder=password>
            <button>Sign in</button></form>"
            .to_owned(),
    };
    Ok(Html(format!(
        "<!doctype html><title>login</title><p>{notice}</p>{form}"
    )))
}

async fn login(
    session: Session,
    Form(credentials): Form<Credentials>,
) -> Result<Response, SessionError> {
    if !is_known(&credentials) {
        session.insert(NOTICE, "User or password is wrong.".to_owned())?;
        return Ok(Redirect::to("/").into_response());
    }
    // The session gets a new token, so that a token which an attacker planted before the login is invalid.
    session.set_principal(credentials.user).await?;
    session.insert(NOTICE, "You are signed in.".to_owned())?;
    Ok(Redirect::to("/").into_response())
}

async fn logout(logout: Logout) -> Redirect {
    // Unlike `session.destroy()`, this does not load the session, so that users can sign out even if the store is unavailable.
    logout.end_session();
    Redirect::to("/")
}

async fn whoami(session: Session) -> Result<String, StatusCode> {
    session.principal().ok_or(StatusCode::UNAUTHORIZED)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter("info,sessile=debug")
        .init();
    let sessions = match std::env::var("REDIS_URL") {
        Ok(url) => SessionLayer::new(RedisStore::from_url(url).await?),
        Err(_) => SessionLayer::new(MemoryStore::new()),
    };
    let app = Router::new()
        .route("/", get(home))
        .route("/login", post(login))
        .route("/logout", post(logout))
        .route("/whoami", get(whoami))
        // This allows plain HTTP for a trial; remove the call in production.
        .layer(sessions.insecure_for_localhost());

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("open http://{}", listener.local_addr()?);
    let app = app.into_make_service_with_connect_info::<std::net::SocketAddr>();
    Ok(axum::serve(listener, app).await?)
}
