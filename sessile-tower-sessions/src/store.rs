//! The store: sessions of tower-sessions in a store of sessile, in types that all versions of tower-sessions have in common.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sessile::store::{
    Created, Deleted, Durability, Freshness, Loaded as Present, Replaced, Stored, Write,
};
use sessile::{Handle, SessionStore};
use time::OffsetDateTime;
use tokio::sync::Mutex;

use crate::failure::Failure;
use crate::hidden::{Loaded, split};
use crate::key::{handle, random_id};
use crate::merge::{Data, merge};
use crate::moving::Moving;
use crate::saves::Saves;
use crate::stored::StoredSession;

/// How many groups of sessions have a lock of their own, for saves that have met a conflict.
const LOCKS: usize = 64;

/// How long the mark of an ended session stays: longer than any request takes between its two reads.
const MARKED_FOR: Duration = Duration::from_secs(10 * 60);

/// A store for tower-sessions' `SessionManagerLayer`, on any store of sessile.
///
/// It implements `tower_sessions::SessionStore` of tower-sessions 0.14 (feature `v0_14`) and of 0.15 (`v0_15`). Clones share the
/// store. The documentation of the crate says how it merges, and what it does with sessions that have ended.
///
/// Use it as the store itself, not inside a `CachingSessionStore`: a cached session is older than the stored one, on one node it
/// outlives a logout on another, and the merge does not know what a request has read.
///
/// # Redis
///
/// A load is as sessile's: one round trip, `GET` and now and then `PTTL`. `create` is one `SET … NX PX`. `save` is one `EVALSHA`, and
/// one more for each request that saved the session first; a session that was cleared is read once more. Without scripts and
/// with `SET … IFEQ`, a save takes two. `delete` is one `UNLINK`.
///
/// # Errors
///
/// All are `session_store::Error`; tower-sessions has no finer ones. `Encode` and `Decode` are values that are not JSON, or not of this
/// crate; `Backend` says what has happened and what to do:
///
/// - the session has ended while the request ran, or was cleared and filled again after it had ended: nothing was written. It is no
///   error to clear a session that has ended;
/// - sessile's store failed or has not answered within its request budget
///   ([`Capabilities::request_budget`](sessile::store::Capabilities::request_budget), 1 s by default). A save may have been written.
///
/// # Cancel safety
///
/// A call that is dropped may still reach the store; it happens as a whole or not at all.
///
/// # Examples
///
/// ```
/// use axum::Router;
/// use sessile_tower_sessions::SessileStore;
/// use tower_sessions::SessionManagerLayer;
///
/// let store = SessileStore::new(sessile::MemoryStore::new()); // or a sessile::RedisStore
/// let app: Router = Router::new().layer(SessionManagerLayer::new(store));
/// ```
pub struct SessileStore<S> {
    inner: Arc<Inner<S>>,
}

struct Inner<S> {
    store: S,
    saves: Saves,
    /// Held from the first conflict of a save to its end, so that requests of one process do not conflict with each other again
    /// and again. The merge does not depend on it.
    locks: [Mutex<()>; LOCKS],
}

impl<S> Clone for SessileStore<S> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<S> fmt::Debug for SessileStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessileStore").finish_non_exhaustive()
    }
}

/// A session in the types that all versions of tower-sessions share.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) data: Data,
    pub(crate) expires: OffsetDateTime,
}

