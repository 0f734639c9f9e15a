//! `Concurrency`: the policies for requests whose session others have changed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use futures_util::future::join_all;
use sessile::store::{Leased, Owner};
use sessile::{
    Concurrency, Event, Exclusive, Load, MemoryStore, RedisStore, Session, SessionConfig,
    SessionError, SessionLayer, SessionStore,
};
use tower_http::catch_panic::CatchPanicLayer;

use crate::support::app::app;
use crate::support::browser::Page;
use crate::support::late::Late;
use crate::support::server::counts;
use crate::support::{Browser, Gate, Ground, Visit, fresh_prefix, store_with, until};

fn exclusive(wait: u64, lease: u64) -> Concurrency {
    let exclusive = Exclusive::new(Duration::from_millis(wait));
    Concurrency::Exclusive(exclusive.with_lease(Duration::from_millis(lease)))
}

/// A visitor under this policy, and the same session under a clone of the layer that merges.
async fn scene(concurrency: Concurrency) -> (Visit, Visit) {
    let mut merging = Visit::in_memory();
    merging
        .request(|session| async move {
            session.insert("name", "mia").unwrap();
            session.insert("token", "once").unwrap();
            session.flash_info("hello").unwrap();
        })
        .await;
    let mut visit = merging.clone();
    visit.layer = visit.layer.with_concurrency(concurrency);
    (visit, merging)
}

/// Runs a handler, and another request before its commit.
async fn overtaken(
    visit: &mut Visit,
    by: &Visit,
    path: &'static str,
    handler: impl Fn(&Session) + Clone + Send + Sync + 'static,
) -> (u16, usize) {
    let (by, app) = (by.browser.clone(), app(by.layer.clone()));
    let page = visit
        .page(move |session| async move {
            handler(&session);
            by.peek(&app, path).await.ok();
        })
        .await;
    (page.status.as_u16(), page.set_cookies().len())
}

async fn see(visit: &Visit, path: &str) -> String {
    visit
        .browser
        .peek(&app(visit.layer.clone()), path)
        .await
        .ok()
}

