//! Many sessions that are changed all the time, over several nodes, with what their requests were told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use sessile::{RedisConfig, SessionLayer};

use super::app::app;
use super::{Browser, fresh_prefix, store_with, until};

/// A node each: an application with a store of its own.
pub async fn nodes(count: usize, url: &str, change: impl Fn(&mut RedisConfig)) -> Vec<Router> {
    let prefix = fresh_prefix();
    let mut nodes = Vec::new();
    for _ in 0..count {
        let prefix = prefix.clone();
        let store = store_with(url, |config| {
            config.key_prefix = prefix;
            change(config);
        });
        nodes.push(app(SessionLayer::new(store.await)));
    }
    nodes
}

/// What one request was told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    Done,
    /// In another session: the one that the browser had was gone.
    Elsewhere,
    NotDone,
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Push {
    session: usize,
    value: u64,
    told: Told,
    began: Instant,
    ended: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    session: usize,
    began: Instant,
    ended: Instant,
}

/// Requests that go on until they are stopped. Half of them push a value that no other pushes, half count.
pub struct Load {
    nodes: Vec<Router>,
    browsers: Vec<Browser>,
    pushes: Arc<Mutex<Vec<Push>>>,
    /// Done and unknown increments of each session.
    counts: Arc<Mutex<Vec<(u64, u64)>>>,
    failures: Arc<Mutex<Vec<Failure>>>,
    next: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

const WRITERS_MOST: usize = 120;

/// How many sessions there are: `SESSILE_TEST_SESSIONS`, or as many as a test needs.
pub fn sessions(least: usize) -> usize {
    let wanted = std::env::var("SESSILE_TEST_SESSIONS").ok();
    let wanted = wanted.map(|wanted| wanted.parse().expect("SESSILE_TEST_SESSIONS: a number"));
    wanted.map_or(least, |wanted: usize| wanted.max(least))
}

/// What is left of the changes afterwards.
pub struct Outcome {
    done: usize,
    not_done: usize,
    unknown: usize,
    /// Acknowledged pushes and counts that are not there.
    pub lost: usize,
    /// Sessions all of whose requests were done.
    pub unhurt: usize,
    /// From the first request that failed to the end of the last.
    window: Option<Duration>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} pushes done, {} refused, {} requests unknown, {} acknowledged changes lost, {} sessions unhurt, errors for \
             {:?}",
            self.done,
            self.not_done,
            self.unknown,
            self.lost,
            self.unhurt,
            self.window.unwrap_or_default()
        )
    }
}

impl Load {
    /// Two writers a session, on different nodes; or so many as the machine can bear, that go from one session to the next.
    pub async fn start(nodes: Vec<Router>, sessions: usize) -> Self {
        let mut browsers = vec![Browser::default(); sessions];
        for browser in &mut browsers {
            browser.get(&nodes[0], "/set?k=name&v=mia").await.ok();
        }
        let mut load = Self {
            nodes,
            browsers,
            pushes: Arc::default(),
            counts: Arc::new(Mutex::new(vec![(0, 0); sessions])),
            failures: Arc::default(),
            next: Arc::default(),
            stop: Arc::default(),
            tasks: Vec::new(),
        };
        let writers = WRITERS_MOST.min(2 * sessions);
        for writer in 0..writers {
            let task = load.writer(writer, writers);
            load.tasks.push(tokio::spawn(task));
        }
        load
    }

