//! Interleavings of one request with others, with its own clones, and with a store that fails. Each has a wrong outcome
//! that is easy to get.

use std::future::Future;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use sessile::store::{Durability, Freshness, Loaded, ManualClock, Replaced, Write};
use sessile::{
    Concurrency, DurabilityConfig, Event, Exclusive, MemoryStore, Session, SessionConfig,
    SessionError, SessionLayer, SessionStore as _,
};

use crate::support::app::app;
use crate::support::late::{Late, Post};
use crate::support::patience::{poll_at_most, until_seen};
use crate::support::proxy::Fault;
use crate::support::spy::Calls;
use crate::support::{Browser, Proxy, Server, Spy, Visit, store_with, until};

/// A visitor behind a proxy that can lose answers, and a second node that talks to Redis directly.
struct Scene {
    server: Server,
    proxy: Proxy,
    visit: Visit,
    other: axum::Router,
}

impl Scene {
    async fn new() -> Self {
        let server = Server::start();
        let proxy = Proxy::before(server.address()).await;
        let prefix = crate::support::fresh_prefix();
        let store = store_with(&proxy.url(), |config| {
            config.key_prefix = prefix.clone();
            config.command_timeout = Duration::from_secs(1);
            config.request_budget = Duration::from_secs(20);
        })
        .await;
        let visit = Visit::with(SessionLayer::new(store));
        let direct = store_with(&server.url(), |config| config.key_prefix = prefix).await;
        let other = app(SessionLayer::new(direct));
        let mut scene = Self {
            server,
            proxy,
            visit,
            other,
        };
        scene
            .visit
            .request(|session| async move { session.insert("name", "mia").unwrap() })
            .await;
        scene
    }
}

/// A visitor without a session, whose store is behind a proxy.
async fn behind_proxy() -> (Server, Proxy, Visit) {
    let server = Server::start();
    let proxy = Proxy::before(server.address()).await;
    let store = store_with(&proxy.url(), |_| ()).await;
    (server, proxy, Visit::with(SessionLayer::new(store)))
}

#[tokio::test]
async fn resuming_an_unresolved_commit_overwrites_no_change() {
    let mut scene = Scene::new().await;
    let proxy = scene.proxy.clone();
    let (layer, browser) = (scene.visit.layer.clone(), scene.visit.browser.clone());
    let page = scene
        .visit
        .page(move |session| async move {
            session.insert("mine", true).unwrap();
            proxy.inject_commits(Fault::LoseRequest, 3);
            assert!(matches!(
                session.save().await,
                Err(SessionError::OutcomeUnknown)
            ));
            // Another request of this process commits. Its id hides whether the first one ever arrived.
            let mut tab = Visit { layer, browser };
            tab.request(|session| async move { session.insert("theirs", true).unwrap() })
                .await;
            for _ in 0..3 {
                assert!(matches!(
                    session.save().await,
                    Err(SessionError::OutcomeUnknown)
                ));
            }
        })
        .await;
    assert_eq!(page.status, 503);
    let keys = scene.visit.browser.peek(&scene.other, "/read").await.ok();
    assert!(
        keys == "name,theirs" || keys == "mine,name,theirs",
        "{keys}"
    );
}

/// A visitor whose compare-and-sets are lost or delayed as planned, in a store that counts its calls.
async fn late_visit() -> (Late, Arc<Calls>, Visit) {
    let late = Late::before(MemoryStore::new());
    let spy = Spy::on(late.clone());
    let calls = Arc::clone(&spy.calls);
    let mut visit = Visit::with(SessionLayer::new(spy));
    visit
        .request(|session| async move { session.insert("name", "mia").unwrap() })
        .await;
    (late, calls, visit)
}

/// Increments `n`, and calls `save`, which gets no answer.
async fn count_unanswered(session: &Session) {
    session.increment("n", 1).unwrap();
    assert!(matches!(
        session.save().await,
        Err(SessionError::OutcomeUnknown)
    ));
    assert_eq!(session.get("n").unwrap(), Some(1));
}

#[tokio::test]
async fn a_reload_shows_the_changes_of_an_unanswered_save_once() {
    let plans: [&[Post]; 2] = [
        &[Post::Hold, Post::Lose, Post::Lose],
        &[Post::Lose, Post::Lose, Post::Lose],
    ];
    for plan in plans {
        let (late, _, mut visit) = late_visit().await;
        late.plan(plan);
        visit
            .request(|session| async move {
                count_unanswered(&session).await;
                late.deliver_held().await;
                session.reload().await.unwrap();
                assert_eq!(session.get("n").unwrap(), Some(1));
                session.increment("n", 1).unwrap();
            })
            .await;
        visit
            .request(|session| async move { assert_eq!(session.get("n").unwrap(), Some(2)) })
            .await;
    }
}

#[tokio::test]
async fn a_reload_that_cannot_resolve_the_outcome_changes_nothing() {
    let (late, _, mut visit) = late_visit().await;
    late.plan(&[Post::Lose; 6]);
    visit
        .request(|session| async move {
            count_unanswered(&session).await;
            let reloaded = session.reload().await;
            assert!(matches!(reloaded, Err(SessionError::OutcomeUnknown)));
            assert_eq!(session.get("n").unwrap(), Some(1));
        })
        .await;
    visit
        .request(|session| async move { assert_eq!(session.get("n").unwrap(), Some(1)) })
        .await;
}

/// A dropped reload continues in the background, and the response waits for it.
#[tokio::test(start_paused = true)]
async fn a_dropped_reload_still_resolves_the_outcome() {
    let (late, _, mut visit) = late_visit().await;
    late.plan(&[Post::Lose; 3]);
    visit
        .request(|session| async move {
            count_unanswered(&session).await;
            late.plan(&[Post::Slow(Duration::from_millis(100))]);
            assert!(poll_at_most(1, session.reload()).await.is_none());
        })
        .await;
    visit
        .request(|session| async move { assert_eq!(session.get("n").unwrap(), Some(1)) })
        .await;
}

