//! The session: what a handler holds.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use http::request::Parts;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::change::{Answer, Change, Rewrite, Rotation, decode, encode};
use crate::commit::run::within;
use crate::commit::settle;
use crate::error::{Gone, SessionError};
use crate::fingerprint::Fingerprint;
use crate::inbound::Visits;
use crate::key::SessionKey;
use crate::lifetime::{after, last_accessed, to_millis, to_time};
use crate::record::{Epoch, Json, Record};
use crate::state::{Shared, Standing, State};
use crate::store::Freshness;
use crate::token::{Handle, Secret};

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
/// | [`take`](Self::take) | one of them gets the value |
///
/// A session that was destroyed, or passed to another login, takes no more changes of requests that began before:
/// their response becomes 409.
///
/// # Cancel safety
///
/// A handler that is dropped (the client went away) or panics commits nothing but its [`destroy`](Self::destroy). A commit
/// that has begun runs to its end.
#[derive(Clone)]
#[doc(alias("RedisSessionStorage", "SessionData", "SaveStrategy"))]
pub struct Session {
    shared: Arc<Shared>,
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "keys are references or `Copy`, and `get(CART)` reads better than `get(&CART)`"
)]
impl Session {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The session of a request, for tower services and middleware; handlers take it as an argument.
    ///
    /// # Redis
    ///
    /// None if the session is loaded already; otherwise as [`Load::Inbound`](crate::Load::Inbound).
    ///
    /// # Errors
    ///
    /// - [`SessionError::MissingLayer`]: there is no layer around this service.
    /// - [`SessionError::Store`]: the session could not be loaded.
    pub async fn from_parts(parts: &mut Parts) -> Result<Self, SessionError> {
        let visits = parts
            .extensions
            .get::<Visits>()
            .cloned()
            .ok_or(SessionError::MissingLayer)?;
        visits.session().await
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
        let value = self.shared.state().view.data.get(key).cloned();
        value.map(|value| decode(key, &value)).transpose()
    }

    /// Puts a value under a key. An equal value is no change.
    ///
    /// # Errors
    ///
    /// [`SessionError::Encode`] if it cannot be written as JSON.
    #[doc(alias("set", "put", "session_set"))]
    pub fn insert<T: Serialize>(
        &self,
        key: impl SessionKey<T>,
        value: T,
    ) -> Result<(), SessionError> {
        let key = key.name();
        let value = encode(key, &value)?;
        let same = self.shared.state().view.data.get(key) == Some(&value);
        if same {
            Ok(())
        } else {
            self.change(Change::Insert {
                key: key.to_owned(),
                value,
            })
        }
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
        if value.is_some() {
            self.discard(name);
        }
        Ok(value)
    }

    /// Removes a key without looking at its value.
    #[doc(alias("forget", "unset"))]
    pub fn discard(&self, key: &str) {
        if self.contains_key(key) {
            // Removing cannot fail: it looks at nothing.
            let _ = self.change(Change::Remove {
                key: key.to_owned(),
            });
        }
    }

    /// Whether there is a value under a key.
    #[doc(alias("has", "exists"))]
    pub fn contains_key(&self, key: &str) -> bool {
        self.shared.state().view.data.contains_key(key)
    }

    /// The keys, in alphabetical order.
    pub fn keys(&self) -> Vec<String> {
        self.shared.state().view.data.keys().cloned().collect()
    }

