//! The session: what a handler holds.

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
use crate::record::answer::{Answer, AnswerId};
use crate::record::change::{Change, Rewrite};
use crate::record::fingerprint::Fingerprint;
use crate::record::json::Json;
use crate::record::key::{KeyName, SessionKey};
use crate::record::limit::check_size;
use crate::record::value::{decode, encode, encode_item, negated};
use crate::record::values::decode_all;
use crate::session::save::{Occasion, reload, settle};
use crate::session::shared::Shared;
use crate::session::state::State;
use crate::session::state::backing::Standing;
use crate::token::Handle;

/// How often an update is tried whose value other clones of the session change meanwhile.
const REWRITES: u32 = 100;

/// The session of a request: a map of values that outlives it.
///
/// Take it as an argument of a handler. It has been loaded by then, so reading and changing it needs no `await`; what is
/// changed is committed after the handler, and if nothing is changed, nothing is written. Only calls that talk to the
/// store are async. Clones share one state.
///
/// A visitor without a session has an empty one; nothing is stored and no cookie is set before the first change.
///
/// # Concurrent requests
///
/// Each change is kept as what was done, not as what came out. If another request, on any node, has changed the session
/// meanwhile, the changes are done again to the newer session:
///
/// | call | if others were faster |
/// |---|---|
/// | [`insert`](Self::insert), [`remove`](Self::remove), [`discard`](Self::discard) | the later commit wins, key by key |
/// | [`increment`](Self::increment), [`decrement`](Self::decrement), [`push`](Self::push) | add up |
/// | [`update`](Self::update), [`try_update`](Self::try_update) | the closure runs again, on the newer value |
/// | [`clear`](Self::clear) | removes the keys it saw |
/// | [`transaction`](Self::transaction) | the closure runs again, on all of the newer data |
/// | [`take`](Self::take) | one of them gets the value |
///
/// A session that was destroyed, or passed to another login, takes no more changes of requests that began before:
/// their response becomes 409.
///
/// # Cancel safety
///
/// A handler that is dropped (the client went away) or panics commits nothing but its [`destroy`](Self::destroy). A commit
/// that has begun runs to its end.
#[doc(alias("RedisSessionStorage", "SessionData", "SaveStrategy"))]
pub struct Session {
    shared: Arc<Shared>,
    /// How many losses of changes this clone has been told of.
    losses_heard: AtomicU32,
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "keys are references or `Copy`, and `get(CART)` reads better than `get(&CART)`"
)]
impl Session {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            losses_heard: AtomicU32::new(0),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The value under a key, or `None`.
    ///
    /// # Errors
    ///
    /// [`SessionError::Decode`] if it is of another type; it is kept.
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

    /// Puts a value under a key. If at the end of the request all of its changes leave the session as it was loaded, it has
    /// only read, and nothing is written.
    ///
    /// It comes back bit for bit, but for what serde itself does not read back: flattened structs, untagged enums and enums
    /// with `#[serde(tag = "…")]` alone hold no 128-bit integers, and no maps whose keys are not strings.
    ///
    /// # Errors
    ///
    /// - [`SessionError::Encode`]: it cannot be written as JSON and read again; so for a float that is NaN or infinite,
    ///   wherever in the value, and for more than 127 levels of lists, maps and structs.
    /// - [`SessionError::TooLarge`]: it is larger than `max_size` and than what is there, or the key longer than 1 KiB.
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
    /// [`SessionError::Decode`] if it is of another type; it is kept, and [`discard`](Self::discard) drops it.
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
        // Removing cannot fail: it looks at nothing.
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

    /// All values at once: in a struct with a field for each key, a map, or a `serde_json::Value`. Keys that the struct does
    /// not have are left out.
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
    /// [`SessionError::DecodeAll`] if they do not make up the type asked for; they are kept.
    #[doc(alias("all", "to_map", "entries"))]
    pub fn values<T: DeserializeOwned>(&self) -> Result<T, SessionError> {
        // The type is the application's, so no lock is held while it is read.
        let seen = {
            let mut state = self.shared.state();
            state.reads.note_all();
            Arc::clone(&state.view)
        };
        decode_all(&seen.data)
    }

    /// Removes every key that is there now. The session stays, with its principal; to end it, use
    /// [`destroy`](Self::destroy).
    pub fn clear(&self) {
        let keys = self.shared.state().all_keys();
        if !keys.is_empty() {
            // Removing cannot fail: it looks at nothing.
            let _ = self.change(Change::Clear { keys });
        }
    }