/// The time that a request may wait for a memory store.
const BUDGET: Duration = Duration::from_secs(1);

/// Compares two durations in paused time, which passes only while all tasks wait.
fn assert_about(expected: Duration, waited: Duration) {
    let rounding = Duration::from_millis(20);
    assert!(
        waited >= expected && waited < expected + rounding,
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn reloads_and_commits_of_a_store_that_hangs_share_one_budget() {
    let (late, calls, mut visit) = late_visit().await;
    let asked = Arc::clone(&calls);
    let began = tokio::time::Instant::now();
    let page = visit
        .page(|session| async move {
            late.freeze();
            let before = asked.so_far();
            for _ in 0..4 {
                let reloaded = session.reload().await;
                assert!(matches!(reloaded, Err(SessionError::Store(_))));
            }
            session.increment("n", 1).unwrap();
            assert!(session.save().await.is_err());
            let after = asked.so_far();
            assert_eq!(
                after[0] - before[0],
                1,
                "the first reload uses up the budget"
            );
            assert_eq!(after[2], before[2]);
        })
        .await;
    assert_eq!(page.status, 503);
    assert_about(BUDGET, began.elapsed());
}

/// The duration of a request whose store hangs since its handler began.
async fn hangs_for<F, Fut>(late: &Late, visit: &mut Visit, handler: F) -> Duration
where
    F: FnOnce(Session) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    let began = tokio::time::Instant::now();
    let hanging = late.clone();
    let page = visit
        .page(|session| async move {
            hanging.freeze();
            handler(session).await;
        })
        .await;
    assert_eq!(page.status, 503);
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn saves_of_a_store_that_hangs_share_one_budget() {
    let (late, _, mut visit) = late_visit().await;
    let save = |session: Session| async move {
        for _ in 0..4 {
            session.increment("n", 1).unwrap();
            assert!(session.save().await.is_err());
        }
    };
    assert_about(BUDGET, hangs_for(&late, &mut visit, save).await);
}

#[tokio::test(start_paused = true)]
async fn slow_loads_leave_their_request_less_time_to_commit() {
    const WAIT: Duration = Duration::from_secs(1);
    let exclusive = Concurrency::Exclusive(Exclusive::new(WAIT).with_lease(WAIT));
    for (concurrency, loads) in [
        (Concurrency::Merge, &[600][..]),
        // After it has acquired the lease, it loads again.
        (exclusive, &[600, 0]),
        (exclusive, &[0, 600]),
        (exclusive, &[300, 300]),
    ] {
        let (late, _, mut visit) = late_visit().await;
        visit.layer = visit.layer.with_concurrency(concurrency);
        for millis in loads {
            late.slow_load(Duration::from_millis(*millis));
        }
        let count = |session: Session| async move { drop(session.increment("n", 1)) };
        assert_about(BUDGET, hangs_for(&late, &mut visit, count).await);
    }
}

/// After the response, the time that its request used no longer counts.
#[tokio::test(start_paused = true)]
async fn after_the_response_each_save_has_the_whole_budget() {
    let (late, _, mut visit) = late_visit().await;
    late.slow_load(Duration::from_millis(600));
    let session = visit.keep().await;
    late.freeze();
    for _ in 0..2 {
        let began = tokio::time::Instant::now();
        session.increment("n", 1).unwrap();
        let saved = session.save().await;
        assert!(matches!(saved, Err(SessionError::OutcomeUnknown)));
        assert_about(BUDGET, began.elapsed());
    }
}

#[tokio::test]
async fn a_request_writes_nothing_to_the_login_that_followed_its_commit() {
    let mut scene = Scene::new().await;
    let (proxy, other, browser) = (
        scene.proxy.clone(),
        scene.other.clone(),
        scene.visit.browser.clone(),
    );
    let mut signed_in = browser.clone();
    let page = scene
        .visit
        .page(move |session| async move {
            session.insert("mine", true).unwrap();
            proxy.inject_commits(Fault::SwallowAnswer, 1);
            // The first send is applied. While its answer is missing, another node signs the visitor in.
            let login = async {
                until_seen("the commit has been sent", || proxy.faults_left() == 0).await;
                signed_in.get(&other, "/login?u=mia").await.ok();
                signed_in.get(&other, "/set?k=private&v=x").await.ok();
            };
            let (saved, ()) = tokio::join!(session.save(), login);
            saved.unwrap();
            assert_eq!(session.principal(), None);
            assert!(!session.contains_key("private"));
            session.insert("later", true).unwrap();
        })
        .await;
    // The saved change is in the store, and the later one is not.
    assert_eq!((page.status.as_u16(), page.set_cookies().len()), (500, 0));
    assert_eq!(
        browser.peek(&scene.other, "/read").await.ok(),
        "",
        "the old token is revoked"
    );
}

#[tokio::test]
async fn the_response_waits_for_a_dropped_save() {
    let (_server, proxy, mut visit) = behind_proxy().await;
    visit
        .request(move |session| async move {
            session.insert("name", "mia").unwrap();
            let creation = proxy.hold("NX");
            tokio::select! {
                saved = session.save() => panic!("{saved:?} before the creation was sent"),
                () = creation.arrived() => creation.release(),
            }
        })
        .await;
    assert!(
        visit.browser.cookie.is_some(),
        "the session was created, so the browser needs its token"
    );
    visit
        .request(|session| async move { assert!(session.contains_key("name")) })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_destroy_after_the_response_is_committed() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.insert("name", "mia").unwrap() })
        .await;
    let late = visit.keep().await;
    late.destroy();
    drop(late);
    let app = app(visit.layer.clone());
    until("the session is gone", async || {
        visit.browser.peek(&app, "/read").await.ok().is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_destroy_by_a_clone_during_the_commit_is_committed() {
    let (server, proxy, mut visit) = behind_proxy().await;
    visit
        .request(|session| async move { session.insert("name", "mia").unwrap() })
        .await;
    let commit = proxy.hold_commit();
    visit
        .request(move |session| async move {
            session.insert("more", true).unwrap();
            tokio::spawn(async move {
                commit.arrived().await;
                session.destroy();
                commit.release();
            });
        })
        .await;
    let sessions: usize = redis::cmd("DBSIZE")
        .query(&mut server.connection())
        .unwrap();
    assert_eq!((sessions, visit.browser.cookie), (0, None));
}

/// No browser ever got the token of this session.
#[tokio::test]
async fn a_session_destroyed_during_its_creation_leaves_nothing_behind() {
    let (server, proxy, mut visit) = behind_proxy().await;
    let creation = proxy.hold("NX");
    let page = visit
        .page(move |session| async move {
            session.insert("name", "mia").unwrap();
            tokio::spawn(async move {
                creation.arrived().await;
                session.destroy();
                creation.release();
            });
        })
        .await;
    assert_eq!((page.status.as_u16(), page.set_cookies().len()), (200, 0));
    visit.layer.drained().await;
    let sessions: usize = redis::cmd("DBSIZE")
        .query(&mut server.connection())
        .unwrap();
    assert_eq!(sessions, 0);
}

/// By then, the handler's changes are in the store, and the logout is not.
#[tokio::test]
async fn a_logout_that_fails_after_the_commit_gets_503_and_is_retried() {
    let (_server, proxy, mut visit) = behind_proxy().await;
    visit
        .request(|session| async move { session.insert("name", "mia").unwrap() })
        .await;
    let stolen = visit.browser.clone();
    let commit = proxy.hold_commit();
    let failing = proxy.clone();
    let page = visit
        .page(move |session| async move {
            session.insert("more", true).unwrap();
            tokio::spawn(async move {
                commit.arrived().await;
                session.destroy();
                failing.inject("UNLINK", Fault::LoseRequest, usize::MAX);
                commit.release();
            });
        })
        .await;
    assert_eq!((page.status.as_u16(), visit.browser.cookie), (503, None));
    proxy.inject("UNLINK", Fault::LoseRequest, 0);
    let app = app(visit.layer.clone());
    until("the session is gone", async || {
        let page = stolen.peek(&app, "/read").await;
        page.status == 200 && page.text.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_clone_that_cannot_commit_does_not_fail_a_committed_response() {
    let (_server, proxy, mut visit) = behind_proxy().await;
    visit
        .request(|session| async move { session.insert("name", "mia").unwrap() })
        .await;
    let commit = proxy.hold_commit();
    visit
        .request(move |session| async move {
            session.insert("saved", true).unwrap();
            tokio::spawn(async move {
                commit.arrived().await;
                // One of them fits into the session, and both do not.
                session.insert("one", "x".repeat(40_000)).unwrap();
                session.insert("other", "x".repeat(40_000)).unwrap();
                commit.release();
            });
        })
        .await;
    visit
        .request(|session| async move { assert_eq!(session.keys(), ["name", "saved"]) })
        .await;
}

#[tokio::test]
async fn unsaved_changes_after_the_response_emit_an_event() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&events);
    let observe = move |event: &Event| seen.lock().unwrap().push(format!("{event:?}"));
    let layer = SessionLayer::new(MemoryStore::new()).with_observer(observe);
    let mut visit = Visit::with(layer);
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    let has_lost_changes = || {
        events
            .lock()
            .unwrap()
            .iter()
            .any(|event| event.starts_with("ChangesLost"))
    };
    let late = visit.keep().await;
    late.insert("n", 2).unwrap();
    late.save().await.unwrap();
    drop(late);
    assert!(!has_lost_changes());
    let late = visit.keep().await;
    late.insert("n", 3).unwrap();
    drop(late);
    assert!(has_lost_changes());
}

#[tokio::test]
async fn a_closure_that_uses_the_session_works_when_the_store_fails() {
    let mut scene = Scene::new().await;
    scene.server.kill();
    let page = scene
        .visit
        .page(|session| async move { drop(session) })
        .await;
    assert_eq!(page.status, 503);
    scene.server.restart();

    let mut scene = Scene::new().await;
    let server = Arc::new(Mutex::new(scene.server));
    let killed = Arc::clone(&server);
    let page = scene
        .visit
        .page(move |session| async move {
            let inner = session.clone();
            session
                .update("n", move |n: &mut usize| *n += inner.keys().len())
                .unwrap();
            killed.lock().unwrap().kill();
            assert!(session.save().await.is_err());
            assert!(session.get::<usize>("n").unwrap().is_some());
        })
        .await;
    assert_eq!(page.status, 503);
}

#[tokio::test]
async fn two_requests_of_one_session_both_get_503_when_the_store_hangs() {
    let mut scene = Scene::new().await;
    let server = Arc::new(scene.server);
    let all_loaded = Arc::new(tokio::sync::Barrier::new(3));
    let tabs = (0..3).map(|_| {
        let (mut tab, frozen) = (scene.visit.clone(), Arc::clone(&server));
        let all_loaded = Arc::clone(&all_loaded);
        async move {
            tab.page(move |session| async move {
                session.increment("n", 1).unwrap();
                all_loaded.wait().await;
                frozen.freeze();
            })
            .await
        }
    });
    for page in futures_util::future::join_all(tabs).await {
        assert_eq!((page.status.as_u16(), page.set_cookies().len()), (503, 0));
    }
    server.thaw();
    scene.visit.browser.cookie = None;
}

#[tokio::test]
async fn a_change_reported_as_failed_is_not_committed_later() {
    let mut scene = Scene::new().await;
    let server = Arc::new(scene.server);
    let full = Arc::clone(&server);
    scene
        .visit
        .request(move |session| async move {
            let limit = |value: &str| {
                let set: () = redis::cmd("CONFIG")
                    .arg(&["SET", "maxmemory", value])
                    .query(&mut full.connection())
                    .unwrap();
                set
            };
            limit("1mb");
            let (one, other) =
                tokio::join!(session.increment_now("n", 1), session.increment_now("n", 1));
            assert!(one.is_err() && other.is_err());
            assert!(session.take::<String>("name").await.is_err());
            assert!(!session.is_modified(), "no change is left");
            assert_eq!(
                session.get::<String>("name").unwrap().as_deref(),
                Some("mia")
            );
            limit("0");
        })
        .await;
    scene
        .visit
        .request(|session| async move { assert_eq!(session.keys(), ["name"]) })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_insert_that_equals_a_pending_change_still_counts() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    let mut tab = visit.clone();
    let other = async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        tab.request(|session| async move { session.insert("n", 10).unwrap() })
            .await;
    };
    let mine = visit.request(|session| async move {
        assert_eq!(session.increment("n", 1).unwrap(), 2);
        session.insert("n", 2).unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
    });
    tokio::join!(mine, other);
    visit
        .request(|session| async move { assert_eq!(session.get::<i64>("n").unwrap(), Some(2)) })
        .await;
}

#[tokio::test]
async fn a_secret_is_retired_when_the_rotation_is_committed() {
    let clock = ManualClock::new();
    let mut visit = Visit::with(SessionLayer::new(
        MemoryStore::new().with_clock(clock.clone()),
    ));
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    let mut late = visit.clone();
    visit
        .request(move |session| async move {
            session.cycle_id().unwrap();
            clock.advance(Duration::from_secs(11));
        })
        .await;
    let page = late
        .page(|session| async move { session.insert("n", 2).unwrap() })
        .await;
    assert_eq!((page.status.as_u16(), page.set_cookies().len()), (409, 0));
}

#[tokio::test]
async fn a_failed_response_leaves_nothing_for_a_clone_to_save() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    let late = visit.clone();
    visit
        .request(|session| async move { session.cycle_id().unwrap() })
        .await;
    let kept = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&kept);
    let mut late = late;
    let page = late
        .page(move |session| async move {
            session.insert("n", 2).unwrap();
            *keep.lock().unwrap() = Some(session);
        })
        .await;
    assert_eq!(page.status, 409);
    let session = kept.lock().unwrap().take().unwrap();
    assert!(!session.is_modified() && !session.contains_key("n"));
}

#[tokio::test]
async fn a_session_extracted_after_the_response_cannot_rotate() {
    let layer = SessionLayer::new(MemoryStore::new()).with_load(sessile::Load::OnExtract);
    let (send, receive) = tokio::sync::oneshot::channel();
    let send = Arc::new(Mutex::new(Some(send)));
    let handler = move |request: axum::extract::Request| async move {
        let (parts, _) = request.into_parts();
        let _ = send.lock().unwrap().take().unwrap().send(parts);
    };
    let routes = axum::Router::new().route("/late", axum::routing::get(handler));
    let app = routes.merge(crate::support::app::routes()).layer(layer);
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    browser.get(&app, "/late").await.ok();
    let session = sessile::Session::from_parts(&receive.await.unwrap())
        .await
        .unwrap();
    assert_eq!(session.keys(), ["name"]);
    assert!(matches!(
        session.cycle_id(),
        Err(SessionError::ResponseSent)
    ));
    session.insert("more", 1).unwrap();
    session.save().await.unwrap();
    assert_eq!(browser.get(&app, "/read").await.ok(), "more,name");
}

#[tokio::test]
async fn a_closure_that_panics_during_replay_fails_the_request() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    let tab = visit.clone();
    let page = visit
        .page(move |session| async move {
            session
                .update("n", |n: &mut i64| {
                    *n = if *n == 1 { 2 } else { panic!("not one") }
                })
                .unwrap();
            let mut tab = tab;
            tab.request(|session| async move { session.insert("n", 10).unwrap() })
                .await;
            // The panic reaches the caller of `save`, here a task that ignores it.
            assert!(
                tokio::spawn(async move { session.save().await })
                    .await
                    .is_err()
            );
        })
        .await;
    assert_eq!(page.status, 503);
    visit
        .request(|session| async move { assert_eq!(session.get::<i64>("n").unwrap(), Some(10)) })
        .await;
}

