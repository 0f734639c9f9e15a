//! What is not to be done too often.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How far apart connections are given up, or compared with new ones.
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Something that is not to be done too often.
#[derive(Default)]
pub(crate) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Whether it may be done now, because the last time was so long ago.
    pub(crate) fn may_now(&self, apart: Duration) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|last| last.elapsed() >= apart);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}
