//! Batches: requests of one process that wait for the same session are committed together.
//!
//! With paused time, the clock stands still while any task can run, so the order of events does not depend on the
//! machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use sessile::store::Durability;
use sessile::{DurabilityConfig, Event, MemoryStore, SessionConfig, SessionLayer};

use tower_http::catch_panic::CatchPanicLayer;

use crate::support::app::app;
use crate::support::late::{Late, Post};
use crate::support::{Browser, Gate, Proxy, Server, Spy, Visit, store_with};

const SLOW: Duration = Duration::from_millis(100);

/// A session whose next compare-and-set is so slow that later requests wait and form a batch.
struct Queue {
    store: MemoryStore,
    late: Late,
    visit: Visit,
    commits: Arc<AtomicU64>,
}

impl Queue {
    async fn new() -> Self {
        Self::with(SessionConfig::default()).await
    }

    async fn with(config: SessionConfig) -> Self {
        let store = MemoryStore::new();
        let late = Late::before(store.clone()).with_replicas();
        let commits = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&commits);
        let layer = SessionLayer::try_new(late.clone(), config)
            .unwrap()
            .with_observer(move |event: &Event| {
                if let Event::Committed { .. } = event {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            });
        let mut visit = Visit::with(layer);
        visit
            .request(|session| async move {
                session.insert("name", "mia").unwrap();
                session.insert("stock", 1).unwrap();
            })
            .await;
        commits.store(0, Ordering::SeqCst);
        Self {
            store,
            late,
            visit,
            commits,
        }
    }

    /// Sends all requests while a commit of the session is in flight. Returns their statuses.
    async fn at_once(&self, paths: &[&str]) -> Vec<u16> {
        self.with_plan(&[], paths).await
    }

    /// Like [`at_once`](Self::at_once), with these fates for the compare-and-sets of the batch.
    async fn with_plan(&self, plan: &[Post], paths: &[&str]) -> Vec<u16> {
        self.late.plan(&[Post::Slow(SLOW)]);
        self.late.plan(plan);
        // A closure that panics at the commit panics inside the layer.
        let app = app(self.visit.layer.clone()).layer(CatchPanicLayer::new());
        let first = self.visit.browser.peek(&app, "/incr?k=first");
        let rest = async {
            tokio::time::sleep(SLOW / 2).await;
            join_all(paths.iter().map(|path| self.visit.browser.peek(&app, path))).await
        };
        let (first, rest) = tokio::join!(first, rest);
        first.ok();
        rest.iter().map(|page| page.status.as_u16()).collect()
    }

    async fn see(&self, path: &str) -> String {
        let app = app(self.visit.layer.clone());
        self.visit.browser.peek(&app, path).await.ok()
    }

