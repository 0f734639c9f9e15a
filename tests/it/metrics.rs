//! Metrics through the `metrics` facade: as Prometheus gets them.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use axum::routing::{get, post};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use sessile::metrics::LATENCY_BUCKETS;
use sessile::store::{Deleted, Durability, ManualClock, Renewal, Touched};
use sessile::testing::{Call, TestStore};
use sessile::{
    Concurrency, CookieConfig, CsrfLayer, Exclusive, Fingerprinting, Handle, MaxSessions,
    MemoryStore, RedisConfig, RedisStore, Session, SessionConfig, SessionError, SessionLayer,
    SessionStore as _, Sessions,
};
use tower::ServiceExt as _;

use crate::support::app::app;
use crate::support::late::{Late, Post};
use crate::support::patience::{budget_before_timeout, by_default, poll_at_most};
use crate::support::{Browser, Server, store_with, until};

/// What Prometheus gets.
struct Scrape(String);

impl Scrape {
    /// The value of a counter or a gauge; how often a histogram was recorded. 0 if it is not there.
    fn of(&self, metric: &str) -> f64 {
        let (name, labels) = metric.split_once('{').unwrap_or((metric, ""));
        let labels = labels.trim_end_matches('}');
        let is_histogram = self.0.contains(&format!("# TYPE {name} histogram"));
        let name = if is_histogram {
            format!("{name}_count")
        } else {
            name.to_owned()
        };
        let matches = |line: &&str| {
            let (key, _) = line.rsplit_once(' ').unwrap_or_default();
            let (found, of) = key.split_once('{').unwrap_or((key, ""));
            found == name && labels.split(',').all(|label| of.contains(label))
        };
        let value = |line: &str| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap();
        let values = self.0.lines().filter(matches).map(value);
        values.fold(0.0, |sum, value| sum + value)
    }

    /// Each metric by name and kind.
    fn kinds(&self) -> BTreeSet<(String, String)> {
        let types = self.0.lines().filter_map(|it| it.strip_prefix("# TYPE "));
        let pairs = types.map(|it| it.split_once(' ').unwrap());
        let ours = pairs.filter(|(name, _)| name.starts_with("sessile_"));
        ours.map(|(name, kind)| (name.to_owned(), kind.to_owned()))
            .collect()
    }

    /// The labels of each metric, and their values.
    fn labels(&self) -> BTreeMap<(String, String), BTreeSet<String>> {
        let mut found: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for line in self.0.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, rest)) = line.split_once('{') else {
                continue;
            };
            let ends = ["_bucket", "_count", "_sum"];
            let name = ends
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(name);
            let labels = rest.split_once('}').unwrap().0;
            for label in labels.split("\",").filter(|label| !label.is_empty()) {
                let (key, value) = label.split_once("=\"").unwrap();
                let value = value.trim_end_matches('"').to_owned();
                if key != "le" {
                    found
                        .entry((name.to_owned(), key.to_owned()))
                        .or_default()
                        .insert(value);
                }
            }
        }
        found
    }
}

/// Runs a scenario, and returns what it has recorded. The recorder is that of this thread only, so all tasks run on it.
fn measure<F: Future>(paused: bool, scenario: impl FnOnce(PrometheusHandle) -> F) -> Scrape {
    let histograms = ["_seconds", "_attempts", "_requests", "_bytes"];
    let builder = histograms.iter().fold(PrometheusBuilder::new(), |it, end| {
        it.set_buckets_for_metric(Matcher::Suffix((*end).to_owned()), &LATENCY_BUCKETS)
            .unwrap()
    });
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(paused)
        .build()
        .unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(scenario(handle.clone()));
        drop(runtime);
    });
    Scrape(handle.render())
}

#[track_caller]
fn assert_counts(scrape: &Scrape, expected: &[(&str, u32)]) {
    for (metric, count) in expected {
        assert_eq!(
            scrape.of(metric),
            f64::from(*count),
            "{metric}\n{}",
            scrape.0
        );
    }
}

