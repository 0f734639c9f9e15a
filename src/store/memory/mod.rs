//! Sessions in the memory of one process: for development, tests, and applications of a single node.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use crate::error::store::StoreError;
use crate::record::lifetime::Renewal;
use crate::store::contract::{
    Capabilities, Created, Deleted, Durability, Freshness, Loaded, Replaced, SessionStore, Stored,
    Touched, Write,
};
use crate::store::lease::{Leased, Owner};
use crate::store::stats::{Health, PoolStats, StoreStats};
use crate::time::{Millis, after, to_millis, to_time};
use crate::token::Handle;

mod evictions;
mod leases;
mod sessions;

use crate::store::memory::evictions::Evictions;
use crate::store::memory::leases::Leases;
use crate::store::memory::sessions::{Limits, Session, Sessions};

const LIMITS: Limits = Limits {
    sessions: 100_000,
    bytes: 256 << 20,
};

/// Keeps sessions in this process, with the semantics of [`RedisStore`](crate::RedisStore): versions, expiry, and
/// never a session that comes back.
///
/// Sessions end with the process. Clones share them.
///
/// # When it is full
///
/// It holds 100 000 sessions ([`with_capacity`](Self::with_capacity)) in 256 MiB ([`with_max_bytes`](Self::with_max_bytes)),
/// whichever bound is reached first. To make room for a new session, or for one that grows, it evicts others: sessions that
/// have expired first, then anonymous ones, and those that somebody is signed in to
/// ([`set_principal`](crate::Session::set_principal)) only when no anonymous one is left; of equals, the one that would expire
/// first. So a flood of visitors without cookies, such as bots, logs nobody out. Only where users alone fill the store, it takes
/// the room of one session from them, which may be that of many small ones, whenever they fill it.
///
/// An eviction is in the log as a warning, once a second at most, and counted in [`stats`](Self::stats). One write costs
/// O(log n), and as much again for every session that it evicts.
///
/// As many leases as sessions are held beside them; one more is refused.
#[derive(Clone)]
pub struct MemoryStore {
    inner: Arc<Inner>,
}

struct Inner {
    /// All under one lock, since the bounds and the order of eviction are those of the whole store. Shards with a share of the
    /// room each would be full too early, and would evict users while others hold anonymous sessions.
    sessions: RwLock<Sessions>,
    leases: Mutex<Leases>,
    evictions: Mutex<Evictions>,
    limits: Limits,
    clock: Clock,
}

#[derive(Clone)]
enum Clock {
    /// Advances with the monotonic clock from the time at which the store was made.
    Monotonic {
        began: Instant,
        at: Millis,
    },
    Manual(ManualClock),
}

impl Clock {
    fn monotonic() -> Self {
        Self::Monotonic {
            began: Instant::now(),
            at: to_millis(SystemTime::now()),
        }
    }
}

