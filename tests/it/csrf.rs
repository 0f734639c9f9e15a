//! Protection from cross-site request forgery: tokens, the layer that checks where a request comes from, and forms.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, COOKIE, HOST, ORIGIN, SET_COOKIE, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use axum::routing::{get, post};
use bytes::Bytes;
use sessile::{
    CsrfFailure, CsrfForm, CsrfLayer, Event, Load, MemoryStore, OnStoreError, RedisConfig,
    RedisStore, Session, SessionError, SessionLayer, SignedInCaching,
};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::support::browser::{Page, fetch};
use crate::support::{Browser, Spy, Visit};

type Answer = Result<String, SessionError>;

async fn token(session: Session) -> Answer {
    session.csrf_token()
}

/// A visit whose session has been stored for a token, and the token.
async fn with_token() -> (Visit, String) {
    let mut visit = Visit::in_memory();
    let token = visit.page(token).await.ok();
    (visit, token)
}

async fn verify(visit: &mut Visit, token: &str) -> StatusCode {
    let token = token.to_owned();
    let check = |session: Session| async move { session.verify_csrf(&token) };
    visit.page(check).await.status
}

#[tokio::test]
async fn a_token_stores_the_session_of_a_new_visitor_and_is_valid_for_it() {
    let (mut visit, token) = with_token().await;
    assert!(visit.browser.cookie.is_some());
    assert_eq!(verify(&mut visit, &token).await, StatusCode::OK);
    let mut other = with_token().await.0;
    for (visit, status) in [(&mut visit, 200), (&mut other, 403)] {
        assert_eq!(verify(visit, &token).await.as_u16(), status);
    }
    // Without a session, no token is valid.
    let mut nobody = Visit::in_memory();
    assert_eq!(verify(&mut nobody, &token).await, StatusCode::FORBIDDEN);
    assert_eq!(nobody.browser.cookie, None);
}

#[tokio::test]
async fn a_token_of_a_stored_session_writes_nothing() {
    let spy = Spy::on(MemoryStore::new());
    let calls = Arc::clone(&spy.calls);
    let mut visit = Visit::with(SessionLayer::new(spy));
    let first = visit.page(token).await.ok();
    assert_eq!(calls.so_far(), [0, 1, 0, 0, 0]);
    let page = visit.page(token).await;
    assert!(!page.headers.contains_key(SET_COOKIE));
    let second = page.ok();
    assert_eq!(calls.so_far(), [1, 1, 0, 0, 0]);
    assert_ne!(first, second, "each response has another mask");
    for token in [&first, &second] {
        assert_eq!(verify(&mut visit, token).await, StatusCode::OK);
    }
    assert_eq!(calls.so_far(), [3, 1, 0, 0, 0]);
}

#[tokio::test]
async fn a_token_of_a_new_session_is_valid_after_a_save_and_among_other_changes() {
    for saves in [false, true] {
        let mut visit = Visit::in_memory();
        let handler = move |session: Session| async move {
            session.insert("name", "mia")?;
            let first = session.csrf_token()?;
            if saves {
                session.save().await?;
            }
            session.insert("name", "leo")?;
            Ok::<_, SessionError>(format!("{first} {}", session.csrf_token()?))
        };
        let tokens = visit.page(handler).await.ok();
        for token in tokens.split(' ') {
            assert_eq!(verify(&mut visit, token).await, StatusCode::OK, "{saves}");
        }
    }
}

/// What ends the tokens of the pages before.
#[derive(Clone, Copy, Debug)]
enum End {
    Login,
    SignOut,
    Rotation,
    Logout,
}

async fn end(session: &Session, end: End) -> Result<(), SessionError> {
    match end {
        End::Login => session.set_principal("leo").await,
        End::SignOut => session.clear_principal(),
        End::Rotation => session.cycle_id(),
        End::Logout => {
            session.destroy();
            Ok(())
        }
    }
}

#[tokio::test]
async fn a_token_ends_with_a_rotation_and_one_that_is_asked_for_after_it_is_valid() {
    for stored in [false, true] {
        for how in [End::Login, End::SignOut, End::Rotation, End::Logout] {
            let mut visit = Visit::in_memory();
            let before = |session: Session| async move {
                session.set_principal("mia").await?;
                session.csrf_token()
            };
            let before = match stored {
                true => visit.page(before).await.ok(),
                false => String::new(),
            };
            let rotate = move |session: Session| async move {
                end(&session, how).await?;
                session.csrf_token()
            };
            let after = visit.page(rotate).await.ok();
            let case = format!("{how:?} {stored}");
            assert_eq!(verify(&mut visit, &after).await, StatusCode::OK, "{case}");
            let old = verify(&mut visit, &before).await;
            assert_eq!(old, StatusCode::FORBIDDEN, "{case}");
        }
    }
}

