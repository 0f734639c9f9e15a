//! The calls by which a handler reads and changes the values of its session.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::session::{LimitedPart, SessionError};
use crate::record::change::Change;
use crate::record::json::Json;
use crate::record::key::{KeyName, SessionKey};
use crate::record::value::{decode, encode};
use crate::record::values::decode_all;
use crate::session::Session;

/// The values.
#[allow(
    clippy::needless_pass_by_value,
    reason = "keys are references or `Copy`, and `get(CART)` reads better than `get(&CART)`"
)]
impl Session {
    /// The value under a key, or `None`.
    ///
    /// # Errors
    ///
    /// [`SessionError::Decode`] if the value has another type; it stays.
    #[doc(alias("session_get", "get_value"))]
    pub fn get<T: DeserializeOwned>(
        &self,
        key: impl SessionKey<T>,
    ) -> Result<Option<T>, SessionError> {
        let key = key.name();
        let value = {
            let mut state = self.shared().state();
            state.reads.note_key(key);
            state.view.data.value(key)
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
    #[doc(alias("set", "put", "session_set", "insert_value"))]
    pub fn insert<T: Serialize>(
        &self,
        key: impl SessionKey<T>,
        value: T,
    ) -> Result<(), SessionError> {
        let key = key.name();
        let value = encode(key, &value)?;
        self.check_value(key, &value)?;
        self.change(Change::Insert {
            key: key.into(),
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
    #[doc(alias("delete", "remove_value", "remove_as"))]
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
            key: key.name().into(),
        });
    }

    /// Whether there is a value under a key.
    #[doc(alias("has", "exists"))]
    pub fn contains_key(&self, key: impl KeyName) -> bool {
        let key = key.name();
        let mut state = self.shared().state();
        state.reads.note_key(key);
        state.view.data.value(key).is_some()
    }

    /// The keys, in alphabetical order.
    pub fn keys(&self) -> Vec<String> {
        let mut state = self.shared().state();
        state.reads.note_all();
        state.view.data.keys().map(ToString::to_string).collect()
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
            let mut state = self.shared().state();
            state.reads.note_all();
            Arc::clone(&state.view)
        };
        decode_all(&seen.data)
    }

    /// Removes every key that is there now. The session and its principal stay; [`destroy`](Self::destroy) ends the session.
    pub fn clear(&self) {
        let keys = self.shared().state().all_keys();
        if !keys.is_empty() {
            // Removing cannot fail: it reads nothing.
            let _ = self.change(Change::Clear { keys });
        }
    }

    /// Checks the size of a value. One that is no larger than the value it replaces passes in any case.
    pub(super) fn check_value(&self, key: &str, value: &Json) -> Result<(), SessionError> {
        let size = value.len();
        let max_size = self.shared().context.policy.config.max_size;
        let before = || {
            let before = self.shared().state().view.data.value(key);
            before.map_or(0, |value| value.len())
        };
        match size <= max_size || size <= before() {
            true => Ok(()),
            false => self.check_size(LimitedPart::Value, size),
        }
    }
}
