//! Transactions: several values read and changed in one compare-and-set.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::session::{LimitedPart, SessionError};
use crate::lock::{Lock, assert_none_held};
use crate::record::deferred::{Deferred, DeferredId};
use crate::record::json::Json;
use crate::record::key::{KeyName, SessionKey};
use crate::record::limit::check_size;
use crate::record::value::{append, count, decode, encode, encode_item, negated};
use crate::record::values::{Values, decode_all};

/// The values of a session inside a [`transaction`](crate::Session::transaction): those in the store, with the earlier changes
/// of the request applied.
pub struct Data {
    values: Values,
    max_size: usize,
}

/// Why a [`transaction`](crate::Session::transaction) was not committed.
///
/// It implements axum's `IntoResponse` if `E` does. If `E` is [`SessionError`], `?` converts it into a [`SessionError`].
#[non_exhaustive]
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransactionError<E> {
    /// The closure returned an error. Nothing of the transaction was written; earlier changes of the request stay pending.
    #[error("the closure aborted the transaction: nothing of it was written")]
    Aborted(E),
    /// The session could not be committed. Unless this is [`SessionError::OutcomeUnknown`], nothing of the transaction was
    /// written.
    #[error("the transaction could not be committed")]
    Session(#[from] SessionError),
}

impl From<TransactionError<Self>> for SessionError {
    fn from(error: TransactionError<Self>) -> Self {
        match error {
            TransactionError::Aborted(error) | TransactionError::Session(error) => error,
        }
    }
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "keys are references or `Copy`, as in the methods of `Session`"
)]
impl Data {
    /// Returns the value under a key, or `None`.
    ///
    /// # Errors
    ///
    /// [`SessionError::Decode`] if the value has another type.
    pub fn get<T: DeserializeOwned>(
        &self,
        key: impl SessionKey<T>,
    ) -> Result<Option<T>, SessionError> {
        let key = key.name();
        let value = self.values.get(key);
        value.map(|value| decode(key, value)).transpose()
    }

    /// Stores a value under a key.
    ///
    /// # Errors
    ///
    /// Those of [`Session::insert`](crate::Session::insert).
    pub fn insert<T: Serialize>(
        &mut self,
        key: impl SessionKey<T>,
        value: T,
    ) -> Result<(), SessionError> {
        let key = key.name();
        let value = encode(key, &value)?;
        self.check(LimitedPart::Key, key.len())?;
        if value.len() > self.values.get(key).map_or(0, Json::len) {
            self.check(LimitedPart::Value, value.len())?;
        }
        self.values.insert(key.into(), value);
        Ok(())
    }

    /// Removes a key and returns its value.
    ///
    /// # Errors
    ///
    /// [`SessionError::Decode`] if the value has another type; it stays, and [`discard`](Self::discard) removes it.
    pub fn remove<T: DeserializeOwned>(
        &mut self,
        key: impl SessionKey<T>,
    ) -> Result<Option<T>, SessionError> {
        let name = key.name();
        let value = self.get(name)?;
        self.discard(name);
        Ok(value)
    }

    /// Removes a key without looking at its value.
    pub fn discard(&mut self, key: impl KeyName) {
        self.values.remove(key.name());
    }

    /// Returns whether there is a value under a key.
    pub fn contains_key(&self, key: impl KeyName) -> bool {
        self.values.contains_key(key.name())
    }

    /// Returns the keys, in alphabetical order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(|key| &**key)
    }

    /// Decodes all values at once, as [`Session::values`](crate::Session::values) does.
    ///
    /// # Errors
    ///
    /// [`SessionError::DecodeAll`] if the values do not fit the type.
    pub fn values<T: DeserializeOwned>(&self) -> Result<T, SessionError> {
        decode_all(&self.values)
    }

    /// Removes every key.
    pub fn clear(&mut self) {
        self.values.clear();
    }

    /// Adds to a counter and returns the sum; a missing counter starts at zero.
    ///
    /// # Errors
    ///
    /// Those of [`Session::increment`](crate::Session::increment).
    pub fn increment(&mut self, key: impl SessionKey<i64>, by: i64) -> Result<i64, SessionError> {
        let key = key.name();
        self.check(LimitedPart::Key, key.len())?;
        count(&mut self.values, &key.into(), by)
    }

    /// Subtracts from a counter and returns the difference; a missing counter starts at zero.
    ///
    /// # Errors
    ///
    /// Those of [`increment`](Self::increment).
    pub fn decrement(&mut self, key: impl SessionKey<i64>, by: i64) -> Result<i64, SessionError> {
        let by = negated(key.name(), by)?;
        self.increment(key, by)
    }

    /// Appends an item to a list; a missing list starts empty.
    ///
    /// # Errors
    ///
    /// Those of [`Session::push`](crate::Session::push).
    pub fn push<T: Serialize>(
        &mut self,
        key: impl SessionKey<Vec<T>>,
        value: T,
    ) -> Result<(), SessionError> {
        let key = key.name();
        let value = encode_item(key, &value)?;
        self.check(LimitedPart::Key, key.len())?;
        self.check(LimitedPart::Value, value.len())?;
        append(&mut self.values, &key.into(), &value)
    }

    fn check(&self, part: LimitedPart, size: usize) -> Result<(), SessionError> {
        check_size(part, size, self.max_size)
    }
}

