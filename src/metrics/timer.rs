//! The durations of all histograms.

#[cfg(feature = "metrics")]
use tokio::time::Instant;

/// Measures a duration for a histogram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timer {
    #[cfg(feature = "metrics")]
    began: Instant,
}

impl Timer {
    pub(crate) fn start() -> Self {
        Self {
            #[cfg(feature = "metrics")]
            began: Instant::now(),
        }
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn elapsed(self) -> std::time::Duration {
        self.began.elapsed()
    }
}
