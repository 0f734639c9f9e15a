//! Does it hold for hours?
//!
//! `cargo run --release --example soak -- --minutes 60`: browsers use sessions of a server in this process, while its
//! redis-server is frozen, killed and started again, and connections are closed. A line every ten seconds says how it goes.
//! In the end every change that was answered with success must be there, and memory, sockets and tasks must be back to where
//! they were; otherwise it fails.

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

/// Browsers use sessions while everything breaks, and nothing may be lost or pile up.
#[derive(Parser)]
struct Options {
    /// How long it takes.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// A server that is there already; nothing is done to it. Otherwise one is started, and broken again and again.
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// The server to start, such as a valkey-server.
    #[arg(long, value_name = "PATH", default_value = "redis-server")]
    server: String,
    /// How many browsers there are at once.
    #[arg(long, default_value_t = 64)]
    browsers: u64,
    /// Seconds between two lines.
    #[arg(long, default_value_t = 10)]
    every: u64,
    /// Repeats the choices of a run, though not what the scheduler does.
    #[arg(long)]
    seed: Option<u64>,
}

/// How long a browser waits for an answer; longer than a request may take, whatever breaks.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long what goes on in the background may take when all is well again: a logout is tried again after up to ten seconds.
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
        answers: Mutex::default(),
        lives: [const { AtomicU64::new(0) }; 2],
        wrong: Mutex::default(),
    });

    let length = Duration::from_secs_f64(options.minutes * 60.0);
    // What everybody needs has been made once before it is measured.
    let warm = Instant::now() + (length / 10).min(Duration::from_secs(20));
    soak.browse(options.browsers, warm).await;
    sleep(Duration::from_secs(1)).await;
    let before = Footing::now();
    println!("at rest: {before}");

    let (began, end) = (Instant::now(), Instant::now() + length * 9 / 10);
    let mut dice = StdRng::seed_from_u64(seed);
    let every = Duration::from_secs(options.every.max(1));
    tokio::join!(
        soak.browse(options.browsers, end),
        soak.report(&store, began, end, every),
        async {
            if let Some(server) = &mut server {
                server.suffer(&mut dice, end).await;
            }
        }
    );
    soak.settle(&before).await;

    if let Some(server) = server {
        println!("suffered: {:?}", server.suffered);
    }
    let [verified, given_up] = soak
        .lives
        .each_ref()
        .map(|count| count.load(Ordering::SeqCst));
    println!("{verified} sessions were checked; of {given_up} the browser lost track in an outage");
    let mut wrong = std::mem::take(&mut *soak.wrong.lock().unwrap());
    if verified <= given_up {
        wrong.push("hardly any session could be checked".to_owned());
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n").into()),
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

/// Whose session it is, how often it was counted, and how much was pushed.
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

/// What a browser is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Done,
    Conflict,
    Unavailable,
    Unknown,
}

struct Soak {
    base: Url,
    seed: u64,
    /// Since the last line, with the time that each took.
    answers: Mutex<Vec<(Answer, Duration)>>,
    /// Sessions whose contents were checked in the end, and those that the browser could not ask for any more.
    lives: [AtomicU64; 2],
    wrong: Mutex<Vec<String>>,
}

/// How often something was done: at least, and at most.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    done: u64,
    unknown: u64,
}

impl Tally {
    fn add(&mut self, answer: Answer) {
        match answer {
            Answer::Done => self.done += 1,
            Answer::Unknown => self.unknown += 1,
            Answer::Conflict | Answer::Unavailable => {}
        }
    }

    fn allows(&self, seen: u64) -> bool {
        (self.done..=self.done + self.unknown).contains(&seen)
    }
}

impl Soak {
    /// As many browsers as there are, each with one session after the other, until the end.
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

