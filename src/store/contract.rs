//! The contract of a store: the trait, its arguments and its outcomes.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::store::StoreError;
use crate::record::format::Unreadable;
use crate::record::lifetime::Renewal;
use crate::store::index::{
    Admission, Confirmed, Entered, Entry, Generation, IndexKey, Indexed, no_index,
};
use crate::store::lease::{Leased, Owner, unsupported};
use crate::time::duration;
use crate::token::Handle;

/// Keeps sessions as bytes with a version and a time to live.
///
/// [`store`](crate::store) has the terms. `docs/own-store.md` in the repository has the rules in brief, what each capability costs, and
/// hints for SQL databases; `examples/own_store` is a store in SQLite. The suite in `sessile::conformance` (feature `conformance`) checks a
/// store against the rules.
///
/// Any future may be dropped at any point; its operation may happen all the same.
///
/// Each call must reach the store at most once: no client or proxy in between may resend an unanswered `create` or `replace` on
/// its own, and an acknowledged `create` must not arrive a second time. Otherwise changes are applied twice, and a session
/// comes back after its logout.
///
/// # Examples
///
/// A store on a map, whose lock makes each call atomic. It has neither leases nor an index:
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::{Mutex, PoisonError};
/// use std::time::SystemTime;
///
/// use bytes::Bytes;
/// use sessile::store::{
///     Capabilities, Created, Deleted, Durability, Freshness, Loaded, Renewal, Replaced, Stored, Touched, Write,
/// };
/// use sessile::{Handle, SessionStore, StoreError};
///
/// /// Each value, and when it expires.
/// #[derive(Default)]
/// struct MapStore(Mutex<HashMap<Handle, (Bytes, SystemTime)>>);
///
/// impl MapStore {
///     fn with<T>(&self, work: impl FnOnce(&mut HashMap<Handle, (Bytes, SystemTime)>, SystemTime) -> T) -> T {
///         let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
///         let now = SystemTime::now();
///         sessions.retain(|_, (_, expires)| *expires > now); // slow; a real store sweeps them out now and then
///         work(&mut sessions, now)
///     }
/// }
///
/// fn stored((value, expires): &(Bytes, SystemTime), now: SystemTime) -> Stored {
///     Stored::new(value.clone(), expires.duration_since(now).ok())
/// }
///
/// fn primary_only(durability: Durability) -> Result<(), StoreError> {
///     match durability {
///         Durability::Primary => Ok(()),
///         _ => Err(StoreError::refused("a map has no replicas: write \"primary\" for `durability`")),
///     }
/// }
///
/// impl SessionStore for MapStore {
///     fn namespace(&self) -> &str {
///         "map:"
///     }
///
///     fn now(&self) -> SystemTime {
///         SystemTime::now()
///     }
///
///     fn capabilities(&self) -> Capabilities {
///         Capabilities::new()
///     }
///
///     async fn load(&self, key: &Handle, _: Freshness) -> Result<Loaded, StoreError> {
///         Ok(self.with(|sessions, now| match sessions.get(key) {
///             Some(session) => Loaded::Found(stored(session, now)),
///             None => Loaded::Missing,
///         }))
///     }
///
///     async fn create(&self, key: &Handle, write: Write<'_>) -> Result<Created, StoreError> {
///         primary_only(write.durability)?;
///         Ok(self.with(|sessions, now| {
///             if sessions.contains_key(key) {
///                 return Created::Exists;
///             }
///             sessions.insert(*key, (write.value.clone(), now + write.ttl));
///             Created::Done
///         }))
///     }
///
///     async fn replace(&self, key: &Handle, expected: &Stored, write: Write<'_>) -> Result<Replaced, StoreError> {
///         primary_only(write.durability)?;
///         Ok(self.with(|sessions, now| {
///             let Some(session) = sessions.get_mut(key) else {
///                 return Replaced::Gone;
///             };
///             let present = stored(session, now);
///             if present.version() != expected.version() {
///                 return Replaced::Conflict(present);
///             }
///             session.0 = write.value.clone();
///             if !write.keep_ttl {
///                 session.1 = now + write.ttl;
///             }
///             Replaced::Done
///         }))
///     }
///
///     async fn touch(&self, key: &Handle, renewal: Renewal) -> Result<Touched, StoreError> {
///         Ok(self.with(|sessions, now| match (sessions.get_mut(key), renewal) {
///             (Some((_, expires)), Renewal::Extend(ttl)) if now + ttl > *expires => {
///                 *expires = now + ttl;
///                 Touched::Done
///             }
///             (Some((_, expires)), Renewal::Set(ttl)) => {
///                 *expires = now + ttl;
///                 Touched::Done
///             }
///             _ => Touched::Unchanged,
///         }))
///     }
///
///     async fn delete(&self, key: &Handle, durability: Durability) -> Result<Deleted, StoreError> {
///         primary_only(durability)?;
///         Ok(self.with(|sessions, _| match sessions.remove(key) {
///             Some(_) => Deleted::Done,
///             None => Deleted::Missing,
///         }))
///     }
/// }
/// # #[cfg(feature = "conformance")]
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
/// #     .block_on(sessile::conformance::check(MapStore::default()));
/// ```
pub trait SessionStore: Send + Sync + 'static {
    /// The prefix of every key. It is part of the hash of a session's secret, so a token that was issued for one namespace is
    /// invalid in every other.
    fn namespace(&self) -> &str;

    /// The time by the store's clock, which decides whether a session has reached its absolute timeout.
    fn now(&self) -> SystemTime;

    /// How far [`now`](Self::now) may be from the time that another node sees; zero, the default, if there is only one clock.
    /// `None` if the store has not read its clock yet; a call such as [`list`](Self::list) makes it do so.
    fn clock_error(&self) -> Option<Duration> {
        Some(Duration::ZERO)
    }

    /// What this store can do, and how long a request may spend on it.
    fn capabilities(&self) -> Capabilities;

    /// Loads a session. If the key holds something other than bytes, returns [`Loaded::Unreadable`], not an error.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; the kind does not matter, since a load changes nothing.
    fn load(
        &self,
        key: &Handle,
        want: Freshness,
    ) -> impl Future<Output = Result<Loaded, StoreError>> + Send;

    /// Writes a session that must not exist yet.
    ///
    /// # Errors
    ///
    /// A [`StoreError`] whose kind says whether the write may have happened.
    fn create(
        &self,
        key: &Handle,
        write: Write<'_>,
    ) -> impl Future<Output = Result<Created, StoreError>> + Send;

    /// Replaces a session if its version is still that of `expected`. It must never create one.
    ///
    /// # Errors
    ///
    /// A [`StoreError`] whose kind says whether the write may have happened.
    fn replace(
        &self,
        key: &Handle,
        expected: &Stored,
        write: Write<'_>,
    ) -> impl Future<Output = Result<Replaced, StoreError>> + Send;

    /// Sets the time to live and keeps the value; [`Renewal::Extend`] never shortens it.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; the next request makes up for a missed renewal.
    fn touch(
        &self,
        key: &Handle,
        renewal: Renewal,
    ) -> impl Future<Output = Result<Touched, StoreError>> + Send;

    /// Deletes a session, whatever its version.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; the caller sends the deletion again, which is harmless.
    fn delete(
        &self,
        key: &Handle,
        durability: Durability,
    ) -> impl Future<Output = Result<Deleted, StoreError>> + Send;

    /// Takes the lease of this handle for this long, if it is free; renews it for this long, if `owner` has it already. A store
    /// without leases returns an error, and says so in [`Capabilities::lease`].
    ///
    /// The lease is independent of the session: it can be taken before the session exists, and neither changes the other.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. The lease may be taken or not; taking it again as the same owner is harmless.
    fn acquire(
        &self,
        key: &Handle,
        owner: Owner,
        lease: Duration,
    ) -> impl Future<Output = Result<Leased, StoreError>> + Send {
        let _ = (key, owner, lease);
        std::future::ready(Err(unsupported()))
    }

    /// Releases the lease if `owner` has it; does nothing otherwise.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; the lease then expires.
    fn release(
        &self,
        key: &Handle,
        owner: Owner,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = (key, owner);
        std::future::ready(Err(unsupported()))
    }

    /// Puts a session into the index of a principal, and reserves it for [`RESERVED_FOR`](crate::store::RESERVED_FOR), if the
    /// index admits it. If the session is there already, it is reserved again, whatever the limit, and its `until` becomes this one,
    /// but at least a millisecond later than it was. Entries that have ended do not count.
    ///
    /// The check and the change are one atomic step. A store without an index returns an error, and says so in
    /// [`Capabilities::index`].
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. The session may have entered; entering again is harmless.
    fn enter(
        &self,
        index: &IndexKey,
        entry: Entry,
        admission: Admission,
    ) -> impl Future<Output = Result<Entered, StoreError>> + Send {
        let _ = (index, entry, admission);
        std::future::ready(Err(no_index()))
    }

    /// Ends the reservation of a session that has entered in this generation. It must still be in the index, and no other
    /// generation may have begun. Its `until` becomes at least a millisecond later. One atomic step.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; confirming again is harmless.
    fn confirm(
        &self,
        index: &IndexKey,
        handle: &Handle,
        entered_in: Generation,
    ) -> impl Future<Output = Result<Confirmed, StoreError>> + Send {
        let _ = (index, handle, entered_in);
        std::future::ready(Err(no_index()))
    }

    /// Puts a session into the index, or keeps it there for longer; never for less time.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; extending again is harmless.
    fn extend(
        &self,
        index: &IndexKey,
        entry: Entry,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = (index, entry);
        std::future::ready(Err(no_index()))
    }

    /// What the index holds. An index that was never written is empty.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    fn list(&self, index: &IndexKey) -> impl Future<Output = Result<Indexed, StoreError>> + Send {
        let _ = index;
        std::future::ready(Err(no_index()))
    }

    /// Begins a new generation: from now on the index refuses sign-ins that began at `at` or before. It remembers the generation for
    /// [`GENERATION_KEPT_FOR`](crate::store::GENERATION_KEPT_FOR), also if it holds no session. It keeps its sessions.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; the generation may have begun.
    fn begin_generation(
        &self,
        index: &IndexKey,
        at: SystemTime,
    ) -> impl Future<Output = Result<Generation, StoreError>> + Send {
        let _ = (index, at);
        std::future::ready(Err(no_index()))
    }

    /// Removes sessions from the index. One that is reserved stays, and so does one whose `until` is later than that of the entry:
    /// it has entered again, or was confirmed, since it was listed.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; some may have been removed.
    fn leave(
        &self,
        index: &IndexKey,
        entries: &[Entry],
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = (index, entries);
        std::future::ready(Err(no_index()))
    }

    /// The store itself, even if `self` only points to it, so that two stores can be compared.
    #[doc(hidden)]
    fn as_any(&self) -> &dyn Any
    where
        Self: Sized,
    {
        self
    }
}