/// A visitor whose compare-and-sets have planned fates, and the store behind them.
async fn planned() -> (Late, MemoryStore, Visit) {
    let store = MemoryStore::new();
    let late = Late::before(store.clone());
    let mut visit = Visit::with(SessionLayer::new(late.clone()));
    visit
        .request(|session| async move {
            session.insert("name", "mia").unwrap();
            session.insert("token", "once").unwrap();
        })
        .await;
    (late, store, visit)
}

/// Sends a request in the same session to another node.
async fn elsewhere(store: &MemoryStore, visit: &Visit, path: &str) {
    let other = app(SessionLayer::new(store.clone()));
    visit.browser.peek(&other, path).await.ok();
}

#[tokio::test]
async fn increment_now_returns_the_committed_number() {
    let (late, store, mut visit) = planned().await;
    let tab = visit.clone();
    let (plan, others) = (late.clone(), store.clone());
    visit
        .request(move |session| async move {
            elsewhere(&others, &tab, "/incr?k=n").await;
            // A conflict, then a commit that arrives late, just before the second call checks again.
            plan.plan(&[
                Post::Deliver,
                Post::Hold,
                Post::Lose,
                Post::Lose,
                Post::DeliverAfterHeld,
            ]);
            let (first, second) =
                tokio::join!(session.increment_now("n", 1), session.increment_now("n", 1));
            assert!(
                matches!(first, Err(SessionError::OutcomeUnknown)),
                "{first:?}"
            );
            assert_eq!(second.unwrap(), 3);
        })
        .await;
    assert!(late.is_done());
    let other = app(SessionLayer::new(store));
    assert_eq!(visit.browser.peek(&other, "/number?k=n").await.ok(), "3");
}