/// A visitor who signs in, changes the session, reads it and logs out.
async fn a_visit(_: PrometheusHandle) {
    let app = app(SessionLayer::new(MemoryStore::new()));
    let mut browser = Browser::default();
    for path in [
        "/read",
        "/incr?k=n",
        "/incr?k=n",
        "/login?u=mia",
        "/cycle",
        "/read",
        "/logout",
    ] {
        browser.get(&app, path).await.ok();
    }
}

#[test]
fn a_visit_is_measured_from_its_first_request_to_its_logout() {
    let scrape = measure(false, a_visit);
    assert_counts(
        &scrape,
        &[
            // The first two requests carry no token.
            ("sessile_load_duration_seconds{outcome=\"loaded\"}", 5),
            ("sessile_load_duration_seconds", 5),
            ("sessile_commit_duration_seconds{outcome=\"committed\"}", 4),
            ("sessile_commit_duration_seconds{outcome=\"destroyed\"}", 1),
            ("sessile_commit_duration_seconds", 5),
            ("sessile_commit_attempts", 4),
            ("sessile_commit_requests", 4),
            ("sessile_session_size_bytes", 4),
            ("sessile_commit_conflicts_total", 0),
            ("sessile_sessions_created_total", 1),
            ("sessile_sign_ins_total", 1),
            ("sessile_sessions_ended_total{reason=\"logout\"}", 1),
            ("sessile_events_total{event=\"created\"}", 1),
            ("sessile_events_total{event=\"committed\"}", 4),
            ("sessile_events_total{event=\"rotated\"}", 2),
            ("sessile_events_total{event=\"destroyed\"}", 1),
            ("sessile_store_duration_seconds{operation=\"load\"}", 5),
            ("sessile_store_duration_seconds{operation=\"create\"}", 1),
            ("sessile_store_duration_seconds{operation=\"replace\"}", 3),
            ("sessile_store_duration_seconds{operation=\"delete\"}", 1),
            ("sessile_store_errors_total", 0),
            ("sessile_tokens_refused_total", 0),
            ("sessile_error_responses_total", 0),
            ("sessile_background_tasks", 0),
        ],
    );
}

/// Two nodes that change one session at once: by replay, and with 409.
async fn conflicts(_: PrometheusHandle) {
    let store = MemoryStore::new();
    let mut browser = Browser::default();
    let node = || app(SessionLayer::new(store.clone()));
    browser.get(&node(), "/incr?k=n").await.ok();
    for (concurrency, path, status) in [
        (Concurrency::Merge, "/incr?k=n", 200),
        (Concurrency::Reject, "/incr?k=n", 409),
        (Concurrency::Merge, "/logout", 409),
    ] {
        let (other, overtaking) = (node(), browser.clone());
        let handler = move |session: Session| async move {
            overtaking.peek(&other, path).await.ok();
            session.increment("n", 1).map(|n| n.to_string())
        };
        let layer = SessionLayer::new(store.clone()).with_concurrency(concurrency);
        let app = Router::new().route("/", get(handler)).layer(layer);
        assert_eq!(browser.peek(&app, "/").await.status, status);
    }
}

#[test]
fn conflicts_are_counted_by_what_became_of_the_changes() {
    let scrape = measure(false, conflicts);
    assert_counts(
        &scrape,
        &[
            ("sessile_commit_conflicts_total{result=\"merged\"}", 1),
            ("sessile_commit_conflicts_total{result=\"rejected\"}", 1),
            ("sessile_commit_duration_seconds{outcome=\"conflict\"}", 1),
            ("sessile_commit_duration_seconds{outcome=\"gone\"}", 1),
            ("sessile_error_responses_total{reason=\"conflict\"}", 1),
            ("sessile_error_responses_total{reason=\"gone_ended\"}", 1),
            ("sessile_error_responses_total", 2),
        ],
    );
}

