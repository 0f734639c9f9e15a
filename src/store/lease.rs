//! Leases: one owner at a time has the right to a session, for a limited time.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::store::StoreError;
use crate::token::random_bytes;

/// The owner of a lease: 128 random bits, drawn each time a lease is taken. It grants no access and is safe to log.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner([u8; 16]);

impl Owner {
    /// Draws a new owner from the operating system's generator.
    ///
    /// # Panics
    ///
    /// If the operating system provides no randomness, as [`Handle::random`](crate::Handle::random).
    pub fn random() -> Self {
        Self(random_bytes())
    }

    /// The bytes that a store may write to distinguish one owner from another.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// 22 characters of base64url.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owner({self})")
    }
}

/// The outcome of [`SessionStore::acquire`](crate::SessionStore::acquire).
#[must_use]
#[allow(
    clippy::exhaustive_enums,
    reason = "complete: the owner has it or another does"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leased {
    /// The owner has it, from now and for as long as requested.
    Held,
    /// Another owner has it. Nothing changed.
    Taken {
        /// The time until it is free, unless its owner renews or releases it before.
        left: Duration,
    },
}

pub(crate) fn unsupported() -> StoreError {
    StoreError::refused(
        "this store has no leases: use another store, or another `Concurrency` than `Exclusive`",
    )
}
