//! How do I sign users in by another site, with OAuth 2?
//!
//! Run `cargo run --example oauth` and open the address that it prints. The other site is in the example, too: `provider.rs` listens
//! on a port of its own. The example stores sessions in memory, or in Redis if `REDIS_URL` is set. `PORT` sets the port; 3000 by
//! default.
//!
//! This is the authorization code flow with PKCE (RFC 6749 §4.1, RFC 7636), as RFC 9700 recommends it:
//!
//! 1. `/sign-in` notes an attempt in the session and sends the browser to the provider, with the attempt's `state`.
//! 2. The user agrees there, and the provider sends the browser back to `/callback`, with `state` and a code.
//! 3. `/callback` takes the attempt out of the session, exchanges the code for an access token, and asks who the user is.
//!
//! The session binds the callback to the browser that began: an attacker can make a victim's browser open a callback of the
//! attacker's, but its `state` is not in the victim's session. And it makes sure that each callback counts once.
//!
//! The callback comes from another site. Browsers send the session cookie along, since it is `SameSite=Lax`, which is the default, and
//! the callback is a `GET` that replaces the page. They would not with `SameSite=Strict`, nor for a provider that posts a form to the
//! callback (`response_mode=form_post`).
#![allow(unreachable_pub, reason = "an example exports nothing")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use oauth2::basic::BasicClient;
use oauth2::{
    AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointNotSet, EndpointSet,
    HttpRequest, HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl,
    TokenResponse as _, TokenUrl,
};
use serde::{Deserialize, Serialize};
use sessile::{
    CsrfLayer, Key, LocalPath, Logout, MemoryStore, Principal, RedisStore, RequirePrincipal,
    Session, SessionError, SessionLayer,
};
use tokio::net::TcpListener;

mod provider;

/// The sign-ins that this browser has begun, by `state`: one for each tab.
const ATTEMPTS: Key<BTreeMap<String, Attempt>> = Key::new("oauth/attempts");

/// How many of them a session keeps; one more pushes out the oldest.
const AT_ONCE: usize = 8;

/// How long a user may take at the provider.
const TIME: Duration = Duration::from_secs(10 * 60);

/// With OpenID Connect, the `nonce` belongs here as well.
#[derive(Clone, Deserialize, Serialize)]
struct Attempt {
    /// The secret of PKCE. The provider has its hash, and gets the secret itself with the code. The browser never sees it.
    verifier: String,
    next: Option<String>,
    begun: SystemTime,
}

impl Attempt {
    fn is_recent(&self) -> bool {
        // A time in the future is from a node whose clock is ahead.
        self.begun.elapsed().unwrap_or_default() < TIME
    }
}

#[derive(Clone)]
struct Provider(Arc<Settings>);

struct Settings {
    oauth: BasicClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>,
    user_info: String,
    http: reqwest::Client,
}

impl Provider {
    fn new(provider: SocketAddr, app: SocketAddr) -> Result<Self, Box<dyn std::error::Error>> {
        let oauth = BasicClient::new(ClientId::new(provider::CLIENT.to_owned()))
            .set_client_secret(ClientSecret::new(provider::SECRET.to_owned()))
            .set_auth_uri(AuthUrl::new(format!("http://{provider}/authorize"))?)
            .set_token_uri(TokenUrl::new(format!("http://{provider}/token"))?)
            .set_redirect_uri(RedirectUrl::new(format!("http://{app}/callback"))?);
        Ok(Self(Arc::new(Settings {
            oauth,
            user_info: format!("http://{provider}/userinfo"),
            // A redirect could lead the request, with its secrets, to any server.
            http: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .build()?,
        })))
    }

    /// Exchanges the code, and returns the user's id at the provider.
    async fn user(&self, code: String, attempt: Attempt) -> Result<String, Failure> {
        let http = &self.0.http;
        let send = |request| send(http.clone(), request);
        let exchange = self.0.oauth.exchange_code(AuthorizationCode::new(code));
        let verifier = PkceCodeVerifier::new(attempt.verifier);
        let exchanged = exchange.set_pkce_verifier(verifier).request_async(&send);
        let token = exchanged.await.map_err(Failure::at_provider)?;
        let token = token.access_token().secret();
        let asked = http.get(&self.0.user_info).bearer_auth(token).send().await;
        let answer = asked.and_then(reqwest::Response::error_for_status);
        let answer = answer.map_err(Failure::at_provider)?;
        let user = answer.bytes().await.map_err(Failure::at_provider)?;
        let user: provider::User = serde_json::from_slice(&user).map_err(Failure::at_provider)?;
        Ok(user.sub)
    }
}

/// Sends a request of the OAuth client, which brings no HTTP client of its own here.
async fn send(http: reqwest::Client, request: HttpRequest) -> reqwest::Result<HttpResponse> {
    let answer = http.execute(request.try_into()?).await?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let mut response = HttpResponse::new(answer.bytes().await?.into());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// The page that the visitor wanted, which `RequirePrincipal` adds to the address.
#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    next: LocalPath,
}