    /// Adds to a counter and returns what this request sees; a missing counter stands at zero.
    ///
    /// No increment is lost, whatever other requests do. Two requests may see the same number; if each needs one of its
    /// own, use [`increment_now`](Self::increment_now).
    ///
    /// # Errors
    ///
    /// - [`SessionError::NotANumber`]: the value is no whole number; it is kept.
    /// - [`SessionError::Overflow`]: the sum is no `i64`.
    /// - [`SessionError::TooLarge`]: the key is longer than 1 KiB.
    #[doc(alias = "incr")]
    pub fn increment(&self, key: impl SessionKey<i64>, by: i64) -> Result<i64, SessionError> {
        let key = key.name();
        self.check_size(LimitedPart::Key, key.len())?;
        let circumstances = self.shared.context.circumstances();
        let change = Change::Increment {
            key: key.to_owned(),
            by,
            answer: None,
        };
        let counted = {
            let mut state = self.shared.state();
            state.change(change, &circumstances)?;
            state.view.data.get(key).cloned()
        };
        // It is there: the change has just put it there.
        counted.map_or(Ok(by), |counted| decode(key, &counted))
    }

    /// Subtracts from a counter, as [`increment`](Self::increment) adds.
    ///
    /// # Errors
    ///
    /// Those of [`increment`](Self::increment).
    #[doc(alias = "decr")]
    pub fn decrement(&self, key: impl SessionKey<i64>, by: i64) -> Result<i64, SessionError> {
        let by = negated(key.name(), by)?;
        self.increment(key, by)
    }

    /// Adds to a counter in the store and returns a number that no other caller gets. Commits everything this request has
    /// changed so far.
    ///
    /// # Redis
    ///
    /// As [`save`](Self::save).
    ///
    /// # Errors
    ///
    /// Those of [`increment`](Self::increment) and of [`save`](Self::save). Unless it is `OutcomeUnknown`, nothing was
    /// counted.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the number may be counted and nobody has it.
    pub async fn increment_now(
        &self,
        key: impl SessionKey<i64>,
        by: i64,
    ) -> Result<i64, SessionError> {
        let answer = Answer::new();
        let key = key.name().to_owned();
        self.change(Change::Increment {
            key,
            by,
            answer: Some(answer.clone()),
        })?;
        self.settle_for(&answer)
            .await?
            .ok_or(SessionError::Discarded)
    }

    /// Appends to a list; a missing list is empty. No item is lost, whatever other requests append.
    ///
    /// # Errors
    ///
    /// - [`SessionError::Encode`]: the item cannot be written as JSON and read again, as for [`insert`](Self::insert);
    ///   the list is one of the 127 levels.
    /// - [`SessionError::TooLarge`]: as for [`insert`](Self::insert).
    /// - [`SessionError::Decode`]: the value is no list; it is kept.
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

    /// Changes a value in place and returns what came out; a missing value starts at its default.
    ///
    /// The closure runs at once, and again at the commit if another request has changed the session meanwhile; then perhaps
    /// on another request's task, which waits for it. It must therefore be quick, and depend on nothing but the value and what
    /// was moved into it: clone what you move in. If it panics then, this request alone fails.
    ///
    /// It is kept until its change is committed or dropped, which is at the end of the request. After the response it is kept
    /// until [`save`](Self::save) succeeds, or [`discard_changes`](Self::discard_changes) or [`destroy`](Self::destroy) is
    /// called: a closure that holds a clone of its own session then keeps that session in memory for as long, since the last
    /// clone is never dropped.
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
    /// - [`SessionError::Decode`]: the value is of another type; it is kept.
    /// - [`SessionError::Encode`]: the result cannot be written as JSON and read again, as for [`insert`](Self::insert).
    /// - [`SessionError::TooLarge`]: as for [`insert`](Self::insert).
    /// - [`SessionError::Conflict`]: clones of this session changed the value 100 times while the closure ran.
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
    /// That is of the run on what this request sees. If another request was faster, the closure runs again at the commit, and
    /// what it returns then is dropped. Where that matters, as in the example if two requests must not get the same item, use [`transaction`](Self::transaction).
    ///
    /// ```
    /// # use sessile::{Key, Session, SessionError};
    /// const QUEUE: Key<Vec<String>> = Key::new("queue");
    ///
    /// fn next(session: &Session) -> Result<Option<String>, SessionError> {
    ///     session.update_with(QUEUE, |queue| queue.pop())
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