#[tokio::test]
async fn reject_writes_only_to_the_version_that_the_request_loaded() {
    let (mut visit, merging) = scene(Concurrency::Reject).await;
    let write = |session: &Session| session.insert("name", "noa").unwrap();
    let late = overtaken(&mut visit, &merging, "/set?k=other&v=x", write).await;
    assert_eq!(late, (409, 0));
    assert_eq!(see(&merging, "/get?k=name").await, r#""mia""#);
    // A request that only reads never conflicts, nor does one that was not overtaken.
    let read = |session: &Session| drop(session.keys());
    let reader = overtaken(&mut visit, &merging, "/set?k=more&v=x", read).await;
    assert_eq!(reader, (200, 0));
    visit
        .request(move |session| async move { write(&session) })
        .await;
    assert_eq!(see(&merging, "/get?k=name").await, r#""noa""#);
    // The request's own commits do not conflict with it.
    visit
        .request(|session| async move {
            for name in ["leo", "ada", "kim"] {
                session.insert("name", name).unwrap();
                session.save().await.unwrap();
            }
        })
        .await;
    assert_eq!(see(&merging, "/get?k=name").await, r#""kim""#);
}

#[tokio::test]
async fn reject_lets_one_of_many_concurrent_requests_write() {
    let ground = Ground::new();
    let layer = SessionLayer::new(ground.store().await).with_concurrency(Concurrency::Reject);
    let app = app(layer);
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    let gate = Gate::new();
    let pages = join_all((0..20).map(|n| {
        let (app, browser) = (&app, &browser);
        let path = format!("/slow?k=key{n}&{}", gate.query());
        async move { browser.peek(app, &path).await }
    }));
    let all_have_loaded = async {
        gate.arrived(20).await;
        gate.open();
    };
    let (pages, ()) = tokio::join!(pages, all_have_loaded);
    let statuses: Vec<u16> = pages.iter().map(|page| page.status.as_u16()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1);
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 19);
}

#[tokio::test]
async fn reject_recognizes_its_own_commit_whose_answer_was_lost() {
    use crate::support::late::Post;
    let late = Late::before(MemoryStore::new());
    let layer = SessionLayer::new(late.clone()).with_concurrency(Concurrency::Reject);
    let mut visit = Visit::with(layer);
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    late.plan(&[Post::Hold, Post::DeliverAfterHeld]);
    visit
        .request(|session| async move { session.insert("n", 2).unwrap() })
        .await;
    assert_eq!(see(&visit, "/number?k=n").await, "2");
}

#[tokio::test]
async fn last_write_wins_replaces_all_data_and_nothing_else() {
    let (mut visit, merging) = scene(Concurrency::LastWriteWins).await;
    let write = |session: &Session| session.insert("name", "noa").unwrap();
    let done = overtaken(&mut visit, &merging, "/set?k=other&v=x", write).await;
    assert_eq!(done, (200, 0));
    assert_eq!(
        see(&merging, "/read").await,
        "name,token",
        "the key of the other request is gone"
    );
    let done = overtaken(&mut visit, &merging, "/flash?text=new", write).await;
    assert_eq!(done, (200, 0), "an equal value is not a change");
    let rewrite = |session: &Session| session.insert("name", "lea").unwrap();
    let done = overtaken(&mut visit, &merging, "/flash?text=newer", rewrite).await;
    assert_eq!(done, (200, 0));
    assert_eq!(see(&merging, "/flashes").await, "hello,new,newer");
    for path in ["/login?u=mia", "/cycle"] {
        let (mut visit, merging) = scene(Concurrency::LastWriteWins).await;
        let count = |session: &Session| session.decrement("n", 1).map(|_| ()).unwrap();
        let late = overtaken(&mut visit, &merging, path, count).await;
        assert_eq!(late, (409, 0), "{path}");
    }
}

#[tokio::test]
async fn a_last_write_without_data_replaces_no_data() {
    for path in ["/flash?text=hi", "/cycle"] {
        let (mut visit, merging) = scene(Concurrency::LastWriteWins).await;
        let by = merging.clone();
        visit
            .request(move |session| async move {
                let app = app(by.layer.clone());
                by.browser.peek(&app, "/set?k=other&v=x").await.ok();
                match path {
                    "/cycle" => session.cycle_id().unwrap(),
                    _ => session.flash_info("hi").unwrap(),
                }
            })
            .await;
        assert_eq!(see(&visit, "/read").await, "name,other,token", "{path}");
    }
}

/// Another clone's `save` commits the change that is to return a value.
#[tokio::test]
async fn a_take_under_last_write_wins_returns_the_stored_value() {
    let (mut visit, merging) = scene(Concurrency::LastWriteWins).await;
    visit
        .request(move |session| async move {
            session.insert("mine", 1).unwrap();
            let app = app(merging.layer.clone());
            let taken = merging.browser.peek(&app, "/take?k=token").await.ok();
            assert_eq!(taken, "once");
            let take = session.take::<String>("token");
            let (saved, taken) = tokio::join!(session.save(), take);
            saved.unwrap();
            assert_eq!(taken.unwrap(), None);
        })
        .await;
}

#[tokio::test]
async fn last_write_wins_does_not_revive_a_session() {
    let (mut visit, merging) = scene(Concurrency::LastWriteWins).await;
    let write = |session: &Session| session.insert("name", "noa").unwrap();
    let late = overtaken(&mut visit, &merging, "/logout", write).await;
    assert_eq!(late, (409, 0));
    assert_eq!(see(&merging, "/read").await, "");
}

#[tokio::test]
async fn under_every_policy_a_result_is_returned_once() {
    for policy in [Concurrency::LastWriteWins, Concurrency::Merge] {
        let (visit, _) = scene(policy).await;
        let app = app(visit.layer.clone());
        let ask = |path: &'static str| {
            let (app, browser) = (&app, &visit.browser);
            async move {
                let pages = join_all((0..10).map(|_| browser.peek(app, path))).await;
                let mut texts: Vec<String> = pages.into_iter().map(|page| page.ok()).collect();
                texts.sort();
                texts.dedup();
                texts
            }
        };
        assert_eq!(ask("/take?k=token").await, ["", "once"]);
        assert_eq!(ask("/flashes").await, ["", "hello"]);
        assert_eq!(ask("/incr-now?k=n").await.len(), 10);
    }
}

/// Two nodes, each with an application that reads, waits and writes, which loses updates without a lease.
struct Sites {
    ground: Ground,
    apps: [Router; 2],
    browser: Browser,
    events: Arc<Mutex<Vec<Event>>>,
    prefix: String,
    handle: String,
}

/// The number of handlers that run now, and its maximum.
#[derive(Clone, Default)]
struct Gauge(Arc<[AtomicUsize; 2]>);

impl Gauge {
    fn enter(&self) -> Entered {
        let inside = self.0[0].fetch_add(1, Ordering::SeqCst) + 1;
        self.0[1].fetch_max(inside, Ordering::SeqCst);
        Entered(self.clone())
    }

    fn max(&self) -> usize {
        self.0[1].load(Ordering::SeqCst)
    }
}

struct Entered(Gauge);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0[0].fetch_sub(1, Ordering::SeqCst);
    }
}