    /// One session, from its first request to after its last.
    async fn live(&self, client: &reqwest::Client, dice: &mut StdRng, end: Instant) {
        let browser = Browser {
            soak: self,
            client,
            jar: Jar::default(),
        };
        let owner = format!("s{:x}", dice.random::<u64>());
        if browser.ask(&format!("/open?owner={owner}")).await != Answer::Done {
            return sleep(Duration::from_millis(100)).await;
        }
        let (mut counted, mut pushed) = (Tally::default(), Tally::default());
        // A token that never arrived leaves the browser without its session.
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
                    tabs.into_iter().for_each(|answer| counted.add(answer));
                }
                80..90 => pushed.add(browser.ask("/push").await),
                90..95 => {
                    // Somebody clicks on before the page is there.
                    let patience = Duration::from_micros(dice.random_range(100..5000));
                    counted.add(browser.page("/count", patience).await.0);
                }
                _ => locked_out |= browser.ask("/login").await == Answer::Unknown,
            }
            sleep(Duration::from_millis(dice.random_range(0..50))).await;
        }
        let Some(page) = browser.insist("/look").await else {
            return self.say(format!("{owner}: no answer for {AFTERMATH:?}"));
        };
        let facts: Vec<&str> = page.split(' ').collect();
        let [seen, count, list] = facts[..] else {
            return self.say(format!("{owner}: {page}"));
        };
        if seen != owner {
            self.lives[1].fetch_add(1, Ordering::SeqCst);
            if !locked_out || !seen.is_empty() {
                self.say(format!("{owner} is {seen:?} now"));
            }
            return;
        }
        self.lives[0].fetch_add(1, Ordering::SeqCst);
        for (what, tally, seen) in [("counted", counted, count), ("pushed", pushed, list)] {
            if !seen.parse().is_ok_and(|seen| tally.allows(seen)) {
                self.say(format!("{owner}: {what} {tally:?}, and there are {seen}"));
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
            let gone = browser.ask("/logout").await == Answer::Done;
            let page = thief.insist("/look").await;
            if gone && page.is_some_and(|page| page.starts_with(&owner)) {
                self.say(format!("{owner} is there after its logout"));
            }
        }
    }

    fn say(&self, wrong: String) {
        eprintln!("WRONG: {wrong}");
        self.wrong.lock().unwrap().push(wrong);
    }

    /// One line every so often.
    async fn report(&self, store: &RedisStore, began: Instant, end: Instant, every: Duration) {
        self.answers.lock().unwrap().clear();
        let mut since = Instant::now();
        while since < end {
            sleep(every.min(end - since)).await;
            let mut answers = std::mem::take(&mut *self.answers.lock().unwrap());
            let rate = answers.len() as f64 / since.elapsed().as_secs_f64();
            since = Instant::now();
            answers.sort_unstable_by_key(|(_, took)| *took);
            let all = |kind| answers.iter().filter(|(answer, _)| *answer == kind).count();
            let percentile = |percent: usize| {
                let at = answers.get(answers.len() * percent / 100);
                at.map_or(0.0, |(_, took)| took.as_secs_f64() * 1000.0)
            };
            let sessions = store.stats(StatsOptions::new(), |_| ()).await;
            println!(
                "{:6.0} s {rate:6.0}/s  ok {} 409 {} 503 {} unknown {}  p50 {:.1} ms p99 {:.1} ms  {}, {} sessions",
                began.elapsed().as_secs_f64(),
                all(Answer::Done),
                all(Answer::Conflict),
                all(Answer::Unavailable),
                all(Answer::Unknown),
                percentile(50),
                percentile(99),
                Footing::now(),
                sessions.map_or_else(|_| "?".to_owned(), |stats| stats.sessions.to_string()),
            );
        }
    }

    /// Waits until all is as it was, and says what is not.
    async fn settle(&self, before: &Footing) {
        let began = Instant::now();
        let mut more = before.piled_up(&Footing::now());
        while !more.is_empty() && began.elapsed() < AFTERMATH {
            sleep(Duration::from_millis(200)).await;
            more = before.piled_up(&Footing::now());
        }
        println!("at rest: {}", Footing::now());
        more.into_iter().for_each(|more| self.say(more));
    }
}

/// A browser with one session.
struct Browser<'a> {
    soak: &'a Soak,
    client: &'a reqwest::Client,
    jar: Jar,
}

