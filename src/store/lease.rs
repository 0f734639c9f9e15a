//! Leases: one owner at a time has the right to a session, for a limited time.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::store::StoreError;
use crate::token::random_bytes;

/// Who has a lease: 128 random bits, drawn for each one that is taken. It opens nothing and is safe to log.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner([u8; 16]);

impl Owner {
    /// Draws a new owner from the operating system's generator.
    ///
    /// # Panics
    ///
    /// If the operating system has no randomness to give, as [`Handle::random`](crate::Handle::random).
    pub fn random() -> Self {
        Self(random_bytes())
    }

    /// What a store may write to tell one owner from another.
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
    /// The owner has it, from now for as long as it asked for.
    Held,
    /// Another owner has it. Nothing was changed.
    Taken {
        /// The time until it is free, unless its owner renews it or gives it up before.
        left: Duration,
    },
}

pub(crate) fn unsupported() -> StoreError {
    StoreError::refused(
        "this store has no leases: use another store, or another `Concurrency` than `Exclusive`",
    )
}
