//! How much memory the layer takes: allocations per request, and bytes that it keeps.
//!
//! Each count is of one thread, on which the test runs its requests one after the other. So it is exact, and it does not depend on
//! other tests.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use allocation_counter::measure;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{HeaderValue, Request, Response, StatusCode};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sessile::store::{
    Capabilities, Created, Deleted, Durability, Freshness, Loaded, ManualClock, Renewal, Replaced,
    Stored, Touched, Write,
};
use sessile::{
    Event, Handle, Load, MemoryStore, Session, SessionError, SessionLayer, SessionStore, StoreError,
};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn request(path: &str, cookie: Option<&HeaderValue>) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = path.parse().unwrap();
    if let Some(cookie) = cookie {
        request.headers_mut().insert(COOKIE, cookie.clone());
    }
    request
}

/// Sends a request, and lets the background work that it has started run, too.
async fn send(app: &Router, request: Request<Body>) -> Response<Body> {
    let response = app.clone().oneshot(request).await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(response.status(), StatusCode::OK);
    response
}

/// The cookie of a response, as the browser sends it back.
fn cookie(response: &Response<Body>) -> HeaderValue {
    let cookie = response.headers()[SET_COOKIE].to_str().unwrap();
    cookie.split(';').next().unwrap().parse().unwrap()
}

async fn untouched() -> &'static str {
    "hello"
}

async fn read(session: Session) -> Result<&'static str, SessionError> {
    let visits = session.get::<i64>("visits")?;
    assert!(visits.is_some());
    Ok("hello")
}

async fn change(session: Session) -> Result<&'static str, SessionError> {
    session.increment("visits", 1)?;
    Ok("hello")
}

/// How many allocations the layer may add to a request: to that of a visitor who has a session, or has none yet. These numbers
/// only fall: lower one when you save an allocation.
const MAXIMA: [(&str, Load, &str, bool, u64); 5] = [
    ("not loaded", Load::OnExtract, "/untouched", true, 9),
    ("loaded", Load::Inbound, "/untouched", true, 12),
    ("read", Load::Inbound, "/read", true, 12),
    ("changed", Load::Inbound, "/change", true, 40),
    ("created", Load::Inbound, "/change", false, 41),
];

/// How many allocations a request takes, once a few others have filled what is allocated once.
fn allocations(app: &Router, path: &str, cookie: Option<&HeaderValue>) -> u64 {
    let runtime = runtime();
    let one = || {
        let request = request(path, cookie);
        measure(|| drop(runtime.block_on(send(app, request)))).count_total
    };
    // After eight more sessions, the maps of the store have room for another one.
    for _ in 0..8 {
        one();
    }
    one()
}

#[test]
fn the_layer_adds_few_allocations_to_a_request() {
    let router = |load| {
        let store = MemoryStore::new().with_clock(ManualClock::new());
        let app = Router::new()
            .route("/untouched", get(untouched))
            .route("/read", get(read))
            .route("/change", get(change));
        app.layer(SessionLayer::new(store).with_load(load))
    };
    let without_layer = Router::new().route("/untouched", get(untouched));
    let mut table = String::new();
    let mut fits = true;
    for (name, load, path, has_session, most) in MAXIMA {
        let app = router(load);
        let created = runtime().block_on(send(&app, request("/change", None)));
        let cookie = has_session.then(|| cookie(&created));
        let bare = allocations(&without_layer, "/untouched", cookie.as_ref());
        let added = allocations(&app, path, cookie.as_ref()) - bare;
        table += &format!("\n{name}: {added} more than {bare}, at most {most}");
        fits &= added <= most;
    }
    println!("allocations:{table}");
    assert!(fits, "{table}");
}

/// As many visitors as sessile remembers of any kind (`MAX_REMEMBERED` in `commit/backend.rs`, `RECORDS` in `record/cache.rs`), so
/// that all of its caches are full; and how many come then. Where a cache is cleared when it is full, it is full again at the end.
const FIRST: u32 = 4096;
const THEN: u32 = 4096;
/// How many requests each visitor sends: records are kept once their session comes back.
const REQUESTS: u32 = 2;

/// Less than the smallest thing that could be kept of each visitor: a pointer.
const BYTES_PER_VISITOR: i64 = 4;

/// Holds the session of every visitor, but keeps none: it computes each record from the handle. The session of the first visitor
/// is the pattern, and all have the same secret.
#[derive(Clone, Default)]
struct Everyone {
    pattern: Arc<OnceLock<Bytes>>,
    written: Arc<AtomicU32>,
    renewed: Arc<AtomicU32>,
}

/// Stands for the handle in the pattern.
const ANYONE: &str = "the handle's 22 letters";

impl Everyone {
    fn record(&self, handle: &Handle) -> Option<Stored> {
        let pattern = std::str::from_utf8(self.pattern.get()?).unwrap();
        let record = pattern.replace(ANYONE, &handle.to_string());
        // So little time that the request renews the session.
        Some(Stored::new(record, Some(Duration::from_secs(60))))
    }
}