impl Sites {
    async fn new(concurrency: Concurrency, gauge: &Gauge) -> Self {
        let ground = Ground::new();
        let events = Arc::<Mutex<Vec<Event>>>::default();
        let prefix = fresh_prefix();
        let mut apps = Vec::new();
        for _ in 0..2 {
            let store =
                store_with(&ground.url(), |config| config.key_prefix = prefix.clone()).await;
            let seen = Arc::clone(&events);
            let layer = SessionLayer::new(store)
                .with_concurrency(concurrency)
                .with_observer(move |event: &Event| seen.lock().unwrap().push(event.clone()));
            apps.push(
                exclusive_routes(gauge.clone())
                    .merge(crate::support::app::routes())
                    .layer(layer)
                    .layer(CatchPanicLayer::new()),
            );
        }
        let apps: [Router; 2] = apps.try_into().unwrap();
        let mut browser = Browser::default();
        browser.get(&apps[0], "/set?k=name&v=mia").await.ok();
        let facts = browser.peek(&apps[0], "/facts").await.ok();
        let facts: serde_json::Value = serde_json::from_str(&facts).unwrap();
        let handle = facts["handle"].as_str().unwrap().to_owned();
        Self {
            ground,
            apps,
            browser,
            events,
            prefix,
            handle,
        }
    }

    async fn get(&self, node: usize, path: &str) -> Page {
        self.browser.peek(&self.apps[node], path).await
    }

    /// Another store of the same sessions.
    async fn store(&self) -> RedisStore {
        store_with(&self.ground.url(), |config| {
            config.key_prefix = self.prefix.clone()
        })
        .await
    }

    /// The text of a route that takes no lease.
    async fn get_unleased(&self, path: &str) -> String {
        let merging = app(SessionLayer::new(self.store().await));
        self.browser.peek(&merging, path).await.ok()
    }

    fn lease_key(&self) -> String {
        format!("{}{}:lease", self.prefix, self.handle)
    }

    /// The remaining milliseconds of the lease. Negative if there is none.
    fn lease_left(&self) -> i64 {
        redis::cmd("PTTL")
            .arg(self.lease_key())
            .query(&mut self.ground.connection())
            .unwrap()
    }

    /// Ends the lease as if it had expired.
    fn end_lease(&self) {
        let ended: usize = redis::cmd("DEL")
            .arg(self.lease_key())
            .query(&mut self.ground.connection())
            .unwrap();
        assert_eq!(ended, 1, "there is a lease");
    }
}

/// A gate, and a path whose request waits at it.
fn gated(path: &str) -> (Gate, String) {
    let gate = Gate::new();
    let path = format!("{path}&{}", gate.query());
    (gate, path)
}

fn exclusive_routes(gauge: Gauge) -> Router {
    let add = move |session: Session| {
        let entered = gauge.enter();
        async move {
            let n = session.get::<u64>("n")?.unwrap_or_default();
            tokio::time::sleep(Duration::from_millis(5)).await;
            session.insert("n", n + 1)?;
            drop(entered);
            Ok::<_, SessionError>(String::new())
        }
    };
    Router::new().route("/add", get(add))
}

#[tokio::test]
async fn exclusive_requests_run_one_at_a_time_on_all_nodes() {
    let gauge = Gauge::default();
    let sites = Sites::new(exclusive(600_000, 60_000), &gauge).await;
    let pages = join_all((0..40).map(|n| sites.get(n % 2, "/add"))).await;
    for page in pages {
        page.ok();
    }
    assert_eq!(sites.get(0, "/number?k=n").await.ok(), "40");
    assert_eq!(gauge.max(), 1, "one at a time");
}

