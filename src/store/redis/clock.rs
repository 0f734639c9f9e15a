//! The servers' time.

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant as StdInstant, SystemTime};

use tokio::time::Instant;

/// How fast two clocks may drift apart: 100 millionths, more than quartz clocks do.
const DRIFT: u32 = 10_000;

/// How far the clocks of servers may differ that stand in for each other: the primaries of a cluster, of which the store has the
/// time of one, and a replica that takes over.
pub(crate) const BETWEEN_SERVERS: Duration = Duration::from_secs(1);

/// The servers' time, as of the last connection. The nodes of a cluster share one clock.
#[derive(Default)]
pub(crate) struct Clock(RwLock<Option<Reading>>);

#[derive(Clone, Copy)]
struct Reading {
    at: StdInstant,
    time: SystemTime,
    /// How long the server's reply may have been under way.
    delay: Duration,
}

impl Clock {
    /// Sets the time that the server has just sent, and how long it took from the request to the reply.
    pub(crate) fn set(&self, time: SystemTime, delay: Duration) {
        let reading = Reading {
            at: StdInstant::now(),
            time,
            delay,
        };
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(reading);
    }

    fn reading(&self) -> Option<Reading> {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the last connection was opened.
    pub(crate) fn connected(&self) -> Option<Instant> {
        self.reading().map(|reading| Instant::from_std(reading.at))
    }

    /// The server's time, advanced since it was read; the local time before that.
    pub(crate) fn now(&self) -> SystemTime {
        match self.reading() {
            Some(Reading { at, time, .. }) => time.checked_add(at.elapsed()).unwrap_or(time),
            None => SystemTime::now(),
        }
    }

    /// How far [`now`](Self::now) may be from the server's time; `None` before the first connection.
    pub(crate) fn error(&self) -> Option<Duration> {
        let reading = self.reading()?;
        Some(reading.delay + reading.at.elapsed() / DRIFT)
    }
}
