//! A store that wraps another one, as one written for an earlier version of sessile.

use std::time::SystemTime;

use sessile::store::{
    Capabilities, Created, Deleted, Durability, Freshness, Loaded, Renewal, Replaced, Stored,
    Touched, Write,
};
use sessile::{Handle, MemoryStore, SessionStore, StoreError};

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
