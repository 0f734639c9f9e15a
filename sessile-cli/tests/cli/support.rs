//! A redis-server for one test, visitors with cookies, and the command.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{COOKIE, SET_COOKIE};
use http::{Request, Response};
use redis::{FromRedisValue, RedisResult};
use sessile::{RedisConfig, RedisStore, Session, SessionConfig, SessionError, SessionLayer};
use tempfile::TempDir;
use tower::{Layer as _, ServiceExt as _, service_fn};

/// The server to start, `redis-server` by default, as for the tests of the library.
const VARIABLE: &str = "SESSILE_TEST_SERVER";

/// The time after which a test gives up waiting. Nothing that works takes this long.
pub const PATIENCE: Duration = Duration::from_secs(180);

pub struct Server {
    process: Option<Child>,
    pub port: u16,
    directory: TempDir,
    arguments: Vec<String>,
    config: Option<String>,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_by(None, || arguments.iter().map(ToString::to_string).collect())
    }

    pub fn start_sentinel(config: &str) -> Self {
        Self::start_by(Some(config.to_owned()), || vec!["--sentinel".to_owned()])
    }

    /// Starts a server whose arguments are made for each attempt, since they may contain ports.
    pub fn start_by(config: Option<String>, mut arguments: impl FnMut() -> Vec<String>) -> Self {
        let mut server = Self {
            process: None,
            port: 0,
            directory: tempfile::tempdir().unwrap(),
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

    fn launch(&mut self) {
        let binary = std::env::var(VARIABLE).unwrap_or_else(|_| "redis-server".to_owned());
        let log = std::fs::File::create(self.log_path()).unwrap();
        let config = self.config.as_ref().map(|config| {
            let path = self.directory.path().join("config");
            std::fs::write(&path, config).unwrap();
            path
        });
        let directory = self.directory.path().display().to_string();
        let process = Command::new(&binary)
            .args(config)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--dir", &directory])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.process = Some(process.unwrap_or_else(|error| {
            panic!("cannot start {binary} ({error}): install redis-server, or set {VARIABLE}")
        }));
    }

    /// Waits until the server answers; false if it has exited.
    fn answers(&mut self) -> bool {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let process = self.process.as_mut().unwrap();
            if process.try_wait().ok().flatten().is_some() {
                return false;
            }
            let is_open = TcpStream::connect(("127.0.0.1", self.port)).is_ok();
            // A server with a password refuses the command.
            let answered = |it: RedisResult<redis::Value>| {
                it.map_or_else(|it| it.code() == Some("NOAUTH"), |_| true)
            };
            if is_open && answered(self.try_ask(&["PING"])) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn connection(&self) -> RedisResult<redis::Connection> {
        redis::Client::open(self.url())?.get_connection()
    }

    pub fn try_ask<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]).query(&mut self.connection()?)
    }

    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_ask(words)
            .unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts it again on the same port.
    pub fn restart(&mut self) {
        self.kill();
        self.launch();
        assert!(self.answers(), "no restart; the log:\n{}", self.log());
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
        self.kill();
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Waits until a condition holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "not yet: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An application: it changes the session as the path says.
pub struct App {
    layer: SessionLayer,
}

impl App {
    pub async fn new(url: &str) -> Self {
        Self::with(url, SessionConfig::default()).await
    }

    pub async fn with(url: &str, config: SessionConfig) -> Self {
        let patient = Duration::from_secs(60);
        let redis = RedisConfig::new(url)
            .with_connection_timeout(patient)
            .with_request_budget(patient)
            .with_command_timeout(patient);
        let store = RedisStore::from_config(redis).await.unwrap();
        let layer = SessionLayer::try_new(store, config).unwrap();
        Self {
            layer: layer.with_client_ip(|_| Some([203, 0, 113, 7].into())),
        }
    }

    pub fn visitor(&self) -> Visitor<'_> {
        Visitor {
            app: self,
            cookie: None,
            handle: String::new(),
        }
    }

    /// A visitor who is signed in.
    pub async fn signed_in(&self, who: &str) -> Visitor<'_> {
        let mut visitor = self.visitor();
        visitor.go(&format!("/login/{who}")).await;
        visitor
    }
}

