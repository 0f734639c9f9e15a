//! How do I count a visitor's visits?
//!
//! Run `cargo run --example counter` and open the address that it prints. The example stores sessions in memory, or in Redis if
//! `REDIS_URL` is set: `REDIS_URL=redis://127.0.0.1/ cargo run --example counter`. `PORT` sets the port; 3000 by default.

use axum::{Router, routing::get};
use sessile::{MemoryStore, RedisStore, Session, SessionError, SessionLayer};

/// Counts every visit, even if many requests of one visitor run at once, on several nodes.
async fn visits(session: Session) -> Result<String, SessionError> {
    let n = session.increment("visits", 1)?;
    Ok(format!("visit {n}\n"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter("info,sessile=debug")
        .init();
    let sessions = match std::env::var("REDIS_URL") {
        Ok(url) => SessionLayer::new(RedisStore::from_url(url).await?),
        Err(_) => SessionLayer::new(MemoryStore::new()),
    };
    let app = Router::new()
        .route("/", get(visits))
        // This allows plain HTTP for a trial; remove the call in production.
        .layer(sessions.insecure_for_localhost());

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("open http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}
