//! Failures of a store.

use std::error::Error;
use std::sync::Arc;

/// A cause. It can be cloned, so that the response's extensions can hold a clone of the error.
pub(crate) type Cause = Arc<dyn Error + Send + Sync>;

/// Whether a failed operation may have changed the store. The commit protocol decides by this and by nothing else of the error.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The store could not be reached, and nothing was sent.
    Unavailable,
    /// The store rejected the operation, and changed nothing.
    Refused,
    /// The operation was sent, and no reply arrived: it may have been applied, or may still be applied.
    Unknown,
    /// The primary has applied the operation, but too few replicas have acknowledged it: see
    /// [`Durability::Replicas`](crate::store::Durability::Replicas).
    NotDurable,
}

impl StoreErrorKind {
    /// The variant's name in snake case, such as `not_durable`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::NotDurable => "not_durable",
        }
    }
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
    /// Creates an error of the kind [`Unavailable`](StoreErrorKind::Unavailable): nothing was sent.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Unavailable, message.into())
    }

    /// Creates an error of the kind [`Refused`](StoreErrorKind::Refused): the store rejected the operation.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Refused, message.into())
    }

    /// Creates an error of the kind [`Unknown`](StoreErrorKind::Unknown): the operation was sent, and no reply arrived.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Unknown, message.into())
    }

    /// Creates an error of the kind [`NotDurable`](StoreErrorKind::NotDurable): too few replicas have acknowledged the operation.
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

    /// Adds the cause. Its message must not contain a value or a token.
    #[must_use]
    pub fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Converts the error of an operation that does not change the store, so that it does not matter whether it was applied.
    #[cfg(feature = "redis")]
    pub(crate) fn into_unavailable(mut self) -> Self {
        if self.kind == StoreErrorKind::Unknown {
            self.kind = StoreErrorKind::Unavailable;
        }
        self
    }

    /// Whether the cause is of this type.
    pub(crate) fn is_caused_by<E: Error + 'static>(&self) -> bool {
        self.source
            .as_deref()
            .is_some_and(|source| source.is::<E>())
    }

    /// Returns whether the operation may have been applied.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}
