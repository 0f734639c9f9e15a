//! Support for all tests: real servers, real processes, and a proxy that breaks connections.
//!
//! - The application: `app.rs`, and `ledger.rs` for the histories. `visit.rs` runs handlers that are closures in a test.
//! - Clients: `browser.rs` and `window.rs` in this process, `node.rs` for an application in another one, `customer.rs` for one
//!   at the shop, `load.rs` for constant load.
//! - Servers: `server.rs`, `cluster.rs`, `sentinel.rs`, with certificates by `authority.rs`.
//! - Faults: `proxy.rs` between a store and Redis, `late.rs` in front of a memory store, and `sessile::testing::TestStore`, which fails
//!   or holds calls. `spy.rs` counts the calls of a store; `forward.rs` passes them on, `wrapper.rs` all but the newest.
//! - Waiting: `patience.rs` for events, `gate.rs` to hold handlers.

pub mod app;
pub mod authority;
pub mod browser;
pub mod cluster;
pub mod customer;
pub mod forward;
pub mod gate;
pub mod late;
pub mod ledger;
pub mod load;
pub mod node;
pub mod patience;
pub mod proxy;
pub mod sentinel;
pub mod server;
pub mod spy;
pub mod visit;
pub mod window;
pub mod wrapper;

use std::io::Write as _;

pub use authority::Authority;
pub use browser::Browser;
pub use cluster::Cluster;
pub use gate::Gate;
pub use node::Node;
pub use patience::{PATIENCE, until};
pub use proxy::Proxy;
pub use sentinel::Sentinels;
pub use server::Server;
pub use spy::Spy;
pub use visit::Visit;
pub use window::Window;

use sessile::{CompareAndSet, ConfigError, RedisConfig, RedisStore};

/// The Redis server of a test that can share one: the server of `REDIS_URL`, or one that the test starts.
pub enum Ground {
    Own(Server),
    Shared(String),
}

impl Ground {
    pub fn new() -> Self {
        match std::env::var("REDIS_URL") {
            Ok(url) if !url.is_empty() => {
                report("the server of REDIS_URL");
                Self::Shared(url)
            }
            _ => Self::Own(Server::start()),
        }
    }

    pub fn url(&self) -> String {
        match self {
            Self::Own(server) => server.url(),
            Self::Shared(url) => url.clone(),
        }
    }

    pub fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url())
            .and_then(|client| client.get_connection())
            .unwrap_or_else(|error| {
                panic!(
                    "REDIS_URL = {}: {error}; start that server, or unset REDIS_URL",
                    self.url()
                )
            })
    }

    pub async fn store(&self) -> RedisStore {
        store_with(&self.url(), |_| ()).await
    }
}

/// The compare-and-set of the stores under test, unless a test selects one: `script`, `watch` or `if_eq` by
/// `SESSILE_TEST_COMPARE_AND_SET`, otherwise `auto`.
pub fn compare_and_set() -> CompareAndSet {
    let name = std::env::var("SESSILE_TEST_COMPARE_AND_SET").unwrap_or_else(|_| "auto".to_owned());
    serde_json::from_value(name.into())
        .unwrap_or_else(|error| panic!("SESSILE_TEST_COMPARE_AND_SET: {error}"))
}

/// Adds the protocol of `SESSILE_TEST_PROTOCOL`, `resp2` or `resp3`, to a URL that selects none. Without it, the
/// store's default applies, which is `resp2`.
pub fn by_protocol(url: &str) -> String {
    match std::env::var("SESSILE_TEST_PROTOCOL") {
        Ok(protocol) if url.starts_with("redis") && !url.contains('?') => {
            format!("{url}?protocol={protocol}")
        }
        _ => url.to_owned(),
    }
}

/// A store with its own key prefix, since tests share servers, and with long timeouts (`unhurried`), unless `change`
/// says otherwise.
pub async fn store_with(url: &str, change: impl FnOnce(&mut RedisConfig)) -> RedisStore {
    let mut config = RedisConfig::new(by_protocol(url));
    config.key_prefix = fresh_prefix();
    config.compare_and_set = compare_and_set();
    patience::unhurried(&mut config);
    change(&mut config);
    RedisStore::from_config(config)
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

/// A store with the default key prefix and long timeouts, or the error of its startup.
pub async fn connect(url: impl Into<String>) -> Result<RedisStore, ConfigError> {
    let mut config = RedisConfig::new(url);
    patience::unhurried(&mut config);
    RedisStore::from_config(config).await
}

pub fn fresh_prefix() -> String {
    format!("test:{}:", sessile::Handle::random())
}

/// Records for the summary of `scripts/test` where a test ran.
fn report(place: &str) {
    let Ok(path) = std::env::var("SESSILE_TEST_REPORT") else {
        return;
    };
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path);
    // A single write, so that the lines of concurrent tests do not mix.
    let written = file.and_then(|mut file| {
        file.write_all(
            format!(
                "{place}
"
            )
            .as_bytes(),
        )
    });
    written.unwrap_or_else(|error| panic!("SESSILE_TEST_REPORT = {path}: {error}"));
}
