//! The application under test as a process of its own: `REDIS_URL=… node` prints the address it listens on.

#![allow(unreachable_pub, reason = "a program exports nothing")]

use sessile::{RedisConfig, RedisStore, SessionLayer};

#[path = "../it/support/app.rs"]
mod app;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = RedisConfig::new(std::env::var("REDIS_URL")?);
    if let Ok(prefix) = std::env::var("KEY_PREFIX") {
        config.key_prefix = prefix;
    }
    if let Ok(name) = std::env::var("SESSILE_TEST_COMPARE_AND_SET") {
        config.compare_and_set = serde_json::from_value(name.into())?;
    }
    let layer = SessionLayer::new(RedisStore::from_config(config).await?).insecure_for_localhost();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    Ok(axum::serve(listener, app::app(layer)).await?)
}
