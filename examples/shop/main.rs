//! How do I build a shop with accounts: a cart, sign-in, "remember me", a page of one's devices, a new password?
//!
//! Run `cargo run --example shop` and open the address that it prints. Any name signs in with the password `tulip`, until its user
//! changes it. The shop works without JavaScript. It stores sessions and passwords in memory, or in Redis if `REDIS_URL` is set. Two
//! instances on two ports then share them:
//!
//! ```sh
//! REDIS_URL=redis://127.0.0.1/ PORT=3000 cargo run --example shop
//! REDIS_URL=redis://127.0.0.1/ PORT=3001 cargo run --example shop
//! ```
//!
//! `REDIS_TIMEOUT=10` lets Redis take ten seconds for an answer instead of one, for a slow machine.
//!
//! - `goods.rs`: the catalogue, the cart and the order, which concurrent requests change without losing an article.
//! - `sign_in.rs`: sign-in and sign-out, and the way back to the page that a visitor wanted.
//! - `account.rs`: the devices of a user, and a new password, which signs out all others.
//! - `users.rs`: users and the hashes of their passwords, a stand-in for the shop's database.
//! - `page.rs`: what all pages share, forms with their CSRF token, and pages for errors.
//! - `device.rs`: the name of a device, from its `User-Agent`.
#![allow(unreachable_pub, reason = "an example exports nothing")]

use std::env;
use std::net::SocketAddr;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Html;
use axum::routing::{get, post};
use axum::{Router, serve};
use sessile::{
    ConfigError, CsrfLayer, MemoryStore, RedisConfig, RedisStore, RequirePrincipal, SessionLayer,
};

use crate::users::Users;

mod account;
mod device;
mod goods;
mod page;
mod sign_in;
mod users;

fn shop(users: Users, sessions: SessionLayer) -> Result<Router, ConfigError> {
    // The forms below carry a token, which their handlers check by `CsrfForm`: so they also work in browsers that send neither
    // `Sec-Fetch-Site` nor `Origin`. The layer refuses what another site sends to any route that is added later.
    let mut csrf = CsrfLayer::new();
    for path in ["/account/", "/cart/", "/order", "/sign-in", "/sign-out"] {
        csrf = csrf.exempt(path)?;
    }
    let members = Router::new()
        .route("/account", get(account::show))
        .route("/account/end", post(account::end))
        .route("/account/end-others", post(account::end_others))
        .route("/account/password", post(account::change_password))
        .route_layer(RequirePrincipal::new().redirect_to("/sign-in")?);
    let shop = Router::new()
        .route("/", get(goods::home))
        .route("/cart", get(goods::cart))
        .route("/cart/add", post(goods::add))
        .route("/cart/remove", post(goods::remove))
        .route("/order", post(goods::order))
        .route("/sign-in", get(sign_in::show).post(sign_in::sign_in))
        .route("/sign-out", post(sign_in::sign_out))
        .merge(members)
        .fallback(|| async {
            let body = "<p>There is nothing here. <a href=/>Back to the shop</a></p>";
            (StatusCode::NOT_FOUND, Html(page::bare("Not found", body)))
        })
        .with_state(users)
        .layer(csrf)
        .layer(sessions.with_on_error(page::error));
    Ok(shop)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter("info,sessile=debug")
        .init();
    let (users, sessions) = match env::var("REDIS_URL") {
        Ok(url) => {
            let seconds = env::var("REDIS_TIMEOUT").unwrap_or_else(|_| "1".to_owned());
            let timeout = Duration::from_secs(seconds.parse()?);
            let users = Users::in_redis(&url, timeout)?;
            let config = RedisConfig::new(url)
                .with_connection_timeout(timeout)
                .with_command_timeout(timeout)
                .with_request_budget(timeout);
            let store = RedisStore::from_config(config).await?;
            (users, SessionLayer::new(store))
        }
        Err(_) => (Users::in_memory(), SessionLayer::new(MemoryStore::new())),
    };
    // This allows plain HTTP for a trial; remove the call in production.
    let app = shop(users, sessions.insecure_for_localhost())?;

    let port = env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("open http://{}", listener.local_addr()?);
    // The address of the client, for the network that the page of devices shows.
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    Ok(serve(listener, app).await?)
}