    fn commits(&self) -> u64 {
        self.commits.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_requests_share_one_compare_and_set() {
    let queue = Queue::new().await;
    let paths: Vec<String> = (0..100).map(|n| format!("/set?k=k{n}&v=x")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    assert!(
        queue
            .at_once(&paths)
            .await
            .iter()
            .all(|status| *status == 200)
    );
    assert_eq!(queue.commits(), 2);
    assert_eq!(queue.see("/read").await.split(',').count(), 103);
}

#[tokio::test(start_paused = true)]
async fn a_closure_that_refuses_or_panics_fails_only_its_own_request() {
    let queue = Queue::new().await;
    // The requests load a stock of 1, so the commit rejects all but one.
    let statuses = queue
        .at_once(&[
            "/buy",
            "/incr?k=n",
            "/buy",
            "/panic-again",
            "/buy",
            "/incr?k=n",
        ])
        .await;
    assert_eq!(statuses, [200, 200, 409, 500, 409, 200]);
    assert_eq!(queue.commits(), 2);
    assert_eq!(queue.see("/number?k=n").await, "2");
    assert_eq!(queue.see("/number?k=stock").await, "0");
    assert_eq!(
        queue.see("/get?k=half").await,
        "",
        "a log is applied whole or not at all"
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_that_makes_the_session_too_large_fails_only_its_own_request() {
    let queue = Queue::with(SessionConfig::default().with_max_size(1500)).await;
    let value = "x".repeat(900);
    let [a, b, c] = ["a", "b", "c"].map(|key| format!("/set?k={key}&v={value}"));
    let statuses = queue.at_once(&[&a, "/incr?k=n", &b, &c, "/incr?k=n"]).await;
    assert_eq!(statuses, [200, 200, 500, 500, 200]);
    assert_eq!(queue.see("/read").await, "a,first,n,name,stock");
    assert_eq!(queue.see("/number?k=n").await, "2");
}

#[tokio::test(start_paused = true)]
async fn above_a_lowered_limit_a_request_can_shrink_the_session() {
    let queue = Queue::with(SessionConfig::default().with_max_size(1024)).await;
    let unlimited = app(SessionLayer::new(queue.store.clone()));
    let large = "x".repeat(2000);
    let fill = format!("/set?k=fill&v={large}");
    // The first counter keeps a single digit.
    for path in ["/incr?k=first", &fill] {
        queue.visit.browser.peek(&unlimited, path).await.ok();
    }
    let statuses = queue
        .at_once(&[
            "/remove?k=name",
            "/set?k=a&v=grows-by-more-than-was-removed",
            "/set?k=fill&v=small",
            "/set?k=b&v=fits-again",
        ])
        .await;
    assert_eq!(statuses, [200, 500, 200, 200]);
}

/// A batch must apply all logs one after the other. It could take one result for all only if each was computed on the
/// record that it is applied to.
#[tokio::test(start_paused = true)]
async fn requests_that_loaded_the_same_record_are_all_in_the_next_one() {
    let queue = Queue::new().await;
    // The first commit is lost, so the others start from the record that they loaded.
    let lost = Post::LoseSlowly(SLOW);
    queue.late.plan(&[lost, lost, lost]);
    let app = app(queue.visit.layer.clone());
    let first = queue.visit.browser.peek(&app, "/incr?k=first");
    let rest = async {
        tokio::time::sleep(SLOW / 2).await;
        join_all((0..5).map(|_| queue.visit.browser.peek(&app, "/incr?k=n"))).await
    };
    let (first, rest) = tokio::join!(first, rest);
    assert_eq!(first.status, 503);
    for page in rest {
        page.ok();
    }
    assert_eq!(queue.see("/number?k=n").await, "5");
}

#[tokio::test(start_paused = true)]
async fn a_request_near_its_deadline_does_not_shorten_the_time_of_others() {
    let queue = Queue::new().await;
    let app = app(queue.visit.layer.clone());
    let ask = |path| queue.visit.browser.peek(&app, path);
    let at = |millis| tokio::time::sleep(Duration::from_millis(millis));
    queue.late.slow_load(Duration::from_millis(850));
    queue
        .late
        .plan(&[Post::Slow(Duration::from_millis(150)); 2]);
    let hurried = ask("/incr?k=n");
    let first = async {
        at(800).await;
        ask("/incr?k=n").await
    };
    let patient = async {
        at(820).await;
        ask("/incr?k=n").await
    };
    let (hurried, first, patient) = tokio::join!(hurried, first, patient);
    first.ok();
    patient.ok();
    // Its load used up most of its budget, and its commit was never sent.
    assert_eq!(hurried.status, 503);
    assert!(hurried.headers.contains_key("retry-after"));
    assert_eq!(queue.see("/number?k=n").await, "2");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_depends_on_committed_changes_not_on_refused_ones() {
    let queue = Queue::with(SessionConfig::default().with_max_size(2048)).await;
    let much = format!("/buy-much?v={}", "x".repeat(3000));
    // The stock is one. The first request would get it if its receipt were not too large.
    let statuses = queue.at_once(&[&much[..much.len() - 2000], "/buy"]).await;
    assert_eq!(statuses, [200, 409]);
    let queue = Queue::with(SessionConfig::default().with_max_size(1500)).await;
    let value = "x".repeat(900);
    let (fill, much) = (
        format!("/set?k=fill&v={value}"),
        format!("/buy-much?v={value}"),
    );
    let statuses = queue.at_once(&[&fill, &much, "/buy"]).await;
    assert_eq!(statuses, [200, 500, 200]);
}

#[tokio::test(start_paused = true)]
async fn requests_from_before_and_after_a_login_are_not_batched() {
    let queue = Queue::new().await;
    let app = app(queue.visit.layer.clone());
    let elsewhere = crate::support::app::app(SessionLayer::new(queue.store.clone()));
    let old = queue.visit.browser.clone();
    let mut new = old.clone();
    queue.late.plan(&[Post::Slow(SLOW)]);
    let first = old.peek(&app, "/incr?k=n");
    let waiting = async {
        tokio::time::sleep(SLOW / 5).await;
        old.peek(&app, "/incr?k=n").await
    };
    let signed_in = async {
        tokio::time::sleep(SLOW / 3).await;
        new.get(&elsewhere, "/login?u=mia").await.ok();
        new.peek(&app, "/incr?k=m").await
    };
    let (first, waiting, signed_in) = tokio::join!(first, waiting, signed_in);
    signed_in.ok();
    assert_eq!([first, waiting].map(|page| page.status.as_u16()), [409; 2]);
    assert_eq!(new.peek(&app, "/read").await.ok(), "m,name,stock");
}

#[tokio::test(start_paused = true)]
async fn a_rotation_is_not_batched_and_requests_behind_it_are_rejected() {
    let queue = Queue::new().await;
    let statuses = queue
        .at_once(&["/incr?k=n", "/login?u=mia", "/incr?k=n", "/set?k=late&v=x"])
        .await;
    // Requests that loaded before the login and wait in the same queue are committed before it, or not at all.
    assert_eq!(statuses, [200, 200, 200, 200]);
    assert_eq!(queue.commits(), 3);
    let queue = Queue::new().await;
    let statuses = queue.at_once(&["/cycle", "/incr?k=n"]).await;
    assert_eq!(statuses, [200, 409]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_answer_is_lost_is_applied_once() {
    for plan in [
        &[Post::Lose][..],
        &[Post::Hold, Post::DeliverAfterHeld],
        &[Post::Lose, Post::Lose],
        &[Post::Hold, Post::Lose, Post::DeliverAfterHeld],
    ] {
        let queue = Queue::new().await;
        let statuses = queue
            .with_plan(plan, &["/incr?k=n", "/incr?k=n", "/push?k=l&v=1"])
            .await;
        assert_eq!(statuses, [200, 200, 200], "{plan:?}");
        assert_eq!(queue.see("/number?k=n").await, "2", "{plan:?}");
        assert_eq!(queue.see("/get?k=l").await, r#"["1"]"#, "{plan:?}");
        assert!(queue.late.is_done());
    }
}

/// No request may join a batch whose bytes may have arrived already: that copy lacks the request's changes, and a
/// resend could apply them twice.
#[tokio::test(start_paused = true)]
async fn no_request_joins_a_batch_that_was_already_sent() {
    let queue = Queue::new().await;
    let app = app(queue.visit.layer.clone());
    // The batch is held, then resent slowly. The second request arrives in between.
    queue
        .late
        .plan(&[Post::Hold, Post::Slow(SLOW), Post::Deliver]);
    let first = queue.visit.browser.peek(&app, "/incr?k=n");
    let second = async {
        tokio::time::sleep(SLOW / 5).await;
        let second = queue.visit.browser.peek(&app, "/incr?k=n");
        let arrives = async {
            tokio::time::sleep(SLOW / 5).await;
            queue.late.deliver_held().await;
        };
        tokio::join!(second, arrives).0
    };
    let (first, second) = tokio::join!(first, second);
    first.ok();
    second.ok();
    assert_eq!(queue.see("/number?k=n").await, "2");
}

/// The store never answers, and each request has its own deadline. No response claims that its changes failed.
#[tokio::test(start_paused = true)]
async fn if_the_store_never_answers_the_whole_batch_is_of_unknown_outcome() {
    let queue = Queue::new().await;
    let statuses = queue
        .with_plan(
            &[Post::Hold, Post::Lose, Post::Lose],
            &["/incr?k=n", "/incr?k=n"],
        )
        .await;
    assert_eq!(statuses, [503, 503]);
    queue.late.deliver_held().await;
    assert_eq!(queue.see("/number?k=n").await, "2");
}

/// The handler ignores the error of `save`. Its final commit resolves the outcome of the bytes, which also contain the
/// changes of others.
#[tokio::test(start_paused = true)]
async fn a_repeated_save_resolves_the_outcome_of_its_whole_batch() {
    for arrives in [true, false] {
        let queue = Queue::new().await;
        let fate = if arrives { Post::Hold } else { Post::Lose };
        queue
            .late
            .plan(&[Post::Slow(SLOW), fate, Post::Lose, Post::Lose]);
        let app = app(queue.visit.layer.clone());
        let first = queue.visit.browser.peek(&app, "/incr?k=first");
        let rest = async {
            tokio::time::sleep(SLOW / 2).await;
            let later = async {
                let both = ["/save-twice?ms=200"; 2];
                join_all(both.map(|path| queue.visit.browser.peek(&app, path))).await
            };
            let arrival = async {
                tokio::time::sleep(SLOW * 2).await;
                queue.late.deliver_held().await;
            };
            tokio::join!(later, arrival).0
        };
        let (first, rest) = tokio::join!(first, rest);
        first.ok();
        for page in rest {
            assert_eq!(page.ok(), "OutcomeUnknown saved", "{arrives}");
        }
        assert_eq!(queue.see("/number?k=saved").await, "2", "{arrives}");
    }
}

#[tokio::test(start_paused = true)]
async fn layers_with_different_settings_are_not_batched_and_lose_no_change() {
    let queue = Queue::new().await;
    let mut other = queue.visit.clone();
    let observed = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&observed);
    other.layer = other.layer.with_observer(move |event: &Event| {
        if let Event::Committed { requests, .. } = event {
            counter.fetch_add(u64::from(*requests), Ordering::SeqCst);
        }
    });
    queue.late.plan(&[Post::Slow(SLOW)]);
    let mine = app(queue.visit.layer.clone());
    let theirs = app(other.layer.clone());
    let pages = join_all((0..20).map(|n| {
        let app = if n % 2 == 0 { &mine } else { &theirs };
        queue.visit.browser.peek(app, "/incr?k=n")
    }));
    for page in pages.await {
        page.ok();
    }
    assert_eq!(queue.see("/number?k=n").await, "20");
    assert_eq!(
        observed.load(Ordering::SeqCst),
        10,
        "each layer observes its own requests"
    );
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_queue_limit_are_rejected_and_all_others_are_committed() {
    let queue = Queue::new().await;
    let paths = vec!["/incr?k=n"; 1500];
    let statuses = queue.at_once(&paths).await;
    let done = statuses.iter().filter(|status| **status == 200).count();
    let busy = statuses.iter().filter(|status| **status == 503).count();
    assert_eq!((done + busy, done >= 1000, busy > 0), (1500, true, true));
    assert_eq!(queue.see("/number?k=n").await, done.to_string());
}

/// All requests load before the proxy forwards the first commit, and then wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_writers_need_only_a_few_compare_and_sets() {
    const WRITERS: u64 = 500;
    let server = Server::start();
    let proxy = Proxy::before(server.address()).await;
    let spy = Spy::on(store_with(&proxy.url(), |_| ()).await);
    let calls = Arc::clone(&spy.calls);
    let app = app(SessionLayer::new(spy));
    let mut browser = Browser::default();
    browser.get(&app, "/incr?k=n").await.ok();
    let gate = Gate::new();
    let path = format!("/two-keys?{}", gate.query());
    let pages = join_all((0..WRITERS).map(|_| browser.peek(&app, &path)));
    let commit = proxy.hold_commit();
    let at_once = async {
        gate.arrived(WRITERS.try_into().unwrap()).await;
        gate.open();
        commit.arrived().await;
        let loaded = calls.load.load(Ordering::SeqCst);
        assert_eq!(loaded, WRITERS);
        commit.release();
    };
    let (pages, ()) = tokio::join!(pages, at_once);
    for page in pages {
        page.ok();
    }
    let [_, created, replaced, ..] = calls.so_far();
    assert_eq!(browser.peek(&app, "/number?k=first").await.ok(), "500");
    assert_eq!(created, 1);
    assert!(
        replaced <= WRITERS / 5,
        "{replaced} compare-and-sets for {WRITERS} writers"
    );
}

/// The refusal depends on a change that is on the primary, although too few replicas acknowledged it.
#[tokio::test(start_paused = true)]
async fn a_refusal_can_depend_on_a_change_short_of_replicas() {
    let one_replica = Durability::Replicas {
        n: 1,
        timeout: SLOW,
    };
    let config = SessionConfig::default()
        .with_max_size(1500)
        .with_durability(DurabilityConfig::default().with_commits(one_replica));
    let queue = Queue::with(config).await;
    let value = "x".repeat(900);
    let paths = ["one", "other"].map(|key| format!("/set?k={key}&v={value}"));
    let paths = [paths[0].as_str(), paths[1].as_str()];
    let short = [Post::DeliverShort(Duration::ZERO); 4];
    assert_eq!(queue.with_plan(&short, &paths).await, [503, 500]);
    assert_eq!(queue.see("/read").await, "first,name,one,stock");
}

/// The refusal waits for the change that it depends on: that change is not stored yet, and is then replayed on another
/// version.
#[tokio::test(start_paused = true)]
async fn a_refusal_depends_on_stored_changes_not_on_changes_in_flight() {
    let queue = Queue::new().await;
    let elsewhere = app(SessionLayer::new(queue.store.clone()));
    let delivery = async {
        tokio::time::sleep(SLOW + SLOW / 2).await;
        // The stock grows to two before the batch has bought any.
        let browser = &queue.visit.browser;
        browser.peek(&elsewhere, "/incr?k=stock").await.ok();
    };
    let both = queue.with_plan(&[Post::Slow(SLOW)], &["/buy", "/buy"]);
    let (statuses, ()) = tokio::join!(both, delivery);
    assert_eq!(statuses, [200, 200]);
    assert_eq!(queue.see("/number?k=stock").await, "0");
}