#[tokio::test]
async fn a_lease_is_released_if_the_handler_panics_or_the_client_disconnects() {
    // A lease that is not released would outlast the wait for it.
    let sites = Sites::new(exclusive(30_000, 600_000), &Gauge::default()).await;
    assert_eq!(sites.get(0, "/panic").await.status, 500);
    sites.get(1, "/add").await.ok();
    let (gate, path) = gated("/slow?k=late");
    tokio::select! {
        _ = sites.get(0, &path) => panic!("the gate did not hold the request"),
        () = gate.arrived(1) => {}
    }
    sites.get(1, "/add").await.ok();
    // A request that was waiting leaves no lease behind, either.
    let (gate, path) = gated("/slow?k=x");
    let busy = sites.get(0, &path);
    let waiting = async {
        gate.arrived(1).await;
        let gives_up = tokio::time::timeout(Duration::from_millis(50), sites.get(1, "/add"));
        assert!(gives_up.await.is_err());
        gate.open();
        sites.get(1, "/add").await.ok();
    };
    tokio::join!(busy, waiting).0.ok();
    assert_eq!(sites.get(0, "/number?k=n").await.ok(), "3");
}

#[tokio::test]
async fn a_request_that_waits_too_long_for_the_lease_gets_503_with_retry_after() {
    let sites = Sites::new(exclusive(100, 60_000), &Gauge::default()).await;
    for other in [0, 1] {
        let (gate, path) = gated("/slow?k=");
        let slow = sites.get(0, &path);
        let late = async {
            gate.arrived(1).await;
            let began = Instant::now();
            let page = sites.get(other, "/add").await;
            let waited = began.elapsed().as_millis();
            assert!(waited >= 100, "waited {waited} ms");
            gate.open();
            page
        };
        let (slow, late) = tokio::join!(slow, late);
        slow.ok();
        assert_eq!(late.status, 503);
        assert_eq!(late.headers["retry-after"], "1");
        assert_eq!(late.set_cookies().len(), 0);
    }
}

#[tokio::test]
async fn a_request_with_a_wrong_secret_takes_no_lease() {
    let sites = Sites::new(exclusive(2_000, 60_000), &Gauge::default()).await;
    let genuine = sites.browser.cookie.clone().unwrap();
    let forged = Browser {
        cookie: Some(format!(
            "{}{}",
            &genuine[..genuine.len() - 12],
            "A".repeat(12)
        )),
    };
    let (gate, path) = gated("/slow?k=");
    let slow = forged.peek(&sites.apps[0], &path);
    let holder = async {
        gate.arrived(1).await;
        sites.get(0, "/add").await.ok();
        sites.get(1, "/add").await.ok();
        gate.open();
    };
    tokio::join!(slow, holder).0.ok();
}

/// The busy node always has waiting requests. It may hold the lease four times in a row, and then pauses for longer
/// than the others' polling interval. Without that pause, they would never get the lease, since here each request
/// follows the previous one immediately.
#[tokio::test(start_paused = true)]
async fn a_busy_node_does_not_starve_the_others() {
    let store = MemoryStore::new();
    let node = || app(SessionLayer::new(store.clone()).with_concurrency(exclusive(10_000, 60_000)));
    let (busy, other) = (node(), node());
    let mut visitor = Browser::default();
    visitor.get(&busy, "/set?k=name&v=mia").await.ok();
    let turns = AtomicUsize::new(0);
    let one_after_the_other = || async {
        loop {
            visitor.peek(&busy, "/slow?ms=5").await.ok();
            turns.fetch_add(1, Ordering::SeqCst);
        }
    };
    let crowd = join_all((0..20).map(|_| one_after_the_other()));
    let so_far = || turns.load(Ordering::SeqCst);
    let rounds = async {
        for _ in 0..10 {
            // The busy node's requests run again, one after the other.
            let again = so_far() + 8;
            until("the node is busy", async || so_far() >= again).await;
            let before = so_far();
            visitor.peek(&other, "/read").await.ok();
            let passed = so_far() - before;
            assert!(passed <= 4, "{passed} requests of the busy node");
        }
    };
    tokio::select! {
        _ = crowd => unreachable!("never ends"),
        () = rounds => {}
    }
}

#[tokio::test]
async fn the_lease_of_a_dead_node_expires() {
    let sites = Sites::new(exclusive(60_000, 400), &Gauge::default()).await;
    let handle = sites.handle.parse().unwrap();
    let lease = Duration::from_millis(400);
    let store = sites.store().await;
    let began = Instant::now();
    let taken = store
        .acquire(&handle, Owner::random(), lease)
        .await
        .unwrap();
    assert_eq!(taken, Leased::Held);
    sites.get(0, "/add").await.ok();
    let waited = began.elapsed().as_millis();
    assert!(waited >= 400, "waited {waited} ms");
}

