//! The store that a configuration chose at run time.

use std::any::Any;
use std::time::{Duration, SystemTime};

use crate::error::store::StoreError;
use crate::record::lifetime::Renewal;
use crate::store::contract::{
    Capabilities, Created, Deleted, Durability, Freshness, Loaded, Replaced, SessionStore, Stored,
    Touched, Write,
};
use crate::store::index::{Admission, Confirmed, Entered, Entry, Generation, IndexKey, Indexed};
use crate::store::lease::{Leased, Owner};
use crate::store::memory::MemoryStore;
#[cfg(feature = "redis")]
use crate::store::redis::store::RedisStore;
use crate::store::stats::{Health, PoolStats, Progress, StatsOptions, StoreStats};
use crate::token::Handle;

/// A store of which the configuration says what it is: from [`StoreConfig::connect`](crate::StoreConfig::connect), or
/// [`Config::build`](crate::Config::build). Clones share the sessions and the connections.
///
/// ```
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use sessile::{Sessions, StoreConfig};
/// use sessile::store::StatsOptions;
///
/// // A job without a layer.
/// let store = StoreConfig::from_url("memory:").connect().await?;
/// println!("{} sessions", store.stats(StatsOptions::new(), |_| ()).await?.sessions);
/// Sessions::new(store).destroy_all("mia").await?;
/// # Ok(())
/// # }
/// ```
#[non_exhaustive]
#[derive(Clone, Debug)]
pub enum AnyStore {
    /// In this process.
    Memory(MemoryStore),
    /// In Redis or Valkey.
    #[cfg(feature = "redis")]
    Redis(RedisStore),
}

/// The same expression for the store inside.
macro_rules! inside {
    ($any:expr, $store:ident => $call:expr) => {
        match $any {
            AnyStore::Memory($store) => $call,
            #[cfg(feature = "redis")]
            AnyStore::Redis($store) => $call,
        }
    };
}

impl AnyStore {
    /// Counts the sessions, as [`RedisStore::stats`](crate::RedisStore::stats) and
    /// [`MemoryStore::stats`](crate::MemoryStore::stats) do. A memory store calls no `progress`, and uses no options.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; a memory store returns none.
    pub async fn stats(
        &self,
        options: StatsOptions,
        progress: impl FnMut(Progress),
    ) -> Result<StoreStats, StoreError> {
        match self {
            Self::Memory(store) => {
                let _ = (options, progress);
                Ok(store.stats())
            }
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.stats(options, progress).await,
        }
    }

    /// Whether the store can be read: [`RedisStore::health`](crate::RedisStore::health). A memory store is always healthy.
    ///
    /// # Redis
    ///
    /// One `GET`; on a cluster one to each primary, all at once.
    pub async fn health(&self) -> Health {
        match self {
            Self::Memory(store) => store.health(),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.health().await,
        }
    }

    /// The connections that requests share, as they are now; `None` for a memory store, which has none. Sends nothing to Redis.
    pub fn pool(&self) -> Option<PoolStats> {
        match self {
            Self::Memory(_) => None,
            #[cfg(feature = "redis")]
            Self::Redis(store) => Some(store.pool()),
        }
    }
}

impl From<MemoryStore> for AnyStore {
    fn from(store: MemoryStore) -> Self {
        Self::Memory(store)
    }
}

#[cfg(feature = "redis")]
impl From<RedisStore> for AnyStore {
    fn from(store: RedisStore) -> Self {
        Self::Redis(store)
    }
}

impl SessionStore for AnyStore {
    fn namespace(&self) -> &str {
        inside!(self, store => store.namespace())
    }

    fn now(&self) -> SystemTime {
        inside!(self, store => store.now())
    }

    fn clock_error(&self) -> Option<Duration> {
        inside!(self, store => store.clock_error())
    }

    fn capabilities(&self) -> Capabilities {
        inside!(self, store => store.capabilities())
    }

    async fn load(&self, key: &Handle, want: Freshness) -> Result<Loaded, StoreError> {
        inside!(self, store => store.load(key, want).await)
    }

    async fn create(&self, key: &Handle, write: Write<'_>) -> Result<Created, StoreError> {
        inside!(self, store => store.create(key, write).await)
    }

    async fn replace(
        &self,
        key: &Handle,
        expected: &Stored,
        write: Write<'_>,
    ) -> Result<Replaced, StoreError> {
        inside!(self, store => store.replace(key, expected, write).await)
    }

    async fn touch(&self, key: &Handle, renewal: Renewal) -> Result<Touched, StoreError> {
        inside!(self, store => store.touch(key, renewal).await)
    }

    async fn delete(&self, key: &Handle, durability: Durability) -> Result<Deleted, StoreError> {
        inside!(self, store => store.delete(key, durability).await)
    }

    async fn acquire(
        &self,
        key: &Handle,
        owner: Owner,
        lease: Duration,
    ) -> Result<Leased, StoreError> {
        inside!(self, store => store.acquire(key, owner, lease).await)
    }

    async fn release(&self, key: &Handle, owner: Owner) -> Result<(), StoreError> {
        inside!(self, store => store.release(key, owner).await)
    }

    async fn enter(
        &self,
        index: &IndexKey,
        entry: Entry,
        admission: Admission,
    ) -> Result<Entered, StoreError> {
        inside!(self, store => store.enter(index, entry, admission).await)
    }

    async fn confirm(
        &self,
        index: &IndexKey,
        handle: &Handle,
        entered_in: Generation,
    ) -> Result<Confirmed, StoreError> {
        inside!(self, store => store.confirm(index, handle, entered_in).await)
    }

    async fn extend(&self, index: &IndexKey, entry: Entry) -> Result<(), StoreError> {
        inside!(self, store => store.extend(index, entry).await)
    }

    async fn list(&self, index: &IndexKey) -> Result<Indexed, StoreError> {
        inside!(self, store => store.list(index).await)
    }

    async fn begin_generation(
        &self,
        index: &IndexKey,
        at: SystemTime,
    ) -> Result<Generation, StoreError> {
        inside!(self, store => store.begin_generation(index, at).await)
    }

    async fn leave(&self, index: &IndexKey, entries: &[Entry]) -> Result<(), StoreError> {
        inside!(self, store => store.leave(index, entries).await)
    }

    fn as_any(&self) -> &dyn Any {
        inside!(self, store => store.as_any())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::erased::is_same_store;

    #[test]
    fn it_is_the_same_store_as_the_one_inside() {
        let store = MemoryStore::new();
        let any = AnyStore::from(store.clone());
        assert!(is_same_store(&any, &store));
        assert!(is_same_store(&any, &any.clone()));
        let other = AnyStore::from(MemoryStore::new());
        assert!(!is_same_store(&any, &other));
    }
}
