//! How do I read the settings from a file and from environment variables?
//!
//! Run `cargo run --example configured` in a checkout, and open the address that it prints. It reads `sessile.toml` of the current
//! directory, if there is one, and environment variables, which win over the file:
//!
//! ```sh
//! SESSILE__STORE__URL=redis://127.0.0.1/ SESSILE__SESSION__IDLE_TIMEOUT=15m cargo run --example configured
//! SESSILE__SESSION__IDLE_TIMOUT=15m cargo run --example configured   # says which setting you meant
//! ```
//!
//! `PORT` sets the port; 3000 by default.

use axum::extract::State;
use axum::{Router, routing::get};
use sessile::{AnyStore, Session, SessionError};

/// The settings of the whole application, of which those of sessile may be a part.
fn settings() -> Result<sessile::Config, config::ConfigError> {
    // Two underscores, since the names of settings contain single ones: SESSILE__SESSION__COOKIE__NAME.
    let environment = config::Environment::with_prefix("SESSILE")
        .prefix_separator("__")
        .separator("__")
        .ignore_empty(true);
    config::Config::builder()
        .add_source(config::File::with_name("sessile.toml").required(false))
        .add_source(environment)
        .build()?
        .try_deserialize()
}

async fn visits(session: Session) -> Result<String, SessionError> {
    let n = session.increment("visits", 1)?;
    Ok(format!("visit {n}\n"))
}

/// For a load balancer.
async fn health(State(store): State<AnyStore>) -> Result<&'static str, String> {
    match store.health().await.read {
        Ok(_) => Ok("healthy\n"),
        Err(error) => Err(format!("{error}\n")),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter("info")
        .with_writer(std::io::stderr)
        .init();
    // An invalid setting ends the program here, with a message that says what to write.
    let (sessions, store) = settings()?.build().await?;
    let app = Router::new()
        .route("/", get(visits))
        .layer(sessions)
        .route("/health", get(health))
        .with_state(store);

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("open http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}