#[tokio::test]
async fn a_lease_is_renewed_while_its_request_runs() {
    const LEASE: u64 = 6_000;
    let sites = Sites::new(exclusive(600_000, LEASE), &Gauge::default()).await;
    let (gate, path) = gated("/slow?k=slow");
    let slow = sites.get(0, &path);
    let next = sites.get(1, "/add");
    let keeps = async {
        gate.arrived(1).await;
        tokio::time::sleep(Duration::from_millis(LEASE * 3 / 2)).await;
        assert!(sites.lease_left() > 0, "the lease is still held");
        assert_eq!(sites.get_unleased("/number?k=n").await, "0");
        gate.open();
    };
    let (slow, next, ()) = tokio::join!(
        slow,
        async {
            gate.arrived(1).await;
            next.await
        },
        keeps
    );
    slow.ok();
    next.ok();
    assert_eq!(sites.get(0, "/number?k=n").await.ok(), "1");
}

#[tokio::test]
async fn an_expired_lease_loses_no_change() {
    // Another request changes the same key, or another one.
    for (path, status) in [("/slow?k=n", 409), ("/slow?k=other", 200)] {
        let sites = Sites::new(exclusive(60_000, 60_000), &Gauge::default()).await;
        let (gate, path) = gated(path);
        let slow = sites.get(0, &path);
        let other = async {
            gate.arrived(1).await;
            sites.end_lease();
            sites.get(1, "/add").await.ok();
            gate.open();
        };
        let (slow, ()) = tokio::join!(slow, other);
        assert_eq!(slow.status, status, "{path}: {}", slow.text);
        assert_eq!(sites.get(0, "/number?k=n").await.ok(), "1");
    }
}

#[tokio::test]
async fn a_lost_lease_emits_an_event() {
    let sites = Sites::new(exclusive(60_000, 3_000), &Gauge::default()).await;
    let lost = || {
        let lost = |event: &&Event| matches!(event, Event::LeaseLost { .. });
        sites.events.lock().unwrap().iter().filter(lost).count()
    };
    let (first_gate, first) = gated("/slow?k=n");
    let (second_gate, second) = gated("/slow?k=m");
    let slow = sites.get(0, &first);
    let other = async {
        first_gate.arrived(1).await;
        sites.end_lease();
        sites.get(1, &second).await
    };
    let release = async {
        second_gate.arrived(1).await;
        until("the event is emitted", async || lost() > 0).await;
        first_gate.open();
        second_gate.open();
    };
    let (slow, other, ()) = tokio::join!(slow, other, release);
    slow.ok();
    other.ok();
    let events: Vec<_> = sites.events.lock().unwrap().clone();
    let handles = events.iter().filter_map(|event| match event {
        Event::LeaseLost { handle, .. } => Some(handle.to_string()),
        _ => None,
    });
    assert!(handles.into_iter().all(|handle| handle == sites.handle));
}

/// Routes that merge take no lease, so they can commit in between.
#[tokio::test]
async fn without_its_lease_a_request_fails_if_anything_it_read_has_changed() {
    type Handler = fn(&Session);
    let reads: Handler = |session| {
        session.get::<String>("name").unwrap();
        session.insert("mine", 1).unwrap();
    };
    let polls: Handler = |session| {
        assert!(!session.contains_key("new"));
        session.insert("mine", 1).unwrap();
    };
    let lists: Handler = |session| {
        session.keys();
        session.insert("mine", 1).unwrap();
    };
    let reads_all: Handler = |session| {
        session.values::<serde_json::Value>().unwrap();
        session.insert("mine", 1).unwrap();
    };
    let finds: Handler = |session| {
        session.get_or_insert("name", String::new()).unwrap();
        session.insert("mine", 1).unwrap();
    };
    let writes: Handler = |session| session.insert("name", "noa").unwrap();
    let counts: Handler = |session| session.increment("n", 1).map(|_| ()).unwrap();
    let refuses: Handler = |session| {
        refuse(session);
        session.insert("mine", 1).unwrap();
    };
    for (handler, path, status) in [
        (refuses, "/set?k=name&v=x", 409),
        (refuses, "/set?k=new&v=x", 200),
        (reads, "/set?k=name&v=x", 409),
        (reads, "/set?k=new&v=x", 200),
        (polls, "/set?k=new&v=x", 409),
        (polls, "/set?k=name&v=x", 200),
        (lists, "/set?k=new&v=x", 409),
        (reads_all, "/set?k=new&v=x", 409),
        (reads_all, "/set?k=name&v=x", 409),
        (finds, "/set?k=name&v=x", 409),
        (finds, "/set?k=new&v=x", 200),
        (writes, "/set?k=name&v=x", 409),
        (writes, "/set?k=new&v=x", 200),
        (counts, "/incr?k=n", 409),
        (counts, "/flash?text=hi", 200),
    ] {
        let (mut visit, merging) = scene(exclusive(1_000, 5_000)).await;
        let done = overtaken(&mut visit, &merging, path, handler).await;
        assert_eq!(done, (status, 0), "{path}");
    }
}

