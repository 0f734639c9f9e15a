//! Deadlines of configured waits of any length.

use std::time::Duration;

use tokio::time::Instant;

/// Longer than any process runs, and within the range of every clock.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// Returns the end of a wait, at most [`FAR`] after its begin: an `Instant` beyond the clock's range would panic.
pub(crate) fn deadline(began: Instant, wait: Duration) -> Instant {
    began + wait.min(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_of_any_length_has_a_deadline() {
        let now = Instant::now();
        for (wait, expected) in [
            (Duration::ZERO, Duration::ZERO),
            (Duration::from_nanos(1), Duration::from_nanos(1)),
            (Duration::from_secs(u64::MAX), FAR),
            (Duration::MAX, FAR),
        ] {
            assert_eq!(deadline(now, wait) - now, expected);
        }
    }
}
