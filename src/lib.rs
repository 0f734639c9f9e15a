#![cfg_attr(
    all(feature = "axum", feature = "redis"),
    doc = include_str!("../README.md")
)]
#![cfg_attr(
    not(all(feature = "axum", feature = "redis")),
    doc = "Server-side sessions for axum and tower, kept in Redis or Valkey."
)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(feature = "redis"),
    allow(
        rustdoc::broken_intra_doc_links,
        reason = "the documentation is written for all features"
    )
)]
// Here and not in Cargo.toml, since tests, benches and examples may unwrap.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

/// The examples in these documents are tested as those of the README are.
#[cfg(all(doctest, feature = "axum", feature = "redis"))]
mod documents {
    #[doc = include_str!("../docs/configuration.md")]
    mod configuration {}
    #[doc = include_str!("../docs/deployment.md")]
    mod deployment {}
    #[doc = include_str!("../docs/failures.md")]
    mod failures {}
    #[doc = include_str!("../docs/handlers.md")]
    mod handlers {}
    #[doc = include_str!("../docs/start.md")]
    mod start {}
    #[doc = include_str!("../docs/own-store.md")]
    mod own_store {}
    #[doc = include_str!("../docs/recipes.md")]
    mod recipes {}
    #[doc = include_str!("../docs/migration/actix-session.md")]
    mod migration_actix_session {}
    #[doc = include_str!("../docs/migration/axum_session.md")]
    mod migration_axum_session {}
    #[cfg(feature = "metrics")]
    #[doc = include_str!("../docs/operations.md")]
    mod operations {}
    #[cfg(feature = "testing")]
    #[doc = include_str!("../docs/testing.md")]
    mod testing {}
}

mod commit;
mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod event;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod lock;
#[cfg(not(feature = "metrics"))]
mod metrics;
#[cfg(feature = "metrics")]
pub mod metrics;
mod middleware;
mod record;
mod session;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod time;
mod token;

pub use config::SessionConfig;
pub use config::client_address::ClientAddress;
pub use config::cookie::{CookieConfig, SameSite};
pub use config::durability::DurabilityConfig;
pub use config::max_sessions::{MaxSessions, WhenFull};
pub use config::policies::{Concurrency, Exclusive, Load, OnStoreError, SignedInCaching};
pub use config::store::StoreConfig;
pub use config::transport::{TokenHeader, Transport};
pub use error::config::ConfigError;
pub use error::json::{JsonError, JsonErrorKind};
pub use error::session::{CsrfFailure, Denied, Gone, LimitedPart, SessionError, SignInRefused};
pub use error::store::StoreError;
pub use event::{AddressProblem, EndReason, Event, Observer};
pub use middleware::body::ResponseBody;
pub use middleware::client_ip::PeerAddress;
pub use middleware::csrf::{CsrfLayer, CsrfService};
#[cfg(feature = "axum")]
pub use middleware::csrf_form::{CsrfForm, CsrfFormRejection};
pub use middleware::from_config::Config;
pub use middleware::layer::SessionLayer;
pub use middleware::local_path::LocalPath;
pub use middleware::logout::Logout;
pub use middleware::principal::Principal;
pub use middleware::require_principal::{RequirePrincipal, RequirePrincipalService};
pub use middleware::service::{ResponseFuture, SessionService};
pub use record::fingerprint::{Fingerprint, Fingerprinting};
pub use record::flash::{Flash, Level};
pub use record::key::{Key, KeyName, SessionKey};
pub use record::transaction::{Data, TransactionError};
pub use session::Session;
pub use session::read_only::ReadSession;
pub use session::sessions::{SessionInfo, Sessions, SignIn};
pub use session::stored::{StoredSession, TokenState};
pub use store::any::AnyStore;
pub use store::contract::SessionStore;
pub use store::memory::MemoryStore;
pub use store::memory::config::MemoryConfig;
#[cfg(feature = "redis")]
pub use store::redis::{
    config::{CompareAndSet, RedisConfig},
    credentials::{Credentials, CredentialsProvider},
    sentinel::SentinelConfig,
    store::RedisStore,
    tls::TlsConfig,
};
pub use token::{Handle, InvalidHandle};