impl<S: SessionStore> SessileStore<S> {
    /// Keeps sessions in this store.
    ///
    /// Give a [`RedisStore`](https://docs.rs/sessile/latest/sessile/struct.RedisStore.html) a `key_prefix` of its own, such as
    /// `"tower-sessions:"`: sessions of this adapter and those of sessile's own layer do not understand each other.
    pub fn new(store: S) -> Self {
        let inner = Inner {
            store,
            saves: Saves::default(),
            locks: std::array::from_fn(|_| Mutex::new(())),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The store that keeps the sessions, to ask for its statistics or its health.
    pub fn store(&self) -> &S {
        &self.inner.store
    }

    /// Takes sessions over from the store that the application had before, such as tower-sessions' own for Redis or a database:
    /// see [`Moving`].
    ///
    /// ```
    /// use sessile_tower_sessions::SessileStore;
    /// use tower_sessions::{MemoryStore, SessionManagerLayer};
    ///
    /// let former = MemoryStore::default(); // the store that you had
    /// let store = SessileStore::new(sessile::MemoryStore::new()).taking_over_from(former);
    /// let layer = SessionManagerLayer::new(store);
    /// ```
    pub fn taking_over_from<F>(self, former: F) -> Moving<S, F> {
        Moving {
            store: self,
            former,
        }
    }

    /// Stores a new session under a new id, and returns it. The id of the record is never used: after a `flush`, tower-sessions
    /// would create its next session under the id that has just been deleted, and so revive the old cookie.
    pub(crate) async fn create(
        &self,
        data: &mut Data,
        expires: OffsetDateTime,
    ) -> Result<i128, Failure> {
        self.within(async {
            let (ours, _) = split(data);
            let session = StoredSession::new(ours, millis(expires));
            let Some(ttl) = time_left(expires) else {
                *data = session.data;
                return Ok(random_id());
            };
            let bytes = encode(&session)?;
            loop {
                let id = random_id();
                match self
                    .inner
                    .store
                    .create(&self.handle(id), Write::new(&bytes, ttl))
                    .await?
                {
                    Created::Done => {
                        let loaded = Loaded::of(&session.data, session.version);
                        *data = session.data;
                        loaded.put_into(data);
                        return Ok(id);
                    }
                    Created::Exists => {}
                }
            }
        })
        .await
    }

    pub(crate) async fn load(&self, id: i128) -> Result<Option<Session>, Failure> {
        self.within(async {
            match self
                .inner
                .store
                .load(&self.handle(id), Freshness::Recent)
                .await?
            {
                Present::Missing => Ok(None),
                Present::Unreadable => Err(Failure::not_bytes()),
                Present::Found(stored) => {
                    let session = StoredSession::decode(stored.value())?;
                    let Some(StoredSession {
                        version,
                        expires,
                        mut data,
                        ..
                    }) = session.unless_ended()
                    else {
                        return Ok(None);
                    };
                    Loaded::of(&data, version).put_into(&mut data);
                    let expires = i128::from(expires) * 1_000_000;
                    let expires = OffsetDateTime::from_unix_timestamp_nanos(expires)
                        .map_err(|error| Failure::Decode(error.to_string()))?;
                    Ok(Some(Session { data, expires }))
                }
            }
        })
        .await
    }

    /// Saves what the request has changed since it loaded the session. An expiry in the past ends the session.
    pub(crate) async fn save(
        &self,
        id: i128,
        data: &Data,
        expires: OffsetDateTime,
    ) -> Result<(), Failure> {
        match time_left(expires) {
            Some(ttl) => self.within(self.save_merged(id, data, expires, ttl)).await,
            None => self.delete(id).await,
        }
    }

    async fn save_merged(
        &self,
        id: i128,
        data: &Data,
        expires: OffsetDateTime,
        ttl: Duration,
    ) -> Result<(), Failure> {
        let inner = &*self.inner;
        let handle = self.handle(id);
        let (ours, loaded) = split(data);
        let known = loaded.clone().map(|loaded| inner.saves.since(loaded));

        // As long as nobody else has saved, the values of this request are all there is.
        let (mut expected, mut merged) = match known.as_ref().and_then(|known| known.version) {
            Some(version) => (version.stored(), ours.clone()),
            None => {
                let Some(present) = self.present(&handle).await? else {
                    return without_session(known.as_ref(), &ours);
                };
                let Some(merged) = self.merged(known.as_ref(), &present, &ours)? else {
                    return without_session(known.as_ref(), &ours);
                };
                (present, merged)
            }
        };
        let mut turn = None;
        loop {
            let session = StoredSession::new(merged, millis(expires));
            let bytes = encode(&session)?;
            match inner
                .store
                .replace(&handle, &expected, Write::new(&bytes, ttl))
                .await?
            {
                Replaced::Done => {
                    if let Some(loaded) = &loaded {
                        let version = (session.data == ours).then_some(session.version);
                        inner.saves.remember(loaded, &ours, version);
                    }
                    return Ok(());
                }
                Replaced::Conflict(present) => {
                    let Some(again) = self.merged(known.as_ref(), &present, &ours)? else {
                        return without_session(known.as_ref(), &ours);
                    };
                    (expected, merged) = (present, again);
                    if turn.is_none() {
                        turn = Some(self.lock(id).lock().await);
                    }
                }
                Replaced::Gone => return without_session(known.as_ref(), &ours),
                Replaced::Unreadable => return Err(Failure::not_bytes()),
            }
        }
    }

    /// Deletes the session. A save that comes later does not bring it back.
    pub(crate) async fn delete(&self, id: i128) -> Result<(), Failure> {
        self.within(async {
            match self
                .inner
                .store
                .delete(&self.handle(id), Durability::Primary)
                .await?
            {
                Deleted::Done | Deleted::Missing => Ok(()),
            }
        })
        .await
    }

    /// Stores a session of another store under the id that it has there, unless there is one with this id already, or was.
    pub(crate) async fn take_over(
        &self,
        id: i128,
        data: Data,
        expires: OffsetDateTime,
    ) -> Result<(), Failure> {
        self.within(async {
            let Some(ttl) = time_left(expires) else {
                return Ok(());
            };
            let bytes = encode(&StoredSession::new(data, millis(expires)))?;
            match self
                .inner
                .store
                .create(&self.handle(id), Write::new(&bytes, ttl))
                .await?
            {
                Created::Done | Created::Exists => Ok(()),
            }
        })
        .await
    }

    /// Puts a mark in the place of a session, so that nobody takes it over again.
    pub(crate) async fn mark_ended(&self, id: i128) -> Result<(), Failure> {
        self.within(async {
            let handle = self.handle(id);
            let bytes = encode(&StoredSession::ended())?;
            let mark = Write::new(&bytes, MARKED_FOR);
            loop {
                match self.inner.store.load(&handle, Freshness::Latest).await? {
                    Present::Found(present) => {
                        match self.inner.store.replace(&handle, &present, mark).await? {
                            Replaced::Done => return Ok(()),
                            Replaced::Conflict(_) | Replaced::Gone => {}
                            Replaced::Unreadable => return Err(Failure::not_bytes()),
                        }
                    }
                    Present::Missing => match self.inner.store.create(&handle, mark).await? {
                        Created::Done => return Ok(()),
                        Created::Exists => {}
                    },
                    Present::Unreadable => return Err(Failure::not_bytes()),
                }
            }
        })
        .await
    }

    async fn present(&self, handle: &Handle) -> Result<Option<Stored>, Failure> {
        match self.inner.store.load(handle, Freshness::Latest).await? {
            Present::Found(stored) => Ok(Some(stored)),
            Present::Missing => Ok(None),
            Present::Unreadable => Err(Failure::not_bytes()),
        }
    }

    /// `None` if what is stored is the mark of a session that has ended.
    fn merged(
        &self,
        known: Option<&Loaded>,
        present: &Stored,
        ours: &Data,
    ) -> Result<Option<Data>, Failure> {
        let stored = StoredSession::decode(present.value())?.unless_ended();
        let digests = known.map(|known| &known.digests);
        Ok(stored.map(|stored| merge(digests, stored.data, ours)))
    }

    fn handle(&self, id: i128) -> Handle {
        handle(self.inner.store.namespace(), id)
    }

    fn lock(&self, id: i128) -> &Mutex<()> {
        &self.inner.locks[usize::from(id.to_le_bytes()[0]) % LOCKS]
    }

    async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let budget = self.inner.store.capabilities().request_budget;
        let budget = budget.max(Duration::from_millis(1));
        match tokio::time::timeout(budget, call).await {
            Ok(result) => result,
            Err(_) => Err(Failure::late(budget)),
        }
    }
}

/// The result of a save that finds no session.
///
/// `Session::clear` does not load, so with the cookie of a session that has ended, it leaves an empty record under that id. Nothing is
/// what its save wants stored, and nothing is stored. Values may not be stored then: they would revive the id.
fn without_session(known: Option<&Loaded>, ours: &Data) -> Result<(), Failure> {
    match known {
        Some(_) => Err(Failure::ended()),
        None if ours.is_empty() => Ok(()),
        None => Err(Failure::cleared_without_session()),
    }
}

fn encode(session: &StoredSession) -> Result<Bytes, Failure> {
    session
        .encode()
        .map_err(|error| Failure::Encode(error.to_string()))
}

/// `None` if there is none: a store takes no time to live of zero.
fn time_left(expires: OffsetDateTime) -> Option<Duration> {
    let left = expires - OffsetDateTime::now_utc();
    Duration::try_from(left)
        .ok()
        .filter(|left| left.as_millis() > 0)
}

/// Milliseconds since 1970.
fn millis(time: OffsetDateTime) -> i64 {
    // The years that `time` knows fit.
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}
