//! A redis-server for one test, on a free port. The test can freeze, kill and restart it.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sessile::CompareAndSet;
use tempfile::TempDir;

use super::patience::PATIENCE;

/// The server to start, `redis-server` by default. Any supported version of Redis or Valkey works.
const VARIABLE: &str = "SESSILE_TEST_SERVER";

pub struct Server {
    process: Option<Child>,
    port: u16,
    directory: TempDir,
    arguments: Vec<String>,
    /// The content of the configuration file of a sentinel.
    config: Option<String>,
}

impl Server {
    /// Starts a server without persistence.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server that writes to disk before it acknowledges (`appendfsync always`).
    pub fn start_durable() -> Self {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_by(|| arguments.iter().map(ToString::to_string).collect())
    }

    /// Starts a server whose arguments are created for each attempt, since they contain ports.
    pub fn start_by(arguments: impl FnMut() -> Vec<String>) -> Self {
        super::report("a server of its own");
        Self::start_as(arguments, None)
    }

    /// Starts a sentinel with this configuration.
    pub fn start_sentinel(config: &str) -> Self {
        Self::start_sentinel_by(config, Vec::new)
    }

    /// Like [`start_sentinel`](Self::start_sentinel), with arguments that are created for each attempt, since they
    /// contain ports.
    pub fn start_sentinel_by(config: &str, mut arguments: impl FnMut() -> Vec<String>) -> Self {
        super::report("a sentinel of its own");
        let arguments = || [arguments(), vec!["--sentinel".to_owned()]].concat();
        Self::start_as(arguments, Some(config.to_owned()))
    }

