//! How the figures change with the size of a session, their number, and the number of writers, nodes and workers.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Result;
use crate::driver::cores::Cores;
use crate::driver::count::seed;
use crate::driver::fleet::{CONNECTIONS, Running, WARM_UP};
use crate::driver::latency::at_rate;
use crate::driver::load;
use crate::driver::process::{Process, Start, resident_bytes};
use crate::driver::redis_server::RedisServer;
use crate::driver::results::ByPeer;
use crate::driver::stats::Quartiles;
use crate::driver::workload::{Route, Sessions, Workload};
use crate::peers::Peer;

/// Points of each peer.
pub type Curve = ByPeer<Vec<(f64, f64)>>;
/// Curves by the name of the chart.
pub type Curves = BTreeMap<String, Curve>;

const SIZES: [f64; 5] = [0.2, 1.0, 4.0, 16.0, 64.0];
const SESSIONS: [usize; 4] = [1, 100, 10_000, 100_000];
const WRITERS: [usize; 5] = [1, 8, 64, 256, 500];
const NODES: [usize; 4] = [1, 2, 3, 4];
const WORKERS: [usize; 2] = [1, 2];
const LOADS: [f64; 9] = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0];
const ROUNDS: usize = 3;
const MIB: f64 = 1024.0 * 1024.0;

const FEW: [Peer; 3] = [Peer::Sessile, Peer::Hand, Peer::TowerSessions];
const WITH_MEMORY: [Peer; 4] = [
    Peer::Sessile,
    Peer::Hand,
    Peer::TowerSessions,
    Peer::AxumSession,
];
const WRITING: [Peer; 5] = [
    Peer::Sessile,
    Peer::Hand,
    Peer::TowerSessions,
    Peer::AxumSession,
    Peer::ActixSession,
];

/// All of them.
pub fn all(redis: &RedisServer, duration: Duration) -> Result<Curves> {
    let mut drawing = Drawing {
        redis,
        duration,
        curves: Curves::new(),
    };
    drawing.draw()?;
    Ok(drawing.curves)
}

struct Drawing<'a> {
    redis: &'a RedisServer,
    duration: Duration,
    curves: Curves,
}