    /// Removes every key that is there now. The session stays, with its principal; to end it, use
    /// [`destroy`](Self::destroy).
    pub fn clear(&self) {
        let keys = self.keys();
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
    #[doc(alias = "incr")]
    pub fn increment(&self, key: &str, by: i64) -> Result<i64, SessionError> {
        let answer = Answer::new();
        self.change(Change::Increment {
            key: key.to_owned(),
            by,
            answer: Some(answer.clone()),
        })?;
        answer.take().ok_or(SessionError::OutcomeUnknown)
    }

    /// Subtracts from a counter, as [`increment`](Self::increment) adds.
    ///
    /// # Errors
    ///
    /// Those of [`increment`](Self::increment).
    #[doc(alias = "decr")]
    pub fn decrement(&self, key: &str, by: i64) -> Result<i64, SessionError> {
        let by = by.checked_neg().ok_or_else(|| SessionError::Overflow {
            key: key.to_owned(),
        })?;
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
    pub async fn increment_now(&self, key: &str, by: i64) -> Result<i64, SessionError> {
        let answer = Answer::new();
        self.change(Change::Increment {
            key: key.to_owned(),
            by,
            answer: Some(answer.clone()),
        })?;
        match settle(&self.shared).await {
            Ok(()) => answer.take().ok_or(SessionError::OutcomeUnknown),
            Err(error) => {
                self.withdraw(|state| state.log.withdraw_increment(&answer));
                Err(error)
            }
        }
    }

    /// Appends to a list; a missing list is empty. No item is lost, whatever other requests append.
    ///
    /// # Errors
    ///
    /// - [`SessionError::Encode`]: the item cannot be written as JSON.
    /// - [`SessionError::Decode`]: the value is no list; it is kept.
    #[doc(alias = "append")]
    pub fn push<T: Serialize>(&self, key: &str, value: T) -> Result<(), SessionError> {
        let value = encode(key, &value)?;
        self.change(Change::Push {
            key: key.to_owned(),
            value,
        })
    }

    /// Changes a value in place and returns what came out; a missing value starts at its default.
    ///
    /// The closure runs at once, and again at the commit if another request has changed the session meanwhile. It must
    /// therefore depend on nothing but the value and what was moved into it: clone what you move in.
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
    /// - [`SessionError::Encode`]: the result cannot be written as JSON.
    #[doc(alias("modify", "upsert"))]
    pub fn update<T, F>(&self, key: impl SessionKey<T>, f: F) -> Result<T, SessionError>
    where
        T: Serialize + DeserializeOwned + Default,
        F: Fn(&mut T) + Send + Sync + 'static,
    {
        self.rewrite(key.name(), move |value: Option<T>| {
            let mut value = value.unwrap_or_default();
            f(&mut value);
            Some(value)
        })
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
    /// - [`SessionError::Decode`], [`SessionError::Encode`]: as for [`update`](Self::update).
    pub fn try_update<T, F>(&self, key: impl SessionKey<T>, f: F) -> Result<T, SessionError>
    where
        T: Serialize + DeserializeOwned,
        F: Fn(Option<T>) -> Option<T> + Send + Sync + 'static,
    {
        self.rewrite(key.name(), f)
    }

    fn rewrite<T, F>(&self, key: &str, f: F) -> Result<T, SessionError>
    where
        T: Serialize + DeserializeOwned,
        F: Fn(Option<T>) -> Option<T> + Send + Sync + 'static,
    {
        let name = key.to_owned();
        let apply = move |json: Option<&Json>| -> Result<(T, Json), SessionError> {
            let value = json.map(|json| decode::<T>(&name, json)).transpose()?;
            let value = f(value).ok_or_else(|| SessionError::Refused { key: name.clone() })?;
            let json = encode(&name, &value)?;
            Ok((value, json))
        };
        let apply = Arc::new(apply);
        loop {
            // The closure is the application's: it may use this session, so no lock is held while it runs.
            let seen = self.shared.state().view.data.get(key).cloned();
            let (value, json) = apply(seen.as_ref())?;
            let mut state = self.shared.state();
            if state.view.data.get(key) != seen.as_ref() {
                continue;
            }
            if seen.as_ref() != Some(&json) {
                let again = Arc::clone(&apply);
                let rewrite: Rewrite = Arc::new(move |json| again(json).map(|(_, json)| json));
                let change = Change::Update {
                    key: key.to_owned(),
                    rewrite,
                };
                state.note(change, key, json);
            }
            return Ok(value);
        }
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
    #[doc(alias = "pull")]
    pub async fn take<T: DeserializeOwned>(
        &self,
        key: impl SessionKey<T>,
    ) -> Result<Option<T>, SessionError> {
        let key = key.name().to_owned();
        if !self.contains_key(&key) {
            return Ok(None);
        }
        let answer = Answer::new();
        let check = |key: &str, value: &Json| decode::<T>(key, value).map(drop);
        self.change(Change::Take {
            key: key.clone(),
            check,
            answer: answer.clone(),
        })?;
        match settle(&self.shared).await {
            Ok(()) => answer.take().map(|value| decode(&key, &value)).transpose(),
            Err(error) => {
                self.withdraw(|state| state.log.withdraw_take(&answer));
                Err(error)
            }
        }
    }

    /// Gives the session a new token; the old one is dead from the commit on. Do it whenever privileges change.
    /// [`set_principal`](Self::set_principal) does it by itself.
    ///
    /// What other requests, loaded before, still want to write is refused with 409. A session that is not stored yet
    /// gets a fresh token anyway.
    ///
    /// # Errors
    ///
    /// - [`SessionError::ResponseSent`]: it is too late to set a cookie.
    /// - [`SessionError::Gone`]: this request may not use the session.
    #[doc(alias("regenerate", "renew", "rotate", "migrate"))]
    pub fn cycle_id(&self) -> Result<(), SessionError> {
        match self.may_rotate()? {
            true => self.change(Change::Rotate(self.rotation())),
            false => Ok(()),
        }
    }

    /// Ends the session: a logout. What this request has changed so far is dropped; what it writes from here on goes into
    /// a fresh session with a new token, which is created once the deletion has succeeded.
    ///
    /// It is carried out even if the handler is dropped, panics or fails. If the store fails, the response becomes 503,
    /// takes the cookie away all the same, and the deletion is tried again in the background.
    ///
    /// # Redis
    ///
    /// One `UNLINK` after the handler, one round trip.
    #[doc(alias("invalidate", "flush", "purge", "logout", "clear_session"))]
    pub fn destroy(&self) {
        let circumstances = self.shared.terms().circumstances();
        self.shared.state().destroy(&circumstances);
    }

    /// Says who the session belongs to from here on: a login. Gives it a new token ([`cycle_id`](Self::cycle_id)) and
    /// restarts its absolute timeout. An anonymous visitor's data is kept; that of another principal is dropped.
    ///
    /// If the handler then fails, the login does not happen.
    ///
    /// # Redis
    ///
    /// None now; part of the commit after the handler.
    ///
    /// # Errors
    ///
    /// Those of [`cycle_id`](Self::cycle_id).
    #[doc(alias("login", "log_in", "authenticate"))]
    pub async fn set_principal(&self, who: impl Into<String>) -> Result<(), SessionError> {
        self.may_rotate()?;
        self.change(Change::SetPrincipal {
            who: who.into(),
            rotation: self.rotation(),
        })
    }

    /// Makes the session anonymous and gives it a new token. Its data stays, for this visitor or for the same principal;
    /// another principal who signs in later does not get it. To drop everything, use [`destroy`](Self::destroy).
    ///
    /// # Errors
    ///
    /// Those of [`cycle_id`](Self::cycle_id).
    pub fn clear_principal(&self) -> Result<(), SessionError> {
        self.may_rotate()?;
        match self.principal() {
            Some(_) => self.change(Change::ClearPrincipal(self.rotation())),
            None => Ok(()),
        }
    }

    /// Who the session belongs to; `None` for an anonymous visitor.
    #[doc(alias("user_id", "user"))]
    pub fn principal(&self) -> Option<String> {
        self.shared.state().view.principal.clone()
    }

    /// Commits now what was changed so far, instead of after the handler: before a side effect that must not happen
    /// without it, or in a long stream. Afterwards the session shows what other requests have changed meanwhile.
    ///
    /// What is saved stays, whatever the handler answers.
    ///
    /// # Redis
    ///
    /// Nothing changed: none. Otherwise one round trip, and one more for each conflict: one `EVALSHA`, or for a new
    /// session one `SET … NX PX`.
    ///
    /// # Errors
    ///
    /// - [`SessionError::Gone`], [`SessionError::Conflict`], [`SessionError::Store`]: nothing was written.
    /// - [`SessionError::OutcomeUnknown`]: it may have been written. The response becomes 503 unless that is resolved by
    ///   the end of the request.
    /// - [`SessionError::TooLarge`], and those of changes that no longer fit what others made of the session.
    /// - [`SessionError::ResponseSent`]: the session is new, and its cookie cannot be sent any more.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the commit still runs to its end.
    #[doc(alias("save_session", "force_save", "commit", "flush_now"))]
    pub async fn save(&self) -> Result<(), SessionError> {
        settle(&self.shared).await
    }

    /// Reads the session again and does this request's changes to what is there now. A new session is left as it is.
    ///
    /// # Redis
    ///
    /// One `GET` and one `PTTL`, in one round trip.
    ///
    /// # Errors
    ///
    /// - [`SessionError::Gone`]: the session has ended, or passed on.
    /// - [`SessionError::Store`]: it could not be read; the session is as it was.
    #[doc(alias = "refresh")]
    pub async fn reload(&self) -> Result<(), SessionError> {
        let shared = &self.shared;
        let _gate = shared.gate.lock().await;
        let (handle, epoch, generation) = {
            let state = shared.state();
            match &state.standing {
                Standing::New => return Ok(()),
                Standing::Barred { why, .. } => return Err(SessionError::Gone(*why)),
                Standing::Stored(base) => (base.token.handle, base.record.epoch, state.generation),
            }
        };
        let load = shared.core.store.load(&handle, Freshness::Latest);
        let stored = within(Instant::now() + shared.budget, load)
            .await?
            .ok_or(SessionError::Gone(Gone::Ended))?;
        let record = Record::decode(&stored).map_err(|_| SessionError::Gone(Gone::Unreadable))?;
        if record.epoch != epoch {
            return Err(SessionError::Gone(Gone::Rotated));
        }
        let circumstances = shared.terms().circumstances();
        let mut state = shared.state();
        if state.generation == generation
            && let Standing::Stored(base) = &mut state.standing
        {
            base.stored = stored;
            base.record = Arc::new(record);
            state.refresh_view(&circumstances);
        }
        Ok(())
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

    /// Whether there is anything to commit.
    #[doc(alias("is_dirty", "is_changed"))]
    pub fn is_modified(&self) -> bool {
        !self.shared.state().is_settled()
    }

    /// When the session was created, by the store's clock.
    pub fn created_at(&self) -> SystemTime {
        to_time(self.shared.state().view.created)
    }

    /// When the session was last used before this request, by the store's clock; exact to half of the idle timeout, since
    /// a read that needs no renewal leaves no trace.
    pub fn last_accessed(&self) -> SystemTime {
        let now = to_millis(self.shared.core.store.now());
        let state = self.shared.state();
        let Standing::Stored(base) = &state.standing else {
            return to_time(state.view.last_accessed);
        };
        let idle = self.shared.settings.config.idle_timeout;
        let (deadline, written) = (base.record.deadline, base.record.last_accessed);
        to_time(last_accessed(
            base.stored.time_left(),
            idle,
            deadline,
            now,
            written,
        ))
    }

    /// When the session ends if it is not used again, by the store's clock: its idle timeout from now, or its absolute
    /// timeout, whichever comes first.
    pub fn expires_at(&self) -> SystemTime {
        let now = to_millis(self.shared.core.store.now());
        let idle = self.shared.settings.config.idle_timeout;
        to_time(after(now, idle).min(self.shared.state().view.deadline))
    }

    /// How the client's network compares with the one that the session belongs to.
    pub fn fingerprint(&self) -> Fingerprint {
        self.shared.state().fingerprint.clone()
    }

    fn change(&self, change: Change) -> Result<(), SessionError> {
        let circumstances = self.shared.terms().circumstances();
        self.shared.state().change(change, &circumstances)
    }

    /// Takes back what its caller is told has failed, so that it is not done later after all.
    fn withdraw(&self, take_back: impl FnOnce(&mut State)) {
        let circumstances = self.shared.terms().circumstances();
        let mut state = self.shared.state();
        take_back(&mut state);
        state.refresh_view(&circumstances);
    }

    /// Whether there is a token to replace; an error if it cannot be.
    fn may_rotate(&self) -> Result<bool, SessionError> {
        let state = self.shared.state();
        match &state.standing {
            _ if state.head_sent => Err(SessionError::ResponseSent),
            Standing::Barred { why, .. } => Err(SessionError::Gone(*why)),
            Standing::Stored(_) => Ok(true),
            Standing::New => Ok(false),
        }
    }

    fn rotation(&self) -> Rotation {
        let secret = Secret::random();
        let cookie = &self.shared.settings.config.cookie.name;
        let hash = secret.hash(self.shared.core.store.namespace(), cookie);
        Rotation {
            secret,
            hash,
            epoch: Epoch::random(),
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