/// What a store can do.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// How long one request may wait for an unresponsive store: for its load and for the commits and reloads that fail,
    /// together. 1 s by default; less than a millisecond counts as one.
    pub request_budget: Duration,
    /// Whether the store has leases: [`SessionStore::acquire`]. False by default.
    pub lease: bool,
    /// Whether the store can wait for replicas: [`Durability::Replicas`]. False by default; the store then refuses such writes
    /// and changes nothing.
    pub durability: bool,
    /// Whether the store has an index of the sessions of each principal: [`SessionStore::enter`]. False by default; sign-ins
    /// then work, and [`Sessions`](crate::Sessions) does not.
    pub index: bool,
}

impl Capabilities {
    /// The minimum: a store without leases, replicas and index, with a request budget of 1 s.
    pub fn new() -> Self {
        Self {
            request_budget: Duration::from_secs(1),
            lease: false,
            durability: false,
            index: false,
        }
    }

    /// Sets how long one request may wait for this store.
    #[must_use]
    pub fn with_request_budget(mut self, budget: Duration) -> Self {
        self.request_budget = budget;
        self
    }

    /// Sets whether this store has leases.
    #[must_use]
    pub fn with_lease(mut self, lease: bool) -> Self {
        self.lease = lease;
        self
    }

    /// Sets whether this store can wait for replicas.
    #[must_use]
    pub fn with_durability(mut self, durability: bool) -> Self {
        self.durability = durability;
        self
    }