/// Tokens that open no session, each for another reason.
async fn refused_tokens(_: PrometheusHandle) {
    let clock = ManualClock::new();
    let store = MemoryStore::new().with_clock(clock.clone());
    let from = |address: u8| {
        let layer = SessionLayer::new(store.clone())
            .with_fingerprinting(Fingerprinting::Strict)
            .with_client_ip(move |_| Some([address, 0, 0, 1].into()));
        app(layer)
    };
    let app = from(1);
    let (mut one, mut two) = (Browser::default(), Browser::default());
    one.get(&app, "/incr?k=n").await.ok();
    two.get(&app, "/incr?k=n").await.ok();
    one.peek(&from(2), "/read").await;

    let with = |cookie: String| Browser {
        cookie: Some(cookie),
    };
    let token = |browser: &Browser| browser.token().to_owned();
    with(format!("__Host-id={}", "A".repeat(43)))
        .peek(&app, "/read")
        .await;
    with(format!("__Host-id={}", "?".repeat(43)))
        .peek(&app, "/read")
        .await;
    with(format!(
        "__Host-id={}; __Host-id={}",
        token(&one),
        token(&two)
    ))
    .peek(&app, "/read")
    .await;
    let retired = one.clone();
    one.get(&app, "/cycle").await.ok();
    retired.peek(&app, "/read").await;
    clock.advance(Duration::from_secs(20));
    retired.peek(&app, "/read").await;

    // The store still has it when its absolute timeout has passed, as one whose clock runs slow does.
    let facts = two.peek(&app, "/facts").await.ok();
    let facts: serde_json::Value = serde_json::from_str(&facts).unwrap();
    let handle: Handle = facts["handle"].as_str().unwrap().parse().unwrap();
    let month = Duration::from_secs(30 * 24 * 60 * 60);
    let touched = store.touch(&handle, Renewal::Set(2 * month)).await.unwrap();
    assert_eq!(touched, Touched::Done);
    clock.advance(month);
    two.peek(&app, "/read").await;
}

#[test]
fn tokens_that_open_no_session_are_counted_by_the_reason() {
    let scrape = measure(false, refused_tokens);
    let refused = |reason| format!("sessile_tokens_refused_total{{reason=\"{reason}\"}}");
    for reason in [
        "other_network",
        "unknown",
        "malformed",
        "ambiguous",
        "replaced",
        "wrong_secret",
        "expired",
    ] {
        assert_eq!(scrape.of(&refused(reason)), 1.0, "{reason}\n{}", scrape.0);
    }
    assert_counts(
        &scrape,
        &[
            ("sessile_tokens_refused_total", 7),
            ("sessile_load_duration_seconds{outcome=\"denied\"}", 2),
            ("sessile_load_duration_seconds{outcome=\"new\"}", 4),
        ],
    );
}

/// One user who signs in too often, and is then signed out everywhere.
async fn ended_sessions(_: PrometheusHandle) {
    let store = MemoryStore::new();
    let layer = SessionLayer::new(store.clone()).with_max_sessions(MaxSessions::evict_oldest(2));
    let app = app(layer.clone());
    for _ in 0..3 {
        Browser::default().get(&app, "/login?u=mia").await.ok();
    }
    let sessions: Sessions = layer.sessions();
    assert_eq!(sessions.destroy_all("mia").await.unwrap(), 2);

    let mut browser = Browser::default();
    browser.get(&app, "/login?u=mia").await.ok();
    // Without the index noticing: a list finds the dead entry.
    let handle = sessions.of("mia").await.unwrap()[0].handle();
    let deleted = store.delete(&handle, Durability::Primary).await.unwrap();
    assert_eq!(deleted, Deleted::Done);
    assert!(sessions.of("mia").await.unwrap().is_empty());
}

#[test]
fn ended_sessions_are_counted_by_the_reason() {
    let scrape = measure(false, ended_sessions);
    assert_counts(
        &scrape,
        &[
            ("sessile_sign_ins_total", 4),
            ("sessile_sessions_created_total", 4),
            ("sessile_sessions_ended_total{reason=\"max_sessions\"}", 1),
            ("sessile_sessions_ended_total{reason=\"revoked\"}", 2),
            ("sessile_sessions_ended_total", 3),
            ("sessile_index_entries_healed_total", 1),
        ],
    );
}

