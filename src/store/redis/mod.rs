//! Sessions in Redis or Valkey, one string each.

mod address;
mod advice;
mod breaker;
mod cas;
mod channel;
pub(crate) mod config;
mod connect;
mod connections;
pub(crate) mod credentials;
mod endpoint;
mod error;
mod exclusive;
mod lease;
mod link;
mod login;
mod manager;
mod pool;
mod probe;
mod read;
mod replicas;
mod reply;
mod request;
#[cfg(feature = "cluster")]
mod router;
pub(crate) mod sentinel;
mod servers;
mod stats;
pub(crate) mod store;
mod throttle;
pub(crate) mod tls;
mod url;
