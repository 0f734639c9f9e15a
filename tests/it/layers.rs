//! The layer among other layers: nested, absent, loading late; caches, hooks, and cookies of others.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode, Version};
use axum::response::IntoResponse as _;
use axum::routing::get;
use bytes::Bytes;
use sessile::{
    ClientAddress, Concurrency, CookieConfig, Event, Exclusive, Fingerprinting, Load, Logout,
    MemoryStore, OnStoreError, ReadSession, RedisConfig, RedisStore, SameSite, Session,
    SessionConfig, SessionError, SessionLayer, SignedInCaching,
};
use tower::{Layer as _, Service, ServiceExt as _};

use crate::support::app::{app, routes};
use crate::support::browser::fetch;
use crate::support::{Browser, Spy};

fn named(name: &str) -> SessionLayer {
    let config = SessionConfig::default().with_cookie(CookieConfig::default().with_name(name));
    SessionLayer::try_new(MemoryStore::new(), config).unwrap()
}

#[tokio::test]
async fn without_a_layer_the_handler_fails_and_an_optional_session_is_none() {
    let page = Browser::default().get(&routes(), "/read").await;
    assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR);
    let optional = Router::new().route(
        "/",
        get(|session: Option<Session>| async move { session.is_some().to_string() }),
    );
    assert_eq!(Browser::default().get(&optional, "/").await.ok(), "false");
    let layered = optional.layer(SessionLayer::new(MemoryStore::new()));
    assert_eq!(Browser::default().get(&layered, "/").await.ok(), "true");
}

#[tokio::test]
async fn an_inner_layer_of_the_same_name_joins_the_outer_session() {
    let inner = Router::new().nest("/inner", routes().layer(named("__Host-id")));
    let app = inner.merge(routes()).layer(named("__Host-id"));
    let mut browser = Browser::default();
    let page = browser.get(&app, "/inner/set?k=name&v=mia").await;
    assert_eq!(page.set_cookies().len(), 1);
    assert_eq!(browser.get(&app, "/read").await.ok(), "name");
    assert_eq!(browser.get(&app, "/inner/read").await.ok(), "name");
}

type Reports = Arc<Mutex<Vec<String>>>;

/// An observer that records ignored settings.
fn ignored() -> (Reports, impl Fn(&Event) + Send + Sync + 'static) {
    let reports = Reports::default();
    let observed = Arc::clone(&reports);
    let observe = move |event: &Event| {
        if let Event::SettingsIgnored {
            cookie, settings, ..
        } = event
        {
            let reports = format!("{cookie}: {}", settings.join(", "));
            observed.lock().unwrap().push(reports);
        }
    };
    (reports, observe)
}

/// The ignored settings that two requests report for one layer inside another.
async fn reports_of(outer: SessionLayer, inner: SessionLayer) -> Vec<String> {
    let (reports, observe) = ignored();
    let inner = Router::new().nest("/inner", routes().layer(inner));
    let app = inner.merge(routes()).layer(outer.with_observer(observe));
    for _ in 0..2 {
        Browser::default().get(&app, "/inner/read").await.ok();
        Browser::default().get(&app, "/read").await.ok();
    }
    let reports = reports.lock().unwrap();
    reports.clone()
}

fn configured(store: &MemoryStore, change: impl FnOnce(&mut SessionConfig)) -> SessionLayer {
    let mut config = SessionConfig::default();
    change(&mut config);
    SessionLayer::try_new(store.clone(), config).unwrap()
}

