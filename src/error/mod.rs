//! What can go wrong, each error with what to do about it.

pub(crate) mod config;
pub(crate) mod json;
pub(crate) mod session;
pub(crate) mod store;
