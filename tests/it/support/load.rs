//! Constant load on many sessions over several nodes, with a record of all responses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use sessile::{RedisConfig, SessionLayer};

use super::app::app;
use super::{Browser, fresh_prefix, store_with, until};

/// Applications of the same sessions, each with its own store.
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

/// The outcome that a response reports.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reported {
    Done,
    /// Committed to a new session, since the browser's was gone.
    Elsewhere,
    NotDone,
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Push {
    session: usize,
    value: u64,
    reported: Reported,
    began: Instant,
    ended: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    session: usize,
    began: Instant,
    ended: Instant,
}

/// Requests that continue until they are stopped. Half of them push a unique value, the others increment a counter.
pub struct Load {
    nodes: Vec<Router>,
    browsers: Vec<Browser>,
    pushes: Arc<Mutex<Vec<Push>>>,
    /// Per session, the number of increments that were committed, and of those with an unknown outcome.
    counts: Arc<Mutex<Vec<(u64, u64)>>>,
    failures: Arc<Mutex<Vec<Failure>>>,
    next: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

const MAX_WRITERS: usize = 120;

/// The number of sessions: `SESSILE_TEST_SESSIONS`, or `least` if that is larger.
pub fn sessions(least: usize) -> usize {
    let wanted = std::env::var("SESSILE_TEST_SESSIONS").ok();
    let wanted = wanted.map(|wanted| wanted.parse().expect("SESSILE_TEST_SESSIONS: a number"));
    wanted.map_or(least, |wanted: usize| wanted.max(least))
}

/// A summary of the changes, compared with the stored sessions.
pub struct Outcome {
    done: usize,
    not_done: usize,
    unknown: usize,
    /// Acknowledged pushes and increments that the sessions lack.
    pub lost: usize,
    /// Sessions without a failed request.
    pub unaffected: usize,
    /// From the start of the first failed request to the end of the last one.
    window: Option<Duration>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} pushes done, {} refused, {} requests unknown, {} acknowledged changes lost, {} sessions unaffected, errors for \
             {:?}",
            self.done,
            self.not_done,
            self.unknown,
            self.lost,
            self.unaffected,
            self.window.unwrap_or_default()
        )
    }
}

impl Load {
    /// Starts two writers for each session, on different nodes. Above [`MAX_WRITERS`], the writers alternate between
    /// sessions.
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
        let writers = MAX_WRITERS.min(2 * sessions);
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
                let reported = match page.status.as_u16() {
                    200 if !page.set_cookies().is_empty() => Reported::Elsewhere,
                    200 => Reported::Done,
                    409 => Reported::NotDone,
                    503 if page.headers.contains_key("retry-after") => Reported::NotDone,
                    503 => Reported::Unknown,
                    status => panic!("{status}: {}", page.text),
                };
                if reported != Reported::Done {
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
                        reported,
                        began,
                        ended,
                    };
                    pushes.lock().unwrap().push(push);
                } else {
                    let count = &mut counts.lock().unwrap()[session];
                    count.0 += u64::from(reported == Reported::Done);
                    count.1 += u64::from(reported == Reported::Unknown);
                }
                // The servers share a few cores with these writers.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// Stops the load, and checks that no change was applied twice and that no rejected change was stored. Acknowledged
    /// changes may be lost only within `may_lose`.
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
            match push.reported {
                Reported::Done if there => {}
                Reported::Done => {
                    let window = may_lose.expect("an acknowledged change was lost");
                    assert!(
                        push.began < window.1 && push.ended > window.0,
                        "an acknowledged change was lost outside the window {window:?}: {push:?}"
                    );
                    lost += 1;
                }
                Reported::Elsewhere => {
                    assert!(may_lose.is_some(), "the session was lost: {push:?}");
                    lost += 1;
                }
                Reported::NotDone => assert!(!there, "a rejected change was stored: {push:?}"),
                Reported::Unknown => {}
            }
        }
        let of = |reported| {
            pushes
                .iter()
                .filter(|push| push.reported == reported)
                .count()
        };
        let failures = self.failures.lock().unwrap();
        let first = failures.iter().map(|failure| failure.began).min();
        let last = failures.iter().map(|failure| failure.ended).max();
        let hit: BTreeSet<_> = failures.iter().map(|failure| failure.session).collect();
        Outcome {
            done: of(Reported::Done),
            not_done: of(Reported::NotDone),
            unknown: of(Reported::Unknown) + unknown,
            lost,
            unaffected: self.browsers.len() - hit.len(),
            window: last
                .zip(first)
                .map(|(last, first)| last.duration_since(first)),
        }
    }

    /// Waits until every session can be changed, each on one of the nodes; returns how long that took.
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

    /// Waits until this many more pushes are committed.
    pub async fn more(&self, pushes: usize) {
        let done = || {
            let pushes = self.pushes.lock().unwrap();
            pushes
                .iter()
                .filter(|push| push.reported == Reported::Done)
                .count()
        };
        let enough = done() + pushes;
        until("enough is done", async || done() >= enough).await;
    }
}
