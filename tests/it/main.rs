//! Integration tests: real requests through the layer to a store. Each module has one subject; `support` has the
//! servers, the proxy and the application under test.
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod advice;
mod bad_input;
mod bodies;
mod browsers;
mod cluster;
mod compare_and_set;
mod conformance;
mod connecting;
mod cookie_domain;
mod credentials;
mod csrf;
mod devices;
mod docs;
mod durability;
mod eviction;
mod exactly_once;
mod examples;
mod extremes;
mod fates;
mod fingerprint;
mod flash;
mod former_names;
mod header_transport;
mod histories;
mod identity;
mod interleavings;
mod joins;
mod layers;
mod lifetimes;
mod logout;
mod metrics;
mod outages;
mod own_code;
mod partly;
mod policies;
mod races;
mod reauthentication;
mod renewals;
mod require_principal;
mod round_trips;
mod secrets;
mod sentinel;

mod several_cookies;
mod shutdown;
mod sign_ins;
mod spans;
mod stats;
mod support;
mod tls;
mod together;
mod transactions;
mod unchanged;
mod values;