async fn sign_in(
    session: Session,
    State(provider): State<Provider>,
    Query(Wanted { next }): Query<Wanted>,
) -> Result<Redirect, SessionError> {
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let request = provider.0.oauth.authorize_url(CsrfToken::new_random);
    let (address, state) = request.set_pkce_challenge(challenge).url();
    let attempt = Attempt {
        verifier: verifier.into_secret(),
        next: next.as_str().map(str::to_owned),
        begun: SystemTime::now(),
    };
    // Two tabs may do this at once: the closure runs again on what the other one has written.
    session.update(ATTEMPTS, move |attempts| {
        attempts.retain(|_, attempt| attempt.is_recent());
        while attempts.len() >= AT_ONCE {
            let oldest = attempts.iter().min_by_key(|(_, attempt)| attempt.begun);
            let state = oldest.expect("there is one").0.clone();
            attempts.remove(&state);
        }
        attempts.insert(state.secret().clone(), attempt.clone());
    })?;
    Ok(Redirect::to(address.as_str()))
}

/// What the provider adds to the address of the callback: a code, or an error such as `access_denied`.
#[derive(Deserialize)]
struct Callback {
    state: String,
    code: Option<String>,
}

async fn callback(
    session: Session,
    State(provider): State<Provider>,
    Query(Callback { state, code }): Query<Callback>,
) -> Result<Redirect, Failure> {
    let attempt = take(&session, state).await?.ok_or(Failure::NotBegun)?;
    let next = attempt
        .next
        .clone()
        .unwrap_or_else(|| "/account".to_owned());
    let user = provider
        .user(code.ok_or(Failure::Declined)?, attempt)
        .await?;
    // The session gets a new token, and keeps its data: the attempts of other tabs, too.
    session.set_principal(user).await?;
    Ok(Redirect::to(&next))
}

/// Takes an attempt out of the session. Only one of several requests with the same `state` gets it, on whatever node it runs.
async fn take(session: &Session, state: String) -> Result<Option<Attempt>, SessionError> {
    if !session
        .get(ATTEMPTS)?
        .is_some_and(|all| all.contains_key(&state))
    {
        return Ok(None);
    }
    let taken = session.transaction(move |data| {
        let mut attempts = data.get(ATTEMPTS)?.unwrap_or_default();
        let attempt = attempts.remove(&state);
        data.insert(ATTEMPTS, attempts)?;
        Ok::<_, SessionError>(attempt)
    });
    Ok(taken.await?.filter(Attempt::is_recent))
}

/// Why a callback does not sign anybody in.
enum Failure {
    NotBegun,
    Declined,
    Provider,
    Session(SessionError),
}

impl Failure {
    /// The log gets the reason. An attacker who guesses codes does not.
    fn at_provider(error: impl std::error::Error + 'static) -> Self {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the provider did not name the user"
        );
        Self::Provider
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::NotBegun => (
                StatusCode::FORBIDDEN,
                "This sign-in did not begin in this browser, or is over.",
            ),
            Self::Declined => (StatusCode::FORBIDDEN, "You did not agree."),
            Self::Provider => (StatusCode::BAD_GATEWAY, "The provider did not answer."),
            Self::Session(error) => return error.into_response(),
        };
        let page = format!("<!doctype html><p>{text} <a href=/sign-in>Sign in</a></p>");
        (status, Html(page)).into_response()
    }
}

async fn home(user: Option<Principal>) -> Html<&'static str> {
    Html(match user {
        Some(_) => "<!doctype html><a href=/account>Account</a>",
        None => "<!doctype html><a href=\"/sign-in?next=/account\">Sign in</a>",
    })
}

async fn account(user: Principal) -> Html<String> {
    // The provider's ids are numbers; escape text that comes from elsewhere.
    Html(format!(
        "<!doctype html><p>Hello, user {user}.</p>
        <form method=post action=/sign-out><button>Sign out</button></form>"
    ))
}

async fn sign_out(logout: Logout) -> Redirect {
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
    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let app = listener.local_addr()?;
    let beside = TcpListener::bind("127.0.0.1:0").await?;
    let provider = Provider::new(beside.local_addr()?, app)?;
    let other_site = provider::router(format!("http://{app}/callback"));
    tokio::spawn(axum::serve(beside, other_site).into_future());

    let members = Router::new()
        .route("/account", get(account))
        .route_layer(RequirePrincipal::new().redirect_to("/sign-in")?);
    let routes = Router::new()
        .route("/", get(home))
        .route("/sign-in", get(sign_in))
        .route("/callback", get(callback))
        .route("/sign-out", post(sign_out))
        .merge(members)
        .with_state(provider)
        .layer(CsrfLayer::new())
        // This allows plain HTTP for a trial; remove the call in production.
        .layer(sessions.insecure_for_localhost());
    println!("open http://{app}");
    let routes = routes.into_make_service_with_connect_info::<SocketAddr>();
    Ok(axum::serve(listener, routes).await?)
}
