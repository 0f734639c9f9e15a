//! How do I use the session in a WebSocket, after the response has gone?
//!
//! `cargo run --example websocket`, then open the address it prints, in two tabs: they count together. Sessions are kept in
//! memory, or in Redis if `REDIS_URL` says where. `PORT` is another port than 3000.

use std::time::Duration;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::{Html, Response};
use axum::routing::get;
use sessile::{MemoryStore, RedisStore, Session, SessionError, SessionLayer};

/// A page with a button that counts over a WebSocket. It makes the session: a WebSocket comes too late to set a cookie.
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
    let mut awake = tokio::time::interval(Duration::from_secs(60));
    loop {
        let answer = tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(Message::Text(_))) => match add(&session).await {
                    Ok(number) => number.to_string(),
                    // Signed out in another tab, say: the connection ends with the session.
                    Err(error) => {
                        tracing::info!(%error, "no longer counting");
                        return;
                    }
                },
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return,
            },
            // No request keeps the session alive while the socket is open, or tells that it has ended.
            _ = awake.tick() => {
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

/// After the response nothing is saved by itself. `save` brings in what other requests have changed meanwhile.
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
        // Plain HTTP is for trying it out; in production leave this call away.
        .layer(sessions.insecure_for_localhost());

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("open http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}
