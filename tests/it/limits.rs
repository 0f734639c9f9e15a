//! The limit of a user's sessions, on two nodes that are killed in the middle of sign-ins.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use tokio::task::block_in_place;

use crate::cluster::TURN;
use crate::support::node::Answer;
use crate::support::{Cluster, Node, Server, fresh_prefix, until};

const LIMIT: usize = 3;
const USERS: [&str; 2] = ["mia", "leo"];
const BROWSERS: usize = 12;

/// The characters of a token that name the session.
const HANDLE: usize = 21;

/// Two nodes, and the browsers of two users. A cookie is `None` if the browser has none.
struct Site {
    nodes: [Node; 2],
    cookies: Vec<Option<String>>,
    /// Whether a sign-in of each user got no clear answer, so that its session may be listed and in no browser.
    lost: [bool; USERS.len()],
    /// How often sign-ins were answered so; 0 if not at all.
    statuses: BTreeMap<u16, usize>,
    rng: StdRng,
}

fn handle(cookie: &str) -> String {
    let (_, token) = cookie.split_once('=').expect("a pair");
    token.chars().take(HANDLE).collect()
}

impl Site {
    /// With `hurries`, nodes give up as by default: the index remembers sign-ins of dead nodes for a while, and a full one makes
    /// others wait for that.
    fn start(url: &str, hurries: bool) -> Self {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let (prefix, limit) = (fresh_prefix(), LIMIT.to_string());
        let mut environment = vec![
            ("REDIS_URL", url),
            ("KEY_PREFIX", &prefix),
            ("NODE_MAX_SESSIONS", &limit),
        ];
        environment.extend(hurries.then_some(("NODE_HURRIES", "yes")));
        let start = |()| block_in_place(|| Node::start_to_die(&environment));
        Self {
            nodes: [(); 2].map(start),
            cookies: vec![None; BROWSERS],
            lost: [false; USERS.len()],
            statuses: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
        }
    }

    async fn get(&mut self, path: &str, browser: usize) -> Answer {
        let node = self.rng.random_range(0..self.nodes.len());
        self.nodes[node]
            .get(path, self.cookies[browser].as_deref())
            .await
    }

    async fn list(&mut self, user: &str) -> BTreeSet<String> {
        let handles = self.whole_handles(user).await;
        handles.iter().map(|it| it[..HANDLE].to_owned()).collect()
    }

    async fn whole_handles(&mut self, user: &str) -> Vec<String> {
        let answer = self.read(&format!("/ledger/list?value={user}"), None).await;
        let answer: Value = serde_json::from_str(&answer).expect("a list");
        let handles = answer["seen"].as_array().expect("handles").iter();
        handles
            .map(|it| it.as_str().expect("a handle").to_owned())
            .collect()
    }

    /// Reads until the store answers in time.
    async fn read(&mut self, path: &str, cookie: Option<&str>) -> String {
        let node = self.rng.random_range(0..self.nodes.len());
        let (node, mut text) = (&self.nodes[node], String::new());
        until(path, async || {
            let answer = node.get(path, cookie).await;
            text = answer.text;
            answer.status.is_success()
        })
        .await;
        text
    }

    /// The sessions of a user that browsers can use.
    async fn live(&mut self, user: &str) -> BTreeSet<String> {
        let mut live = BTreeSet::new();
        for browser in 0..self.cookies.len() {
            let Some(cookie) = self.cookies[browser].clone() else {
                continue;
            };
            if self.read("/whoami", Some(&cookie)).await == user {
                live.insert(handle(&cookie));
            }
        }
        live
    }

    /// Index and sessions agree, and neither exceeds the limit. Returns the number of sessions.
    async fn check(&mut self) -> [usize; USERS.len()] {
        let mut counts = [0; USERS.len()];
        for (number, user) in USERS.into_iter().enumerate() {
            let (live, listed) = (self.live(user).await, self.list(user).await);
            assert!(live.len() <= LIMIT, "{user}: {live:?}");
            assert!(listed.len() <= LIMIT, "{user}: {listed:?}");
            assert!(live.is_subset(&listed), "{user}: {live:?} {listed:?}");
            if !self.lost[number] {
                assert_eq!(live, listed, "{user}");
            }
            counts[number] = live.len();
        }
        counts
    }

    fn keep(&mut self, browser: usize, user: usize, answer: Option<Answer>) {
        let status = answer.as_ref().map_or(0, |it| it.status.as_u16());
        *self.statuses.entry(status).or_default() += 1;
        match answer {
            Some(answer) if answer.status.is_success() => {
                self.cookies[browser] = answer.cookie.or(self.cookies[browser].take());
            }
            Some(answer) if answer.status == 409 => {}
            _ => self.lost[user] = true,
        }
    }

