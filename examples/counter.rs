//! How do I count a visitor's visits?
//!
//! `cargo run --example counter`, then open the address it prints. Sessions are kept in memory, or in Redis if `REDIS_URL`
//! says where: `REDIS_URL=redis://127.0.0.1/ cargo run --example counter`. `PORT` is another port than 3000.

use axum::{Router, routing::get};
use sessile::{MemoryStore, RedisStore, Session, SessionError, SessionLayer};

/// No visit is lost, however many requests of one visitor run at once, on however many nodes.
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
        // Plain HTTP is for trying it out; in production leave this call away.
        .layer(sessions.insecure_for_localhost());

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("open http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}
