//! What a store reports: how many sessions it holds, and whether it works.

use std::time::Duration;

use crate::error::store::StoreError;
use crate::store::contract::Stored;

/// How many sessions a store holds, how large they are, and when they expire.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// The number of sessions.
    pub sessions: u64,
    /// The bytes of all sessions, without the store's own overhead.
    pub bytes: u64,
    /// The size of the largest session.
    pub largest: u64,
    /// The sessions by remaining time to live.
    pub time_left: TimeLeft,
    /// The bytes of memory that the sessions take, as [`MemoryStore::with_max_bytes`](crate::MemoryStore::with_max_bytes)
    /// counts them, including sessions that have expired and are not removed yet. Always 0 for a
    /// [`RedisStore`](crate::RedisStore), which cannot tell.
    pub memory: u64,
    /// The sessions that a [`MemoryStore`](crate::MemoryStore) has evicted since it was created, for lack of room. Always 0 for
    /// a `RedisStore`; Redis counts its own evictions in `evicted_keys` of `INFO stats`.
    pub evicted: Evicted,
}

/// Sessions that were removed before they expired, to make room for others.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Sessions without a principal.
    pub anonymous: u64,
    /// Sessions that a user was signed in to. The user is logged out: the store is too small.
    pub signed_in: u64,
}

impl Evicted {
    /// Counts one more eviction.
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

    /// The difference to `earlier`, an earlier state of the same count.
    pub(crate) fn minus(self, earlier: Self) -> Self {
        Self {
            anonymous: self.anonymous.saturating_sub(earlier.anonymous),
            signed_in: self.signed_in.saturating_sub(earlier.signed_in),
        }
    }
}

/// How many sessions expire within which time.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimeLeft {
    /// At most a minute.
    pub minute: u64,
    /// More than a minute, and at most ten.
    pub ten_minutes: u64,
    /// More than ten minutes, and at most half an hour.
    pub half_hour: u64,
    /// More than half an hour, and at most an hour.
    pub hour: u64,
    /// More than an hour, and at most a day.
    pub day: u64,
    /// More than a day, and at most thirty days.
    pub month: u64,
    /// More than thirty days.
    pub longer: u64,
    /// Sessions that never expire, because something other than sessile has removed their time to live. The next request of the
    /// session sets it again.
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
        let bound = bounds
            .into_iter()
            .find(|(bound, _)| time <= Duration::from_secs(*bound));
        *bound.map_or(&mut left.longer, |(_, count)| count) += 1;
    }

    pub(crate) fn add_stored(&mut self, stored: &Stored) {
        self.add(stored.value().len() as u64, stored.time_left());
    }
}

/// How far counting has come.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Keys examined so far, of sessions and others. It adds up the requested counts, which Redis takes as hints.
    pub keys: u64,
    /// Keys in the database when counting began.
    pub of: u64,
    /// Sessions found so far.
    pub sessions: u64,
}

/// How to count the sessions of a [`RedisStore`](crate::RedisStore).
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatsOptions {
    /// How many keys Redis examines in one `SCAN`; 1000 by default, from 1 to 100 000. Redis serves nothing else meanwhile, for
    /// about a microsecond a key; a smaller count takes longer in all.
    pub count: u32,
}

impl StatsOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self { count: 1000 }
    }

    /// Sets how many keys Redis examines in one `SCAN`; less than 1 counts as 1, more than 100 000 as 100 000.
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

/// Whether a store can be read right now.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Health {
    /// How long a read took, or why it failed.
    pub read: Result<Duration, StoreError>,
    /// The store's connections.
    pub pool: PoolStats,
}

impl Health {
    /// Whether the read succeeded.
    pub fn is_ok(&self) -> bool {
        self.read.is_ok()
    }
}

/// The connections of a store. All zero for a store that has none. On a cluster these are sums over its current primaries.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Connections that the pool keeps open.
    pub size: u32,
    /// Connections that are open.
    pub open: u32,
    /// Connections opened so far.
    pub made: u64,
    /// Connections closed because they were broken.
    pub broken: u64,
    /// Requests that gave up waiting for a connection.
    pub timed_out: u64,
    /// Whether the circuit breaker is open: too many calls have failed, so requests fail at once until the server answers a
    /// probe. On a cluster, whether the breaker of any primary is open; requests to the others continue.
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
