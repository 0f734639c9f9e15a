//! The same routes without sessions: what the rest costs.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::State;
use axum::routing::get;

use crate::app::{OK, READ_VALUE};
use crate::{Result, peers};

pub(super) async fn serve(listener: TcpListener) -> Result<()> {
    let app = Router::new()
        .route("/none", get(async || OK))
        .route("/read", get(async || READ_VALUE.to_owned()))
        .route("/change", get(change))
        .route("/seed", get(async || OK))
        .with_state(Arc::<AtomicU64>::default());
    peers::listen(listener, app).await
}

async fn change(State(count): State<Arc<AtomicU64>>) -> String {
    (count.fetch_add(1, Ordering::Relaxed) + 1).to_string()
}
