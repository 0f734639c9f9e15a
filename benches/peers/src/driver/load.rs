//! The two kinds of load: a closed loop, which finds out how much a peer can do, and an open one, which finds out how long
//! requests take at a given rate.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::Result;
use crate::driver::lines::Lines;
use crate::driver::workload::Workload;

/// How long the last responses may take.
const LAST: Duration = Duration::from_secs(10);
/// The same in the open loop, where a peer that cannot keep up has a long queue.
const LAST_OPEN: Duration = Duration::from_secs(1);

/// What a closed loop got.
#[derive(Clone, Copy, Debug, Default)]
pub struct Closed {
    /// Accepted responses a second, after the warm-up.
    pub per_second: f64,
    /// All accepted responses, the warm-up included.
    pub accepted: u64,
    /// Requests without an acceptable response.
    pub failed: u64,
}

/// Each connection sends its next request when it has the response to the one before.
pub fn closed(
    addresses: &[SocketAddr],
    workload: &mut Workload,
    connections: usize,
    warm_up: Duration,
    duration: Duration,
) -> Result<Closed> {
    let mut lines = Lines::open(addresses, connections)?;
    let route = workload.route;
    let mut outcome = Closed::default();
    let mut timed = 0_u64;
    let mut done = Vec::new();
    let start = Instant::now() + warm_up;
    let end = start + duration;
    for at in 0..connections {
        lines.send(at, workload.draw())?;
    }
    lines.wake_after(warm_up + duration + LAST)?;
    let mut busy = connections;
    while busy > 0 {
        lines.receive(|response| route.accepts(response), &mut done)?;
        let now = Instant::now();
        for (at, accepted) in done.drain(..) {
            outcome.accepted += u64::from(accepted);
            outcome.failed += u64::from(!accepted);
            timed += u64::from(accepted && now >= start && now < end);
            match now < end {
                true => lines.send(at, workload.draw())?,
                false => busy -= 1,
            }
        }
        if now >= end + LAST {
            outcome.failed += busy as u64;
            break;
        }
    }
    outcome.per_second = timed as f64 / duration.as_secs_f64();
    Ok(outcome)
}

/// What an open loop got: how long the requests took, in microseconds, shortest first.
#[derive(Clone, Debug, Default)]
pub struct Open {
    pub microseconds: Vec<f64>,
    pub failed: u64,
}

impl Open {
    pub fn percentile(&self, percent: f64) -> f64 {
        let last = self.microseconds.len().saturating_sub(1);
        let at = (last as f64 * percent / 100.0).round() as usize;
        self.microseconds.get(at).copied().unwrap_or(f64::NAN)
    }
}

/// Sends requests at random times, this many a second on average, whether or not there are responses. A request that finds no
/// free connection waits for one, and its time runs from when it should have been sent.
pub fn open(
    addresses: &[SocketAddr],
    workload: &mut Workload,
    connections: usize,
    per_second: f64,
    duration: Duration,
) -> Result<Open> {
    let mut lines = Lines::open(addresses, connections)?;
    let route = workload.route;
    let mut random = SmallRng::seed_from_u64(2);
    let mut gap = || Duration::from_secs_f64(-(1.0 - random.random::<f64>()).ln() / per_second);
    let mut outcome = Open::default();
    let mut free: VecDeque<_> = (0..connections).collect();
    let mut sent = vec![Instant::now(); connections];
    let mut waiting = VecDeque::new();
    let mut done = Vec::new();
    let mut next = Instant::now() + gap();
    let end = Instant::now() + duration;
    let mut alarm = end;
    let microseconds = |since: Instant| since.elapsed().as_secs_f64() * 1e6;
    loop {
        let now = Instant::now();
        while next <= now && next < end {
            waiting.push_back(next);
            next += gap();
        }
        while !waiting.is_empty()
            && let Some(at) = free.pop_front()
        {
            sent[at] = waiting.pop_front().unwrap_or(now);
            lines.send(at, workload.draw())?;
        }
        let idle = free.len() == lines.number();
        if next >= end && (idle || now >= end + LAST_OPEN) {
            break;
        }
        let until = if next < end { next } else { end + LAST_OPEN };
        if until != alarm {
            alarm = until;
            lines.wake_after(until.saturating_duration_since(Instant::now()))?;
        }
        lines.receive(|response| route.accepts(response), &mut done)?;
        for (at, accepted) in done.drain(..) {
            outcome.microseconds.push(microseconds(sent[at]));
            outcome.failed += u64::from(!accepted);
            free.push_back(at);
        }
    }
    // What has no response yet has taken this long at least.
    let busy = (0..connections).filter(|at| !free.contains(at));
    let unanswered = busy.map(|at| sent[at]).chain(waiting);
    outcome.microseconds.extend(unanswered.map(microseconds));
    outcome.microseconds.sort_by(f64::total_cmp);
    Ok(outcome)
}