fn refuse(session: &Session) {
    let refused = session.try_update("name", |_: Option<String>| None);
    assert!(matches!(refused, Err(SessionError::Refused { .. })));
}

/// A read-only request sends no write that would detect the loss.
#[tokio::test(start_paused = true)]
async fn without_its_lease_a_read_only_request_fails_if_its_reads_are_stale() {
    type Handler = fn(&Session);
    let reads: Handler = |session| drop(session.get::<String>("name").unwrap());
    let lists: Handler = |session| drop(session.keys());
    let writes_the_same: Handler = |session| session.insert("name", "mia").unwrap();
    let asks_who: Handler = |session| drop(session.principal());
    let asks_since_when: Handler = |session| assert_eq!(session.authenticated_at(), None);
    let needs_a_login: Handler = |session| assert!(session.require_fresh(Duration::MAX).is_err());
    let peeks: Handler = |session| drop(session.peek_flashes());
    let does_nothing: Handler = |_| ();
    for (handler, path, status) in [
        (asks_who, "/login?u=leo", 409),
        (asks_who, "/set?k=name&v=x", 200),
        (asks_since_when, "/login?u=leo", 409),
        (needs_a_login, "/login?u=leo", 409),
        (peeks, "/flash?text=x", 409),
        (peeks, "/set?k=name&v=x", 200),
        (reads, "/flash?text=x", 200),
        (reads, "/set?k=name&v=x", 409),
        (reads, "/set?k=new&v=x", 200),
        (reads, "/logout", 409),
        (reads, "/login?u=leo", 409),
        (lists, "/set?k=new&v=x", 409),
        (writes_the_same, "/set?k=name&v=x", 409),
        (writes_the_same, "/set?k=new&v=x", 200),
        (refuse, "/set?k=name&v=x", 409),
        (refuse, "/set?k=new&v=x", 200),
        (does_nothing, "/set?k=name&v=x", 200),
        (does_nothing, "/logout", 200),
    ] {
        for lapses in [true, false] {
            let late = Late::before(MemoryStore::new());
            let merging = Visit::with(SessionLayer::new(late.clone()));
            let mut visit = merging.clone();
            visit
                .request(|session| async move { session.insert("name", "mia").unwrap() })
                .await;
            let by = visit.browser.clone();
            visit.layer = visit.layer.with_concurrency(exclusive(1_000, 5_000));
            let page = visit
                .page(move |session| async move {
                    handler(&session);
                    if lapses {
                        late.lose_leases();
                    }
                    tokio::time::sleep(Duration::from_secs(6)).await;
                    by.peek(&app(merging.layer.clone()), path).await.ok();
                })
                .await;
            let expected = if lapses { status } else { 200 };
            let got = (page.status.as_u16(), page.set_cookies().len());
            assert_eq!(got, (expected, 0), "{path}, lapses: {lapses}");
        }
    }
}

