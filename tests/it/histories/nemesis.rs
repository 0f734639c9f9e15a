//! The nemesis: causes one failure after the other, in an order that depends on the seed, with pauses.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use tokio::task::block_in_place;
use tokio::time::sleep;

use super::history::{Ending, Life, Moment, Op};
use super::site::{NODES, Site};
use crate::support::proxy::{Fault, RandomFaults};

/// A failure of a server, a node or their connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    FreezeServer,
    KillServer,
    FreezeNode,
    KillNode,
    FlushScripts,
    KillClients,
    LoseRequests,
    LoseAnswers,
    SwallowAnswers,
    Delay,
    Cut,
}

impl Failure {
    pub const ALL: [Self; 11] = [
        Self::FreezeServer,
        Self::KillServer,
        Self::FreezeNode,
        Self::KillNode,
        Self::FlushScripts,
        Self::KillClients,
        Self::LoseRequests,
        Self::LoseAnswers,
        Self::SwallowAnswers,
        Self::Delay,
        Self::Cut,
    ];

    /// Whether it makes the store unavailable.
    fn is_outage(self) -> bool {
        matches!(self, Self::FreezeServer | Self::KillServer | Self::Cut)
    }

    /// The random faults of the connections during this failure.
    fn random_faults(self, rng: &mut StdRng) -> Option<RandomFaults> {
        let faults_of = |fault, per_thousand| RandomFaults {
            fault: Some((fault, per_thousand)),
            delay: Duration::ZERO,
        };
        match self {
            Self::LoseRequests => Some(faults_of(Fault::LoseRequest, 80)),
            Self::LoseAnswers => Some(faults_of(Fault::LoseAnswer, 80)),
            Self::SwallowAnswers => Some(faults_of(Fault::SwallowAnswer, 15)),
            Self::Delay => Some(RandomFaults {
                fault: None,
                delay: Duration::from_millis(rng.random_range(5..800)),
            }),
            _ => None,
        }
    }
}

/// The times of outages of the store, and of kills of nodes.
pub struct Outages {
    began: Instant,
    /// Set shortly before an outage.
    near: AtomicBool,
    past: Mutex<Vec<(Moment, Moment)>>,
    kills: Mutex<Vec<(usize, Moment)>>,
}

impl Outages {
    pub fn since(began: Instant) -> Self {
        Self {
            began,
            near: AtomicBool::new(false),
            past: Mutex::default(),
            kills: Mutex::default(),
        }
    }

    pub fn is_near(&self) -> bool {
        self.near.load(Ordering::Relaxed)
    }

    /// Logouts in flight during an outage, by their endings.
    pub fn logouts(&self, lives: &[Life]) -> BTreeMap<&'static str, u64> {
        let past = self.past.lock().unwrap();
        let in_outage = |op: &&Op| {
            past.iter()
                .any(|(from, to)| op.began <= *to && *from <= op.ended)
        };
        let mut endings = BTreeMap::new();
        let logouts = lives.iter().flat_map(|life| &life.ops);
        for op in logouts.filter(|op| op.what.is_logout()).filter(in_outage) {
            let ending = match op.ending {
                Ending::Later => "later",
                _ => op.ending.kind(),
            };
            *endings.entry(ending).or_default() += 1;
        }
        endings
    }

    /// Marks the pending logouts of killed nodes as unknown, since nobody retries them.
    pub fn forget_pending_logouts(&self, lives: &mut [Life]) {
        let kills = self.kills.lock().unwrap();
        let pending = lives.iter_mut().flat_map(|life| &mut life.ops);
        for op in pending.filter(|op| op.ending == Ending::Later) {
            if kills
                .iter()
                .any(|(node, at)| *node == op.node && *at >= op.began)
            {
                op.ending = Ending::Unknown("503, and the node was killed");
            }
        }
    }

    fn note_kill(&self, node: usize) {
        self.kills.lock().unwrap().push((node, self.now()));
    }

    fn note_outage(&self, from: Moment) {
        self.past.lock().unwrap().push((from, self.now()));
    }

    fn now(&self) -> Moment {
        let since = self.began.elapsed().as_micros();
        since.try_into().expect("a short run")
    }
}

