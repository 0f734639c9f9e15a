//! The adapter through tower-sessions' own types, on the memory store and on a real redis-server.

#![allow(
    unreachable_pub,
    reason = "support is shared with the tests of sessile"
)]

mod axum_login;
mod contract;
mod moving;
mod requests;
mod sessions;
mod support;
mod take_over;
