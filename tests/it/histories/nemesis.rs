//! What goes wrong: one thing after the other, in an order that the seed decides, with quiet times in between.

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
use crate::support::proxy::{Fault, Weather};

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evil {
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

impl Evil {
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

    /// The store cannot be reached meanwhile.
    fn is_outage(self) -> bool {
        matches!(self, Self::FreezeServer | Self::KillServer | Self::Cut)
    }

    /// Of which lines lose what they carry.
    fn weather(self, dice: &mut StdRng) -> Option<Weather> {
        let lines_that = |fault, of_a_thousand| Weather {
            fault: Some((fault, of_a_thousand)),
            delay: Duration::ZERO,
        };
        match self {
            Self::LoseRequests => Some(lines_that(Fault::LoseRequest, 80)),
            Self::LoseAnswers => Some(lines_that(Fault::LoseAnswer, 80)),
            Self::SwallowAnswers => Some(lines_that(Fault::SwallowAnswer, 15)),
            Self::Delay => Some(Weather {
                fault: None,
                delay: Duration::from_millis(dice.random_range(5..800)),
            }),
            _ => None,
        }
    }
}

/// When the store was away, and when nodes were killed.
pub struct Outages {
    began: Instant,
    /// The store will be away in a moment.
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

    /// Logouts that were under way during an outage, by how they ended.
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

    /// What a node has put off when it is killed may never be done.
    pub fn forget_what_was_put_off(&self, lives: &mut [Life]) {
        let kills = self.kills.lock().unwrap();
        let put_off = lives.iter_mut().flat_map(|life| &mut life.ops);
        for op in put_off.filter(|op| op.ending == Ending::Later) {
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
    pub dice: StdRng,
    /// What has gone wrong so far.
    pub done: BTreeMap<Evil, u64>,
    outages: Arc<Outages>,
}

impl Nemesis {
    pub fn of(site: Site, dice: StdRng, outages: Arc<Outages>) -> Self {
        Self {
            site,
            dice,
            outages,
            done: BTreeMap::new(),
        }
    }

    /// Lets everything of a choice go wrong, again and again, until the end; then all is well.
    pub async fn rage(mut self, choice: &[Evil], began: Instant, end: Instant) -> Self {
        let mut bag = Vec::new();
        while !choice.is_empty() {
            self.pause(200..900).await;
            if Instant::now() >= end {
                break;
            }
            if bag.is_empty() {
                bag = choice.to_vec();
                bag.shuffle(&mut self.dice);
            }
            let Some(evil) = bag.pop() else { break };
            println!("{:8.3} s  {evil:?}", began.elapsed().as_secs_f64());
            *self.done.entry(evil).or_default() += 1;
            // Sometimes the lines lose answers beside it.
            let beside = self.dice.random_bool(0.3);
            if beside {
                self.set_weather(Evil::LoseAnswers);
            }
            if evil.is_outage() {
                // In time for requests that have their session loaded before it.
                self.outages.near.store(true, Ordering::Relaxed);
                self.pause(20..100).await;
                self.outages.near.store(false, Ordering::Relaxed);
            }
            let from = self.outages.now();
            self.strike(evil).await;
            if evil.is_outage() {
                self.outages.note_outage(from);
            }
            self.calm();
        }
        self
    }

    async fn strike(&mut self, evil: Evil) {
        let node = self.dice.random_range(0..NODES);
        match evil {
            Evil::FreezeServer => {
                self.site.server.freeze();
                self.pause(200..2000).await;
                self.site.server.thaw();
            }
            Evil::KillServer => {
                block_in_place(|| self.site.server.kill());
                self.pause(50..2000).await;
                block_in_place(|| self.site.server.restart());
            }
            Evil::FreezeNode => {
                self.site.nodes[node].freeze();
                self.pause(200..2500).await;
                self.site.nodes[node].thaw();
            }
            Evil::KillNode => {
                block_in_place(|| self.site.nodes[node].kill());
                self.outages.note_kill(node);
                self.pause(50..1000).await;
                // It needs its line to start.
                self.calm();
                block_in_place(|| self.site.nodes[node].restart());
            }
            Evil::FlushScripts => {
                for _ in 0..self.dice.random_range(10..60) {
                    self.tell(&["SCRIPT", "FLUSH"]);
                    self.pause(5..30).await;
                }
            }
            Evil::KillClients => {
                for _ in 0..self.dice.random_range(1..6) {
                    self.tell(&["CLIENT", "KILL", "TYPE", "normal"]);
                    self.pause(10..300).await;
                }
            }
            Evil::Cut => {
                for _ in 0..self.dice.random_range(2..10) {
                    let line = self.dice.random_range(0..NODES);
                    self.site.lines[line].cut();
                    self.pause(10..200).await;
                }
            }
            Evil::LoseRequests | Evil::LoseAnswers | Evil::SwallowAnswers | Evil::Delay => {
                self.set_weather(evil);
                self.pause(300..2000).await;
            }
        }
    }

    fn set_weather(&mut self, evil: Evil) {
        for line in &self.site.lines {
            if let Some(weather) = evil.weather(&mut self.dice) {
                line.set_weather(weather);
            }
        }
    }

    fn calm(&self) {
        for line in &self.site.lines {
            line.set_weather(Weather::default());
        }
    }

    fn tell(&self, words: &[&str]) {
        block_in_place(|| {
            let mut command = redis::cmd(words[0]);
            command.arg(&words[1..]);
            // What kills every client may kill the one that says so before it is answered.
            let _ = command.query::<redis::Value>(&mut self.site.server.connection());
        });
    }

    async fn pause(&mut self, millis: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.dice.random_range(millis))).await;
    }
}
