//! How do I say "Saved." once, on the next page?
//!
//! Run `cargo run --example flash` and open the address that it prints in two tabs: each message shows in one of them. The example
//! stores sessions in memory, or in Redis if `REDIS_URL` is set. `PORT` sets the port; 3000 by default.

use axum::Router;
use axum::extract::Form;
use axum::response::{Html, Redirect};
use axum::routing::{get, post};
use serde::Deserialize;
use sessile::{Level, MemoryStore, RedisStore, Session, SessionError, SessionLayer};

async fn page(session: Session) -> Result<Html<String>, SessionError> {
    // Only one page takes a message, even if two tabs load at once.
    let flashes = session.take_flashes().await?;
    let list: String = flashes
        .iter()
        .map(|flash| format!("<li>{}: {}", flash.level, escape(&flash.text)))
        .collect();
    Ok(Html(format!(
        "<!doctype html><title>flash</title><ul>{list}</ul>
         <form method=post action=/save><input name=text placeholder=text autofocus> <button>Save</button></form>"
    )))
}

#[derive(Deserialize)]
struct Note {
    text: String,
}

async fn save(session: Session, Form(note): Form<Note>) -> Result<Redirect, SessionError> {
    match note.text.trim() {
        "" => session.flash(Level::Error, "There was nothing to save.")?,
        text => session.flash(Level::Success, format!("Saved “{text}”."))?,
    }
    Ok(Redirect::to("/"))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
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
        .route("/save", post(save))
        // This allows plain HTTP for a trial; remove the call in production.
        .layer(sessions.insecure_for_localhost());

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("open http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}