    fn start_as(mut arguments: impl FnMut() -> Vec<String>, config: Option<String>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut server = Self {
            process: None,
            port: 0,
            directory,
            arguments: Vec::new(),
            config,
        };
        // Another process may take the port before the server binds it.
        for _ in 0..10 {
            (server.port, server.arguments) = (free_port(), arguments());
            server.launch();
            if server.answers() {
                return server;
            }
        }
        panic!("redis-server did not start; its log:\n{}", server.log());
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    pub fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url())
            .unwrap()
            .get_connection()
            .unwrap()
    }

    /// Stops the server by SIGSTOP. All connections stay open.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Kills the server by SIGKILL.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("a server that runs");
        process.kill().expect("the child can be killed");
        process.wait().expect("the server's end");
    }

    /// Makes the server a replica of this primary. Returns once the primary counts it as in sync.
    pub fn follow(&self, primary: SocketAddr) {
        let (host, port) = (primary.ip().to_string(), primary.port().to_string());
        self.replicaof(&host, &port);
        let client = redis::Client::open(format!("redis://{primary}/")).unwrap();
        let mut primary = client.get_connection().unwrap();
        // The first acknowledgement may belong to the snapshot. Only the second shows that the stream after it works.
        for _ in 0..2 {
            let wait = PATIENCE.as_millis().to_string();
            let (_, replicas): ((), u32) = redis::pipe()
                .cmd("SET")
                .arg(&["test:mark", "", "PX", "1"])
                .cmd("WAIT")
                .arg(&["1", &wait])
                .query(&mut primary)
                .unwrap();
            assert_eq!(replicas, 1, "no replica; its log:\n{}", self.log());
        }
    }

    /// Makes the server a primary, as a failover does.
    pub fn promote(&self) {
        self.replicaof("NO", "ONE");
    }

    fn replicaof(&self, host: &str, port: &str) {
        let done: () = redis::cmd("REPLICAOF")
            .arg(&[host, port])
            .query(&mut self.connection())
            .unwrap();
        done
    }

    /// Restarts the server on the same port, with its data on disk.
    pub fn restart(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
        self.launch();
        assert!(self.answers(), "no restart; the log:\n{}", self.log());
    }

    /// The calls of each command, including those inside scripts, since [`reset_counts`](Self::reset_counts).
    pub fn counts(&self) -> Counts {
        counts(&mut self.connection())
    }

    pub fn reset_counts(&self) {
        let reset: () = redis::cmd("CONFIG")
            .arg("RESETSTAT")
            .query(&mut self.connection())
            .unwrap();
        reset
    }

    fn launch(&mut self) {
        let binary = std::env::var(VARIABLE).unwrap_or_else(|_| "redis-server".to_owned());
        let log = std::fs::File::create(self.log_path()).expect("a log file");
        let config = self.config.as_ref().map(|config| {
            let path = self.directory.path().join("config");
            std::fs::write(&path, config).expect("a configuration file");
            path
        });
        let process = Command::new(&binary)
            .args(config)
            .args([
                "--port",
                &self.port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
            ])
            .args(["--dir", &self.directory.path().display().to_string()])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .spawn();
        self.process = Some(process.unwrap_or_else(|error| {
            panic!(
                "cannot start {binary:?} ({error}): run ./scripts/test, which installs redis-server, \
                 or set {VARIABLE} to the path of a Redis or Valkey server"
            )
        }));
    }

    /// Waits until the server answers. Returns false if it has exited, because its port is taken.
    fn answers(&mut self) -> bool {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let process = self.process.as_mut().expect("a server that was started");
            if process.try_wait().ok().flatten().is_some() {
                return false;
            }
            let ready = TcpStream::connect(self.address()).is_ok()
                && redis::Client::open(self.url())
                    .and_then(|client| client.get_connection())
                    .and_then(|mut connection| redis::cmd("PING").query::<String>(&mut connection))
                    .is_ok();
            if ready {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("a server that runs");
        kill(Pid::from_raw(process.id().cast_signed()), signal).expect("a signal to our own child");
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

/// The calls of each command.
#[derive(Debug, Clone, PartialEq)]
pub struct Counts(Vec<Count>);

#[derive(Debug, Clone, PartialEq)]
struct Count {
    command: String,
    calls: u64,
}

impl Counts {
    /// The calls of one command, such as `get`.
    pub fn of(&self, command: &str) -> u64 {
        let count = self.0.iter().find(|count| count.command == command);
        count.map_or(0, |count| count.calls)
    }

    /// Removes a command, and returns how often it was called.
    pub fn take(&mut self, command: &str) -> u64 {
        let calls = self.of(command);
        self.0.retain(|count| count.command != command);
        calls
    }

    /// The calls of all commands.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|count| count.calls).sum()
    }

    /// Every command that was called, except those of this measurement.
    pub fn seen<'a>(&'a self) -> Vec<(&'a str, u64)> {
        let ours = [
            "info",
            "config|resetstat",
            "client|setinfo",
            "hello",
            "ping",
        ];
        let calls = |count: &'a Count| (count.command.as_str(), count.calls);
        let mut seen: Vec<_> = self.0.iter().map(calls).collect();
        seen.retain(|(name, _)| !ours.contains(name));
        seen.sort_unstable();
        seen
    }
}

pub fn counts(connection: &mut redis::Connection) -> Counts {
    let info: String = redis::cmd("INFO")
        .arg("commandstats")
        .query(connection)
        .unwrap();
    let parse = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(':')?;
        let figure = |name: &str| {
            let figures = rest.split(',').filter_map(|figure| figure.split_once('='));
            figures
                .into_iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value)
        };
        Some(Count {
            command: name.to_owned(),
            calls: figure("calls")?.parse().ok()?,
        })
    };
    Counts(info.lines().filter_map(parse).collect())
}

/// The compare-and-set strategies that this server supports.
pub fn strategies(server: &Server) -> Vec<CompareAndSet> {
    let mut strategies = vec![CompareAndSet::Script, CompareAndSet::Watch];
    // The key does not exist, so this changes nothing.
    let probe: redis::RedisResult<()> = redis::cmd("SET")
        .arg(&["probe", "", "IFEQ", "none", "GET", "PX", "1"])
        .query(&mut server.connection());
    if probe.is_ok() {
        strategies.push(CompareAndSet::IfEq);
    }
    strategies
}

/// Returns a free port below the range of outgoing connections. So the port is still free when a server restarts, and
/// no client connects to itself by accident.
pub fn free_port() -> u16 {
    std::iter::repeat_with(|| rand::random_range(10_000..30_000))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}