pub struct Nemesis {
    pub site: Site,
    pub rng: StdRng,
    /// The failures so far.
    pub done: BTreeMap<Failure, u64>,
    outages: Arc<Outages>,
}

impl Nemesis {
    pub fn of(site: Site, rng: StdRng, outages: Arc<Outages>) -> Self {
        Self {
            site,
            rng,
            outages,
            done: BTreeMap::new(),
        }
    }

    /// Causes the failures of this choice in random order until `end`, and then stops all of them.
    pub async fn run(mut self, choice: &[Failure], began: Instant, end: Instant) -> Self {
        let mut bag = Vec::new();
        while !choice.is_empty() {
            self.pause(200..900).await;
            if Instant::now() >= end {
                break;
            }
            if bag.is_empty() {
                bag = choice.to_vec();
                bag.shuffle(&mut self.rng);
            }
            let Some(failure) = bag.pop() else { break };
            println!("{:8.3} s  {failure:?}", began.elapsed().as_secs_f64());
            *self.done.entry(failure).or_default() += 1;
            // Sometimes the connections lose answers at the same time.
            let with_lost_answers = self.rng.random_bool(0.3);
            if with_lost_answers {
                self.set_random_faults(Failure::LoseAnswers);
            }
            if failure.is_outage() {
                // Early enough for requests that load their session before the outage.
                self.outages.near.store(true, Ordering::Relaxed);
                self.pause(20..100).await;
                self.outages.near.store(false, Ordering::Relaxed);
            }
            let from = self.outages.now();
            self.cause(failure).await;
            if failure.is_outage() {
                self.outages.note_outage(from);
            }
            self.stop_faults();
        }
        self
    }

    async fn cause(&mut self, failure: Failure) {
        let node = self.rng.random_range(0..NODES);
        match failure {
            Failure::FreezeServer => {
                self.site.server.freeze();
                self.pause(200..2000).await;
                self.site.server.thaw();
            }
            Failure::KillServer => {
                block_in_place(|| self.site.server.kill());
                self.pause(50..2000).await;
                block_in_place(|| self.site.server.restart());
            }
            Failure::FreezeNode => {
                self.site.nodes[node].freeze();
                self.pause(200..2500).await;
                self.site.nodes[node].thaw();
            }
            Failure::KillNode => {
                block_in_place(|| self.site.nodes[node].kill());
                self.outages.note_kill(node);
                self.pause(50..1000).await;
                // The node needs its connection to start.
                self.stop_faults();
                block_in_place(|| self.site.nodes[node].restart());
            }
            Failure::FlushScripts => {
                for _ in 0..self.rng.random_range(10..60) {
                    self.send(&["SCRIPT", "FLUSH"]);
                    self.pause(5..30).await;
                }
            }
            Failure::KillClients => {
                for _ in 0..self.rng.random_range(1..6) {
                    self.send(&["CLIENT", "KILL", "TYPE", "normal"]);
                    self.pause(10..300).await;
                }
            }
            Failure::Cut => {
                for _ in 0..self.rng.random_range(2..10) {
                    let proxy = self.rng.random_range(0..NODES);
                    self.site.proxies[proxy].cut();
                    self.pause(10..200).await;
                }
            }
            Failure::LoseRequests
            | Failure::LoseAnswers
            | Failure::SwallowAnswers
            | Failure::Delay => {
                self.set_random_faults(failure);
                self.pause(300..2000).await;
            }
        }
    }

    fn set_random_faults(&mut self, failure: Failure) {
        for proxy in &self.site.proxies {
            if let Some(random_faults) = failure.random_faults(&mut self.rng) {
                proxy.set_random_faults(random_faults);
            }
        }
    }

    fn stop_faults(&self) {
        for proxy in &self.site.proxies {
            proxy.set_random_faults(RandomFaults::default());
        }
    }

    fn send(&self, words: &[&str]) {
        block_in_place(|| {
            let mut command = redis::cmd(words[0]);
            command.arg(&words[1..]);
            // `CLIENT KILL` may close the connection that sent it before the answer.
            let _ = command.query::<redis::Value>(&mut self.site.server.connection());
        });
    }

    async fn pause(&mut self, millis: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.rng.random_range(millis))).await;
    }
}
