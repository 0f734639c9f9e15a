//! Where sessions are kept: the trait that every store implements, its arguments and outcomes, and the stores that come with
//! the crate. Read this to write a store of your own.
//!
//! Applications use the types at the root of the crate: [`MemoryStore`](crate::MemoryStore),
//! [`RedisStore`](crate::RedisStore) with its settings, and the trait, [`SessionStore`](crate::SessionStore).
//!
//! A store keeps bytes under a [`Handle`](crate::Handle), the public half of the token in the cookie, which names a session.
//! The bytes have a version and a time to live. The store knows nothing of cookies, JSON or merging, so a new one takes a page
//! of code; the suite in `sessile::conformance` (feature `conformance`) tests it. An [`Arc`](std::sync::Arc) of a store is a
//! store too.
//!
//! # The version
//!
//! The first [`Stored::VERSION_LEN`] bytes of every value are its version.
//! [`SessionStore::replace`](crate::SessionStore::replace) writes only if the stored value begins with the version of the
//! expected value, and compares and writes in one atomic step. Every write has a version of its own, so two values with the
//! same version are the same value.
//!
//! # Leases
//!
//! A *lease* is the right of one [`Owner`] to a session for a limited time, apart from the session itself:
//! `Concurrency::Exclusive` takes one for each request. A store need not have leases; [`Capabilities::lease`] says whether it
//! does.
//!
//! # The index
//!
//! The *index* of a principal lists the sessions that they are signed in to, so that an application can show and end them:
//! [`Sessions`](crate::Sessions). A sign-in has three steps, and only then does the browser get its token:
//!
//! 1. [`SessionStore::enter`](crate::SessionStore::enter) puts the session into the index, *reserved*: it is listed, but need not
//!    belong to the principal yet.
//! 2. [`SessionStore::replace`](crate::SessionStore::replace) or [`create`](crate::SessionStore::create) signs in the principal.
//! 3. [`SessionStore::confirm`](crate::SessionStore::confirm) ends the reservation, if the session is still listed, and no new
//!    *generation* has begun since it entered.
//!
//! To end all sessions of a principal, sessile begins a new generation
//! ([`begin_generation`](crate::SessionStore::begin_generation)), and then lists and ends the sessions. A sign-in that had entered
//! before is either listed, or fails to confirm. So an index may list sessions that have ended, and never misses one that a
//! browser can use. Whoever lists it removes the former ([`leave`](crate::SessionStore::leave)), by their `until`, which becomes
//! later whenever a session enters again or is confirmed: what has happened since the list is not undone.
//!
//! Index and session may be on different servers. A store need not have an index; [`Capabilities::index`] says whether it does.

// The files, in reading order:
//
// 1. `contract.rs: SessionStore` is the trait, with its arguments (`Write`, `Freshness`, `Durability`) and outcomes (`Loaded`,
//    `Created`, `Replaced`, `Touched`, `Deleted`). `lease.rs: Owner` and `Leased` belong to it, and
//    `index.rs: IndexKey`, `Entry` and `Generation`, with the decisions of an index (`Snapshot`).
// 2. `erased.rs: ErasedStore` is the trait as the rest of the crate uses it, without a type parameter; `is_same_store` compares
//    two stores. `arc.rs` implements the trait for `Arc`, and `any.rs` for `AnyStore`, a store that the configuration chose.
// 3. `deadline.rs: within` bounds the time of one call by the request's budget.
// 4. `stats.rs` holds the types that stores report: `StoreStats`, `Health`, `PoolStats`.
// 5. `memory/mod.rs: MemoryStore` keeps sessions in this process; it shows the contract without a network.
// 6. `redis/mod.rs` describes how `RedisStore` keeps them in Redis or Valkey.

pub(crate) mod any;
mod arc;
pub(crate) mod contract;
pub(crate) mod deadline;
pub(crate) mod erased;
pub(crate) mod index;
pub(crate) mod lease;
pub(crate) mod memory;
#[cfg(feature = "redis")]
pub(crate) mod redis;
pub(crate) mod stats;

pub use crate::error::store::StoreErrorKind;
pub use crate::record::lifetime::Renewal;
pub use contract::{
    Capabilities, Created, Deleted, Durability, Freshness, Loaded, Replaced, Stored, Touched, Write,
};
pub use index::{
    Admission, Confirmed, Entered, Entry, GENERATION_KEPT_FOR, Generation, IndexKey, Indexed,
    IndexedSession, RESERVED_FOR, Since,
};
pub use lease::{Leased, Owner};
pub use memory::ManualClock;
#[cfg(feature = "redis")]
pub use redis::scan::HandleScan;
pub use stats::{Evicted, Health, PoolStats, Progress, StatsOptions, StoreStats, TimeLeft};
