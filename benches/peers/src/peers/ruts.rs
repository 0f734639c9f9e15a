//! ruts, set up as its README does: each value is a field of a hash, written at once.

use std::net::TcpListener;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use fred::clients::Client;
use fred::interfaces::ClientLike as _;
use fred::types::config::Config;
use ruts::cookie::SameSite;
use ruts::store::Ttl;
use ruts::store::redis::RedisStore;
use ruts::{CookieOptions, Session, SessionLayer};
use tower_cookies::CookieManagerLayer;

use crate::app::{
    COUNTER, Contents, LIFETIME, OK, READ_KEY, Value, failed, marks, missing, values,
};
use crate::serve::Serve;
use crate::{Result, peers};

type Answer = std::result::Result<String, StatusCode>;
type RedisSession = Session<RedisStore<Client>>;

pub(super) async fn serve(listener: TcpListener, serve: &Serve) -> Result<()> {
    let client = Client::new(Config::from_url(&serve.redis)?, None, None, None);
    client.connect();
    client.wait_for_connect().await?;
    let store = RedisStore::new(Arc::new(client)).await?;
    let cookie = CookieOptions::build()
        .name("session")
        .http_only(true)
        .same_site(SameSite::Lax)
        .secure(true)
        .max_age(LIFETIME.as_secs())
        .path("/");
    let app = Router::new()
        .route("/none", get(async || OK))
        .route("/read", get(read))
        .route("/change", get(change))
        .route("/count", get(count))
        .route("/mark/{name}", get(mark))
        .route("/marks", get(count_marks))
        .route("/seed", get(seed))
        .with_state(serve.contents())
        .layer(SessionLayer::new(Arc::new(store)).with_cookie_options(cookie))
        .layer(CookieManagerLayer::new());
    peers::listen(listener, app).await
}

fn lifetime() -> std::result::Result<Ttl, StatusCode> {
    Ttl::new(LIFETIME.as_secs().try_into().map_err(failed)?).map_err(failed)
}

async fn read(session: RedisSession) -> Answer {
    let value = session.get(READ_KEY).await.map_err(failed)?;
    value.ok_or_else(missing)
}

async fn change(session: RedisSession) -> Answer {
    let count: Option<u64> = session.get(COUNTER).await.map_err(failed)?;
    let count = count.ok_or_else(missing)? + 1;
    let set = session.set(COUNTER, &count, lifetime()?, None).await;
    set.map_err(failed)?;
    Ok(count.to_string())
}

async fn count(session: RedisSession) -> Answer {
    let count: Option<u64> = session.get(COUNTER).await.map_err(failed)?;
    Ok(count.ok_or_else(missing)?.to_string())
}

async fn mark(session: RedisSession, Path(name): Path<String>) -> Answer {
    let set = session.set(&name, &1_u64, lifetime()?, None).await;
    set.map_err(failed)?;
    Ok(OK.to_owned())
}

async fn count_marks(session: RedisSession) -> Answer {
    let mut there = 0;
    for name in marks() {
        let value: Option<u64> = session.get(&name).await.map_err(failed)?;
        there += u64::from(value.is_some());
    }
    Ok(there.to_string())
}

async fn seed(session: RedisSession, State(contents): State<Contents>) -> Answer {
    for (name, value) in values(contents) {
        let set = match value {
            Value::Text(text) => session.set(&name, &text, lifetime()?, None).await,
            Value::Number(number) => session.set(&name, &number, lifetime()?, None).await,
            Value::Flag(flag) => session.set(&name, &flag, lifetime()?, None).await,
        };
        set.map_err(failed)?;
    }
    let set = session.set(COUNTER, &0_u64, lifetime()?, None).await;
    set.map_err(failed)?;
    Ok(OK.to_owned())
}
