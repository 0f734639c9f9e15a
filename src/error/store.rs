//! What can go wrong in a store.

use std::error::Error;
use std::sync::Arc;

/// A cause, cloneable so that an error can be left in the response's extensions.
pub(crate) type Cause = Arc<dyn Error + Send + Sync>;

/// Whether a failed operation may have changed the store. The commit protocol decides by this alone.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// Nothing was sent: the store was not reached.
    Unavailable,
    /// The store said no, and changed nothing.
    Refused,
    /// It was sent and no answer came: it may have been done, or be done later.
    Unknown,
    /// It was done on the primary, and too few replicas have said that they have it: see [`Durability::Replicas`](crate::store::Durability::Replicas).
    NotDurable,
}

/// A failure of the store.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    kind: StoreErrorKind,
    message: String,
    source: Option<Cause>,
}

impl StoreError {
    /// Nothing was sent.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Unavailable, message.into())
    }

    /// The store said no.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Refused, message.into())
    }

    /// Sent, and not answered.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Unknown, message.into())
    }

    /// Done, but not on as many replicas as asked for.
    pub fn not_durable(message: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::NotDurable, message.into())
    }

    pub(crate) fn new(kind: StoreErrorKind, message: String) -> Self {
        Self {
            kind,
            message,
            source: None,
        }
    }

    /// Adds the cause. It must name no value and no token.
    #[must_use]
    pub fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// The same of something that changes nothing, so that it does not matter whether it was done.
    #[cfg(feature = "redis")]
    pub(crate) fn unsent(mut self) -> Self {
        if self.kind == StoreErrorKind::Unknown {
            self.kind = StoreErrorKind::Unavailable;
        }
        self
    }

    /// Whether the operation may have happened.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}