#[tokio::test]
async fn ignored_settings_of_an_inner_layer_are_reported_once() {
    type Set = fn(&mut SessionConfig);
    let settings: [(&str, Set); 13] = [
        ("cookie", |config| {
            config.cookie.same_site = SameSite::Strict
        }),
        ("idle_timeout", |config| config.idle_timeout /= 2),
        ("absolute_timeout", |config| config.absolute_timeout /= 2),
        ("max_size", |config| config.max_size /= 2),
        ("load", |config| config.load = Load::OnExtract),
        ("on_store_error", |config| {
            config.on_store_error = OnStoreError::Anonymous;
        }),
        ("concurrency", |config| {
            config.concurrency = Concurrency::Reject;
        }),
        ("fingerprinting", |config| {
            config.fingerprinting = Fingerprinting::Strict;
        }),
        ("client_address", |config| {
            config.client_address = ClientAddress::hops(1).unwrap();
        }),
        ("ipv4_prefix", |config| config.ipv4_prefix = 16),
        ("ipv6_prefix", |config| config.ipv6_prefix = 48),
        ("commit_on_server_error", |config| {
            config.commit_on_server_error = true;
        }),
        ("signed_in_caching", |config| {
            config.signed_in_caching = SignedInCaching::Unchanged;
        }),
    ];
    let store = MemoryStore::new();
    for (setting, set) in settings {
        let reports = reports_of(configured(&store, |_| ()), configured(&store, set)).await;
        assert_eq!(reports, [format!("__Host-id: {setting}")]);
        // In the other order, the outer layer has the setting.
        let reports = reports_of(configured(&store, set), configured(&store, |_| ())).await;
        assert_eq!(reports, [format!("__Host-id: {setting}")]);
        let reports = reports_of(configured(&store, set), configured(&store, set)).await;
        assert_eq!(reports, Vec::<String>::new());
    }
    let hooked = configured(&store, |config| config.max_size = 4096)
        .with_client_ip(|_| None)
        .with_on_error(|_, _| Response::new(Bytes::new()));
    let reports = reports_of(configured(&store, |_| ()), hooked).await;
    assert_eq!(reports, ["__Host-id: max_size, client_ip, on_error"]);
}

#[tokio::test]
async fn an_ignored_store_of_an_inner_layer_is_reported() {
    let store = MemoryStore::new();
    let layer = SessionLayer::new(store.clone());
    for same in [layer.clone(), SessionLayer::new(store)] {
        assert_eq!(reports_of(layer.clone(), same).await, Vec::<String>::new());
    }
    let reports = reports_of(layer.clone(), SessionLayer::new(MemoryStore::new())).await;
    assert_eq!(reports, ["__Host-id: store"]);
    let other_type = SessionLayer::new(Spy::on(MemoryStore::new()));
    assert_eq!(reports_of(layer, other_type).await, ["__Host-id: store"]);
}

/// The observer of the inner layer gets the event, too.
#[tokio::test]
async fn an_ignored_observer_of_an_inner_layer_gets_the_report() {
    let store = MemoryStore::new();
    let (reports, observe) = ignored();
    let inner = SessionLayer::new(store.clone()).with_observer(observe);
    let expected = ["__Host-id: observer"];
    assert_eq!(reports_of(SessionLayer::new(store), inner).await, expected);
    assert_eq!(*reports.lock().unwrap(), expected);
}

#[tokio::test]
async fn an_inner_layer_of_another_name_has_its_own_session() {
    let inner = Router::new().nest("/admin", routes().layer(named("__Host-admin")));
    let app = inner.merge(routes()).layer(named("__Host-id"));
    let mut user = Browser::default();
    user.get(&app, "/set?k=name&v=mia").await.ok();
    let mut both = user.clone();
    let page = both.get(&app, "/admin/set?k=role&v=root").await;
    assert_eq!(page.set_cookies().len(), 1);
    assert!(page.set_cookies()[0].starts_with("__Host-admin="));
    both.cookie = Some(format!(
        "{}; {}",
        user.cookie.as_ref().unwrap(),
        both.cookie.unwrap()
    ));
    assert_eq!(both.peek(&app, "/read").await.ok(), "name");
    assert_eq!(both.peek(&app, "/admin/read").await.ok(), "role");
}

#[tokio::test]
async fn loading_on_extract_loads_nothing_for_pages_without_a_session() {
    let spy = Spy::on(MemoryStore::new());
    let calls = spy.calls.clone();
    let app = app(SessionLayer::new(spy).with_load(Load::OnExtract));
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    let before = calls.so_far()[0];
    assert_eq!(browser.get(&app, "/plain").await.ok(), "plain");
    assert_eq!(calls.so_far()[0], before);
    assert_eq!(browser.get(&app, "/read").await.ok(), "name");
    assert_eq!(calls.so_far()[0], before + 1);
}

/// Its client has disconnected by then, so no response carries the cookie.
#[tokio::test(start_paused = true)]
async fn a_session_loaded_after_its_request_was_abandoned_cannot_set_a_cookie() {
    let (send, mut receive) = tokio::sync::mpsc::channel(1);
    let handler = |request: Request<Body>| async move {
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let (parts, _) = request.into_parts();
            let session = Session::from_parts(&parts).await.unwrap();
            session.insert("n", 1).unwrap();
            send.send(session.save().await).await.unwrap();
        });
        std::future::pending::<()>().await;
    };
    let layer = SessionLayer::new(MemoryStore::new()).with_load(Load::OnExtract);
    let app = Router::new().route("/", get(handler)).layer(layer);
    let browser = Browser::default();
    let asked = browser.peek(&app, "/");
    let left = tokio::time::timeout(Duration::from_millis(50), asked).await;
    assert!(left.is_err());
    let saved = receive.recv().await.unwrap();
    assert!(
        matches!(saved, Err(SessionError::ResponseSent)),
        "{saved:?}"
    );
}