#[tokio::test]
async fn a_login_that_joins_another_one_returns_a_token_of_that_one() {
    let (mut visit, _) = with_token().await;
    let mut late = visit.clone();
    let login = |session: Session| async move {
        session.set_principal("mia").await?;
        session.csrf_token()
    };
    let first = visit.page(login).await.ok();
    // This request carries the token that the login has replaced.
    let second = late.page(login).await.ok();
    for mut browser in [visit, late] {
        for token in [&first, &second] {
            assert_eq!(verify(&mut browser, token).await, StatusCode::OK);
        }
    }
}

#[tokio::test]
async fn a_request_with_a_replaced_cookie_gets_no_token() {
    let (mut visit, token) = with_token().await;
    let mut old = visit.clone();
    visit
        .page(|session: Session| async move { session.cycle_id() })
        .await
        .ok();
    let page = old.page(self::token).await;
    assert_eq!(page.status, StatusCode::CONFLICT);
    assert!(!page.headers.contains_key(SET_COOKIE));
    assert_eq!(verify(&mut old, &token).await, StatusCode::CONFLICT);
}

#[tokio::test]
async fn after_the_response_only_a_stored_session_has_tokens() {
    let mut visit = Visit::in_memory();
    let kept = visit.keep().await;
    assert!(matches!(kept.csrf_token(), Err(SessionError::ResponseSent)));
    let (mut visit, _) = with_token().await;
    let token = visit.keep().await.csrf_token().unwrap();
    assert_eq!(verify(&mut visit, &token).await, StatusCode::OK);
}

#[tokio::test]
async fn a_failed_request_stores_no_session_for_its_token() {
    let mut visit = Visit::in_memory();
    let handler = |session: Session| async move { (StatusCode::BAD_GATEWAY, session.csrf_token()) };
    let page = visit.page(handler).await;
    assert_eq!(page.status, StatusCode::BAD_GATEWAY);
    assert_eq!(visit.browser.cookie, None);
}

#[tokio::test]
async fn a_page_with_a_token_is_not_stored_by_caches() {
    for (cache_control, kept) in [
        (None, "no-store"),
        (Some("public, max-age=60"), "no-store"),
        (Some("max-age=60"), "no-store"),
        (Some("private"), "private"),
    ] {
        let handler = move |session: Session| async move {
            let mut headers = HeaderMap::new();
            if let Some(value) = cache_control {
                headers.insert(CACHE_CONTROL, HeaderValue::from_static(value));
            }
            (headers, session.csrf_token())
        };
        // The header is that of a page which sets no cookie, of an anonymous visitor.
        let layer = SessionLayer::new(MemoryStore::new())
            .with_signed_in_caching(SignedInCaching::Unchanged);
        let mut visit = Visit::with(layer);
        visit.page(token).await.ok();
        let page = visit.page(handler).await;
        assert!(!page.headers.contains_key(SET_COOKIE));
        assert_eq!(page.headers[CACHE_CONTROL], kept, "{cache_control:?}");
        assert_eq!(page.headers[VARY], "cookie");
    }
}

type Refusals = Arc<Mutex<Vec<(CsrfFailure, bool)>>>;

/// A layer that records which checks requests failed, and whether the event names the session.
fn observed(layer: SessionLayer) -> (SessionLayer, Refusals) {
    let refusals = Refusals::default();
    let seen = Arc::clone(&refusals);
    let layer = layer.with_observer(move |event: &Event| {
        if let Event::CsrfRefused { handle, why, .. } = event {
            seen.lock().unwrap().push((*why, handle.is_some()));
        }
    });
    (layer, refusals)
}

fn site(csrf: CsrfLayer, layer: SessionLayer) -> Router {
    let order = |session: Session| async move { session.increment("orders", 1).map(|_| "done") };
    let orders = |session: Session| async move {
        let orders: Option<i64> = session.get("orders")?;
        Ok::<_, SessionError>(orders.unwrap_or_default().to_string())
    };
    Router::new()
        .route("/token", get(token))
        .route("/order", post(order).get(orders))
        .route("/hooks/paid", post(order))
        .route("/public", post(|| async { "public" }))
        .layer(csrf)
        .layer(layer)
}

