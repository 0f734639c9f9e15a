//! Empty: the counts are in `benches/steps.rs`.
