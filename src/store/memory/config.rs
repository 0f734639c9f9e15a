//! The settings of a memory store.

use serde::Deserialize;

use crate::error::config::ConfigError;

/// The limits of a [`MemoryStore`](crate::MemoryStore).
///
/// ```
/// use sessile::{MemoryConfig, MemoryStore};
///
/// let store = MemoryStore::from_config(MemoryConfig::default().with_capacity(10_000))?;
/// # Ok::<(), sessile::ConfigError>(())
/// ```
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryConfig {
    /// How many sessions the store holds; 100 000 by default, at least 1. To make room, it evicts anonymous sessions first.
    pub capacity: usize,
    /// How many bytes all sessions may take; 256 MiB by default, which is 2.6 KiB for each of 100 000 sessions. Keep it well above
    /// [`max_size`](crate::SessionConfig::max_size): see [`MemoryStore::with_max_bytes`](crate::MemoryStore::with_max_bytes).
    pub max_bytes: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            capacity: 100_000,
            max_bytes: 256 << 20,
        }
    }
}

impl MemoryConfig {
    /// Sets the [`capacity`](Self::capacity) in sessions; 100 000 by default.
    #[must_use]
    pub fn with_capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// Sets the limit in [bytes](Self::max_bytes); 256 MiB by default.
    #[must_use]
    pub fn with_max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Rejects a store that could hold no session of `max_size` bytes.
    pub(crate) fn check_for(self, max_size: usize) -> Result<(), ConfigError> {
        if self.max_bytes / 2 >= max_size {
            return Ok(());
        }
        let advice = format!(
            "a session may take max_size = {max_size} bytes: write a number of bytes well above that, such as {}",
            Self::default().max_bytes.max(max_size.saturating_mul(100))
        );
        Err(ConfigError::invalid("max_bytes", self.max_bytes, advice))
    }

    pub(crate) fn check(self) -> Result<(), ConfigError> {
        if self.capacity > 0 {
            return Ok(());
        }
        let advice = "write a number of sessions above 0, such as 100000";
        Err(ConfigError::invalid("capacity", self.capacity, advice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;

    #[test]
    fn limits_that_leave_no_room_are_rejected() {
        let config = MemoryConfig::default;
        assert!(MemoryStore::from_config(config()).is_ok());
        let error = MemoryStore::from_config(config().with_capacity(0)).unwrap_err();
        assert!(error.to_string().starts_with("capacity = 0: write"));
        for (max_bytes, max_size, valid) in [
            (2048, 1024, true),
            (2047, 1024, false),
            (usize::MAX, 1 << 27, true),
            (0, 1024, false),
        ] {
            let checked = config().with_max_bytes(max_bytes).check_for(max_size);
            assert_eq!(checked.is_ok(), valid, "{checked:?}");
        }
    }
}
