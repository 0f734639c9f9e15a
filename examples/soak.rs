//! Does sessile run for hours without a lost change or a leak?
//!
//! `cargo run --release --example soak -- --minutes 60`: browsers use sessions of a server in this process, while the program
//! freezes, kills and restarts its redis-server, and closes connections. It prints a line of statistics every ten seconds. At the
//! end every acknowledged change must be in its session, and memory, sockets and tasks must be back at their initial level;
//! otherwise the program fails.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::Query;
use axum::{Router, routing::get};
use clap::Parser;
use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::cookie::{CookieStore as _, Jar};
use reqwest::{StatusCode, Url, header};
use sessile::store::StatsOptions;
use sessile::{RedisConfig, RedisStore, Session, SessionError, SessionLayer};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

type Failure = Box<dyn Error + Send + Sync>;

/// Runs browsers against a server whose Redis keeps failing, and checks that no change is lost and nothing leaks.
#[derive(Parser)]
struct Options {
    /// How long the test runs, in minutes.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// An existing Redis server, which the test does not break. By default the test starts its own server, and breaks that.
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// The server to start, such as a valkey-server.
    #[arg(long, value_name = "PATH", default_value = "redis-server")]
    server: String,
    /// How many browsers run at once.
    #[arg(long, default_value_t = 64)]
    browsers: u64,
    /// Seconds between two lines of statistics.
    #[arg(long, default_value_t = 10)]
    every: u64,
    /// Repeats the random choices of a run, but not its scheduling.
    #[arg(long)]
    seed: Option<u64>,
}

/// How long a browser waits for a response: longer than a request may take under any failure.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long background work may take after the last failure: sessile retries a logout after up to ten seconds.
const AFTERMATH: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| rand::random::<u32>().into());
    println!("seed {seed}");
    let mut server = match options.redis {
        Some(_) => None,
        None => Some(Server::start(&options.server).await?),
    };
    let url = server.as_ref().map(Server::url).or(options.redis);
    let mut config = RedisConfig::new(url.unwrap_or_default());
    config.key_prefix = format!("soak:{seed}:");
    let store = RedisStore::from_config(config).await?;
    let soak = Arc::new(Soak {
        base: format!("http://{}", serve(store.clone()).await?).parse()?,
        seed,
        outcomes: Mutex::default(),
        sessions: [const { AtomicU64::new(0) }; 2],
        violations: Mutex::default(),
    });

    let length = Duration::from_secs_f64(options.minutes * 60.0);
    // A warm-up, so that caches and pools exist before the first measurement.
    let warm_up_end = Instant::now() + (length / 10).min(Duration::from_secs(20));
    soak.browse(options.browsers, warm_up_end).await;
    sleep(Duration::from_secs(1)).await;
    let before = Resources::now();
    println!("at rest: {before}");

    let (began, end) = (Instant::now(), Instant::now() + length * 9 / 10);
    let mut dice = StdRng::seed_from_u64(seed);
    let every = Duration::from_secs(options.every.max(1));
    tokio::join!(
        soak.browse(options.browsers, end),
        soak.report(&store, began, end, every),
        async {
            if let Some(server) = &mut server {
                server.break_repeatedly(&mut dice, end).await;
            }
        }
    );
    soak.check_leaks(&before).await;

    if let Some(server) = server {
        println!("faults: {:?}", server.faults);
    }
    let [verified, locked_out] = soak
        .sessions
        .each_ref()
        .map(|count| count.load(Ordering::SeqCst));
    println!(
        "{verified} sessions were checked; {locked_out} were not, since their browsers lost the token in an outage"
    );
    let mut violations = std::mem::take(&mut *soak.violations.lock().unwrap());
    if verified <= locked_out {
        violations.push("less than half of the sessions could be checked".to_owned());
    }
    match violations.is_empty() {
        true => Ok(()),
        false => Err(violations.join("\n").into()),
    }
}