/// The early commit validated the reads before it.
#[tokio::test(start_paused = true)]
async fn without_its_lease_reads_after_an_early_commit_are_validated() {
    type Handler = fn(&Session);
    let counts_nothing: Handler = |session| assert_eq!(session.increment("n", 0).unwrap(), 1);
    let writes_the_same: Handler = |session| session.insert("n", 1).unwrap();
    let reads: Handler = |session| assert_eq!(session.get("n").unwrap(), Some(1));
    let does_nothing: Handler = |_| ();
    for (name, handler, path, status) in [
        ("counts nothing", counts_nothing, "/incr?k=n", 500),
        ("counts nothing", counts_nothing, "/incr?k=m", 200),
        ("writes the same", writes_the_same, "/incr?k=n", 500),
        ("reads", reads, "/incr?k=n", 500),
        ("does nothing", does_nothing, "/incr?k=n", 200),
    ] {
        let late = Late::before(MemoryStore::new());
        let merging = Visit::with(SessionLayer::new(late.clone()));
        let mut visit = merging.clone();
        visit
            .request(|session| async move { session.insert("n", 1).unwrap() })
            .await;
        let by = visit.browser.clone();
        visit.layer = visit.layer.with_concurrency(exclusive(1_000, 5_000));
        let page = visit
            .page(move |session| async move {
                session.increment_now("orders", 1).await.unwrap();
                handler(&session);
                late.lose_leases();
                tokio::time::sleep(Duration::from_secs(6)).await;
                by.peek(&app(merging.layer.clone()), path).await.ok();
            })
            .await;
        assert_eq!(page.status.as_u16(), status, "{name}, {path}");
    }
}

#[tokio::test]
async fn requests_that_wait_for_a_lease_rarely_poll_the_store() {
    const CROWD: usize = 50;
    let sites = Sites::new(exclusive(60_000, 60_000), &Gauge::default()).await;
    let asked_so_far = || counts(&mut sites.ground.connection()).total();
    let before = asked_so_far();
    let began = Instant::now();
    let (gate, path) = gated("/slow?k=");
    let holder = sites.get(0, &path);
    let crowd = async {
        gate.arrived(1).await;
        let wait = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            gate.open();
        };
        let crowd = join_all((0..CROWD).map(|n| sites.get(n % 2, "/read")));
        tokio::join!(crowd, wait).0
    };
    let (holder, crowd) = tokio::join!(holder, crowd);
    holder.ok();
    for page in crowd {
        page.ok();
    }
    let asked = asked_so_far() - before;
    // The first waiting request of each node polls every 16 ms, with up to six commands including those inside a script
    // or transaction. Each request then needs ten to thirty commands. If all fifty polled, there would be 25 times as
    // many polls.
    let polls = u64::try_from(began.elapsed().as_millis()).unwrap() / 16 + 10;
    let max = 2 * 6 * polls + 30 * (CROWD as u64 + 1);
    assert!(asked < max, "{asked} commands, {polls} polls");
    assert!(
        max < CROWD as u64 * polls,
        "the limit would not detect fifty polling requests"
    );
}

#[tokio::test]
async fn logouts_and_new_visitors_need_no_lease() {
    let gauge = Gauge::default();
    let sites = Sites::new(exclusive(200, 60_000), &gauge).await;
    let mut newcomer = Browser::default();
    newcomer.get(&sites.apps[0], "/incr?k=n").await.ok();
    // On a route that merges, next to an exclusive one.
    let merging = app(SessionLayer::new(sites.store().await));
    let (gate, path) = gated("/slow?k=late");
    let slow = sites.get(0, &path);
    let logout = async {
        gate.arrived(1).await;
        sites.browser.peek(&merging, "/logout").await.ok();
        gate.open();
    };
    let (slow, ()) = tokio::join!(slow, logout);
    assert_eq!(slow.status, 409);
    assert_eq!(sites.get(1, "/read").await.ok(), "");
}

#[tokio::test(start_paused = true)]
async fn with_loading_on_extract_the_lease_is_taken_on_extract() {
    let store = MemoryStore::new();
    let layer = SessionLayer::new(store)
        .with_load(Load::OnExtract)
        .with_concurrency(exclusive(50, 5_000));
    let app = app(layer);
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    let slow = browser.peek(&app, "/slow?ms=300");
    let others = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        browser.peek(&app, "/plain").await.ok();
        assert_eq!(browser.peek(&app, "/read").await.status, 503);
    };
    tokio::join!(slow, others).0.ok();
    browser.peek(&app, "/read").await.ok();
}

#[tokio::test]
async fn exclusive_on_a_store_without_leases_is_a_startup_error() {
    let config = SessionConfig::default().with_concurrency(exclusive(100, 5_000));
    let error = SessionLayer::try_new(Late::before(MemoryStore::new()).without_leases(), config)
        .unwrap_err();
    assert!(error.to_string().contains("no leases"), "{error}");
    let layer = SessionLayer::new(Late::before(MemoryStore::new()).without_leases())
        .with_concurrency(exclusive(100, 5_000));
    let app = app(layer);
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    assert_eq!(browser.get(&app, "/read").await.status, 503);
}
