//! Where HTTP is spoken: one request in, its handler, the response out.

pub(crate) mod authenticate;
pub(crate) mod cache_control;
pub(crate) mod client_ip;
pub(crate) mod cookie;
#[cfg(feature = "axum")]
pub(crate) mod extract;
pub(crate) mod finish;
pub(crate) mod from_config;
pub(crate) mod layer;
pub(crate) mod logout;
pub(crate) mod request;
pub(crate) mod service;
pub(crate) mod slot;
