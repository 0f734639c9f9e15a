//! How many requests a second a peer can do, compared with a session written by hand in the same round.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::driver::fleet::{self, Measured};
use crate::driver::redis_server::RedisServer;
use crate::driver::results::{ByPeer, ByRoute};
use crate::driver::stats::Quartiles;
use crate::driver::workload::Route;
use crate::peers::Peer;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Speed {
    pub per_second: Quartiles,
    /// The ratio in each round.
    pub to_hand: Quartiles,
    pub to_tower_sessions: Quartiles,
    /// Microseconds of processor time for one request, of the peer and of Redis.
    pub cpu: Quartiles,
    pub cpu_to_hand: Quartiles,
    pub redis_cpu: Quartiles,
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
    let mut rounds: BTreeMap<(Route, Peer), Vec<Measured>> = BTreeMap::new();
    for round in 0..extent.rounds {
        eprintln!("round {} of {}", round + 1, extent.rounds);
        for route in routes {
            for it in &mut running {
                // One that breaks is not to end a long run, and shows in the table as failed.
                let outcome = it.closed(*route, extent.duration);
                let outcome = outcome.unwrap_or_else(|error| {
                    eprintln!("{error}");
                    let mut none = Measured::default();
                    none.closed.failed = 1;
                    none
                });
                rounds.entry((*route, it.peer)).or_default().push(outcome);
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
            let of = |peer: Peer| rounds.get(&(*route, peer)).map_or(&[][..], Vec::as_slice);
            let own = of(it.peer);
            let all = |figure: fn(&Measured) -> f64| Quartiles::of(own.iter().map(figure));
            let to = |other: Peer, figure: fn(&Measured) -> f64| {
                let pairs = own.iter().zip(of(other));
                Quartiles::of(pairs.map(|(own, other)| figure(own) / figure(other)))
            };
            let speed = Speed {
                per_second: all(|it| it.closed.per_second),
                to_hand: to(Peer::Hand, |it| it.closed.per_second),
                to_tower_sessions: to(Peer::TowerSessions, |it| it.closed.per_second),
                cpu: all(|it| it.cpu),
                cpu_to_hand: to(Peer::Hand, |it| it.cpu),
                redis_cpu: all(|it| it.redis_cpu),
                failed: own.iter().map(|it| it.closed.failed).sum(),
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
