//! The session of a handler: the calls of [`Session`], and the state of one request behind them.
//!
//! [`Session`] explains *handle*, *token*, *rotation* and *principal*. A *lease* is the right to be the only request of a
//! session, under `Concurrency::Exclusive` (`commit/lease.rs`).
//!
//! The way of a change, each step with the function that takes it:
//!
//! 1. `middleware/request.rs: make` creates the [`Session`]. All of its clones share one `Shared` (`shared.rs`), with one
//!    `State` (`state/mod.rs`) behind a lock.
//! 2. A call of the handler notes what it reads (`state/reads.rs`), applies its change to the view, and appends it to the
//!    change log (`state/mod.rs: State::change`). The calls for values are in this file, those of logins in `principal.rs`, of
//!    timeouts in `lifetime.rs`, of messages in `flash.rs`; `transaction.rs` has transactions, and `read_only.rs` a session
//!    without calls that change it. A closure of the application runs without the lock, for it may use the session.
//! 3. `save.rs: commit_pending` runs at the end of the request, or when a call commits at once:
//!    - `delete_pending` deletes the sessions that `destroy` has ended (`state/ending.rs`).
//!    - `resolve` finds out what became of an earlier commit without an answer (`state/in_flight.rs`).
//!    - `state/work.rs: State::take_work` takes the log out, and `commit/queue.rs: Ticket::commit` commits it.
//!    - `apply_outcome` emits events and brings the outcome into the state (`state/outcome.rs`).
//! 4. `save.rs: reload` loads the session again, and replays the log on it.
//! 5. `state/phase.rs` records whether the response head was sent. If no response follows, `shared.rs: Shared::abandon` drops the
//!    changes and carries out a `destroy`.

pub(crate) mod flash;
pub(crate) mod lifetime;
pub(crate) mod principal;
pub(crate) mod read_only;
pub(crate) mod save;
pub(crate) mod shared;
pub(crate) mod state;
pub(crate) mod transaction;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::session::{LimitedPart, SessionError};
use crate::record::change::{Change, Rewrite};
use crate::record::deferred::{Deferred, DeferredId};
use crate::record::fingerprint::Fingerprint;
use crate::record::json::Json;
use crate::record::key::{KeyName, SessionKey};
use crate::record::limit::check_size;
use crate::record::value::{decode, encode, encode_item, negated};
use crate::record::values::decode_all;
use crate::session::save::{Trigger, commit_pending, reload};
use crate::session::shared::Shared;
use crate::session::state::State;
use crate::session::state::backing::Backing;
use crate::token::Handle;

/// How often an update is tried while other clones of the session keep changing its value.
const REWRITES: u32 = 100;