pub struct Visitor<'a> {
    app: &'a App,
    /// The value.
    pub cookie: Option<String>,
    /// The handle of the session at the end of the last request.
    pub handle: String,
}

impl Visitor<'_> {
    pub async fn go(&mut self, path: &str) {
        let mut request = Request::builder().uri(path);
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, format!("__Host-id={cookie}"));
        }
        let service = self.app.layer.layer(service_fn(handle));
        let request = request.body(String::new()).unwrap();
        let response = service.oneshot(request).await.unwrap();
        assert!(
            response.status().is_success(),
            "{path}: {}",
            response.status()
        );
        for header in response.headers().get_all(SET_COOKIE) {
            let (_, value) = header.to_str().unwrap().split_once('=').unwrap();
            let value = value.split(';').next().unwrap();
            self.cookie = (!value.is_empty()).then(|| value.to_owned());
        }
        if let Some(cookie) = &self.cookie {
            self.handle = handle_of(cookie);
        }
        // After a logout, the index is tidied in the background.
        self.app.layer.drained().await;
    }
}

/// The first 16 of its 32 bytes, in base64url: 21 characters, and the 22nd without the bits of the next byte.
fn handle_of(cookie: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = cookie.as_bytes()[21];
    let value = ALPHABET.iter().position(|it| *it == last).unwrap() & 0b11_0000;
    format!("{}{}", &cookie[..21], char::from(ALPHABET[value]))
}

async fn handle(request: Request<String>) -> Result<Response<String>, Infallible> {
    let response = match change(&request).await {
        Ok(()) => Response::new("ok".to_owned()),
        Err(error) => error
            .response()
            .map(|body: Bytes| String::from_utf8_lossy(&body).into_owned()),
    };
    Ok(response)
}

async fn change(request: &Request<String>) -> Result<(), SessionError> {
    let session = Session::from_extensions(&request.extensions().clone()).await?;
    let mut parts = request.uri().path().split('/').skip(1);
    match (parts.next(), parts.next(), parts.next()) {
        (Some("set"), Some(key), Some(value)) => session.insert(key, value)?,
        (Some("label"), Some(label), _) => session.set_label(label.replace("%1B", "\u{1b}"))?,
        (Some("login"), Some(who), _) => session.set_principal(who).await?,
        (Some("rotate"), ..) => session.cycle_id()?,
        (Some("logout"), ..) => session.destroy(),
        (Some("flash"), Some(text), _) => session.flash_success(text)?,
        _ => {}
    }
    Ok(())
}

/// What the command did.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The findings of a doctor with this name: their severities.
    pub fn found(&self, check: &str) -> Vec<String> {
        let report = self.json();
        let findings = report["findings"].as_array().unwrap().iter();
        let found = findings.filter(|it| it["check"] == check && it["severity"] != "ok");
        found
            .map(|it| it["severity"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// The command, without the environment of whoever runs the tests, and with timeouts that nobody uses up.
pub fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sessile"));
    for variable in [
        "SESSILE_URL",
        "SESSILE_CONFIG",
        "REDIS_URL",
        "CLICOLOR_FORCE",
    ] {
        command.env_remove(variable);
    }
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SESSILE__") {
            command.env_remove(name);
        }
    }
    command
        .args(["--timeout", "60s", "--connect-timeout", "60s"])
        .args(words);
    command.stdin(Stdio::null());
    command
}

pub fn run(words: &[&str]) -> Ran {
    finish(command(words))
}

pub fn run_with_stdin(words: &[&str], text: &str) -> Ran {
    let mut child = command(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    ran(child.wait_with_output().unwrap())
}

pub fn finish(mut command: Command) -> Ran {
    ran(command.output().unwrap())
}

fn ran(output: std::process::Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}
