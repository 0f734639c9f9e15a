//! The store without its type. All calls of the commit protocol go through here, so here they are measured.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use crate::error::store::StoreError;
use crate::metrics::store::measured;
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
use crate::token::Handle;

type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// [`SessionStore`] as a trait object, so that the layer, the service and the session need no type parameter.
pub(crate) trait ErasedStore: Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn namespace(&self) -> &str;
    fn now(&self) -> SystemTime;
    fn clock_error(&self) -> Option<Duration>;
    fn capabilities(&self) -> Capabilities;
    fn load<'a>(&'a self, key: &'a Handle, want: Freshness) -> StoreFuture<'a, Loaded>;
    fn create<'a>(&'a self, key: &'a Handle, write: Write<'a>) -> StoreFuture<'a, Created>;
    fn replace<'a>(
        &'a self,
        key: &'a Handle,
        expected: &'a Stored,
        write: Write<'a>,
    ) -> StoreFuture<'a, Replaced>;
    fn touch<'a>(&'a self, key: &'a Handle, renewal: Renewal) -> StoreFuture<'a, Touched>;
    fn delete<'a>(&'a self, key: &'a Handle, durability: Durability) -> StoreFuture<'a, Deleted>;
    fn acquire<'a>(
        &'a self,
        key: &'a Handle,
        owner: Owner,
        lease: Duration,
    ) -> StoreFuture<'a, Leased>;
    fn release<'a>(&'a self, key: &'a Handle, owner: Owner) -> StoreFuture<'a, ()>;
    fn enter<'a>(
        &'a self,
        index: &'a IndexKey,
        entry: Entry,
        admission: Admission,
    ) -> StoreFuture<'a, Entered>;
    fn confirm<'a>(
        &'a self,
        index: &'a IndexKey,
        handle: &'a Handle,
        entered_in: Generation,
    ) -> StoreFuture<'a, Confirmed>;
    fn extend<'a>(&'a self, index: &'a IndexKey, entry: Entry) -> StoreFuture<'a, ()>;
    fn list<'a>(&'a self, index: &'a IndexKey) -> StoreFuture<'a, Indexed>;
    fn begin_generation<'a>(
        &'a self,
        index: &'a IndexKey,
        at: SystemTime,
    ) -> StoreFuture<'a, Generation>;
    fn leave<'a>(&'a self, index: &'a IndexKey, entries: &'a [Entry]) -> StoreFuture<'a, ()>;
}

/// Whether both keep the same sessions. Two stores of the application are the same if type and namespace are.
pub(crate) fn is_same_store(one: &dyn ErasedStore, other: &dyn ErasedStore) -> bool {
    let (a, b) = (one.as_any(), other.as_any());
    if let (Some(a), Some(b)) = (a.downcast_ref(), b.downcast_ref()) {
        return MemoryStore::is_same(a, b);
    }
    #[cfg(feature = "redis")]
    if let (Some(a), Some(b)) = (a.downcast_ref(), b.downcast_ref()) {
        return RedisStore::is_same(a, b);
    }
    a.type_id() == b.type_id() && one.namespace() == other.namespace()
}

impl<S: SessionStore> ErasedStore for S {
    fn as_any(&self) -> &dyn Any {
        SessionStore::as_any(self)
    }

    fn namespace(&self) -> &str {
        SessionStore::namespace(self)
    }

    fn now(&self) -> SystemTime {
        SessionStore::now(self)
    }

    fn clock_error(&self) -> Option<Duration> {
        SessionStore::clock_error(self)
    }

    fn capabilities(&self) -> Capabilities {
        SessionStore::capabilities(self)
    }

    fn load<'a>(&'a self, key: &'a Handle, want: Freshness) -> StoreFuture<'a, Loaded> {
        Box::pin(measured("load", SessionStore::load(self, key, want)))
    }

    fn create<'a>(&'a self, key: &'a Handle, write: Write<'a>) -> StoreFuture<'a, Created> {
        Box::pin(measured("create", SessionStore::create(self, key, write)))
    }

    fn replace<'a>(
        &'a self,
        key: &'a Handle,
        expected: &'a Stored,
        write: Write<'a>,
    ) -> StoreFuture<'a, Replaced> {
        Box::pin(measured(
            "replace",
            SessionStore::replace(self, key, expected, write),
        ))
    }

    fn touch<'a>(&'a self, key: &'a Handle, renewal: Renewal) -> StoreFuture<'a, Touched> {
        Box::pin(measured("touch", SessionStore::touch(self, key, renewal)))
    }

    fn delete<'a>(&'a self, key: &'a Handle, durability: Durability) -> StoreFuture<'a, Deleted> {
        Box::pin(measured(
            "delete",
            SessionStore::delete(self, key, durability),
        ))
    }

    fn acquire<'a>(
        &'a self,
        key: &'a Handle,
        owner: Owner,
        lease: Duration,
    ) -> StoreFuture<'a, Leased> {
        Box::pin(measured(
            "acquire",
            SessionStore::acquire(self, key, owner, lease),
        ))
    }

    fn release<'a>(&'a self, key: &'a Handle, owner: Owner) -> StoreFuture<'a, ()> {
        Box::pin(measured("release", SessionStore::release(self, key, owner)))
    }

    fn enter<'a>(
        &'a self,
        index: &'a IndexKey,
        entry: Entry,
        admission: Admission,
    ) -> StoreFuture<'a, Entered> {
        Box::pin(measured(
            "enter",
            SessionStore::enter(self, index, entry, admission),
        ))
    }

    fn confirm<'a>(
        &'a self,
        index: &'a IndexKey,
        handle: &'a Handle,
        entered_in: Generation,
    ) -> StoreFuture<'a, Confirmed> {
        Box::pin(measured(
            "confirm",
            SessionStore::confirm(self, index, handle, entered_in),
        ))
    }

    fn extend<'a>(&'a self, index: &'a IndexKey, entry: Entry) -> StoreFuture<'a, ()> {
        Box::pin(measured("extend", SessionStore::extend(self, index, entry)))
    }

    fn list<'a>(&'a self, index: &'a IndexKey) -> StoreFuture<'a, Indexed> {
        Box::pin(measured("list", SessionStore::list(self, index)))
    }

    fn begin_generation<'a>(
        &'a self,
        index: &'a IndexKey,
        at: SystemTime,
    ) -> StoreFuture<'a, Generation> {
        Box::pin(measured(
            "begin_generation",
            SessionStore::begin_generation(self, index, at),
        ))
    }

    fn leave<'a>(&'a self, index: &'a IndexKey, entries: &'a [Entry]) -> StoreFuture<'a, ()> {
        Box::pin(measured("leave", SessionStore::leave(self, index, entries)))
    }
}
