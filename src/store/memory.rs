//! Sessions in the memory of one process: for development, tests, and applications of a single node.

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use super::{
    Capabilities, Created, Deleted, Durability, Freshness, Health, Leased, Owner, PoolStats,
    Renewal, Replaced, SessionStore, StoreError, StoreStats, Stored, Touched, Write,
};
use crate::Handle;
use crate::lifetime::{Millis, after, to_millis, to_time};

mod leases;

use leases::Leases;

const CAPACITY: usize = 100_000;
const SHARDS: usize = 16;
/// Below this capacity one shard serves better: it is full when the store is full.
const SHARDED_FROM: usize = 1024;

/// Keeps sessions in this process, with the semantics of [`RedisStore`](crate::RedisStore): versions, expiry, and
/// never a session that comes back.
///
/// Sessions end with the process. It holds 100 000 of them by default; when it is full, the one that would expire first
/// makes room. As many leases are held beside them at most; one more is refused. Clones share the sessions.
#[derive(Clone)]
pub struct MemoryStore {
    inner: Arc<Inner>,
}

struct Inner {
    shards: Vec<Mutex<Shard>>,
    capacity_per_shard: usize,
    clock: Clock,
}

#[derive(Default)]
struct Shard {
    sessions: HashMap<Handle, Session>,
    /// The handle of every session, by when it expires.
    expiry: BTreeSet<(Millis, Handle)>,
    leases: Leases,
}

struct Session {
    value: Bytes,
    expires: Millis,
}

enum Clock {
    /// Advances with the monotonic clock from the time at which the store was made.
    Monotonic {
        began: Instant,
        at: Millis,
    },
    Manual(ManualClock),
}

