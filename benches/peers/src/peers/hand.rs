//! Sessions written by hand on axum and redis-rs, without protection against lost changes: the least that a session costs.

use std::net::TcpListener;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{AppendHeaders, IntoResponse};
use axum::routing::get;
use cookie::{Cookie, SameSite};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use serde_json::{Map, Value};

use crate::app::{COUNTER, Contents, LIFETIME, OK, READ_KEY, failed, marks, missing, values};
use crate::serve::Serve;
use crate::{Result, peers};

const NAME: &str = "id";

#[derive(Clone)]
struct Sessions {
    redis: MultiplexedConnection,
    sliding: bool,
    contents: Contents,
}

type Answer = std::result::Result<String, StatusCode>;

pub(super) async fn serve(listener: TcpListener, serve: &Serve, sliding: bool) -> Result<()> {
    let client = redis::Client::open(serve.redis.as_str())?;
    let sessions = Sessions {
        redis: client.get_multiplexed_async_connection().await?,
        sliding,
        contents: serve.contents(),
    };
    let app = Router::new()
        .route("/none", get(async || OK))
        .route("/read", get(read))
        .route("/change", get(change))
        .route("/count", get(count))
        .route("/mark/{name}", get(mark))
        .route("/marks", get(count_marks))
        .route("/seed", get(seed))
        .with_state(sessions);
    peers::listen(listener, app).await
}

impl Sessions {
    async fn load(
        &mut self,
        headers: &HeaderMap,
    ) -> std::result::Result<(String, Map<String, Value>), StatusCode> {
        let key = key(headers).ok_or_else(missing)?;
        let json: Option<Vec<u8>> = match self.sliding {
            true => {
                let lifetime = redis::Expiry::EX(LIFETIME.as_secs());
                self.redis.get_ex(&key, lifetime).await.map_err(failed)?
            }
            false => self.redis.get(&key).await.map_err(failed)?,
        };
        let values = serde_json::from_slice(&json.ok_or_else(missing)?).map_err(failed)?;
        Ok((key, values))
    }

    async fn store(
        &mut self,
        key: &str,
        values: &Map<String, Value>,
    ) -> std::result::Result<(), StatusCode> {
        let json = serde_json::to_vec(values).map_err(failed)?;
        let stored = self.redis.set_ex(key, json, LIFETIME.as_secs()).await;
        stored.map_err(failed)
    }
}

fn key(headers: &HeaderMap) -> Option<String> {
    let mut cookies = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|header| header.to_str().ok())
        .flat_map(|header| Cookie::split_parse(header).flatten());
    let cookie = cookies.find(|cookie| cookie.name() == NAME)?;
    Some(format!("session:{}", cookie.value()))
}

async fn read(State(mut sessions): State<Sessions>, headers: HeaderMap) -> Answer {
    let (_, values) = sessions.load(&headers).await?;
    let value = values.get(READ_KEY).and_then(Value::as_str);
    value.map(str::to_owned).ok_or_else(missing)
}

async fn change(State(mut sessions): State<Sessions>, headers: HeaderMap) -> Answer {
    let (key, mut values) = sessions.load(&headers).await?;
    let count = values.get(COUNTER).and_then(Value::as_u64).unwrap_or(0) + 1;
    values.insert(COUNTER.to_owned(), count.into());
    sessions.store(&key, &values).await?;
    Ok(count.to_string())
}

async fn count(State(mut sessions): State<Sessions>, headers: HeaderMap) -> Answer {
    let (_, values) = sessions.load(&headers).await?;
    let count = values.get(COUNTER).and_then(Value::as_u64);
    Ok(count.ok_or_else(missing)?.to_string())
}

async fn mark(
    State(mut sessions): State<Sessions>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Answer {
    let (key, mut values) = sessions.load(&headers).await?;
    values.insert(name, 1.into());
    sessions.store(&key, &values).await?;
    Ok(OK.to_owned())
}

async fn count_marks(State(mut sessions): State<Sessions>, headers: HeaderMap) -> Answer {
    let (_, values) = sessions.load(&headers).await?;
    let there = marks().filter(|name| values.contains_key(name));
    Ok(there.count().to_string())
}

async fn seed(
    State(mut sessions): State<Sessions>,
) -> std::result::Result<impl IntoResponse, StatusCode> {
    let id = format!("{:032x}", rand::random::<u128>());
    let values = serde_json::to_value(values(sessions.contents).into_iter().collect::<Values>());
    let Value::Object(mut values) = values.map_err(failed)? else {
        return Err(failed("not an object"));
    };
    values.insert(COUNTER.to_owned(), 0.into());
    sessions.store(&format!("session:{id}"), &values).await?;
    let cookie = Cookie::build((NAME, id))
        .path("/")
        .http_only(true)
        .secure(true)
        .same_site(SameSite::Lax);
    Ok((AppendHeaders([(SET_COOKIE, cookie.to_string())]), OK))
}

type Values = std::collections::BTreeMap<String, crate::app::Value>;
