//! What the figures come from: machine, versions, commit.

use std::collections::BTreeMap;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::driver::redis_server::RedisServer;
use crate::peers::Peer;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Facts {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    pub rustc: String,
    pub redis: String,
    pub commit: String,
    /// The versions of the packages, from `Cargo.lock`.
    pub packages: BTreeMap<String, String>,
}

impl Facts {
    pub fn collect(redis: &RedisServer, peers: &[Peer]) -> Result<Self> {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find(|line| line.starts_with("model name"));
        let model = model.and_then(|line| line.split_once(": "));
        let name = redis.info("server_name").unwrap_or("redis".to_owned());
        let version = redis.info("valkey_version");
        let version = version.or_else(|_| redis.info("redis_version"))?;
        let names = peers.iter().flat_map(|peer| peer.packages());
        let names = names.chain(&["tokio", "hyper", "redis"]);
        Ok(Self {
            cpu: model.map_or("unknown", |(_, model)| model).to_owned(),
            cores: cpu.lines().filter(|it| it.starts_with("processor")).count(),
            kernel: output("uname", &["-sr"]),
            rustc: output("rustc", &["--version"]),
            redis: format!("{name} {version}"),
            commit: output("git", &["describe", "--always", "--dirty"]),
            packages: names
                .map(|name| ((*name).to_owned(), version_of(name)))
                .collect(),
        })
    }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// The newest of the versions in `Cargo.lock`, which are in order.
fn version_of(package: &str) -> String {
    let lock = include_str!("../../Cargo.lock");
    let after = lock
        .rsplit("[[package]]\n")
        .find_map(|entry| entry.strip_prefix(&format!("name = \"{package}\"\nversion = \"")));
    let version = after.and_then(|after| after.split('"').next());
    version.unwrap_or("unknown").to_owned()
}