/// A sign-in that is written only after all sessions of the user were ended.
async fn a_refused_sign_in(_: PrometheusHandle) {
    let store = TestStore::new();
    let layer = SessionLayer::new(store.clone());
    let (app, sessions) = (app(layer.clone()), layer.sessions());
    let mut hold = store.hold(Call::Create);
    let sign_in = async { Browser::default().peek(&app, "/login?u=mia").await };
    let sign_out = async {
        hold.arrived().await;
        sessions.destroy_all("mia").await.unwrap();
        hold.release();
    };
    let (page, ()) = tokio::join!(sign_in, sign_out);
    assert!(page.set_cookies().is_empty());
}

#[test]
fn a_session_that_ends_with_its_refused_sign_in_is_counted() {
    let scrape = measure(false, a_refused_sign_in);
    assert_counts(
        &scrape,
        &[
            (
                "sessile_sessions_ended_total{reason=\"sign_in_refused\"}",
                1,
            ),
            ("sessile_sessions_ended_total", 1),
            (
                "sessile_error_responses_total{reason=\"sign_in_refused_signed_out_everywhere\"}",
                1,
            ),
        ],
    );
}

/// A store with room for one session: of a visitor, then of three users.
async fn evictions(_: PrometheusHandle) {
    let app = app(SessionLayer::new(MemoryStore::with_capacity(1)));
    for path in ["/incr?k=n", "/login?u=mia", "/login?u=noa", "/login?u=zoe"] {
        Browser::default().get(&app, path).await.ok();
    }
}

#[test]
fn evictions_of_the_memory_store_are_counted() {
    let scrape = measure(false, evictions);
    let evicted = |session| format!("sessile_memory_evictions_total{{session=\"{session}\"}}");
    assert_eq!(scrape.of(&evicted("anonymous")), 1.0, "{}", scrape.0);
    assert_eq!(scrape.of(&evicted("signed_in")), 2.0, "{}", scrape.0);
}

/// Requests that want a session for themselves.
async fn leases(_: PrometheusHandle) {
    let exclusive = Exclusive::new(Duration::from_millis(20));
    let layer = SessionLayer::new(MemoryStore::new());
    let app = app(layer.with_concurrency(Concurrency::Exclusive(exclusive)));
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    let (slow, late) = tokio::join!(
        browser.peek(&app, "/slow?ms=1000"),
        browser.peek(&app, "/read")
    );
    assert_eq!((slow.status.as_u16(), late.status.as_u16()), (200, 503));

    let leaves = async {
        let late = browser.peek(&app, "/read");
        tokio::time::timeout(Duration::from_millis(10), late).await
    };
    let (slow, left) = tokio::join!(browser.peek(&app, "/slow?ms=1000"), leaves);
    assert!(slow.status == 200 && left.is_err());
}

#[test]
fn waits_for_a_lease_are_measured() {
    let scrape = measure(true, leases);
    assert_counts(
        &scrape,
        &[
            ("sessile_lease_wait_seconds{outcome=\"acquired\"}", 2),
            ("sessile_lease_wait_seconds{outcome=\"busy\"}", 1),
            ("sessile_lease_wait_seconds{outcome=\"abandoned\"}", 1),
            ("sessile_load_duration_seconds{outcome=\"abandoned\"}", 1),
            ("sessile_load_duration_seconds{outcome=\"busy\"}", 1),
            ("sessile_error_responses_total{reason=\"busy\"}", 1),
        ],
    );
}

