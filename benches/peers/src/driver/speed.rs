//! How many requests a second a peer can do, compared with a session written by hand in the same round.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::driver::fleet;
use crate::driver::load::Closed;
use crate::driver::redis_server::RedisServer;
use crate::driver::results::{ByPeer, ByRoute};
use crate::driver::stats::Quartiles;
use crate::driver::workload::Route;
use crate::peers::Peer;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Speed {
    pub per_second: Quartiles,
    /// The ratio in each round.
    pub to_hand: Quartiles,
    pub to_tower_sessions: Quartiles,
    pub failed: u64,
    /// Of the changes that were confirmed, how many the counters contain: confirmed, lost.
    pub changes: Option<(u64, u64)>,
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub rounds: usize,
    pub duration: Duration,
    pub sessions: usize,
}

/// Measures routes in rounds, in which all peers take turns.
pub fn measure(
    redis: &RedisServer,
    peers: &[Peer],
    routes: &[Route],
    extent: &Extent,
) -> Result<ByPeer<ByRoute<Speed>>> {
    let mut running = fleet::start_all(redis, peers, extent.sessions);
    let mut rates: BTreeMap<(Route, Peer), Vec<f64>> = BTreeMap::new();
    let mut failed: BTreeMap<(Route, Peer), u64> = BTreeMap::new();
    for round in 0..extent.rounds {
        eprintln!("round {} of {}", round + 1, extent.rounds);
        for route in routes {
            for it in &mut running {
                // One that breaks is not to end a long run, and shows in the table as failed.
                let outcome = it.closed(*route, extent.duration);
                let outcome = outcome.unwrap_or_else(|error| {
                    eprintln!("{error}");
                    Closed {
                        failed: 1,
                        ..Closed::default()
                    }
                });
                let key = (*route, it.peer);
                rates.entry(key).or_default().push(outcome.per_second);
                *failed.entry(key).or_default() += outcome.failed;
            }
        }
    }
    let mut speeds = ByPeer::<ByRoute<Speed>>::new();
    for it in &running {
        let lost = it.lost().unwrap_or_else(|error| {
            eprintln!("{}, the counters: {error}", it.peer.name());
            None
        });
        for route in routes {
            let key = (*route, it.peer);
            let to = |other: Peer| {
                let others = rates.get(&(*route, other)).map_or(&[][..], Vec::as_slice);
                let pairs = rates[&key].iter().zip(others);
                Quartiles::of(pairs.map(|(rate, other)| rate / other))
            };
            let speed = Speed {
                per_second: Quartiles::of(rates[&key].iter().copied()),
                to_hand: to(Peer::Hand),
                to_tower_sessions: to(Peer::TowerSessions),
                failed: failed[&key],
                changes: lost
                    .filter(|_| *route == Route::Change)
                    .map(|lost| (it.confirmed, lost)),
            };
            let routes = speeds.entry(it.peer.name()).or_default();
            routes.insert(*route, speed);
        }
    }
    Ok(speeds)
}