#[tokio::test]
async fn a_value_whose_take_was_not_committed_can_be_taken_again() {
    let (late, store, mut visit) = planned().await;
    let tab = visit.clone();
    visit
        .request(move |session| async move {
            late.plan(&[Post::Lose; 3]);
            let unknown = session.take::<String>("token").await;
            assert!(matches!(unknown, Err(SessionError::OutcomeUnknown)));
            // The commit of another node proves that the first one never arrived.
            elsewhere(&store, &tab, "/incr?k=n").await;
            let token = session.take::<String>("token").await.unwrap();
            assert_eq!(token.as_deref(), Some("once"));
        })
        .await;
}

#[tokio::test]
async fn messages_whose_take_was_not_committed_are_shown_later() {
    let (late, store, mut visit) = planned().await;
    visit
        .request(|session| async move { session.flash_info("hello").unwrap() })
        .await;
    let tab = visit.clone();
    visit
        .request(move |session| async move {
            late.plan(&[Post::Lose; 3]);
            let unknown = session.take_flashes().await;
            assert!(matches!(unknown, Err(SessionError::OutcomeUnknown)));
            // The commit of another node proves that the first one never arrived.
            elsewhere(&store, &tab, "/incr?k=n").await;
        })
        .await;
    visit
        .request(|session| async move {
            assert_eq!(session.take_flashes().await.unwrap()[0].text, "hello");
        })
        .await;
}