/// Sends a `POST` with these headers, and the browser's cookie if it has one.
async fn send(
    app: &Router,
    browser: &Browser,
    path: &str,
    headers: &[(HeaderName, &str)],
    body: &str,
) -> Page {
    let mut request = Request::post(path).header(HOST, "shop.example");
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    if let Some(cookie) = &browser.cookie {
        request = request.header(COOKIE, cookie);
    }
    fetch(app, request.body(Body::from(body.to_owned())).unwrap()).await
}

const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const TOKEN: HeaderName = HeaderName::from_static("x-csrf-token");

#[tokio::test]
async fn a_request_from_another_site_is_refused_before_its_handler_runs() {
    let (layer, refusals) = observed(SessionLayer::new(MemoryStore::new()));
    let csrf = CsrfLayer::new()
        .allow_origin("https://app.example.org")
        .unwrap();
    let app = site(csrf, layer);
    let mut visitor = Browser::default();
    let token = visitor.get(&app, "/token").await.ok();
    let mut done = 0;
    for (headers, expected) in [
        (&[(SITE, "same-origin")][..], Ok(())),
        (&[(ORIGIN, "https://shop.example")], Ok(())),
        (
            &[(SITE, "cross-site"), (ORIGIN, "https://app.example.org")],
            Ok(()),
        ),
        (&[(TOKEN, token.as_str())], Ok(())),
        (
            &[(SITE, "cross-site"), (TOKEN, token.as_str())],
            Err((CsrfFailure::CrossOrigin, "(Sec-Fetch-Site)")),
        ),
        (
            &[(ORIGIN, "https://evil.example")],
            Err((CsrfFailure::OtherOrigin, "(Origin)")),
        ),
        (
            &[(ORIGIN, "null")],
            Err((CsrfFailure::OpaqueOrigin, "(Origin)")),
        ),
        (&[], Err((CsrfFailure::MissingToken, "no CSRF token"))),
        (
            &[(TOKEN, "x")],
            Err((CsrfFailure::WrongToken, "(CSRF token)")),
        ),
    ] {
        let page = send(&app, &visitor, "/order", headers, "").await;
        match expected {
            Ok(()) => {
                done += 1;
                assert_eq!(page.ok(), "done", "{headers:?}");
                assert_eq!(*refusals.lock().unwrap(), []);
            }
            Err((failure, text)) => {
                assert_eq!(page.status, StatusCode::FORBIDDEN, "{headers:?}");
                assert!(page.text.contains(text), "{}", page.text);
                assert!(!page.headers.contains_key(SET_COOKIE));
                let refused = std::mem::take(&mut *refusals.lock().unwrap());
                assert_eq!(refused, [(failure, true)]);
            }
        }
        let orders = visitor.peek(&app, "/order").await.ok();
        assert_eq!(orders, done.to_string(), "{headers:?}");
    }
}

#[tokio::test]
async fn a_visitor_without_a_session_is_protected_from_browsers_of_other_sites_only() {
    let (layer, refusals) = observed(SessionLayer::new(MemoryStore::new()));
    let app = site(CsrfLayer::new(), layer);
    let nobody = Browser::default();
    // A program, such as curl.
    send(&app, &nobody, "/order", &[], "").await.ok();
    let page = send(&app, &nobody, "/order", &[(SITE, "cross-site")], "").await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    assert_eq!(
        *refusals.lock().unwrap(),
        [(CsrfFailure::CrossOrigin, false)]
    );
}

#[tokio::test]
async fn a_request_that_passes_by_its_headers_does_not_load_the_session() {
    let spy = Spy::on(MemoryStore::new());
    let calls = Arc::clone(&spy.calls);
    let app = site(
        CsrfLayer::new(),
        SessionLayer::new(spy).with_load(Load::OnExtract),
    );
    let mut visitor = Browser::default();
    let token = visitor.get(&app, "/token").await.ok();
    let own = [(SITE, "same-origin")];
    let page = send(&app, &visitor, "/public", &own, "").await;
    assert!(!page.headers.contains_key(VARY));
    page.ok();
    let foreign = [(SITE, "cross-site")];
    let page = send(&app, &visitor, "/public", &foreign, "").await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    assert_eq!(calls.so_far()[0], 0);
    let with_token = [(TOKEN, token.as_str())];
    send(&app, &visitor, "/public", &with_token, "").await.ok();
    assert_eq!(calls.so_far()[0], 1);
}

