//! The calls by which a handler changes values in place, so that the changes of concurrent requests merge.

use std::sync::Arc;

use bytestring::ByteString;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::session::{LimitedPart, SessionError};
use crate::record::change::{Change, Rewrite};
use crate::record::deferred::Deferred;
use crate::record::json::Json;
use crate::record::key::SessionKey;
use crate::record::value::{decode, encode, encode_item, negated};
use crate::session::Session;

/// How often an update is tried while other clones of the session keep changing its value.
const REWRITES: u32 = 100;

/// Changes that merge with those of concurrent requests.
#[allow(
    clippy::needless_pass_by_value,
    reason = "keys are references or `Copy`, and `get(CART)` reads better than `get(&CART)`"
)]
impl Session {
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
        let apply_context = self.shared().context.apply_context();
        let change = Change::Increment {
            key: key.into(),
            by,
            deferred: None,
        };
        let counted = {
            let mut state = self.shared().state();
            state.change(change, &apply_context)?;
            state.view.data.value(key)
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
        self.change(Change::Increment {
            key: key.name().into(),
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
            key: key.into(),
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
    #[doc(alias("modify", "upsert", "update_or"))]
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
        let absent = encode(key, &value)?;
        let key = ByteString::from(key);
        let name = key.clone();
        // Another clone may have been faster, and at a replay another request.
        let present = self.rewrite_json(&key, move |json| match json {
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
        let key = ByteString::from(key);
        let name = key.clone();
        self.rewrite_json(&key, move |json| {
            let value = json.map(|json| decode::<T>(&name, json)).transpose()?;
            let refused = || SessionError::Refused {
                key: name.to_string(),
            };
            let (value, returned) = f(value).ok_or_else(refused)?;
            let json = encode(&name, &value)?;
            Ok(((value, returned), json))
        })
    }

    fn rewrite_json<R, F>(&self, key: &ByteString, apply: F) -> Result<R, SessionError>
    where
        F: Fn(Option<&Json>) -> Result<(R, Json), SessionError> + Send + Sync + 'static,
    {
        let apply = Arc::new(apply);
        for _ in 0..REWRITES {
            // The closure belongs to the application and may use this session, so no lock is held while it runs.
            let seen = {
                let mut state = self.shared().state();
                state.reads.note_key(key);
                state.view.data.value(key)
            };
            let (returned, json) = apply(seen.as_ref())?;
            self.check_size(LimitedPart::Key, key.len())?;
            self.check_value(key, &json)?;
            let mut state = self.shared().state();
            if state.view.data.get(&**key) != seen.as_ref() {
                continue;
            }
            let again = Arc::clone(&apply);
            let rewrite: Rewrite = Arc::new(move |json| again(json).map(|(_, json)| json));
            let change = Change::Update {
                key: key.clone(),
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
    #[doc(alias("pull", "get_remove"))]
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
                let mut state = self.shared().state();
                state.reads.note_key(key);
                state.view.data.value(key)
            };
            let Some(seen) = seen else { return Ok(false) };
            // The type belongs to the application, so no lock is held while it is decoded.
            check(key, &seen)?;
            let mut state = self.shared().state();
            if state.view.data.get(key) == Some(&seen) {
                let change = Change::Take {
                    key: key.into(),
                    check,
                    deferred: deferred.clone(),
                };
                state.note_taken(change, key);
                return Ok(true);
            }
        }
        Err(SessionError::Conflict { attempts: REWRITES })
    }
}