#[tokio::test]
async fn a_save_after_the_response_does_not_repeat_calls_without_effect() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    let kept = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&kept);
    visit
        .request(move |session| async move {
            session.insert("n", 1).unwrap();
            *keep.lock().unwrap() = Some(session);
        })
        .await;
    visit
        .request(|session| async move { session.insert("n", 2).unwrap() })
        .await;
    let session: Session = kept.lock().unwrap().take().unwrap();
    session.save().await.unwrap();
    drop(session);
    visit
        .request(|session| async move { assert_eq!(session.get("n").unwrap(), Some(2)) })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_save_does_not_include_later_changes_of_clones() {
    let (late, _, mut visit) = planned().await;
    let page = visit
        .page(move |session| async move {
            late.plan(&[Post::Slow(Duration::from_millis(10))]);
            session.insert("saved", true).unwrap();
            let clone = async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                session.insert("dropped", true).unwrap();
            };
            let (saved, ()) = tokio::join!(session.save(), clone);
            saved.unwrap();
            axum::http::StatusCode::INTERNAL_SERVER_ERROR
        })
        .await;
    assert_eq!(page.status, 500);
    visit
        .request(|session| async move {
            assert_eq!(session.keys(), ["name", "saved", "token"]);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn after_two_conflicts_the_next_attempt_backs_off() {
    const SLOW: Duration = Duration::from_millis(10);
    let (late, store, mut visit) = planned().await;
    let tab = visit.clone();
    late.plan(&[Post::Slow(SLOW), Post::Slow(SLOW)]);
    let others = async {
        tokio::time::sleep(SLOW / 2).await;
        elsewhere(&store, &tab, "/incr?k=n").await;
        tokio::time::sleep(SLOW).await;
        elsewhere(&store, &tab, "/incr?k=n").await;
    };
    let began = tokio::time::Instant::now();
    let mine = visit.request(|session| async move { session.increment("n", 1).map(drop).unwrap() });
    tokio::join!(mine, others);
    assert!(began.elapsed() > 2 * SLOW, "{:?}", began.elapsed());
    visit
        .request(|session| async move { assert_eq!(session.get("n").unwrap(), Some(3)) })
        .await;
}

#[tokio::test]
async fn changes_discarded_during_a_rejected_commit_are_not_written_later() {
    let (server, proxy, mut visit) = behind_proxy().await;
    visit
        .request(|session| async move { session.insert("name", "mia").unwrap() })
        .await;
    let server = Arc::new(server);
    let full = Arc::clone(&server);
    let commit = proxy.hold_commit();
    visit
        .request(move |session| async move {
            let limit = |value: &str| {
                let set: () = redis::cmd("CONFIG")
                    .arg(&["SET", "maxmemory", value])
                    .query(&mut full.connection())
                    .unwrap();
                set
            };
            session.insert("dropped", true).unwrap();
            let discard = async {
                commit.arrived().await;
                session.discard_changes();
                limit("1mb");
                commit.release();
            };
            let (saved, ()) = tokio::join!(session.save(), discard);
            assert!(matches!(saved, Err(SessionError::Store(_))), "{saved:?}");
            assert!(!session.is_modified() && !session.contains_key("dropped"));
            limit("0");
            session.insert("kept", true).unwrap();
        })
        .await;
    visit
        .request(|session| async move { assert_eq!(session.keys(), ["kept", "name"]) })
        .await;
}

/// Runs `save`, and calls `discard_changes` during its compare-and-set.
async fn save_and_discard(session: &Session) -> Result<(), SessionError> {
    let discard = async {
        tokio::time::sleep(SLOW / 2).await;
        session.discard_changes();
    };
    tokio::join!(session.save(), discard).0
}

/// Twice the delay of the discard in [`save_and_discard`].
const SLOW: Duration = Duration::from_millis(20);

#[tokio::test(start_paused = true)]
async fn changes_discarded_during_a_commit_that_never_arrived_are_not_written_later() {
    let (late, store, mut visit) = planned().await;
    let tab = visit.clone();
    visit
        .request(move |session| async move {
            session.insert("dropped", true).unwrap();
            late.plan(&[Post::Lose; 3]);
            assert!(matches!(
                session.save().await,
                Err(SessionError::OutcomeUnknown)
            ));
            // The commit of another node proves that the first one never arrived.
            elsewhere(&store, &tab, "/incr?k=n").await;
            late.plan(&[Post::Slow(SLOW)]);
            save_and_discard(&session).await.unwrap();
            assert!(!session.is_modified() && !session.contains_key("dropped"));
            session.insert("kept", true).unwrap();
        })
        .await;
    visit
        .request(
            |session| async move { assert_eq!(session.keys(), ["kept", "n", "name", "token"]) },
        )
        .await;
}

/// Adds an item by a closure. The returned pointer dangles once the closure is dropped.
fn add_item(session: &Session) -> Weak<()> {
    let captured = Arc::new(());
    let left = Arc::downgrade(&captured);
    let add = move |items: &mut Vec<usize>| items.push(Arc::strong_count(&captured));
    session.update("dropped", add).unwrap();
    left
}

/// `discard_changes` drops closures, and those of a commit in flight as soon as that ends.
#[tokio::test(start_paused = true)]
async fn changes_discarded_during_an_unanswered_commit_are_not_shown_or_kept() {
    let (late, store, mut visit) = planned().await;
    let session = visit.keep().await;
    let left = add_item(&session);
    late.plan(&[Post::LoseSlowly(SLOW), Post::Lose, Post::Lose]);
    let saved = save_and_discard(&session).await;
    assert!(matches!(saved, Err(SessionError::OutcomeUnknown)));
    assert!(!session.contains_key("dropped"));
    assert_eq!(left.strong_count(), 0);
    elsewhere(&store, &visit, "/incr?k=n").await;
    session.insert("kept", true).unwrap();
    session.save().await.unwrap();
    assert_eq!(session.keys(), ["kept", "n", "name", "token"]);
}

#[tokio::test(start_paused = true)]
async fn changes_discarded_while_short_of_replicas_are_not_replayed_after_a_failover() {
    let store = MemoryStore::new();
    let late = Late::before(store.clone()).with_replicas();
    let one_replica = Durability::Replicas {
        n: 1,
        timeout: Duration::from_millis(100),
    };
    let durability = DurabilityConfig::default().with_commits(one_replica);
    let config = SessionConfig::default().with_durability(durability);
    let mut visit = Visit::with(SessionLayer::try_new(late.clone(), config).unwrap());
    visit
        .request(|session| async move { session.insert("name", "mia").unwrap() })
        .await;
    let session = visit.keep().await;
    let handle = session.handle().unwrap();
    let load = async || match store.load(&handle, Freshness::Latest).await.unwrap() {
        Loaded::Found(stored) => stored,
        other => panic!("{other:?}"),
    };
    let before = load().await;
    let left = add_item(&session);
    late.plan(&[Post::DeliverShort(SLOW)]);
    let saved = save_and_discard(&session).await;
    assert!(matches!(saved, Err(SessionError::OutcomeUnknown)));
    assert!(
        session.contains_key("dropped"),
        "the primary has the change"
    );
    assert_eq!(left.strong_count(), 0);
    // After the failover, the new primary has the earlier version and later commits.
    let write = Write::new(before.value(), BUDGET * 60);
    let lost = store.replace(&handle, &load().await, write).await.unwrap();
    assert_eq!(lost, Replaced::Done);
    elsewhere(&store, &visit, "/incr?k=n").await;
    session.save().await.unwrap();
    session.insert("kept", true).unwrap();
    session.save().await.unwrap();
    assert_eq!(session.keys(), ["kept", "n", "name"]);
}

#[tokio::test]
async fn every_clone_gets_the_error_of_lost_changes() {
    // A closure panics during replay, in a commit that includes the changes of other clones.
    let (_late, store, mut visit) = planned().await;
    let session = visit.keep().await;
    let (first, second, third) = (session.clone(), session.clone(), session.clone());
    first
        .update("again", {
            let runs = std::sync::atomic::AtomicU32::new(0);
            move |_: &mut u32| {
                assert_eq!(runs.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
            }
        })
        .unwrap();
    second.insert("x", 1).unwrap();
    third.insert("y", 1).unwrap();
    elsewhere(&store, &visit, "/incr?k=n").await;
    let first = tokio::spawn(async move { first.save().await });
    assert!(first.await.is_err(), "the closure panics");
    for clone in [&second, &third] {
        assert!(matches!(clone.save().await, Err(SessionError::Discarded)));
        clone.save().await.unwrap();
    }
    assert!(!session.contains_key("x"));

    // The outcome can no longer be determined, since the session has ended.
    let (late, store, mut visit) = planned().await;
    let session = visit.keep().await;
    let clones = [session.clone(), session.clone(), session.clone()];
    for (n, clone) in clones.iter().enumerate() {
        clone.insert(format!("key{n}"), n).unwrap();
    }
    late.plan(&[Post::Lose; 3]);
    elsewhere(&store, &visit, "/read").await;
    let unknown = clones[0].save().await;
    assert!(matches!(unknown, Err(SessionError::OutcomeUnknown)));
    elsewhere(&store, &visit, "/logout").await;
    for clone in &clones[1..] {
        let unknown = clone.save().await;
        assert!(
            matches!(unknown, Err(SessionError::OutcomeUnknown)),
            "{unknown:?}"
        );
    }
}

/// The client disconnects during a save whose outcome stays unknown. The application did not forget to save anything.
#[tokio::test(start_paused = true)]
async fn a_dropped_save_emits_no_event_of_unsaved_changes() {
    let (late, _store, visit) = planned().await;
    let events = Arc::<Mutex<Vec<&'static str>>>::default();
    let seen = Arc::clone(&events);
    let layer = visit
        .layer
        .with_observer(move |event: &Event| seen.lock().unwrap().push(event.name()));
    late.plan(&[Post::LoseSlowly(Duration::from_millis(30)); 3]);
    let app = app(layer);
    let asked = visit.browser.peek(&app, "/save-then");
    let left = tokio::time::timeout(Duration::from_millis(10), asked).await;
    assert!(left.is_err());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(*events.lock().unwrap(), ["outcome_unknown"]);
}

#[tokio::test]
async fn a_panicking_observer_does_not_affect_requests() {
    let layer = SessionLayer::new(MemoryStore::new()).with_observer(|_: &Event| panic!("observed"));
    let mut visit = Visit::with(layer);
    for n in 1..=2 {
        visit
            .request(move |session| async move {
                assert_eq!(session.increment_now("n", 1).await.unwrap(), n);
            })
            .await;
    }
}

#[tokio::test]
async fn a_take_during_a_failing_response_returns_a_token_only_if_committed() {
    let (_server, proxy, mut visit) = behind_proxy().await;
    visit
        .request(|session| async move { session.insert("token", "secret".to_owned()).unwrap() })
        .await;
    let (send, receive) = tokio::sync::oneshot::channel();
    let send = Arc::new(Mutex::new(Some(send)));
    let injected = proxy.clone();
    let page = visit
        .page(move |session| async move {
            session.increment("n", 1).unwrap();
            injected.inject_commits(Fault::LoseRequest, 3);
            let commit = injected.hold_commit();
            tokio::spawn(async move {
                // The response's commit is in flight, and will fail.
                commit.arrived().await;
                let fails = async { commit.release() };
                let take = session.take::<String>("token");
                let (taken, ()) = tokio::join!(biased; take, fails);
                send.lock().unwrap().take().unwrap().send(taken).unwrap();
            });
        })
        .await;
    assert_eq!(page.status, 503);
    let taken = receive.await.unwrap();
    proxy.delay(Duration::ZERO);
    let there = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&there);
    visit
        .request(move |session| async move {
            *seen.lock().unwrap() = session.get::<String>("token").unwrap();
        })
        .await;
    let there = there.lock().unwrap().take();
    assert!(
        taken.is_err() || there.is_none(),
        "taken: {taken:?}, and still there: {there:?}"
    );
}

#[tokio::test]
async fn a_save_whose_changes_were_dropped_is_an_error() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    let kept = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&kept);
    let handler = move |session: sessile::Session| async move {
        session.insert("n", 2).unwrap();
        *keep.lock().unwrap() = Some(session);
        axum::http::StatusCode::INTERNAL_SERVER_ERROR
    };
    let app = axum::Router::new()
        .route("/", axum::routing::get(handler))
        .layer(visit.layer.clone());
    assert_eq!(visit.browser.get(&app, "/").await.status, 500);
    let session = kept.lock().unwrap().take().unwrap();
    assert!(matches!(session.save().await, Err(SessionError::Discarded)));
    session.insert("n", 3).unwrap();
    session.save().await.unwrap();
    visit
        .request(|session| async move { assert_eq!(session.get::<i64>("n").unwrap(), Some(3)) })
        .await;
}