    /// All these browsers sign in at once, on both nodes. If `dies` names a node, it is killed after the first answer, and
    /// started again.
    async fn sign_ins(&mut self, browsers: &[usize], user: usize, dies: Option<usize>) {
        // Otherwise the nodes of a cluster, whose clocks may differ, refuse sign-ins for seconds after a sign-out of others.
        let path = format!("/ledger/login?value={}&key=exact", USERS[user]);
        let (nodes, cookies, path) = (&self.nodes, &self.cookies, &path);
        let sign_in = async |(number, browser): (usize, usize)| {
            let node = &nodes[number % nodes.len()];
            let answer = node.try_get(path, cookies[browser].as_deref()).await;
            (browser, answer.ok())
        };
        let browsers = browsers.iter().copied().enumerate();
        let mut sign_ins: FuturesUnordered<_> = browsers.map(sign_in).collect();
        let mut answers = Vec::new();
        while let Some(answer) = sign_ins.next().await {
            answers.push(answer);
            if let (1, Some(node)) = (answers.len(), dies) {
                block_in_place(|| nodes[node].kill());
            }
        }
        drop(sign_ins);
        for (browser, answer) in answers {
            self.keep(browser, user, answer);
        }
        if let Some(node) = dies {
            block_in_place(|| self.nodes[node].restart());
        }
    }

    /// Twenty new browsers sign in at once, which leaves as many sessions as the limit allows.
    async fn twenty_at_once(&mut self) {
        self.cookies = vec![None; 20];
        self.sign_ins(&(0..20).collect::<Vec<_>>(), 0, None).await;
        assert!(!self.lost[0], "the store has answered");
        assert_eq!(self.check().await, [LIMIT, 0]);
    }

    /// One step of a random browser. Returns its name.
    async fn step(&mut self) -> &'static str {
        let browser = self.rng.random_range(0..BROWSERS);
        let user = self.rng.random_range(0..USERS.len());
        let name = USERS[user];
        match self.rng.random_range(0..1000) {
            0..300 => {
                self.sign_ins(&[browser], user, None).await;
                "sign-in"
            }
            300..400 => {
                let first = self.rng.random_range(0..BROWSERS / 2);
                let browsers: Vec<_> = (first..first + BROWSERS / 2).collect();
                let dies = self.rng.random_bool(0.2).then_some(browser % 2);
                self.sign_ins(&browsers, user, dies).await;
                if dies.is_some() { "kill" } else { "sign-ins" }
            }
            400..550 => {
                if self.get("/logout", browser).await.status.is_success() {
                    self.cookies[browser] = None;
                }
                "logout"
            }
            550..620 => {
                if let Some(handle) = self.whole_handles(name).await.first() {
                    let path = format!("/ledger/end?value={name}&key={handle}");
                    self.get(&path, browser).await;
                }
                "end"
            }
            620..680 => {
                let here = self.get("/whoami", browser).await.text;
                let answer = self.get("/ledger/others", browser).await;
                let user = USERS.into_iter().position(|user| user == here);
                if let Some(user) = user
                    && answer.status.is_success()
                {
                    self.lost[user] = false;
                    let live = self.live(&here).await;
                    assert_eq!(live.len(), 1, "{here}");
                }
                "others"
            }
            680..720 => {
                self.check().await;
                "list"
            }
            _ => {
                self.get("/whoami", browser).await;
                "page"
            }
        }
    }

    async fn steps(&mut self, number: usize) {
        let mut steps: BTreeMap<&str, usize> = BTreeMap::new();
        for _ in 0..number {
            *steps.entry(self.step().await).or_default() += 1;
        }
        let live = self.check().await;
        println!("{steps:?}, sign-ins {:?}", self.statuses);
        println!("{live:?} live, unclear {:?}", self.lost);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_has_more_sessions_than_the_limit_whatever_happens_to_the_nodes() {
    let server = Server::start();
    Site::start(&server.url(), false).twenty_at_once().await;
    Site::start(&server.url(), true).steps(1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_has_more_sessions_than_the_limit_on_a_cluster() {
    let _turn = TURN.lock().await;
    let cluster = block_in_place(Cluster::start);
    Site::start(&cluster.url(), false).twenty_at_once().await;
    Site::start(&cluster.url(), true).steps(300).await;
}