/// The session of a visitor: a map of values that is kept from one request to the next.
///
/// Take it as an argument of a handler. The session is loaded before the handler runs, so calls that read or change it need
/// no `await`; only calls that talk to the store are async. Changes are committed after the handler, and a request that
/// changes nothing writes nothing. Clones share one state.
///
/// A visitor without a session gets an empty one. Nothing is stored and no cookie is set before the first change.
///
/// # Terms
///
/// - The *handle* names the session, as its key in the store and in lists and logs. It stays the same until the session
///   ends, and gives no access to it. See [`handle`](Self::handle).
/// - The *token* in the visitor's cookie is the handle and a secret. Whoever holds the token has the session.
/// - A *rotation* replaces the secret. The session keeps its handle and its data, and the old token stops working. Every login
///   rotates; [`cycle_id`](Self::cycle_id) does so at any time.
/// - The *principal* is the user whom the session belongs to, under a name of your choice, such as a user id.
///   [`set_principal`](Self::set_principal) signs one in. A session without a principal is *anonymous*.
///
/// # Concurrent requests
///
/// sessile records each operation, not its result. If another request, on any node, has changed the session meanwhile, the
/// operations are replayed on the newer version:
///
/// | call | if another request was faster |
/// |---|---|
/// | [`insert`](Self::insert), [`remove`](Self::remove), [`discard`](Self::discard) | the later commit wins, key by key |
/// | [`increment`](Self::increment), [`decrement`](Self::decrement), [`push`](Self::push) | both are applied: numbers add up, and the list has both items |
/// | [`update`](Self::update), [`update_with`](Self::update_with), [`try_update`](Self::try_update) | the closure runs again, on the newer value |
/// | [`get_or_insert`](Self::get_or_insert) | the other request's value stays |
/// | [`clear`](Self::clear) | removes the keys it saw |
/// | [`transaction`](Self::transaction) | the closure runs again, on all of the newer data |
/// | [`take`](Self::take) | exactly one request gets the value |
///
/// Once a session is destroyed or rotated, changes of requests that began before are rejected: their response becomes 409.
///
/// # Cancel safety
///
/// A handler that panics, or is dropped since the client went away, commits nothing but its [`destroy`](Self::destroy). A
/// commit that has begun runs to its end.
#[doc(alias("RedisSessionStorage", "SessionData", "SaveStrategy"))]
pub struct Session {
    shared: Arc<Shared>,
    /// How many losses of changes this clone has reported.
    drops_seen: AtomicU32,
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "keys are references or `Copy`, and `get(CART)` reads better than `get(&CART)`"
)]
impl Session {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            drops_seen: AtomicU32::new(0),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The value under a key, or `None`.
    ///
    /// # Errors
    ///
    /// [`SessionError::Decode`] if the value has another type; it stays.
    #[doc(alias = "session_get")]
    pub fn get<T: DeserializeOwned>(
        &self,
        key: impl SessionKey<T>,
    ) -> Result<Option<T>, SessionError> {
        let key = key.name();
        let value = {
            let mut state = self.shared.state();
            state.reads.note_key(key);
            state.view.data.get(key).cloned()
        };
        value.map(|value| decode(key, &value)).transpose()
    }

    /// Stores a value under a key. If all changes of the request together leave the session as it was loaded, nothing is
    /// written.
    ///
    /// The value comes back bit for bit, except where serde itself cannot read it back: flattened structs, untagged enums and
    /// internally tagged enums (`#[serde(tag = "…")]` alone) cannot hold 128-bit integers, nor maps whose keys are not
    /// strings.
    ///
    /// # Errors
    ///
    /// - [`SessionError::Encode`]: the value cannot be written as JSON and read back, such as one with a float anywhere in it
    ///   that is NaN or infinite, or with more than 127 levels of lists, maps and structs.
    /// - [`SessionError::TooLarge`]: the value is larger than `max_size` and than the value it replaces, or the key is longer
    ///   than 1 KiB.
    #[doc(alias("set", "put", "session_set"))]
    pub fn insert<T: Serialize>(
        &self,
        key: impl SessionKey<T>,
        value: T,
    ) -> Result<(), SessionError> {
        let key = key.name();
        let value = encode(key, &value)?;
        self.check_value(key, &value)?;
        self.change(Change::Insert {
            key: key.to_owned(),
            value,
        })
    }

    /// Removes a key and returns its value.
    ///
    /// Two requests may both get the value; where that matters, use [`take`](Self::take).
    ///
    /// # Errors
    ///
    /// [`SessionError::Decode`] if the value has another type; it stays, and [`discard`](Self::discard) removes it.
    #[doc(alias = "delete")]
    pub fn remove<T: DeserializeOwned>(
        &self,
        key: impl SessionKey<T>,
    ) -> Result<Option<T>, SessionError> {
        let name = key.name();
        let value = self.get(name)?;
        self.discard(name);
        Ok(value)
    }

    /// Removes a key without looking at its value.
    #[doc(alias("forget", "unset"))]
    pub fn discard(&self, key: impl KeyName) {
        // Removing cannot fail: it reads nothing.
        let _ = self.change(Change::Remove {
            key: key.name().to_owned(),
        });
    }

    /// Whether there is a value under a key.
    #[doc(alias("has", "exists"))]
    pub fn contains_key(&self, key: impl KeyName) -> bool {
        let key = key.name();
        let mut state = self.shared.state();
        state.reads.note_key(key);
        state.view.data.contains_key(key)
    }