    /// Sets whether this store has an index of the sessions of each principal.
    #[must_use]
    pub fn with_index(mut self, index: bool) -> Self {
        self.index = index;
        self
    }
}

impl Default for Capabilities {
    fn default() -> Self {
        Self::new()
    }
}

/// How recent a loaded session must be.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// A cached copy is acceptable, if the store keeps one. The time left may be from a while ago: what others
    /// have changed of it since is missing.
    Recent,
    /// The value that the next compare-and-set would compare with.
    Latest,
}

/// How many servers must have a write before it counts as done.
///
/// In a configuration file: `"primary"`, or `{ replicas = { n = 1, timeout = "100ms" } }`.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Durability {
    /// The primary has it in memory.
    #[default]
    Primary,
    /// The primary and this many of its replicas have it in memory. If too few acknowledge it in time, the write is on the
    /// primary and the request fails: [`StoreErrorKind::NotDurable`](crate::store::StoreErrorKind::NotDurable).
    ///
    /// A failover that promotes one of these replicas does not lose the write. One that promotes another replica may lose it:
    /// Redis does not record which replicas have it.
    Replicas {
        /// How many replicas; at least one.
        n: u32,
        /// How long to wait for them, after the primary has answered; at most the store's request budget.
        #[serde(with = "duration")]
        timeout: Duration,
    },
}

impl Durability {
    /// For a store without replicas.
    pub(crate) fn primary_only(self) -> Result<(), StoreError> {
        match self {
            Self::Primary => Ok(()),
            Self::Replicas { .. } => Err(StoreError::refused(
                "this store has no replicas to wait for: use another store, or write \"primary\" for `durability`",
            )),
        }
    }
}

/// A session as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Stored {
    value: Bytes,
    time_left: Option<Duration>,
}

