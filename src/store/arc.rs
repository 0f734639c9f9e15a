//! An [`Arc`] of a store is a store, so that the application can keep a pointer to its own.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::error::store::StoreError;
use crate::record::lifetime::Renewal;
use crate::store::contract::{
    Capabilities, Created, Deleted, Durability, Freshness, Loaded, Replaced, SessionStore, Stored,
    Touched, Write,
};
use crate::store::index::{Admission, Confirmed, Entered, Entry, Generation, IndexKey, Indexed};
use crate::store::lease::{Leased, Owner};
use crate::token::Handle;

impl<S: SessionStore> SessionStore for Arc<S> {
    fn namespace(&self) -> &str {
        S::namespace(self)
    }

    fn now(&self) -> SystemTime {
        S::now(self)
    }

    fn clock_error(&self) -> Option<Duration> {
        S::clock_error(self)
    }

    fn capabilities(&self) -> Capabilities {
        S::capabilities(self)
    }

    async fn load(&self, key: &Handle, want: Freshness) -> Result<Loaded, StoreError> {
        S::load(self, key, want).await
    }

    async fn create(&self, key: &Handle, write: Write<'_>) -> Result<Created, StoreError> {
        S::create(self, key, write).await
    }

    async fn replace(
        &self,
        key: &Handle,
        expected: &Stored,
        write: Write<'_>,
    ) -> Result<Replaced, StoreError> {
        S::replace(self, key, expected, write).await
    }

    async fn touch(&self, key: &Handle, renewal: Renewal) -> Result<Touched, StoreError> {
        S::touch(self, key, renewal).await
    }

    async fn delete(&self, key: &Handle, durability: Durability) -> Result<Deleted, StoreError> {
        S::delete(self, key, durability).await
    }

    async fn acquire(
        &self,
        key: &Handle,
        owner: Owner,
        lease: Duration,
    ) -> Result<Leased, StoreError> {
        S::acquire(self, key, owner, lease).await
    }

    async fn release(&self, key: &Handle, owner: Owner) -> Result<(), StoreError> {
        S::release(self, key, owner).await
    }

    async fn enter(
        &self,
        index: &IndexKey,
        entry: Entry,
        admission: Admission,
    ) -> Result<Entered, StoreError> {
        S::enter(self, index, entry, admission).await
    }

    async fn confirm(
        &self,
        index: &IndexKey,
        handle: &Handle,
        entered_in: Generation,
    ) -> Result<Confirmed, StoreError> {
        S::confirm(self, index, handle, entered_in).await
    }

    async fn extend(&self, index: &IndexKey, entry: Entry) -> Result<(), StoreError> {
        S::extend(self, index, entry).await
    }

    async fn list(&self, index: &IndexKey) -> Result<Indexed, StoreError> {
        S::list(self, index).await
    }

    async fn begin_generation(
        &self,
        index: &IndexKey,
        at: SystemTime,
    ) -> Result<Generation, StoreError> {
        S::begin_generation(self, index, at).await
    }

    async fn leave(&self, index: &IndexKey, entries: &[Entry]) -> Result<(), StoreError> {
        S::leave(self, index, entries).await
    }

    fn as_any(&self) -> &dyn Any {
        S::as_any(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::erased::is_same_store;
    use crate::store::memory::MemoryStore;

    /// A store that the application has written, of which only type and namespace can be compared.
    struct CustomStore(MemoryStore);

    impl SessionStore for CustomStore {
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

        async fn delete(&self, key: &Handle, to: Durability) -> Result<Deleted, StoreError> {
            self.0.delete(key, to).await
        }
    }

    #[test]
    fn a_store_and_a_pointer_to_it_are_the_same_store() {
        let (one, other) = (MemoryStore::new(), MemoryStore::new());
        let pointer = Arc::new(Arc::new(one.clone()));
        assert!(is_same_store(&pointer, &one));
        assert!(is_same_store(&one, &pointer));
        assert!(!is_same_store(&pointer, &other));
        assert!(!is_same_store(&Arc::new(other), &pointer));
        assert!(is_same_store(
            &Arc::new(CustomStore(one.clone())),
            &CustomStore(one.clone())
        ));
        assert!(!is_same_store(&CustomStore(one.clone()), &one));
    }
}
