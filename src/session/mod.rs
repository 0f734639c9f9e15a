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
//!    change log (`state/mod.rs: State::change`). The calls for values are in `values.rs` and `update.rs`, those of logins in `principal.rs`, of
//!    timeouts in `lifetime.rs`, of messages in `flash.rs`, of CSRF tokens in `csrf.rs`; `transaction.rs` has transactions, `stored.rs` a session as operators and tests see it, and `read_only.rs` a session
//!    without calls that change it. A closure of the application runs without the lock, for it may use the session.
//! 3. `save.rs: commit_pending` runs at the end of the request, in its task unless the request is dropped, or when a call commits at once,
//!    in a task of its own (`running.rs`):
//!    - `delete_pending` deletes the sessions that `destroy` has ended (`state/ending.rs`).
//!    - `resolve` finds out what became of an earlier commit without an answer (`state/in_flight.rs`).
//!    - `state/work.rs: State::take_work` takes the log out, and `commit/queue.rs: Ticket::commit` commits it.
//!    - `apply_outcome` emits events and brings the outcome into the state (`state/outcome.rs`).
//! 4. `save.rs: reload` loads the session again, and replays the log on it.
//! 5. `state/phase.rs` records whether the response head was sent. If no response follows, `shared.rs: Shared::abandon` drops the
//!    changes and carries out a `destroy`.

pub(crate) mod csrf;
pub(crate) mod flash;
pub(crate) mod lifetime;
pub(crate) mod principal;
pub(crate) mod read_only;
mod running;
pub(crate) mod save;
pub(crate) mod sessions;
pub(crate) mod shared;
pub(crate) mod state;
pub(crate) mod stored;
pub(crate) mod transaction;
pub(crate) mod update;
pub(crate) mod values;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::session::{LimitedPart, SessionError};
use crate::record::change::Change;
use crate::record::deferred::{Deferred, DeferredId};
use crate::record::fingerprint::Fingerprint;
use crate::record::limit::check_size;
use crate::session::save::{Trigger, commit_pending, reload};
use crate::session::shared::Shared;
use crate::session::state::State;
use crate::session::state::backing::Backing;
use crate::token::Handle;

/// The longest label, in bytes.
const MAX_LABEL: usize = 256;

/// The session of a visitor: a map of values that is kept from one request to the next.
///
/// Take it as an argument of a handler. The session is loaded before the handler runs, so calls that read or change it need
/// no `await`; only calls that talk to the store are async. Changes are committed after the handler, and a request that
/// changes nothing writes nothing. Clones share one state.
///
/// A visitor without a session gets an empty one. Nothing is stored and no cookie is set before the first change.
///
/// ```
/// use sessile::{Key, Session, SessionError};
///
/// const CART: Key<Vec<String>> = Key::new("cart");
///
/// async fn add(session: Session) -> Result<String, SessionError> {
///     session.push(CART, "tulip".to_owned())?;
///     let visits = session.increment("visits", 1)?;
///     let cart = session.get(CART)?.unwrap_or_default();
///     Ok(format!("{} items, visit {visits}", cart.len()))
/// }
/// ```
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
/// | call | if another request committed first |
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
    #[doc(alias("refresh", "load"))]
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
    #[doc(alias("id", "session_id", "get_session_id"))]
    pub fn handle(&self) -> Option<Handle> {
        match &self.shared.state().backing {
            Backing::Loaded(base) => Some(base.token.handle),
            Backing::New | Backing::Denied { .. } => None,
        }
    }

    /// Whether the session is not stored yet.
    #[doc(alias("is_empty", "data_exists"))]
    pub fn is_new(&self) -> bool {
        !matches!(self.shared.state().backing, Backing::Loaded(_))
    }

    /// Whether there is anything to commit. Changes that together leave the session as it was loaded do not count.
    #[doc(alias("is_dirty", "is_changed"))]
    pub fn is_modified(&self) -> bool {
        !self.shared.state().has_nothing_pending()
    }

    /// Whether this request has ended the session: [`destroy`](Self::destroy) was called. Changes since then belong to a new
    /// session, and this stays `true`.
    #[doc(alias = "is_purged")]
    pub fn is_destroyed(&self) -> bool {
        self.shared.state().ending.has_begun()
    }

    /// Whether this request replaces the token of the session, or has done so, by [`cycle_id`](Self::cycle_id),
    /// [`set_principal`](Self::set_principal) or [`clear_principal`](Self::clear_principal): the response then sets another cookie.
    /// A session that is not stored yet has no token to replace.
    #[doc(alias("is_renewed", "is_regenerated"))]
    pub fn is_rotated(&self) -> bool {
        self.shared.state().is_rotated()
    }

    /// How the client's network compares with the one that the session belongs to.
    pub fn fingerprint(&self) -> Fingerprint {
        self.shared.state().fingerprint.clone()
    }

    /// Calls the visitor's device by a name, for the list of a user's sessions: [`SessionInfo::label`](crate::SessionInfo::label).
    /// Usually it is made of the `User-Agent` header. It is cut to 256 bytes, and stays until another one is set or the session
    /// ends.
    ///
    /// Whatever a client sends can be in a `User-Agent`: escape it when you show it.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn set_label(&self, label: impl Into<String>) -> Result<(), SessionError> {
        let mut label = label.into();
        let mut end = label.len().min(MAX_LABEL);
        while !label.is_char_boundary(end) {
            end -= 1;
        }
        label.truncate(end);
        self.change(Change::SetLabel(label.into()))
    }

    /// What the application calls the visitor's device.
    pub fn label(&self) -> Option<String> {
        self.shared.state().view.label.as_deref().map(str::to_owned)
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
