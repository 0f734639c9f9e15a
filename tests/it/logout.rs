//! Logouts without a loaded session: during an outage, by the `Logout` extractor, or on a thread without a runtime.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Request, Response, StatusCode};
use axum::response::{IntoResponse as _, Response as AxumResponse};
use axum::routing::get;
use bytes::Bytes;
use sessile::store::ManualClock;
use sessile::{
    Concurrency, Event, Exclusive, Handle, Load, Logout, MemoryStore, OnStoreError, RedisConfig,
    RedisStore, Session, SessionError, SessionLayer, SessionStore as _,
};
use tower::{Layer as _, Service as _, ServiceExt as _};
use tower_http::catch_panic::CatchPanicLayer;

use crate::support::app::{app, routes};
use crate::support::patience::{by_default, until_blocking};
use crate::support::{
    Browser, Gate, Ground, Proxy, Server, Visit, fresh_prefix, store_with, until,
};

/// The events, formatted by `Debug`.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    fn observe(&self, layer: SessionLayer) -> SessionLayer {
        let seen = Arc::clone(&self.0);
        layer.with_observer(move |event: &Event| seen.lock().unwrap().push(format!("{event:?}")))
    }

    fn count(&self, what: &str) -> usize {
        let seen = self.0.lock().unwrap();
        seen.iter().filter(|event| event.contains(what)).count()
    }
}

/// A server that can fail, an application with the default timeouts, and one with long timeouts.
struct Site {
    server: Server,
    layer: SessionLayer,
    calm: Router,
}

impl Site {
    async fn start() -> Self {
        let (server, prefix) = (Server::start_durable(), fresh_prefix());
        let store = store_with(&server.url(), |config| {
            config.key_prefix.clone_from(&prefix);
            by_default(config);
        })
        .await;
        let calm = store_with(&server.url(), |config| config.key_prefix = prefix).await;
        Self {
            server,
            layer: SessionLayer::new(store),
            calm: app(SessionLayer::new(calm)),
        }
    }

    async fn visitor(&self) -> Browser {
        visitor(&self.calm).await
    }

    async fn gone(&self, visitor: &Browser) {
        until("the session is gone", async || {
            let page = visitor.peek(&self.calm, "/read").await;
            page.status == 200 && page.text.is_empty()
        })
        .await;
    }
}

async fn visitor(app: &Router) -> Browser {
    let mut visitor = Browser::default();
    visitor.get(app, "/set?k=name&v=mia").await.ok();
    visitor
}

#[tokio::test]
async fn a_logout_during_an_outage_removes_the_cookie_and_is_retried() {
    let mut site = Site::start().await;
    let events = Events::default();
    let layer = || events.observe(site.layer.clone());
    let late = layer().with_load(Load::OnExtract);
    let anonymous = layer().with_on_store_error(OnStoreError::Anonymous);
    let mut stolen = Vec::new();
    let mut visitors = Vec::new();
    for (layer, path) in [
        (layer(), "/sign-out"),
        (late.clone(), "/sign-out"),
        (late, "/sign-out?then=panic"),
        (anonymous.clone(), "/sign-out"),
        (anonymous.clone(), "/logout"),
        (anonymous.clone(), "/logout-and-say"),
        (anonymous, "/logout?then=panic"),
    ] {
        let visitor = site.visitor().await;
        stolen.push(visitor.clone());
        let app = routes().layer((CatchPanicLayer::new(), layer));
        visitors.push((visitor, app, path));
    }
    let stays = site.visitor().await;
    site.server.kill();
    for (visitor, app, path) in &mut visitors {
        let page = visitor.get(app, path).await;
        if path.ends_with("panic") {
            assert_eq!(page.status, 500, "{path}");
            continue;
        }
        assert_eq!(page.status, 503, "{path}: the logout is not committed");
        assert!(page.headers.contains_key("retry-after"), "{path}");
        assert_eq!(page.headers["cache-control"], "no-store", "{path}");
        assert_eq!(page.set_cookies().len(), 1, "{path}");
        assert_eq!(visitor.cookie, None, "{path}: the cookie is removed");
    }
    site.server.restart();
    for visitor in &stolen {
        site.gone(visitor).await;
    }
    assert_eq!(stays.peek(&site.calm, "/read").await.ok(), "name");
    site.layer.drained().await;
    assert_eq!(events.count("DestroyFailed"), 0, "each is done");
}

