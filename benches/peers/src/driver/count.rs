//! What one request costs, counted. Only the processor time depends on how busy the machine is.

use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::Result;
use crate::driver::cores::Cores;
use crate::driver::http::Client;
use crate::driver::process::{Start, cpu_nanoseconds};
use crate::driver::proxy;
use crate::driver::redis_server::RedisServer;
use crate::driver::workload::{Route, Sessions, Workload};
use crate::peers::Peer;

/// The cost of a request, on average over many that follow one another on one connection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Thousands of instructions in user space, for one session.
    pub kilo_instructions: Option<f64>,
    /// The same, for sessions drawn at random.
    pub kilo_instructions_many: Option<f64>,
    pub allocations: f64,
    pub allocated_bytes: f64,
    pub commands: f64,
    pub round_trips: f64,
    pub bytes_to_redis: f64,
    pub bytes_from_redis: f64,
    pub syscalls: Option<f64>,
    /// Microseconds of processor time, of the peer and of Redis.
    pub cpu: f64,
    pub redis_cpu: f64,
}

/// How many requests are counted.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub warm_up: u64,
    /// Natively.
    pub requests: u64,
    /// Under callgrind and strace, which are slow; three times as many in the second run.
    pub traced: u64,
    /// The sessions to draw from for `kilo_instructions_many`; 0 to leave that out.
    pub many: usize,
}

/// The costs of each route.
pub fn all(redis: &RedisServer, peer: Peer, extent: &Extent) -> Result<Vec<(Route, Cost)>> {
    let sessions = seed(redis, peer, 1)?;
    let mut costs = native(redis, peer, &sessions, extent)?;
    let instructions = kilo_instructions(redis, peer, &sessions, extent)?;
    let many = match extent.many {
        0 => None,
        many => {
            let sessions = seed(redis, peer, many)?;
            kilo_instructions(redis, peer, &sessions, extent)?
        }
    };
    let syscalls = syscalls(redis, peer, &sessions, extent)?;
    for (at, (_, cost)) in costs.iter_mut().enumerate() {
        cost.kilo_instructions = instructions.map(|counts| counts[at]);
        cost.kilo_instructions_many = many.map(|counts| counts[at]);
        cost.syscalls = syscalls.map(|counts| counts[at]);
    }
    Ok(costs)
}

/// Sessions that a process of their own has created, so that creating them is not counted.
pub fn seed(redis: &RedisServer, peer: Peer, number: usize) -> Result<Sessions> {
    let process = Start::new(peer, redis.url()).start()?;
    Sessions::create(process.address, number)
}

fn native(
    redis: &RedisServer,
    peer: Peer,
    sessions: &Sessions,
    extent: &Extent,
) -> Result<Vec<(Route, Cost)>> {
    let (proxy, traffic) = proxy::start(redis.address())?;
    let direct = Start::new(peer, redis.url());
    let counted = Start {
        binary: "serve-counted",
        ..direct.clone()
    };
    let proxied = Start::new(peer, format!("redis://{proxy}/"));
    let (direct, mut counted, proxied) = (direct.start()?, counted.start()?, proxied.start()?);
    let mut costs = Vec::new();
    for route in Route::ALL {
        let mut workload = Workload::new(route, sessions);
        let number = extent.requests as f64;

        let mut client = Client::connect(direct.address)?;
        workload.send(&mut client, extent.warm_up)?;
        let used = |pid| cpu_nanoseconds(pid);
        let before = (used(direct.pid())?, used(redis.pid())?);
        workload.send(&mut client, extent.requests)?;
        let after = (used(direct.pid())?, used(redis.pid())?);

        let mut client = Client::connect(counted.address)?;
        workload.send(&mut client, extent.warm_up)?;
        let unallocated = counted.allocated()?;
        workload.send(&mut client, extent.requests)?;
        let allocated = counted.allocated()?;

        let mut client = Client::connect(proxied.address)?;
        workload.send(&mut client, extent.warm_up)?;
        let idle = traffic.read();
        workload.send(&mut client, extent.requests)?;
        let busy = traffic.read();

        let per_request = |before: u64, after: u64| (after - before) as f64 / number;
        let traffic = |at: usize| per_request(idle[at], busy[at]);
        let cost = Cost {
            kilo_instructions: None,
            kilo_instructions_many: None,
            allocations: per_request(unallocated.0, allocated.0),
            allocated_bytes: per_request(unallocated.1, allocated.1),
            commands: traffic(0),
            round_trips: traffic(1),
            bytes_to_redis: traffic(2),
            bytes_from_redis: traffic(3),
            syscalls: None,
            cpu: per_request(before.0, after.0) / 1000.0,
            redis_cpu: per_request(before.1, after.1) / 1000.0,
        };
        costs.push((route, cost));
    }
    Ok(costs)
}

