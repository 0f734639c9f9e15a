//! How do I test handlers that use a session?
//!
//! Run `cargo test --all-features --example testing`: the tests are at the end of this file. `cargo run --all-features --example testing`
//! runs the application that they test; `PORT` sets its port, 3000 by default.

use axum::response::Redirect;
use axum::routing::{get, post};
use axum::{Form, Router};
use sessile::{
    CsrfLayer, Key, MemoryStore, Principal, RequirePrincipal, Session, SessionError, SessionLayer,
};

const CART: Key<Vec<String>> = Key::new("cart");

#[derive(serde::Deserialize)]
struct Article {
    name: String,
}

async fn show(session: Session) -> Result<String, SessionError> {
    let cart = session.get(CART)?.unwrap_or_default();
    Ok(cart.join(", "))
}

/// Two tabs may add at once: the lists merge.
async fn add(session: Session, Form(article): Form<Article>) -> Result<Redirect, SessionError> {
    session.push(CART, article.name)?;
    Ok(Redirect::to("/cart"))
}

/// Turns the cart into an order. Of two clicks, one gets the cart.
async fn order(user: Principal, session: Session) -> Result<String, SessionError> {
    let cart = session.take(CART).await?.unwrap_or_default();
    Ok(format!("{user} ordered: {}", cart.join(", ")))
}

/// The application takes its layer as an argument, so that a test can choose the store.
fn app(layer: SessionLayer) -> Router {
    let signed_in = Router::new()
        .route("/order", post(order))
        .layer(RequirePrincipal::new());
    Router::new()
        .route("/cart", get(show).post(add))
        .merge(signed_in)
        .layer(CsrfLayer::new())
        .layer(layer)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let app = app(SessionLayer::new(MemoryStore::new()).insecure_for_localhost());
    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("open http://{}/cart", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sessile::testing::{Call, Fault, TestClient, TestStore};

    use super::*;

    /// The store, and mia with tulips in her cart.
    async fn scene() -> (TestStore, TestClient) {
        let store = TestStore::new();
        let layer = SessionLayer::new(store.clone());
        let mia = TestClient::signed_in(app(layer.clone()), &layer, "mia").await;
        mia.set(CART, vec!["tulips".to_owned()]).await;
        (store, mia)
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_succeeds_conflicts_waits_for_the_store_and_expires() {
        let store = TestStore::new();
        let layer = SessionLayer::new(store.clone());
        let mia = TestClient::signed_in(app(layer.clone()), &layer, "mia").await;
        mia.set(CART, vec!["tulips".to_owned()]).await;
        assert_eq!(mia.post("/order").await.body(), "mia ordered: tulips"); // success

        mia.set(CART, vec!["roses".to_owned()]).await;
        let page = mia
            .post("/order")
            .meanwhile(async |other| other.discard(CART));
        assert_eq!(page.await.body(), "mia ordered: "); // conflict: another tab was faster

        store.fail(Fault::Hang);
        assert_eq!(mia.post("/order").await.status(), 503); // store down
        store.recover();

        store.advance(Duration::from_secs(31 * 60));
        assert_eq!(mia.post("/order").await.status(), 401); // expiry
    }

    #[tokio::test]
    async fn two_tabs_add_to_one_cart() {
        let (_, mia) = scene().await;
        let add = mia.post("/cart").form([("name", "roses")]);
        let page = add.meanwhile(async |other| other.push(CART, "lilies".to_owned()));
        assert_eq!(page.await.status(), 303);
        assert_eq!(mia.get("/cart").await.body(), "tulips, lilies, roses");
    }

    #[tokio::test]
    async fn only_an_order_changes_the_cart() {
        let (_, mia) = scene().await;
        mia.get("/cart").assert_writes_nothing().await;
        let (_, writes) = mia.post("/order").with_writes().await;
        assert_eq!(writes.len(), 1);
        assert_eq!(writes[0].keys, ["cart"]);
    }

    #[tokio::test]
    async fn a_lost_answer_does_not_order_twice() {
        let (store, mia) = scene().await;
        store.fail_next(Call::Replace, Fault::LoseAnswer);
        assert_eq!(mia.post("/order").await.body(), "mia ordered: tulips");
        assert_eq!(store.faults_left(), 0);
        assert_eq!(mia.post("/order").await.body(), "mia ordered: ");
    }

    #[tokio::test]
    async fn visitors_and_other_sites_cannot_order() {
        let (_, mia) = scene().await;
        let layer = SessionLayer::new(TestStore::new());
        let visitor = TestClient::new(app(layer.clone()), &layer);
        assert_eq!(visitor.post("/order").await.status(), 401);
        let forged = mia.post("/order").header("sec-fetch-site", "cross-site");
        assert_eq!(forged.await.status(), 403);
    }
}