/// The application, on a free port.
async fn serve(store: RedisStore) -> Result<SocketAddr, Failure> {
    let app = Router::new()
        .route("/open", get(open))
        .route("/look", get(look))
        .route("/count", get(count))
        .route("/push", get(push))
        .route("/login", get(login))
        .route(
            "/logout",
            get(|session: Session| async move { session.destroy() }),
        )
        .layer(SessionLayer::new(store).insecure_for_localhost());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(address)
}

async fn open(
    session: Session,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<(), SessionError> {
    session.insert("owner", query.get("owner"))
}

/// Returns the owner of the session, its counter, and the length of its list.
async fn look(session: Session) -> Result<String, SessionError> {
    let owner: Option<String> = session.get("owner")?;
    let count: Option<u64> = session.get("count")?;
    let list: Option<Vec<u8>> = session.get("list")?;
    Ok(format!(
        "{} {} {}",
        owner.unwrap_or_default(),
        count.unwrap_or_default(),
        list.unwrap_or_default().len()
    ))
}

async fn count(session: Session) -> Result<(), SessionError> {
    session.increment("count", 1).map(drop)
}

async fn push(session: Session) -> Result<(), SessionError> {
    session.push("list", 1)
}

async fn login(session: Session) -> Result<(), SessionError> {
    session.set_principal("mia").await
}

/// The outcome of a request, as its response shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Done,
    Conflict,
    Unavailable,
    Unknown,
}

struct Soak {
    base: Url,
    seed: u64,
    /// The outcomes since the last line, with the time that each request took.
    outcomes: Mutex<Vec<(Outcome, Duration)>>,
    /// How many sessions were checked at the end, and of how many the browser no longer had a valid token.
    sessions: [AtomicU64; 2],
    violations: Mutex<Vec<String>>,
}

/// How often a change was acknowledged, and how often its outcome is unknown.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    done: u64,
    unknown: u64,
}

impl Tally {
    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Done => self.done += 1,
            Outcome::Unknown => self.unknown += 1,
            Outcome::Conflict | Outcome::Unavailable => {}
        }
    }

    fn allows(&self, seen: u64) -> bool {
        (self.done..=self.done + self.unknown).contains(&seen)
    }
}

impl Soak {
    /// Runs the browsers, each with one session after the other, until the end.
    async fn browse(self: &Arc<Self>, browsers: u64, end: Instant) {
        let client = reqwest::Client::new();
        let mut tasks = JoinSet::new();
        for browser in 0..browsers {
            let (soak, client) = (Arc::clone(self), client.clone());
            let mut dice = StdRng::seed_from_u64(self.seed.wrapping_mul(0x9e37_79b9) + browser);
            tasks.spawn(async move {
                while Instant::now() < end {
                    soak.live(&client, &mut dice, end).await;
                }
            });
        }
        tasks.join_all().await;
    }

