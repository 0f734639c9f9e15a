//! Several values at once: read, decided upon and changed in one compare-and-set.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::session::SessionError;
use crate::lock::{Lock, assert_none_held};
use crate::record::answer::{Answer, AnswerId};
use crate::record::change::{Change, append, count, decode, encode, encode_item};
use crate::record::json::Json;
use crate::record::key::SessionKey;
use crate::session::{Session, check_size};

/// How often a transaction is tried on a session that other clones change meanwhile.
const TRIALS: u32 = 100;

/// The values of a session inside a [`transaction`](Session::transaction): as they are in the store, with the request's
/// earlier changes done to them.
pub struct Data {
    values: BTreeMap<String, Json>,
    max_size: usize,
}

/// Why a [`transaction`](Session::transaction) did not happen.
///
/// Implements axum's `IntoResponse` if `E` does. If `E` is [`SessionError`], `?` turns it into one.
#[non_exhaustive]
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransactionError<E> {
    /// The closure said no. Nothing of it was written; changes of before it are still to be committed.
    #[error("the transaction was aborted by its closure: nothing of it was written")]
    Aborted(E),
    /// The session could not be committed. Unless it is [`SessionError::OutcomeUnknown`], nothing of the transaction was
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
    /// The value under a key, or `None`.
    ///
    /// # Errors
    ///
    /// [`SessionError::Decode`] if it is of another type.
    pub fn get<T: DeserializeOwned>(
        &self,
        key: impl SessionKey<T>,
    ) -> Result<Option<T>, SessionError> {
        let key = key.name();
        let value = self.values.get(key);
        value.map(|value| decode(key, value)).transpose()
    }

    /// Puts a value under a key.
    ///
    /// # Errors
    ///
    /// Those of [`Session::insert`].
    pub fn insert<T: Serialize>(
        &mut self,
        key: impl SessionKey<T>,
        value: T,
    ) -> Result<(), SessionError> {
        let key = key.name();
        let value = encode(key, &value)?;
        self.check("key", key.len())?;
        if value.len() > self.values.get(key).map_or(0, Json::len) {
            self.check("value", value.len())?;
        }
        self.values.insert(key.to_owned(), value);
        Ok(())
    }

    /// Removes a key and returns its value.
    ///
    /// # Errors
    ///
    /// [`SessionError::Decode`] if it is of another type; it is kept, and [`discard`](Self::discard) drops it.
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
    pub fn discard(&mut self, key: &str) {
        self.values.remove(key);
    }

    /// Whether there is a value under a key.
    pub fn contains_key(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The keys, in alphabetical order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Removes every key.
    pub fn clear(&mut self) {
        self.values.clear();
    }

    /// Adds to a counter and returns what comes out; a missing counter stands at zero.
    ///
    /// # Errors
    ///
    /// Those of [`Session::increment`].
    pub fn increment(&mut self, key: &str, by: i64) -> Result<i64, SessionError> {
        self.check("key", key.len())?;
        count(&mut self.values, key, by)
    }

    /// Appends to a list; a missing list is empty.
    ///
    /// # Errors
    ///
    /// Those of [`Session::push`].
    pub fn push<T: Serialize>(&mut self, key: &str, value: T) -> Result<(), SessionError> {
        let value = encode_item(key, &value)?;
        self.check("key", key.len())?;
        self.check("value", value.len())?;
        append(&mut self.values, key, &value)
    }

    fn check(&self, what: &'static str, size: usize) -> Result<(), SessionError> {
        check_size(what, size, self.max_size)
    }
}

/// Only the keys: what is under them is none of a log's business.
impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

/// A closure over all of the data, with its types erased.
#[derive(Clone)]
pub(crate) struct Transaction {
    closure: Arc<dyn Closure>,
    /// What it returns is looked at by nobody.
    trial: bool,
}

impl Transaction {
    /// Runs the closure. On an error the data is as it was.
    pub(crate) fn run(&self, data: &mut BTreeMap<String, Json>) -> Result<(), SessionError> {
        *data = self.closure.run(data.clone(), self.trial)?;
        Ok(())
    }

    pub(crate) fn answer(&self) -> AnswerId {
        self.closure.answer()
    }

    pub(crate) fn on_trial(&self) -> Self {
        Self {
            closure: Arc::clone(&self.closure),
            trial: true,
        }
    }

    pub(crate) fn confirm(&self) {
        self.closure.confirm();
    }
}

trait Closure: Send + Sync {
    fn run(
        &self,
        values: BTreeMap<String, Json>,
        trial: bool,
    ) -> Result<BTreeMap<String, Json>, SessionError>;
    fn answer(&self) -> AnswerId;
    fn confirm(&self);
}

struct Typed<F, T, E> {
    closure: F,
    max_size: usize,
    /// What the run has returned whose result was sent last.
    answer: Answer<T>,
    aborted: Lock<Option<E>>,
}

impl<F, T, E> Typed<F, T, E>
where
    F: Fn(&mut Data) -> Result<T, E>,
{
    fn attempt(&self, values: BTreeMap<String, Json>) -> Result<(BTreeMap<String, Json>, T), E> {
        assert_none_held();
        let max_size = self.max_size;
        let mut data = Data { values, max_size };
        let result = (self.closure)(&mut data)?;
        Ok((data.values, result))
    }

    fn set_aborted(&self, error: Option<E>) -> Option<E> {
        std::mem::replace(&mut *self.aborted.lock(), error)
    }
}

impl<F, T, E> Closure for Typed<F, T, E>
where
    F: Fn(&mut Data) -> Result<T, E> + Send + Sync,
    T: Send,
    E: Send,
{
    fn run(
        &self,
        values: BTreeMap<String, Json>,
        trial: bool,
    ) -> Result<BTreeMap<String, Json>, SessionError> {
        let attempt = self.attempt(values);
        if trial {
            let attempt = attempt.map(|(values, _)| values);
            return attempt.map_err(|_| SessionError::Aborted);
        }
        let (result, result_of_run, aborted) = match attempt {
            Ok((values, result)) => (Ok(values), Some(result), None),
            Err(error) => (Err(SessionError::Aborted), None, Some(error)),
        };
        self.answer.give(result_of_run);
        self.set_aborted(aborted);
        result
    }

    fn answer(&self) -> AnswerId {
        self.answer.id()
    }

    fn confirm(&self) {
        self.answer.confirm();
    }
}

/// Several values at once.
impl Session {
    /// Reads and changes several values in one step that other requests see whole or not at all, and commits it at once,
    /// with everything this request has changed before. For what must hold together: a cart that becomes an order, a limit
    /// over several counters.
    ///
    /// The closure runs on a copy, first on what this request sees. It returns what the call is to return, or an error,
    /// which drops the copy. If another request has changed the session meanwhile, it runs again, on what that one made of
    /// it; then perhaps on another request's task, which waits for it. So it must be quick, and depend on nothing but the
    /// data and what was moved into it: clone what you move in. What is returned is of the run whose result was written.
    ///
    /// It is merged under every [`Concurrency`](crate::Concurrency): not what was read before, but what the closure reads
    /// decides. If it has met changes of others under `Reject`, values that the request writes afterwards are refused until it
    /// calls [`reload`](Self::reload).
    ///
    /// ```
    /// # use sessile::{Session, SessionError, TransactionError};
    /// /// Moves the cart to an order: both, or neither.
    /// async fn order(session: Session, id: u64) -> Result<Vec<String>, TransactionError<SessionError>> {
    ///     session
    ///         .transaction(move |data| {
    ///             let cart = data.remove::<Vec<String>>("cart")?.unwrap_or_default();
    ///             data.insert(format!("orders/{id}").as_str(), &cart)?;
    ///             Ok(cart)
    ///         })
    ///         .await
    /// }
    /// ```
    ///
    /// # Redis
    ///
    /// As [`save`](Self::save), also if the closure changes nothing: that it had this to say is then of the moment of the
    /// write.
    ///
    /// # Errors
    ///
    /// - [`TransactionError::Aborted`]: the closure said no. Changes of before it stay to be committed.
    /// - [`TransactionError::Session`]: those of [`save`](Self::save). Unless it is `OutcomeUnknown`, nothing of the closure
    ///   was written.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the transaction may be done and nobody has what it returned.
    #[doc(alias("multi", "atomic", "batch"))]
    pub async fn transaction<T, E, F>(&self, f: F) -> Result<T, TransactionError<E>>
    where
        F: Fn(&mut Data) -> Result<T, E> + Send + Sync + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        let answer = Answer::new();
        let typed = Arc::new(Typed {
            closure: f,
            max_size: self.shared().settings.config.max_size,
            answer: answer.clone(),
            aborted: Lock::new(None),
        });
        self.stage(&typed).await?;
        match self.settle_for(&answer).await {
            Ok(given) => given.ok_or(TransactionError::Session(SessionError::Discarded)),
            Err(error) => match (&error, typed.set_aborted(None)) {
                (SessionError::Aborted, Some(aborted)) => Err(TransactionError::Aborted(aborted)),
                _ => Err(TransactionError::Session(error)),
            },
        }
    }

    /// Adds the transaction to what this request has changed, if the closure agrees.
    async fn stage<F, T, E>(&self, typed: &Arc<Typed<F, T, E>>) -> Result<(), TransactionError<E>>
    where
        F: Fn(&mut Data) -> Result<T, E> + Send + Sync + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        let mut is_fresh = false;
        for _ in 0..TRIALS {
            // The closure is the application's: it may use this session, so no lock is held while it runs.
            let (seen, revision) = {
                let state = self.shared().state();
                is_fresh |= !state.head_sent;
                (state.view.data.clone(), state.revision)
            };
            match typed.attempt(seen) {
                Ok((values, _)) => {
                    let closure = Arc::clone(typed) as Arc<dyn Closure>;
                    let trial = false;
                    let change = Change::Transaction(Transaction { closure, trial });
                    let mut state = self.shared().state();
                    if state.revision == revision {
                        state.note_all(change, values);
                        return Ok(());
                    }
                }
                Err(error) if is_fresh => return Err(TransactionError::Aborted(error)),
                // Long after the load, that is no news of what is stored now.
                Err(_) => {
                    self.reload().await?;
                    is_fresh = true;
                }
            }
        }
        Err(SessionError::Conflict { attempts: TRIALS }.into())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A transaction as a change, and where its result is found.
    pub(crate) fn transaction<T: Send + 'static>(
        closure: impl Fn(&mut Data) -> Result<T, SessionError> + Send + Sync + 'static,
    ) -> (Change, Answer<T>) {
        let answer = Answer::new();
        let typed = Typed {
            closure,
            max_size: usize::MAX,
            answer: answer.clone(),
            aborted: Lock::new(None),
        };
        let closure = Arc::new(typed);
        let trial = false;
        (Change::Transaction(Transaction { closure, trial }), answer)
    }
}
