//! Transactions: several values read and changed in one compare-and-set.

use std::sync::Arc;

use crate::error::session::SessionError;
use crate::lock::Lock;
use crate::record::change::Change;
use crate::record::deferred::Deferred;
use crate::record::transaction::{Closure, Data, Transaction, TransactionError, Typed};
use crate::session::Session;

/// How often a transaction is tried while other clones keep changing the session.
const TRIALS: u32 = 100;

/// Several values at once.
impl Session {
    /// Reads and changes several values in one step, which other requests see whole or not at all. Commits it at once,
    /// together with everything this request has changed so far. Use it for values that must agree: a cart that becomes an
    /// order, a limit over several counters.
    ///
    /// The closure runs on a copy of the data, first on what this request sees. What it returns is the result of the call; an
    /// error discards the copy. If another request has changed the session meanwhile, the closure runs again on the newer data,
    /// perhaps on the task of another request, which waits for it. So it must be quick and depend on nothing but the data and
    /// what was moved into it: clone what you move in. The call returns the result of the run that was committed.
    ///
    /// Transactions are merged under every [`Concurrency`](crate::Concurrency), since the closure reads the values it
    /// decides by. If it ran on changes of other requests under `Reject`, values that this request writes afterwards are
    /// rejected until it calls [`reload`](Self::reload).
    ///
    /// ```
    /// # use sessile::{Session, SessionError, TransactionError};
    /// /// Moves the cart to an order: both, or neither.
    /// async fn order(session: Session, id: u64) -> Result<Vec<String>, TransactionError<SessionError>> {
    ///     session
    ///         .transaction(move |data| {
    ///             let cart = data.remove::<Vec<String>>("cart")?.unwrap_or_default();
    ///             data.insert(format!("orders/{id}"), &cart)?;
    ///             Ok(cart)
    ///         })
    ///         .await
    /// }
    /// ```
    ///
    /// # Redis
    ///
    /// Same as [`save`](Self::save), even if the closure changes nothing: its result then holds at the moment of the write.
    ///
    /// # Errors
    ///
    /// - [`TransactionError::Aborted`]: the closure returned an error. Earlier changes of this request stay pending.
    /// - [`TransactionError::Session`]: those of [`save`](Self::save). Unless it is `OutcomeUnknown`, nothing of the closure
    ///   was written.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the transaction may be committed although no caller gets its result.
    #[doc(alias("multi", "atomic", "batch"))]
    pub async fn transaction<T, E, F>(&self, f: F) -> Result<T, TransactionError<E>>
    where
        F: Fn(&mut Data) -> Result<T, E> + Send + Sync + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        let deferred = Deferred::new();
        let typed = Arc::new(Typed {
            closure: f,
            max_size: self.shared().context.policy.config.max_size,
            deferred: deferred.clone(),
            aborted: Lock::new(None),
        });
        self.stage(&typed).await?;
        match self.commit_for(&deferred).await {
            Ok(result) => result.ok_or(TransactionError::Session(SessionError::Discarded)),
            Err(error) => match (&error, typed.set_aborted(None)) {
                (SessionError::Aborted, Some(aborted)) => Err(TransactionError::Aborted(aborted)),
                _ => Err(TransactionError::Session(error)),
            },
        }
    }

    /// Adds the transaction to the pending changes, unless its closure returns an error.
    async fn stage<F, T, E>(&self, typed: &Arc<Typed<F, T, E>>) -> Result<(), TransactionError<E>>
    where
        F: Fn(&mut Data) -> Result<T, E> + Send + Sync + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        let mut is_current = false;
        for _ in 0..TRIALS {
            // The closure belongs to the application and may use this session, so no lock is held while it runs.
            let (seen, revision) = {
                let state = self.shared().state();
                is_current |= !state.phase.is_head_sent();
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
                Err(error) if is_current => return Err(TransactionError::Aborted(error)),
                // After the response the data may be old, and the closure may have aborted because of that.
                Err(_) => {
                    self.reload().await?;
                    is_current = true;
                }
            }
        }
        Err(SessionError::Conflict { attempts: TRIALS }.into())
    }
}
