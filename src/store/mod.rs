//! What a store of sessions takes and answers, for whoever writes one.
//!
//! What an application uses is at the root of the crate: [`MemoryStore`](crate::MemoryStore), [`RedisStore`](crate::RedisStore)
//! with its settings, and the trait, [`SessionStore`](crate::SessionStore).
//!
//! A store keeps bytes under a [`Handle`](crate::Handle), with a version and a time to live. It knows nothing of cookies, JSON or
//! merging, so a new one is a page of code; the suite in `sessile::conformance` (feature `conformance`) proves it. An
//! [`Arc`](std::sync::Arc) of a store is a store too.
//!
//! # The version
//!
//! The first [`Stored::VERSION_LEN`] bytes of every value are its version.
//! [`SessionStore::replace`](crate::SessionStore::replace) writes only while the value in the store still begins with the bytes
//! that the expected one begins with, in one atomic step. Every value ever written has a version of its own, so equal versions
//! are equal values.

mod arc;
pub(crate) mod contract;
pub(crate) mod deadline;
pub(crate) mod erased;
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
pub use lease::{Leased, Owner};
pub use memory::ManualClock;
pub use stats::{Evicted, Health, PoolStats, Progress, StatsOptions, StoreStats, TimeLeft};
