//! The way into the store: nothing lost, nothing twice, and a logout is final.
//!
//! A session is written by compare-and-set. If another request was faster, the request's changes are done again to the
//! record that won, and sent again. A record names the commits that made it, so that a commit whose answer was lost is
//! found there and not done twice. [`decide`] holds the rules, [`attempt`] carries them out on the bytes that [`prepare`]
//! makes, [`queue`] lets one commit of a session at a time through and requests that wait travel together, [`unresolved`]
//! keeps what got no answer, [`join`] says which logins become one.

pub(crate) mod decide;
#[cfg(test)]
mod model;
#[cfg(test)]
mod requests_model;

pub(crate) mod attempt;
pub(crate) mod backend;
pub(crate) mod base;
pub(crate) mod batch;
pub(crate) mod context;
pub(crate) mod delete;
pub(crate) mod engine;
pub(crate) mod join;
pub(crate) mod lease;
pub(crate) mod logouts;
pub(crate) mod outcome;
pub(crate) mod prepare;
pub(crate) mod queue;
pub(crate) mod renew;
pub(crate) mod span;
pub(crate) mod work;