/// A commit whose answers are all lost, and one whose form comes from another site.
async fn other_failures(_: PrometheusHandle) {
    let late = Late::before(MemoryStore::new());
    let layer = SessionLayer::new(late.clone());
    let app = app(layer);
    let mut browser = Browser::default();
    browser.get(&app, "/incr?k=n").await.ok();
    late.plan(&[Post::Lose; 12]);
    assert_eq!(browser.peek(&app, "/incr?k=n").await.status, 503);

    let form = Router::new()
        .route("/", post(|| async {}))
        .layer(CsrfLayer::new())
        .layer(SessionLayer::new(MemoryStore::new()));
    let request = Request::post("/").header("sec-fetch-site", "cross-site");
    let request = request.body(Body::empty()).unwrap();
    assert_eq!(form.oneshot(request).await.unwrap().status(), 403);
}

#[test]
fn responses_for_a_session_error_are_counted_by_its_name() {
    let scrape = measure(true, other_failures);
    assert_counts(
        &scrape,
        &[
            (
                "sessile_error_responses_total{reason=\"outcome_unknown\"}",
                1,
            ),
            (
                "sessile_error_responses_total{reason=\"csrf_cross_origin\"}",
                1,
            ),
            ("sessile_error_responses_total", 2),
            ("sessile_commit_duration_seconds{outcome=\"unknown\"}", 1),
        ],
    );
    assert!(scrape.of("sessile_store_errors_total{operation=\"replace\",kind=\"unknown\"}") > 1.0);
}

