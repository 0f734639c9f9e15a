//! A node of the application: a separate process, as behind a load balancer.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::StatusCode;

use super::patience::{until, until_blocking};
use super::server::free_port;

pub struct Node {
    name: String,
    environment: Vec<(String, String)>,
    process: Mutex<Child>,
    base: String,
    client: reqwest::Client,
    events: Arc<Mutex<BTreeMap<String, u64>>>,
}

/// The response of a node.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub cookie: Option<String>,
    pub text: String,
}

impl Node {
    /// Starts the application under test.
    pub fn start(redis: &str, key_prefix: &str) -> Self {
        Self::example("node", &[("REDIS_URL", redis), ("KEY_PREFIX", key_prefix)])
    }

    /// Starts the application under test with the default timeouts, for a store that does not answer.
    pub fn start_hurried(redis: &str, key_prefix: &str) -> Self {
        let environment = [
            ("REDIS_URL", redis),
            ("KEY_PREFIX", key_prefix),
            ("NODE_HURRIES", "yes"),
        ];
        Self::example("node", &environment)
    }

    /// Starts the application under test on a port that a restart after a kill can reuse.
    pub fn start_to_die(environment: &[(&str, &str)]) -> Self {
        // Another process may take the port before the node binds it.
        for _ in 0..10 {
            let port = free_port().to_string();
            let mut environment = environment.to_vec();
            environment.push(("PORT", &port));
            if let Some(node) = Self::launch("node", &environment) {
                return node;
            }
        }
        panic!("the node did not start: see its message above");
    }

    /// Starts an example on a free port, without `REDIS_URL` unless `environment` sets it.
    pub fn example(name: &str, environment: &[(&str, &str)]) -> Self {
        let mut environment = environment.to_vec();
        environment.push(("PORT", "0"));
        Self::launch(name, &environment)
            .unwrap_or_else(|| panic!("{name} did not start: see its message above"))
    }

    fn launch(name: &str, environment: &[(&str, &str)]) -> Option<Self> {
        let owned = |(name, value): &(&str, &str)| match *name {
            "REDIS_URL" => ((*name).to_owned(), super::by_protocol(value)),
            _ => ((*name).to_owned(), (*value).to_owned()),
        };
        let environment: Vec<_> = environment.iter().map(owned).collect();
        let events = Arc::default();
        let (process, address) = spawn(name, &environment, &events)?;
        // The tests handle cookies and redirects themselves.
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        Some(Self {
            name: name.to_owned(),
            environment,
            process: Mutex::new(process),
            base: format!("http://{address}"),
            client: client.build().expect("a client"),
            events,
        })
    }

    /// Stops the process by SIGSTOP. All connections stay open.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Kills the process by SIGKILL.
    pub fn kill(&self) {
        let mut process = self.process();
        process.kill().expect("the child can be killed");
        process.wait().expect("the node's end");
    }

    /// Sends SIGTERM, as a deployment does.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Whether it has as many files and sockets open as this limit allows.
    #[cfg(target_os = "linux")]
    pub fn has_open_files(&self, limit: usize) -> bool {
        let files = format!("/proc/{}/fd", self.process().id());
        let names = std::fs::read_dir(files).into_iter().flatten().flatten();
        let numbers = names.filter_map(|file| file.file_name().to_str()?.parse::<usize>().ok());
        // Those above were inherited from whoever runs the tests.
        numbers.filter(|number| *number < limit).count() == limit
    }

    /// Sets how many files and sockets it may have open.
    #[cfg(target_os = "linux")]
    pub fn limit_open_files(&self, limit: usize) {
        let set = Command::new("prlimit")
            .arg(format!("--pid={}", self.process().id()))
            .arg(format!("--nofile={limit}:{limit}"))
            .status();
        assert!(set.expect("prlimit of util-linux").success());
    }

    /// Waits until the process has exited by itself, and returns its status.
    pub async fn end(&self) -> ExitStatus {
        let mut ended = None;
        until(&format!("the end of {}", self.name), async || {
            ended = self.process().try_wait().expect("our own child");
            ended.is_some()
        })
        .await;
        ended.expect("it has ended")
    }

    /// Restarts the node on its port. Waits for the port and for its Redis.
    pub fn restart(&mut self) {
        until_blocking("a node that has started again", || {
            let started = spawn(&self.name, &self.environment, &self.events);
            started.is_some_and(|(process, _)| {
                self.process = Mutex::new(process);
                true
            })
        });
    }