#[tokio::test]
async fn a_failed_save_of_a_clone_does_not_fail_a_take() {
    let (_server, proxy, mut visit) = behind_proxy().await;
    visit
        .request(|session| async move { session.insert("token", "secret".to_owned()).unwrap() })
        .await;
    let commit = proxy.hold_commit();
    let page = visit
        .page(move |session| async move {
            let large = async {
                commit.arrived().await;
                // One of them fits into the session, and both do not.
                session.insert("one", "x".repeat(40_000)).unwrap();
                session.insert("other", "x".repeat(40_000)).unwrap();
                commit.release();
            };
            let (taken, ()) = tokio::join!(session.take::<String>("token"), large);
            assert_eq!(taken.unwrap().as_deref(), Some("secret"));
            session.discard_changes();
        })
        .await;
    assert_eq!(page.status, 200);
}

#[tokio::test]
async fn a_call_that_undoes_an_unresolved_change_is_committed() {
    let mut scene = Scene::new().await;
    let proxy = scene.proxy.clone();
    scene
        .visit
        .request(move |session| async move {
            session.set_principal("mia").await.unwrap();
            session.insert("k", 1).unwrap();
            proxy.inject_commits(Fault::LoseAnswer, 3);
            assert!(session.increment_now("n", 1).await.is_err());
            assert_eq!(
                session.principal().as_deref(),
                Some("mia"),
                "the login may be committed"
            );
            session.discard("k");
            session.clear_principal().unwrap();
        })
        .await;
    scene
        .visit
        .request(|session| async move {
            assert_eq!(session.principal(), None);
            assert_eq!(session.keys(), ["n", "name"]);
        })
        .await;
}

