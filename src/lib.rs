#![cfg_attr(feature = "axum", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "axum"),
    doc = "Server-side sessions for tower, kept in Redis or Valkey."
)]
#![cfg_attr(docsrs, feature(doc_cfg))]
// Here and not in Cargo.toml, since tests, benches and examples may unwrap.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

/// Its examples are tested as those of the README are.
#[cfg(all(doctest, feature = "axum"))]
#[doc = include_str!("../docs/handlers.md")]
mod handlers {}

mod answer;
mod authenticate;
mod cache_control;
mod change;
mod change_log;
mod client_ip;
mod commit;
mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
mod cookie;
mod cookie_domain;
mod deadline;
mod duration;
mod error;
mod event;
#[cfg(feature = "axum")]
mod extract;
mod factory;
mod fingerprint;
mod finite;
mod flash;
mod inbound;
mod json;
mod kept;
mod key;
mod layer;
mod lifetime;
mod lock;
mod logout;
#[cfg(feature = "metrics")]
mod metrics;
mod outbound;
mod principal;
mod read_session;
mod record;
mod renew;
mod service;
mod session;
mod shared;
mod state;
pub mod store;
mod tape;
mod token;
mod transaction;
mod version;
mod visit;

pub use config::{
    Concurrency, ConfigError, CookieConfig, DurabilityConfig, Load, OnStoreError, SameSite,
    SessionConfig, SignedInCaching,
};
pub use error::{Gone, JsonError, JsonErrorKind, SessionError};
pub use event::{Event, Observer};
pub use factory::{Config, StoreConfig};
pub use fingerprint::{Fingerprint, Fingerprinting};
pub use flash::{Flash, Level};
pub use key::{Key, SessionKey};
pub use layer::SessionLayer;
pub use logout::Logout;
pub use read_session::ReadSession;
pub use service::{ResponseFuture, SessionService};
pub use session::Session;
pub use store::{
    CompareAndSet, Credentials, CredentialsProvider, MemoryStore, RedisConfig, RedisStore,
    SentinelConfig, SessionStore, StoreError, TlsConfig,
};
pub use token::{Handle, InvalidHandle};
pub use transaction::{Data, TransactionError};
