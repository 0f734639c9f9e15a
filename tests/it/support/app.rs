//! The application under test: one route for each call of a session. It runs inside a test, and as a separate process
//! (`tests/node/main.rs`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sessile::{Logout, Session, SessionError, SessionLayer};

type Params = Query<HashMap<String, String>>;
type Answer = Result<String, SessionError>;

pub fn app(layer: SessionLayer) -> Router {
    routes().layer(layer)
}

pub fn routes() -> Router {
    Router::new()
        .route("/plain", get(|| async { "plain" }))
        .route(
            "/read",
            get(|session: Session| async move { session.keys().join(",") }),
        )
        .route("/get", get(read))
        .route("/set", get(set))
        .route("/remove", get(remove))
        .route(
            "/clear",
            get(|session: Session| async move { session.clear() }),
        )
        .route("/incr", get(incr))
        .route("/incr-now", get(incr_now))
        .route("/push", get(push))
        .route("/cart", get(cart))
        .route("/take", get(take))
        .route("/buy", get(buy))
        .route("/buy-much", get(buy_much))
        .route("/login", get(login))
        .route(
            "/whoami",
            get(|session: Session| async move { session.principal().unwrap_or_default() }),
        )
        .route("/step-down", get(step_down))
        .route("/cycle", get(cycle))
        .route("/logout", get(logout))
        .route("/logout-and-say", get(logout_and_say))
        .route("/sign-out", get(sign_out))
        .route("/slow", get(slow))
        .route("/two-keys", get(two_keys))
        .route("/slow-logout", get(slow_logout))
        .route("/save-then", get(save_then))
        .route("/save-twice", get(save_twice))
        .route("/panic-again", get(panic_again))
        .route("/fail", get(fail))
        .route("/panic", get(panic))
        .route("/number", get(number))
        .route("/facts", get(facts))
        .route("/flash", get(flash))
        .route("/flashes", get(flashes))
        .route("/remember", get(remember))
        .merge(super::ledger::routes())
}

fn param<'a>(params: &'a Params, name: &str) -> &'a str {
    params.get(name).map_or("", String::as_str)
}

fn number_param(params: &Params, name: &str) -> u64 {
    param(params, name).parse().unwrap_or_default()
}

async fn read(session: Session, params: Params) -> Answer {
    let value: Option<serde_json::Value> = session.get(param(&params, "k"))?;
    Ok(value.map(|value| value.to_string()).unwrap_or_default())
}

async fn set(session: Session, params: Params) -> Answer {
    session.insert(param(&params, "k"), param(&params, "v"))?;
    Ok(String::new())
}

async fn remove(session: Session, params: Params) -> Answer {
    let value: Option<String> = session.remove(param(&params, "k"))?;
    Ok(value.unwrap_or_default())
}

async fn incr(session: Session, params: Params) -> Answer {
    Ok(session.increment(param(&params, "k"), 1)?.to_string())
}

async fn incr_now(session: Session, params: Params) -> Answer {
    Ok(session
        .increment_now(param(&params, "k"), 1)
        .await?
        .to_string())
}

async fn push(session: Session, params: Params) -> Answer {
    session.push(param(&params, "k"), param(&params, "v"))?;
    Ok(String::new())
}

async fn cart(session: Session, params: Params) -> Answer {
    let item = param(&params, "item").to_owned();
    let cart: HashMap<String, u32> =
        session.update("cart", move |cart: &mut HashMap<String, u32>| {
            *cart.entry(item.clone()).or_default() += 1;
        })?;
    Ok(cart.len().to_string())
}

async fn take(session: Session, params: Params) -> Answer {
    let value: Option<String> = session.take(param(&params, "k")).await?;
    Ok(value.unwrap_or_default())
}

/// Takes one item from a stock that must not go below zero.
async fn buy(session: Session) -> Answer {
    let left = session.try_update("stock", |stock: Option<u32>| {
        stock.unwrap_or_default().checked_sub(1)
    })?;
    Ok(left.to_string())
}

/// Buys one item and inserts a receipt that may be too large.
async fn buy_much(session: Session, params: Params) -> Answer {
    session.insert("receipt", param(&params, "v"))?;
    buy(session).await
}

async fn login(session: Session, params: Params) -> Answer {
    session.set_principal(param(&params, "u")).await?;
    Ok(String::new())
}

async fn step_down(session: Session) -> Answer {
    session.clear_principal()?;
    Ok(String::new())
}

async fn cycle(session: Session) -> Answer {
    session.cycle_id()?;
    Ok(String::new())
}

async fn logout(session: Session, params: Params) -> Response {
    session.destroy();
    match param(&params, "then") {
        "panic" => panic!("after destroy"),
        "hang" => std::future::pending().await,
        "fail" => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        _ => StatusCode::OK.into_response(),
    }
}