    fn writer(&self, writer: usize, writers: usize) -> impl Future<Output = ()> + use<> {
        let (nodes, browsers) = (self.nodes.clone(), self.browsers.clone());
        let (pushes, counts) = (Arc::clone(&self.pushes), Arc::clone(&self.counts));
        let (failures, next) = (Arc::clone(&self.failures), Arc::clone(&self.next));
        let stop = Arc::clone(&self.stop);
        async move {
            let mut turn = writer;
            while !stop.load(Ordering::Relaxed) {
                turn += 1;
                let session = (writer + (turn - writer - 1) * writers) % browsers.len();
                let browser = &browsers[session];
                let value = next.fetch_add(1, Ordering::Relaxed);
                let path = match value % 2 {
                    0 => format!("/push?k=list&v={value}"),
                    _ => "/incr?k=n".to_owned(),
                };
                let began = Instant::now();
                let page = browser.peek(&nodes[turn % nodes.len()], &path).await;
                let ended = Instant::now();
                let told = match page.status.as_u16() {
                    200 if !page.set_cookies().is_empty() => Told::Elsewhere,
                    200 => Told::Done,
                    409 => Told::NotDone,
                    503 if page.headers.contains_key("retry-after") => Told::NotDone,
                    503 => Told::Unknown,
                    status => panic!("{status}: {}", page.text),
                };
                if told != Told::Done {
                    let failure = Failure {
                        session,
                        began,
                        ended,
                    };
                    failures.lock().unwrap().push(failure);
                }
                if value % 2 == 0 {
                    let push = Push {
                        session,
                        value,
                        told,
                        began,
                        ended,
                    };
                    pushes.lock().unwrap().push(push);
                } else {
                    let count = &mut counts.lock().unwrap()[session];
                    count.0 += u64::from(told == Told::Done);
                    count.1 += u64::from(told == Told::Unknown);
                }
                // The servers have two cores to share with us.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// Stops, and checks that nothing is there twice, nor what was said not to be; `may_lose` tells the moments between
    /// which what was acknowledged may be lost.
    pub async fn check(self, may_lose: Option<(Instant, Instant)>) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let mut lists = Vec::new();
        let counts = self.counts.lock().unwrap().clone();
        let mut lost = 0;
        let mut unknown = 0;
        for (browser, (done, maybe)) in self.browsers.iter().zip(counts) {
            for node in &self.nodes {
                assert_eq!(browser.peek(node, "/read?k=name").await.status, 200);
            }
            let node = &self.nodes[0];
            let count: u64 = browser
                .peek(node, "/number?k=n")
                .await
                .ok()
                .parse()
                .unwrap();
            assert!(count <= done + maybe, "{count} of {done} and {maybe}");
            if may_lose.is_none() {
                assert!(count >= done, "{count} of {done}");
            }
            lost += usize::try_from(done.saturating_sub(count)).unwrap();
            unknown += usize::try_from(maybe).unwrap();
            let list = browser.peek(node, "/get?k=list").await.ok();
            let list: Vec<String> = serde_json::from_str(&list).unwrap_or_default();
            let mut times: BTreeMap<u64, usize> = BTreeMap::new();
            for value in list {
                *times.entry(value.parse().unwrap()).or_default() += 1;
            }
            assert!(times.values().all(|times| *times == 1), "{times:?}");
            lists.push(times);
        }
        let pushes = self.pushes.lock().unwrap().clone();
        for push in &pushes {
            let there = lists[push.session].contains_key(&push.value);
            match push.told {
                Told::Done if there => {}
                Told::Done => {
                    let window = may_lose.expect("an acknowledged change is lost");
                    assert!(
                        push.began < window.1 && push.ended > window.0,
                        "lost long before or after: {push:?}, {window:?}"
                    );
                    lost += 1;
                }
                Told::Elsewhere => {
                    assert!(may_lose.is_some(), "its session is gone: {push:?}");
                    lost += 1;
                }
                Told::NotDone => assert!(!there, "said not to be done: {push:?}"),
                Told::Unknown => {}
            }
        }
        let of = |told| pushes.iter().filter(|push| push.told == told).count();
        let failures = self.failures.lock().unwrap();
        let first = failures.iter().map(|failure| failure.began).min();
        let last = failures.iter().map(|failure| failure.ended).max();
        let hit: BTreeSet<_> = failures.iter().map(|failure| failure.session).collect();
        Outcome {
            done: of(Told::Done),
            not_done: of(Told::NotDone),
            unknown: of(Told::Unknown) + unknown,
            lost,
            unhurt: self.browsers.len() - hit.len(),
            window: last
                .zip(first)
                .map(|(last, first)| last.duration_since(first)),
        }
    }

    /// How long it takes from now until every session can be changed, each on one of the nodes.
    pub async fn all_work(&self) -> Duration {
        let began = Instant::now();
        for (browser, node) in self.browsers.iter().zip(self.nodes.iter().cycle()) {
            until("every session can be changed", async || {
                browser.peek(node, "/set?k=name&v=mia").await.status == 200
            })
            .await;
        }
        began.elapsed()
    }

    /// Goes on until so many more pushes are done.
    pub async fn more(&self, pushes: usize) {
        let done = || {
            let pushes = self.pushes.lock().unwrap();
            pushes.iter().filter(|push| push.told == Told::Done).count()
        };
        let enough = done() + pushes;
        until("enough is done", async || done() >= enough).await;
    }
}