    /// Changes a value if the closure agrees, and returns what came out. The closure gets the value, or `None`, and
    /// returns what is to be there, or `None` to refuse.
    ///
    /// It runs again as that of [`update`](Self::update) does; if it refuses then, the response becomes 409 and nothing of
    /// the request is written.
    ///
    /// # Errors
    ///
    /// - [`SessionError::Refused`]: the closure refused; the value is as it was.
    /// - Those of [`update`](Self::update).
    pub fn try_update<T, F>(&self, key: impl SessionKey<T>, f: F) -> Result<T, SessionError>
    where
        T: Serialize + DeserializeOwned,
        F: Fn(Option<T>) -> Option<T> + Send + Sync + 'static,
    {
        let updated = self.rewrite(key.name(), move |value| f(value).map(|value| (value, ())));
        updated.map(|(value, ())| value)
    }

    /// The value under a key, or this one, which is put there if there is none. A value that is there is only read.
    ///
    /// If another request has put one there meanwhile, that one stays, although this request has seen its own: each of two
    /// that find none gets its own, and the value of the first commit is kept. Where both must get the same, use
    /// [`transaction`](Self::transaction).
    ///
    /// # Errors
    ///
    /// - [`SessionError::Decode`]: the value that is there is of another type; it is kept.
    /// - [`SessionError::Encode`], [`SessionError::TooLarge`]: as for [`insert`](Self::insert).
    #[doc(alias("setdefault", "set_nx", "get_or_set", "remember"))]
    pub fn get_or_insert<T>(&self, key: impl SessionKey<T>, value: T) -> Result<T, SessionError>
    where
        T: Serialize + DeserializeOwned,
    {
        self.get_or_insert_with(key, || value)
    }

    /// As [`get_or_insert`](Self::get_or_insert), with a closure that makes the value; it runs once, and only if there is none.
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

    /// Has the closure replace a value, and returns what it has returned, or that it has refused.
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
            // The closure is the application's: it may use this session, so no lock is held while it runs.
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
    /// None if there was no value when the session was loaded; otherwise as [`save`](Self::save).
    ///
    /// # Errors
    ///
    /// [`SessionError::Decode`] if the value is of another type, and those of [`save`](Self::save). Unless it is
    /// `OutcomeUnknown`, the value is still there.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the value may be gone and nobody has it.
    #[doc(alias = "pull")]
    pub async fn take<T: DeserializeOwned>(
        &self,
        key: impl SessionKey<T>,
    ) -> Result<Option<T>, SessionError> {
        let key = key.name().to_owned();
        let answer = Answer::new();
        if !self.note_taken::<T>(&key, &answer)? {
            return Ok(None);
        }
        let value = self.settle_for(&answer).await?;
        value.map(|value| decode(&key, &value)).transpose()
    }

    /// False if there is nothing to take.
    fn note_taken<T: DeserializeOwned>(
        &self,
        key: &str,
        answer: &Answer<Json>,
    ) -> Result<bool, SessionError> {
        let check = |key: &str, value: &Json| decode::<T>(key, value).map(drop);
        for _ in 0..REWRITES {
            let seen = {
                let mut state = self.shared.state();
                state.reads.note_key(key);
                state.view.data.get(key).cloned()
            };
            let Some(seen) = seen else { return Ok(false) };
            // The type is the application's, so no lock is held while it is read.
            check(key, &seen)?;
            let mut state = self.shared.state();
            if state.view.data.get(key) == Some(&seen) {
                let change = Change::Take {
                    key: key.to_owned(),
                    check,
                    answer: answer.clone(),
                };
                state.note_taken(change, key);
                return Ok(true);
            }
        }
        Err(SessionError::Conflict { attempts: REWRITES })
    }

