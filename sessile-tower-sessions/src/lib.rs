#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

// The files, in reading order:
//
// 1. `merge.rs` decides what a save leaves, from what the request loaded, what is stored by then, and what the request has now.
// 2. `hidden.rs: Loaded` is what the request loaded; it travels with the record, under a key of its own. `saves.rs: Saves`
//    corrects it for requests that save more than once.
// 3. `stored.rs: StoredSession` is a session as bytes, and `key.rs` is where it is stored.
// 4. `store.rs: SessileStore` loads and saves, in the types that every version of tower-sessions has, and fails by `failure.rs: Failure`;
//    `versions.rs` implements the trait of each.
// 5. `moving.rs: Moving` takes sessions over from another store.

/// The examples of the guide are tested here, since they need both crates.
#[cfg(all(doctest, feature = "v0_15"))]
mod documents {
    #[doc = include_str!("../../docs/migration/tower-sessions.md")]
    mod tower_sessions {}
    #[doc = include_str!("../../docs/migration/axum-login.md")]
    mod axum_login {}
}

mod failure;
mod hidden;
mod key;
mod merge;
mod moving;
mod saves;
mod store;
mod stored;
mod versions;

pub use hidden::HIDDEN_KEY;
pub use moving::Moving;
pub use store::SessileStore;