    /// The number of events so far, by name.
    pub fn events(&self) -> BTreeMap<String, u64> {
        self.events.lock().expect("no panic while counting").clone()
    }

    fn process(&self) -> MutexGuard<'_, Child> {
        self.process.lock().expect("no panic while waiting")
    }

    fn signal(&self, signal: Signal) {
        let process = Pid::from_raw(self.process().id().cast_signed());
        kill(process, signal).expect("a signal to our own child");
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    pub async fn post(&self, path: &str, form: &str, cookie: Option<&str>) -> Answer {
        let request = self.client.post(format!("{}{path}", self.base));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = answer(request.body(form.to_owned()), cookie).await;
        answer.expect("an answer")
    }

    pub async fn get(&self, path: &str, cookie: Option<&str>) -> Answer {
        self.try_get(path, cookie).await.expect("an answer")
    }

    /// Sends a request to a node that may be killed before it answers.
    pub async fn try_get(&self, path: &str, cookie: Option<&str>) -> reqwest::Result<Answer> {
        answer(self.client.get(format!("{}{path}", self.base)), cookie).await
    }
}

async fn answer(
    mut request: reqwest::RequestBuilder,
    cookie: Option<&str>,
) -> reqwest::Result<Answer> {
    if let Some(cookie) = cookie {
        request = request.header("cookie", cookie);
    }
    let response = request.send().await?;
    let set = response
        .headers()
        .get("set-cookie")
        .map(|set| set.to_str().unwrap().to_owned());
    let cookie = set.map(|set| set.split(';').next().unwrap().to_owned());
    Ok(Answer {
        status: response.status(),
        cookie,
        text: response.text().await?,
    })
}

impl Drop for Node {
    fn drop(&mut self) {
        let mut process = self.process();
        let _ = process.kill();
        let _ = process.wait();
    }
}

/// Starts the process and waits until it prints its address. Returns `None` if it exits before.
fn spawn(
    name: &str,
    environment: &[(String, String)],
    events: &Arc<Mutex<BTreeMap<String, u64>>>,
) -> Option<(Child, String)> {
    let binary = binary(name);
    let mut process = Command::new(&binary)
        .env_remove("REDIS_URL")
        .envs(environment.iter().cloned())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
    let mut output = BufReader::new(process.stdout.take().expect("a pipe"));
    let mut address = String::new();
    while !address.contains("127.0.0.1:") {
        address.clear();
        if output.read_line(&mut address).expect("the node's address") == 0 {
            process.wait().expect("its end");
            return None;
        }
    }
    // Its output must be read, or it could not go on logging.
    let events = Arc::clone(events);
    std::thread::spawn(move || {
        for line in output.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            if let Some(event) = line.strip_prefix("event ") {
                // The name of an event, and a number if it counts for more than one.
                let (name, count) = event.split_once(' ').unwrap_or((event, "1"));
                let mut events = events.lock().expect("no panic while counting");
                *events.entry(name.to_owned()).or_default() += count.parse().unwrap_or(1);
            }
        }
    });
    let address = address.trim().rsplit("//").next().expect("an address");
    Some((process, address.to_owned()))
}

/// The executable of an example.
pub fn binary(name: &str) -> PathBuf {
    binaries().join(name)
}

/// Builds the examples, unless `scripts/test` has done so and says so in the environment: otherwise each test process
/// would call cargo.
fn binaries() -> &'static PathBuf {
    static BINARIES: OnceLock<PathBuf> = OnceLock::new();
    BINARIES.get_or_init(|| {
        if std::env::var_os("SESSILE_TEST_EXAMPLES_BUILT").is_some() {
            return beside_the_tests();
        }
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let mut build = Command::new(cargo);
        build.args([
            "build",
            "--quiet",
            "--all-features",
            "--examples",
            "--manifest-path",
            manifest,
        ]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(
            build.status().expect("cargo").success(),
            "the examples could not be built"
        );
        beside_the_tests()
    })
}

fn beside_the_tests() -> PathBuf {
    let tests = std::env::current_exe().expect("the path of this test");
    let target = tests.parent().and_then(|deps| deps.parent());
    target.expect("target/…").join("examples")
}
