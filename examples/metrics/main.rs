//! Metrics for Prometheus and Grafana, with visitors of its own:
//!
//! ```sh
//! cargo run --example metrics --features metrics -- --visitors 20
//! curl http://127.0.0.1:9464/metrics
//! prometheus --config.file=examples/metrics/prometheus.yml   # scrapes it, with the alerts of alerts.yml
//! ```
//!
//! Import `dashboard.json`, beside this file, into Grafana. Sessions are in memory; `REDIS_URL=redis://127.0.0.1/` keeps them in
//! Redis, and `docker compose pause redis` shows what an outage looks like. `PORT` sets the port; 9464 by default.

use std::time::Duration;

use axum::routing::{get, post};
use axum::{Router, extract::State};
use clap::Parser;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use sessile::metrics::LATENCY_BUCKETS;
use sessile::{
    Concurrency, Exclusive, Logout, MaxSessions, MemoryStore, RedisStore, Session, SessionError,
    SessionLayer,
};
use tokio::net::TcpListener;

mod visitors;

#[derive(Parser)]
struct Arguments {
    /// How many visitors use the application meanwhile, each with about three requests a second.
    #[arg(long, default_value_t = 0)]
    visitors: usize,
}

/// Installs the recorder. This comes first: a connection that was opened before it would not be counted.
fn install() -> Result<PrometheusHandle, Box<dyn std::error::Error>> {
    let ending = |name: &str| Matcher::Suffix(name.to_owned());
    Ok(PrometheusBuilder::new()
        .set_buckets_for_metric(ending("_seconds"), &LATENCY_BUCKETS)?
        .set_buckets_for_metric(ending("_attempts"), &[1.0, 2.0, 3.0, 5.0, 10.0])?
        .set_buckets_for_metric(ending("_requests"), &[1.0, 2.0, 5.0, 10.0, 50.0, 256.0])?
        .set_buckets_for_metric(
            ending("_bytes"),
            &[512.0, 2048.0, 8192.0, 32768.0, 131_072.0],
        )?
        .install_recorder()?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let prometheus = install()?;
    // The exporter keeps what histograms record until somebody reads it, so this bounds its memory if nobody does.
    let upkeep = prometheus.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });

    let layer = match std::env::var("REDIS_URL") {
        Ok(url) => SessionLayer::new(RedisStore::from_url(url).await?),
        Err(_) => SessionLayer::new(MemoryStore::new()),
    };
    let layer = layer
        .with_max_sessions(MaxSessions::evict_oldest(3))
        .insecure_for_localhost();
    let shop = Router::new()
        .route("/", get(page))
        .route("/cart", post(put))
        .route("/login", post(log_in))
        .route("/logout", post(log_out))
        .layer(layer.clone());
    // Payments of one visitor run one after the other.
    let exclusive = Exclusive::new(Duration::from_secs(1));
    let payments = Router::new()
        .route("/pay", post(pay))
        .layer(layer.with_concurrency(Concurrency::Exclusive(exclusive)));
    // Beside the sessions and not within them. In production, listen on another port that only Prometheus can reach.
    let metrics = Router::new().route("/metrics", get(scrape).with_state(prometheus));
    let app = shop.merge(payments).merge(metrics);

    let port = std::env::var("PORT").unwrap_or_else(|_| "9464".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let address = listener.local_addr()?;
    println!("/metrics of http://{address}");
    visitors::begin(address, arguments.visitors);
    Ok(axum::serve(listener, app).await?)
}

async fn scrape(State(prometheus): State<PrometheusHandle>) -> String {
    prometheus.render()
}

async fn page(session: Session) -> Result<String, SessionError> {
    let cart: Option<u32> = session.get("cart")?;
    Ok(format!("{} in the cart\n", cart.unwrap_or_default()))
}

async fn put(session: Session) -> Result<String, SessionError> {
    // So slow that requests of one visitor meet.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let cart = session.increment("cart", 1)?;
    Ok(format!("{cart} in the cart\n"))
}

async fn pay(session: Session) -> Result<String, SessionError> {
    let cart: Option<u32> = session.remove("cart")?;
    // The card is charged here.
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(format!("paid for {}\n", cart.unwrap_or_default()))
}

async fn log_in(session: Session, user: String) -> Result<String, SessionError> {
    session.set_principal(user).await?;
    Ok("signed in\n".to_owned())
}

async fn log_out(logout: Logout) -> &'static str {
    logout.end_session();
    "signed out\n"
}
