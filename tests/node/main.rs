//! The application under test as a separate process: `REDIS_URL=… node` prints its address, and then the name of every
//! event, with `Merged` for a commit with a conflict and `Together` for one of several requests. On SIGTERM it finishes
//! the requests in flight. With `NODE_HURRIES` it has the default timeouts, and with `NODE_MAX_SESSIONS` a limit of each user's sessions.

#![allow(unreachable_pub, reason = "a program exports nothing")]
#![allow(
    dead_code,
    reason = "the tests' support code has more than a node needs"
)]

use sessile::{Event, MaxSessions, RedisConfig, RedisStore, SessionLayer};
use tokio::signal::unix::{SignalKind, signal};

#[path = "../it/support/app.rs"]
mod app;
mod controls;
#[path = "../it/support/gate.rs"]
mod gate;
#[path = "../it/support/ledger.rs"]
mod ledger;
#[path = "../it/support/patience.rs"]
mod patience;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = RedisConfig::new(std::env::var("REDIS_URL")?);
    if let Ok(prefix) = std::env::var("KEY_PREFIX") {
        config.key_prefix = prefix;
    }
    if let Ok(name) = std::env::var("SESSILE_TEST_COMPARE_AND_SET") {
        config.compare_and_set = serde_json::from_value(name.into())?;
    }
    if std::env::var_os("NODE_HURRIES").is_none() {
        patience::unhurried(&mut config);
    }
    let store = RedisStore::from_config(config).await?;
    let control = std::env::var("NODE_CONTROL").ok();
    let control = control.as_deref().map(controls::Control::named);
    let layer = match control {
        Some(control) => SessionLayer::new(controls::Broken::new(store, control)),
        None => SessionLayer::new(store),
    };
    let mut layer = layer.insecure_for_localhost().with_observer(print_event);
    if let Ok(most) = std::env::var("NODE_MAX_SESSIONS") {
        layer = layer.with_max_sessions(MaxSessions::evict_oldest(most.parse()?));
    }
    let background = layer.clone();
    let port: u16 = std::env::var("PORT").map_or(Ok(0), |port| port.parse())?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("{}", listener.local_addr()?);
    let distort = move |response| {
        std::future::ready(match control {
            Some(control) => control.distort(response),
            None => response,
        })
    };
    let app = app::app(layer).layer(axum::middleware::map_response(distort));
    let redirect = move |request| match control {
        Some(control) => control.redirect(request),
        None => request,
    };
    let app = tower::util::MapRequest::new(app, redirect);
    let server = axum::serve(
        listener,
        axum::ServiceExt::<axum::extract::Request>::into_make_service(app),
    );
    let mut sigterm = signal(SignalKind::terminate())?;
    let end = async move {
        sigterm.recv().await;
    };
    server.with_graceful_shutdown(end).await?;
    background.drained().await;
    Ok(())
}

fn print_event(event: &Event) {
    let text = format!("{event:?}");
    let name = text.split(' ').next().unwrap_or_default();
    println!("event {name}");
    if let Event::Committed {
        requests, attempts, ..
    } = event
    {
        println!("event Attempts {attempts}");
        if *attempts > 1 {
            println!("event Merged");
        }
        if *requests > 1 {
            println!("event Together");
        }
    }
}