#[tokio::test]
async fn a_closure_that_changes_its_own_session_terminates() {
    let mut scene = Scene::new().await;
    let server = Arc::new(Mutex::new(scene.server));
    let killed = Arc::clone(&server);
    let page = scene
        .visit
        .page(move |session| async move {
            let inner = session.clone();
            let counting = move |n: &mut i64| {
                let _ = inner.increment("calls", 1);
                *n += 1;
            };
            session.update("n", counting).unwrap();
            killed.lock().unwrap().kill();
            assert!(session.save().await.is_err());
        })
        .await;
    assert_eq!(page.status, 503);
}

#[tokio::test]
async fn an_old_connection_that_keeps_a_session_alive_does_not_shorten_a_new_login() {
    let clock = ManualClock::new();
    let mut visit = Visit::with(SessionLayer::new(
        MemoryStore::new().with_clock(clock.clone()),
    ));
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    let old = visit.keep().await;
    let hour = Duration::from_secs(3600);
    for _ in 0..47 {
        clock.advance(hour / 2 - Duration::from_secs(60));
        visit
            .request(|session| async move { session.touch() })
            .await;
        tokio::task::yield_now().await;
    }
    visit
        .request(|session| async move { session.set_principal("mia").await.unwrap() })
        .await;
    // The old deadline is a minute away, and passes soon.
    for _ in 0..47 {
        clock.advance(Duration::from_secs(60));
        old.touch();
        tokio::task::yield_now().await;
        visit
            .request(
                |session| async move { assert_eq!(session.principal().as_deref(), Some("mia")) },
            )
            .await;
    }
}

/// A node whose compare-and-sets can be lost or delayed, and another one without faults.
async fn late_node() -> (Late, Visit, axum::Router) {
    let store = MemoryStore::new();
    let late = Late::before(store.clone());
    let mut visit = Visit::with(SessionLayer::new(late.clone()));
    visit
        .request(|session| async move { session.insert("n", 0).unwrap() })
        .await;
    (late, visit, app(SessionLayer::new(store)))
}

