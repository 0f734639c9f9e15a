//! The driver: starts Redis and the peers, sends requests, and reports what they cost.

pub mod cores;
pub mod count;
pub mod http;
pub mod process;
pub mod proxy;
pub mod redis_server;
pub mod workload;
