//! Code of the application that sessile runs or drops, and that uses the session meanwhile: closures and their
//! captures, observers, hooks, and the `Deserialize` implementation of a value. It must not deadlock, and sessile must
//! drop it.

use std::cell::RefCell;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use axum::Router;
use axum::http::{Response, StatusCode};
use axum::routing::get;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use sessile::{Event, Level, MemoryStore, Session, SessionError, SessionLayer};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

use crate::support::late::{Late, Post};
use crate::support::patience::poll_at_most;
use crate::support::{Visit, until};

/// A capture of a closure, which uses the session of the closure when it is dropped.
struct Captured {
    session: Session,
    alive: Arc<()>,
}

impl Drop for Captured {
    fn drop(&mut self) {
        assert!(Arc::strong_count(&self.alive) > 0);
        use_session(&self.session);
    }
}

fn use_session(session: &Session) {
    let _ = session.get::<u32>("n");
    let _ = (session.keys(), session.is_modified(), session.principal());
}

/// Increments a counter by a closure that captures its own session.
fn count(session: &Session, alive: &Arc<()>) {
    let captured = Captured {
        session: session.clone(),
        alive: Arc::clone(alive),
    };
    let counted = session.update("n", move |n: &mut u32| {
        use_session(&captured.session);
        *n += 1;
    });
    counted.unwrap();
}

/// A visitor, and a store that loses or delays compare-and-sets as planned.
async fn scene() -> (Late, Visit) {
    let late = Late::before(MemoryStore::new());
    let mut visit = Visit::with(SessionLayer::new(late.clone()));
    visit
        .request(|session| async move { session.insert("name", "mia").unwrap() })
        .await;
    (late, visit)
}

