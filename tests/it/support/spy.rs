//! A store that counts its calls, so that a test can assert that some were not made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use sessile::store::{
    Capabilities, Created, Deleted, Durability, Freshness, Leased, Loaded, Owner, Renewal,
    Replaced, Stored, Touched, Write,
};
use sessile::{Handle, SessionStore, StoreError};

use super::forward::forward_index;

#[derive(Debug, Default)]
pub struct Calls {
    pub load: AtomicU64,
    pub create: AtomicU64,
    pub replace: AtomicU64,
    pub touch: AtomicU64,
    pub delete: AtomicU64,
}

impl Calls {
    /// The calls so far of load, create, replace, touch and delete, in this order.
    pub fn so_far(&self) -> [u64; 5] {
        [
            &self.load,
            &self.create,
            &self.replace,
            &self.touch,
            &self.delete,
        ]
        .map(|calls| calls.load(Ordering::SeqCst))
    }
}

pub struct Spy<S> {
    store: S,
    capabilities: Option<Capabilities>,
    pub calls: Arc<Calls>,
}

impl<S> Spy<S> {
    pub fn on(store: S) -> Self {
        Self {
            store,
            capabilities: None,
            calls: Arc::default(),
        }
    }

    /// Reports these capabilities instead of the store's own.
    pub fn with_capabilities(self, capabilities: Capabilities) -> Self {
        let capabilities = Some(capabilities);
        Self {
            capabilities,
            ..self
        }
    }

    /// The durability that the inner store can provide. The spy only claims to support the rest.
    fn durability(&self, asked: Durability) -> Durability
    where
        S: SessionStore,
    {
        let can = self.store.capabilities().durability;
        match self.capabilities.is_some_and(|claimed| claimed.durability) && !can {
            true => Durability::Primary,
            false => asked,
        }
    }
}

fn count(calls: &AtomicU64) {
    calls.fetch_add(1, Ordering::SeqCst);
}

impl<S: SessionStore> SessionStore for Spy<S> {
    forward_index!();

    fn namespace(&self) -> &str {
        self.store.namespace()
    }

    fn now(&self) -> SystemTime {
        self.store.now()
    }

    fn capabilities(&self) -> Capabilities {
        let own = || self.store.capabilities();
        self.capabilities.unwrap_or_else(own)
    }

    async fn load(&self, key: &Handle, want: Freshness) -> Result<Loaded, StoreError> {
        count(&self.calls.load);
        self.store.load(key, want).await
    }

    async fn create(&self, key: &Handle, write: Write<'_>) -> Result<Created, StoreError> {
        count(&self.calls.create);
        let durability = self.durability(write.durability);
        self.store
            .create(key, write.with_durability(durability))
            .await
    }

    async fn replace(
        &self,
        key: &Handle,
        expected: &Stored,
        write: Write<'_>,
    ) -> Result<Replaced, StoreError> {
        count(&self.calls.replace);
        let durability = self.durability(write.durability);
        let write = write.with_durability(durability);
        self.store.replace(key, expected, write).await
    }

    async fn touch(&self, key: &Handle, renewal: Renewal) -> Result<Touched, StoreError> {
        count(&self.calls.touch);
        self.store.touch(key, renewal).await
    }

    async fn delete(&self, key: &Handle, durability: Durability) -> Result<Deleted, StoreError> {
        count(&self.calls.delete);
        self.store.delete(key, self.durability(durability)).await
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
}