impl SessionStore for Everyone {
    fn namespace(&self) -> &str {
        "everyone:"
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn capabilities(&self) -> Capabilities {
        // Nobody waits for this store.
        Capabilities::new().with_request_budget(Duration::from_secs(600))
    }

    async fn load(&self, key: &Handle, _: Freshness) -> Result<Loaded, StoreError> {
        Ok(self.record(key).map_or(Loaded::Missing, Loaded::Found))
    }

    async fn create(&self, _: &Handle, write: Write<'_>) -> Result<Created, StoreError> {
        self.pattern.set(write.value.clone()).unwrap();
        Ok(Created::Done)
    }

    async fn replace(&self, _: &Handle, _: &Stored, _: Write<'_>) -> Result<Replaced, StoreError> {
        self.written.fetch_add(1, Ordering::Relaxed);
        Ok(Replaced::Done)
    }

    async fn touch(&self, _: &Handle, _: Renewal) -> Result<Touched, StoreError> {
        self.renewed.fetch_add(1, Ordering::Relaxed);
        Ok(Touched::Done)
    }

    async fn delete(&self, _: &Handle, _: Durability) -> Result<Deleted, StoreError> {
        Ok(Deleted::Missing)
    }
}

async fn introduce(session: Session) -> Result<&'static str, SessionError> {
    session.insert("visitor", ANYONE)?;
    Ok("hello")
}

async fn who(session: Session) -> Result<String, SessionError> {
    Ok(session.get::<String>("visitor")?.unwrap_or_default())
}

async fn who_and_change(session: Session) -> Result<String, SessionError> {
    session.increment("visits", 1)?;
    who(session).await
}

fn from_network(mut request: Request<Body>, address: &str) -> Request<Body> {
    let peer: SocketAddr = address.parse().unwrap();
    request.extensions_mut().insert(ConnectInfo(peer));
    request
}

/// The cookie of a visitor, and the handle in it. The token is a handle of 16 bytes, then a secret of 16 bytes.
fn visitor(number: u32, first: &HeaderValue) -> (HeaderValue, String) {
    let (name, token) = first.to_str().unwrap().split_once('=').unwrap();
    let mut token = URL_SAFE_NO_PAD.decode(token).unwrap();
    // The cache of records chooses a place by the first bytes: with a number that counts there, visitors fill all places.
    token[..4].copy_from_slice(&(number << 16).to_be_bytes());
    token[4..16].fill(0);
    let handle = URL_SAFE_NO_PAD.encode(&token[..16]);
    let cookie = format!("{name}={}", URL_SAFE_NO_PAD.encode(&token));
    (cookie.parse().unwrap(), handle)
}

#[test]
fn the_memory_of_the_layer_does_not_grow_with_the_number_of_visitors_who_read() {
    let store = visits("/read");
    assert_eq!(store.written.load(Ordering::Relaxed), 0);
}

#[test]
fn the_memory_of_the_layer_does_not_grow_with_the_number_of_visitors_who_change_something() {
    let store = visits("/change");
    let changes = (FIRST + THEN) * REQUESTS;
    assert_eq!(store.written.load(Ordering::Relaxed), changes);
}

/// The requests of each visitor for this path.
fn visits(path: &str) -> Everyone {
    let store = Everyone::default();
    let mismatches = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&mismatches);
    let layer = SessionLayer::new(store.clone()).with_observer(move |event: &Event| {
        if matches!(event, Event::FingerprintMismatch { .. }) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let app = Router::new()
        .route("/introduce", get(introduce))
        .route("/read", get(who))
        .route("/change", get(who_and_change))
        .layer(layer);
    let runtime = runtime();
    let introduction = from_network(request("/introduce", None), "192.0.2.1:4000");
    let first = cookie(&runtime.block_on(send(&app, introduction)));
    let visit = async |numbers: Range<u32>| {
        for number in numbers {
            let (cookie, handle) = visitor(number, &first);
            for _ in 0..REQUESTS {
                // From another network, which sessile reports once for each session.
                let request = from_network(request(path, Some(&cookie)), "198.51.100.1:4000");
                let body = send(&app, request).await.into_body();
                assert_eq!(to_bytes(body, 64).await.unwrap(), handle);
            }
        }
    };
    let kept = measure(|| runtime.block_on(visit(0..FIRST))).bytes_current;
    let more = measure(|| runtime.block_on(visit(FIRST..FIRST + THEN))).bytes_current;
    println!("{path}: {kept} bytes after {FIRST} visitors, {more} more after {THEN} others");
    assert!(
        more < i64::from(THEN) * BYTES_PER_VISITOR,
        "{path}: {more} bytes more after {THEN} other visitors"
    );
    // There was something to remember of each visitor; where a cache was cleared between two of its requests, once more.
    assert!(mismatches.load(Ordering::Relaxed) >= FIRST + THEN);
    assert!(store.renewed.load(Ordering::Relaxed) >= FIRST + THEN);
    store
}
