//! Sessions in the memory of one process: for development, tests, and applications of a single node.
//!
//! Read `sessions.rs: Sessions` first: it holds the sessions and decides which to evict, with neither locks nor a clock. This
//! file adds both and implements the trait: `MemoryStore::write` removes expired sessions before each change, and
//! `MemoryStore::put` stores a session and logs the evictions that `evictions.rs: Evictions` returns. `leases.rs: Leases` holds
//! the leases: the right of one owner at a time to a session, for a limited time. `index.rs: Indexes` holds the sessions of each user.
//! `config.rs: MemoryConfig` has the limits as settings. A session that a user is signed in to, one
//! with a *principal*, is evicted last; a *handle* is the name of a session.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::error::config::ConfigError;
use crate::error::store::StoreError;
use crate::metrics::store::evicted as count_evicted;
use crate::record::lifetime::Renewal;
use crate::store::contract::{
    Capabilities, Created, Deleted, Durability, Freshness, Loaded, Replaced, SessionStore, Stored,
    Touched, Write,
};
use crate::store::index::{
    Admission, Began, Confirmed, Entered, Entry, Generation, IndexKey, Indexed, Since,
};
use crate::store::lease::{Leased, Owner};
use crate::store::stats::{Health, PoolStats, StoreStats};
use crate::time::{Millis, after, to_millis, to_time};
use crate::token::Handle;

pub(crate) mod config;
mod evictions;
mod index;
mod leases;
mod sessions;

use crate::store::memory::config::MemoryConfig;
use crate::store::memory::evictions::Evictions;
use crate::store::memory::index::Indexes;
use crate::store::memory::leases::Leases;
use crate::store::memory::sessions::{Limits, Session, Sessions};

/// Keeps sessions in this process, with the semantics of [`RedisStore`](crate::RedisStore): sessions have versions and expire,
/// and a deleted session never comes back.
///
/// Sessions are lost when the process ends. Clones share them.
///
/// # When it is full
///
/// It holds 100 000 sessions ([`with_capacity`](Self::with_capacity)) in 256 MiB ([`with_max_bytes`](Self::with_max_bytes)),
/// whichever limit is reached first. To make room for a new session, or for one that grows, it evicts others: first sessions
/// that have expired, then anonymous ones, and sessions that a user is signed in to
/// ([`set_principal`](crate::Session::set_principal)) only when no anonymous one is left. Among equals it evicts the one that
/// expires first. So a flood of visitors without cookies, such as bots, logs nobody out. If signed-in sessions alone fill the
/// store, each write evicts as many of them as it needs room for, which may be many small ones for a large one.
///
/// It logs evictions as a warning, at most once a second, and counts them in [`stats`](Self::stats). One write costs O(log n),
/// and as much again for every session that it evicts.
///
/// It holds as many leases as sessions, in addition to them; it refuses any further lease.
#[derive(Clone)]
pub struct MemoryStore {
    inner: Arc<Inner>,
}

struct Inner {
    /// All under one lock, since the limits and the order of eviction are those of the whole store. Shards with a share of the
    /// room each would be full too early, and would evict users while other shards hold anonymous sessions.
    sessions: RwLock<Sessions>,
    leases: Mutex<Leases>,
    indexes: Mutex<Indexes>,
    evictions: Mutex<Evictions>,
    limits: Limits,
    clock: Clock,
}

#[derive(Clone)]
enum Clock {
    /// Advances with the monotonic clock from the time at which the store was created.
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

/// A clock that moves only when [`advance`](Self::advance) is called, for tests in which sessions expire without waiting.
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
pub struct ManualClock(Arc<Hands>);

/// The time in milliseconds, and how often it was asked for.
#[derive(Debug)]
struct Hands {
    millis: AtomicU64,
    asked: AtomicU64,
}

impl ManualClock {
    /// A clock that is set to the present time.
    pub fn new() -> Self {
        Self(Arc::new(Hands {
            millis: AtomicU64::new(to_millis(SystemTime::now())),
            asked: AtomicU64::new(0),
        }))
    }

    /// Moves this clock and all of its clones forward.
    pub fn advance(&self, by: Duration) {
        let by = Millis::try_from(by.as_millis()).unwrap_or(Millis::MAX);
        let moved = |now: Millis| Some(now.saturating_add(by));
        // The closure always returns a value, so this cannot fail.
        let millis = &self.0.millis;
        let _ = millis.fetch_update(Ordering::SeqCst, Ordering::SeqCst, moved);
    }