#[tokio::test]
async fn a_page_that_does_not_use_its_session_is_served_during_an_outage() {
    let mut site = Site::start().await;
    let visitor = site.visitor().await;
    let asked_twice = |parts: axum::http::request::Parts| async move {
        let first = Session::from_parts(&parts).await.unwrap_err();
        let second = Session::from_parts(&parts).await.unwrap_err();
        assert!(matches!(first, SessionError::Store(_)));
        second.to_string()
    };
    let ignored = |session: Result<Session, SessionError>| async move {
        assert!(matches!(session, Err(SessionError::Store(_))));
        "shown"
    };
    let app = routes()
        .route("/asked-twice", get(asked_twice))
        .route("/ignored", get(ignored))
        .route("/optional", get(|_: Option<Session>| async {}))
        .layer(site.layer.clone());
    site.server.kill();
    for (path, text) in [
        ("/plain", "plain"),
        ("/ignored", "shown"),
        ("/asked-twice", "the session store failed"),
    ] {
        let page = visitor.peek(&app, path).await;
        assert_eq!(page.set_cookies(), Vec::<&str>::new(), "{path}");
        assert_eq!(page.headers.contains_key("vary"), path != "/plain");
        assert_eq!(page.ok(), text, "{path}");
    }
    for path in ["/read", "/optional", "/set?k=a&v=b"] {
        let page = visitor.peek(&app, path).await;
        assert_eq!((page.status.as_u16(), page.set_cookies().len()), (503, 0));
        assert!(page.headers.contains_key("retry-after"), "{path}");
    }
    site.server.restart();
    until("the store is back", async || {
        visitor.peek(&app, "/read").await.status == 200
    })
    .await;
    assert_eq!(visitor.peek(&site.calm, "/read").await.ok(), "name");
}

#[tokio::test]
async fn an_exclusive_request_does_not_run_during_an_outage() {
    let mut site = Site::start().await;
    let visitor = site.visitor().await;
    let exclusive = Concurrency::Exclusive(Exclusive::new(Duration::from_secs(60)));
    let layer = site.layer.clone().with_concurrency(exclusive);
    let apps = [layer.clone(), layer.with_load(Load::OnExtract)].map(app);
    site.server.kill();
    for path in ["/plain", "/sign-out"] {
        let page = visitor.peek(&apps[0], path).await;
        assert_eq!((page.status.as_u16(), page.set_cookies().len()), (503, 0));
    }
    // No request has used the session here, and a logout does not.
    assert_eq!(visitor.peek(&apps[1], "/plain").await.ok(), "plain");
    let page = visitor.peek(&apps[1], "/sign-out").await;
    assert_eq!((page.status.as_u16(), page.set_cookies().len()), (503, 1));
    site.server.restart();
    site.gone(&visitor).await;
}

#[tokio::test]
async fn a_logout_sends_only_a_load_and_a_deletion() {
    let (server, prefix) = (Server::start(), fresh_prefix());
    let store = store_with(&server.url(), |config| config.key_prefix = prefix).await;
    let layer = SessionLayer::new(store);
    let inbound = app(layer.clone());
    let late = app(layer.with_load(Load::OnExtract));
    for app in [&inbound, &late] {
        let mut visitor = visitor(app).await;
        server.reset_counts();
        let page = visitor.get(app, "/sign-out").await;
        assert_eq!(page.headers["vary"], "cookie");
        page.ok();
        assert_eq!(
            server.counts().seen(),
            [("get", 1), ("pttl", 1), ("unlink", 1)]
        );
        server.reset_counts();
        for mut nobody in [Browser::default(), visitor] {
            let page = nobody.get(app, "/sign-out").await;
            assert_eq!(page.set_cookies(), Vec::<&str>::new());
            page.ok();
        }
        let mut malformed = Browser {
            cookie: Some("__Host-id=x".to_owned()),
        };
        malformed.get(app, "/sign-out").await.ok();
        assert_eq!(malformed.cookie, None);
        assert_eq!(server.counts().seen(), []);
    }
}