/// Logs out by the `Logout` extractor, without a session.
async fn sign_out(logout: Logout, params: Params) -> Response {
    logout.end_session();
    match param(&params, "then") {
        "panic" => panic!("after the logout"),
        "hang" => {
            linger(&params).await;
            StatusCode::OK.into_response()
        }
        "fail" => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        _ => StatusCode::OK.into_response(),
    }
}

async fn logout_and_say(session: Session) -> Answer {
    session.insert("dropped", true)?;
    session.destroy();
    session.insert("notice", "signed out")?;
    Ok(String::new())
}

/// Waits for `ms` milliseconds, then at `gate`, as far as the request names them.
async fn linger(params: &Params) {
    tokio::time::sleep(Duration::from_millis(number_param(params, "ms"))).await;
    if let Some(gate) = params.get("gate") {
        super::gate::pass(gate).await;
    }
}

/// Waits with the session loaded, then writes.
async fn slow(session: Session, params: Params) -> Answer {
    linger(&params).await;
    match param(&params, "k") {
        "" => {}
        key => session.insert(key, "slow")?,
    }
    Ok(String::new())
}

/// Increments two keys, and waits in between.
async fn two_keys(session: Session, params: Params) -> Answer {
    session.increment("first", 1)?;
    linger(&params).await;
    session.increment("second", 1)?;
    Ok(String::new())
}

/// Waits with the session loaded, then logs out.
async fn slow_logout(session: Session, params: Params) -> Answer {
    linger(&params).await;
    session.destroy();
    Ok(String::new())
}

/// Saves in the handler, ignores an error of that, changes the session again if asked to, and answers with the given
/// status.
async fn save_then(session: Session, params: Params) -> Response {
    let saved = async {
        session.increment("saved", 1)?;
        session.save().await
    };
    let saved = saved.await;
    if param(&params, "also") == "write" {
        let _ = session.increment("after", 1);
    }
    let status = u16::try_from(number_param(&params, "status")).unwrap_or(200);
    let text = saved.map_or_else(|error| format!("{error:?}"), |()| "saved".to_owned());
    (StatusCode::from_u16(status).unwrap_or(StatusCode::OK), text).into_response()
}

/// Saves, waits, and saves again, even if the first save failed.
async fn save_twice(session: Session, params: Params) -> Answer {
    session.increment("saved", 1)?;
    let first = session.save().await;
    linger(&params).await;
    let second = session.save().await;
    let text = |saved: Result<(), SessionError>| {
        saved.map_or_else(|error| format!("{error:?}"), |()| "saved".to_owned())
    };
    Ok(format!("{} {}", text(first), text(second)))
}

/// Changes the session by a closure that panics when it is replayed.
async fn panic_again(session: Session) -> Answer {
    let runs = AtomicU32::new(0);
    session.insert("half", true)?;
    session.update("again", move |value: &mut u32| {
        assert_eq!(runs.fetch_add(1, Ordering::SeqCst), 0, "run again");
        *value += 1;
    })?;
    Ok(String::new())
}

async fn fail(session: Session, params: Params) -> Response {
    let status = u16::try_from(number_param(&params, "status")).unwrap_or(500);
    let done = session
        .insert("failed", true)
        .and_then(|()| match param(&params, "also") {
            "cycle" => session.cycle_id(),
            _ => Ok(()),
        });
    match done {
        Ok(()) => StatusCode::from_u16(status)
            .unwrap_or(StatusCode::OK)
            .into_response(),
        Err(error) => error.into_response(),
    }
}

async fn panic(session: Session) -> Answer {
    session.insert("panicked", true)?;
    panic!("in the handler");
}

async fn number(session: Session, params: Params) -> Answer {
    let value: Option<i64> = session.get(param(&params, "k"))?;
    Ok(value.unwrap_or_default().to_string())
}

async fn facts(session: Session) -> String {
    let since = |time: std::time::SystemTime| {
        time.duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis()
    };
    serde_json::json!({
        "handle": session.handle().map(|handle| handle.to_string()),
        "is_new": session.is_new(),
        "is_modified": session.is_modified(),
        "created_at": since(session.created_at()),
        "last_accessed": since(session.last_accessed()),
        "expires_at": since(session.expires_at()),
        "fingerprint": format!("{:?}", session.fingerprint()),
    })
    .to_string()
}

async fn flash(session: Session, params: Params) -> Answer {
    session.flash_info(param(&params, "text"))?;
    Ok(String::new())
}

/// Takes the flash messages, and answers with their texts.
async fn flashes(session: Session) -> Answer {
    let flashes = session.take_flashes().await?;
    Ok(flashes
        .into_iter()
        .map(|flash| flash.text)
        .collect::<Vec<_>>()
        .join(","))
}

/// Signs in with timeouts of thirty days, and with a persistent cookie unless `not=persistent`.
async fn remember(session: Session, params: Params) -> Answer {
    let days = Duration::from_secs(30 * 24 * 60 * 60);
    session.set_principal("mia").await?;
    session.set_idle_timeout(days)?;
    session.set_absolute_timeout(days)?;
    session.set_persistent(param(&params, "not") != "persistent")?;
    Ok(String::new())
}
