//! How do I keep sessions in a database of my own?
//!
//! Run `cargo run --example own_store` and open the address that it prints. The example stores sessions in SQLite: in memory, or in
//! the file that `DATABASE` names. Several processes on one machine can share the file. `PORT` sets the port; 3000 by default.
//!
//! - `sqlite.rs`: the store. It has everything that a store can have but replicas.
//! - `index.rs`: its part that lists the sessions of a user. A store need not have it.
//!
//! `cargo test --example own_store --features conformance` runs the test suite of all stores on this one. `docs/own-store.md` has the
//! rules that it checks.

use axum::{Router, routing::get};
use sessile::{Session, SessionError, SessionLayer};

use crate::sqlite::SqliteStore;

mod index;
mod sqlite;

async fn visits(session: Session) -> Result<String, SessionError> {
    let n = session.increment("visits", 1)?;
    Ok(format!("visit {n}\n"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter("info,sessile=debug")
        .init();
    let path = std::env::var("DATABASE").unwrap_or_else(|_| ":memory:".to_owned());
    let store = SqliteStore::open(path)?;
    let app = Router::new()
        .route("/", get(visits))
        // This allows plain HTTP for a trial; remove the call in production.
        .layer(SessionLayer::new(store).insecure_for_localhost());

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("open http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}

#[cfg(all(test, feature = "conformance"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_a_session_store() {
        sessile::conformance::check(SqliteStore::open(":memory:").unwrap()).await;
    }
}
