//! What can go wrong.

pub(crate) mod session;