/// A layer with a hook around another one, of whose session the handler returns an error.
async fn an_error_within_two_layers(_: PrometheusHandle) {
    let outer = SessionConfig::default().with_cookie(CookieConfig::default().with_name("outer"));
    let outer = SessionLayer::try_new(MemoryStore::new(), outer)
        .unwrap()
        .with_on_error(|_, _| Response::new(Bytes::new()));
    let handler = |session: Session| async move {
        session.insert("k", "no number")?;
        let n = session.increment("k", 1)?;
        Ok::<_, SessionError>(n.to_string())
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(SessionLayer::new(MemoryStore::new()))
        .layer(outer);
    // The page is that of the hook.
    assert_eq!(Browser::default().peek(&app, "/").await.status, 200);
}

#[test]
fn an_error_is_counted_once_although_the_hook_of_an_outer_layer_replaces_its_response() {
    let scrape = measure(false, an_error_within_two_layers);
    assert_counts(
        &scrape,
        &[
            ("sessile_error_responses_total{reason=\"not_a_number\"}", 1),
            ("sessile_error_responses_total", 1),
        ],
    );
}

/// A Redis that works.
async fn connections(metrics: PrometheusHandle) {
    let server = Server::start();
    let store = store_with(&server.url(), |_| ()).await;
    let now = || Scrape(metrics.render());
    until("all connections are open", async || {
        now().of("sessile_redis_connections") == f64::from(RedisConfig::default().pool_size)
    })
    .await;
    let app = app(SessionLayer::new(store.clone()));
    let mut browser = Browser::default();
    browser.get(&app, "/incr?k=n").await.ok();
    browser.get(&app, "/incr?k=n").await.ok();
    let scrape = now();
    for (gauge, value) in [
        ("sessile_redis_requests_in_flight", 0),
        ("sessile_redis_requests_waiting", 0),
        ("sessile_redis_exclusive_connections", 0),
        ("sessile_redis_breaker_open", 0),
    ] {
        let server = format!("{gauge}{{server=\"{}\"}}", server.address());
        assert!(
            scrape.0.contains(&format!("{server} {value}\n")),
            "{}",
            scrape.0
        );
    }
    // The server holds the reply, and the request waits for it.
    server.freeze();
    let waiting = tokio::spawn({
        let (app, browser) = (app.clone(), browser.clone());
        async move { browser.peek(&app, "/read").await }
    });
    until("the request is in flight", async || {
        now().of("sessile_redis_requests_in_flight") == 1.0
    })
    .await;
    server.thaw();
    waiting.await.unwrap().ok();
    assert_eq!(now().of("sessile_redis_requests_in_flight"), 0.0);
    drop((app, store));
    until("the connections are closed", async || {
        now().of("sessile_redis_connections") == 0.0
    })
    .await;
}

#[test]
fn the_connections_of_a_redis_are_counted_while_they_are_open() {
    let scrape = measure(false, connections);
    // One is that of the check at the start.
    assert!(scrape.of("sessile_redis_connects_total{outcome=\"ok\"}") >= 5.0);
    assert_counts(
        &scrape,
        &[("sessile_redis_connects_total{outcome=\"failed\"}", 0)],
    );
}

/// A Redis that dies and comes back.
async fn outage(metrics: PrometheusHandle) {
    let mut server = Server::start();
    let store = store_with(&server.url(), by_default).await;
    let layer = SessionLayer::new(store.clone());
    let app = app(layer.clone());
    let mut browser = Browser::default();
    browser.get(&app, "/incr?k=n").await.ok();
    server.kill();
    let now = || Scrape(metrics.render());
    until("the breaker is open", async || {
        assert_eq!(browser.peek(&app, "/read").await.status, 503);
        store.pool().breaker_open
    })
    .await;
    assert_eq!(now().of("sessile_redis_breaker_open"), 1.0);
    let rejections = now().of("sessile_redis_breaker_rejections_total");
    assert_eq!(browser.peek(&app, "/read").await.status, 503);
    assert!(now().of("sessile_redis_breaker_rejections_total") > rejections);
    // Both are retried in the background.
    assert_eq!(browser.peek(&app, "/sign-out").await.status, 503);
    assert_eq!(now().of("sessile_pending_deletions{kind=\"logout\"}"), 1.0);
    assert!(now().of("sessile_background_tasks") >= 1.0);
    server.restart();
    until("the breaker is closed and nothing is pending", async || {
        let now = now();
        now.of("sessile_redis_breaker_open") == 0.0
            && now.of("sessile_pending_deletions") == 0.0
            && now.of("sessile_background_tasks") == 0.0
    })
    .await;
    assert!(!store.pool().breaker_open);
}

#[test]
fn an_outage_of_redis_is_seen_in_the_breaker_and_the_pending_deletions() {
    let scrape = measure(false, outage);
    assert!(scrape.of("sessile_redis_breaker_openings_total") >= 1.0);
    assert!(scrape.of("sessile_redis_connects_total{outcome=\"failed\"}") >= 1.0);
    assert!(scrape.of("sessile_redis_connection_timeouts_total") >= 1.0);
    assert!(scrape.of("sessile_load_duration_seconds{outcome=\"failed\"}") >= 2.0);
    assert!(scrape.of("sessile_error_responses_total{reason=\"store_unavailable\"}") >= 2.0);
    assert!(
        scrape.of("sessile_store_errors_total{operation=\"load\",kind=\"unavailable\"}") >= 2.0
    );
}

/// A breaker that is open when the store is dropped.
async fn dropped_while_open(metrics: PrometheusHandle) {
    let store = RedisStore::lazy(RedisConfig::new("redis://127.0.0.1:1/")).unwrap();
    let app = app(SessionLayer::new(store.clone()));
    let browser = Browser {
        cookie: Some(format!("__Host-id={}", "A".repeat(43))),
    };
    until("the breaker is open", async || {
        browser.peek(&app, "/read").await;
        store.pool().breaker_open
    })
    .await;
    drop((app, store));
    until("the breaker does not count any more", async || {
        Scrape(metrics.render()).of("sessile_redis_breaker_open") == 0.0
    })
    .await;
}

#[test]
fn an_open_breaker_does_not_count_once_its_store_is_dropped() {
    measure(false, dropped_while_open);
}

/// A Redis that answers nothing: until the request's budget is up, and until the client has left.
async fn silence(metrics: PrometheusHandle) {
    let server = Server::start();
    let impatient = store_with(&server.url(), budget_before_timeout).await;
    let impatient = app(SessionLayer::new(impatient));
    let patient = app(SessionLayer::new(store_with(&server.url(), |_| ()).await));
    let (mut waiting, mut leaving) = (Browser::default(), Browser::default());
    waiting.get(&impatient, "/incr?k=n").await.ok();
    leaving.get(&patient, "/incr?k=n").await.ok();
    server.freeze();

    assert_eq!(waiting.peek(&impatient, "/read").await.status, 503);
    assert_counts(
        &Scrape(metrics.render()),
        &[
            ("sessile_store_duration_seconds{operation=\"load\"}", 1),
            (
                "sessile_store_errors_total{operation=\"load\",kind=\"abandoned\"}",
                1,
            ),
            ("sessile_load_duration_seconds{outcome=\"failed\"}", 1),
            ("sessile_load_duration_seconds{outcome=\"abandoned\"}", 0),
        ],
    );
    assert!(
        poll_at_most(1, leaving.peek(&patient, "/read"))
            .await
            .is_none()
    );
}

#[test]
fn a_load_that_a_silent_redis_does_not_answer_is_measured() {
    let scrape = measure(false, silence);
    assert_counts(
        &scrape,
        &[
            ("sessile_store_duration_seconds{operation=\"load\"}", 2),
            (
                "sessile_store_errors_total{operation=\"load\",kind=\"abandoned\"}",
                2,
            ),
            ("sessile_store_errors_total", 2),
            ("sessile_load_duration_seconds{outcome=\"failed\"}", 1),
            ("sessile_load_duration_seconds{outcome=\"abandoned\"}", 1),
            ("sessile_load_duration_seconds", 2),
        ],
    );
}

/// The rows of the tables in docs/metrics.md: name and kind, and the label names and values in backticks.
fn documented() -> BTreeMap<(String, String), String> {
    let document = include_str!("../../docs/metrics.md");
    let rows = document
        .lines()
        .filter(|line| line.starts_with("| `sessile_"));
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split(" | ").map(str::trim);
        let name = cells.next().unwrap().trim_matches('`').to_owned();
        let kind = cells.next().unwrap().to_owned();
        ((name, kind), cells.next().unwrap().to_owned())
    })
    .collect()
}

