//! What `benches/steps.rs` times and `benches/counts` counts: the inputs of the single steps, and whole requests.
//!
//! Both benches include this folder, so that a time and a count of the same name belong to the same work.

pub(crate) mod inputs;
pub(crate) mod store;
pub(crate) mod visitor;
