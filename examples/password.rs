//! How do I check passwords, and sign users in and out?
//!
//! Run `cargo run --example password` and open the address that it prints; the user is `mia`, her password `tulip`. The example
//! stores sessions in memory, or in Redis if `REDIS_URL` is set. `PORT` sets the port; 3000 by default.
//!
//! The `shop` has more: "remember me", a list of devices, a new password that signs out all others.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex};

use axum::Router;
use axum::extract::{Form, Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use form_urlencoded::byte_serialize;
use password_auth::{generate_hash, is_hash_obsolete, verify_password};
use serde::Deserialize;
use sessile::{
    CsrfLayer, LocalPath, Logout, MemoryStore, Principal, RedisStore, RequirePrincipal, Session,
    SessionError, SessionLayer,
};
use tokio::sync::Semaphore;

/// The hash of `tulip`, made years ago: with less memory than today's Argon2id takes.
const OLD_HASH: &str = "$argon2id$v=19$m=4096,t=3,p=1$55e1tqqseNSmKA/qibn7bQ$AsBHz6NMf5wVqzG77EIgYzBxGKK3KYwV7cMGRdW6RhM";

/// The hash that the password of an unknown user is compared with, so that the answer takes as long as for a known one.
static NOBODY: LazyLock<String> = LazyLock::new(|| generate_hash("nobody has this password"));

/// A stand-in for a table of the database: users and the hashes of their passwords.
#[derive(Clone)]
struct Users(Arc<Mutex<BTreeMap<String, String>>>);

impl Users {
    fn hash_of(&self, user: &str) -> Option<String> {
        self.0.lock().unwrap().get(user).cloned()
    }

    async fn is_right(&self, user: &str, password: String) -> bool {
        let known = self.hash_of(user);
        let (is_right, renewed) = hashing(move || {
            let hash = known.as_ref().unwrap_or(&NOBODY);
            let is_right = verify_password(&password, hash).is_ok() && known.is_some();
            // The password itself is here at a sign-in only: the time to hash it as is recommended today.
            let renew = is_right && is_hash_obsolete(hash).unwrap_or(true);
            (is_right, renew.then(|| generate_hash(&password)))
        })
        .await;
        if let Some(hash) = renewed {
            self.0.lock().unwrap().insert(user.to_owned(), hash);
        }
        is_right
    }
}

/// Runs this on a thread that may block. A hash takes 19 MiB and a core, so that a flood of sign-ins would leave none for the pages.
async fn hashing<T: Send + 'static>(hash: impl FnOnce() -> T + Send + 'static) -> T {
    static AT_ONCE: Semaphore = Semaphore::const_new(1);
    let _permit = AT_ONCE.acquire().await.expect("nobody closes it");
    let hashed = tokio::task::spawn_blocking(hash).await;
    hashed.expect("a hash does not panic")
}

/// The page that the visitor wanted, which `RequirePrincipal` adds to the address of the sign-in page.
#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    next: LocalPath,
}

/// The form names the wanted page in its address, percent-encoded.
fn sign_in_page(wanted: &Wanted, notice: &str) -> Html<String> {
    let next: String = byte_serialize(wanted.next.or("/").as_bytes()).collect();
    Html(format!(
        "<!doctype html><title>Sign in</title><p>{notice}</p>
        <form method=post action=\"/sign-in?next={next}\">
        <input name=name placeholder=name required autocomplete=username autofocus>
        <input name=password type=password placeholder=password required autocomplete=current-password>
        <button>Sign in</button></form>"
    ))
}

async fn show_sign_in(Query(wanted): Query<Wanted>) -> Html<String> {
    sign_in_page(&wanted, "")
}

#[derive(Deserialize)]
struct SignIn {
    name: String,
    password: String,
}

/// Limit the attempts for each name and each client's address, in the proxy or with a crate such as tower_governor. The session does
/// not help there: whoever guesses passwords sends no cookie.
async fn sign_in(
    session: Session,
    State(users): State<Users>,
    Query(wanted): Query<Wanted>,
    Form(SignIn { name, password }): Form<SignIn>,
) -> Result<Response, SessionError> {
    if !users.is_right(&name, password).await {
        // The same answer for a wrong name: it does not tell who has an account.
        let page = sign_in_page(&wanted, "Name or password is wrong.");
        return Ok((StatusCode::FORBIDDEN, page).into_response());
    }
    // The session gets a new token, so that a token which an attacker planted before the login is invalid.
    session.set_principal(name).await?;
    Ok(Redirect::to(wanted.next.or("/account")).into_response())
}

async fn account(user: Principal, State(users): State<Users>) -> Html<String> {
    let hash = users.hash_of(&user).unwrap_or_default();
    // Without the salt and the hash.
    let stored: Vec<&str> = hash.split('$').skip(1).take(3).collect();
    // Only names of `Users` sign in; a name that users choose themselves must be escaped.
    Html(format!(
        "<!doctype html><title>Account</title><p>Hello, {user}. Your password is stored with {}.</p>
        <form method=post action=/sign-out><button>Sign out</button></form>",
        stored.join(", "),
    ))
}

async fn sign_out(logout: Logout) -> Redirect {
    // Unlike `session.destroy()`, this does not load the session, so that users can sign out even if the store is unavailable.
    logout.end_session();
    Redirect::to("/")
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
    let mia = ("mia".to_owned(), OLD_HASH.to_owned());
    let users = Users(Arc::new(Mutex::new(BTreeMap::from([mia]))));
    let members = Router::new()
        .route("/account", get(account))
        .route_layer(RequirePrincipal::new().redirect_to("/sign-in")?);
    let app = Router::new()
        .route("/", get(|| async { Html("<a href=/account>Account</a>") }))
        .route("/sign-in", get(show_sign_in).post(sign_in))
        .route("/sign-out", post(sign_out))
        .merge(members)
        .with_state(users)
        // Other sites can neither sign a visitor out nor in to an account of theirs.
        .layer(CsrfLayer::new())
        // This allows plain HTTP for a trial; remove the call in production.
        .layer(sessions.insecure_for_localhost());

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("open http://{}", listener.local_addr()?);
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    Ok(axum::serve(listener, app).await?)
}
