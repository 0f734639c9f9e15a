//! Limits how often something happens.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The interval between two retirements of connections, or two comparisons with a new one.
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// When something last happened that must not happen too often.
#[derive(Default)]
pub(crate) struct Throttle(Mutex<Option<Instant>>);

impl Throttle {
    /// Whether it may happen now, since the last time was at least this long ago. If so, starts a new interval.
    pub(crate) fn admits(&self, interval: Duration) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|last| last.elapsed() >= interval);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}