/// Shows only the keys, since values must not get into a log.
impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

/// A closure over all of the data, with its types erased.
#[derive(Clone)]
pub(crate) struct Transaction {
    pub(crate) closure: Arc<dyn Closure>,
    /// Whether this is a dry run, which does not set the result.
    pub(crate) trial: bool,
}

impl Transaction {
    /// Runs the closure. On an error the data stays as it was.
    pub(crate) fn run(&self, data: &mut Values) -> Result<(), SessionError> {
        *data = self.closure.run(data.clone(), self.trial)?;
        Ok(())
    }

    pub(crate) fn deferred(&self) -> DeferredId {
        self.closure.deferred()
    }

    pub(crate) fn dry_run(&self) -> Self {
        Self {
            closure: Arc::clone(&self.closure),
            trial: true,
        }
    }

    pub(crate) fn confirm(&self) {
        self.closure.confirm();
    }
}

pub(crate) trait Closure: Send + Sync {
    fn run(&self, values: Values, trial: bool) -> Result<Values, SessionError>;
    fn deferred(&self) -> DeferredId;
    fn confirm(&self);
}

pub(crate) struct Typed<F, T, E> {
    pub(crate) closure: F,
    pub(crate) max_size: usize,
    /// The result of the last run that was not a dry run.
    pub(crate) deferred: Deferred<T>,
    pub(crate) aborted: Lock<Option<E>>,
}

impl<F, T, E> Typed<F, T, E>
where
    F: Fn(&mut Data) -> Result<T, E>,
{
    pub(crate) fn attempt(&self, values: Values) -> Result<(Values, T), E> {
        assert_none_held();
        let max_size = self.max_size;
        let mut data = Data { values, max_size };
        let result = (self.closure)(&mut data)?;
        Ok((data.values, result))
    }

    pub(crate) fn set_aborted(&self, error: Option<E>) -> Option<E> {
        std::mem::replace(&mut *self.aborted.lock(), error)
    }
}

impl<F, T, E> Closure for Typed<F, T, E>
where
    F: Fn(&mut Data) -> Result<T, E> + Send + Sync,
    T: Send,
    E: Send,
{
    fn run(&self, values: Values, trial: bool) -> Result<Values, SessionError> {
        let attempt = self.attempt(values);
        if trial {
            let attempt = attempt.map(|(values, _)| values);
            return attempt.map_err(|_| SessionError::Aborted);
        }
        let (values, result, aborted) = match attempt {
            Ok((values, result)) => (Ok(values), Some(result), None),
            Err(error) => (Err(SessionError::Aborted), None, Some(error)),
        };
        self.deferred.resolve(result);
        self.set_aborted(aborted);
        values
    }

    fn deferred(&self) -> DeferredId {
        self.deferred.id()
    }

    fn confirm(&self) {
        self.deferred.confirm();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::record::change::Change;

    /// A transaction as a change, and its result.
    pub(crate) fn transaction<T: Send + 'static>(
        closure: impl Fn(&mut Data) -> Result<T, SessionError> + Send + Sync + 'static,
    ) -> (Change, Deferred<T>) {
        let deferred = Deferred::new();
        let typed = Typed {
            closure,
            max_size: usize::MAX,
            deferred: deferred.clone(),
            aborted: Lock::new(None),
        };
        let closure = Arc::new(typed);
        let trial = false;
        (
            Change::Transaction(Transaction { closure, trial }),
            deferred,
        )
    }
}
