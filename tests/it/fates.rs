//! Ends of requests: errors, panics, and clients that disconnect.

use std::time::Duration;

use axum::http::StatusCode;
use futures_util::StreamExt as _;
use sessile::{MemoryStore, SessionConfig, SessionError, SessionLayer};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

use crate::support::app::{app, routes};
use crate::support::late::{Late, Post};
use crate::support::patience::{by_default, poll_at_most};
use crate::support::proxy::Proxy;
use crate::support::{Browser, Server, Spy, Visit, store_with, until};

struct Room {
    app: axum::Router,
    calls: std::sync::Arc<crate::support::spy::Calls>,
    browser: Browser,
}

async fn room() -> Room {
    let spy = Spy::on(MemoryStore::new());
    let calls = spy.calls.clone();
    // The panic is caught outside the layer, so it passes through the layer.
    let layers = ServiceBuilder::new()
        .layer(CatchPanicLayer::new())
        .layer(SessionLayer::new(spy));
    let app = routes().layer(layers);
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    Room {
        app,
        calls,
        browser,
    }
}

impl Room {
    async fn keys(&self) -> String {
        self.browser.peek(&self.app, "/read").await.ok()
    }

    /// Waits until the background deletion is done.
    async fn gone(&self) {
        until("the session is gone", async || self.keys().await.is_empty()).await;
    }
}

#[tokio::test]
async fn a_server_error_commits_no_data() {
    let mut room = room().await;
    let before = room.calls.so_far();
    assert_eq!(
        room.browser.get(&room.app, "/fail?status=500").await.status,
        500
    );
    assert_eq!(room.calls.so_far()[2], before[2], "nothing was written");
    assert_eq!(
        room.browser.get(&room.app, "/fail?status=404").await.status,
        404
    );
    assert_eq!(room.keys().await, "failed,name", "a client error commits");
}

#[tokio::test]
async fn a_server_error_commits_a_rotation_and_a_logout() {
    let mut room = room().await;
    let old = room.browser.clone();
    assert_eq!(
        room.browser
            .get(&room.app, "/fail?status=503&also=cycle")
            .await
            .status,
        503
    );
    assert_ne!(room.browser.token(), old.token());
    assert_eq!(room.keys().await, "name");
    assert_eq!(
        room.browser
            .clone()
            .get(&room.app, "/logout?then=fail")
            .await
            .status,
        500
    );
    assert_eq!(room.keys().await, "");
}

#[tokio::test]
async fn a_server_error_commits_if_the_layer_is_configured_to() {
    let config = SessionConfig::default().with_commit_on_server_error(true);
    let app = app(SessionLayer::try_new(MemoryStore::new(), config).unwrap());
    let mut browser = Browser::default();
    assert_eq!(browser.get(&app, "/fail?status=500").await.status, 500);
    assert_eq!(browser.get(&app, "/read").await.ok(), "failed");
}

/// This holds for every status and every setting of the layer: the error says that nothing was committed.
#[tokio::test]
async fn a_session_error_that_the_handler_returns_commits_no_data() {
    for commit_on_server_error in [false, true] {
        let config = SessionConfig::default().with_commit_on_server_error(commit_on_server_error);
        let layer = SessionLayer::try_new(MemoryStore::new(), config).unwrap();
        let errors = [
            SessionError::Aborted,
            SessionError::MissingLayer,
            SessionError::OutcomeUnknown,
        ];
        for error in errors {
            let mut visit = Visit::with(layer.clone());
            visit
                .request(|session| async move { session.insert("name", "mia").unwrap() })
                .await;
            let status = error.status();
            let page = visit
                .page(|session| async move {
                    session.insert("failed", true).unwrap();
                    Err::<(), _>(error)
                })
                .await;
            assert_eq!(page.status, status);
            visit
                .request(|session| async move { assert_eq!(session.keys(), ["name"]) })
                .await;
        }
    }
}

