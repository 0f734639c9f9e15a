//! The commit protocol: no change is lost, none is applied twice, and a logout is final.
//!
//! A session is written by compare-and-set. If another request has replaced its record meanwhile, sessile replays the changes
//! on the newer record and sends them again. A record lists the last commits that wrote it, so a commit whose answer was lost
//! is found there and not applied twice.
//!
//! # Terms
//!
//! - The *handle* names a session: it is the key in the store, and the public half of the token in the cookie. The *secret* is
//!   the other half.
//! - The *principal* is the user who is signed in.
//! - A *rotation* replaces the secret and begins a new *epoch*: `cycle_id`, a login, a sign-out. Changes of one epoch are never
//!   replayed in another.
//! - The *base* is the record that changes were made on, and that the compare-and-set expects in the store.
//! - An outcome is *unknown* while a write without an answer may have been applied. To *resolve* it is to find that out.
//! - A *lease* is a key of its own, with a short time to live: the right to be the only request of a session.
//!
//! # The way of a commit
//!
//! 1. `session/save.rs: commit_pending` takes a `Work` (`work.rs`) out of the session: the change log, the base that it was
//!    made on, and the `ReadSet`. `context.rs: CommitContext` has the store and the settings.
//! 2. `queue.rs: Ticket::commit` waits for the turn: in a process, one commit of a session runs at a time. A session that is not
//!    stored yet needs no turn (`batch.rs: create`).
//! 3. `batch.rs: Batch::run` takes along the requests that wait (`queue.rs: CommitQueue::let_join`, `batch.rs: Batch::admits`).
//! 4. `prepare.rs: prepare` applies their logs to the base, one after the other, and encodes the record.
//!    If it signs in a principal, `sign_in.rs: enter` first puts the session into the index of the principal's sessions, and
//!    `sign_in.rs: confirm` looks, once it is written, whether they were all ended meanwhile.
//! 5. `attempt.rs: Attempt::send` sends it. `decide.rs: step` says what follows from the answer: nothing, the same bytes again,
//!    step 4 on the record that was found, a fresh record first (`Attempt::wait_and_load`), or a write that waits for the
//!    replicas (`Attempt::confirm`). `join.rs: entry` says whether the changes may be applied to a record of another epoch.
//! 6. `batch.rs: Batch::finish` sends each request its `CommitOutcome` (`outcome.rs`).
//! 7. If the outcome is unknown, `queue.rs: Ticket::resolve` and `attempt.rs: Attempt::resolve` resolve it before the session
//!    commits anything else.
//!
//! # Beside it
//!
//! - `delete.rs: revoke_all` ends sessions now, `revoke_later` in the background. `logouts.rs` has the logouts of sessions that
//!   could not be loaded.
//! - `index.rs: sessions_of` lists the sessions of a principal, and `end.rs: end` ends one of them.
//! - `renew.rs: renew_if_due` and `load_and_renew` extend the life of a session that is read and not written.
//! - `lease.rs: Lease::take` makes requests of a session wait for each other, under `Concurrency::Exclusive`.
//! - `engine.rs` and `backend.rs` have what the requests of a layer share, `background.rs` the tasks beside them, `span.rs` the
//!   tracing span.
//!
//! Read `decide.rs` first, then steps 1 to 7. `model.rs`, `requests_model.rs` and `index_model.rs` explore every order of steps.

pub(crate) mod decide;
#[cfg(test)]
mod index_model;
#[cfg(test)]
mod model;
#[cfg(test)]
mod requests_model;

pub(crate) mod attempt;
pub(crate) mod backend;
pub(crate) mod background;
pub(crate) mod base;
pub(crate) mod batch;
pub(crate) mod context;
pub(crate) mod delete;
pub(crate) mod end;
pub(crate) mod engine;
pub(crate) mod index;
pub(crate) mod join;
pub(crate) mod lease;
pub(crate) mod logouts;
pub(crate) mod outcome;
pub(crate) mod prepare;
pub(crate) mod queue;
pub(crate) mod renew;
pub(crate) mod sign_in;
pub(crate) mod span;
pub(crate) mod work;
