//! A gate that holds handlers: the test waits until requests have arrived at it, and opens it. It is a folder, so that
//! the handler can run in another process.

use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::patience::PATIENCE;

const POLL: Duration = Duration::from_millis(2);

pub struct Gate(TempDir);

impl Gate {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    /// The part of a request's query that holds its handler at this gate.
    pub fn query(&self) -> String {
        format!("gate={}", self.0.path().display())
    }

    /// Waits until this many requests in all have arrived at the gate.
    pub async fn arrived(&self, requests: usize) {
        let began = Instant::now();
        while std::fs::read_dir(self.0.path()).expect("the gate").count() < requests {
            assert!(began.elapsed() < PATIENCE, "{requests} have not arrived");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Lets all requests through, those that arrive later included.
    pub fn open(&self) {
        std::fs::write(self.0.path().join("open"), "").expect("the gate");
    }
}

/// Waits at a gate, in a handler.
pub async fn pass(gate: &str) {
    let gate = Path::new(gate);
    let name = format!("request-{:x}", rand::random::<u64>());
    std::fs::write(gate.join(name), "").expect("a gate");
    // A gate that was dropped holds no request.
    while gate.exists() && !gate.join("open").exists() {
        tokio::time::sleep(POLL).await;
    }
}
