//! Work that is not to be repeated too often.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How far apart connections are given up, or compared with new ones.
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// When something was last done that is not to be repeated too often.
#[derive(Default)]
pub(crate) struct Throttle(Mutex<Option<Instant>>);

impl Throttle {
    /// Whether it may be done now, as the last time was at least this long ago.
    pub(crate) fn admits(&self, interval: Duration) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|last| last.elapsed() >= interval);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}
