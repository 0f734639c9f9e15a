//! Headers for browsers and caches, and how browsers handle them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::routing::get;
use bytes::Bytes;
use sessile::store::ManualClock;
use sessile::{
    CookieConfig, Event, Load, MemoryStore, RedisConfig, RedisStore, Session, SessionConfig,
    SessionError, SessionLayer, SignedInCaching,
};
use tokio::sync::Notify;
use tower_http::cors::CorsLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::support::Browser;
use crate::support::app::routes;

const FORGED: &[u8] = b"__Host-id=forged\xff; Path=/";

/// A response that sets a cookie of the session cookie's name twice, between two other cookies.
fn forging(status: u16) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    let cookies: [&[u8]; 4] = [
        b"theme=dark",
        FORGED,
        b"=__Host-id=nameless",
        b"__host-id=other",
    ];
    for cookie in cookies {
        let cookie = HeaderValue::from_bytes(cookie).unwrap();
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

fn forging_routes() -> Router {
    let write = |session: Session, status| {
        session.increment("n", 1).unwrap();
        forging(status)
    };
    Router::new()
        .route("/plain", get(|| async { forging(200) }))
        .route("/read", get(|_: Session| async { forging(200) }))
        .route(
            "/write",
            get(move |session: Session| async move { write(session, 200) }),
        )
        .route(
            "/fail",
            get(move |session: Session| async move { write(session, 500) }),
        )
        .route(
            "/logout",
            get(|session: Session| async move {
                session.destroy();
                forging(200)
            }),
        )
        .route(
            "/error",
            get(|| async {
                let mut response = forging(200);
                response.extensions_mut().insert(SessionError::ResponseSent);
                response
            }),
        )
        .nest("/app", routes())
}

#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    fn observe(&self, layer: SessionLayer) -> SessionLayer {
        let seen = Arc::clone(&self.0);
        layer.with_observer(move |event: &Event| seen.lock().unwrap().push(event.name().to_owned()))
    }

    /// The number of events of this name since the last call.
    fn take(&self, name: &str) -> usize {
        let mut seen = self.0.lock().unwrap();
        let count = seen.iter().filter(|event| *event == name).count();
        seen.clear();
        count
    }
}

/// The values of the session cookie in a response. Asserts that the other cookies are unchanged.
fn ours(headers: &HeaderMap, path: &str) -> BTreeSet<Vec<u8>> {
    let all = headers.get_all(header::SET_COOKIE).iter();
    let all: Vec<_> = all.map(|cookie| cookie.as_bytes().to_vec()).collect();
    let is_other =
        |cookie: &Vec<u8>| cookie.starts_with(b"theme=") || cookie.starts_with(b"__host-id=");
    let (others, ours): (BTreeSet<_>, BTreeSet<_>) = all.into_iter().partition(is_other);
    let expected = [&b"__host-id=other"[..], b"theme=dark"];
    assert!(others.iter().eq(expected), "{path}: {others:?}");
    ours
}