    /// The keys, in alphabetical order.
    pub fn keys(&self) -> Vec<String> {
        let mut state = self.shared.state();
        state.reads.note_all();
        state.view.data.keys().cloned().collect()
    }

    /// All values at once, as a struct with a field for each key, a map, or a `serde_json::Value`. Keys for which the struct
    /// has no field are ignored.
    ///
    /// ```
    /// # use sessile::{Session, SessionError};
    /// #[derive(serde::Deserialize)]
    /// struct Visit {
    ///     name: Option<String>,
    ///     #[serde(default)]
    ///     cart: Vec<String>,
    /// }
    ///
    /// # fn handler(session: Session) -> Result<(), SessionError> {
    /// let visit: Visit = session.values()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`SessionError::DecodeAll`] if the values do not fit the type; they stay.
    #[doc(alias("all", "to_map", "entries"))]
    pub fn values<T: DeserializeOwned>(&self) -> Result<T, SessionError> {
        // The type belongs to the application, so no lock is held while it is decoded.
        let seen = {
            let mut state = self.shared.state();
            state.reads.note_all();
            Arc::clone(&state.view)
        };
        decode_all(&seen.data)
    }

    /// Removes every key that is there now. The session and its principal stay; [`destroy`](Self::destroy) ends the session.
    pub fn clear(&self) {
        let keys = self.shared.state().all_keys();
        if !keys.is_empty() {
            // Removing cannot fail: it reads nothing.
            let _ = self.change(Change::Clear { keys });
        }
    }

    /// Adds to a counter and returns the sum that this request sees; a missing counter starts at zero.
    ///
    /// No increment is lost, whatever other requests do. Two requests may see the same sum; if each needs a number of its
    /// own, use [`increment_now`](Self::increment_now).
    ///
    /// # Errors
    ///
    /// - [`SessionError::NotANumber`]: the value is not an integer; it stays.
    /// - [`SessionError::Overflow`]: the sum overflows `i64`; the value stays.
    /// - [`SessionError::TooLarge`]: the key is longer than 1 KiB.
    #[doc(alias = "incr")]
    pub fn increment(&self, key: impl SessionKey<i64>, by: i64) -> Result<i64, SessionError> {
        let key = key.name();
        self.check_size(LimitedPart::Key, key.len())?;
        let apply_context = self.shared.context.apply_context();
        let change = Change::Increment {
            key: key.to_owned(),
            by,
            deferred: None,
        };
        let counted = {
            let mut state = self.shared.state();
            state.change(change, &apply_context)?;
            state.view.data.get(key).cloned()
        };
        // The change has just put it there.
        counted.map_or(Ok(by), |counted| decode(key, &counted))
    }

    /// Subtracts from a counter; otherwise like [`increment`](Self::increment).
    ///
    /// # Errors
    ///
    /// Those of [`increment`](Self::increment).
    #[doc(alias = "decr")]
    pub fn decrement(&self, key: impl SessionKey<i64>, by: i64) -> Result<i64, SessionError> {
        let by = negated(key.name(), by)?;
        self.increment(key, by)
    }

    /// Adds to a counter in the store and returns a sum that no other caller gets. Commits everything this request has
    /// changed so far.
    ///
    /// # Redis
    ///
    /// Same as [`save`](Self::save).
    ///
    /// # Errors
    ///
    /// Those of [`increment`](Self::increment) and of [`save`](Self::save). Unless the error is `OutcomeUnknown`, nothing was
    /// added.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the increment may be committed although no caller gets the sum.
    pub async fn increment_now(
        &self,
        key: impl SessionKey<i64>,
        by: i64,
    ) -> Result<i64, SessionError> {
        let deferred = Deferred::new();
        let key = key.name().to_owned();
        self.change(Change::Increment {
            key,
            by,
            deferred: Some(deferred.clone()),
        })?;
        self.commit_for(&deferred)
            .await?
            .ok_or(SessionError::Discarded)
    }

