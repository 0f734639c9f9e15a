//! A tiny OAuth 2 provider: just enough to try the client against. It has no sign-in of its own and two users.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use oauth2::CsrfToken;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use url::Url;

/// What the provider knows the application by.
pub const CLIENT: &str = "sessile-example";
pub const SECRET: &str = "a secret of the application";

#[derive(Clone)]
struct Site(Arc<Registered>);

struct Registered {
    /// The only address that codes are sent to.
    callback: String,
    codes: Mutex<BTreeMap<String, Grant>>,
    /// Users, by access token.
    tokens: Mutex<BTreeMap<String, String>>,
}

/// What a user has agreed to: the application may learn who they are, if it knows the verifier of this challenge.
struct Grant {
    user: String,
    challenge: String,
}

#[derive(Deserialize, Serialize)]
pub struct User {
    /// The user's id, which never changes.
    pub sub: String,
}

/// The application's request (RFC 6749 §4.1.1, RFC 7636 §4.3).
#[derive(Deserialize)]
struct Authorize {
    response_type: String,
    client_id: String,
    redirect_uri: String,
    state: String,
    code_challenge: String,
    code_challenge_method: String,
}

#[derive(Deserialize)]
struct Consent {
    /// Empty if they do not agree.
    user: String,
}

#[derive(Deserialize)]
struct Exchange {
    code: String,
    code_verifier: String,
    redirect_uri: String,
}

pub fn router(callback: String) -> Router {
    let site = Site(Arc::new(Registered {
        callback,
        codes: Mutex::default(),
        tokens: Mutex::default(),
    }));
    Router::new()
        .route("/authorize", get(ask).post(decide))
        .route("/token", post(token))
        .route("/userinfo", get(user_info))
        .with_state(site)
}

impl Registered {
    fn is_valid(&self, request: &Authorize) -> bool {
        request.response_type == "code"
            && request.client_id == CLIENT
            && request.redirect_uri == self.callback
            && request.code_challenge_method == "S256"
    }
}

/// The page that asks the user. Its form goes to the same address, with the application's request in the query.
async fn ask(State(Site(site)): State<Site>, Query(request): Query<Authorize>) -> Response {
    if !site.is_valid(&request) {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let page = "<!doctype html><title>Provider</title>
        <form method=post><p>Who are you, and may the application know?</p>
        <button name=user value=1>I am user 1: yes</button>
        <button name=user value=2>I am user 2: yes</button>
        <button name=user value=\"\">No</button></form>";
    Html(page).into_response()
}

async fn decide(
    State(Site(site)): State<Site>,
    Query(request): Query<Authorize>,
    Form(Consent { user }): Form<Consent>,
) -> Response {
    if !site.is_valid(&request) {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let mut callback = Url::parse(&site.callback).expect("the application's address");
    let mut answer = callback.query_pairs_mut();
    answer.append_pair("state", &request.state);
    if user.is_empty() {
        answer.append_pair("error", "access_denied");
    } else {
        let code = CsrfToken::new_random().into_secret();
        answer.append_pair("code", &code);
        let challenge = request.code_challenge;
        site.codes
            .lock()
            .unwrap()
            .insert(code, Grant { user, challenge });
    }
    drop(answer);
    Redirect::to(callback.as_str()).into_response()
}

async fn token(
    State(Site(site)): State<Site>,
    headers: HeaderMap,
    Form(exchange): Form<Exchange>,
) -> Response {
    // RFC 6749 §2.3.1: both are form-encoded first.
    let encode =
        |text: &str| -> String { url::form_urlencoded::byte_serialize(text.as_bytes()).collect() };
    let basic = STANDARD.encode(format!("{}:{}", encode(CLIENT), encode(SECRET)));
    let authorization = headers.get(header::AUTHORIZATION);
    if authorization.is_none_or(|it| it.as_bytes() != format!("Basic {basic}").as_bytes()) {
        let error = json!({ "error": "invalid_client" });
        return (StatusCode::UNAUTHORIZED, Json(error)).into_response();
    }
    // A code counts once.
    let grant = site.codes.lock().unwrap().remove(&exchange.code);
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&exchange.code_verifier));
    let grant =
        grant.filter(|it| it.challenge == challenge && exchange.redirect_uri == site.callback);
    let Some(Grant { user, .. }) = grant else {
        let error = json!({ "error": "invalid_grant" });
        return (StatusCode::BAD_REQUEST, Json(error)).into_response();
    };
    let token = CsrfToken::new_random().into_secret();
    site.tokens.lock().unwrap().insert(token.clone(), user);
    Json(json!({ "access_token": token, "token_type": "Bearer" })).into_response()
}

async fn user_info(
    State(Site(site)): State<Site>,
    headers: HeaderMap,
) -> Result<Json<User>, StatusCode> {
    let authorization = headers.get(header::AUTHORIZATION);
    let token = authorization.and_then(|it| it.to_str().ok()?.strip_prefix("Bearer "));
    let user = token.and_then(|token| site.tokens.lock().unwrap().get(token).cloned());
    let sub = user.ok_or(StatusCode::UNAUTHORIZED)?;
    Ok(Json(User { sub }))
}
