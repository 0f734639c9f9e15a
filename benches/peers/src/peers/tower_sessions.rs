//! tower-sessions with its Redis store, set up as the store's README does: a pool of 6 connections.

use std::net::TcpListener;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use tower_sessions::{Expiry, Session, SessionManagerLayer};
use tower_sessions_redis_store::RedisStore;
use tower_sessions_redis_store::fred::prelude::{ClientLike as _, Config, Pool};

use crate::app::{COUNTER, Contents, LIFETIME, OK, READ_KEY, failed, marks, missing, values};
use crate::serve::Serve;
use crate::{Result, peers};

type Answer = std::result::Result<String, StatusCode>;

pub(super) async fn serve(listener: TcpListener, serve: &Serve, always_save: bool) -> Result<()> {
    let pool = Pool::new(Config::from_url(&serve.redis)?, None, None, None, 6)?;
    let _connections = pool.connect();
    pool.wait_for_connect().await?;
    let mut layer = SessionManagerLayer::new(RedisStore::new(pool));
    if always_save {
        let lifetime = LIFETIME.try_into()?;
        layer = layer
            .with_expiry(Expiry::OnInactivity(lifetime))
            .with_always_save(true);
    }
    let app = Router::new()
        .route("/none", get(async || OK))
        .route("/read", get(read))
        .route("/change", get(change))
        .route("/count", get(count))
        .route("/mark/{name}", get(mark))
        .route("/marks", get(count_marks))
        .route("/seed", get(seed))
        .with_state(serve.contents())
        .layer(layer);
    peers::listen(listener, app).await
}

async fn read(session: Session) -> Answer {
    let value = session.get(READ_KEY).await.map_err(failed)?;
    value.ok_or_else(missing)
}

async fn change(session: Session) -> Answer {
    let count: Option<u64> = session.get(COUNTER).await.map_err(failed)?;
    let count = count.ok_or_else(missing)? + 1;
    session.insert(COUNTER, count).await.map_err(failed)?;
    Ok(count.to_string())
}

async fn count(session: Session) -> Answer {
    let count: Option<u64> = session.get(COUNTER).await.map_err(failed)?;
    Ok(count.ok_or_else(missing)?.to_string())
}

async fn mark(session: Session, Path(name): Path<String>) -> Answer {
    session.insert(&name, 1).await.map_err(failed)?;
    Ok(OK.to_owned())
}

async fn count_marks(session: Session) -> Answer {
    let mut there = 0;
    for name in marks() {
        let value: Option<u64> = session.get(&name).await.map_err(failed)?;
        there += u64::from(value.is_some());
    }
    Ok(there.to_string())
}

async fn seed(session: Session, State(contents): State<Contents>) -> Answer {
    for (name, value) in values(contents) {
        session.insert(&name, value).await.map_err(failed)?;
    }
    session.insert(COUNTER, 0).await.map_err(failed)?;
    Ok(OK.to_owned())
}