/// A clock that only moves when it is told to, to see sessions expire without waiting.
///
/// ```
/// # use std::time::Duration;
/// use sessile::store::{ManualClock, MemoryStore};
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
    /// An empty store for 100 000 sessions.
    pub fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    /// An empty store for this many sessions, at least one.
    pub fn with_capacity(sessions: usize) -> Self {
        let clock = Clock::Monotonic {
            began: Instant::now(),
            at: to_millis(SystemTime::now()),
        };
        Self::build(sessions, clock)
    }

    /// This store, empty, with another clock.
    #[must_use]
    pub fn with_clock(self, clock: ManualClock) -> Self {
        let shards = self.inner.shards.len();
        let sessions = self.inner.capacity_per_shard.saturating_mul(shards);
        Self::build(sessions, Clock::Manual(clock))
    }

    fn build(sessions: usize, clock: Clock) -> Self {
        let shards = if sessions < SHARDED_FROM { 1 } else { SHARDS };
        let inner = Inner {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            capacity_per_shard: sessions.div_ceil(shards).max(1),
            clock,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Whether the other is a clone of this one.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Counts the sessions.
    pub fn stats(&self) -> StoreStats {
        let now = self.now_millis();
        let mut stats = StoreStats::default();
        for shard in &self.inner.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.drop_expired(now);
            for session in shard.sessions.values() {
                stats.add_stored(&stored(session, now));
            }
        }
        stats
    }

    /// Always healthy.
    pub fn health(&self) -> Health {
        Health {
            read: Ok(Duration::ZERO),
            pool: PoolStats::default(),
        }
    }

    fn shard(&self, key: &Handle) -> MutexGuard<'_, Shard> {
        let shards = &self.inner.shards;
        // Handles are random, so any byte spreads them.
        let index = usize::from(key.first_byte()) % shards.len();
        shards[index].lock().unwrap_or_else(PoisonError::into_inner)
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

impl Shard {
    fn drop_expired(&mut self, now: Millis) {
        while let Some((expires, handle)) = self.expiry.first().copied() {
            if expires > now {
                break;
            }
            self.remove(&handle);
            debug_assert!(self.expiry.first() != Some(&(expires, handle)));
        }
    }

    fn make_room(&mut self, capacity: usize) {
        while self.sessions.len() >= capacity {
            let Some((_, handle)) = self.expiry.first().copied() else {
                break;
            };
            self.remove(&handle);
        }
    }

    fn remove(&mut self, handle: &Handle) -> bool {
        let Some(session) = self.sessions.remove(handle) else {
            return false;
        };
        self.expiry.remove(&(session.expires, *handle))
    }

    fn set_expiry(&mut self, handle: Handle, expires: Millis) {
        if let Some(session) = self.sessions.get_mut(&handle) {
            self.expiry.remove(&(session.expires, handle));
            session.expires = expires;
            self.expiry.insert((expires, handle));
        }
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

    async fn load(&self, key: &Handle, _: Freshness) -> Result<Option<Stored>, StoreError> {
        let now = self.now_millis();
        let mut shard = self.shard(key);
        shard.drop_expired(now);
        Ok(shard.sessions.get(key).map(|session| stored(session, now)))
    }

    async fn create(&self, key: &Handle, write: Write<'_>) -> Result<Created, StoreError> {
        write.durability.primary_only()?;
        let now = self.now_millis();
        let expires = after(now, write.ttl);
        let mut shard = self.shard(key);
        shard.drop_expired(now);
        if !shard.sessions.contains_key(key) {
            shard.make_room(self.inner.capacity_per_shard);
        }
        let Shard {
            sessions, expiry, ..
        } = &mut *shard;
        match sessions.entry(*key) {
            MapEntry::Occupied(_) => Ok(Created::Exists),
            MapEntry::Vacant(vacant) => {
                vacant.insert(Session {
                    value: write.value.clone(),
                    expires,
                });
                expiry.insert((expires, *key));
                Ok(Created::Done)
            }
        }
    }

    async fn replace(
        &self,
        key: &Handle,
        expected: &Stored,
        write: Write<'_>,
    ) -> Result<Replaced, StoreError> {
        write.durability.primary_only()?;
        let now = self.now_millis();
        let mut shard = self.shard(key);
        shard.drop_expired(now);
        let Some(session) = shard.sessions.get_mut(key) else {
            return Ok(Replaced::Gone);
        };
        let present = stored(session, now);
        if present.version() != expected.version() {
            return Ok(Replaced::Conflict(present));
        }
        session.value = write.value.clone();
        shard.set_expiry(*key, after(now, write.ttl));
        Ok(Replaced::Done)
    }

    async fn touch(&self, key: &Handle, renewal: Renewal) -> Result<Touched, StoreError> {
        let now = self.now_millis();
        let mut shard = self.shard(key);
        shard.drop_expired(now);
        let Some(session) = shard.sessions.get(key) else {
            return Ok(Touched::Unchanged);
        };
        let expires = match renewal {
            Renewal::Extend(ttl) if after(now, ttl) <= session.expires => {
                return Ok(Touched::Unchanged);
            }
            Renewal::Extend(ttl) | Renewal::Set(ttl) => after(now, ttl),
        };
        shard.set_expiry(*key, expires);
        Ok(Touched::Done)
    }

    async fn delete(&self, key: &Handle, durability: Durability) -> Result<Deleted, StoreError> {
        durability.primary_only()?;
        let now = self.now_millis();
        let mut shard = self.shard(key);
        shard.drop_expired(now);
        Ok(if shard.remove(key) {
            Deleted::Done
        } else {
            Deleted::Missing
        })
    }

    async fn acquire(
        &self,
        key: &Handle,
        owner: Owner,
        lease: Duration,
    ) -> Result<Leased, StoreError> {
        let (now, capacity) = (self.now_millis(), self.inner.capacity_per_shard);
        let leases = &mut self.shard(key).leases;
        leases.acquire(*key, owner, lease, now, capacity)
    }

    async fn release(&self, key: &Handle, owner: Owner) -> Result<(), StoreError> {
        let now = self.now_millis();
        self.shard(key).leases.release(key, owner, now);
        Ok(())
    }
}

fn stored(session: &Session, now: Millis) -> Stored {
    let left = Duration::from_millis(session.expires.saturating_sub(now));
    Stored::new(session.value.clone(), Some(left))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(
            store
                .load(&dropped, Freshness::Latest)
                .await
                .unwrap()
                .is_none()
        );
        for handle in kept.into_iter().chain([last]) {
            assert!(
                store
                    .load(&handle, Freshness::Latest)
                    .await
                    .unwrap()
                    .is_some()
            );
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
        let shard = store.inner.shards[0].lock().unwrap();
        assert_eq!((shard.sessions.len(), shard.expiry.len()), (1, 1));
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
