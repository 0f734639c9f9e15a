//! Changes of one session by many requests at once: how many of them does it contain afterwards?

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::app::{MARKS, marks};
use crate::driver::cores::Cores;
use crate::driver::http::{Client, request};
use crate::driver::lines::Lines;
use crate::driver::process::Start;
use crate::driver::redis_server::RedisServer;
use crate::driver::workload::Sessions;
use crate::peers::Peer;

const LONGEST: Duration = Duration::from_secs(10);

/// The fewest and the most that were kept, over some trials.
pub type Range = (u64, u64);

/// Of 50 requests at once that each store a value under a key of its own, and of 50 that each add 1 to one counter.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    pub changes: Range,
    pub increments: Range,
    /// The same if two processes share the requests.
    pub changes_on_two: Range,
    pub increments_on_two: Range,
}

pub fn measure(redis: &RedisServer, peer: Peer, trials: usize) -> Result<Kept> {
    let start = Start {
        cores: Cores::All,
        ..Start::new(peer, redis.url())
    };
    let (one, two) = (start.start()?, start.start()?);
    let single = [one.address];
    let both = [one.address, two.address];
    Ok(Kept {
        changes: range(trials, || changes(&single))?,
        increments: range(trials, || increments(&single))?,
        changes_on_two: range(trials, || changes(&both))?,
        increments_on_two: range(trials, || increments(&both))?,
    })
}

fn range(trials: usize, trial: impl Fn() -> Result<u64>) -> Result<Range> {
    let mut range = (u64::MAX, 0);
    for _ in 0..trials {
        let kept = trial()?;
        range = (range.0.min(kept), range.1.max(kept));
    }
    Ok(range)
}

fn changes(addresses: &[SocketAddr]) -> Result<u64> {
    let paths: Vec<_> = marks().map(|name| format!("/mark/{name}")).collect();
    after(addresses, &paths, "/marks")
}

fn increments(addresses: &[SocketAddr]) -> Result<u64> {
    after(addresses, &vec!["/change".to_owned(); MARKS], "/count")
}

/// Requests the paths at once for a new session, and then asks for the number.
fn after(addresses: &[SocketAddr], paths: &[String], number: &str) -> Result<u64> {
    let sessions = Sessions::create(addresses[0], 1)?;
    let cookie = &sessions.0[0];
    let mut lines = Lines::open(addresses, paths.len())?;
    for (at, path) in paths.iter().enumerate() {
        lines.send(at, &request(path, cookie))?;
    }
    let mut done = Vec::new();
    let end = Instant::now() + LONGEST;
    lines.wake_after(LONGEST)?;
    while done.len() < paths.len() && Instant::now() < end {
        lines.receive(|response| response.status == 200, &mut done)?;
    }
    Ok(Client::connect(addresses[0])?
        .get(number, cookie)?
        .parse()?)
}