    /// Runs one session, from its first request until after its last, and checks it.
    async fn live(&self, client: &reqwest::Client, dice: &mut StdRng, end: Instant) {
        let browser = Browser {
            soak: self,
            client,
            jar: Jar::default(),
        };
        let owner = format!("s{:x}", dice.random::<u64>());
        if browser.ask(&format!("/open?owner={owner}")).await != Outcome::Done {
            return sleep(Duration::from_millis(100)).await;
        }
        let (mut counted, mut pushed) = (Tally::default(), Tally::default());
        // If the response to a login is lost, the browser does not have the new token.
        let mut locked_out = false;
        for _ in 0..dice.random_range(20..300) {
            if Instant::now() >= end {
                break;
            }
            match dice.random_range(0..100) {
                0..50 => drop(browser.ask("/look").await),
                50..70 => counted.add(browser.ask("/count").await),
                70..80 => {
                    let tabs = join_all((0..4).map(|_| browser.ask("/count"))).await;
                    tabs.into_iter().for_each(|outcome| counted.add(outcome));
                }
                80..90 => pushed.add(browser.ask("/push").await),
                90..95 => {
                    // The user leaves the page before it has loaded.
                    let patience = Duration::from_micros(dice.random_range(100..5000));
                    counted.add(browser.page("/count", patience).await.0);
                }
                _ => locked_out |= browser.ask("/login").await == Outcome::Unknown,
            }
            sleep(Duration::from_millis(dice.random_range(0..50))).await;
        }
        let Some(page) = browser.retry("/look").await else {
            return self.fail(format!("{owner}: no response for {AFTERMATH:?}"));
        };
        let facts: Vec<&str> = page.split(' ').collect();
        let [seen, count, list] = facts[..] else {
            return self.fail(format!("{owner}: {page}"));
        };
        if seen != owner {
            self.sessions[1].fetch_add(1, Ordering::SeqCst);
            if !locked_out || !seen.is_empty() {
                self.fail(format!("{owner} has become {seen:?}"));
            }
            return;
        }
        self.sessions[0].fetch_add(1, Ordering::SeqCst);
        for (what, tally, seen) in [("counted", counted, count), ("pushed", pushed, list)] {
            if !seen.parse().is_ok_and(|seen| tally.allows(seen)) {
                self.fail(format!(
                    "{owner}: {what} {tally:?}, but the session has {seen}"
                ));
            }
        }
        if dice.random_bool(0.7) {
            let thief = Browser {
                soak: self,
                client,
                jar: Jar::default(),
            };
            if let Some(cookie) = browser.jar.cookies(&self.base) {
                thief.jar.set_cookies(&mut [cookie].iter(), &self.base);
            }
            let gone = browser.ask("/logout").await == Outcome::Done;
            let page = thief.retry("/look").await;
            if gone && page.is_some_and(|page| page.starts_with(&owner)) {
                self.fail(format!("{owner} still exists after its logout"));
            }
        }
    }

    fn fail(&self, violation: String) {
        eprintln!("VIOLATION: {violation}");
        self.violations.lock().unwrap().push(violation);
    }

    /// Prints a line of statistics at each interval.
    async fn report(&self, store: &RedisStore, began: Instant, end: Instant, every: Duration) {
        self.outcomes.lock().unwrap().clear();
        let mut since = Instant::now();
        while since < end {
            sleep(every.min(end - since)).await;
            let mut outcomes = std::mem::take(&mut *self.outcomes.lock().unwrap());
            let rate = outcomes.len() as f64 / since.elapsed().as_secs_f64();
            since = Instant::now();
            outcomes.sort_unstable_by_key(|(_, took)| *took);
            let all = |kind| {
                outcomes
                    .iter()
                    .filter(|(outcome, _)| *outcome == kind)
                    .count()
            };
            let percentile = |percent: usize| {
                let at = outcomes.get(outcomes.len() * percent / 100);
                at.map_or(0.0, |(_, took)| took.as_secs_f64() * 1000.0)
            };
            let sessions = store.stats(StatsOptions::new(), |_| ()).await;
            println!(
                "{:6.0} s {rate:6.0}/s  ok {} 409 {} 503 {} unknown {}  p50 {:.1} ms p99 {:.1} ms  {}, {} sessions",
                began.elapsed().as_secs_f64(),
                all(Outcome::Done),
                all(Outcome::Conflict),
                all(Outcome::Unavailable),
                all(Outcome::Unknown),
                percentile(50),
                percentile(99),
                Resources::now(),
                sessions.map_or_else(|_| "?".to_owned(), |stats| stats.sessions.to_string()),
            );
        }
    }

    /// Waits until the resources are back at their initial level, and reports those that are not.
    async fn check_leaks(&self, before: &Resources) {
        let began = Instant::now();
        let mut leaks = before.leaks(&Resources::now());
        while !leaks.is_empty() && began.elapsed() < AFTERMATH {
            sleep(Duration::from_millis(200)).await;
            leaks = before.leaks(&Resources::now());
        }
        println!("at rest: {}", Resources::now());
        leaks.into_iter().for_each(|leak| self.fail(leak));
    }
}