#[tokio::test]
async fn exempt_paths_are_those_that_the_browser_requested() {
    let csrf = CsrfLayer::new().exempt("/shop/hooks/").unwrap();
    let inner = site(csrf, SessionLayer::new(MemoryStore::new()));
    let app = Router::new()
        .nest("/shop", inner.clone())
        .nest("/other", inner);
    let foreign = [(SITE, "cross-site")];
    for (path, status) in [
        ("/shop/hooks/paid", 200),
        ("/other/hooks/paid", 403),
        ("/shop/order", 403),
    ] {
        let page = send(&app, &Browser::default(), path, &foreign, "").await;
        assert_eq!(page.status.as_u16(), status, "{path}");
    }
}

#[tokio::test]
async fn the_handshake_of_a_websocket_is_checked() {
    let app = site(CsrfLayer::new(), SessionLayer::new(MemoryStore::new()));
    for (origin, status) in [("https://shop.example", 200), ("https://evil.example", 403)] {
        let request = Request::get("/order")
            .header(HOST, "shop.example")
            .header("upgrade", "websocket")
            .header(ORIGIN, origin);
        let page = fetch(&app, request.body(Body::empty()).unwrap()).await;
        assert_eq!(page.status.as_u16(), status, "{origin}");
    }
}

#[tokio::test]
async fn the_token_header_can_be_changed() {
    const OWN: HeaderName = HeaderName::from_static("x-xsrf-token");
    let csrf = CsrfLayer::new().with_token_header(OWN);
    let app = site(csrf, SessionLayer::new(MemoryStore::new()));
    let mut visitor = Browser::default();
    let token = visitor.get(&app, "/token").await.ok();
    for (name, status) in [(OWN, 200), (TOKEN, 403)] {
        let page = send(&app, &visitor, "/order", &[(name, &token)], "").await;
        assert_eq!(page.status.as_u16(), status);
    }
}

#[tokio::test]
async fn the_error_hook_answers_refused_requests() {
    let layer = SessionLayer::new(MemoryStore::new()).with_on_error(|error, _| {
        let mut response = error.response();
        *response.body_mut() = Bytes::from_static(b"{}");
        response
    });
    let app = site(CsrfLayer::new(), layer);
    let page = send(&app, &Browser::default(), "/order", &[(ORIGIN, "null")], "").await;
    assert_eq!(
        (page.status, page.text.as_str()),
        (StatusCode::FORBIDDEN, "{}")
    );
}

#[tokio::test]
async fn without_a_session_layer_around_it_the_layer_refuses_to_work() {
    let order = || async { "done" };
    let app = Router::new()
        .route("/order", post(order).get(order))
        .layer(SessionLayer::new(MemoryStore::new()))
        .layer(CsrfLayer::new());
    let own = [(SITE, "same-origin")];
    let page = send(&app, &Browser::default(), "/order", &own, "").await;
    assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR);
    Browser::default().get(&app, "/order").await.ok();
}

/// A server that is gone.
fn broken() -> SessionLayer {
    let store = RedisStore::lazy(RedisConfig::new("redis://127.0.0.1:1/")).unwrap();
    SessionLayer::new(store)
}

