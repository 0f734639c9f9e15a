//! A gate in the middle of a handler: the test learns that a request has come to it, and says when it may go on. It is a
//! folder, so that the handler may run in another process.

use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::patience::PATIENCE;

const LOOK: Duration = Duration::from_millis(2);

pub struct Gate(TempDir);

impl Gate {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    /// What a request says to be held here: a part of its query.
    pub fn query(&self) -> String {
        format!("gate={}", self.0.path().display())
    }

    /// Waits until so many requests in all have come to the gate.
    pub async fn arrived(&self, requests: usize) {
        let began = Instant::now();
        while std::fs::read_dir(self.0.path()).expect("the gate").count() < requests {
            assert!(began.elapsed() < PATIENCE, "{requests} have not arrived");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Lets everybody through, from now on.
    pub fn open(&self) {
        std::fs::write(self.0.path().join("open"), "").expect("the gate");
    }
}

/// The handler's side.
pub async fn pass(gate: &str) {
    let gate = Path::new(gate);
    let mark = format!("request-{:x}", rand::random::<u64>());
    std::fs::write(gate.join(mark), "").expect("a gate");
    // A gate that is gone holds nobody.
    while gate.exists() && !gate.join("open").exists() {
        tokio::time::sleep(LOOK).await;
    }
}
