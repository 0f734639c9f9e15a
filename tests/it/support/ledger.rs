//! Routes that do one thing each and say whose session they did it to, so that every answer can be checked afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{Query, Request};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use sessile::{Session, SessionError};

type Answer = Result<Json<Value>, SessionError>;

/// What is to be done: to which key, with which value.
#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    quantity: u64,
}

pub fn routes() -> Router {
    let routes = Router::new()
        .route("/open", get(open))
        .route("/count", get(count))
        .route("/number", get(number))
        .route("/write", get(write))
        .route("/push", get(push))
        .route("/line", get(line))
        .route("/pair", get(pair))
        .route("/say", get(say))
        .route("/show", get(show))
        .route("/take", get(take))
        .route("/look", get(look))
        .route("/rotate", get(rotate))
        .route("/login", get(login))
        .route("/logout", get(logout));
    Router::new().nest("/ledger", routes.layer(from_fn(dawdle)))
}

/// Waits with the session loaded, if asked to, so that others may be faster.
async fn dawdle(request: Request, next: Next) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let slow = query.split('&').find_map(|part| part.strip_prefix("slow="));
    if let Some(millis) = slow.and_then(|millis| millis.parse().ok()) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
    next.run(request).await
}

/// Whose session it is; nobody's if it is a new one.
fn owner(session: &Session) -> Result<Option<String>, SessionError> {
    session.get("owner")
}

fn answer(owner: impl Into<Value>, seen: impl Into<Value>) -> Answer {
    Ok(Json(json!({ "owner": owner.into(), "seen": seen.into() })))
}

async fn open(session: Session, Query(entry): Query<Entry>) -> Answer {
    session.insert("owner", &entry.value)?;
    answer(Some(entry.value), Value::Null)
}

async fn count(session: Session) -> Answer {
    let owner = owner(&session)?;
    session.increment("count", 1)?;
    answer(owner, Value::Null)
}

async fn number(session: Session) -> Answer {
    let owner = owner(&session)?;
    let number = session.increment_now("number", 1).await?;
    answer(owner, number)
}

async fn write(session: Session, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    session.insert(entry.key.as_str(), &entry.value)?;
    answer(owner, Value::Null)
}

async fn push(session: Session, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    session.push("list", &entry.value)?;
    answer(owner, Value::Null)
}

async fn line(session: Session, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    session.update("cart", move |cart: &mut BTreeMap<String, u64>| {
        *cart.entry(entry.value.clone()).or_default() += entry.quantity;
    })?;
    answer(owner, Value::Null)
}

async fn pair(session: Session, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    session.insert("pair.left", &entry.value)?;
    session.insert("pair.right", &entry.value)?;
    answer(owner, Value::Null)
}

async fn say(session: Session, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    session.flash_info(entry.value)?;
    answer(owner, Value::Null)
}

async fn show(session: Session) -> Answer {
    let owner = owner(&session)?;
    let shown = session.take_flashes().await?;
    let texts: Vec<String> = shown.into_iter().map(|flash| flash.text).collect();
    answer(owner, texts)
}

async fn take(session: Session, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    let token: Option<String> = session.take(entry.key.as_str()).await?;
    answer(owner, token)
}

/// Everything at one moment: the session shows what was loaded.
async fn look(session: Session) -> Answer {
    let owner = owner(&session)?;
    let mut data = BTreeMap::new();
    for key in session.keys() {
        let value: Option<Value> = session.get(key.as_str())?;
        data.insert(key, value);
    }
    let flashes: Vec<String> = session
        .peek_flashes()
        .into_iter()
        .map(|flash| flash.text)
        .collect();
    let principal = session.principal();
    answer(
        owner,
        json!({ "data": data, "flashes": flashes, "principal": principal }),
    )
}

async fn rotate(session: Session) -> Answer {
    let owner = owner(&session)?;
    session.cycle_id()?;
    answer(owner, Value::Null)
}

async fn login(session: Session, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    session.set_principal(entry.value).await?;
    answer(owner, Value::Null)
}

async fn logout(session: Session) -> Answer {
    let owner = owner(&session)?;
    session.destroy();
    answer(owner, Value::Null)
}
