//! Requests: commands and pipelines.

use std::time::Duration;

use redis::{Cmd, Pipeline};

/// One command or pipeline. All of its keys are the same, or it has none.
pub(crate) enum Request<'a> {
    Command(&'a Cmd),
    Pipeline(&'a Pipeline),
}

/// Redis expects whole milliseconds, and deletes the key at zero.
pub(crate) fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis())
        .unwrap_or(u64::MAX)
        .clamp(1, i64::MAX as u64 / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_never_zero_and_never_too_large() {
        assert_eq!(millis(Duration::ZERO), 1);
        assert_eq!(millis(Duration::from_micros(1)), 1);
        assert_eq!(millis(Duration::from_secs(1800)), 1_800_000);
        assert!(millis(Duration::MAX) < i64::MAX as u64);
    }
}
