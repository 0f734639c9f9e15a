//! Time: instants as the record has them, durations as people write them, and deadlines.

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
    // The end of the year 9999, which every platform's clock can tell; some cannot tell much more.
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
    fn a_time_is_what_it_was_and_none_is_too_late_to_be_told() {
        assert_eq!(to_time(1_500), UNIX_EPOCH + Duration::from_millis(1_500));
        assert_eq!(to_millis(to_time(1_500)), 1_500);
        let end_of_9999 = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
        assert!(to_time(Millis::MAX) >= end_of_9999);
    }
}