/// With a loaded session, and without one.
#[tokio::test]
async fn a_logout_ends_only_a_session_whose_current_or_recent_secret_it_has() {
    for load in [Load::Inbound, Load::OnExtract] {
        let clock = ManualClock::new();
        let store = MemoryStore::new().with_clock(clock.clone());
        let app = app(SessionLayer::new(store).with_load(load));
        let mut mia = visitor(&app).await;
        let mut wrong = mia.cookie.clone().unwrap();
        let last = if wrong.ends_with('A') { "I" } else { "A" };
        wrong.replace_range(wrong.len() - 1.., last);
        let mut thief = Browser {
            cookie: Some(wrong),
        };
        let (mut retired, mut forgotten) = (mia.clone(), mia.clone());
        mia.get(&app, "/cycle").await.ok();
        thief.get(&app, "/sign-out").await.ok();
        assert_eq!(thief.cookie, None);
        assert_eq!(mia.peek(&app, "/read").await.ok(), "name", "{load:?}");
        clock.advance(Duration::from_secs(11));
        forgotten.get(&app, "/sign-out").await.ok();
        assert_eq!(mia.peek(&app, "/read").await.ok(), "name", "{load:?}");

        retired.cookie.clone_from(&mia.cookie);
        mia.get(&app, "/cycle").await.ok();
        retired.get(&app, "/sign-out").await.ok();
        assert_eq!(retired.cookie, None);
        assert_eq!(mia.peek(&app, "/read").await.ok(), "", "{load:?}");
    }
}

#[tokio::test]
async fn a_logout_does_not_delete_a_session_that_it_cannot_read() {
    let ground = Ground::new();
    let store = ground.store().await;
    let prefix = store.namespace().to_owned();
    let layer = SessionLayer::new(store);
    let saved = |logout: Logout, mut request: Request<Body>| async move {
        logout.end_session();
        let (parts, _) = std::mem::take(&mut request).into_parts();
        let session = Session::from_parts(&parts).await.unwrap();
        // The load fails, and the handler continues.
        let _ = session.save().await;
    };
    for load in [Load::Inbound, Load::OnExtract] {
        let app = routes()
            .route("/saved", get(saved))
            .layer(layer.clone().with_load(load));
        let visitor = visitor(&app).await;
        let facts = visitor.peek(&app, "/facts").await.ok();
        let facts: serde_json::Value = serde_json::from_str(&facts).unwrap();
        let key = format!("{prefix}{}", facts["handle"].as_str().unwrap());
        let mut connection = ground.connection();
        let genuine: String = redis::cmd("GET").arg(&key).query(&mut connection).unwrap();
        let newer = genuine.replace("\"format\":1", "\"format\":99");
        assert_ne!(newer, genuine);
        for (value, status) in [(newer.as_str(), 409), ("something else", 200)] {
            let set = redis::cmd("SET")
                .arg(&key)
                .arg(value)
                .arg("KEEPTTL")
                .to_owned();
            let () = set.query(&mut connection).unwrap();
            for path in ["/sign-out", "/saved"] {
                let mut visitor = visitor.clone();
                let page = visitor.get(&app, path).await;
                assert_eq!(page.status.as_u16(), status, "{load:?} {path} {value:.20}");
                assert_eq!(visitor.cookie, None);
            }
            let left: String = redis::cmd("GET").arg(&key).query(&mut connection).unwrap();
            assert_eq!(left, value);
        }
    }
}

#[tokio::test]
async fn a_logout_beside_a_session_is_a_destroy() {
    let notice = |logout: Logout, session: Session| async move {
        session.insert("dropped", true).unwrap();
        logout.end_session();
        session.insert("notice", "signed out").unwrap();
    };
    // The handler extracts the session only after its end, and gets a new one.
    let asked_after = |logout: Logout, mut request: Request<Body>| async move {
        logout.end_session();
        let (parts, _) = std::mem::take(&mut request).into_parts();
        let session = Session::from_parts(&parts).await.unwrap();
        assert!(session.is_new() && session.keys().is_empty());
        session.insert("notice", "signed out").unwrap();
    };
    for load in [Load::Inbound, Load::OnExtract] {
        let app = routes()
            .route("/notice", get(notice))
            .route("/asked-after", get(asked_after))
            .layer(SessionLayer::new(MemoryStore::new()).with_load(load));
        for path in ["/notice", "/asked-after"] {
            let mut mia = visitor(&app).await;
            let before = mia.clone();
            mia.get(&app, path).await.ok();
            assert_eq!(before.peek(&app, "/read").await.ok(), "", "{load:?} {path}");
            assert_eq!(
                mia.peek(&app, "/read").await.ok(),
                "notice",
                "{load:?} {path}"
            );
        }
    }
}