    /// Appends an item to a list; a missing list starts empty. No item is lost, whatever other requests append.
    ///
    /// # Errors
    ///
    /// - [`SessionError::Encode`]: the item cannot be written as JSON and read back, as for [`insert`](Self::insert);
    ///   the list counts as one of the 127 levels.
    /// - [`SessionError::TooLarge`]: as for [`insert`](Self::insert).
    /// - [`SessionError::Decode`]: the value is not a list; it stays.
    #[doc(alias = "append")]
    pub fn push<T: Serialize>(
        &self,
        key: impl SessionKey<Vec<T>>,
        value: T,
    ) -> Result<(), SessionError> {
        let key = key.name();
        let value = encode_item(key, &value)?;
        self.check_size(LimitedPart::Value, value.len())?;
        self.change(Change::Push {
            key: key.to_owned(),
            value,
        })
    }

    /// Changes a value in place and returns the new value; a missing value starts at its default.
    ///
    /// The closure runs at once. If another request has changed the session meanwhile, it runs again at the commit, perhaps on
    /// the task of another request, which waits for it. So it must be quick and depend on nothing but the value and what was
    /// moved into it: clone what you move in. If it panics at the commit, only this request fails.
    ///
    /// The closure is kept until its change is committed or dropped, at the end of the request at the latest. After the
    /// response it is kept until [`save`](Self::save) succeeds, or [`discard_changes`](Self::discard_changes) or
    /// [`destroy`](Self::destroy) is called. A closure that holds a clone of its own session keeps that session in memory until
    /// then, since the last clone is never dropped.
    ///
    /// ```
    /// # use std::collections::BTreeMap;
    /// # use sessile::{Key, Session, SessionError};
    /// const CART: Key<BTreeMap<String, u32>> = Key::new("cart");
    ///
    /// fn add(session: &Session, article: String) -> Result<(), SessionError> {
    ///     session.update(CART, move |cart| *cart.entry(article.clone()).or_default() += 1)?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// - [`SessionError::Decode`]: the value has another type; it stays.
    /// - [`SessionError::Encode`]: the new value cannot be written as JSON and read back, as for [`insert`](Self::insert).
    /// - [`SessionError::TooLarge`]: as for [`insert`](Self::insert).
    /// - [`SessionError::Conflict`]: the closure ran 100 times, and each time a clone of this session changed the value
    ///   meanwhile.
    #[doc(alias("modify", "upsert"))]
    pub fn update<T, F>(&self, key: impl SessionKey<T>, f: F) -> Result<T, SessionError>
    where
        T: Serialize + DeserializeOwned + Default,
        F: Fn(&mut T) + Send + Sync + 'static,
    {
        let updated = self.rewrite(key.name(), move |value: Option<T>| {
            let mut value = value.unwrap_or_default();
            f(&mut value);
            Some((value, ()))
        });
        updated.map(|(value, ())| value)
    }