    fn millis(&self) -> Millis {
        self.0.millis.load(Ordering::SeqCst)
    }

    /// Some nanoseconds more with each call, so that what happens first has an earlier time even if the clock does
    /// not move: a sign-in and a sign-out of all sessions are told apart by their times.
    fn tick(&self) -> Duration {
        let asked = self.0.asked.fetch_add(1, Ordering::Relaxed);
        Duration::from_nanos(asked)
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store for 100 000 sessions and 256 MiB in all.
    pub fn new() -> Self {
        Self::of(MemoryConfig::default())
    }

    /// An empty store with these limits.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] if the capacity is 0.
    pub fn from_config(config: MemoryConfig) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self::of(config))
    }

    fn of(config: MemoryConfig) -> Self {
        let limits = Limits {
            sessions: config.capacity,
            bytes: config.max_bytes,
        };
        Self::build(limits, Clock::monotonic())
    }

    /// An empty store for this many sessions, at least one, and 256 MiB in all.
    pub fn with_capacity(sessions: usize) -> Self {
        Self::of(MemoryConfig::default().with_capacity(sessions.max(1)))
    }

    /// Returns an empty store with the same settings and this limit in bytes; 256 MiB by default, which is 2.6 KiB for each of
    /// 100 000 sessions. Without this limit they could take 6 GiB at the default [`max_size`](crate::SessionConfig::max_size).
    ///
    /// A session counts as the length of its value plus 256 bytes of overhead. That is an estimate on the safe side. Sessions
    /// that requests have loaded, leases, and memory that the allocator has not returned are not counted.
    ///
    /// The store refuses a session that exceeds the limit by itself, and the response is 503: keep the limit well above
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

    /// Returns an empty store with the same settings and this clock.
    #[must_use]
    pub fn with_clock(self, clock: ManualClock) -> Self {
        Self::build(self.inner.limits, Clock::Manual(clock))
    }

