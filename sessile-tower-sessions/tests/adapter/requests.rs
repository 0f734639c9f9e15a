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
        .route("/rotate", get(rotate));
    let app = routes
        .layer(SessionManagerLayer::new(store))
        .with_state(gate.clone());
    (app, gate)
}

on_both_stores!(
    requests_that_overlap_keep_the_changes_of_all,
    a_slow_write_overtaken_by_a_logout_gets_500_and_the_session_stays_ended,
    a_slow_write_overtaken_by_a_rotation_gets_500_and_the_session_keeps_its_data,
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
