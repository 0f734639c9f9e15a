//! A store in front of a memory store, of which calls fail as planned.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use sessile::store::{
    Admission, Capabilities, Confirmed, Created, Deleted, Durability, Entered, Entry, Freshness,
    Generation, IndexKey, Indexed, Loaded, Renewal, Replaced, Stored, Touched, Write,
};
use sessile::{Handle, MemoryStore, SessionStore, StoreError};

/// A call that gets no answer. `Enter` is carried out, the others are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    Enter,
    Create,
    Confirm,
}

#[derive(Clone)]
pub struct Faulty {
    store: MemoryStore,
    plan: Arc<Mutex<Vec<Lost>>>,
}

impl Faulty {
    pub fn before(store: MemoryStore) -> Self {
        Self {
            store,
            plan: Arc::default(),
        }
    }

    /// The next calls of this kind fail, this many of them.
    pub fn lose(&self, call: Lost, times: usize) {
        self.plan.lock().unwrap().extend(vec![call; times]);
    }

    fn pass(&self, call: Lost) -> Result<(), StoreError> {
        let mut plan = self.plan.lock().unwrap();
        match plan.iter().position(|lost| *lost == call) {
            Some(at) => {
                plan.remove(at);
                Err(StoreError::unknown("lost"))
            }
            None => Ok(()),
        }
    }
}

impl SessionStore for Faulty {
    fn namespace(&self) -> &str {
        self.store.namespace()
    }

    fn now(&self) -> SystemTime {
        self.store.now()
    }

    fn capabilities(&self) -> Capabilities {
        let budget = Duration::from_secs(600);
        self.store.capabilities().with_request_budget(budget)
    }

    async fn load(&self, key: &Handle, want: Freshness) -> Result<Loaded, StoreError> {
        self.store.load(key, want).await
    }

    async fn create(&self, key: &Handle, write: Write<'_>) -> Result<Created, StoreError> {
        self.pass(Lost::Create)?;
        self.store.create(key, write).await
    }

    async fn replace(
        &self,
        key: &Handle,
        expected: &Stored,
        write: Write<'_>,
    ) -> Result<Replaced, StoreError> {
        self.store.replace(key, expected, write).await
    }

    async fn touch(&self, key: &Handle, renewal: Renewal) -> Result<Touched, StoreError> {
        self.store.touch(key, renewal).await
    }

    async fn delete(&self, key: &Handle, durability: Durability) -> Result<Deleted, StoreError> {
        self.store.delete(key, durability).await
    }

    async fn enter(
        &self,
        index: &IndexKey,
        entry: Entry,
        admission: Admission,
    ) -> Result<Entered, StoreError> {
        let entered = self.store.enter(index, entry, admission).await;
        self.pass(Lost::Enter).and(entered)
    }

    async fn confirm(
        &self,
        index: &IndexKey,
        handle: &Handle,
        entered_in: Generation,
    ) -> Result<Confirmed, StoreError> {
        self.pass(Lost::Confirm)?;
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

/// A store that passes on the capabilities of another one, and not the calls for the index, which are newer.
#[derive(Clone)]
pub struct Wrapper(pub MemoryStore);

impl SessionStore for Wrapper {
    fn namespace(&self) -> &str {
        self.0.namespace()
    }

    fn now(&self) -> SystemTime {
        self.0.now()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn load(&self, key: &Handle, want: Freshness) -> Result<Loaded, StoreError> {
        self.0.load(key, want).await
    }

    async fn create(&self, key: &Handle, write: Write<'_>) -> Result<Created, StoreError> {
        self.0.create(key, write).await
    }

    async fn replace(
        &self,
        key: &Handle,
        expected: &Stored,
        write: Write<'_>,
    ) -> Result<Replaced, StoreError> {
        self.0.replace(key, expected, write).await
    }

    async fn touch(&self, key: &Handle, renewal: Renewal) -> Result<Touched, StoreError> {
        self.0.touch(key, renewal).await
    }

    async fn delete(&self, key: &Handle, durability: Durability) -> Result<Deleted, StoreError> {
        self.0.delete(key, durability).await
    }
}