#[tokio::test]
async fn any_tower_service_can_use_the_session() {
    let service = tower::service_fn(|request: Request<String>| async move {
        let (parts, body) = request.into_parts();
        let session = Session::from_parts(&parts).await.unwrap();
        session.insert("body", body).unwrap();
        Ok::<_, std::convert::Infallible>(Response::new(http_body_util::Full::<Bytes>::default()))
    });
    let mut service = SessionLayer::new(MemoryStore::new()).layer(service);
    let request = Request::new("hello".to_owned());
    let response = service.ready().await.unwrap().call(request).await.unwrap();
    assert!(response.headers().contains_key("set-cookie"));
}

#[tokio::test]
async fn a_tower_service_that_keeps_the_request_finds_its_session() {
    let echo = tower::service_fn(|request: Request<Body>| async move {
        let extensions = request.extensions();
        match request.uri().path() {
            "/write" => {
                let session = Session::from_extensions(extensions).await.unwrap();
                session.insert("name", "mia").unwrap();
            }
            "/sign-out" => Logout::from_extensions(extensions).unwrap().end_session(),
            _ => {}
        }
        let session = ReadSession::from_extensions(extensions).await.unwrap();
        let name: Option<String> = session.get("name").unwrap();
        let answer = format!("{} {}", request.method(), name.unwrap_or_default());
        Ok::<_, std::convert::Infallible>(answer.into_response())
    });
    let app = Router::new()
        .fallback_service(echo)
        .layer(SessionLayer::new(MemoryStore::new()));
    let mut browser = Browser::default();
    assert_eq!(browser.get(&app, "/write").await.ok(), "GET mia");
    assert_eq!(browser.get(&app, "/read").await.ok(), "GET mia");
    assert_eq!(browser.get(&app, "/sign-out").await.ok(), "GET ");
    assert_eq!(browser.cookie, None);

    let without_a_layer = Request::new(());
    let extensions = without_a_layer.extensions();
    for missing in [
        Session::from_extensions(extensions).await.map(drop),
        ReadSession::from_extensions(extensions).await.map(drop),
        Logout::from_extensions(extensions).map(drop),
    ] {
        assert!(matches!(missing, Err(SessionError::MissingLayer)));
    }
}