#[test]
fn every_metric_is_documented_and_recorded() {
    let documented = documented();
    let scrape = measure(false, |metrics| async move {
        a_visit(metrics.clone()).await;
        conflicts(metrics.clone()).await;
        refused_tokens(metrics.clone()).await;
        ended_sessions(metrics.clone()).await;
        evictions(metrics.clone()).await;
        outage(metrics).await;
    });
    // Some counters are there from the beginning, as 0.
    let has_counted = |(name, kind): &(String, String)| kind != "counter" || scrape.of(name) > 0.0;
    let mut recorded: BTreeSet<_> = scrape.kinds().into_iter().filter(has_counted).collect();
    recorded.extend(
        measure(true, leases)
            .kinds()
            .into_iter()
            .filter(has_counted),
    );
    let documented_kinds: BTreeSet<_> = documented.keys().cloned().collect();
    assert_eq!(recorded, documented_kinds);
    // `# HELP` comes from the descriptions.
    for (name, _) in &recorded {
        let help = format!("# HELP {name} ");
        let described = |it: &Scrape| it.0.contains(&help);
        assert!(
            described(&scrape) || name == "sessile_lease_wait_seconds",
            "{name}"
        );
    }
    for ((name, label), values) in scrape.labels() {
        let of = documented.iter().find(|((it, _), _)| *it == name);
        let (_, text) = of.unwrap_or_else(|| panic!("{name}"));
        assert!(text.contains(&format!("`{label}`")), "{name}: {label}");
        // The values of these are those of a type.
        if ["server", "operation", "event"].contains(&label.as_str())
            || name == "sessile_error_responses_total"
        {
            continue;
        }
        for value in values {
            assert!(text.contains(&format!("`{value}`")), "{name}: {value}");
        }
    }
}

const DASHBOARD: &str = include_str!("../../examples/metrics/dashboard.json");
const ALERTS: &str = include_str!("../../examples/metrics/alerts.yml");

