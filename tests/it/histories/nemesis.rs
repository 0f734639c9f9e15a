//! What goes wrong: one thing after the other, in an order that the seed decides, with quiet times in between.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use tokio::task::block_in_place;
use tokio::time::sleep;

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

pub struct Nemesis {
    pub site: Site,
    pub dice: StdRng,
    /// What has gone wrong so far.
    pub done: BTreeMap<Evil, u64>,
}

impl Nemesis {
    pub fn of(site: Site, dice: StdRng) -> Self {
        Self {
            site,
            dice,
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
            self.strike(evil).await;
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
                self.pause(50..1000).await;
                block_in_place(|| self.site.server.restart());
            }
            Evil::FreezeNode => {
                self.site.nodes[node].freeze();
                self.pause(200..2500).await;
                self.site.nodes[node].thaw();
            }
            Evil::KillNode => {
                block_in_place(|| self.site.nodes[node].kill());
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
