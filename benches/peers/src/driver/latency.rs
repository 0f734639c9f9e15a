//! How long requests take at half of the load that a session written by hand can carry.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::driver::fleet::{self, CONNECTIONS, Running};
use crate::driver::load;
use crate::driver::redis_server::RedisServer;
use crate::driver::results::{ByPeer, ByRoute};
use crate::driver::stats::Quartiles;
use crate::driver::workload::{Route, Workload};
use crate::peers::Peer;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Requests sent a second.
    pub per_second: f64,
    /// Microseconds.
    pub p50: Quartiles,
    pub p99: Quartiles,
    pub p99_9: Quartiles,
    pub p99_to_hand: Quartiles,
}

/// Measures in rounds, in which all peers take turns.
pub fn at_half_load(
    redis: &RedisServer,
    peers: &[Peer],
    routes: &[Route],
    rounds: usize,
    duration: Duration,
    sessions: usize,
) -> Result<ByPeer<ByRoute<Latency>>> {
    let mut hand = Running::start(redis, Peer::Hand, sessions)?;
    let running = fleet::start_all(redis, peers, sessions);
    let mut latencies = ByPeer::<ByRoute<Latency>>::new();
    for route in routes {
        let per_second = hand.closed(*route, duration)?.closed.per_second / 2.0;
        let mut percentiles = vec![Vec::new(); running.len()];
        for _ in 0..rounds {
            for (it, percentiles) in running.iter().zip(&mut percentiles) {
                let latency = at_rate(it, *route, per_second, duration)?;
                percentiles.push([50.0, 99.0, 99.9].map(|it| latency.percentile(it)));
            }
        }
        let at_hand = running.iter().position(|it| it.peer == Peer::Hand);
        for (it, own) in running.iter().zip(&percentiles) {
            let of = |which: usize| Quartiles::of(own.iter().map(|round| round[which]));
            let hands = at_hand.map_or(&[][..], |at| percentiles[at].as_slice());
            let ratios = own.iter().zip(hands).map(|(own, hand)| own[1] / hand[1]);
            let latency = Latency {
                per_second,
                p50: of(0),
                p99: of(1),
                p99_9: of(2),
                p99_to_hand: Quartiles::of(ratios),
            };
            let routes = latencies.entry(it.peer.name()).or_default();
            routes.insert(*route, latency);
        }
    }
    Ok(latencies)
}

/// One open loop.
pub fn at_rate(
    running: &Running,
    route: Route,
    per_second: f64,
    duration: Duration,
) -> Result<load::Open> {
    let mut workload = Workload::new(route, &running.sessions);
    let addresses = [running.address()];
    load::open(&addresses, &mut workload, CONNECTIONS, per_second, duration)
}
