#![cfg_attr(
    all(feature = "metrics", feature = "redis", feature = "axum"),
    doc = include_str!("../../docs/metrics.md")
)]
#![cfg_attr(
    not(all(feature = "metrics", feature = "redis", feature = "axum")),
    doc = "Metrics for the `metrics` facade."
)]
#![cfg_attr(
    not(feature = "metrics"),
    allow(
        unused_variables,
        reason = "without the feature, every function of this module does nothing"
    )
)]

// The files, in reading order:
//
// 1. `catalog.rs` lists all metrics, describes them to the recorder, and begins those that alerts watch at 0.
// 2. `timer.rs: Timer` measures all durations, and `abandoned.rs: IfAbandoned` records those that end since nobody waits any more;
//    `gauge.rs: Present` counts what exists now.
// 3. `requests.rs` records what requests, commits and events do; the store's part of it is in `store.rs`, and `server.rs` has the
//    connections to one Redis server.
//
// Callers need no `cfg`: without the feature `metrics` the types are empty and the functions do nothing. Labels are static, so
// recording allocates nothing; `by_label!` says how.

pub(crate) mod abandoned;
#[cfg(feature = "metrics")]
mod catalog;
pub(crate) mod gauge;
pub(crate) mod requests;
#[cfg(feature = "redis")]
pub(crate) mod server;
pub(crate) mod store;
pub(crate) mod timer;

/// Whether metrics are recorded: to leave out what only they need.
pub(crate) const ENABLED: bool = cfg!(feature = "metrics");

/// Upper bounds for buckets of the histograms whose names end with `_seconds`: from 100 µs, a fifth of a round trip to a Redis
/// nearby, to 10 s, more than the longest wait by default. They double or more, with the default `command_timeout`, 0.5, and the
/// default `request_budget`, 1, among them.
#[cfg(feature = "metrics")]
pub const LATENCY_BUCKETS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0,
];

/// Describes all metrics to the recorder that is installed now, and begins the counters that alerts watch.
pub(crate) fn introduce() {
    #[cfg(feature = "metrics")]
    {
        catalog::describe();
        catalog::begin_at_zero();
    }
}

/// A metric with one label, whose value is one of those in the list. Each has a static key, so that recording allocates nothing;
/// another value would be recorded too, with an allocation.
#[cfg(feature = "metrics")]
macro_rules! by_label {
    ($kind:ident, $name:literal, $label:literal => $value:expr, [$($known:literal),+ $(,)?]) => {
        match $value {
            $($known => metrics::$kind!($name, $label => $known),)+
            other => metrics::$kind!($name, $label => other),
        }
    };
}
#[cfg(feature = "metrics")]
use by_label;
