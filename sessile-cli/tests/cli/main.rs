//! Runs the command against real servers, with sessions that the library has made.

#![allow(unreachable_pub, reason = "a test binary has no API")]

mod conduct;
mod destroy_all;
mod doctor;
mod explain;
mod prompts;
mod proxy;
mod sessions;
mod support;
mod topologies;
mod watch;
