//! An application with tower-sessions' layer.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::routing::get;
use serde::Deserialize;
use sessile::SessionStore;
use sessile_tower_sessions::SessileStore;
use tokio::sync::Semaphore;
use tower_sessions::{Session, SessionManagerLayer};

use crate::support::{Browser, on_both_stores};

#[derive(Deserialize)]
struct Pair {
    k: String,
    v: i64,
}

/// Holds `/slow` between its change and its response.
#[derive(Clone)]
struct Gate {
    reached: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

async fn set(session: Session, Query(Pair { k, v }): Query<Pair>) {
    session.insert(&k, v).await.unwrap();
}

async fn slow(session: Session, State(gate): State<Gate>, Query(Pair { k, v }): Query<Pair>) {
    session.insert(&k, v).await.unwrap();
    gate.reached.add_permits(1);
    gate.open.acquire().await.unwrap().forget();
}

async fn show(session: Session, Query(Pair { k, .. }): Query<Pair>) -> String {
    format!("{:?}", session.get::<i64>(&k).await.unwrap())
}

async fn logout(session: Session) {
    session.flush().await.unwrap();
}

async fn rotate(session: Session) {
    session.cycle_id().await.unwrap();
}

async fn clear(session: Session) {
    session.clear().await;
}

async fn clear_and_set(session: Session, Query(Pair { k, v }): Query<Pair>) {
    session.clear().await;
    session.insert(&k, v).await.unwrap();
}

async fn flush_and_set(session: Session, Query(Pair { k, v }): Query<Pair>) {
    session.flush().await.unwrap();
    session.insert(&k, v).await.unwrap();
}

async fn clear_rotate_and_set(session: Session, Query(Pair { k, v }): Query<Pair>) {
    session.clear().await;
    session.cycle_id().await.unwrap();
    session.insert(&k, v).await.unwrap();
}

fn app<S: SessionStore>(store: SessileStore<S>) -> (Router, Gate) {
    let gate = Gate {
        reached: Arc::new(Semaphore::new(0)),
        open: Arc::new(Semaphore::new(0)),
    };
    let routes = Router::new()
        .route("/set", get(set))
        .route("/slow", get(slow))
        .route("/show", get(show))
        .route("/logout", get(logout))
        .route("/rotate", get(rotate))
        .route("/clear", get(clear))
        .route("/clear_and_set", get(clear_and_set))
        .route("/flush_and_set", get(flush_and_set))
        .route("/clear_rotate_and_set", get(clear_rotate_and_set));
    let app = routes
        .layer(SessionManagerLayer::new(store))
        .with_state(gate.clone());
    (app, gate)
}

on_both_stores!(
    requests_that_overlap_keep_the_changes_of_all,
    a_slow_write_overtaken_by_a_logout_gets_500_and_the_session_stays_ended,
    a_slow_write_overtaken_by_a_rotation_gets_500_and_the_session_keeps_its_data,
    a_visitor_whose_session_has_ended_may_clear_it,
    what_follows_a_clear_is_not_saved_under_an_id_that_has_ended,
);

async fn requests_that_overlap_keep_the_changes_of_all<S: SessionStore>(store: SessileStore<S>) {
    let (app, gate) = app(store);
    let mut visitor = Browser::default();
    visitor.get(&app, "/set?k=first&v=1").await;
    let mut tasks = Vec::new();
    for n in 0..10 {
        let (app, mut tab) = (app.clone(), visitor.clone());
        tasks.push(tokio::spawn(async move {
            tab.get(&app, &format!("/slow?k=key{n}&v={n}")).await.0
        }));
    }
    gate.reached.acquire_many(10).await.unwrap().forget();
    gate.open.add_permits(10);
    for task in tasks {
        assert_eq!(task.await.unwrap(), 200);
    }
    assert_eq!(visitor.get(&app, "/show?k=first&v=0").await.1, "Some(1)");
    for n in 0..10 {
        let shown = visitor.get(&app, &format!("/show?k=key{n}&v=0")).await.1;
        assert_eq!(shown, format!("Some({n})"));
    }
}

async fn a_slow_write_overtaken_by_a_logout_gets_500_and_the_session_stays_ended<
    S: SessionStore,
>(
    store: SessileStore<S>,
) {
    let (app, gate) = app(store);
    let mut visitor = Browser::default();
    visitor.get(&app, "/set?k=user&v=1").await;
    let stolen = visitor.clone();
    let (app_of_slow, mut tab) = (app.clone(), visitor.clone());
    let slow = tokio::spawn(async move { tab.get(&app_of_slow, "/slow?k=cart&v=1").await.0 });
    gate.reached.acquire().await.unwrap().forget();
    assert_eq!(visitor.get(&app, "/logout").await.0, 200);
    assert_eq!(visitor.cookie, None);
    gate.open.add_permits(1);
    assert_eq!(slow.await.unwrap(), 500);
    for key in ["user", "cart"] {
        let shown = stolen
            .clone()
            .get(&app, &format!("/show?k={key}&v=0"))
            .await;
        assert_eq!(shown.1, "None", "{key}");
    }
}

async fn a_slow_write_overtaken_by_a_rotation_gets_500_and_the_session_keeps_its_data<
    S: SessionStore,
>(
    store: SessileStore<S>,
) {
    let (app, gate) = app(store);
    let mut visitor = Browser::default();
    visitor.get(&app, "/set?k=user&v=1").await;
    let before = visitor.clone();
    let (app_of_slow, mut tab) = (app.clone(), visitor.clone());
    let slow = tokio::spawn(async move { tab.get(&app_of_slow, "/slow?k=cart&v=1").await.0 });
    gate.reached.acquire().await.unwrap().forget();
    assert_eq!(visitor.get(&app, "/rotate").await.0, 200);
    assert_ne!(visitor.cookie, before.cookie);
    gate.open.add_permits(1);
    assert_eq!(slow.await.unwrap(), 500);
    assert_eq!(visitor.get(&app, "/show?k=user&v=0").await.1, "Some(1)");
    assert_eq!(before.clone().get(&app, "/show?k=user&v=0").await.1, "None");
}

/// A visitor with the cookie of a session that has ended.
async fn with_a_dead_cookie(app: &Router) -> Browser {
    let mut visitor = Browser::default();
    visitor.get(app, "/set?k=user&v=1").await;
    let dead = visitor.clone();
    assert_eq!(visitor.get(app, "/logout").await.0, 200);
    dead
}

async fn a_visitor_whose_session_has_ended_may_clear_it<S: SessionStore>(store: SessileStore<S>) {
    let (app, _) = app(store);
    let mut visitor = with_a_dead_cookie(&app).await;
    for _ in 0..2 {
        assert_eq!(visitor.get(&app, "/clear").await.0, 200);
    }
    assert_eq!(visitor.get(&app, "/show?k=user&v=0").await.1, "None");
    assert_eq!(visitor.cookie, None, "a read removes it");
}

async fn what_follows_a_clear_is_not_saved_under_an_id_that_has_ended<S: SessionStore>(
    store: SessileStore<S>,
) {
    let (app, _) = app(store);
    let dead = with_a_dead_cookie(&app).await;
    let mut visitor = dead.clone();
    let clears = "/clear_and_set?k=user&v=2";
    assert_eq!(visitor.get(&app, clears).await.0, 500);
    for path in ["/flush_and_set", "/clear_rotate_and_set"] {
        let mut visitor = dead.clone();
        let response = visitor.get(&app, &format!("{path}?k=user&v=2")).await;
        assert_eq!(response.0, 200, "{path}");
        assert_ne!(visitor.cookie, dead.cookie, "{path}");
        let shown = visitor.get(&app, "/show?k=user&v=0").await.1;
        assert_eq!(shown, "Some(2)", "{path}");
    }
    assert_eq!(visitor.get(&app, "/show?k=user&v=0").await.1, "None");
    assert_eq!(visitor.get(&app, clears).await.0, 200, "a read helps");
}