impl Browser<'_> {
    async fn ask(&self, path: &str) -> Answer {
        self.page(path, PATIENCE).await.0
    }

    /// Asks until there is an answer.
    async fn insist(&self, path: &str) -> Option<String> {
        let began = Instant::now();
        while began.elapsed() < AFTERMATH {
            if let (Answer::Done, page) = self.page(path, PATIENCE).await {
                return Some(page);
            }
            sleep(Duration::from_millis(100)).await;
        }
        None
    }

    async fn page(&self, path: &str, patience: Duration) -> (Answer, String) {
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
        let (answer, page) = match timeout(patience, exchange).await {
            Ok(Ok((StatusCode::OK, _, page))) => (Answer::Done, page),
            Ok(Ok((StatusCode::CONFLICT, _, page))) => (Answer::Conflict, page),
            Ok(Ok((StatusCode::SERVICE_UNAVAILABLE, true, page))) => (Answer::Unavailable, page),
            Ok(Ok((StatusCode::SERVICE_UNAVAILABLE, false, page))) => (Answer::Unknown, page),
            Ok(Ok((status, _, page))) => {
                soak.say(format!("{path}: {status} {page}"));
                (Answer::Unknown, page)
            }
            Ok(Err(_)) | Err(_) => (Answer::Unknown, String::new()),
        };
        let took = began.elapsed();
        if patience == PATIENCE {
            if took >= PATIENCE {
                soak.say(format!("{path}: no answer for {PATIENCE:?}"));
            }
            soak.answers.lock().unwrap().push((answer, took));
        }
        (answer, page)
    }
}

/// What this process holds. Linux tells; elsewhere only the tasks are known.
struct Footing {
    kibibytes: u64,
    sockets: u64,
    descriptors: u64,
    tasks: u64,
}

impl Footing {
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

    /// What there is more of than a little.
    fn piled_up(&self, now: &Self) -> Vec<String> {
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

impl std::fmt::Display for Footing {
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

/// A server that has every acknowledged write on disk, to be broken.
struct Server {
    binary: String,
    port: u16,
    directory: tempfile::TempDir,
    process: Child,
    suffered: BTreeMap<&'static str, u64>,
}

impl Server {
    async fn start(binary: &str) -> Result<Self, Failure> {
        // Below those that outgoing connections get, so that it finds its port free when it comes back.
        let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let mut ports = std::iter::repeat_with(|| rand::random_range(10_000..30_000));
        let port = ports.find(free).ok_or("no free port")?;
        let directory = tempfile::tempdir()?;
        let process = launch(binary, port, &directory)?;
        let suffered = BTreeMap::new();
        let server = Self {
            binary: binary.to_owned(),
            port,
            directory,
            process,
            suffered,
        };
        server.is_back().await?;
        Ok(server)
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Something breaks every few seconds, until a while before the end.
    async fn suffer(&mut self, dice: &mut StdRng, end: Instant) {
        let mut pause = |millis| Duration::from_millis(dice.random_range(millis));
        loop {
            sleep(pause(500..5000)).await;
            if Instant::now() + Duration::from_secs(3) > end {
                return;
            }
            let what = [
                "frozen",
                "killed",
                "connections closed",
                "scripts forgotten",
            ];
            let what = what[pause(0..4).as_millis() as usize];
            *self.suffered.entry(what).or_default() += 1;
            match what {
                "frozen" => {
                    self.signal(Signal::SIGSTOP);
                    sleep(pause(100..3000)).await;
                    self.signal(Signal::SIGCONT);
                }
                "killed" => {
                    self.process.kill().await.expect("the end of our own child");
                    sleep(pause(100..2000)).await;
                    self.process = launch(&self.binary, self.port, &self.directory)
                        .expect("the server as before");
                    self.is_back().await.expect("the server as before");
                }
                "connections closed" => {
                    for _ in 0..5 {
                        self.tell(&["CLIENT", "KILL", "TYPE", "normal"]).await;
                        sleep(pause(10..300)).await;
                    }
                }
                _ => {
                    for _ in 0..50 {
                        self.tell(&["SCRIPT", "FLUSH"]).await;
                        sleep(pause(5..30)).await;
                    }
                }
            }
        }
    }

    async fn is_back(&self) -> Result<(), Failure> {
        let began = Instant::now();
        while !self.tell(&["PING"]).await {
            if began.elapsed() > Duration::from_secs(30) {
                return Err(format!("{} does not answer", self.binary).into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Whether it was answered.
    async fn tell(&self, words: &[&str]) -> bool {
        let asked = async {
            let client = redis::Client::open(self.url())?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            let mut command = redis::cmd(words[0]);
            command.arg(&words[1..]).exec_async(&mut connection).await
        };
        asked.await.is_ok()
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.id().expect("a server that runs").cast_signed();
        kill(Pid::from_raw(process), signal).expect("a signal to our own child");
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