#[tokio::test]
async fn only_the_layer_sets_a_cookie_of_its_name() {
    let events = Events::default();
    for load in [Load::Inbound, Load::OnExtract] {
        let layer = SessionLayer::new(MemoryStore::new()).with_load(load);
        let layer = events.observe(layer);
        let hooked = layer
            .clone()
            .with_on_error(|_, _| forging(409).map(|_| Bytes::new()));
        let joined = forging_routes().layer(layer.clone());
        let app = forging_routes()
            .nest("/joined", joined)
            .layer(layer)
            .nest("/hooked", forging_routes().layer(hooked));
        let mut signed_in = Browser::default();
        signed_in.get(&app, "/app/login?u=mia").await.ok();
        let retired = signed_in.clone();
        signed_in.get(&app, "/app/cycle").await.ok();
        let malformed = Browser {
            cookie: Some("__Host-id=x".to_owned()),
        };
        for (browser, path, sent) in [
            (&Browser::default(), "/plain", false),
            (&Browser::default(), "/read", false),
            (&Browser::default(), "/write", true),
            (&Browser::default(), "/joined/plain", false),
            (&Browser::default(), "/joined/write", true),
            (&Browser::default(), "/fail", false),
            (&Browser::default(), "/error", false),
            (&Browser::default(), "/hooked/error", false),
            (&malformed, "/plain", false),
            (&malformed, "/write", true),
            (&signed_in, "/plain", false),
            (&signed_in, "/read", false),
            (&signed_in, "/write", false),
            (&signed_in, "/joined/write", false),
            (&signed_in, "/fail", false),
            (&retired, "/read", false),
            (&retired, "/write", false),
            (&retired, "/hooked/write", false),
            (&signed_in, "/logout", true),
        ] {
            events.take("foreign_set_cookie");
            let page = browser.peek(&app, path).await;
            let ours = ours(&page.headers, path);
            assert_eq!(ours.len(), usize::from(sent), "{load:?} {path}");
            assert!(
                ours.iter()
                    .all(|cookie| !cookie.starts_with(b"=") && !cookie.starts_with(FORGED))
            );
            let removed = events.take("foreign_set_cookie");
            // Both the hook's response and the replaced one set the cookie.
            let both = path.starts_with("/hooked");
            assert_eq!(removed, 1 + usize::from(both), "{load:?} {path}");
        }
        Browser::default().get(&app, "/app/incr?k=n").await.ok();
        assert_eq!(events.take("foreign_set_cookie"), 0);
    }
}

#[tokio::test]
async fn a_hook_cannot_set_the_cookie_when_the_session_cannot_be_loaded() {
    let config = RedisConfig::new("redis://127.0.0.1:1/");
    let events = Events::default();
    let layer = SessionLayer::new(RedisStore::lazy(config).unwrap())
        .with_on_error(|_, _| forging(503).map(|_| Bytes::new()));
    let app = forging_routes().layer(events.observe(layer));
    let browser = Browser {
        cookie: Some(format!("__Host-id={}", "A".repeat(43))),
    };
    let page = browser.peek(&app, "/read").await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    let all: Vec<_> = page.headers.get_all("set-cookie").iter().collect();
    assert_eq!(all, ["theme=dark", "__host-id=other"]);
    assert_eq!(events.take("foreign_set_cookie"), 1);
}

/// A page that uses the session and an asset that does not, both with these headers.
fn pages(lines: &'static [(&'static str, &'static str)]) -> Router {
    let page = move || {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    };
    Router::new()
        .route("/page", get(move |_: Session| async move { page() }))
        .route("/asset", get(move || async move { page() }))
        .merge(routes())
}

