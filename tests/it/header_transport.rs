//! Sessions of API clients, whose token travels in a header, beside those of browsers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request as Incoming;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::routing::get;
use sessile::store::ManualClock;
use sessile::{
    ConfigError, CookieConfig, CsrfLayer, Event, Logout, MemoryStore, Session, SessionConfig,
    SessionError, SessionLayer, TokenHeader, Transport,
};

use crate::support::Browser;
use crate::support::app::routes;
use crate::support::browser::{Page, fetch};

fn bearer() -> Transport {
    Transport::Header(TokenHeader::default())
}

/// A client that sends the last token it was sent.
#[derive(Clone, Default)]
struct Client {
    token: Option<String>,
}

impl Client {
    fn with(token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
        }
    }

    async fn get(&mut self, app: &Router, path: &str) -> Page {
        let header = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let headers = header.iter().map(|it| ("authorization", it.as_str()));
        let page = ask(app, path, &headers.collect::<Vec<_>>()).await;
        if let Some(token) = token(&page) {
            self.token = Some(token.to_owned());
        }
        page
    }
}

async fn ask(app: &Router, path: &str, headers: &[(&str, &str)]) -> Page {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    fetch(app, request.body(Body::empty()).unwrap()).await
}

fn token(page: &Page) -> Option<&str> {
    let mut tokens = page.headers.get_all("x-session-token").iter();
    let token = tokens.next()?;
    assert!(tokens.next().is_none() && token.is_sensitive());
    Some(token.to_str().unwrap())
}

fn vary(page: &Page) -> Vec<&str> {
    let values = page.headers.get_all("vary").iter();
    values.map(|value| value.to_str().unwrap()).collect()
}

async fn who(session: Session) -> Result<String, StatusCode> {
    session.principal().ok_or(StatusCode::UNAUTHORIZED)
}

/// One application for browsers at the root and for API clients below `/api`, on one store.
fn site(layer: SessionLayer) -> Router {
    let api = layer.clone().with_transport(bearer()).unwrap();
    let api = routes().route("/who", get(who)).layer(api);
    routes().layer(layer).nest("/api", api)
}

