//! Where HTTP is spoken: one request in, its handler, the response out.

pub(crate) mod authenticate;
pub(crate) mod body;
pub(crate) mod cache_control;
pub(crate) mod client_ip;
pub(crate) mod cookie;
pub(crate) mod error_response;
#[cfg(feature = "axum")]
pub(crate) mod extract;
pub(crate) mod finish;
pub(crate) mod from_config;
pub(crate) mod hooks;
pub(crate) mod layer;
pub(crate) mod logout;
pub(crate) mod nested;
pub(crate) mod parts;
pub(crate) mod request;
pub(crate) mod service;
pub(crate) mod slot;
