//! The tests that need a store: one module a subject.
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod advice;
mod bad_input;
mod browsers;
mod cluster;
mod compare_and_set;
mod conformance;
mod connecting;
mod docs;
mod durability;
mod exactly_once;
mod examples;
mod fates;
mod fingerprint;
mod flash;
mod histories;
mod identity;
mod interleavings;
mod layers;
mod lifetimes;
mod metrics;
mod outages;
mod partly;
mod policies;
mod races;
mod round_trips;
mod secrets;
mod sentinel;
mod shutdown;
mod stats;
mod support;
mod tls;
mod together;
mod transactions;
mod unchanged;
mod values;