#[tokio::test]
async fn a_login_of_a_failing_handler_is_not_committed() {
    let failing = |session: sessile::Session| async move {
        session.set_principal("mia").await.unwrap();
        StatusCode::INTERNAL_SERVER_ERROR
    };
    let app = routes()
        .route("/broken-login", axum::routing::get(failing))
        .layer(SessionLayer::new(MemoryStore::new()));
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    let old = browser.token().to_owned();
    assert_eq!(browser.get(&app, "/broken-login").await.status, 500);
    assert_eq!(browser.token(), old);
    assert_eq!(browser.get(&app, "/whoami").await.ok(), "");
}

#[tokio::test]
async fn a_panic_commits_nothing_and_later_requests_work() {
    let mut room = room().await;
    let page = room.browser.get(&room.app, "/panic").await;
    assert_eq!((page.status.as_u16(), page.set_cookies().len()), (500, 0));
    assert_eq!(room.keys().await, "name");
    assert_eq!(room.browser.get(&room.app, "/incr?k=n").await.ok(), "1");
}

#[tokio::test(start_paused = true)]
async fn a_logout_is_committed_even_if_the_handler_panics() {
    let room = room().await;
    assert_eq!(
        room.browser
            .peek(&room.app, "/logout?then=panic")
            .await
            .status,
        500
    );
    room.gone().await;
}

#[tokio::test(start_paused = true)]
async fn a_logout_is_committed_even_if_the_client_disconnects() {
    let room = room().await;
    let (browser, app) = (room.browser.clone(), room.app.clone());
    let request = tokio::spawn(async move { browser.peek(&app, "/logout?then=hang").await.status });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(room.keys().await, "name", "the handler has not finished");
    request.abort();
    room.gone().await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_handler_commits_nothing() {
    let room = room().await;
    let (browser, app) = (room.browser.clone(), room.app.clone());
    let request =
        tokio::spawn(async move { browser.peek(&app, "/slow?ms=60&k=late").await.status });
    tokio::time::sleep(Duration::from_millis(20)).await;
    request.abort();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(room.keys().await, "name");
}

/// A middleware that keeps a response future without polling it. The others wait for its commit, but not for longer than they would
/// wait for the store.
#[tokio::test]
async fn a_response_that_nobody_polls_delays_other_requests_by_their_budget_at_most() {
    let server = Server::start();
    let proxy = Proxy::before(server.address()).await;
    let store = store_with(&proxy.url(), by_default).await;
    let app = app(SessionLayer::new(store));
    let mut visitor = Browser::default();
    visitor.get(&app, "/set?k=name&v=mia").await.ok();
    let commit = proxy.hold_commit();
    let mut kept = Box::pin(visitor.peek(&app, "/incr?k=n"));
    tokio::select! {
        _ = &mut kept => panic!("the commit is held"),
        () = commit.arrived() => commit.release(),
    }
    assert_eq!(visitor.peek(&app, "/incr?k=n").await.status, 503);
    assert_eq!(kept.await.ok(), "1");
    assert_eq!(visitor.peek(&app, "/incr?k=n").await.ok(), "2");
}

/// Clients disconnect at random moments: during the load, in the handler, in the middle of the commit. A moment is a
/// number of polls of the request, which takes a few polls in all.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_disconnecting_clients_leave_no_partial_commit() {
    let server = Server::start();
    let store = store_with(&server.url(), |_| ()).await;
    let app = app(SessionLayer::new(store.clone()));
    let mut browsers = vec![Browser::default(); 20];
    for browser in &mut browsers {
        browser.get(&app, "/set?k=name&v=mia").await.ok();
    }
    let clients = (0..1000_u64).map(|number| {
        let (app, browser) = (app.clone(), browsers[number as usize % 20].clone());
        async move {
            // Some clients stay to the end, which may take any number of polls.
            let polls = match number % 4 {
                0 => u32::MAX,
                _ => rand::random_range(1..12),
            };
            let request = browser.peek(&app, "/two-keys?ms=1");
            poll_at_most(polls, request).await.map(|page| page.status)
        }
    });
    // Not all at once, so that some commits overlap with the loads of others.
    let answers: Vec<_> = futures_util::stream::iter(clients)
        .buffer_unordered(60)
        .collect()
        .await;
    let stayed = answers.iter().filter(|answer| answer.is_some()).count();
    assert!(
        (250..1000).contains(&stayed),
        "{stayed} of 1000 clients stayed"
    );
    assert!(answers.iter().flatten().all(|status| *status == 200));
    let mut counted = 0;
    for browser in &browsers {
        let [first, second] = ["first", "second"].map(|key| {
            let (app, browser) = (app.clone(), browser.clone());
            async move {
                let page = browser.peek(&app, &format!("/number?k={key}")).await;
                page.ok().parse::<usize>().unwrap()
            }
        });
        let (first, second) = (first.await, second.await);
        assert_eq!(first, second, "both or neither");
        counted += first;
    }
    assert!((stayed..=1000).contains(&counted), "{counted} of {stayed}");
    let pool = store.pool();
    assert_eq!((pool.open, pool.size, pool.breaker_open), (4, 4, false));
    println!("{stayed} of 1000 stayed, {counted} counted, {pool:?}");
}

