//! Handlers and routes that need a signed-in user, and the way to the sign-in page and back.

use axum::body::Body;
use axum::extract::Query;
use axum::http::header::{ACCEPT, CACHE_CONTROL, COOKIE, LOCATION, VARY};
use axum::http::{Method, Request, StatusCode};
use axum::response::Redirect;
use axum::routing::{get, post};
use axum::{Form, Router};
use sessile::{
    Fingerprinting, Load, LocalPath, MemoryStore, OnStoreError, Principal, RedisConfig, RedisStore,
    RequirePrincipal, Session, SessionError, SessionLayer,
};

use crate::support::Browser;
use crate::support::browser::{Page, fetch};

async fn login(session: Session) -> Result<(), SessionError> {
    session.set_principal("mia").await
}

async fn whoami(principal: Principal) -> String {
    format!("{principal} {}", principal.len())
}

async fn maybe(principal: Option<Principal>) -> String {
    principal.map_or_else(String::new, Principal::into_inner)
}

#[derive(serde::Deserialize)]
struct SignIn {
    user: String,
    #[serde(default)]
    next: LocalPath,
}

async fn sign_in(session: Session, Form(form): Form<SignIn>) -> Result<Redirect, SessionError> {
    session.set_principal(form.user).await?;
    Ok(Redirect::to(form.next.or("/home")))
}

#[derive(serde::Deserialize)]
struct SignInPage {
    #[serde(default)]
    next: LocalPath,
}

async fn sign_in_page(Query(page): Query<SignInPage>) -> String {
    page.next.to_string()
}

fn site(layer: SessionLayer) -> Router {
    let guarded = || async { "guarded" };
    let members = Router::new()
        .route("/account", get(guarded).post(guarded))
        .route("/orders/{number}", get(guarded))
        .route_layer(RequirePrincipal::new().redirect_to("/sign-in").unwrap());
    let api = Router::new()
        .route("/orders", get(guarded))
        .route_layer(RequirePrincipal::new());
    let nested = Router::new()
        .route("/account", get(guarded))
        .route_layer(RequirePrincipal::new().redirect_to("/sign-in").unwrap());
    Router::new()
        .route("/login", get(login))
        .route("/whoami", get(whoami))
        .route("/maybe", get(maybe))
        .route("/sign-in", post(sign_in).get(sign_in_page))
        .route(
            "/set",
            get(|session: Session| async move { session.insert("k", 1) }),
        )
        .nest("/api", api)
        .nest("/shop", nested)
        .merge(members)
        .layer(layer)
}

/// Sends a request as a browser that follows a link or sends a form.
async fn visit(app: &Router, browser: &Browser, method: Method, path: &str) -> Page {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(ACCEPT, "text/html,application/xhtml+xml,*/*;q=0.8");
    if let Some(cookie) = &browser.cookie {
        request = request.header(COOKIE, cookie);
    }
    fetch(app, request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn a_handler_that_takes_a_principal_runs_for_signed_in_users_only() {
    let app = site(SessionLayer::new(MemoryStore::new()));
    let mut visitor = Browser::default();
    for path in ["/login", "/set"] {
        let page = visitor.peek(&app, "/whoami").await;
        assert_eq!(page.status, StatusCode::UNAUTHORIZED);
        assert_eq!(page.headers[CACHE_CONTROL], "no-store");
        assert_eq!(visitor.peek(&app, "/maybe").await.ok(), "");
        visitor = Browser::default();
        visitor.get(&app, path).await.ok();
        if path == "/login" {
            assert_eq!(visitor.peek(&app, "/whoami").await.ok(), "mia 3");
            assert_eq!(visitor.peek(&app, "/maybe").await.ok(), "mia");
            visitor = Browser::default();
        }
    }
    let bare = Router::new()
        .route("/", get(whoami))
        .route("/maybe", get(maybe));
    for path in ["/", "/maybe"] {
        let page = Browser::default().get(&bare, path).await;
        assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR);
    }
}

#[tokio::test]
async fn the_layer_lets_signed_in_users_pass_and_sends_browsers_to_the_sign_in_page() {
    for load in [Load::Inbound, Load::OnExtract] {
        let app = site(SessionLayer::new(MemoryStore::new()).with_load(load));
        let mut visitor = Browser::default();
        visitor.get(&app, "/set").await.ok();
        for (method, path, expected) in [
            (Method::GET, "/account", Some("/sign-in?next=%2Faccount")),
            (Method::HEAD, "/account", Some("/sign-in?next=%2Faccount")),
            (Method::POST, "/account", Some("/sign-in")),
            (
                Method::GET,
                "/orders/7?page=2&q=%2F",
                Some("/sign-in?next=%2Forders%2F7%3Fpage%3D2%26q%3D%252F"),
            ),
            (
                Method::GET,
                "/shop/account",
                Some("/sign-in?next=%2Fshop%2Faccount"),
            ),
            (Method::GET, "/api/orders", None),
        ] {
            let page = visit(&app, &visitor, method.clone(), path).await;
            let location = page.headers.get(LOCATION).map(|it| it.to_str().unwrap());
            assert_eq!(location, expected, "{method} {path}");
            let status = if expected.is_some() { 303 } else { 401 };
            assert_eq!(page.status.as_u16(), status, "{method} {path}");
            assert_eq!(page.headers[CACHE_CONTROL], "no-store");
            assert_eq!(page.headers[VARY], "cookie");
        }
        // A script, which accepts anything.
        let page = visitor.peek(&app, "/account").await;
        assert_eq!(page.status, StatusCode::UNAUTHORIZED);
        visitor.get(&app, "/login").await.ok();
        for path in ["/account", "/orders/7", "/shop/account", "/api/orders"] {
            assert_eq!(visitor.peek(&app, path).await.ok(), "guarded", "{path}");
        }
        visit(&app, &visitor, Method::POST, "/account").await.ok();
    }
}

#[tokio::test]
async fn after_the_sign_in_a_visitor_gets_what_they_wanted_and_never_another_site() {
    let app = site(SessionLayer::new(MemoryStore::new()));
    let nobody = Browser::default();
    let page = visit(&app, &nobody, Method::GET, "/orders/7?page=2&q=a%26b").await;
    let sign_in = page.headers[LOCATION].to_str().unwrap().to_owned();
    let next = nobody.peek(&app, &sign_in).await.ok();
    assert_eq!(next, "/orders/7?page=2&q=a%26b");
    for (next, expected) in [
        (next.as_str(), next.as_str()),
        ("//evil.example", "/home"),
        ("/\\evil.example", "/home"),
        ("/\t/evil.example", "/home"),
        ("https://evil.example", "/home"),
        ("/x\r\nSet-Cookie: a=b", "/home"),
        ("", "/home"),
    ] {
        let body = format!("user=mia&next={}", form_encoded(next));
        let request = Request::post("/sign-in")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Body::from(body));
        let page = fetch(&app, request.unwrap()).await;
        assert_eq!(page.status, StatusCode::SEE_OTHER, "{next:?}");
        assert_eq!(page.headers[LOCATION], expected, "{next:?}");
    }
}

