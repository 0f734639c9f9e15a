//! Several values at once: read, decided upon and changed in one compare-and-set.

use std::sync::Arc;

use crate::error::session::SessionError;
use crate::lock::Lock;
use crate::record::answer::Answer;
use crate::record::change::Change;
use crate::record::transaction::{Closure, Data, Transaction, TransactionError, Typed};
use crate::session::Session;

/// How often a transaction is tried on a session that other clones change meanwhile.
const TRIALS: u32 = 100;

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
            max_size: self.shared().context.policy.config.max_size,
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
                is_fresh |= !state.phase.is_head_sent();
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
