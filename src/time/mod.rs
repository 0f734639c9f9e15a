//! Time. This file converts between clock times and the milliseconds that records store; `duration.rs` parses and prints the
//! durations of configuration files; `deadline.rs: deadline` turns a wait into a deadline.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) mod deadline;
pub(crate) mod duration;

/// Milliseconds since 1970.
pub(crate) type Millis = u64;

pub(crate) fn to_millis(time: SystemTime) -> Millis {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

pub(crate) fn to_time(millis: Millis) -> SystemTime {
    // The end of the year 9999. Every platform's `SystemTime` can represent it; some cannot represent much later times.
    const LATEST: Duration = Duration::from_secs(253_402_300_799);
    UNIX_EPOCH
        .checked_add(Duration::from_millis(millis))
        .unwrap_or(UNIX_EPOCH + LATEST)
}

pub(crate) fn duration_millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

pub(crate) fn after(now: Millis, wait: Duration) -> Millis {
    now.saturating_add(duration_millis(wait))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip_and_the_latest_is_the_year_9999_or_later() {
        assert_eq!(to_time(1_500), UNIX_EPOCH + Duration::from_millis(1_500));
        assert_eq!(to_millis(to_time(1_500)), 1_500);
        let end_of_9999 = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
        assert!(to_time(Millis::MAX) >= end_of_9999);
    }
}
