//! A store that holds the next call of one method until the test lets it go on.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use sessile::store::{
    Admission, Capabilities, Confirmed, Created, Deleted, Durability, Entered, Entry, Freshness,
    Generation, IndexKey, Indexed, Leased, Loaded, Owner, Renewal, Replaced, StoreStats, Stored,
    Touched, Write,
};
use sessile::{Handle, MemoryStore, SessionStore, StoreError};
use tokio::sync::Semaphore;

/// A call of a store, before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Enter,
    Create,
    Replace,
    Confirm,
}

#[derive(Clone)]
pub struct Paused {
    store: MemoryStore,
    next: Arc<Mutex<Option<(Call, Hold)>>>,
}

/// The call that is held.
#[derive(Clone)]
pub struct Hold {
    arrived: Arc<Semaphore>,
    released: Arc<Semaphore>,
}

impl Hold {
    fn new() -> Self {
        Self {
            arrived: Arc::new(Semaphore::new(0)),
            released: Arc::new(Semaphore::new(0)),
        }
    }

    /// Waits until the call is made.
    pub async fn arrived(&self) {
        self.arrived.acquire().await.unwrap().forget();
    }

    /// Lets it go on.
    pub fn release(&self) {
        self.released.add_permits(1);
    }
}

impl Paused {
    pub fn before(store: MemoryStore) -> Self {
        Self {
            store,
            next: Arc::default(),
        }
    }

    /// Holds the next such call.
    pub fn hold(&self, call: Call) -> Hold {
        let hold = Hold::new();
        *self.next.lock().unwrap() = Some((call, hold.clone()));
        hold
    }

    pub fn stats(&self) -> StoreStats {
        self.store.stats()
    }

    async fn pause(&self, call: Call) {
        let hold = self.next.lock().unwrap().take_if(|(held, _)| *held == call);
        if let Some((_, hold)) = hold {
            hold.arrived.add_permits(1);
            hold.released.acquire().await.unwrap().forget();
        }
    }
}

impl SessionStore for Paused {
    fn namespace(&self) -> &str {
        self.store.namespace()
    }

    fn now(&self) -> SystemTime {
        self.store.now()
    }

    fn capabilities(&self) -> Capabilities {
        // A held call is not a hanging store.
        let budget = Duration::from_secs(600);
        self.store.capabilities().with_request_budget(budget)
    }

    async fn load(&self, key: &Handle, want: Freshness) -> Result<Loaded, StoreError> {
        self.store.load(key, want).await
    }

    async fn create(&self, key: &Handle, write: Write<'_>) -> Result<Created, StoreError> {
        self.pause(Call::Create).await;
        self.store.create(key, write).await
    }

    async fn replace(
        &self,
        key: &Handle,
        expected: &Stored,
        write: Write<'_>,
    ) -> Result<Replaced, StoreError> {
        self.pause(Call::Replace).await;
        self.store.replace(key, expected, write).await
    }

    async fn touch(&self, key: &Handle, renewal: Renewal) -> Result<Touched, StoreError> {
        self.store.touch(key, renewal).await
    }

    async fn delete(&self, key: &Handle, durability: Durability) -> Result<Deleted, StoreError> {
        self.store.delete(key, durability).await
    }

    async fn acquire(
        &self,
        key: &Handle,
        owner: Owner,
        lease: Duration,
    ) -> Result<Leased, StoreError> {
        self.store.acquire(key, owner, lease).await
    }

    async fn release(&self, key: &Handle, owner: Owner) -> Result<(), StoreError> {
        self.store.release(key, owner).await
    }

    async fn enter(
        &self,
        index: &IndexKey,
        entry: Entry,
        admission: Admission,
    ) -> Result<Entered, StoreError> {
        self.pause(Call::Enter).await;
        self.store.enter(index, entry, admission).await
    }

    async fn confirm(
        &self,
        index: &IndexKey,
        handle: &Handle,
        entered_in: Generation,
    ) -> Result<Confirmed, StoreError> {
        self.pause(Call::Confirm).await;
        self.store.confirm(index, handle, entered_in).await
    }

    async fn extend(&self, index: &IndexKey, entry: Entry) -> Result<(), StoreError> {
        self.store.extend(index, entry).await
    }

    async fn list(&self, index: &IndexKey) -> Result<Indexed, StoreError> {
        self.store.list(index).await
    }

    async fn begin_generation(
        &self,
        index: &IndexKey,
        at: SystemTime,
    ) -> Result<Generation, StoreError> {
        self.store.begin_generation(index, at).await
    }

    async fn leave(&self, index: &IndexKey, entries: &[Entry]) -> Result<(), StoreError> {
        self.store.leave(index, entries).await
    }
}