#[tokio::test]
async fn the_service_that_was_polled_ready_is_called() {
    /// A service that panics if it is called before it was polled ready.
    struct Strict(bool);
    impl Clone for Strict {
        fn clone(&self) -> Self {
            Self(false)
        }
    }
    impl Service<Request<Body>> for Strict {
        type Response = Response<Body>;
        type Error = std::convert::Infallible;
        type Future = std::future::Ready<Result<Self::Response, Self::Error>>;
        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), Self::Error>> {
            self.0 = true;
            std::task::Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Request<Body>) -> Self::Future {
            assert!(self.0, "called before it was ready");
            std::future::ready(Ok(Response::default()))
        }
    }
    let mut service = SessionLayer::new(MemoryStore::new()).layer(Strict(false));
    for _ in 0..2 {
        service
            .ready()
            .await
            .unwrap()
            .call(Request::default())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn responses_that_set_the_cookie_are_not_cached() {
    let public = |session: Session| async move {
        session.increment("n", 1).unwrap();
        [("cache-control", "public, max-age=600"), ("vary", "accept")]
    };
    let private = |session: Session| async move {
        session.increment("n", 1).unwrap();
        [("cache-control", "private, max-age=5")]
    };
    let asset = || async { [("cache-control", "public, max-age=600")] };
    let app = Router::new()
        .route("/public", get(public))
        .route("/private", get(private))
        .route("/asset", get(asset))
        .merge(routes())
        .layer(SessionLayer::new(MemoryStore::new()));
    let page = Browser::default().get(&app, "/public").await;
    assert_eq!(page.headers["cache-control"], "no-store");
    let vary: Vec<_> = page.headers.get_all("vary").iter().collect();
    assert_eq!(vary, ["accept", "cookie"]);
    let page = Browser::default().get(&app, "/private").await;
    assert_eq!(page.headers["cache-control"], "private, max-age=5");

    let mut browser = Browser::default();
    browser.get(&app, "/public").await;
    let read = browser.get(&app, "/read").await;
    assert_eq!(read.headers["vary"], "cookie");
    assert!(
        !read.headers.contains_key("cache-control"),
        "a read does not change the header"
    );
    let asset = browser.get(&app, "/asset").await;
    assert_eq!(asset.headers["cache-control"], "public, max-age=600");
    assert!(
        !asset.headers.contains_key("vary"),
        "the session was not used"
    );
}

#[tokio::test]
async fn the_layer_sets_one_session_cookie_and_keeps_all_others() {
    let handler = |session: Session| async move {
        session.increment("n", 1).unwrap();
        let mut response = "".into_response();
        for cookie in ["theme=dark", "__Host-id=forged; Path=/", "lang=de"] {
            response
                .headers_mut()
                .append("set-cookie", cookie.parse().unwrap());
        }
        response
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(SessionLayer::new(MemoryStore::new()));
    let page = Browser::default().get(&app, "/").await;
    let cookies = page.set_cookies();
    assert_eq!(cookies[..2], ["theme=dark", "lang=de"]);
    assert_eq!(cookies.len(), 3);
    assert!(cookies[2].starts_with("__Host-id=") && !cookies[2].contains("forged"));
}

#[tokio::test]
async fn the_error_hook_builds_the_response_of_a_session_error() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (hooked, observed) = (Arc::clone(&seen), Arc::new(Mutex::new(Vec::new())));
    let events = Arc::clone(&observed);
    let layer = SessionLayer::new(MemoryStore::new())
        .with_on_error(move |error, _| {
            hooked.lock().unwrap().push(error.to_string());
            let mut response = Response::new(Bytes::from_static(b"our page"));
            *response.status_mut() = StatusCode::IM_A_TEAPOT;
            response
        })
        .with_observer(move |event: &Event| events.lock().unwrap().push(format!("{event:?}")));
    let app = app(layer);
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    let late = browser.clone();
    browser.get(&app, "/cycle").await.ok();
    // An error of the final commit, and one that the handler returned.
    for path in ["/incr?k=n", "/incr-now?k=n"] {
        let page = late.peek(&app, path).await;
        assert_eq!(
            (page.status, page.text.as_str()),
            (StatusCode::IM_A_TEAPOT, "our page"),
            "{path}"
        );
    }
    assert!(
        seen.lock()
            .unwrap()
            .iter()
            .all(|text| text.contains("rotated")),
        "{seen:?}"
    );
    let observed = observed.lock().unwrap();
    for kind in ["Created", "Rotated", "Refused"] {
        assert!(
            observed.iter().any(|event| event.starts_with(kind)),
            "{kind}: {observed:?}"
        );
    }
}

/// A layer whose hook answers with JSON if the request accepts that, and with HTML otherwise.
fn negotiating(layer: SessionLayer) -> SessionLayer {
    layer.with_on_error(|error, request| {
        let accept = request.headers.get("accept");
        let json = accept.is_some_and(|accept| accept == "application/json");
        let content_type = if json {
            "application/json"
        } else {
            "text/html"
        };
        let response = Response::builder().status(error.status());
        let response = response.header("content-type", content_type);
        response.body(Bytes::new()).unwrap()
    })
}

#[tokio::test]
async fn the_error_hook_can_answer_in_the_format_that_the_request_accepts() {
    let exclusive = Concurrency::Exclusive(Exclusive::new(Duration::from_secs(1)));
    let lazy = || RedisStore::lazy(RedisConfig::new("redis://127.0.0.1:1/")).unwrap();
    let reject = SessionLayer::new(MemoryStore::new()).with_concurrency(Concurrency::Reject);
    let tab = app(reject.clone());
    let mut visitor = Browser::default();
    visitor.get(&tab, "/set?k=name&v=mia").await.ok();
    let other_tab = visitor.clone();
    let conflict = move |session: Session| async move {
        other_tab.peek(&tab, "/incr?k=n").await.ok();
        session.insert("late", true).unwrap();
    };
    let cases = [
        // The session cannot be loaded, so no handler runs.
        (
            app(negotiating(
                SessionLayer::new(lazy()).with_concurrency(exclusive),
            )),
            "/read",
            503,
        ),
        // The handler fails, because its session was not loaded.
        (app(negotiating(SessionLayer::new(lazy()))), "/read", 503),
        // The commit fails.
        (
            Router::new()
                .route("/", get(conflict))
                .layer(negotiating(reject)),
            "/",
            409,
        ),
        // The handler returns an error of a call.
        (
            app(negotiating(SessionLayer::new(MemoryStore::new()))),
            "/buy",
            409,
        ),
    ];
    for (app, path, status) in cases {
        for (accept, content_type) in [
            (Some("application/json"), "application/json"),
            (Some("text/html"), "text/html"),
            (None, "text/html"),
        ] {
            let mut request = Request::get(path).header("cookie", visitor.cookie.as_ref().unwrap());
            if let Some(accept) = accept {
                request = request.header("accept", accept);
            }
            let page = fetch(&app, request.body(Body::empty()).unwrap()).await;
            assert_eq!(page.status.as_u16(), status, "{path} {accept:?}");
            assert_eq!(
                page.headers["content-type"], content_type,
                "{path} {accept:?}"
            );
        }
    }
}

#[tokio::test]
async fn the_error_hook_gets_the_request_head_without_extensions() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hooked = Arc::clone(&seen);
    let layer = SessionLayer::new(MemoryStore::new()).with_on_error(move |_, request| {
        hooked.lock().unwrap().push((
            request.method.clone(),
            request.uri.clone(),
            request.version,
            request.headers["x-request"].clone(),
            request.headers["cookie"].is_sensitive(),
            request.extensions.is_empty(),
        ));
        Response::new(Bytes::new())
    });
    let fail = || async { SessionError::Aborted };
    let app = Router::new()
        .route("/fail", axum::routing::post(fail))
        .layer(layer);
    let request = Request::post("/fail?a=1")
        .version(Version::HTTP_10)
        .header("x-request", "7")
        .header("cookie", "__Host-id=x")
        .extension(7_u32);
    fetch(&app, request.body(Body::empty()).unwrap()).await;
    let expected = (
        Method::POST,
        "/fail?a=1".parse().unwrap(),
        Version::HTTP_10,
        "7".parse().unwrap(),
        true,
        true,
    );
    assert_eq!(*seen.lock().unwrap(), [expected]);
}

