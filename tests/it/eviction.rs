//! Evictions: who stays signed in while visitors without cookies fill a memory store.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use sessile::store::{Durability, ManualClock};
use sessile::{DurabilityConfig, Event, MemoryStore, SessionConfig, SessionLayer};

use crate::support::Browser;
use crate::support::app::app;
use crate::support::late::{Late, Post};

/// More sessions than any store of these tests has room for.
const BOTS: usize = 100;

/// Sends requests of visitors without cookies. Each creates a session.
async fn flood(app: &Router) {
    for _ in 0..BOTS {
        let mut bot = Browser::default();
        bot.get(app, "/set?k=page&v=1").await.ok();
        assert!(bot.cookie.is_some());
    }
}

async fn visitor(app: &Router, paths: &[&str]) -> Browser {
    let mut browser = Browser::default();
    for path in paths {
        browser.get(app, path).await.ok();
    }
    browser
}

#[tokio::test]
async fn a_flood_of_bots_signs_nobody_out() {
    for (store, sessions, memory) in [
        (MemoryStore::with_capacity(10), 10, u64::MAX),
        (MemoryStore::new().with_max_bytes(10_000), u64::MAX, 10_000),
    ] {
        let clock = ManualClock::new();
        let store = store.with_clock(clock.clone());
        let app = app(SessionLayer::new(store.clone()));
        let mut users = [
            visitor(&app, &["/login?u=mia"]).await,
            visitor(&app, &["/set?k=page&v=1", "/login?u=mia"]).await,
            visitor(&app, &["/login?u=mia", "/set?k=page&v=1"]).await,
        ];
        let mut left = visitor(&app, &["/login?u=mia", "/set?k=page&v=1", "/step-down"]).await;
        assert_eq!(left.get(&app, "/read").await.ok(), "page");
        // So late that the users' requests renew their sessions. A renewal must not make them anonymous.
        clock.advance(Duration::from_secs(20 * 60));
        for user in &mut users {
            assert_eq!(user.get(&app, "/whoami").await.ok(), "mia");
        }
        flood(&app).await;
        for user in &mut users {
            assert_eq!(user.get(&app, "/whoami").await.ok(), "mia");
        }
        assert_eq!(left.get(&app, "/read").await.ok(), "");
        let stats = store.stats();
        assert_eq!(stats.evicted.signed_in, 0);
        assert_eq!(stats.evicted.anonymous + stats.sessions, BOTS as u64 + 4);
        assert!(
            stats.sessions <= sessions && stats.memory <= memory,
            "{stats:?}"
        );
    }
}

#[tokio::test]
async fn a_flood_takes_the_room_of_one_session_from_users_who_fill_the_store() {
    let store = MemoryStore::with_capacity(10);
    let app = app(SessionLayer::new(store.clone()));
    let mut users = Vec::new();
    for _ in 0..10 {
        users.push(visitor(&app, &["/login?u=mia"]).await);
    }
    flood(&app).await;
    let mut signed_in = 0;
    for user in &mut users {
        signed_in += usize::from(user.get(&app, "/whoami").await.ok() == "mia");
    }
    assert_eq!((signed_in, store.stats().evicted.signed_in), (9, 1));
}

/// sessile finds a commit whose answer was lost in the store, and writes it once more.
#[tokio::test(start_paused = true)]
async fn a_login_that_is_written_twice_is_not_evicted_as_anonymous() {
    let store = MemoryStore::with_capacity(10);
    let late = Late::before(store.clone()).with_replicas();
    let one_replica = Durability::Replicas {
        n: 1,
        timeout: Duration::from_millis(100),
    };
    let durability = DurabilityConfig::default().with_commits(one_replica);
    let config = SessionConfig::default().with_durability(durability);
    let app = app(SessionLayer::try_new(late.clone(), config).unwrap());
    let mut user = visitor(&app, &["/set?k=page&v=1"]).await;
    // The late delivery does not mark the session as signed in, so the second write has to.
    late.plan(&[Post::Hold, Post::DeliverAfterHeld]);
    user.get(&app, "/login?u=mia").await.ok();
    assert!(late.is_done());
    flood(&app).await;
    assert_eq!(user.get(&app, "/whoami").await.ok(), "mia");
    assert_eq!(store.stats().evicted.signed_in, 0);
}

#[tokio::test]
async fn a_session_larger_than_the_store_gets_503_and_the_error_names_the_limit() {
    let (send, receive) = std::sync::mpsc::channel();
    let store = MemoryStore::new().with_max_bytes(5_000);
    let layer = SessionLayer::new(store.clone()).with_observer(move |event: &Event| {
        if let Event::StoreFailed { error, .. } = event {
            send.send(error.to_string()).unwrap();
        }
    });
    let app = app(layer);
    let mut user = visitor(&app, &["/login?u=mia"]).await;
    let large = format!("/set?k=page&v={}", "x".repeat(5_000));
    for page in [
        user.get(&app, &large).await,
        Browser::default().get(&app, &large).await,
    ] {
        assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(page.set_cookies().is_empty());
        let error = receive.try_recv().expect("an event");
        assert!(error.contains("`MemoryStore::with_max_bytes`"), "{error}");
    }
    assert_eq!(user.get(&app, "/whoami").await.ok(), "mia");
    assert_eq!(store.stats().evicted.signed_in, 0);
}

/// A log writer that also queries the store.
struct Reader {
    store: MemoryStore,
    lines: Arc<Mutex<Vec<String>>>,
}

impl io::Write for Reader {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(self.store.stats().evicted.anonymous > 0);
        let line = String::from_utf8_lossy(bytes).into_owned();
        self.lines.lock().unwrap().push(line);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn evictions_are_logged_once_a_second_and_a_subscriber_may_use_the_store() {
    let clock = ManualClock::new();
    let store = MemoryStore::with_capacity(10).with_clock(clock.clone());
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let (reads, seen) = (store.clone(), Arc::clone(&lines));
    let reader = move || Reader {
        store: reads.clone(),
        lines: Arc::clone(&seen),
    };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_ansi(false)
        .with_writer(reader)
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    // See `secrets`: a single subscriber could disable the events for all threads.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let app = app(SessionLayer::new(store.clone()));
    // The 11th session is the first that needs an eviction.
    flood(&app).await;
    clock.advance(Duration::from_secs(1));
    flood(&app).await;
    let lines = std::mem::take(&mut *lines.lock().unwrap());
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (line, evicted) in lines.iter().zip(["anonymous=1 ", "anonymous=90 "]) {
        assert!(line.contains(evicted), "{line}");
        assert!(line.contains("signed_in=0 sessions=10 bytes="), "{line}");
        assert!(line.contains("`MemoryStore::with_max_bytes`"), "{line}");
    }
    assert_eq!(store.stats().evicted.anonymous, 190);
}
