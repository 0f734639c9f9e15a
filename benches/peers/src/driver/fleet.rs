//! The peers as running processes, each with its sessions.

use std::net::SocketAddr;
use std::time::Duration;

use crate::Result;
use crate::driver::load::{self, Closed};
use crate::driver::process::{Process, Start, cpu_nanoseconds};
use crate::driver::redis_server::RedisServer;
use crate::driver::workload::{Route, Sessions, Workload};
use crate::peers::Peer;

/// The connections of a load.
pub const CONNECTIONS: usize = 64;
/// How long a peer runs before it is timed.
pub const WARM_UP: Duration = Duration::from_millis(200);

/// Starts these peers. One that does not start is left out, with a message.
pub fn start_all(redis: &RedisServer, peers: &[Peer], sessions: usize) -> Vec<Running> {
    let started = peers.iter().filter_map(|peer| {
        let running = Running::start(redis, *peer, sessions);
        let failed = |error| eprintln!("{} is left out: {error}", peer.name());
        running.map_err(failed).ok()
    });
    started.collect()
}

pub struct Running {
    pub peer: Peer,
    pub process: Process,
    pub sessions: Sessions,
    /// Changes that a response has confirmed.
    pub confirmed: u64,
    redis: u32,
}

/// A closed loop, and the processor time of one request in it, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    pub closed: Closed,
    pub cpu: f64,
    pub redis_cpu: f64,
}

impl Running {
    pub fn start(redis: &RedisServer, peer: Peer, sessions: usize) -> Result<Self> {
        let process = Start::new(peer, redis.url()).start()?;
        let sessions = Sessions::create(process.address, sessions)?;
        Ok(Self {
            peer,
            process,
            sessions,
            confirmed: 0,
            redis: redis.pid(),
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.process.address
    }

    /// A closed loop.
    pub fn closed(&mut self, route: Route, duration: Duration) -> Result<Measured> {
        let pids = [self.process.pid(), self.redis];
        let used = || -> Result<Vec<u64>> { pids.into_iter().map(cpu_nanoseconds).collect() };
        let before = used()?;
        let mut workload = Workload::new(route, &self.sessions);
        let closed = load::closed(
            &[self.address()],
            &mut workload,
            CONNECTIONS,
            WARM_UP,
            duration,
        )
        .map_err(|error| format!("{}, {}: {error}", self.peer.name(), route.path()))?;
        if route == Route::Change {
            self.confirmed += closed.accepted;
        }
        let after = used()?;
        let each = |at: usize| {
            let nanoseconds = after[at].saturating_sub(before[at]);
            nanoseconds as f64 / 1000.0 / closed.accepted as f64
        };
        Ok(Measured {
            closed,
            cpu: each(0),
            redis_cpu: each(1),
        })
    }

    /// How many confirmed changes the counters do not contain.
    pub fn lost(&self) -> Result<Option<u64>> {
        if !self.peer.has_sessions() {
            return Ok(None);
        }
        let counted = self.sessions.counted(self.address())?;
        Ok(Some(self.confirmed.saturating_sub(counted)))
    }
}
