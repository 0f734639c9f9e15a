//! axum_session with its Redis pool, set up as its example for Redis does.

use std::net::{SocketAddr, TcpListener};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum_session::{Session, SessionConfig, SessionLayer, SessionStore};
use axum_session_redispool::SessionRedisPool;
use redis_pool::RedisPool;

use crate::Result;
use crate::app::{COUNTER, Contents, OK, READ_KEY, marks, missing, values};
use crate::serve::Serve;

type Answer = std::result::Result<String, StatusCode>;
type RedisSession = Session<SessionRedisPool>;

pub(super) async fn serve(listener: TcpListener, serve: &Serve, memory: bool) -> Result<()> {
    let pool = RedisPool::from(redis::Client::open(serve.redis.as_str())?);
    let mut config = SessionConfig::default();
    if !memory {
        config = config.with_memory_lifetime(time::Duration::ZERO);
    }
    let store = SessionStore::<SessionRedisPool>::new(Some(pool.into()), config).await?;
    let app = Router::new()
        .route("/none", get(async || OK))
        .route("/read", get(read))
        .route("/change", get(change))
        .route("/count", get(count))
        .route("/mark/{name}", get(mark))
        .route("/marks", get(count_marks))
        .route("/seed", get(seed))
        .with_state(serve.contents())
        .layer(SessionLayer::new(store))
        .into_make_service_with_connect_info::<SocketAddr>();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    Ok(axum::serve(listener, app).await?)
}

async fn read(session: RedisSession) -> Answer {
    session.get(READ_KEY).ok_or_else(missing)
}

async fn change(session: RedisSession) -> Answer {
    let count = session.get::<u64>(COUNTER).ok_or_else(missing)? + 1;
    session.set(COUNTER, count);
    Ok(count.to_string())
}

async fn count(session: RedisSession) -> Answer {
    let count: u64 = session.get(COUNTER).ok_or_else(missing)?;
    Ok(count.to_string())
}

async fn mark(session: RedisSession, Path(name): Path<String>) -> &'static str {
    session.set(&name, 1);
    OK
}

async fn count_marks(session: RedisSession) -> String {
    let there = marks().filter(|name| session.get::<u64>(name).is_some());
    there.count().to_string()
}

async fn seed(session: RedisSession, State(contents): State<Contents>) -> &'static str {
    for (name, value) in values(contents) {
        session.set(&name, value);
    }
    session.set(COUNTER, 0);
    OK
}