/// The metrics that a text names, without the endings that Prometheus adds to histograms.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|it: char| !it.is_ascii_alphanumeric() && it != '_');
    let ours = words.filter(|word| word.starts_with("sessile_"));
    let ends = ["_bucket", "_count", "_sum"];
    ours.map(|name| {
        let metric = ends.iter().find_map(|end| name.strip_suffix(end));
        metric.unwrap_or(name).to_owned()
    })
    .collect()
}

#[test]
fn the_dashboard_shows_every_metric_and_the_alerts_name_some_of_them() {
    let documented: BTreeSet<String> = documented().into_keys().map(|(name, _)| name).collect();
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    assert_eq!(named(&dashboard.to_string()), documented);
    let alerts = named(ALERTS);
    assert!(alerts.len() > 5, "{alerts:?}");
    let unknown: Vec<_> = alerts.difference(&documented).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// The counters that the alerts select: name, label and value, of which the last may end with `.*`.
fn watched_counters() -> Vec<(&'static str, &'static str, &'static str)> {
    let mut watched = Vec::new();
    for selector in ALERTS.split("sessile_").skip(1) {
        let Some((name, rest)) = selector.split_once('{') else {
            continue;
        };
        let is_counter = name.ends_with("_total") && !name.contains([' ', '[']);
        if let Some((selected, _)) = rest.split_once('}')
            && is_counter
        {
            let (label, values) = selected.split_once('=').unwrap();
            let values = values.trim_start_matches('~').trim_matches('"');
            watched.extend(values.split('|').map(|value| (name, label, value)));
        }
    }
    watched
}

/// Asserts that all counters of the alerts are there and 0.
fn assert_begun(scrape: &Scrape) {
    let watched = watched_counters();
    assert!(watched.len() > 8, "{watched:?}");
    for (name, label, value) in watched {
        let series = match value.strip_suffix(".*") {
            Some(start) => format!("sessile_{name}{{{label}=\"{start}"),
            None => format!("sessile_{name}{{{label}=\"{value}\"}} 0\n"),
        };
        assert!(scrape.0.contains(&series), "{series}\n{}", scrape.0);
    }
}

#[test]
fn the_counters_of_the_alerts_begin_at_0() {
    let of_a_layer = measure(false, |_| async {
        SessionLayer::new(MemoryStore::new());
    });
    assert_begun(&of_a_layer);
    let of_sessions_alone = measure(false, |_| async {
        Sessions::new(MemoryStore::new());
    });
    assert_begun(&of_sessions_alone);
    let of_a_redis = measure(false, |_| async {
        RedisStore::lazy(RedisConfig::new("redis://127.0.0.1:1/")).unwrap();
    });
    let names = ALERTS.split(|it: char| !it.is_ascii_alphanumeric() && it != '_');
    let counters = names.filter(|it| it.starts_with("sessile_redis_") && it.ends_with("_total"));
    let counters: BTreeSet<&str> = counters.collect();
    assert!(!counters.is_empty());
    for counter in counters {
        let series = format!("{counter}{{server=\"127.0.0.1:1\"}} 0\n");
        assert!(of_a_redis.0.contains(&series), "{}", of_a_redis.0);
    }
}

#[test]
fn every_alert_has_a_test_and_a_section_that_says_what_to_do() {
    let operations = include_str!("../../docs/operations.md");
    let tests = include_str!("../../examples/metrics/alerts.test.yml");
    let names: Vec<&str> = ALERTS
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert_eq!(names.len(), 11);
    for name in names {
        assert!(operations.contains(&format!("\n### {name}\n")), "{name}");
        let row = format!("| [{name}](#{}) |", name.to_lowercase());
        assert!(operations.contains(&row), "{row}");
        let runbook = format!("docs/operations.md#{}", name.to_lowercase());
        assert!(ALERTS.contains(&runbook), "{runbook}");
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "{name}");
    }
}
