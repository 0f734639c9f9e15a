//! The spans of a request, as the application's subscriber records them.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use opentelemetry::trace::{SpanKind, Status, TracerProvider as _};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use sessile::store::ManualClock;
use sessile::{
    CompareAndSet, Concurrency, Exclusive, Fingerprinting, Load, MemoryStore, OnStoreError,
    RedisConfig, RedisStore, Session, SessionError, SessionLayer,
};
use tracing::field::{Field, Visit as FieldVisit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

use crate::support::app::app;
use crate::support::late::{Late, Post};
use crate::support::patience::poll_at_most;
use crate::support::{Browser, Server, store_with};

/// The closed spans of sessile, each with its fields in the order in which they were recorded.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<String>>>);

#[derive(Default)]
struct Fields(String);

impl FieldVisit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.push_str(&format!(" {field}={value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push_str(&format!(" {field}={value}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let span = context.span(id).unwrap();
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        record.record(span.extensions_mut().get_mut::<Fields>().unwrap());
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        if span.metadata().target() == "sessile" {
            assert_eq!(*span.metadata().level(), Level::DEBUG);
            let extensions = span.extensions();
            let fields = &extensions.get::<Fields>().unwrap().0;
            let closed = format!("{}{fields}", span.name());
            self.0.lock().unwrap().push(closed);
        }
    }
}

impl Spans {
    /// Records the spans of this thread.
    fn record() -> (Self, DefaultGuard, Dispatch) {
        let spans = Self::default();
        let subscriber = tracing_subscriber::registry().with(spans.clone());
        let recording = tracing::subscriber::set_default(subscriber);
        // With a single subscriber, `tracing` asks the subscriber of the thread that first meets a span, and disables
        // the span for all threads if that one has none.
        let second = Dispatch::new(tracing_subscriber::registry());
        (spans, recording, second)
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn loaded(round_trips: u32, outcome: &str, handle: Option<&str>) -> Vec<String> {
    let handle = handle.map(|handle| format!(" handle={handle}"));
    let handle = handle.unwrap_or_default();
    vec![format!(
        "session.load{handle} round_trips={round_trips} outcome={outcome}"
    )]
}

/// What the span of a load or a commit that has failed ends with.
fn failed(error: &str) -> String {
    format!(" error.type={error} otel.status_code=ERROR")
}

fn unreachable_store() -> RedisStore {
    RedisStore::lazy(RedisConfig::new("redis://127.0.0.1:1/")).unwrap()
}

fn exclusive(wait: Duration) -> Concurrency {
    Concurrency::Exclusive(Exclusive::new(wait))
}

/// The session's handle, from `/facts`.
async fn handle(app: &Router, browser: &Browser) -> String {
    let facts = browser.peek(app, "/facts").await.ok();
    let facts: serde_json::Value = serde_json::from_str(&facts).unwrap();
    facts["handle"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_load_has_a_span_with_its_outcome_and_the_handle_but_no_token() {
    let store = MemoryStore::new();
    let app = app(SessionLayer::new(store.clone()));
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    let retired = browser.clone();
    browser.get(&app, "/cycle").await.ok();
    let handle = handle(&app, &browser).await;
    let handle = Some(handle.as_str());
    let unknown = Browser {
        cookie: Some(format!("__Host-id={}", "A".repeat(43))),
    };
    let from = |address: u8| {
        let layer = SessionLayer::new(store.clone())
            .with_fingerprinting(Fingerprinting::Strict)
            .with_client_ip(move |_| Some([address, 0, 0, 1].into()));
        self::app(layer)
    };
    browser.get(&from(1), "/incr?k=n").await.ok();
    let away = |on_store_error| {
        self::app(SessionLayer::new(unreachable_store()).with_on_store_error(on_store_error))
    };

    let tokens = [&browser, &retired, &unknown].map(|browser| browser.token().to_owned());

    let (spans, _recording, _second) = Spans::record();
    for (app, browser, round_trips, outcome, handle) in [
        (&app, &Browser::default(), 0, "new", None),
        (&app, &unknown, 1, "new", None),
        (&app, &browser, 1, "loaded", handle),
        (&app, &retired, 1, "denied", handle),
        (&from(2), &browser, 1, "denied", handle),
        (&away(OnStoreError::Reject), &browser, 1, "failed", None),
        (&away(OnStoreError::Anonymous), &browser, 1, "failed", None),
    ] {
        browser.peek(app, "/read").await;
        let spans = spans.take();
        let mut expected = loaded(round_trips, outcome, handle);
        if outcome == "failed" {
            expected[0] += &failed("store_unavailable");
        }
        assert_eq!(spans, expected);
        for token in &tokens {
            // The first half of a token is the handle.
            assert!(!spans[0].contains(&token[23..]));
        }
    }
}

#[tokio::test]
async fn a_request_that_does_not_load_its_session_has_no_span() {
    let (spans, _recording, _second) = Spans::record();
    let app = app(SessionLayer::new(MemoryStore::new()).with_load(Load::OnExtract));
    Browser::default().peek(&app, "/plain").await.ok();
    assert_eq!(spans.take(), Vec::<String>::new());
    Browser::default().peek(&app, "/read").await.ok();
    assert_eq!(spans.take(), loaded(0, "new", None));
}

#[tokio::test(start_paused = true)]
async fn a_load_that_waits_too_long_for_the_lease_is_recorded_as_busy() {
    let concurrency = exclusive(Duration::from_millis(20));
    let app = app(SessionLayer::new(MemoryStore::new()).with_concurrency(concurrency));
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    let (spans, _recording, _second) = Spans::record();
    let (slow, late) = tokio::join!(
        browser.peek(&app, "/slow?ms=1000"),
        browser.peek(&app, "/read")
    );
    assert_eq!((slow.status.as_u16(), late.status.as_u16()), (200, 503));
    let spans = spans.take();
    let busy = loaded(1, "busy", None).remove(0) + &failed("busy");
    assert!(spans.contains(&busy), "{spans:?}");
    assert_eq!(spans.len(), 2);
}

#[tokio::test]
async fn a_load_that_nobody_waits_for_any_more_is_recorded_as_abandoned() {
    let late = Late::before(MemoryStore::new());
    let app = app(SessionLayer::new(late.clone()));
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    let (spans, _recording, _second) = Spans::record();
    late.freeze();
    let left = poll_at_most(1, browser.peek(&app, "/read")).await;
    assert!(left.is_none());
    assert_eq!(spans.take(), ["session.load outcome=abandoned"]);
}

/// The span excludes the renewal of the lease and of the session during the request.
#[tokio::test]
async fn the_span_of_a_load_has_ended_when_the_handler_begins() {
    let clock = ManualClock::new();
    let store = MemoryStore::new().with_clock(clock.clone());
    let layer = SessionLayer::new(store);
    let exclusive = layer
        .clone()
        .with_concurrency(exclusive(Duration::from_secs(1)));
    let mut browser = Browser::default();
    browser
        .get(&app(layer.clone()), "/set?k=name&v=mia")
        .await
        .ok();
    // Less than half of the idle timeout is left, so the load renews the session.
    clock.advance(Duration::from_secs(20 * 60));
    let (spans, _recording, _second) = Spans::record();
    for (layer, round_trips) in [(layer, 1), (exclusive, 2)] {
        let ended = spans.clone();
        let handler = move |session: Session| async move {
            let handle = session.handle().unwrap().to_string();
            assert_eq!(ended.take(), loaded(round_trips, "loaded", Some(&handle)));
        };
        let app = Router::new().route("/", get(handler)).layer(layer);
        browser.peek(&app, "/").await.ok();
    }
}

#[tokio::test]
async fn a_commit_has_a_span_with_its_outcome_and_cost_but_a_read_has_none() {
    let store = MemoryStore::new();
    // Each layer is a node of its own.
    let node = || app(SessionLayer::new(store.clone()));
    let mut browser = Browser::default();
    browser.get(&node(), "/set?k=name&v=mia").await.ok();
    let handle = handle(&node(), &browser).await;
    let token = browser.token().to_owned();
    let other = (node(), browser.clone());
    let overtaken_by = |path: &'static str| {
        let (other, browser) = other.clone();
        let handler = move |session: Session| async move {
            let _ = browser.peek(&other, path).await;
            session.increment("n", 1).map(|n| n.to_string())
        };
        Router::new()
            .route("/", get(handler))
            .layer(SessionLayer::new(store.clone()))
    };

    let (spans, _recording, _second) = Spans::record();
    for (app, path, expected) in [
        (node(), "/read", None),
        (
            node(),
            "/incr?k=n",
            Some(("attempts=1 round_trips=1", "committed")),
        ),
        (
            overtaken_by("/incr?k=n"),
            "/",
            Some(("attempts=2 round_trips=2", "committed")),
        ),
        (
            overtaken_by("/logout"),
            "/",
            Some(("attempts=1 round_trips=1", "gone")),
        ),
    ] {
        spans.take();
        browser.peek(&app, path).await;
        let mut commits = spans.take().into_iter();
        // That of the request which overtakes is over first.
        let commit = commits.rfind(|it| it.starts_with("session.commit"));
        let expected = expected.map(|(cost, outcome)| {
            format!("session.commit handle={handle} {cost} outcome={outcome}")
        });
        assert_eq!(commit, expected, "{path}");
        assert!(!commit.is_some_and(|it| it.contains(&token[23..])));
    }
}

#[tokio::test]
async fn a_logout_has_a_span_with_the_handle_of_the_session_that_it_ends() {
    let app = app(SessionLayer::new(MemoryStore::new()));
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    let handle = handle(&app, &browser).await;
    let (spans, _recording, _second) = Spans::record();
    browser.get(&app, "/logout").await.ok();
    let expected =
        format!("session.commit handle={handle} attempts=0 round_trips=1 outcome=destroyed");
    assert_eq!(spans.take().last(), Some(&expected));
}

#[tokio::test]
async fn the_span_of_a_commit_closes_although_its_deletion_is_retried_in_the_background() {
    let app = app(SessionLayer::new(unreachable_store()));
    let browser = Browser {
        cookie: Some(format!("__Host-id={}", "A".repeat(43))),
    };
    let (spans, _recording, _second) = Spans::record();
    let response = browser.peek(&app, "/sign-out").await;
    assert_eq!(response.status.as_u16(), 503);
    let spans = spans.take();
    let end = format!("outcome=store_failed{}", failed("store_unavailable"));
    let ended = |it: &String| it.starts_with("session.commit") && it.ends_with(&end);
    assert!(spans.iter().any(ended), "{spans:?}");
}

#[tokio::test(start_paused = true)]
async fn the_commit_that_resolves_an_earlier_one_has_a_span_of_its_own() {
    let late = Late::before(MemoryStore::new());
    let layer = SessionLayer::new(late.clone());
    let mut browser = Browser::default();
    browser.get(&app(layer.clone()), "/incr?k=n").await.ok();
    let handle = handle(&app(layer.clone()), &browser).await;
    let saves = async |session: Session| {
        session.increment("n", 1).unwrap();
        let saved = session.save().await;
        assert!(matches!(saved, Err(SessionError::OutcomeUnknown)));
    };
    let app = Router::new().route("/", get(saves)).layer(layer);
    late.plan(&[Post::Lose, Post::Lose, Post::Lose]);
    let (spans, _recording, _second) = Spans::record();
    browser.peek(&app, "/").await.ok();
    let commits = spans.take().into_iter();
    let commits: Vec<_> = commits
        .filter(|it| it.starts_with("session.commit"))
        .collect();
    let unknown = format!(
        "attempts=1 round_trips=3 outcome=unknown{}",
        failed("outcome_unknown")
    );
    let expected = [&*unknown, "attempts=0 round_trips=1 outcome=committed"];
    let expected = expected.map(|it| format!("session.commit handle={handle} {it}"));
    assert_eq!(commits, expected);
}

#[tokio::test(start_paused = true)]
async fn each_request_of_a_batch_has_a_span_with_the_cost_of_the_batch() {
    let late = Late::before(MemoryStore::new());
    let app = app(SessionLayer::new(late.clone()));
    let mut browser = Browser::default();
    browser.get(&app, "/incr?k=n").await.ok();
    // The first has the turn, so that the others wait and travel together.
    late.plan(&[Post::Slow(Duration::from_millis(100))]);
    let (spans, _recording, _second) = Spans::record();
    let counts = || browser.peek(&app, "/incr?k=n");
    let (one, two, three) = tokio::join!(counts(), counts(), counts());
    for response in [one, two, three] {
        assert_eq!(response.status.as_u16(), 200);
    }
    let commits = spans.take().into_iter();
    let commits: Vec<_> = commits
        .filter(|it| it.starts_with("session.commit"))
        .collect();
    let cost = |it: &String| it.ends_with("attempts=1 round_trips=1 outcome=committed");
    assert!(
        commits.len() == 3 && commits.iter().all(cost),
        "{commits:?}"
    );
}

/// What OpenTelemetry gets of an application's requests, one line for each span.
struct Exported(InMemorySpanExporter, SdkTracerProvider);

impl Exported {
    fn record() -> (Self, DefaultGuard, Dispatch) {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(layer);
        let recording = tracing::subscriber::set_default(subscriber);
        let second = Dispatch::new(tracing_subscriber::registry());
        (Self(exporter, provider), recording, second)
    }

    fn take(&self) -> Vec<SpanData> {
        self.1.force_flush().unwrap();
        let spans = self.0.get_finished_spans().unwrap();
        self.0.reset();
        spans
    }
}

fn attribute(span: &SpanData, name: &str) -> Option<String> {
    let mut attributes = span.attributes.iter();
    let found = attributes.find(|it| it.key.as_str() == name)?;
    Some(found.value.as_str().into_owned())
}

/// The operation of each request to Redis, the span around it, and its error.
fn to_redis(spans: &[SpanData]) -> Vec<(String, String, Option<String>)> {
    let requests = spans.iter().filter(|it| it.span_kind == SpanKind::Client);
    requests
        .map(|request| {
            let mut around = spans.iter();
            let around = around.find(|it| it.span_context.span_id() == request.parent_span_id);
            let around = around.map_or_else(String::new, |it| it.name.to_string());
            let error = attribute(request, "error.type");
            assert_eq!(
                error.is_some(),
                matches!(request.status, Status::Error { .. })
            );
            (request.name.to_string(), around, error)
        })
        .collect()
}

#[tokio::test]
async fn opentelemetry_gets_a_client_span_of_each_round_trip_to_redis() {
    let server = Server::start();
    let store = store_with(&server.url(), |config| {
        config.compare_and_set = CompareAndSet::Script;
    })
    .await;
    let app = app(SessionLayer::new(store));
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    let handle = handle(&app, &browser).await;
    let (exported, _recording, _second) = Exported::record();
    browser.get(&app, "/incr?k=n").await.ok();
    let spans = exported.take();
    let owned = |name: &str, around: &str, error: Option<&str>| {
        (name.to_owned(), around.to_owned(), error.map(str::to_owned))
    };
    let expected = [
        owned("GET", "session.load", None),
        owned("EVALSHA", "session.commit", None),
    ];
    assert_eq!(to_redis(&spans), expected);
    let get = spans.iter().find(|it| it.name == "GET").unwrap();
    for (name, value) in [
        ("db.system.name", "redis".to_owned()),
        ("db.operation.name", "GET".to_owned()),
        ("db.namespace", "0".to_owned()),
        ("server.address", "127.0.0.1".to_owned()),
        ("server.port", server.port().to_string()),
    ] {
        assert_eq!(attribute(get, name), Some(value), "{name}");
    }
    assert_eq!(attribute(get, "db.operation.batch.size"), None);
    let commit = spans.iter().find(|it| it.name == "session.commit").unwrap();
    assert_eq!(commit.status, Status::Unset);

    // Neither a key nor a value is in them.
    for request in spans.iter().filter(|it| it.span_kind == SpanKind::Client) {
        let text = format!("{request:?}");
        for secret in [&*handle, &browser.token()[23..], "mia"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }

    let config = |key: &str, value: &str| {
        let mut set = redis::cmd("CONFIG");
        set.arg(&["SET", key, value]);
        set.exec(&mut server.connection()).unwrap();
    };
    config("maxmemory-policy", "noeviction");
    config("maxmemory", "1");
    assert_eq!(browser.peek(&app, "/incr?k=n").await.status, 503);
    let spans = exported.take();
    let refused = to_redis(&spans).pop();
    assert_eq!(
        refused,
        Some(owned("EVALSHA", "session.commit", Some("OOM")))
    );
    let commit = spans.iter().find(|it| it.name == "session.commit").unwrap();
    assert!(matches!(commit.status, Status::Error { .. }), "{commit:?}");
    let error = attribute(commit, "error.type");
    assert_eq!(error.as_deref(), Some("store_refused"));
}