#[tokio::test]
async fn a_resent_commit_does_not_hide_a_later_one_of_its_node() {
    use Post::{Deliver, DeliverAfterHeld, Hold, Lose};

    let (late, mut visit, other) = late_node().await;
    let (first, second) = (visit.keep().await, visit.keep().await);
    // The first request's commit is lost, and another node commits.
    first.increment("n", 1).unwrap();
    late.plan(&[Lose; 3]);
    assert!(matches!(
        first.save().await,
        Err(SessionError::OutcomeUnknown)
    ));
    visit.browser.peek(&other, "/incr?k=n").await.ok();
    // The second request's commit stays in flight.
    second.increment("n", 10).unwrap();
    late.plan(&[Deliver, Hold, Lose, Lose]);
    assert!(matches!(
        second.save().await,
        Err(SessionError::OutcomeUnknown)
    ));
    // The first commit turns out to be lost and is sent again. Just before, the second one arrives.
    late.plan(&[Deliver, DeliverAfterHeld]);
    first.save().await.unwrap();
    assert!(late.is_done());
    // The second commit is in the store, below the first. sessile cannot know that and must not guess.
    assert!(matches!(
        second.save().await,
        Err(SessionError::OutcomeUnknown)
    ));
    visit
        .request(|session| async move { assert_eq!(session.get::<i64>("n").unwrap(), Some(12)) })
        .await;
}

/// A commit number stands for one sequence of bytes: found in the store, it must show which of them arrived.
#[tokio::test]
async fn resent_bytes_keep_their_commit_number_and_other_bytes_get_a_new_one() {
    let (late, store, mut visit) = planned().await;
    let tab = visit.clone();
    let plan = late.clone();
    visit
        .request(move |session| async move {
            session.increment("n", 1).unwrap();
            elsewhere(&store, &tab, "/incr?k=n").await;
            // The second send meets the other node's commit, and the third is based on that.
            plan.plan(&[Post::Lose, Post::Deliver, Post::Deliver]);
        })
        .await;
    let sent = late.sent();
    let number = |value: &bytes::Bytes| {
        let record: serde_json::Value = serde_json::from_slice(value).unwrap();
        let last = record["applied"].as_array().unwrap().last().cloned();
        last.unwrap()
    };
    let [lost, repeated, anew] = sent.as_slice() else {
        panic!("{sent:?}")
    };
    assert_eq!(lost, repeated);
    assert_ne!(number(repeated), number(anew));
}

#[tokio::test]
async fn a_late_commit_is_found_below_seven_of_other_nodes_but_not_below_eight() {
    for others in [0, 7, 8, 20] {
        let store = MemoryStore::new();
        let late = Late::before(store.clone());
        let mut visit = Visit::with(SessionLayer::new(late.clone()));
        visit
            .request(|session| async move { session.insert("n", 0).unwrap() })
            .await;
        let session = visit.keep().await;
        session.increment("n", 100).unwrap();
        late.plan(&[Post::Hold, Post::Lose, Post::Lose]);
        assert!(matches!(
            session.save().await,
            Err(SessionError::OutcomeUnknown)
        ));
        late.deliver_held().await;
        for _ in 0..others {
            let node = app(SessionLayer::new(store.clone()));
            visit.browser.peek(&node, "/incr?k=n").await.ok();
        }
        let saved = session.save().await;
        assert_eq!(saved.is_ok(), others <= 7, "{others}: {saved:?}");
        let seen = app(SessionLayer::new(store.clone()));
        let n: i64 = visit
            .browser
            .peek(&seen, "/number?k=n")
            .await
            .ok()
            .parse()
            .unwrap();
        assert_eq!(n, 100 + others, "applied once, whether known or not");
    }
}

#[tokio::test]
async fn increment_now_returns_no_number_if_a_clone_discards_the_change() {
    let (_server, proxy, mut visit) = behind_proxy().await;
    visit
        .request(|session| async move { session.insert("name", "mia").unwrap() })
        .await;
    let commit = proxy.hold_commit();
    visit
        .request(move |session| async move {
            session.insert("saved", true).unwrap();
            let number = async {
                commit.arrived().await;
                let discard = async {
                    session.discard_changes();
                    commit.release();
                };
                let number = session.increment_now("n", 1);
                tokio::join!(biased; number, discard).0
            };
            let (saved, number) = tokio::join!(session.save(), number);
            saved.unwrap();
            assert!(matches!(number, Err(SessionError::Discarded)), "{number:?}");
        })
        .await;
    visit
        .request(|session| async move { assert_eq!(session.keys(), ["name", "saved"]) })
        .await;
}

/// sessile looks for changes that too few replicas acknowledged, and the new primary lacks them.
#[tokio::test(start_paused = true)]
async fn changes_discarded_while_their_outcome_is_resolved_are_not_replayed() {
    let late = Late::before(MemoryStore::new());
    let mut visit = Visit::with(SessionLayer::new(late.clone()));
    visit
        .request(|session| async move { session.insert("n", 0).unwrap() })
        .await;
    let tab = visit.clone();
    visit
        .request(move |session| async move {
            session.insert("dropped", 1).unwrap();
            late.plan(&[Post::LoseByFailover]);
            let unknown = session.save().await;
            assert!(matches!(unknown, Err(SessionError::OutcomeUnknown)));
            let mut tab = tab;
            tab.layer = SessionLayer::new(late.clone());
            tab.request(|session| async move { session.insert("other", 1).unwrap() })
                .await;
            late.plan(&[Post::Slow(Duration::from_millis(10))]);
            let clone = session.clone();
            let resolving = tokio::spawn(async move { clone.save().await });
            tokio::time::sleep(Duration::from_millis(5)).await;
            session.discard_changes();
            resolving.await.unwrap().unwrap();
        })
        .await;
    visit
        .request(|session| async move { assert_eq!(session.keys(), ["n", "other"]) })
        .await;
}