fn form_encoded(text: &str) -> String {
    let encode = |byte: u8| format!("%{byte:02X}");
    text.bytes().map(encode).collect()
}

#[tokio::test]
async fn a_sign_in_page_behind_the_layer_does_not_redirect_for_ever() {
    let app = Router::new()
        .route("/sign-in", get(|| async {}))
        .layer(RequirePrincipal::new().redirect_to("/sign-in").unwrap())
        .layer(SessionLayer::new(MemoryStore::new()));
    let page = visit(&app, &Browser::default(), Method::GET, "/sign-in?next=%2F").await;
    assert_eq!(page.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn an_outage_does_not_look_like_a_sign_out() {
    for on_store_error in [OnStoreError::Reject, OnStoreError::Anonymous] {
        for load in [Load::Inbound, Load::OnExtract] {
            let store = RedisStore::lazy(RedisConfig::new("redis://127.0.0.1:1/")).unwrap();
            let layer = SessionLayer::new(store).with_load(load);
            let app = site(layer.with_on_store_error(on_store_error));
            let visitor = Browser {
                cookie: Some(format!("__Host-id={}", "A".repeat(43))),
            };
            for path in ["/account", "/whoami", "/maybe", "/api/orders"] {
                let page = visit(&app, &visitor, Method::GET, path).await;
                assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
            }
        }
    }
}

#[tokio::test]
async fn a_request_that_began_before_a_login_is_not_sent_to_the_sign_in_page() {
    let app = site(SessionLayer::new(MemoryStore::new()));
    let mut visitor = Browser::default();
    visitor.get(&app, "/set").await.ok();
    let before = visitor.clone();
    visitor.get(&app, "/login").await.ok();
    let page = visit(&app, &before, Method::GET, "/account").await;
    assert_eq!(page.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn a_session_of_another_network_is_asked_to_sign_in() {
    let layer = SessionLayer::new(MemoryStore::new())
        .with_fingerprinting(Fingerprinting::Strict)
        .with_client_ip(|parts| parts.headers.get("x-ip")?.to_str().ok()?.parse().ok());
    let app = site(layer);
    let from = |ip: &str, path: &str, cookie: Option<&str>| {
        let mut request = Request::get(path)
            .header("x-ip", ip)
            .header(ACCEPT, "text/html");
        if let Some(cookie) = cookie {
            request = request.header(COOKIE, cookie);
        }
        request.body(Body::empty()).unwrap()
    };
    let page = fetch(&app, from("203.0.113.7", "/login", None)).await;
    let cookie = page.set_cookies()[0].split("; ").next().unwrap().to_owned();
    for (ip, status) in [("203.0.113.9", 200), ("198.51.100.7", 303)] {
        let page = fetch(&app, from(ip, "/account", Some(&cookie))).await;
        assert_eq!(page.status.as_u16(), status, "{ip}");
    }
}

#[tokio::test]
async fn without_a_session_layer_around_it_the_layer_fails() {
    let app = Router::new()
        .route("/", get(|| async {}))
        .layer(RequirePrincipal::new().redirect_to("/sign-in").unwrap());
    let page = visit(&app, &Browser::default(), Method::GET, "/").await;
    assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR);
}