impl Stored {
    /// How many bytes at the start of a value are its version.
    pub const VERSION_LEN: usize = 29;

    /// A value and its remaining time to live; `None` if it never expires.
    pub fn new(value: impl Into<Bytes>, time_left: Option<Duration>) -> Self {
        Self {
            value: value.into(),
            time_left,
        }
    }

    /// The value, which begins with its version.
    pub fn value(&self) -> &Bytes {
        &self.value
    }

    /// The time until the session expires; `None` if it never does.
    pub fn time_left(&self) -> Option<Duration> {
        self.time_left
    }

    /// The bytes that [`SessionStore::replace`] compares.
    pub fn version(&self) -> &[u8] {
        &self.value[..Self::VERSION_LEN.min(self.value.len())]
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored")
            .field("bytes", &self.value.len())
            .field("time_left", &self.time_left)
            .finish_non_exhaustive()
    }
}

/// A value to write, and how.
#[non_exhaustive]
#[derive(Clone, Copy)]
pub struct Write<'a> {
    /// The whole value, beginning with its version.
    pub value: &'a Bytes,
    /// The time to live; never zero.
    pub ttl: Duration,
    /// Whether `replace` keeps the time to live that the session has by then, instead of setting `ttl`: that of a change which
    /// does not renew its session must not undo a renewal that another request makes meanwhile. False by default.
    pub keep_ttl: bool,
    /// How many servers must have it.
    pub durability: Durability,
    /// Whether a user is signed in to the session, that is, whether it has a principal. A hint for stores that evict, so that
    /// they evict anonymous sessions first; it changes nothing else, and a store need not keep it. False by default.
    pub signed_in: bool,
}

impl<'a> Write<'a> {
    /// A write of an anonymous session that is done once the primary has it.
    pub fn new(value: &'a Bytes, ttl: Duration) -> Self {
        Self {
            value,
            ttl,
            keep_ttl: false,
            durability: Durability::Primary,
            signed_in: false,
        }
    }

    /// Sets whether `replace` keeps the time to live.
    #[must_use]
    pub fn with_keep_ttl(mut self, keep_ttl: bool) -> Self {
        self.keep_ttl = keep_ttl;
        self
    }

    /// Sets how many servers must have it.
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets whether a user is signed in to the session.
    #[must_use]
    pub fn with_signed_in(mut self, signed_in: bool) -> Self {
        self.signed_in = signed_in;
        self
    }
}

impl fmt::Debug for Write<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Write")
            .field("bytes", &self.value.len())
            .field("ttl", &self.ttl)
            .field("keep_ttl", &self.keep_ttl)
            .field("durability", &self.durability)
            .field("signed_in", &self.signed_in)
            .finish()
    }
}

/// The outcome of [`SessionStore::load`].
#[must_use]
#[allow(
    clippy::exhaustive_enums,
    reason = "complete: bytes, something else or nothing"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// The session is stored.
    Found(Stored),
    /// Something other than bytes is stored under the handle, so it is not a session. Only a store that has values of other
    /// types, and that others write to, returns this.
    Unreadable,
    /// Nothing is stored under the handle.
    Missing,
}

impl Loaded {
    /// The session if there is one, or why the stored value is not a session.
    pub(crate) fn bytes(self) -> Result<Option<Stored>, Unreadable> {
        match self {
            Self::Found(stored) => Ok(Some(stored)),
            Self::Unreadable => Err(Unreadable::NotBytes),
            Self::Missing => Ok(None),
        }
    }
}

/// The outcome of [`SessionStore::create`].
#[must_use]
#[allow(
    clippy::exhaustive_enums,
    reason = "complete: the key was free or it was not"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// The session is stored.
    Done,
    /// Another session has the handle; it is unchanged.
    Exists,
}

/// The outcome of [`SessionStore::replace`].
#[must_use]
#[allow(
    clippy::exhaustive_enums,
    reason = "complete: equal, different, not bytes or absent"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// The new value is stored.
    Done,
    /// The stored value has another version and is unchanged; this is it.
    Conflict(Stored),
    /// Something other than bytes is stored under the handle: [`Loaded::Unreadable`]. It is unchanged.
    Unreadable,
    /// Nothing is stored under the handle; nothing was created.
    Gone,
}

/// The outcome of [`SessionStore::touch`].
#[must_use]
#[allow(clippy::exhaustive_enums, reason = "complete: changed or not")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// The time to live is set.
    Done,
    /// Nothing changed: nothing is stored under the handle, or its time to live is longer already.
    Unchanged,
}

/// The outcome of [`SessionStore::delete`].
#[must_use]
#[allow(clippy::exhaustive_enums, reason = "complete: there or not")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// The session was stored and is deleted.
    Done,
    /// Nothing was stored under the handle.
    Missing,
}