    /// Changes a value in place, as [`update`](Self::update) does, and returns what the closure returns.
    ///
    /// The closure returns it for the value that this request sees. If another request was faster, the closure runs again at
    /// the commit, and the result of that run is dropped: in the example, two requests may both learn that the tag is new.
    /// Where that matters, use [`transaction`](Self::transaction), which returns the result of the run that is committed.
    ///
    /// ```
    /// # use std::collections::BTreeSet;
    /// # use sessile::{Key, Session, SessionError};
    /// const TAGS: Key<BTreeSet<String>> = Key::new("tags");
    ///
    /// /// Adds a tag, and says whether it is new.
    /// fn add(session: &Session, tag: String) -> Result<bool, SessionError> {
    ///     session.update_with(TAGS, move |tags| tags.insert(tag.clone()))
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`update`](Self::update).
    pub fn update_with<T, R, F>(&self, key: impl SessionKey<T>, f: F) -> Result<R, SessionError>
    where
        T: Serialize + DeserializeOwned + Default,
        F: Fn(&mut T) -> R + Send + Sync + 'static,
    {
        let updated = self.rewrite(key.name(), move |value: Option<T>| {
            let mut value = value.unwrap_or_default();
            let returned = f(&mut value);
            Some((value, returned))
        });
        updated.map(|(_, returned)| returned)
    }

    /// Replaces a value if the closure agrees, and returns the new value. The closure gets the value, or `None` if there is
    /// none, and returns the new value, or `None` to refuse.
    ///
    /// Like the closure of [`update`](Self::update), it may run again at the commit. If it refuses then, the response becomes
    /// 409 and nothing of the request is written.
    ///
    /// # Errors
    ///
    /// - [`SessionError::Refused`]: the closure refused; the value stays.
    /// - Those of [`update`](Self::update).
    pub fn try_update<T, F>(&self, key: impl SessionKey<T>, f: F) -> Result<T, SessionError>
    where
        T: Serialize + DeserializeOwned,
        F: Fn(Option<T>) -> Option<T> + Send + Sync + 'static,
    {
        let updated = self.rewrite(key.name(), move |value| f(value).map(|value| (value, ())));
        updated.map(|(value, ())| value)
    }

    /// Returns the value under a key, or stores the given value if there is none and returns that.
    ///
    /// A replay keeps the value of another request that was faster. So if two requests find no value, each gets its own, and
    /// only that of the first commit is stored. Where both must get the same, use [`transaction`](Self::transaction).
    ///
    /// # Errors
    ///
    /// - [`SessionError::Decode`]: the value under the key has another type; it stays.
    /// - [`SessionError::Encode`], [`SessionError::TooLarge`]: as for [`insert`](Self::insert).
    #[doc(alias("setdefault", "set_nx", "get_or_set", "remember"))]
    pub fn get_or_insert<T>(&self, key: impl SessionKey<T>, value: T) -> Result<T, SessionError>
    where
        T: Serialize + DeserializeOwned,
    {
        self.get_or_insert_with(key, || value)
    }

    /// Like [`get_or_insert`](Self::get_or_insert), with a closure that makes the value. It runs only if there is none, and
    /// once.
    ///
    /// # Errors
    ///
    /// Those of [`get_or_insert`](Self::get_or_insert).
    pub fn get_or_insert_with<T, F>(&self, key: impl SessionKey<T>, f: F) -> Result<T, SessionError>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce() -> T,
    {
        let key = key.name();
        if let Some(value) = self.get(key)? {
            return Ok(value);
        }
        let value = f();
        let name = key.to_owned();
        let absent = encode(key, &value)?;
        // Another clone may have been faster, and at a replay another request.
        let present = self.rewrite_json(key, move |json| match json {
            Some(json) => Ok((Some(decode::<T>(&name, json)?), json.clone())),
            None => Ok((None, absent.clone())),
        })?;
        Ok(present.unwrap_or(value))
    }

    /// Replaces a value by the result of the closure, unless the closure refuses.
    fn rewrite<T, R, F>(&self, key: &str, f: F) -> Result<(T, R), SessionError>
    where
        T: Serialize + DeserializeOwned,
        F: Fn(Option<T>) -> Option<(T, R)> + Send + Sync + 'static,
    {
        let name = key.to_owned();
        self.rewrite_json(key, move |json| {
            let value = json.map(|json| decode::<T>(&name, json)).transpose()?;
            let refused = || SessionError::Refused { key: name.clone() };
            let (value, returned) = f(value).ok_or_else(refused)?;
            let json = encode(&name, &value)?;
            Ok(((value, returned), json))
        })
    }

    fn rewrite_json<R, F>(&self, key: &str, apply: F) -> Result<R, SessionError>
    where
        F: Fn(Option<&Json>) -> Result<(R, Json), SessionError> + Send + Sync + 'static,
    {
        let apply = Arc::new(apply);
        for _ in 0..REWRITES {
            // The closure belongs to the application and may use this session, so no lock is held while it runs.
            let seen = {
                let mut state = self.shared.state();
                state.reads.note_key(key);
                state.view.data.get(key).cloned()
            };
            let (returned, json) = apply(seen.as_ref())?;
            self.check_size(LimitedPart::Key, key.len())?;
            self.check_value(key, &json)?;
            let mut state = self.shared.state();
            if state.view.data.get(key) != seen.as_ref() {
                continue;
            }
            let again = Arc::clone(&apply);
            let rewrite: Rewrite = Arc::new(move |json| again(json).map(|(_, json)| json));
            let change = Change::Update {
                key: key.to_owned(),
                rewrite,
            };
            state.note(change, key, json);
            return Ok(returned);
        }
        Err(SessionError::Conflict { attempts: REWRITES })
    }

    /// Removes a value and returns it to exactly one of any number of concurrent requests: for one-time tokens. Commits
    /// everything this request has changed so far.
    ///
    /// # Redis
    ///
    /// None if there was no value when the session was loaded; otherwise the same as [`save`](Self::save).
    ///
    /// # Errors
    ///
    /// [`SessionError::Decode`] if the value has another type, and those of [`save`](Self::save). Unless the error is
    /// `OutcomeUnknown`, the value stays.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the value may be removed although no caller gets it.
    #[doc(alias = "pull")]
    pub async fn take<T: DeserializeOwned>(
        &self,
        key: impl SessionKey<T>,
    ) -> Result<Option<T>, SessionError> {
        let key = key.name().to_owned();
        let deferred = Deferred::new();
        if !self.note_taken::<T>(&key, &deferred)? {
            return Ok(None);
        }
        let value = self.commit_for(&deferred).await?;
        value.map(|value| decode(&key, &value)).transpose()
    }

    /// Notes that a value is taken; false if there is none.
    fn note_taken<T: DeserializeOwned>(
        &self,
        key: &str,
        deferred: &Deferred<Json>,
    ) -> Result<bool, SessionError> {
        let check = |key: &str, value: &Json| decode::<T>(key, value).map(drop);
        for _ in 0..REWRITES {
            let seen = {
                let mut state = self.shared.state();
                state.reads.note_key(key);
                state.view.data.get(key).cloned()
            };
            let Some(seen) = seen else { return Ok(false) };
            // The type belongs to the application, so no lock is held while it is decoded.
            check(key, &seen)?;
            let mut state = self.shared.state();
            if state.view.data.get(key) == Some(&seen) {
                let change = Change::Take {
                    key: key.to_owned(),
                    check,
                    deferred: deferred.clone(),
                };
                state.note_taken(change, key);
                return Ok(true);
            }
        }
        Err(SessionError::Conflict { attempts: REWRITES })
    }

    /// Commits the changes that this request has made so far, instead of after the handler: before a side effect that must
    /// not happen without them, or in a long stream. Afterwards the session also shows the changes of other requests.
    ///
    /// Saved changes stay, whatever the handler returns.
    ///
    /// # Redis
    ///
    /// None if nothing has changed. Otherwise one round trip: one `EVALSHA`, or for a new session one `SET … NX PX`. The first
    /// conflict costs one more; each further one costs two, since the session is read again. Where the server allows neither
    /// scripts nor `SET … IFEQ`, each write takes two.
    ///
    /// # Errors
    ///
    /// - [`SessionError::Gone`], [`SessionError::Denied`], [`SessionError::Conflict`], [`SessionError::Busy`],
    ///   [`SessionError::Store`]: nothing was written.
    /// - [`SessionError::OutcomeUnknown`]: the changes may have been written. The response becomes 503 unless the outcome is
    ///   resolved by the end of the request.
    /// - [`SessionError::TooLarge`], and the errors of changes that cannot be replayed on the changes of other requests.
    /// - [`SessionError::ResponseSent`]: the session is new, and its cookie can no longer be sent.
    /// - [`SessionError::Discarded`]: earlier changes were dropped, since the request failed or was abandoned; later ones are
    ///   saved.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the commit still runs to its end.
    #[doc(alias("save_session", "force_save", "commit", "flush_now"))]
    pub async fn save(&self) -> Result<(), SessionError> {
        self.commit(None).await
    }

    /// Reads the session again and replays this request's changes on it. A session that is not stored yet stays as it is.
    ///
    /// If an earlier [`save`](Self::save) got no answer, its outcome is resolved first: its changes are then either in the
    /// record that was read or replayed on it, never both.
    ///
    /// # Redis
    ///
    /// One `GET` and one `PTTL`, in one round trip. If there is an outcome to resolve, the commands of [`save`](Self::save)
    /// come first.
    ///
    /// # Errors
    ///
    /// - [`SessionError::Gone`]: the session has ended or was rotated.
    /// - [`SessionError::Store`]: the session could not be read, or the request has used up its
    ///   [`request_budget`](crate::RedisConfig::request_budget); the session stays as it was.
    /// - [`SessionError::OutcomeUnknown`]: the outcome of the `save` is still unknown; the session stays as it was.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the session is still read.
    #[doc(alias = "refresh")]
    pub async fn reload(&self) -> Result<(), SessionError> {
        reload(&self.shared).await
    }

    /// Drops the changes that are not committed yet. A [`destroy`](Self::destroy) is still carried out.
    #[doc(alias = "rollback")]
    pub fn discard_changes(&self) {
        self.shared.edit(State::discard);
    }

    /// The name of the session, for lists and logs; `None` until the session is stored. It gives no access to the session,
    /// and stays the same when the token is rotated.
    #[doc(alias("id", "session_id"))]
    pub fn handle(&self) -> Option<Handle> {
        match &self.shared.state().backing {
            Backing::Loaded(base) => Some(base.token.handle),
            Backing::New | Backing::Denied { .. } => None,
        }
    }

    /// Whether the session is not stored yet.
    pub fn is_new(&self) -> bool {
        !matches!(self.shared.state().backing, Backing::Loaded(_))
    }

    /// Whether there is anything to commit. Changes that together leave the session as it was loaded do not count.
    #[doc(alias("is_dirty", "is_changed"))]
    pub fn is_modified(&self) -> bool {
        !self.shared.state().has_nothing_pending()
    }

    /// How the client's network compares with the one that the session belongs to.
    pub fn fingerprint(&self) -> Fingerprint {
        self.shared.state().fingerprint.clone()
    }

    /// Checks the size of a value. One that is no larger than the value it replaces passes in any case.
    fn check_value(&self, key: &str, value: &Json) -> Result<(), SessionError> {
        let size = value.len();
        let before = self.shared.state().view.data.get(key).map_or(0, Json::len);
        match size <= before {
            true => Ok(()),
            false => self.check_size(LimitedPart::Value, size),
        }
    }

    pub(crate) fn check_size(&self, part: LimitedPart, size: usize) -> Result<(), SessionError> {
        let max_size = self.shared.context.policy.config.max_size;
        check_size(part, size, max_size).inspect_err(|error| self.shared.report(error))
    }

    pub(crate) fn change(&self, change: Change) -> Result<(), SessionError> {
        if let Some(key) = change.new_key() {
            self.check_size(LimitedPart::Key, key.len())?;
        }
        let apply_context = self.shared.context.apply_context();
        self.shared.state().change(change, &apply_context)
    }

    async fn commit(&self, deferred: Option<DeferredId>) -> Result<(), SessionError> {
        let committed = commit_pending(&self.shared, Trigger::Explicit { deferred }).await;
        let state = self.shared.state();
        let seen = self.drops_seen.swap(state.dropped.times, Ordering::Relaxed);
        match &state.dropped.last {
            // A commit of another clone, or of the response, took changes of this clone along and lost them.
            Some(loss) if seen != state.dropped.times => committed.and(Err(loss.clone())),
            _ => committed,
        }
    }

    /// Commits, and returns the result of the change.
    pub(crate) async fn commit_for<T>(
        &self,
        deferred: &Deferred<T>,
    ) -> Result<Option<T>, SessionError> {
        let committed = self.commit(Some(deferred.id())).await;
        match deferred.take() {
            // This change is in the store, even if others failed.
            Ok(result) => Ok(result),
            Err(error) => committed.and(Err(error)),
        }
    }
}

impl Clone for Session {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            drops_seen: AtomicU32::new(self.drops_seen.load(Ordering::Relaxed)),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("handle", &self.handle())
            .finish_non_exhaustive()
    }
}