#[tokio::test]
async fn a_logout_is_committed_however_its_request_ends() {
    let gate = Gate::new();
    for load in [Load::Inbound, Load::OnExtract] {
        let layer = SessionLayer::new(MemoryStore::new()).with_load(load);
        let app = routes().layer((CatchPanicLayer::new(), layer));
        for then in ["panic", "fail", "hang"] {
            let mia = visitor(&app).await;
            let path = format!("/sign-out?then={then}&{}", gate.query());
            match then {
                "hang" => {
                    let asked = {
                        let (mia, app) = (mia.clone(), app.clone());
                        tokio::spawn(async move { mia.peek(&app, &path).await.status })
                    };
                    gate.arrived(if load == Load::Inbound { 1 } else { 2 })
                        .await;
                    asked.abort();
                }
                _ => assert_eq!(mia.peek(&app, &path).await.status, 500),
            }
            until("the session is gone", async || {
                mia.peek(&app, "/read").await.ok().is_empty()
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_logout_needs_only_a_layer() {
    let optional = |logout: Option<Logout>| async move { logout.is_some().to_string() };
    let app = routes().route("/optional", get(optional));
    let page = Browser::default().get(&app, "/sign-out").await;
    assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(
        Browser::default().get(&app, "/optional").await.ok(),
        "false"
    );
    let layered = app.layer(SessionLayer::new(MemoryStore::new()));
    assert_eq!(
        Browser::default().get(&layered, "/optional").await.ok(),
        "true"
    );

    let store = RedisStore::lazy(RedisConfig::new("redis://127.0.0.1:1/")).unwrap();
    let service = tower::service_fn(|request: Request<String>| async move {
        let (parts, _) = request.into_parts();
        Logout::from_parts(&parts).unwrap().end_session();
        Ok::<_, std::convert::Infallible>(Response::new(http_body_util::Full::<Bytes>::default()))
    });
    let mut service = SessionLayer::new(store).layer(service);
    let cookie = format!("__Host-id={}", "A".repeat(43));
    let request = Request::builder().header("cookie", cookie);
    let request = request.body(String::new()).unwrap();
    let response = service.ready().await.unwrap().call(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("set-cookie"));
}

#[tokio::test]
async fn if_too_many_logouts_are_pending_the_oldest_is_dropped_with_an_event() {
    let events = Events::default();
    let store = RedisStore::lazy(RedisConfig::new("redis://127.0.0.1:1/")).unwrap();
    let layer = SessionLayer::new(store).with_load(Load::OnExtract);
    let app = app(events.observe(layer));
    let sign_out = async |handle: Handle| {
        // The handle of a session, and an arbitrary secret.
        let handle = handle.to_string();
        let browser = Browser {
            cookie: Some(format!("__Host-id={}A{}", &handle[..21], "A".repeat(21))),
        };
        assert_eq!(browser.peek(&app, "/sign-out").await.status, 503);
    };
    let name = |browser: &Handle| {
        let prefix = browser.to_string()[..21].to_owned();
        format!("DestroyFailed {{ handle: Handle({prefix}")
    };
    let handles: Vec<Handle> = (0..1026).map(|_| Handle::random()).collect();
    for handle in &handles[..1024] {
        sign_out(*handle).await;
        // The same logout again is not another one.
        sign_out(*handle).await;
    }
    assert_eq!(events.count("DestroyFailed"), 0);
    for number in 0..2 {
        sign_out(handles[1024 + number]).await;
        let oldest = name(&handles[number]);
        until("the oldest logout is dropped", async || {
            events.count(&oldest) == 1
        })
        .await;
        assert_eq!(events.count("DestroyFailed"), number + 1);
    }
}

/// Threads outside the runtime may hold sessions, such as those of a pool for blocking work.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_works_on_a_thread_without_a_runtime() {
    let mut visit = Visit::in_memory();
    let app = app(visit.layer.clone());
    visit
        .request(|session| async move { session.insert("name", "mia").unwrap() })
        .await;
    let on_a_thread = |work: fn(Session)| {
        let mut visit = visit.clone();
        async move {
            let session = visit.keep().await;
            let thread = std::thread::spawn(move || work(session));
            let joined = tokio::task::spawn_blocking(move || thread.join());
            joined.await.unwrap().unwrap();
        }
    };
    on_a_thread(|session| {
        assert!(tokio::runtime::Handle::try_current().is_err());
        session.touch();
        session.insert("saved", true).unwrap();
        block_on(session.save()).unwrap();
        session.insert("lost", true).unwrap();
    })
    .await;
    assert_eq!(visit.browser.peek(&app, "/read").await.ok(), "name,saved");
    on_a_thread(|session| session.destroy()).await;
    until("the session is gone", async || {
        visit.browser.peek(&app, "/read").await.ok().is_empty()
    })
    .await;
}

#[test]
fn a_request_that_changes_its_session_without_a_runtime_is_answered_with_503() {
    let app = app(SessionLayer::new(MemoryStore::new()));
    let request = |path: &str| Request::get(path).body(Body::empty()).unwrap();
    let status = |path| {
        block_on(app.clone().oneshot(request(path)))
            .unwrap()
            .status()
    };
    assert_eq!(status("/read"), 200);
    assert_eq!(status("/incr?k=n"), 503);
}

/// Blocks on a future, on a thread without a runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn a_logout_whose_runtime_has_ended_emits_an_event() {
    let events = Events::default();
    let layer = events.observe(SessionLayer::new(MemoryStore::new()));
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let ended = runtime();
    let session = ended.block_on(async {
        let mut visit = Visit::with(layer.clone());
        visit
            .request(|session| async move { session.insert("name", "mia").unwrap() })
            .await;
        visit.keep().await
    });
    drop(ended);
    let handle = session.handle().unwrap();
    session.touch();
    session.destroy();
    drop(session);
    let failed = format!("DestroyFailed {{ handle: {handle:?}");
    assert_eq!(events.count(&failed), 1);

    // A logout that waits for the store.
    let waits = runtime();
    waits.block_on(async {
        let store = RedisStore::lazy(RedisConfig::new("redis://127.0.0.1:1/")).unwrap();
        let app = app(events.observe(SessionLayer::new(store)));
        let browser = Browser {
            cookie: Some(format!("__Host-id={}", "A".repeat(43))),
        };
        assert_eq!(browser.peek(&app, "/sign-out").await.status, 503);
    });
    assert_eq!(events.count("DestroyFailed"), 1);
    drop(waits);
    until_blocking("the event", || events.count("DestroyFailed") == 2);
    let expected = "handle: Handle(AAAAAAAAAAAAAAAAAAAAAA)";
    assert_eq!(events.count(&format!("DestroyFailed {{ {expected}")), 1);

    // A logout in flight.
    let (server, sends) = (Server::start(), runtime());
    let hold = sends.block_on(async {
        let proxy = Proxy::before(server.address()).await;
        let store = store_with(&proxy.url(), |_| ()).await;
        let app = app(events.observe(SessionLayer::new(store)));
        let mia = visitor(&app).await;
        let hold = proxy.hold("UNLINK");
        tokio::spawn(async move { mia.peek(&app, "/logout").await.status });
        hold.arrived().await;
        hold
    });
    drop(sends);
    until_blocking("the event", || events.count("DestroyFailed") == 3);
    drop(hold);
}

/// The removal of the cookie stays on a hook's response, and on a handler's own.
#[tokio::test]
async fn a_replaced_response_still_removes_the_cookie() {
    let store = RedisStore::lazy(RedisConfig::new("redis://127.0.0.1:1/")).unwrap();
    let hook =
        |_: &SessionError, _: &Parts| Response::builder().status(502).body(Bytes::new()).unwrap();
    let fails = |logout: Logout| async move {
        logout.end_session();
        let error: AxumResponse = SessionError::Discarded.into_response();
        error
    };
    let app = routes()
        .route("/fails", get(fails))
        .layer(SessionLayer::new(store).with_on_error(hook));
    for path in ["/sign-out", "/fails"] {
        let mut browser = Browser {
            cookie: Some(format!("__Host-id={}", "A".repeat(43))),
        };
        let page = browser.get(&app, path).await;
        assert_eq!((page.status.as_u16(), page.set_cookies().len()), (502, 1));
        assert_eq!(browser.cookie, None);
    }
}
