//! How do I sign users in with passkeys?
//!
//! Run `cargo run` in this folder, and open the address that it prints in a browser. The example stores sessions in memory, or in Redis
//! if `REDIS_URL` is set. `PORT` sets the port; 3000 by default.
//!
//! A registration and a sign-in have two requests each: the first gets a challenge, which the passkey signs, and the second brings the
//! signature. What the server must remember in between is a *state* of webauthn-rs, and the session keeps it:
//!
//! - The state has the challenge. It must not come back from the browser, which could send one of its choice, with a signature that
//!   it has seen before. A session on the server cannot be changed or replayed by a browser. That is what the feature
//!   `danger-allow-state-serialisation` asks for; a signed cookie would not do.
//! - It counts once: `take` gives it to one of the requests that ask for it, on whatever node they run.
//! - It belongs to the browser that began, as its session does.
#![allow(unreachable_pub, reason = "an example exports nothing")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use sessile::{
    CsrfLayer, Key, Logout, MemoryStore, Principal, RedisStore, Session, SessionError, SessionLayer,
};
use webauthn_rs::prelude::{
    CreationChallengeResponse, Passkey, PasskeyAuthentication, PasskeyRegistration,
    PublicKeyCredential, RegisterPublicKeyCredential, RequestChallengeResponse, Url, Uuid,
    WebauthnError,
};
use webauthn_rs::{Webauthn, WebauthnBuilder};

const REGISTRATION: Key<Begun<PasskeyRegistration>> = Key::new("passkeys/registration");
const SIGN_IN: Key<Begun<PasskeyAuthentication>> = Key::new("passkeys/sign-in");

/// The first half of a registration or a sign-in.
#[derive(Deserialize, Serialize)]
struct Begun<T> {
    name: String,
    state: T,
}

#[derive(Clone)]
struct Site {
    webauthn: Arc<Webauthn>,
    /// A stand-in for a table of the database: the passkeys of each user.
    users: Arc<Mutex<BTreeMap<String, Vec<Passkey>>>>,
}

impl Site {
    /// `origin` is the address of the site as browsers show it. Passkeys belong to its host, for ever.
    fn new(origin: &str) -> Result<Self, WebauthnError> {
        let origin = Url::parse(origin).map_err(|_| WebauthnError::Configuration)?;
        let host = origin.host_str().ok_or(WebauthnError::Configuration)?;
        let webauthn = WebauthnBuilder::new(host, &origin)?
            .rp_name("sessile")
            .build()?;
        Ok(Self {
            webauthn: Arc::new(webauthn),
            users: Arc::default(),
        })
    }
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

async fn begin_registration(
    session: Session,
    State(site): State<Site>,
    Json(Name { name }): Json<Name>,
) -> Result<Json<CreationChallengeResponse>, Failure> {
    // Somebody who has an account adds a passkey to it while they are signed in; this example has no page for that.
    if site.users.lock().unwrap().contains_key(&name) {
        return Err(Failure::NameTaken);
    }
    let id = Uuid::new_v4();
    let (challenge, state) = site
        .webauthn
        .start_passkey_registration(id, &name, &name, None)?;
    session.insert(REGISTRATION, Begun { name, state })?;
    Ok(Json(challenge))
}

async fn finish_registration(
    session: Session,
    State(site): State<Site>,
    Json(answer): Json<RegisterPublicKeyCredential>,
) -> Result<String, Failure> {
    let begun = session.take(REGISTRATION).await?.ok_or(Failure::NotBegun)?;
    let passkey = site
        .webauthn
        .finish_passkey_registration(&answer, &begun.state)?;
    {
        let mut users = site.users.lock().unwrap();
        if users.contains_key(&begun.name) {
            return Err(Failure::NameTaken);
        }
        users.insert(begun.name.clone(), vec![passkey]);
    }
    session.set_principal(begun.name.clone()).await?;
    Ok(begun.name)
}

/// Tells who has an account. Where that is a secret, let the browser choose the passkey (`start_discoverable_authentication`).
async fn begin_sign_in(
    session: Session,
    State(site): State<Site>,
    Json(Name { name }): Json<Name>,
) -> Result<Json<RequestChallengeResponse>, Failure> {
    let passkeys = site.users.lock().unwrap().get(&name).cloned();
    let passkeys = passkeys.ok_or(Failure::Unknown)?;
    let (challenge, state) = site.webauthn.start_passkey_authentication(&passkeys)?;
    session.insert(SIGN_IN, Begun { name, state })?;
    Ok(Json(challenge))
}

async fn finish_sign_in(
    session: Session,
    State(site): State<Site>,
    Json(answer): Json<PublicKeyCredential>,
) -> Result<String, Failure> {
    let begun = session.take(SIGN_IN).await?.ok_or(Failure::NotBegun)?;
    let result = site
        .webauthn
        .finish_passkey_authentication(&answer, &begun.state)?;
    if let Some(passkeys) = site.users.lock().unwrap().get_mut(&begun.name) {
        for passkey in passkeys {
            // The counter of a passkey grows, so that a copy of it is noticed.
            passkey.update_credential(&result);
        }
    }
    // The session gets a new token, so that a token which an attacker planted before the login is invalid.
    session.set_principal(begun.name.clone()).await?;
    Ok(begun.name)
}

async fn sign_out(logout: Logout) {
    logout.end_session();
}

enum Failure {
    NameTaken,
    Unknown,
    NotBegun,
    Passkey(WebauthnError),
    Session(SessionError),
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

impl From<WebauthnError> for Failure {
    fn from(error: WebauthnError) -> Self {
        Self::Passkey(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::NameTaken => (StatusCode::CONFLICT, "This name is taken."),
            Self::Unknown => (StatusCode::FORBIDDEN, "There is no such user."),
            Self::NotBegun => (
                StatusCode::FORBIDDEN,
                "This did not begin in this browser, or is over.",
            ),
            Self::Passkey(error) => {
                tracing::info!(%error, "a passkey was refused");
                (StatusCode::FORBIDDEN, "The passkey was refused.")
            }
            Self::Session(error) => return error.into_response(),
        };
        (status, text).into_response()
    }
}

fn app(site: Site, sessions: SessionLayer) -> Router {
    Router::new()
        .route("/", get(|| async { Html(include_str!("page.html")) }))
        .route("/register/begin", post(begin_registration))
        .route("/register/finish", post(finish_registration))
        .route("/sign-in/begin", post(begin_sign_in))
        .route("/sign-in/finish", post(finish_sign_in))
        .route("/sign-out", post(sign_out))
        .route(
            "/whoami",
            get(|user: Principal| async move { user.to_string() }),
        )
        .with_state(site)
        .layer(CsrfLayer::new())
        .layer(sessions)
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
    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    // A name, since browsers have no passkeys for an address; and without TLS only for this one.
    let origin = format!("http://localhost:{}", listener.local_addr()?.port());
    // This allows plain HTTP for a trial; remove the call in production.
    let app = app(Site::new(&origin)?, sessions.insecure_for_localhost());
    println!("open {origin}");
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    Ok(axum::serve(listener, app).await?)
}

#[cfg(test)]
mod tests;