#[tokio::test]
async fn pages_for_signed_in_users_are_not_cached() {
    const NOTHING: &[(&str, &str)] = &[];
    const KEPT: &str = "cdn-cache-control";
    for (lines, cache_control, targeted, public) in [
        (NOTHING, Some("no-store"), false, false),
        (
            &[("cache-control", "private, no-cache")],
            Some("private, no-cache"),
            false,
            false,
        ),
        (
            &[("cache-control", "max-age=5")],
            Some("max-age=5"),
            false,
            false,
        ),
        (
            &[("cache-control", "public, max-age=5")],
            Some("no-store"),
            false,
            true,
        ),
        (
            &[("cache-control", "s-maxage=5")],
            Some("no-store"),
            false,
            true,
        ),
        (&[(KEPT, "max-age=5")], Some("no-store"), false, true),
        (&[(KEPT, "no-store")], Some("no-store"), true, false),
        (
            &[("cache-control", "private"), (KEPT, "public")],
            Some("private"),
            false,
            true,
        ),
    ] {
        let events = Events::default();
        let layer = events.observe(SessionLayer::new(MemoryStore::new()));
        let app = pages(lines).layer(layer.clone());
        let left = pages(lines).layer(layer.with_signed_in_caching(SignedInCaching::Unchanged));
        let mut visitor = Browser::default();
        visitor.get(&app, "/set?k=name&v=mia").await.ok();
        let mut mia = Browser::default();
        mia.get(&app, "/login?u=mia").await.ok();
        let header = |headers: &HeaderMap, name: &str| {
            headers
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        let own = |name: &str| {
            lines
                .iter()
                .find(|(line, _)| *line == name)
                .map(|(_, value)| (*value).to_owned())
        };
        events.take("");
        let page = mia.peek(&app, "/page").await;
        assert_eq!(
            header(&page.headers, "cache-control").as_deref(),
            cache_control,
            "{lines:?}"
        );
        assert_eq!(page.headers.contains_key(KEPT), targeted, "{lines:?}");
        assert_eq!(page.headers["vary"], "cookie");
        assert_eq!(
            events.take("public_response"),
            usize::from(public),
            "{lines:?}"
        );
        for (browser, app, path) in [
            (&visitor, &app, "/page"),
            (&mia, &app, "/asset"),
            (&mia, &left, "/page"),
        ] {
            let page = browser.peek(app, path).await;
            for name in ["cache-control", KEPT] {
                assert_eq!(header(&page.headers, name), own(name), "{path} {lines:?}");
            }
            assert_eq!(page.headers.contains_key("vary"), path == "/page");
        }
        assert_eq!(events.take("public_response"), 0);
    }
}

#[tokio::test]
async fn responses_that_sign_in_or_out_are_not_cached() {
    let saved_first = |session: Session| async move {
        session.set_principal("mia").await?;
        session.save().await?;
        session.clear_principal()
    };
    let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let held = {
        let (entered, go) = (Arc::clone(&entered), Arc::clone(&go));
        move |session: Session| async move {
            entered.notify_one();
            go.notified().await;
            session.insert("late", true)
        }
    };
    let app = Router::new()
        .route("/held", get(held))
        .route("/saved-first", get(saved_first))
        .merge(routes())
        .layer(SessionLayer::new(MemoryStore::new()));
    let mut mia = Browser::default();
    for path in [
        "/login?u=mia",
        "/read",
        "/set?k=a&v=b",
        "/step-down",
        "/saved-first",
    ] {
        let page = mia.get(&app, path).await;
        assert_eq!(page.headers["cache-control"], "no-store", "{path}");
        page.ok();
    }
    let page = mia.get(&app, "/read").await;
    assert!(!page.headers.contains_key("cache-control"), "signed out");
    mia.get(&app, "/login?u=mia").await.ok();
    // The response to a request during its own logout belongs to a signed-in session, too.
    let late = mia.clone();
    let logout = async {
        entered.notified().await;
        mia.get(&app, "/logout").await.ok();
        go.notify_one();
    };
    let (late, ()) = tokio::join!(late.peek(&app, "/held"), logout);
    assert_eq!(late.status, StatusCode::CONFLICT);
    assert_eq!(late.headers["cache-control"], "no-store");
}

#[tokio::test]
async fn a_dead_or_malformed_cookie_stays_in_the_browser() {
    let clock = ManualClock::new();
    let store = MemoryStore::new().with_clock(clock.clone());
    let app = routes().layer(SessionLayer::new(store));
    let mut dead = Browser::default();
    dead.get(&app, "/set?k=name&v=mia").await.ok();
    clock.advance(SessionConfig::default().idle_timeout);
    let malformed = Browser {
        cookie: Some("__Host-id=x".to_owned()),
    };
    for browser in [&mut dead, &mut malformed.clone()] {
        let page = browser.get(&app, "/read").await;
        assert_eq!(page.set_cookies(), Vec::<&str>::new());
        let before = browser.cookie.clone();
        let page = browser.get(&app, "/incr?k=n").await;
        assert_eq!(
            page.set_cookies().len(),
            1,
            "the first change sets a new cookie"
        );
        assert_ne!(browser.cookie, before);
    }
}

#[tokio::test]
async fn the_path_of_the_request_is_not_compared_with_the_path_of_the_cookie() {
    let cookie = CookieConfig::default().with_name("id").with_path("/app");
    let config = SessionConfig::default().with_cookie(cookie);
    let layer = SessionLayer::try_new(MemoryStore::new(), config).unwrap();
    let app = routes().nest("/app", routes()).layer(layer);
    let mut browser = Browser::default();
    let page = browser.get(&app, "/set?k=name&v=mia").await;
    assert!(page.set_cookies()[0].contains("; Path=/app"));
    // A browser would not send the cookie to this path.
    assert_eq!(browser.get(&app, "/read").await.ok(), "name");
    assert_eq!(browser.get(&app, "/app/read").await.ok(), "name");
}

#[tokio::test]
async fn two_concurrent_first_requests_create_two_sessions() {
    let app = routes().layer(SessionLayer::new(MemoryStore::new()));
    let new = Browser::default();
    let (one, other) = tokio::join!(new.peek(&app, "/incr?k=n"), new.peek(&app, "/incr?k=n"));
    let cookies = [one.set_cookies()[0], other.set_cookies()[0]];
    assert_ne!(cookies[0], cookies[1], "two sessions");
    assert_eq!((one.text.as_str(), other.text.as_str()), ("1", "1"));
    // If one page changes the session before the other requests, they share its session.
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=visited&v=yes").await.ok();
    let _ = tokio::join!(
        browser.peek(&app, "/incr?k=n"),
        browser.peek(&app, "/incr?k=n")
    );
    assert_eq!(browser.get(&app, "/incr?k=n").await.ok(), "3");
}

#[tokio::test]
async fn writes_with_a_retired_token_get_409_for_ten_seconds() {
    let clock = ManualClock::new();
    let store = MemoryStore::new().with_clock(clock.clone());
    let app = routes().layer(SessionLayer::new(store));
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    let retired = browser.clone();
    browser.get(&app, "/cycle").await.ok();
    let millis = std::time::Duration::from_millis;
    for passed in [0, 9_999] {
        clock.advance(millis(passed));
        assert_eq!(
            retired.peek(&app, "/read").await.ok(),
            "",
            "an empty session"
        );
        let page = retired.peek(&app, "/incr?k=n").await;
        assert_eq!((page.status.as_u16(), page.set_cookies().len()), (409, 0));
    }
    clock.advance(millis(1));
    let page = retired.peek(&app, "/incr?k=n").await;
    assert_eq!((page.status.as_u16(), page.set_cookies().len()), (200, 1));
    assert_eq!(browser.get(&app, "/read").await.ok(), "name");
}

#[tokio::test]
async fn a_replaced_response_has_only_the_headers_of_outer_layers() {
    let security = || {
        let value = HeaderValue::from_static("nosniff");
        SetResponseHeaderLayer::overriding(header::X_CONTENT_TYPE_OPTIONS, value)
    };
    let down =
        || SessionLayer::new(RedisStore::lazy(RedisConfig::new("redis://127.0.0.1:1/")).unwrap());
    let up = SessionLayer::new(MemoryStore::new());
    let inside = |sessions| {
        routes()
            .layer(CorsLayer::permissive())
            .layer(security())
            .layer(sessions)
    };
    let outside = |sessions| {
        routes()
            .layer(sessions)
            .layer(CorsLayer::permissive())
            .layer(security())
    };
    // The same order as `outside`, which starts with the outermost layer.
    let built = |sessions: SessionLayer| {
        let layers = tower::ServiceBuilder::new()
            .layer(security())
            .layer(CorsLayer::permissive())
            .layer(sessions);
        routes().layer(layers)
    };
    let mut browser = Browser::default();
    let app = routes().layer(up.clone());
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    let retired = browser.clone();
    browser.get(&app, "/cycle").await.ok();
    for (up, down, has) in [
        (inside(up.clone()), inside(down()), false),
        (outside(up.clone()), outside(down()), true),
        (built(up.clone()), built(down()), true),
    ] {
        for (app, browser, path, status, has) in [
            (&up, &browser, "/incr?k=n", 200, true),
            (&up, &retired, "/incr?k=n", 409, has),
            (&down, &browser, "/sign-out", 503, has),
            // The handler's own response, since it used a session that could not be loaded.
            (&down, &browser, "/incr?k=n", 503, true),
        ] {
            let page = browser.peek(app, path).await;
            assert_eq!(page.status.as_u16(), status);
            for name in ["access-control-allow-origin", "x-content-type-options"] {
                assert_eq!(page.headers.contains_key(name), has, "{name} on {status}");
            }
        }
    }
}
