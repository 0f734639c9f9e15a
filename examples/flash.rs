//! How do I say "Saved." once, on the next page?
//!
//! `cargo run --example flash`, then open the address it prints, in two tabs: each message shows in one of them. Sessions are
//! kept in memory, or in Redis if `REDIS_URL` says where. `PORT` is another port than 3000.

use axum::Router;
use axum::extract::Form;
use axum::response::{Html, Redirect};
use axum::routing::{get, post};
use serde::Deserialize;
use sessile::{Level, MemoryStore, RedisStore, Session, SessionError, SessionLayer};

async fn page(session: Session) -> Result<Html<String>, SessionError> {
    // Taken by this page and by no other, though two tabs ask at once.
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
        // Plain HTTP is for trying it out; in production leave this call away.
        .layer(sessions.insecure_for_localhost());

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("open http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}
