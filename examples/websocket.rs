//! How do I use the session in a WebSocket, after the response has been sent?
//!
//! Run `cargo run --example websocket` and open the address that it prints in two tabs, which share one counter. The example stores
//! sessions in memory, or in Redis if `REDIS_URL` is set. `PORT` sets the port; 3000 by default.

use std::time::Duration;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::{Html, Response};
use axum::routing::get;
use sessile::{MemoryStore, RedisStore, Session, SessionError, SessionLayer};

/// A page with a button that counts over a WebSocket. The page creates the session, since a WebSocket can no longer set a cookie.
async fn page(session: Session) -> Result<Html<&'static str>, SessionError> {
    session.increment("pages", 1)?;
    Ok(Html(
        "<!doctype html><title>websocket</title><button>count</button> <output></output>
         <script>
           const socket = new WebSocket(`ws://${location.host}/count`);
           document.querySelector('button').onclick = () => socket.send('count');
           socket.onmessage = message => document.querySelector('output').value = message.data;
         </script>",
    ))
}

async fn count(session: Session, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(|socket| serve(socket, session))
}

async fn serve(mut socket: WebSocket, session: Session) {
    let mut renewal = tokio::time::interval(Duration::from_secs(60));
    loop {
        let answer = tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(Message::Text(_))) => match add(&session).await {
                    Ok(number) => number.to_string(),
                    // The user has signed out in another tab, for example: the connection ends with the session.
                    Err(error) => {
                        tracing::info!(%error, "no longer counting");
                        return;
                    }
                },
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return,
            },
            // While the socket is open there may be no request that renews the session, or notices that it has ended.
            _ = renewal.tick() => {
                if session.reload().await.is_err() {
                    return;
                }
                session.touch();
                continue;
            }
        };
        if socket.send(Message::text(answer)).await.is_err() {
            return;
        }
    }
}

/// After the response, sessile does not commit changes by itself. `save` commits them, and merges the changes of other requests.
async fn add(session: &Session) -> Result<i64, SessionError> {
    session.increment("clicks", 1)?;
    session.save().await?;
    Ok(session.get("clicks")?.unwrap_or_default())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter("info,sessile=debug")
        .init();
    let sessions = match std::env::var("REDIS_URL") {
        Ok(url) => SessionLayer::new(RedisStore::from_url(url).await?),
        Err(_) => SessionLayer::new(MemoryStore::new()),
    };
    let app = Router::new()
        .route("/", get(page))
        .route("/count", get(count))
        // This allows plain HTTP for a trial; remove the call in production.
        .layer(sessions.insecure_for_localhost());

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("open http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}