/// Thousands of instructions per request, by route; `None` without valgrind.
pub fn kilo_instructions(
    redis: &RedisServer,
    peer: Peer,
    sessions: &Sessions,
    extent: &Extent,
) -> Result<Option<[f64; 3]>> {
    if !is_there("valgrind") {
        return Ok(None);
    }
    let under = |file: &str| {
        let words = ["valgrind", "--tool=callgrind", "-q"].map(str::to_owned);
        let mut words = words.to_vec();
        words.push(format!("--callgrind-out-file={file}"));
        words
    };
    let counts = traced(redis, peer, sessions, extent, under, |profile| {
        let mut lines = profile.lines();
        let total = lines.find_map(|line| line.strip_prefix("totals: "));
        total?.trim().parse().ok()
    })?;
    Ok(Some(counts.map(|count| count / 1000.0)))
}

fn syscalls(
    redis: &RedisServer,
    peer: Peer,
    sessions: &Sessions,
    extent: &Extent,
) -> Result<Option<[f64; 3]>> {
    if !is_there("strace") {
        return Ok(None);
    }
    let under = |file: &str| {
        ["strace", "-c", "-f", "-o", file]
            .map(str::to_owned)
            .to_vec()
    };
    let counts = traced(redis, peer, sessions, extent, under, |summary| {
        let total = summary.lines().find(|line| line.ends_with(" total"))?;
        total.split_whitespace().nth(3)?.parse().ok()
    })?;
    Ok(Some(counts))
}

/// Counts what a program that runs the peer counts from its start to its end: once with the same number of requests of every
/// route, and once for each route with three times as many of that one. The difference is what twice that number costs.
fn traced(
    redis: &RedisServer,
    peer: Peer,
    sessions: &Sessions,
    extent: &Extent,
    under: impl Fn(&str) -> Vec<String>,
    total: impl Fn(&str) -> Option<f64>,
) -> Result<[f64; 3]> {
    let folder = TempDir::new()?;
    let run = |more: Option<Route>| -> Result<f64> {
        let file = folder.path().join("counted");
        let start = Start {
            under: under(&file.display().to_string()),
            cores: Cores::All,
            ..Start::new(peer, redis.url())
        };
        let process = start.start()?;
        let mut client = Client::connect(process.address)?;
        for route in Route::ALL {
            let mut workload = Workload::new(route, sessions);
            let times = if more == Some(route) { 3 } else { 1 };
            workload.send(&mut client, extent.warm_up + times * extent.traced)?;
        }
        process.end()?;
        let counted = read(&file)?;
        total(&counted).ok_or_else(|| format!("no total in {}", file.display()).into())
    };
    let once = run(None)?;
    let mut costs = [0.0; 3];
    for (cost, route) in costs.iter_mut().zip(Route::ALL) {
        *cost = (run(Some(route))? - once) / (2 * extent.traced) as f64;
    }
    Ok(costs)
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()).into())
}

fn is_there(program: &str) -> bool {
    let mut command = Command::new(program);
    let command = command.arg("--version").stdout(Stdio::null());
    command.stderr(Stdio::null()).status().is_ok()
}
