//! A node of the application: a process of its own, as behind a load balancer.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use reqwest::StatusCode;

pub struct Node {
    process: Child,
    base: String,
    client: reqwest::Client,
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

    /// An example, on a free port, in an environment without a Redis unless told otherwise.
    pub fn example(name: &str, environment: &[(&str, &str)]) -> Self {
        let binary = binaries().join(name);
        let mut process = Command::new(&binary)
            .env_remove("REDIS_URL")
            .env("PORT", "0")
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
        let mut output = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut address = String::new();
        while !address.contains("127.0.0.1:") {
            address.clear();
            let read = output.read_line(&mut address).expect("the node's address");
            assert!(read > 0, "{name} did not start: see its message above");
        }
        // What it logs is read, so that it can go on logging.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        let address = address.trim().rsplit("//").next().expect("an address");
        // Cookies and redirects are the tests' business.
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        Self {
            process,
            base: format!("http://{address}"),
            client: client.build().expect("a client"),
        }
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
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Built by whoever runs the tests; cargo finds that there is nothing to do if so.
fn binaries() -> &'static PathBuf {
    static BINARIES: OnceLock<PathBuf> = OnceLock::new();
    BINARIES.get_or_init(|| {
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
        let tests = std::env::current_exe().expect("the path of this test");
        tests
            .parent()
            .and_then(|deps| deps.parent())
            .expect("target/…")
            .join("examples")
    })
}
