//! What a store reports: how many sessions there are, and whether it works.

use std::time::Duration;

use crate::error::store::StoreError;
use crate::store::contract::Stored;

/// How many sessions a store holds, how large they are, and how long they have left.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Sessions.
    pub sessions: u64,
    /// Bytes of all sessions, without what the store needs to keep them.
    pub bytes: u64,
    /// The size of the largest session.
    pub largest: u64,
    /// Sessions by the time they have left.
    pub time_left: TimeLeft,
    /// Bytes of memory that the sessions take, as [`MemoryStore::with_max_bytes`](crate::MemoryStore::with_max_bytes) counts
    /// them, with those that have expired and are not dropped yet. A [`RedisStore`](crate::RedisStore) does not know, and says 0.
    pub memory: u64,
    /// Sessions that a [`MemoryStore`](crate::MemoryStore) has evicted since it was made, for want of room. Redis tells of its
    /// own by `evicted_keys` of `INFO stats`; here it is 0.
    pub evicted: Evicted,
}

/// Sessions that have ended before their time, to make room for others.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Of nobody in particular.
    pub anonymous: u64,
    /// Somebody was signed in, and is not any more: the store is too small.
    pub signed_in: u64,
}

impl Evicted {
    /// Counts one more.
    pub(crate) fn add_one(&mut self, signed_in: bool) {
        match signed_in {
            true => self.signed_in += 1,
            false => self.anonymous += 1,
        }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            anonymous: self.anonymous + other.anonymous,
            signed_in: self.signed_in + other.signed_in,
        }
    }

    /// How many more they are than `earlier`, which is of the same count.
    pub(crate) fn minus(self, earlier: Self) -> Self {
        Self {
            anonymous: self.anonymous.saturating_sub(earlier.anonymous),
            signed_in: self.signed_in.saturating_sub(earlier.signed_in),
        }
    }
}

/// How many sessions have how much time left.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimeLeft {
    /// At most a minute.
    pub minute: u64,
    /// At most ten minutes, and more than one.
    pub ten_minutes: u64,
    /// At most half an hour.
    pub half_hour: u64,
    /// At most an hour.
    pub hour: u64,
    /// At most a day.
    pub day: u64,
    /// At most thirty days.
    pub month: u64,
    /// More than thirty days.
    pub longer: u64,
    /// For ever: somebody else's doing. The next request of the session gives it an end.
    pub forever: u64,
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

impl StoreStats {
    /// Counts one session.
    pub(crate) fn add(&mut self, bytes: u64, time_left: Option<Duration>) {
        self.sessions += 1;
        self.bytes += bytes;
        self.largest = self.largest.max(bytes);
        let left = &mut self.time_left;
        let bounds = [
            (MINUTE, &mut left.minute),
            (10 * MINUTE, &mut left.ten_minutes),
            (30 * MINUTE, &mut left.half_hour),
            (HOUR, &mut left.hour),
            (DAY, &mut left.day),
            (30 * DAY, &mut left.month),
        ];
        let Some(time) = time_left else {
            left.forever += 1;
            return;
        };
        let found = bounds
            .into_iter()
            .find(|(bound, _)| time <= Duration::from_secs(*bound));
        *found.map_or(&mut left.longer, |(_, count)| count) += 1;
    }

    pub(crate) fn add_stored(&mut self, stored: &Stored) {
        self.add(stored.value().len() as u64, stored.time_left());
    }
}

/// How far counting has come.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Keys looked at, of everybody; as many as were asked for, which Redis takes for a hint.
    pub keys: u64,
    /// Keys that the database holds in all, when counting began.
    pub of: u64,
    /// Sessions found among them.
    pub sessions: u64,
}

/// How to count the sessions of a [`RedisStore`](crate::RedisStore).
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatsOptions {
    /// How many keys Redis looks at in one `SCAN`; 1000 by default, from 1 to 100 000. Redis does nothing else meanwhile,
    /// for about a microsecond a key; fewer take longer in all.
    pub count: u32,
}

impl StatsOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self { count: 1000 }
    }

    /// Sets how many keys Redis looks at in one `SCAN`; less than 1 counts as 1, more than 100 000 as 100 000.
    #[must_use]
    pub fn with_count(mut self, count: u32) -> Self {
        self.count = count.clamp(1, 100_000);
        self
    }
}

impl Default for StatsOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a store can be read, right now.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Health {
    /// How long a read took, or why it failed.
    pub read: Result<Duration, StoreError>,
    /// The store's connections.
    pub pool: PoolStats,
}

impl Health {
    /// Whether a read has worked.
    pub fn is_ok(&self) -> bool {
        self.read.is_ok()
    }
}

/// The connections of a store. All zero for one that needs none. On a cluster these are sums over its present primaries.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Connections that the pool keeps open.
    pub size: u32,
    /// Connections that are open.
    pub open: u32,
    /// Connections made so far.
    pub made: u64,
    /// Connections closed because they were broken.
    pub broken: u64,
    /// Requests that gave up waiting for a connection.
    pub timed_out: u64,
    /// Whether the circuit breaker is open: too many calls have failed, so requests fail at once until the server answers a
    /// probe. On a cluster, whether that of any primary is open; requests to the others go on.
    #[doc(alias = "breaker")]
    pub breaker_open: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_counted_by_the_time_they_have_left() {
        let mut stats = StoreStats::default();
        for secs in [0, 60, 61, 600, 1800, 3600, 86_400, 2_592_000, 2_592_001] {
            stats.add(10, Some(Duration::from_secs(secs)));
        }
        stats.add(30, None);
        let left = &stats.time_left;
        let counts = [
            left.minute,
            left.ten_minutes,
            left.half_hour,
            left.hour,
            left.day,
            left.month,
            left.longer,
            left.forever,
        ];
        assert_eq!(counts, [2, 2, 1, 1, 1, 1, 1, 1]);
        assert_eq!((stats.sessions, stats.bytes, stats.largest), (10, 120, 30));
    }
}