/// At the end of a process, work in flight is completed.
#[tokio::test(start_paused = true)]
async fn drained_waits_for_background_work() {
    let late = Late::before(MemoryStore::new());
    let layer = SessionLayer::new(late.clone());
    let app = app(layer.clone());
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    late.plan(&[Post::Slow(Duration::from_millis(200))]);
    let request = browser.peek(&app, "/incr?k=n");
    let left = tokio::time::timeout(Duration::from_millis(50), request).await;
    assert!(left.is_err());
    let began = tokio::time::Instant::now();
    layer.drained().await;
    assert!(began.elapsed() >= Duration::from_millis(100));
    assert_eq!(browser.peek(&app, "/number?k=n").await.ok(), "1");
    let request = browser.peek(&app, "/logout?then=hang");
    let left = tokio::time::timeout(Duration::from_millis(50), request).await;
    assert!(left.is_err());
    layer.drained().await;
    assert_eq!(browser.peek(&app, "/read").await.ok(), "");
}

#[tokio::test]
async fn changes_saved_in_the_handler_stay_whatever_it_returns() {
    let mut room = room().await;
    let page = room
        .browser
        .get(&room.app, "/save-then?status=500&also=write")
        .await;
    assert_eq!((page.status.as_u16(), page.text.as_str()), (500, "saved"));
    assert_eq!(room.keys().await, "name,saved");
}

#[tokio::test]
async fn a_new_session_saved_by_a_failing_handler_still_gets_its_cookie() {
    let room = room().await;
    let mut fresh = Browser::default();
    let page = fresh.get(&room.app, "/save-then?status=500").await;
    assert_eq!((page.status.as_u16(), page.set_cookies().len()), (500, 1));
    assert_eq!(fresh.get(&room.app, "/read").await.ok(), "saved");
}

#[tokio::test]
async fn a_request_that_writes_nothing_only_loads() {
    let mut room = room().await;
    let before = room.calls.so_far();
    room.browser.get(&room.app, "/read").await.ok();
    room.browser.get(&room.app, "/clear").await.ok();
    assert_eq!(room.keys().await, "");
    let after = room.calls.so_far();
    // Three loads, and the one write of `clear`.
    assert_eq!(
        [
            after[0] - before[0],
            after[1] - before[1],
            after[2] - before[2]
        ],
        [3, 0, 1]
    );
    room.browser.get(&room.app, "/clear").await.ok();
    room.browser.get(&room.app, "/remove?k=missing").await.ok();
    assert_eq!(
        room.calls.so_far()[2],
        after[2],
        "the session had nothing to remove"
    );
}

#[tokio::test(start_paused = true)]
async fn a_replaced_response_keeps_the_cookies_of_others() {
    let app = axum::Router::new()
        .route(
            "/late",
            axum::routing::get(|session: sessile::Session| async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                session.insert("late", true).unwrap();
                [("set-cookie", "theme=dark"), ("etag", "\"x\"")]
            }),
        )
        .merge(routes())
        .layer(SessionLayer::new(MemoryStore::new()));
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    let logout = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        browser.peek(&app, "/logout").await
    };
    let (late, _) = tokio::join!(browser.peek(&app, "/late"), logout);
    assert_eq!(late.status, StatusCode::CONFLICT);
    assert_eq!(late.set_cookies(), ["theme=dark"]);
    assert!(
        !late.headers.contains_key("etag"),
        "the header described the replaced body"
    );
}
