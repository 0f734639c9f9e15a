//! sessile, with its default settings. The counter is changed with `increment`, as its quickstart does.

use std::net::{SocketAddr, TcpListener};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use sessile::{Load, ReadSession, RedisStore, Session, SessionConfig, SessionError, SessionLayer};

use crate::Result;
use crate::app::{COUNTER, Contents, OK, READ_KEY, marks, missing, values};
use crate::serve::Serve;

pub(super) async fn serve(listener: TcpListener, serve: &Serve, load: Load) -> Result<()> {
    let store = RedisStore::from_url(serve.redis.clone()).await?;
    // The limit of 64 KiB would refuse the largest session that is measured.
    let config = SessionConfig::default().with_max_size(1024 * 1024);
    let layer = SessionLayer::try_new(store, config)?.with_load(load);
    let app = Router::new()
        .route("/none", get(async || OK))
        .route("/read", get(read))
        .route("/change", get(change))
        .route("/count", get(count))
        .route("/mark/{name}", get(mark))
        .route("/marks", get(count_marks))
        .route("/seed", get(seed))
        .with_state(serve.contents())
        .layer(layer)
        // Fingerprinting, which is on by default, compares the client's address.
        .into_make_service_with_connect_info::<SocketAddr>();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    Ok(axum::serve(listener, app).await?)
}

async fn read(session: ReadSession) -> std::result::Result<String, StatusCode> {
    let value = session.get(READ_KEY).map_err(crate::app::failed)?;
    value.ok_or_else(missing)
}

async fn change(session: Session) -> std::result::Result<String, SessionError> {
    Ok(session.increment(COUNTER, 1)?.to_string())
}

async fn count(session: ReadSession) -> std::result::Result<String, StatusCode> {
    let count: Option<i64> = session.get(COUNTER).map_err(crate::app::failed)?;
    Ok(count.ok_or_else(missing)?.to_string())
}

async fn mark(
    session: Session,
    Path(name): Path<String>,
) -> std::result::Result<&'static str, SessionError> {
    session.insert(name.as_str(), 1)?;
    Ok(OK)
}

async fn count_marks(session: ReadSession) -> String {
    let there = marks().filter(|name| session.contains_key(name.as_str()));
    there.count().to_string()
}

async fn seed(
    session: Session,
    State(contents): State<Contents>,
) -> std::result::Result<&'static str, SessionError> {
    for (name, value) in values(contents) {
        session.insert(name.as_str(), value)?;
    }
    session.insert(COUNTER, 0)?;
    Ok(OK)
}