#[tokio::test]
async fn outer_layers_find_the_error_in_the_extensions() {
    let app = app(SessionLayer::new(MemoryStore::new()));
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    let late = browser.clone();
    browser.get(&app, "/cycle").await.ok();
    let request = Request::get("/incr?k=n").header("cookie", late.cookie.unwrap());
    let response = app
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert!(matches!(
        response.extensions().get(),
        Some(SessionError::Gone(sessile::Gone::Rotated))
    ));
}

#[tokio::test]
async fn the_cookie_for_localhost_works_without_tls() {
    let app = app(SessionLayer::new(MemoryStore::new()).insecure_for_localhost());
    let page = Browser::default().get(&app, "/incr?k=n").await;
    let cookie = page.set_cookies()[0].to_owned();
    assert!(
        cookie.starts_with("id=") && cookie.ends_with("; HttpOnly; SameSite=Lax; Path=/"),
        "{cookie}"
    );
}

#[tokio::test]
async fn head_requests_and_missing_pages_have_a_session() {
    let app = app(SessionLayer::new(MemoryStore::new()));
    let head = Request::head("/incr?k=n").body(Body::empty()).unwrap();
    assert_eq!(fetch(&app, head).await.set_cookies().len(), 1);
    let mut browser = Browser::default();
    browser.get(&app, "/incr?k=n").await.ok();
    assert_eq!(browser.get(&app, "/nowhere").await.status, 404);
    assert_eq!(browser.get(&app, "/incr?k=n").await.ok(), "2");
}

#[tokio::test]
async fn a_read_only_session_shows_changes_of_others_and_writes_nothing() {
    let spy = Spy::on(MemoryStore::new());
    let calls = spy.calls.clone();
    let look = |session: ReadSession| async move {
        assert_eq!(session.principal(), None);
        assert!(session.peek_flashes().is_empty());
        format!(
            "{} {:?}",
            session.is_new(),
            session.get::<String>("name").unwrap()
        )
    };
    let both = |session: Session, read: ReadSession| async move {
        session.insert("name", "noa").unwrap();
        read.get::<String>("name").unwrap().unwrap()
    };
    let absent = |session: Option<ReadSession>| async move { session.is_none().to_string() };
    let app = routes()
        .route("/look", get(look))
        .route("/both", get(both))
        .layer(SessionLayer::new(spy))
        .route("/absent", get(absent));
    let mut browser = Browser::default();
    assert_eq!(browser.get(&app, "/look").await.ok(), "true None");
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    let before = calls.so_far();
    assert_eq!(
        browser.get(&app, "/look").await.ok(),
        r#"false Some("mia")"#
    );
    let after = calls.so_far();
    assert_eq!((after[0] - before[0], &after[1..]), (1, &before[1..]));
    assert_eq!(browser.get(&app, "/both").await.ok(), "noa");
    assert_eq!(browser.get(&app, "/absent").await.ok(), "true");
}