impl Drawing<'_> {
    fn draw(&mut self) -> Result<()> {
        for (name, draw) in [
            ("size", Self::sizes as fn(&mut Self) -> Result<()>),
            ("sessions", Self::sessions),
            ("writers", Self::writers),
            ("nodes", Self::nodes),
            ("workers", Self::workers),
            ("load", Self::loads),
        ] {
            eprintln!("curve: {name}");
            self.redis.flush()?;
            // What fails is not to end a long run: its curve is then shorter, or missing.
            if let Err(error) = draw(self) {
                eprintln!("curve: {name}: {error}");
            }
        }
        Ok(())
    }

    fn point(&mut self, curve: &str, peer: Peer, x: f64, y: f64) {
        let curve = self.curves.entry(curve.to_owned()).or_default();
        curve.entry(peer.name()).or_default().push((x, y));
    }

    /// Requests a second against the x axis, the peers in turns.
    fn rates(&mut self, x: f64, name: &str, routes: &[Route], fleets: &[Fleet]) -> Result<()> {
        for route in routes {
            let mut rates = vec![Vec::new(); fleets.len()];
            for _ in 0..ROUNDS {
                for (fleet, rates) in fleets.iter().zip(&mut rates) {
                    let mut workload = Workload::new(*route, &fleet.sessions);
                    let addresses: Vec<_> = fleet.processes.iter().map(|it| it.address).collect();
                    let connections = fleet.connections;
                    let outcome = load::closed(
                        &addresses,
                        &mut workload,
                        connections,
                        WARM_UP,
                        self.duration,
                    );
                    rates.push(outcome?.per_second);
                }
            }
            let curve = format!("{name}-{}", route.path().trim_start_matches('/'));
            self.rated(&curve, x, fleets, &rates);
        }
        Ok(())
    }

    /// Adds the medians of the rounds, and those of the ratios to sessions by hand in the same round.
    fn rated(&mut self, curve: &str, x: f64, fleets: &[Fleet], rates: &[Vec<f64>]) {
        let relative = format!("{curve}-relative");
        let hand = fleets.iter().position(|fleet| fleet.peer == Peer::Hand);
        let hand = hand.map_or(&[][..], |at| rates[at].as_slice());
        for (fleet, rates) in fleets.iter().zip(rates) {
            let ratios = rates.iter().zip(hand).map(|(rate, hand)| rate / hand);
            let ratio = Quartiles::of(ratios).median;
            let rate = Quartiles::of(rates.iter().copied()).median;
            self.point(curve, fleet.peer, x, rate);
            self.point(&relative, fleet.peer, x, ratio);
        }
    }

    fn sizes(&mut self) -> Result<()> {
        for size in SIZES {
            let mut fleets = Vec::new();
            for peer in FEW {
                let start = Start {
                    session_bytes: (size * 1024.0) as usize,
                    ..Start::new(peer, self.redis.url())
                };
                fleets.push(Fleet::start(&start, 1, 100)?);
            }
            self.rates(size, "size", &[Route::Read, Route::Change], &fleets)?;
        }
        Ok(())
    }

    fn sessions(&mut self) -> Result<()> {
        let most = SESSIONS[SESSIONS.len() - 1];
        let mut fleets = Vec::new();
        for peer in WITH_MEMORY {
            // Created elsewhere, so that the memory is that of visits only.
            let sessions = seed(self.redis, peer, most)?;
            let process = Start::new(peer, self.redis.url()).start()?;
            fleets.push((sessions, Fleet::of(peer, vec![process])));
        }
        for number in SESSIONS {
            for (all, fleet) in &mut fleets {
                fleet.sessions = all.first(number);
                fleet.sessions.visit(fleet.processes[0].address)?;
                let bytes = resident_bytes(fleet.processes[0].pid())?;
                self.point("memory", fleet.peer, number as f64, bytes as f64 / MIB);
            }
            let (seeded, running): (Vec<_>, Vec<_>) = fleets.into_iter().unzip();
            self.rates(number as f64, "sessions", &[Route::Read], &running)?;
            fleets = seeded.into_iter().zip(running).collect();
        }
        Ok(())
    }

    fn writers(&mut self) -> Result<()> {
        for number in WRITERS {
            let mut fleets = Vec::new();
            for peer in WRITING {
                fleets.push(Fleet::start(&Start::new(peer, self.redis.url()), 1, 0)?);
            }
            let mut rates = vec![Vec::new(); fleets.len()];
            let mut changes = vec![(0, 0); fleets.len()];
            for _ in 0..ROUNDS {
                for (at, fleet) in fleets.iter().enumerate() {
                    let address = fleet.processes[0].address;
                    let session = Sessions::create(address, 1)?;
                    let mut workload = Workload::new(Route::Change, &session);
                    let outcome =
                        load::closed(&[address], &mut workload, number, WARM_UP, self.duration)?;
                    rates[at].push(outcome.per_second);
                    changes[at].0 += outcome.accepted;
                    changes[at].1 += session.counted(address)?;
                }
            }
            let x = number as f64;
            self.rated("writers", x, &fleets, &rates);
            for (fleet, (confirmed, counted)) in fleets.iter().zip(changes) {
                let lost = confirmed.saturating_sub(counted) as f64 / confirmed as f64;
                self.point("writers-lost", fleet.peer, x, 100.0 * lost);
            }
        }
        Ok(())
    }

    fn nodes(&mut self) -> Result<()> {
        for number in NODES {
            let mut fleets = Vec::new();
            for peer in FEW {
                let start = Start {
                    cores: Cores::All,
                    ..Start::new(peer, self.redis.url())
                };
                fleets.push(Fleet::start(&start, number, 1000)?);
            }
            let routes = [Route::Read, Route::Change];
            self.rates(number as f64, "nodes", &routes, &fleets)?;
        }
        Ok(())
    }

    fn workers(&mut self) -> Result<()> {
        for number in WORKERS {
            let mut fleets = Vec::new();
            for peer in FEW {
                let start = Start {
                    cores: Cores::All,
                    workers: number,
                    ..Start::new(peer, self.redis.url())
                };
                fleets.push(Fleet::start(&start, 1, 1000)?);
            }
            let routes = [Route::Read, Route::Change];
            self.rates(number as f64, "workers", &routes, &fleets)?;
        }
        Ok(())
    }

    fn loads(&mut self) -> Result<()> {
        let mut running = Vec::new();
        for peer in FEW {
            running.push(Running::start(self.redis, peer, 1000)?);
        }
        let hand = running.iter_mut().find(|it| it.peer == Peer::Hand);
        let hand = hand.ok_or("no sessions by hand")?;
        let full = hand.closed(Route::Read, self.duration)?.closed.per_second;
        for percent in LOADS {
            for it in &running {
                let rate = full * percent / 100.0;
                let latency = at_rate(it, Route::Read, rate, self.duration)?;
                self.point("load-p50", it.peer, percent, latency.percentile(50.0));
                self.point("load-p99", it.peer, percent, latency.percentile(99.0));
            }
        }
        Ok(())
    }
}

/// Processes of one peer that share the requests.
struct Fleet {
    peer: Peer,
    processes: Vec<Process>,
    sessions: Sessions,
    connections: usize,
}

impl Fleet {
    fn of(peer: Peer, processes: Vec<Process>) -> Self {
        Self {
            peer,
            processes,
            sessions: Sessions(Vec::new()),
            connections: CONNECTIONS,
        }
    }

    fn start(start: &Start, processes: usize, sessions: usize) -> Result<Self> {
        let processes: Result<Vec<_>> = (0..processes).map(|_| start.start()).collect();
        let mut fleet = Self::of(start.peer, processes?);
        fleet.sessions = Sessions::create(fleet.processes[0].address, sessions)?;
        Ok(fleet)
    }
}