/// A browser with one session.
struct Browser<'a> {
    soak: &'a Soak,
    client: &'a reqwest::Client,
    jar: Jar,
}

impl Browser<'_> {
    async fn ask(&self, path: &str) -> Outcome {
        self.page(path, PATIENCE).await.0
    }

    /// Retries until a request succeeds.
    async fn retry(&self, path: &str) -> Option<String> {
        let began = Instant::now();
        while began.elapsed() < AFTERMATH {
            if let (Outcome::Done, page) = self.page(path, PATIENCE).await {
                return Some(page);
            }
            sleep(Duration::from_millis(100)).await;
        }
        None
    }

    async fn page(&self, path: &str, patience: Duration) -> (Outcome, String) {
        let soak = self.soak;
        let mut request = self.client.get(soak.base.join(path).expect("a path"));
        if let Some(cookie) = self.jar.cookies(&soak.base) {
            request = request.header(header::COOKIE, cookie);
        }
        let began = Instant::now();
        let exchange = async {
            let response = request.send().await?;
            let (status, headers) = (response.status(), response.headers().clone());
            let mut cookies = headers.get_all(header::SET_COOKIE).iter();
            self.jar.set_cookies(&mut cookies, &soak.base);
            let retry_after = headers.contains_key(header::RETRY_AFTER);
            Ok::<_, reqwest::Error>((status, retry_after, response.text().await?))
        };
        let (outcome, page) = match timeout(patience, exchange).await {
            Ok(Ok((StatusCode::OK, _, page))) => (Outcome::Done, page),
            Ok(Ok((StatusCode::CONFLICT, _, page))) => (Outcome::Conflict, page),
            Ok(Ok((StatusCode::SERVICE_UNAVAILABLE, true, page))) => (Outcome::Unavailable, page),
            Ok(Ok((StatusCode::SERVICE_UNAVAILABLE, false, page))) => (Outcome::Unknown, page),
            Ok(Ok((status, _, page))) => {
                soak.fail(format!("{path}: {status} {page}"));
                (Outcome::Unknown, page)
            }
            Ok(Err(_)) | Err(_) => (Outcome::Unknown, String::new()),
        };
        let took = began.elapsed();
        if patience == PATIENCE {
            if took >= PATIENCE {
                soak.fail(format!("{path}: no response for {PATIENCE:?}"));
            }
            soak.outcomes.lock().unwrap().push((outcome, took));
        }
        (outcome, page)
    }
}

/// The resources of this process. On systems other than Linux, only the tasks are known.
struct Resources {
    kibibytes: u64,
    sockets: u64,
    descriptors: u64,
    tasks: u64,
}

impl Resources {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|size| size.trim().strip_suffix(" kB"));
        let open = std::fs::read_dir("/proc/self/fd")
            .into_iter()
            .flatten()
            .flatten();
        let open: Vec<_> = open
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .collect();
        let sockets = open
            .iter()
            .filter(|to| to.to_string_lossy().starts_with("socket:"));
        Self {
            kibibytes: resident
                .and_then(|size| size.parse().ok())
                .unwrap_or_default(),
            sockets: sockets.count() as u64,
            descriptors: open.len() as u64,
            tasks: tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks() as u64,
        }
    }

    /// The resources of which there are clearly more than before.
    fn leaks(&self, now: &Self) -> Vec<String> {
        let more = [
            (
                "KiB of memory",
                self.kibibytes,
                now.kibibytes,
                self.kibibytes / 2 + 32 * 1024,
            ),
            ("sockets", self.sockets, now.sockets, 8),
            ("descriptors", self.descriptors, now.descriptors, 8),
            ("tasks", self.tasks, now.tasks, 8),
        ];
        let more = more
            .into_iter()
            .filter(|(_, before, now, slack)| *now > before + slack);
        more.map(|(what, before, now, _)| format!("{before} {what} have become {now}"))
            .collect()
    }
}