#[tokio::test]
async fn a_sub_router_can_have_its_own_settings() {
    let layer = SessionLayer::new(MemoryStore::new());
    let lazy = routes().layer(layer.clone().with_load(Load::OnExtract));
    let app = Router::new()
        .nest("/public", lazy)
        .merge(routes().layer(layer));
    let mut browser = Browser::default();
    browser.get(&app, "/public/set?k=name&v=mia").await.ok();
    assert_eq!(browser.get(&app, "/read").await.ok(), "name");
    browser.get(&app, "/incr?k=n").await.ok();
    assert_eq!(browser.get(&app, "/public/read").await.ok(), "n,name");
}

#[tokio::test]
async fn a_layer_between_two_of_one_name_does_not_separate_them() {
    let innermost = Router::new().nest("/x", routes().layer(named("__Host-id")));
    let between = innermost.layer(named("__Host-admin"));
    let app = between.merge(routes()).layer(named("__Host-id"));
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    assert_eq!(browser.get(&app, "/x/read").await.ok(), "name");
    let page = browser.get(&app, "/x/incr?k=n").await;
    assert_eq!(page.set_cookies(), Vec::<&str>::new());
    assert_eq!(browser.get(&app, "/read").await.ok(), "n,name");
}

#[tokio::test(start_paused = true)]
async fn tower_http_layers_work_inside_and_outside() {
    use tower_http::catch_panic::CatchPanicLayer;
    use tower_http::compression::CompressionLayer;
    use tower_http::timeout::TimeoutLayer;

    let sessions = || SessionLayer::new(MemoryStore::new());
    let timeout =
        || TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_millis(150));
    let inside = routes()
        .layer(CatchPanicLayer::new())
        .layer(timeout())
        .layer(CompressionLayer::new())
        .layer(sessions());
    let outside = routes()
        .layer(sessions())
        .layer(CompressionLayer::new())
        .layer(timeout())
        .layer(CatchPanicLayer::new());
    for app in [inside, outside] {
        let mut browser = Browser::default();
        browser.get(&app, "/set?k=name&v=mia").await.ok();
        assert_eq!(browser.get(&app, "/panic").await.status, 500);
        assert_eq!(browser.get(&app, "/slow?ms=1000&k=late").await.status, 408);
        let zipped = Request::get("/get?k=name")
            .header("cookie", browser.cookie.as_ref().unwrap())
            .header("accept-encoding", "gzip");
        let response = app
            .clone()
            .oneshot(zipped.body(Body::empty()).unwrap())
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(
            browser.get(&app, "/read").await.ok(),
            "name",
            "neither the panic nor the timeout committed anything"
        );
    }
}

#[tokio::test]
async fn a_not_modified_response_still_sets_the_cookie() {
    let handler = |session: Session| async move {
        session.increment("n", 1).unwrap();
        StatusCode::NOT_MODIFIED
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(SessionLayer::new(MemoryStore::new()));
    let page = Browser::default().get(&app, "/").await;
    assert_eq!(
        (page.status, page.set_cookies().len()),
        (StatusCode::NOT_MODIFIED, 1)
    );
}

#[tokio::test]
async fn a_configuration_builds_a_layer() {
    let config: sessile::Config = serde_json::from_str(
        r#"{"store": {"url": "memory:"}, "session": {"cookie": {"name": "__Host-shop"}}}"#,
    )
    .unwrap();
    let app = app(SessionLayer::from_config(config).await.unwrap());
    let page = Browser::default().get(&app, "/incr?k=n").await;
    assert!(page.set_cookies()[0].starts_with("__Host-shop="));
    let config: sessile::Config = serde_json::from_str(
        r#"{"store": {"url": "redis://127.0.0.1:1/"}, "session": {"idle_timeout": "0s"}}"#,
    )
    .unwrap();
    let error = SessionLayer::from_config(config).await.unwrap_err();
    assert!(
        error.to_string().starts_with("session.idle_timeout"),
        "{error}"
    );
}
