//! Deadlines of waits that somebody has configured, however long.

use std::time::Duration;

use tokio::time::Instant;

/// Longer than any process runs, and within what every clock can tell.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// When a wait is over that began then. A sum that the clock cannot tell would panic.
pub(crate) fn deadline(began: Instant, wait: Duration) -> Instant {
    began + wait.min(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_of_any_length_has_an_end() {
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
