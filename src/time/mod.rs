//! Time: durations as people write them, and deadlines.

pub(crate) mod deadline;
pub(crate) mod duration;
