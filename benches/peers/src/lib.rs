//! sessile and its peers: the same small application on each, in a process of its own, and the driver that compares them.

pub mod app;
pub mod driver;
pub mod peers;
pub mod serve;

/// A result whose error only has to be shown.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
