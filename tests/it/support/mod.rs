//! Real servers, real processes and a proxy that breaks connections, for all tests.

pub mod app;
pub mod authority;
pub mod browser;
pub mod cluster;
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

use sessile::{CompareAndSet, ConfigError, RedisConfig, RedisStore};

/// Where a test that may share a server runs: the one of `REDIS_URL`, or one of its own.
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

/// How the stores of the tests compare and set, where a test does not say: `script`, `watch` or `if_eq`.
pub fn compare_and_set() -> CompareAndSet {
    let name = std::env::var("SESSILE_TEST_COMPARE_AND_SET").unwrap_or_else(|_| "auto".to_owned());
    serde_json::from_value(name.into())
        .unwrap_or_else(|error| panic!("SESSILE_TEST_COMPARE_AND_SET: {error}"))
}

/// A URL by which stores speak what the tests are to speak: `resp2`, which they do where a test does not say, or `resp3`.
pub fn by_protocol(url: &str) -> String {
    match std::env::var("SESSILE_TEST_PROTOCOL") {
        Ok(protocol) if url.starts_with("redis") && !url.contains('?') => {
            format!("{url}?protocol={protocol}")
        }
        _ => url.to_owned(),
    }
}

/// A store of a prefix of its own, since servers are shared. It is in no hurry, where a test does not say.
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

/// A store of the default prefix, in no hurry either; or why there is none.
pub async fn connect(url: impl Into<String>) -> Result<RedisStore, ConfigError> {
    let mut config = RedisConfig::new(url);
    patience::unhurried(&mut config);
    RedisStore::from_config(config).await
}

pub fn fresh_prefix() -> String {
    format!("test:{}:", sessile::Handle::random())
}

/// Counts for the summary of `scripts/test` where a test ran.
fn report(place: &str) {
    let Ok(path) = std::env::var("SESSILE_TEST_REPORT") else {
        return;
    };
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path);
    // One write, so that tests which end together do not share a line.
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
