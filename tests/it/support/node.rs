//! A node of the application: a process of its own, as behind a load balancer.

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

/// What a node answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub cookie: Option<String>,
    pub text: String,
}

impl Node {
    /// The application under test.
    pub fn start(redis: &str, key_prefix: &str) -> Self {
        Self::example("node", &[("REDIS_URL", redis), ("KEY_PREFIX", key_prefix)])
    }

    /// The same with the timeouts that users get, for a store that does not answer.
    pub fn start_hurried(redis: &str, key_prefix: &str) -> Self {
        let environment = [
            ("REDIS_URL", redis),
            ("KEY_PREFIX", key_prefix),
            ("NODE_HURRIES", "yes"),
        ];
        Self::example("node", &environment)
    }

    /// The application under test, on a port that it can have again after it was killed.
    pub fn start_to_die(environment: &[(&str, &str)]) -> Self {
        // Another process may take the port between our look and the node's bind.
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

    /// An example, on a free port, in an environment without a Redis unless told otherwise.
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
        // Cookies and redirects are the tests' business.
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

    /// Stops answering, with all connections open.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Dies without saying good-bye.
    pub fn kill(&mut self) {
        let process = self.process.get_mut().expect("no panic while waiting");
        process.kill().expect("the end of our own child");
        process.wait().expect("the node's end");
    }

    /// Asked to end, as by whoever deploys.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Waits until it has ended by itself, and says how.
    pub async fn end(&self) -> ExitStatus {
        let mut ended = None;
        until(&format!("the end of {}", self.name), async || {
            ended = self.process().try_wait().expect("our own child");
            ended.is_some()
        })
        .await;
        ended.expect("it has ended")
    }

    /// Starts again where it was, once it can: it needs its port and its Redis.
    pub fn restart(&mut self) {
        until_blocking("a node that has started again", || {
            let started = spawn(&self.name, &self.environment, &self.events);
            started.is_some_and(|(process, _)| {
                self.process = Mutex::new(process);
                true
            })
        });
    }

    /// How often it has told of each event.
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
        answer(request.body(form.to_owned()), cookie).await
    }

    pub async fn get(&self, path: &str, cookie: Option<&str>) -> Answer {
        answer(self.client.get(format!("{}{path}", self.base)), cookie).await
    }
}

async fn answer(mut request: reqwest::RequestBuilder, cookie: Option<&str>) -> Answer {
    if let Some(cookie) = cookie {
        request = request.header("cookie", cookie);
    }
    let response = request.send().await.expect("an answer");
    let set = response
        .headers()
        .get("set-cookie")
        .map(|set| set.to_str().unwrap().to_owned());
    let cookie = set.map(|set| set.split(';').next().unwrap().to_owned());
    Answer {
        status: response.status(),
        cookie,
        text: response.text().await.unwrap(),
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let mut process = self.process();
        let _ = process.kill();
        let _ = process.wait();
    }
}

/// Starts it and waits until it says where it listens; `None` if it ends before.
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
    // What it logs is read, so that it can go on logging.
    let events = Arc::clone(events);
    std::thread::spawn(move || {
        for line in output.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            if let Some(event) = line.strip_prefix("event ") {
                // A name, and how much it counts if not one.
                let (name, count) = event.split_once(' ').unwrap_or((event, "1"));
                let mut events = events.lock().expect("no panic while counting");
                *events.entry(name.to_owned()).or_default() += count.parse().unwrap_or(1);
            }
        }
    });
    let address = address.trim().rsplit("//").next().expect("an address");
    Some((process, address.to_owned()))
}

/// The program of an example.
pub fn binary(name: &str) -> PathBuf {
    binaries().join(name)
}

/// Built now, unless whoever runs the tests has done so and says it: a test process each would ask cargo otherwise.
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
