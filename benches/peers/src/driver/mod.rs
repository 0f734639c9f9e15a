//! The driver: starts Redis and the peers, sends requests, and reports what they cost.

pub mod charts;
pub mod claims;
pub mod cores;
pub mod count;
pub mod curves;
pub mod facts;
pub mod fleet;
pub mod http;
pub mod kept;
pub mod latency;
pub mod lines;
pub mod load;
pub mod process;
pub mod proxy;
pub mod redis_server;
pub mod report;
pub mod resp;
pub mod results;
pub mod speed;
pub mod stats;
pub mod svg;
pub mod workload;
