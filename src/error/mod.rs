//! The errors. Each message says how to fix the problem: which setting, which value, which key. No error holds a token or a
//! session value.
//!
//! Read them from the store up:
//!
//! 1. `store.rs`: a failure of the store. `StoreError::kind` says whether the operation may have been applied.
//! 2. `json.rs`: a value that cannot be written as JSON, or read from it.
//! 3. `session.rs`: a failed session call or commit. `middleware/error_response.rs` turns it into a response.
//! 4. `config.rs`: an invalid setting, or a store that cannot be used, found at startup.

pub(crate) mod config;
pub(crate) mod json;
pub(crate) mod session;
pub(crate) mod store;