    /// Commits now what was changed so far, instead of after the handler: before a side effect that must not happen
    /// without it, or in a long stream. Afterwards the session shows what other requests have changed meanwhile.
    ///
    /// What is saved stays, whatever the handler answers.
    ///
    /// # Redis
    ///
    /// Nothing changed: none. Otherwise one round trip: one `EVALSHA`, or for a new session one `SET … NX PX`. One more for
    /// the first conflict, and two for each further one, which reads the session anew. Where the server allows neither
    /// scripts nor `SET … IFEQ`, each write takes two.
    ///
    /// # Errors
    ///
    /// - [`SessionError::Gone`], [`SessionError::Conflict`], [`SessionError::Busy`], [`SessionError::Store`]: nothing was
    ///   written.
    /// - [`SessionError::OutcomeUnknown`]: it may have been written. The response becomes 503 unless that is resolved by
    ///   the end of the request.
    /// - [`SessionError::TooLarge`], and those of changes that no longer fit what others made of the session.
    /// - [`SessionError::ResponseSent`]: the session is new, and its cookie cannot be sent any more.
    /// - [`SessionError::Discarded`]: changes of before were dropped, since the request failed or was given up; those of
    ///   since then are saved.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the commit still runs to its end.
    #[doc(alias("save_session", "force_save", "commit", "flush_now"))]
    pub async fn save(&self) -> Result<(), SessionError> {
        self.settle(None).await
    }

    /// Reads the session again and does this request's changes to what is there now. A new session is left as it is.
    ///
    /// If a [`save`](Self::save) of before got no answer, that is resolved first: what it has changed is then either in what was
    /// read, or is done to it, and not both.
    ///
    /// # Redis
    ///
    /// One `GET` and one `PTTL`, in one round trip. Before them, if there is something to resolve, what
    /// [`save`](Self::save) sends.
    ///
    /// # Errors
    ///
    /// - [`SessionError::Gone`]: the session has ended, or passed on.
    /// - [`SessionError::Store`]: it could not be read, or the request has used up its
    ///   [`request_budget`](crate::RedisConfig::request_budget); the session is as it was.
    /// - [`SessionError::OutcomeUnknown`]: what became of the `save` still cannot be told; the session is as it was.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the session is read all the same.
    #[doc(alias = "refresh")]
    pub async fn reload(&self) -> Result<(), SessionError> {
        reload(&self.shared).await
    }

    /// Forgets what was changed and is not committed yet. A [`destroy`](Self::destroy) is carried out all the same.
    #[doc(alias = "rollback")]
    pub fn discard_changes(&self) {
        self.shared.edit(State::discard);
    }

    /// Names the session for lists and logs; `None` until it is stored. It opens nothing.
    #[doc(alias("id", "session_id"))]
    pub fn handle(&self) -> Option<Handle> {
        match &self.shared.state().standing {
            Standing::Stored(base) => Some(base.token.handle),
            Standing::New | Standing::Barred { .. } => None,
        }
    }

    /// Whether nothing of this session is stored yet.
    pub fn is_new(&self) -> bool {
        !matches!(self.shared.state().standing, Standing::Stored(_))
    }

    /// Whether there is anything to commit. Changes that leave the session as it was are none.
    #[doc(alias("is_dirty", "is_changed"))]
    pub fn is_modified(&self) -> bool {
        !self.shared.state().is_settled()
    }

    /// How the client's network compares with the one that the session belongs to.
    pub fn fingerprint(&self) -> Fingerprint {
        self.shared.state().fingerprint.clone()
    }

    /// Whether there may be a value of this size under the key: one that is too large may become smaller.
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
        let circumstances = self.shared.context.circumstances();
        self.shared.state().change(change, &circumstances)
    }

    async fn settle(&self, answer: Option<AnswerId>) -> Result<(), SessionError> {
        let settled = settle(&self.shared, Occasion::Call { answer }).await;
        let state = self.shared.state();
        let heard = self
            .losses_heard
            .swap(state.losses.times, Ordering::Relaxed);
        match &state.losses.last {
            // Another clone's commit, or the response's, took changes of this one along and lost them.
            Some(loss) if heard != state.losses.times => settled.and(Err(loss.clone())),
            _ => settled,
        }
    }

    /// Commits, and returns what the change has given.
    pub(crate) async fn settle_for<T>(
        &self,
        answer: &Answer<T>,
    ) -> Result<Option<T>, SessionError> {
        let settled = self.settle(Some(answer.id())).await;
        match answer.take() {
            // Whatever became of other changes, this one is in the store.
            Ok(given) => Ok(given),
            Err(error) => settled.and(Err(error)),
        }
    }
}

impl Clone for Session {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            losses_heard: AtomicU32::new(self.losses_heard.load(Ordering::Relaxed)),
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