    fn build(limits: Limits, clock: Clock) -> Self {
        let inner = Inner {
            sessions: RwLock::default(),
            leases: Mutex::default(),
            indexes: Mutex::default(),
            evictions: Mutex::default(),
            limits,
            clock,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Whether `other` is a clone of this store.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Counts the sessions. For an administrator's page or command, not for every request: it visits every session, and writes
    /// wait meanwhile.
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

    /// The handles of all sessions, in no particular order.
    pub fn handles(&self) -> Vec<Handle> {
        let now = self.now_millis();
        self.read().handles(now).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Sessions> {
        let sessions = self.inner.sessions.read();
        sessions.unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the sessions for a change, and removes expired ones.
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
        // A log subscriber may use this store.
        drop(sessions);
        count_evicted(evicted.anonymous, evicted.signed_in);
        let to_log = self.evictions().add(evicted, now);
        if let Some(evicted) = to_log {
            tracing::warn!(target: "sessile", anonymous = evicted.anonymous, signed_in = evicted.signed_in, sessions = used.sessions, bytes = used.bytes, "the memory store is full and has evicted sessions: raise `MemoryStore::with_capacity` or `MemoryStore::with_max_bytes`, in a file `store.capacity` or `store.max_bytes`");
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

    /// Locks the indexes. Sweeps dead entries out of them now and then, so that they do not outgrow the sessions.
    fn indexes(&self, now: Millis) -> MutexGuard<'_, Indexes> {
        let indexes = self.inner.indexes.lock();
        let mut indexes = indexes.unwrap_or_else(PoisonError::into_inner);
        if indexes.needs_sweep() {
            let sessions = self.read();
            indexes.sweep(now, |handle| sessions.get(handle, now).is_some());
        }
        indexes
    }

    fn now_millis(&self) -> Millis {
        match &self.inner.clock {
            Clock::Monotonic { began, at } => after(*at, began.elapsed()),
            Clock::Manual(clock) => clock.millis(),
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
        match &self.inner.clock {
            Clock::Monotonic { began, at } => to_time(*at) + began.elapsed(),
            Clock::Manual(clock) => to_time(clock.millis()) + clock.tick(),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new().with_lease(true).with_index(true)
    }

    async fn load(&self, key: &Handle, _: Freshness) -> Result<Loaded, StoreError> {
        let now = self.now_millis();
        let sessions = self.read();
        let session = sessions.get(key, now);
        Ok(session.map_or(Loaded::Missing, |session| {
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
        let mut session = session(&write, now);
        let sessions = self.write(now);
        let Some(present) = sessions.get(key, now) else {
            return Ok(Replaced::Gone);
        };
        let (expires, present) = (present.expires, stored(present, now));
        if present.version() != expected.version() {
            return Ok(Replaced::Conflict(present));
        }
        if write.keep_ttl {
            session.expires = expires;
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

    async fn enter(
        &self,
        index: &IndexKey,
        entry: Entry,
        admission: Admission,
    ) -> Result<Entered, StoreError> {
        let began = match admission.since {
            Since::Time(time) => Began::At(nanos(time)),
            Since::Generation(generation) => Began::In(generation.number()),
        };
        let now = self.now_millis();
        let mut indexes = self.indexes(now);
        Ok(indexes.enter(*index, entry, began, admission.limit, now))
    }

    async fn confirm(
        &self,
        index: &IndexKey,
        handle: &Handle,
        entered_in: Generation,
    ) -> Result<Confirmed, StoreError> {
        let now = self.now_millis();
        Ok(self.indexes(now).confirm(*index, *handle, entered_in, now))
    }

    async fn extend(&self, index: &IndexKey, entry: Entry) -> Result<(), StoreError> {
        let now = self.now_millis();
        self.indexes(now).extend(*index, entry, now);
        Ok(())
    }

    async fn list(&self, index: &IndexKey) -> Result<Indexed, StoreError> {
        let now = self.now_millis();
        Ok(self.indexes(now).list(*index, now))
    }

    async fn begin_generation(
        &self,
        index: &IndexKey,
        at: SystemTime,
    ) -> Result<Generation, StoreError> {
        let now = self.now_millis();
        Ok(self.indexes(now).begin_generation(*index, nanos(at), now))
    }

    async fn leave(&self, index: &IndexKey, entries: &[Entry]) -> Result<(), StoreError> {
        let now = self.now_millis();
        self.indexes(now).leave(*index, entries, now);
        Ok(())
    }
}

/// The unit of generations: nanoseconds since 1970.
fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn session(write: &Write<'_>, now: Millis) -> Session {
    Session {
        // The value may be a slice of a larger buffer, which would be kept alive and not counted.
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
    async fn a_full_store_evicts_the_session_that_expires_first() {
        let store = MemoryStore::with_capacity(3);
        let kept = [create(&store, 30).await, create(&store, 20).await];
        let evicted = create(&store, 10).await;
        let last = create(&store, 5).await;
        assert!(!has(&store, &evicted).await);
        for handle in kept.into_iter().chain([last]) {
            assert!(has(&store, &handle).await);
        }
    }

    #[tokio::test]
    async fn expired_sessions_free_their_memory() {
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

    /// A few large sessions fit, whatever their handles are.
    #[tokio::test]
    async fn the_byte_limit_applies_exactly_to_the_whole_store() {
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
    async fn the_store_holds_exactly_as_many_sessions_as_the_tighter_limit_allows() {
        for (capacity, bytes, expected) in [
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
            assert_eq!(stats.sessions, expected, "{capacity} {bytes}");
            assert_eq!(stats.evicted.anonymous, 2_500 - expected);
        }
    }

    #[tokio::test]
    async fn the_last_write_decides_whether_a_session_counts_as_signed_in() {
        for (first, second, survives) in [
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
            assert_eq!(has(&store, &handle).await, survives, "{first:?} {second}");
        }
    }

    #[tokio::test]
    async fn the_store_copies_a_value_that_is_a_slice_of_a_larger_buffer() {
        let store = MemoryStore::new();
        let large = Bytes::from(vec![b'x'; 10_000]);
        let (handle, value) = (Handle::random(), large.slice(..100));
        let write = Write::new(&value, Duration::from_secs(60));
        assert_eq!(store.create(&handle, write).await.unwrap(), Created::Done);
        drop(value);
        assert!(large.is_unique());
    }

    #[test]
    fn advancing_a_clock_saturates() {
        let clock = ManualClock::new();
        clock.advance(Duration::MAX);
        clock.advance(Duration::MAX);
        let store = MemoryStore::new().with_clock(clock);
        assert!(store.now() > SystemTime::now());
    }
}