impl std::fmt::Display for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            kibibytes,
            sockets,
            descriptors,
            tasks,
        } = self;
        write!(
            f,
            "{} MiB, {sockets} sockets, {descriptors} descriptors, {tasks} tasks",
            kibibytes / 1024
        )
    }
}

/// A server that writes every acknowledged write to disk, and that the test breaks again and again.
struct Server {
    binary: String,
    port: u16,
    directory: tempfile::TempDir,
    process: Child,
    faults: BTreeMap<&'static str, u64>,
}

impl Server {
    async fn start(binary: &str) -> Result<Self, Failure> {
        // Below the ports of outgoing connections, so that the port is free when the server restarts.
        let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let mut ports = std::iter::repeat_with(|| rand::random_range(10_000..30_000));
        let port = ports.find(free).ok_or("no free port")?;
        let directory = tempfile::tempdir()?;
        let process = launch(binary, port, &directory)?;
        let faults = BTreeMap::new();
        let server = Self {
            binary: binary.to_owned(),
            port,
            directory,
            process,
            faults,
        };
        server.wait_until_ready().await?;
        Ok(server)
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Breaks the server every few seconds, until three seconds before the end.
    async fn break_repeatedly(&mut self, dice: &mut StdRng, end: Instant) {
        let mut pause = |millis| Duration::from_millis(dice.random_range(millis));
        loop {
            sleep(pause(500..5000)).await;
            if Instant::now() + Duration::from_secs(3) > end {
                return;
            }
            let faults = ["frozen", "killed", "connections closed", "scripts flushed"];
            let fault = faults[pause(0..4).as_millis() as usize];
            *self.faults.entry(fault).or_default() += 1;
            match fault {
                "frozen" => {
                    self.signal(Signal::SIGSTOP);
                    sleep(pause(100..3000)).await;
                    self.signal(Signal::SIGCONT);
                }
                "killed" => {
                    self.process
                        .kill()
                        .await
                        .expect("our own child can be killed");
                    sleep(pause(100..2000)).await;
                    self.process = launch(&self.binary, self.port, &self.directory)
                        .expect("the server starts again");
                    self.wait_until_ready()
                        .await
                        .expect("the server starts again");
                }
                "connections closed" => {
                    for _ in 0..5 {
                        self.send(&["CLIENT", "KILL", "TYPE", "normal"]).await;
                        sleep(pause(10..300)).await;
                    }
                }
                _ => {
                    for _ in 0..50 {
                        self.send(&["SCRIPT", "FLUSH"]).await;
                        sleep(pause(5..30)).await;
                    }
                }
            }
        }
    }

    async fn wait_until_ready(&self) -> Result<(), Failure> {
        let began = Instant::now();
        while !self.send(&["PING"]).await {
            if began.elapsed() > Duration::from_secs(30) {
                return Err(format!("{} does not respond", self.binary).into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Sends a command; returns whether it succeeded.
    async fn send(&self, words: &[&str]) -> bool {
        let reply = async {
            let client = redis::Client::open(self.url())?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            let mut command = redis::cmd(words[0]);
            command.arg(&words[1..]).exec_async(&mut connection).await
        };
        reply.await.is_ok()
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.id().expect("the server runs").cast_signed();
        kill(Pid::from_raw(process), signal).expect("our own child accepts signals");
    }
}

fn launch(binary: &str, port: u16, directory: &tempfile::TempDir) -> Result<Child, Failure> {
    Command::new(binary)
        .args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
        ])
        .args(["--port", &port.to_string(), "--logfile", "log"])
        .arg("--dir")
        .arg(directory.path())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            format!("cannot start {binary:?} ({error}): install it, or name another by --server")
                .into()
        })
}