#[tokio::test]
async fn an_api_client_and_a_browser_have_sessions_in_one_application() {
    let store = MemoryStore::new();
    let app = site(SessionLayer::new(store.clone()));
    let (mut client, mut browser) = (Client::default(), Browser::default());

    // A new visitor who changes nothing gets no token.
    let page = client.get(&app, "/api/who").await;
    assert_eq!(
        (page.status, token(&page)),
        (StatusCode::UNAUTHORIZED, None)
    );
    assert_eq!(vary(&page), ["authorization"]);
    // A new session, a login and a rotation bring a token, which no cache may keep.
    let mut tokens = Vec::new();
    for path in ["set?k=cart&v=tulip", "login?u=mia", "cycle"] {
        let page = client.get(&app, &format!("/api/{path}")).await;
        assert_eq!(page.headers["cache-control"], "no-store", "{path}");
        assert_eq!(vary(&page), ["authorization"]);
        assert_eq!(page.set_cookies().len(), 0);
        tokens.push(token(&page).unwrap().to_owned());
        page.ok();
    }
    tokens.dedup();
    assert_eq!(tokens.len(), 3);
    // Nothing else does.
    for (path, text) in [
        ("who", "mia"),
        ("get?k=cart", "\"tulip\""),
        ("incr?k=n", "1"),
        ("plain", "plain"),
    ] {
        let page = client.get(&app, &format!("/api/{path}")).await;
        assert_eq!(
            (token(&page), page.set_cookies().len()),
            (None, 0),
            "{path}"
        );
        assert_eq!(page.ok(), text);
    }
    // A page that does not use the session may be cached.
    let page = client.get(&app, "/api/plain").await;
    assert!(vary(&page).is_empty() && !page.headers.contains_key("cache-control"));

    browser.get(&app, "/login?u=leo").await.ok();
    let page = browser.get(&app, "/whoami").await;
    assert_eq!((token(&page), vary(&page)), (None, vec!["cookie"]));
    assert_eq!(page.ok(), "leo");
    assert_eq!(store.stats().sessions, 2);

    // The first tokens were replaced, and no longer open the session.
    for old in &tokens[..2] {
        let page = Client::with(old).get(&app, "/api/who").await;
        assert_eq!(
            (page.status, token(&page)),
            (StatusCode::UNAUTHORIZED, None)
        );
    }
    // After a logout, the response has no token, and the one that the client has opens nothing.
    let page = client.get(&app, "/api/logout").await;
    assert_eq!((token(&page), page.set_cookies().len()), (None, 0));
    page.ok();
    assert_eq!(
        client.get(&app, "/api/who").await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(store.stats().sessions, 1);
    assert_eq!(browser.get(&app, "/whoami").await.ok(), "leo");
    // The next change begins a new session.
    let page = client.get(&app, "/api/incr?k=n").await;
    assert!(token(&page).is_some_and(|token| !tokens.iter().any(|it| it == token)));
    assert_eq!(page.ok(), "1");
    // A logout with a message for the next page brings the token of a new session, too.
    let page = client.get(&app, "/api/logout-and-say").await;
    assert!(token(&page).is_some());
    // A logout without a session.
    let page = client.get(&app, "/api/sign-out").await;
    assert_eq!(token(&page), None);
    assert_eq!(store.stats().sessions, 1);
}

#[tokio::test]
async fn a_token_is_valid_only_where_it_was_sent() {
    let store = MemoryStore::new();
    let layer = SessionLayer::new(store.clone());
    let own = TokenHeader::default().with_request("x-api-session");
    let own = layer
        .clone()
        .with_transport(Transport::Header(own))
        .unwrap();
    let app = site(layer).nest("/own", routes().layer(own));
    let (mut client, mut browser) = (Client::default(), Browser::default());
    client.get(&app, "/api/login?u=mia").await.ok();
    browser.get(&app, "/login?u=leo").await.ok();
    let page = ask(&app, "/own/login?u=ida", &[]).await;
    let ida = token(&page).unwrap();
    let (mia, leo) = (client.token.unwrap(), browser.token());
    for (token, who) in [(&*mia, "mia"), (leo, "leo"), (ida, "ida")] {
        let (cookie, bearer) = (format!("__Host-id={token}"), format!("Bearer {token}"));
        let everywhere = [
            ("cookie", &*cookie),
            ("authorization", &bearer),
            ("x-api-session", token),
        ];
        for (path, expected) in [
            ("/whoami", "leo"),
            ("/api/whoami", "mia"),
            ("/own/whoami", "ida"),
        ] {
            let expected = if who == expected { who } else { "" };
            let page = ask(&app, path, &everywhere).await;
            assert_eq!(page.set_cookies().len(), 0);
            assert_eq!(page.ok(), expected, "{path}");
        }
        // Nor does it end a session elsewhere.
        for (path, own) in [
            ("/sign-out", "leo"),
            ("/api/sign-out", "mia"),
            ("/own/sign-out", "ida"),
        ] {
            if own != who {
                ask(&app, path, &everywhere).await.ok();
                assert_eq!(store.stats().sessions, 3);
            }
        }
    }
}

#[tokio::test]
async fn a_header_that_is_not_one_token_makes_an_anonymous_request() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let events = Arc::clone(&seen);
    let layer = SessionLayer::new(MemoryStore::new()).with_observer(move |event: &Event| {
        if event.name().starts_with("malformed") {
            events.lock().unwrap().push(format!("{event:?}"));
        }
    });
    let app = site(layer);
    let mut client = Client::default();
    client.get(&app, "/api/login?u=mia").await.ok();
    let token = client.token.unwrap();
    let with = |scheme: &str| format!("{scheme} {token}");
    let (right, lower, digest) = (with("Bearer"), with("bearer"), with("Digest"));
    let long = format!("Bearer {}", "a".repeat(100_000));
    let one: &[&str] = &[r#"MalformedHeader { name: "authorization" }"#];
    for (headers, who, expected) in [
        (&[&*right][..], "mia", &[][..]),
        (&[&lower], "mia", &[]),
        (&[&digest], "", &[]),
        (&["Basic bWlhOnNlY3JldA=="], "", &[]),
        (&[&token], "", &[]),
        (&[""], "", &[]),
        (&["Bearer"], "", one),
        (&["Bearer x"], "", one),
        (&[&long], "", one),
        (&[&right, &right], "", one),
        (&["Basic eA==", &right], "", one),
    ] {
        let headers: Vec<_> = headers.iter().map(|it| ("authorization", *it)).collect();
        let page = ask(&app, "/api/whoami", &headers).await;
        assert_eq!(page.ok(), who, "{headers:?}");
        assert_eq!(
            std::mem::take(&mut *seen.lock().unwrap()),
            expected,
            "{headers:?}"
        );
    }
    // A header for another scheme says nothing about the cookie, either.
    let page = ask(&app, "/whoami", &[("authorization", "Bearer x")]).await;
    assert_eq!(page.ok(), "");
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_header_layer_inside_a_cookie_layer_is_another_session() {
    let store = MemoryStore::new();
    let layer = SessionLayer::new(store.clone());
    let both = |outer: SessionLayer, inner: SessionLayer| {
        let set = async |session: Session| session.insert("k", "v");
        let outside = async |request: Incoming, next: Next| {
            let session = Session::from_extensions(&request.extensions().clone()).await;
            session.and_then(|it| it.insert("k", "v")).unwrap();
            next.run(request).await
        };
        Router::new()
            .route("/", get(set))
            .layer(inner)
            .layer(from_fn(outside))
            .layer(outer)
    };
    let by_header = layer.clone().with_transport(bearer()).unwrap();
    for app in [
        both(layer.clone(), by_header.clone()),
        both(by_header, layer),
    ] {
        let before = store.stats().sessions;
        let page = ask(&app, "/", &[]).await;
        assert_eq!(store.stats().sessions - before, 2);
        let (cookies, header) = (page.set_cookies(), token(&page).unwrap());
        assert_eq!(cookies.len(), 1);
        assert!(!cookies[0].contains(header));
        let mut vary = vary(&page);
        vary.sort_unstable();
        assert_eq!(vary, ["authorization", "cookie"]);
    }
}

#[tokio::test]
async fn an_inner_layer_of_the_same_header_uses_the_same_session() {
    let ignored = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ignored);
    let layer = SessionLayer::new(MemoryStore::new());
    let outer = layer.with_transport(bearer()).unwrap();
    let header = TokenHeader::default()
        .with_request("Authorization")
        .with_response("x-other");
    let inner = outer
        .clone()
        .with_transport(Transport::Header(header))
        .unwrap();
    let outer = outer.with_observer(move |event: &Event| {
        if let Event::SettingsIgnored {
            cookie, settings, ..
        } = event
        {
            seen.lock().unwrap().push(format!("{cookie} {settings:?}"));
        }
    });
    let app = routes().layer(inner).layer(outer);
    let page = ask(&app, "/set?k=a&v=b", &[]).await;
    assert!(token(&page).is_some() && !page.headers.contains_key("x-other"));
    assert_eq!(*ignored.lock().unwrap(), [r#"Authorization ["transport"]"#]);
}

#[tokio::test]
async fn only_the_layer_sends_the_tokens_header() {
    let foreign = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&foreign);
    let layer = SessionLayer::new(MemoryStore::new())
        .with_transport(bearer())
        .unwrap()
        .with_observer(move |event: &Event| {
            if let Event::ForeignSetCookie { name, .. } = event {
                seen.lock().unwrap().push(name.clone());
            }
        });
    const HEADER: (HeaderName, &str) = (HeaderName::from_static("x-session-token"), "mine");
    let set = async |session: Session| session.insert("k", "v").map(|()| [HEADER]);
    let app = Router::new()
        .route(
            "/",
            get(async || {
                (
                    [
                        HEADER,
                        (HeaderName::from_static("set-cookie"), "__Host-id=x"),
                    ],
                    "",
                )
            }),
        )
        .route("/set", get(set))
        .layer(layer);
    let page = ask(&app, "/", &[]).await;
    assert_eq!(
        (token(&page), page.set_cookies()),
        (None, vec!["__Host-id=x"])
    );
    let page = ask(&app, "/set", &[]).await;
    assert!(token(&page).is_some_and(|token| token != "mine"));
    assert_eq!(*foreign.lock().unwrap(), ["x-session-token"; 2]);
}

#[tokio::test]
async fn the_handler_sees_a_header_that_is_marked_as_sensitive() {
    let layer = SessionLayer::new(MemoryStore::new());
    let is_sensitive = async |headers: HeaderMap| headers[AUTHORIZATION].is_sensitive().to_string();
    let app = Router::new()
        .route("/", get(is_sensitive))
        .layer(layer.with_transport(bearer()).unwrap());
    for value in ["Bearer x", "Basic eA=="] {
        let page = ask(&app, "/", &[("authorization", value)]).await;
        assert_eq!(page.ok(), "true", "{value}");
    }
}

/// A cookie that lasts is sent again after a while; a header is not.
#[tokio::test]
async fn a_persistent_session_sends_its_token_once() {
    let clock = ManualClock::new();
    let year = Duration::from_secs(365 * 24 * 60 * 60);
    let config = SessionConfig::default()
        .with_idle_timeout(10 * year)
        .with_absolute_timeout(10 * year)
        .with_transport(bearer());
    let store = MemoryStore::new().with_clock(clock.clone());
    let layer = SessionLayer::try_new(store, config).unwrap();
    let persist = async |session: Session| session.set_persistent(true);
    let app = routes().route("/persist", get(persist)).layer(layer);
    let mut client = Client::default();
    client.get(&app, "/login?u=mia").await.ok();
    for path in ["/persist", "/incr?k=n", "/whoami"] {
        let page = client.get(&app, path).await;
        assert_eq!(token(&page), None, "{path}");
        page.ok();
        clock.advance(year);
    }
    let page = client.get(&app, "/whoami").await;
    assert_eq!(token(&page), None);
    assert_eq!(page.ok(), "mia");
}

#[tokio::test]
async fn a_response_that_replaces_the_handlers_carries_the_new_token() {
    let layer = SessionLayer::new(MemoryStore::new());
    let save_and_fail = async |session: Session| {
        session.insert("k", "v")?;
        session.save().await?;
        session.insert("k", f64::NAN)
    };
    let end = async |logout: Logout| -> Result<(), SessionError> {
        logout.end_session();
        Ok(())
    };
    let app = Router::new()
        .route("/", get(save_and_fail))
        .route("/end", get(end))
        .layer(
            layer
                .with_transport(bearer())
                .unwrap()
                .with_on_error(|error, request| {
                    let secret = request.headers.get(AUTHORIZATION);
                    assert!(secret.is_none_or(HeaderValue::is_sensitive));
                    error.response()
                }),
        );
    let mut client = Client::default();
    let page = client.get(&app, "/").await;
    assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(token(&page).is_some(), "a part is in the store");
    client.get(&app, "/end").await.ok();
}

#[tokio::test]
async fn a_header_that_cannot_carry_a_token_is_an_error_at_startup() {
    let header = || TokenHeader::default().with_request("Cookie");
    let layer = SessionLayer::new(MemoryStore::new());
    let error = layer
        .with_transport(Transport::Header(header()))
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("transport.header.request = \"Cookie\": write"),
        "{text}"
    );
    let config = SessionConfig::default()
        .with_cookie(CookieConfig::default())
        .with_transport(Transport::Header(header()));
    let error = SessionLayer::try_new(MemoryStore::new(), config).unwrap_err();
    assert!(matches!(error, ConfigError::Invalid { .. }));
}

/// A forger's page cannot add the token, so a script of another origin that has it, with the leave of CORS, may use it.
#[tokio::test]
async fn a_request_whose_token_is_in_a_header_needs_no_check_against_forgery() {
    let layer = SessionLayer::new(MemoryStore::new());
    let routes = || {
        let write = |session: Session| async move { session.increment("n", 1).map(|_| ()) };
        let router = Router::new().route("/write", axum::routing::post(write));
        router.layer(CsrfLayer::new())
    };
    let api = layer.clone().with_transport(bearer()).unwrap();
    let app = routes().layer(layer).nest("/api", routes().layer(api));
    for (path, status) in [("/write", 403), ("/api/write", 200)] {
        let request = Request::post(path).header("sec-fetch-site", "cross-site");
        let page = fetch(&app, request.body(Body::empty()).unwrap()).await;
        assert_eq!(page.status.as_u16(), status, "{path}");
    }
}