/// A clock that only moves when it is told to, to see sessions expire without waiting.
///
/// ```
/// # use std::time::Duration;
/// use sessile::MemoryStore;
/// use sessile::store::ManualClock;
///
/// let clock = ManualClock::new();
/// let store = MemoryStore::new().with_clock(clock.clone());
/// clock.advance(Duration::from_secs(31 * 60));
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock that stands at the present time.
    pub fn new() -> Self {
        Self(Arc::new(AtomicU64::new(to_millis(SystemTime::now()))))
    }

    /// Moves the clock, and that of every clone.
    pub fn advance(&self, by: Duration) {
        let by = Millis::try_from(by.as_millis()).unwrap_or(Millis::MAX);
        let moved = |now: Millis| Some(now.saturating_add(by));
        // The closure always has a new value, so this cannot fail.
        let _ = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, moved);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store for 100 000 sessions of 256 MiB together.
    pub fn new() -> Self {
        Self::build(LIMITS, Clock::monotonic())
    }

    /// An empty store for this many sessions, at least one, of 256 MiB together.
    pub fn with_capacity(sessions: usize) -> Self {
        let limits = Limits {
            sessions: sessions.max(1),
            ..LIMITS
        };
        Self::build(limits, Clock::monotonic())
    }

    /// This store, empty, with room for so many bytes; 256 MiB by default, which is 2.6 KiB for each of 100 000 sessions. Without
    /// such a bound, these could take 6 GiB at the default [`max_size`](crate::SessionConfig::max_size).
    ///
    /// A session counts with the length of its value and 256 bytes for all that is kept beside it. That is an estimate of what the
    /// sessions take, and on the safe side; what requests have loaded, leases, and what the allocator has not given back are not
    /// counted.
    ///
    /// A session that takes more by itself is refused, and answered with 503: keep this well above
    /// [`max_size`](crate::SessionConfig::max_size).
    ///
    /// ```
    /// use sessile::MemoryStore;
    ///
    /// let store = MemoryStore::with_capacity(10_000).with_max_bytes(64 << 20);
    /// ```
    #[must_use]
    #[doc(alias("max_memory", "maxmemory", "memory_limit"))]
    pub fn with_max_bytes(self, bytes: usize) -> Self {
        let limits = Limits {
            bytes,
            ..self.inner.limits
        };
        Self::build(limits, self.inner.clock.clone())
    }

    /// This store, empty, with another clock.
    #[must_use]
    pub fn with_clock(self, clock: ManualClock) -> Self {
        Self::build(self.inner.limits, Clock::Manual(clock))
    }

    fn build(limits: Limits, clock: Clock) -> Self {
        let inner = Inner {
            sessions: RwLock::default(),
            leases: Mutex::default(),
            evictions: Mutex::default(),
            limits,
            clock,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Whether the other is a clone of this one.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Counts the sessions. For an administrator's page or command, not for every request: it looks at every session, and
    /// writes wait meanwhile.
    pub fn stats(&self) -> StoreStats {
        let now = self.now_millis();
        let mut stats = StoreStats::default();
        let sessions = self.read();
        for session in sessions.iter(now) {
            stats.add_stored(&stored(session, now));
        }
        stats.memory = sessions.usage().bytes as u64;
        stats.evicted = self.evictions().so_far();
        stats
    }

    /// Always healthy.
    pub fn health(&self) -> Health {
        Health {
            read: Ok(Duration::ZERO),
            pool: PoolStats::default(),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Sessions> {
        let sessions = self.inner.sessions.read();
        sessions.unwrap_or_else(PoisonError::into_inner)
    }

    /// For a change, which is also the time to drop what has expired.
    fn write(&self, now: Millis) -> RwLockWriteGuard<'_, Sessions> {
        let sessions = self.inner.sessions.write();
        let mut sessions = sessions.unwrap_or_else(PoisonError::into_inner);
        sessions.drop_expired(now);
        sessions
    }

    fn put(
        &self,
        mut sessions: RwLockWriteGuard<'_, Sessions>,
        key: Handle,
        session: Session,
        now: Millis,
    ) -> Result<(), StoreError> {
        let evicted = sessions.put(key, session, now, self.inner.limits)?;
        let used = sessions.usage();
        // Whoever reads the log may use this store.
        drop(sessions);
        let to_log = self.evictions().add(evicted, now);
        if let Some(evicted) = to_log {
            tracing::warn!(target: "sessile", anonymous = evicted.anonymous, signed_in = evicted.signed_in, sessions = used.sessions, bytes = used.bytes, "the memory store is full and has evicted sessions: raise `MemoryStore::with_capacity` or `MemoryStore::with_max_bytes`");
        }
        Ok(())
    }

    fn evictions(&self) -> MutexGuard<'_, Evictions> {
        let evictions = self.inner.evictions.lock();
        evictions.unwrap_or_else(PoisonError::into_inner)
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        let leases = self.inner.leases.lock();
        leases.unwrap_or_else(PoisonError::into_inner)
    }

    fn now_millis(&self) -> Millis {
        match &self.inner.clock {
            Clock::Monotonic { began, at } => after(*at, began.elapsed()),
            Clock::Manual(clock) => clock.0.load(Ordering::SeqCst),
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

impl SessionStore for MemoryStore {
    fn namespace(&self) -> &str {
        "sessile:"
    }

    fn now(&self) -> SystemTime {
        to_time(self.now_millis())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new().with_lease(true)
    }

    async fn load(&self, key: &Handle, _: Freshness) -> Result<Loaded, StoreError> {
        let now = self.now_millis();
        let sessions = self.read();
        let found = sessions.get(key, now);
        Ok(found.map_or(Loaded::Missing, |session| {
            Loaded::Found(stored(session, now))
        }))
    }

    async fn create(&self, key: &Handle, write: Write<'_>) -> Result<Created, StoreError> {
        write.durability.primary_only()?;
        let now = self.now_millis();
        let session = session(&write, now);
        let sessions = self.write(now);
        if sessions.get(key, now).is_some() {
            return Ok(Created::Exists);
        }
        self.put(sessions, *key, session, now)?;
        Ok(Created::Done)
    }

    async fn replace(
        &self,
        key: &Handle,
        expected: &Stored,
        write: Write<'_>,
    ) -> Result<Replaced, StoreError> {
        write.durability.primary_only()?;
        let now = self.now_millis();
        let session = session(&write, now);
        let sessions = self.write(now);
        let Some(present) = sessions.get(key, now) else {
            return Ok(Replaced::Gone);
        };
        let present = stored(present, now);
        if present.version() != expected.version() {
            return Ok(Replaced::Conflict(present));
        }
        self.put(sessions, *key, session, now)?;
        Ok(Replaced::Done)
    }

    async fn touch(&self, key: &Handle, renewal: Renewal) -> Result<Touched, StoreError> {
        let now = self.now_millis();
        let mut sessions = self.write(now);
        let Some(session) = sessions.get(key, now) else {
            return Ok(Touched::Unchanged);
        };
        let expires = match renewal {
            Renewal::Extend(ttl) if after(now, ttl) <= session.expires => {
                return Ok(Touched::Unchanged);
            }
            Renewal::Extend(ttl) | Renewal::Set(ttl) => after(now, ttl),
        };
        sessions.set_expiry(*key, expires);
        Ok(Touched::Done)
    }

    async fn delete(&self, key: &Handle, durability: Durability) -> Result<Deleted, StoreError> {
        durability.primary_only()?;
        let now = self.now_millis();
        let removed = self.write(now).remove(key);
        Ok(match removed {
            Some(session) if session.expires > now => Deleted::Done,
            _ => Deleted::Missing,
        })
    }

    async fn acquire(
        &self,
        key: &Handle,
        owner: Owner,
        lease: Duration,
    ) -> Result<Leased, StoreError> {
        let (now, capacity) = (self.now_millis(), self.inner.limits.sessions);
        self.leases().acquire(*key, owner, lease, now, capacity)
    }

    async fn release(&self, key: &Handle, owner: Owner) -> Result<(), StoreError> {
        let now = self.now_millis();
        self.leases().release(key, owner, now);
        Ok(())
    }
}

fn session(write: &Write<'_>, now: Millis) -> Session {
    Session {
        // What it is given may be a part of something larger, which would be kept and not counted.
        value: Bytes::copy_from_slice(write.value),
        expires: after(now, write.ttl),
        signed_in: write.signed_in,
    }
}

fn stored(session: &Session, now: Millis) -> Stored {
    let left = Duration::from_millis(session.expires.saturating_sub(now));
    Stored::new(session.value.clone(), Some(left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::sessions::OVERHEAD;
    use crate::store::stats::Evicted;

    async fn create(store: &MemoryStore, ttl: u64) -> Handle {
        let handle = Handle::random();
        let value = Bytes::from_static(b"value");
        let write = Write::new(&value, Duration::from_secs(ttl));
        assert_eq!(store.create(&handle, write).await.unwrap(), Created::Done);
        handle
    }

    #[tokio::test]
    async fn a_full_store_drops_what_would_expire_first() {
        let store = MemoryStore::with_capacity(3);
        let kept = [create(&store, 30).await, create(&store, 20).await];
        let dropped = create(&store, 10).await;
        let last = create(&store, 5).await;
        assert!(!has(&store, &dropped).await);
        for handle in kept.into_iter().chain([last]) {
            assert!(has(&store, &handle).await);
        }
    }

    #[tokio::test]
    async fn expired_sessions_leave_no_memory_behind() {
        let clock = ManualClock::new();
        let store = MemoryStore::with_capacity(100).with_clock(clock.clone());
        for ttl in 1..=50 {
            let handle = create(&store, ttl).await;
            assert_eq!(
                store
                    .touch(&handle, Renewal::Extend(Duration::from_secs(60)))
                    .await
                    .unwrap(),
                Touched::Done
            );
        }
        clock.advance(Duration::from_secs(60));
        create(&store, 1).await;
        assert_eq!(store.read().usage().sessions, 1);
    }

    async fn write(store: &MemoryStore, size: usize, signed_in: bool) -> Handle {
        let (handle, value) = (Handle::random(), Bytes::from(vec![b'x'; size]));
        let write = Write::new(&value, Duration::from_secs(60)).with_signed_in(signed_in);
        assert_eq!(store.create(&handle, write).await.unwrap(), Created::Done);
        handle
    }

    async fn has(store: &MemoryStore, handle: &Handle) -> bool {
        let loaded = store.load(handle, Freshness::Latest).await.unwrap();
        loaded != Loaded::Missing
    }

    /// Few large sessions have room wherever their handles lie.
    #[tokio::test]
    async fn the_bound_in_bytes_is_of_the_whole_store_and_exact() {
        let size = 10_000;
        let store = MemoryStore::new().with_max_bytes(50 * (size + OVERHEAD));
        let mut handles = Vec::new();
        for _ in 0..50 {
            handles.push(write(&store, size, false).await);
        }
        let stats = store.stats();
        assert_eq!((stats.sessions, stats.evicted), (50, Evicted::default()));
        assert_eq!(stats.memory, 50 * (size + OVERHEAD) as u64);
        write(&store, 0, false).await;
        let stats = store.stats();
        assert_eq!((stats.sessions, stats.evicted.anonymous), (50, 1));
    }

    #[tokio::test]
    async fn a_capacity_of_many_is_exact_and_of_both_bounds_the_nearer_holds() {
        for (capacity, bytes, held) in [
            (2_000, usize::MAX, 2_000),
            (2_000, 1_500 * OVERHEAD, 1_500),
            (0, usize::MAX, 1),
        ] {
            let store = MemoryStore::with_capacity(capacity).with_max_bytes(bytes);
            let store = store.with_clock(ManualClock::new());
            for _ in 0..2_500 {
                write(&store, 0, false).await;
            }
            let stats = store.stats();
            assert_eq!(stats.sessions, held, "{capacity} {bytes}");
            assert_eq!(stats.evicted.anonymous, 2_500 - held);
        }
    }

    #[tokio::test]
    async fn what_is_written_last_tells_whether_somebody_is_signed_in() {
        for (first, second, stays) in [
            (None, true, true),
            (None, false, false),
            (Some(false), true, true),
            (Some(true), false, false),
            (Some(true), true, true),
        ] {
            let store = MemoryStore::with_capacity(2);
            let handle = write(&store, 29, first.unwrap_or(second)).await;
            if first.is_some() {
                let load = store.load(&handle, Freshness::Latest);
                let Loaded::Found(stored) = load.await.unwrap() else {
                    panic!("the session is there");
                };
                let write = Write::new(stored.value(), Duration::from_secs(60));
                let replaced = store.replace(&handle, &stored, write.with_signed_in(second));
                assert_eq!(replaced.await.unwrap(), Replaced::Done);
            }
            let cut = Renewal::Set(Duration::from_secs(30));
            assert_eq!(store.touch(&handle, cut).await.unwrap(), Touched::Done);
            for _ in 0..3 {
                write(&store, 0, false).await;
            }
            assert_eq!(has(&store, &handle).await, stays, "{first:?} {second}");
        }
    }

    #[tokio::test]
    async fn a_value_takes_no_more_than_its_length() {
        let store = MemoryStore::new();
        let large = Bytes::from(vec![b'x'; 10_000]);
        let (handle, value) = (Handle::random(), large.slice(..100));
        let write = Write::new(&value, Duration::from_secs(60));
        assert_eq!(store.create(&handle, write).await.unwrap(), Created::Done);
        drop(value);
        assert!(large.is_unique());
    }

    #[test]
    fn a_clock_may_be_moved_to_the_end_of_time() {
        let clock = ManualClock::new();
        clock.advance(Duration::MAX);
        clock.advance(Duration::MAX);
        let store = MemoryStore::new().with_clock(clock);
        assert!(store.now() > SystemTime::now());
    }
}