/// Runs a handler, which may be dropped before its end, and asserts that its closures are dropped. Returns `None` if
/// the handler was dropped.
async fn assert_closures_are_dropped<F, Fut>(visit: &mut Visit, handler: F) -> Option<u16>
where
    F: FnOnce(Session, Arc<()>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = StatusCode> + Send + 'static,
{
    let alive = Arc::new(());
    let left = Arc::downgrade(&alive);
    let handler = |session: Session| async move { handler(session, alive).await };
    let layers = ServiceBuilder::new()
        .layer(CatchPanicLayer::new())
        .layer(visit.layer.clone());
    let app = Router::new().route("/", get(handler)).layer(layers);
    let page = tokio::time::timeout(Duration::from_millis(50), visit.browser.get(&app, "/")).await;
    drop(app);
    visit.layer.drained().await;
    is_dropped(&left).await;
    page.ok().map(|page| page.status.as_u16())
}

async fn is_dropped(left: &Weak<()>) {
    until("the captures of closures are dropped", async || {
        left.strong_count() == 0
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_commit_drops_its_closures() {
    let (_, mut visit) = scene().await;
    let status = assert_closures_are_dropped(&mut visit, |session, alive| async move {
        count(&session, &alive);
        session.save().await.unwrap();
        count(&session, &alive);
        StatusCode::OK
    })
    .await;
    assert_eq!(status, Some(200));
    visit
        .request(|session| async move { assert_eq!(session.get("n").unwrap(), Some(2)) })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_replay_after_a_conflict_drops_its_closures() {
    let (_, mut visit) = scene().await;
    let mut tab = visit.clone();
    let status = assert_closures_are_dropped(&mut visit, |session, alive| async move {
        count(&session, &alive);
        tab.request(|session| async move { session.insert("n", 10).unwrap() })
            .await;
        StatusCode::OK
    });
    assert_eq!(status.await, Some(200));
    visit
        .request(|session| async move { assert_eq!(session.get("n").unwrap(), Some(11)) })
        .await;
}

#[tokio::test(start_paused = true)]
async fn destroy_and_discard_drop_closures() {
    let (_, mut visit) = scene().await;
    let discarded = assert_closures_are_dropped(&mut visit, |session, alive| async move {
        count(&session, &alive);
        session.discard_changes();
        StatusCode::OK
    });
    assert_eq!(discarded.await, Some(200));
    // While its commit is in flight.
    let (late, _) = scene().await;
    let mut slow = Visit::with(SessionLayer::new(late.clone()));
    slow.request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    for destroys in [false, true] {
        late.plan(&[Post::LoseSlowly(Duration::from_millis(10))]);
        let status = assert_closures_are_dropped(&mut slow, move |session, alive| async move {
            count(&session, &alive);
            assert!(poll_at_most(1, session.save()).await.is_none());
            tokio::task::yield_now().await;
            count(&session, &alive);
            match destroys {
                true => session.destroy(),
                false => session.discard_changes(),
            }
            StatusCode::OK
        });
        assert_eq!(status.await, Some(200), "{destroys}");
    }
    let destroyed = assert_closures_are_dropped(&mut visit, |session, alive| async move {
        count(&session, &alive);
        session.destroy();
        StatusCode::OK
    });
    assert_eq!(destroyed.await, Some(200));
}

#[tokio::test(start_paused = true)]
async fn a_failed_call_drops_its_closures() {
    let (late, mut visit) = scene().await;
    late.plan(&[Post::Lose; 3]);
    let status = assert_closures_are_dropped(&mut visit, |session, alive| async move {
        count(&session, &alive);
        let counted = session.increment_now("tickets", 1).await;
        assert!(matches!(counted, Err(SessionError::OutcomeUnknown)));
        StatusCode::OK
    });
    assert_eq!(status.await, Some(200));
    // Discarded before the outcome is known.
    late.plan(&[Post::Lose; 3]);
    let status = assert_closures_are_dropped(&mut visit, |session, alive| async move {
        count(&session, &alive);
        assert!(session.save().await.is_err());
        session.discard_changes();
        StatusCode::OK
    });
    assert_eq!(status.await, Some(200));
}

#[tokio::test(start_paused = true)]
async fn a_failed_response_drops_its_closures() {
    let (late, mut visit) = scene().await;
    let failed = assert_closures_are_dropped(&mut visit, |session, alive| async move {
        count(&session, &alive);
        StatusCode::INTERNAL_SERVER_ERROR
    });
    assert_eq!(failed.await, Some(500));
    let panicked = assert_closures_are_dropped(&mut visit, |session, alive| async move {
        count(&session, &alive);
        panic!("in the handler");
    });
    assert_eq!(panicked.await, Some(500));
    late.plan(&[Post::Lose; 3]);
    let unanswered = assert_closures_are_dropped(&mut visit, |session, alive| async move {
        count(&session, &alive);
        StatusCode::OK
    });
    assert_eq!(unanswered.await, Some(503));
}

#[tokio::test(start_paused = true)]
async fn a_closure_that_panics_during_replay_is_dropped() {
    let (_, mut visit) = scene().await;
    let mut tab = visit.clone();
    let status = assert_closures_are_dropped(&mut visit, |session, alive| async move {
        count(&session, &alive);
        let runs = AtomicU32::new(0);
        let captured = Captured {
            session: session.clone(),
            alive,
        };
        let changed = session.update("again", move |value: &mut u32| {
            assert_eq!(runs.fetch_add(1, Ordering::SeqCst), 0, "run again");
            use_session(&captured.session);
            *value += 1;
        });
        changed.unwrap();
        tab.request(|session| async move { session.insert("other", 1).unwrap() })
            .await;
        StatusCode::OK
    });
    assert_eq!(status.await, Some(500));
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_request_drops_its_closures() {
    const SLOW: Duration = Duration::from_millis(200);
    let (late, mut visit) = scene().await;
    let left = assert_closures_are_dropped(&mut visit, |session, alive| async move {
        count(&session, &alive);
        std::future::pending().await
    });
    assert_eq!(left.await, None);
    // While its commit is in flight, which succeeds or fails.
    let plans: [&[Post]; 3] = [&[Post::Slow(SLOW)], &[Post::LoseSlowly(SLOW); 3], &[]];
    for plan in plans {
        late.plan(plan);
        let left = assert_closures_are_dropped(&mut visit, |session, alive| async move {
            count(&session, &alive);
            assert!(poll_at_most(1, session.save()).await.is_none());
            tokio::task::yield_now().await;
            count(&session, &alive);
            std::future::pending().await
        });
        assert_eq!(left.await, None);
    }
    assert!(late.is_done());
}

/// sessile completes a save that began before the request was abandoned, and then the logout.
#[tokio::test(start_paused = true)]
async fn a_request_abandoned_during_a_save_still_ends_its_session() {
    let (late, mut visit) = scene().await;
    late.plan(&[Post::Slow(Duration::from_millis(200))]);
    let left = assert_closures_are_dropped(&mut visit, |session, alive| async move {
        count(&session, &alive);
        assert!(poll_at_most(1, session.save()).await.is_none());
        tokio::task::yield_now().await;
        session.destroy();
        count(&session, &alive);
        std::future::pending().await
    });
    assert_eq!(left.await, None);
    visit
        .request(|session| async move { assert!(session.is_new()) })
        .await;
}

#[tokio::test(start_paused = true)]
async fn after_the_response_a_closure_is_kept_until_it_is_saved_or_discarded() {
    type End = fn(&Session);
    let ends: [(&[Post], End); 3] = [
        (&[], |_| ()),
        (&[Post::Lose; 3], Session::discard_changes),
        (&[Post::Lose; 3], Session::destroy),
    ];
    for (plan, end) in ends {
        let (late, mut visit) = scene().await;
        let (alive, session) = (Arc::new(()), visit.keep().await);
        let left = Arc::downgrade(&alive);
        count(&session, &alive);
        drop(alive);
        assert!(left.upgrade().is_some());
        late.plan(plan);
        assert_eq!(session.save().await.is_ok(), plan.is_empty());
        end(&session);
        drop(session);
        visit.layer.drained().await;
        is_dropped(&left).await;
    }
}

thread_local! {
    /// The session for application code that gets none as an argument.
    static CURRENT: RefCell<Option<Session>> = const { RefCell::new(None) };
}

fn use_current() {
    let current = CURRENT.with_borrow(Clone::clone);
    if let Some(session) = current {
        use_session(&session);
    }
}

/// A value whose serde, `From` and `Drop` implementations use the session.
#[derive(Debug, PartialEq, Default)]
struct Nosy(u32);

impl Drop for Nosy {
    fn drop(&mut self) {
        use_current();
    }
}

impl Serialize for Nosy {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use_current();
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Nosy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use_current();
        u32::deserialize(deserializer).map(Self)
    }
}

impl From<Nosy> for String {
    fn from(nosy: Nosy) -> Self {
        use_current();
        nosy.0.to_string()
    }
}

#[tokio::test]
async fn values_that_use_the_session_do_not_deadlock() {
    let (_, mut visit) = scene().await;
    visit
        .request(|session| async move {
            CURRENT.set(Some(session.clone()));
            session.insert("nosy", Nosy(1)).unwrap();
            assert_eq!(session.get("nosy").unwrap(), Some(Nosy(1)));
            session
                .update("nosy", |nosy: &mut Nosy| nosy.0 += 1)
                .unwrap();
            session.push("list", Nosy(3)).unwrap();
            session.flash_info(Nosy(4)).unwrap();
            session.flash_now(Level::Info, Nosy(5));
            session.save().await.unwrap();
            assert_eq!(session.take("nosy").await.unwrap(), Some(Nosy(2)));
            assert_eq!(session.take::<Nosy>("nosy").await.unwrap(), None);
            assert_eq!(session.take_flashes().await.unwrap().len(), 2);
            session.insert("name", "no number").unwrap();
            assert!(session.take::<Nosy>("name").await.is_err());
            session.set_principal(Nosy(6)).await.unwrap();
            session.insert("nosy", Nosy(7)).unwrap();
            assert_eq!(session.remove("nosy").unwrap(), Some(Nosy(7)));
            CURRENT.set(None);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn observers_and_hooks_may_use_the_session() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let observed = Arc::clone(&seen);
    let late = Late::before(MemoryStore::new());
    let layer = SessionLayer::new(late.clone())
        .with_observer(move |event: &Event| {
            use_current();
            if let Some(session) = CURRENT.with_borrow(Clone::clone) {
                session.insert("seen", true).unwrap();
            }
            observed.lock().unwrap().push(event.name());
        })
        .with_client_ip(|_| {
            use_current();
            None
        })
        .with_on_error(|_, _| {
            use_current();
            Response::new(Bytes::new())
        });
    let mut visit = Visit::with(layer);
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    visit
        .request(|session| async move {
            CURRENT.set(Some(session.clone()));
            session.increment("n", 1).unwrap();
            session.save().await.unwrap();
            session.cycle_id().unwrap();
            session.save().await.unwrap();
            assert!(session.insert("k", "x".repeat(1 << 20)).is_err());
            late.plan(&[Post::Lose; 3]);
            session.increment("n", 1).unwrap();
            assert!(session.save().await.is_err());
            session.reload().await.unwrap();
            session.destroy();
        })
        .await;
    visit
        .page(|session| async move { session.increment("n", 1).map(drop).unwrap() })
        .await;
    CURRENT.set(None);
    let seen = seen.lock().unwrap();
    for event in [
        "created",
        "committed",
        "rotated",
        "too_large",
        "outcome_unknown",
        "destroyed",
    ] {
        assert!(seen.contains(&event), "{event}: {seen:?}");
    }
}

/// A capture whose `Drop` panics, unless the thread is panicking already.
struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a capture panics when it is dropped");
        }
    }
}

/// Two requests travel in one batch, which has the last copy of the closure: its request has destroyed the session meanwhile.
#[tokio::test(start_paused = true)]
async fn a_request_learns_its_outcome_although_its_closure_panics_when_it_is_dropped() {
    const SLOW: Duration = Duration::from_millis(100);
    let late = Late::before(MemoryStore::new());
    let mut visit = Visit::with(SessionLayer::new(late.clone()));
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    late.plan(&[Post::Slow(SLOW), Post::Slow(SLOW)]);
    let counts = |mut visit: Visit, key: &'static str, after: u64| async move {
        tokio::time::sleep(Duration::from_millis(after)).await;
        let count = visit.page(move |session| async move {
            session.increment(key, 1).unwrap();
            StatusCode::OK
        });
        count.await.status.as_u16()
    };
    let (saved, mut outcome) = tokio::sync::mpsc::unbounded_channel();
    let dropped = |mut visit: Visit| async move {
        tokio::time::sleep(Duration::from_millis(40)).await;
        let page = visit.page(move |session| async move {
            let capture = PanicsWhenDropped;
            let update = move |n: &mut u32| {
                let _ = &capture;
                *n += 1;
            };
            session.update("c", update).unwrap();
            let clone = session.clone();
            let destroys = tokio::spawn(async move {
                tokio::time::sleep(SLOW).await;
                clone.destroy();
            });
            saved.send(session.save().await).unwrap();
            let _ = destroys.await;
            StatusCode::OK
        });
        page.await;
    };
    // The panic ends the task of one of them.
    let runs_the_batch = tokio::spawn(counts(visit.clone(), "b", 20));
    let drops = tokio::spawn(dropped(visit.clone()));
    let (status, ..) = tokio::join!(counts(visit, "a", 0), runs_the_batch, drops);
    assert_eq!(status, 200);
    assert!(outcome.recv().await.unwrap().is_ok());
}
