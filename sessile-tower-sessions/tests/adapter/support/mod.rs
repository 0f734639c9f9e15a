//! Stores, and requests to an application.

#![allow(
    dead_code,
    reason = "shared with the tests of sessile, which use more of it"
)]

#[path = "../../../../tests/it/support/patience.rs"]
pub mod patience;
#[path = "../../../../tests/it/support/server.rs"]
pub mod server;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use sessile::{MemoryStore, RedisConfig, RedisStore};
use sessile_tower_sessions::SessileStore;
use tower::ServiceExt as _;

pub use server::Server;

/// What the tests of sessile write where a test ran.
fn report(_: &str) {}

pub fn memory() -> SessileStore<MemoryStore> {
    SessileStore::new(MemoryStore::new())
}

pub async fn redis(server: &Server) -> SessileStore<RedisStore> {
    let mut config = RedisConfig::new(server.url());
    config.key_prefix = "tower-sessions:".to_owned();
    patience::unhurried(&mut config);
    SessileStore::new(RedisStore::from_config(config).await.unwrap())
}

/// Makes two tests of one function: on the memory store, and on a redis-server.
macro_rules! on_both_stores {
    ($($name:ident),+ $(,)?) => {
        mod memory {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(crate::support::memory()).await;
                }
            )+
        }

        mod redis {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let server = crate::support::Server::start();
                    super::$name(crate::support::redis(&server).await).await;
                }
            )+
        }
    };
}
pub(crate) use on_both_stores;

/// A visitor with one cookie.
#[derive(Clone, Default)]
pub struct Browser {
    pub cookie: Option<String>,
}

impl Browser {
    /// Sends a GET, and keeps the cookie of the response.
    pub async fn get(&mut self, app: &Router, path: &str) -> (StatusCode, String) {
        let mut request = Request::get(path);
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        if let Some(cookie) = response.headers().get(header::SET_COOKIE) {
            let cookie = cookie.to_str().unwrap();
            let pair = cookie.split(';').next().unwrap();
            self.cookie = (!pair.ends_with('=')).then(|| pair.to_owned());
        }
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}