#[tokio::test]
async fn an_outage_is_not_a_forgery() {
    let (_, token) = with_token().await;
    for layer in [
        broken(),
        broken().with_on_store_error(OnStoreError::Anonymous),
    ] {
        let app = site(CsrfLayer::new(), layer);
        let visitor = Browser {
            cookie: Some(format!("__Host-id={}", "A".repeat(43))),
        };
        let page = send(&app, &visitor, "/order", &[(TOKEN, &token)], "").await;
        assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(visitor.peek(&app, "/token").await.status, 503);
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    text: String,
}

async fn note(CsrfForm(note): CsrfForm<Note>) -> String {
    note.text
}

#[tokio::test]
async fn a_form_needs_its_token() {
    let (layer, refusals) = observed(SessionLayer::new(MemoryStore::new()));
    let app = Router::new()
        .route("/token", get(token))
        .route("/note", post(note).get(note))
        .layer(layer);
    let mut visitor = Browser::default();
    let token = visitor.get(&app, "/token").await.ok();
    const FORM: &str = "application/x-www-form-urlencoded";
    let valid = format!("text=tea+%26+cake&_csrf={token}");
    let unknown = format!("{valid}&more=x");
    let twice = format!("_csrf=x&{valid}");
    let long = format!("{valid}{}", "x".repeat(3_000_000));
    for (form, content_type, status, refused) in [
        (valid.as_str(), FORM, 200, None),
        ("text=tea", FORM, 403, Some(CsrfFailure::MissingToken)),
        ("", FORM, 403, Some(CsrfFailure::MissingToken)),
        ("text=tea&_csrf=x", FORM, 403, Some(CsrfFailure::WrongToken)),
        (twice.as_str(), FORM, 403, Some(CsrfFailure::WrongToken)),
        (valid.as_str(), "text/plain", 415, None),
        (unknown.as_str(), FORM, 422, None),
        (long.as_str(), FORM, 413, None),
    ] {
        let page = send(
            &app,
            &visitor,
            "/note",
            &[(CONTENT_TYPE, content_type)],
            form,
        )
        .await;
        let case = &form[..form.len().min(40)];
        assert_eq!(page.status.as_u16(), status, "{case}: {}", page.text);
        let seen = std::mem::take(&mut *refusals.lock().unwrap());
        let seen: Vec<_> = seen.into_iter().map(|(why, _)| why).collect();
        assert_eq!(seen, Vec::from_iter(refused), "{case}");
        if status == 200 {
            assert_eq!(page.text, "tea & cake");
        }
    }
    // A token in an address is none.
    let page = visitor.peek(&app, &format!("/note?{valid}")).await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_sign_in_form_is_protected_from_login_csrf() {
    let sign_in = |session: Session, CsrfForm(note): CsrfForm<Note>| async move {
        session.set_principal(note.text).await
    };
    let app = Router::new()
        .route("/token", get(token))
        .route("/sign-in", post(sign_in))
        .route(
            "/whoami",
            get(|session: Session| async move { session.principal().unwrap_or_default() }),
        )
        .layer(SessionLayer::new(MemoryStore::new()));
    let form = (CONTENT_TYPE, "application/x-www-form-urlencoded");
    // The attacker has a token of a session of their own.
    let stolen = Browser::default().get(&app, "/token").await.ok();
    let mut victim = Browser::default();
    let own = victim.get(&app, "/token").await.ok();
    let body = |token: &str| format!("text=mallory&_csrf={token}");
    let page = send(
        &app,
        &victim,
        "/sign-in",
        std::slice::from_ref(&form),
        &body(&stolen),
    )
    .await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    let page = send(&app, &victim, "/sign-in", &[form], &body(&own)).await;
    assert_eq!(page.status, StatusCode::OK);
    let cookie = page.set_cookies()[0].split("; ").next().unwrap();
    victim.cookie = Some(cookie.to_owned());
    assert_eq!(victim.peek(&app, "/whoami").await.ok(), "mallory");
    assert_eq!(verify_at(&app, &victim, &own).await, StatusCode::FORBIDDEN);
}

async fn verify_at(app: &Router, browser: &Browser, token: &str) -> StatusCode {
    let form = [(CONTENT_TYPE, "application/x-www-form-urlencoded")];
    let body = format!("text=mia&_csrf={token}");
    send(app, browser, "/sign-in", &form, &body).await.status
}

/// The layers around a body of any type.
#[tokio::test]
async fn the_layer_works_with_other_layers_around_and_inside() {
    let header = HeaderName::from_static("x-frame-options");
    let app = Router::new()
        .route("/order", post(|| async { "done" }))
        .layer(tower_http::compression::CompressionLayer::new())
        .layer(CsrfLayer::new())
        .layer(SetResponseHeaderLayer::if_not_present(
            header.clone(),
            HeaderValue::from_static("DENY"),
        ))
        .layer(SessionLayer::new(MemoryStore::new()));
    for (site, status) in [("same-origin", 200), ("cross-site", 403)] {
        let page = send(&app, &Browser::default(), "/order", &[(SITE, site)], "").await;
        assert_eq!(page.status.as_u16(), status);
        assert_eq!(page.headers[&header], "DENY");
    }
}
