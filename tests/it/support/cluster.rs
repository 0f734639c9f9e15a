//! A cluster for one test: three primaries, each with a replica.

use std::time::Duration;

use redis::{FromRedisValue, RedisResult};

use super::patience::until_blocking;
use super::server::free_port;
use super::{Authority, Server};

const PRIMARIES: usize = 3;
const SLOTS: u16 = 16384;

/// The `cluster-node-timeout`: long enough for a slow server, after which the others fail over.
const NODE_TIMEOUT: &str = "5000";

pub struct Cluster {
    /// The primaries, then the replicas.
    pub servers: Vec<Server>,
    buses: Vec<String>,
    /// The ids of the nodes.
    ports: Vec<String>,
    encrypted: bool,
}

impl Cluster {
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts a cluster whose nodes use TLS among themselves, too.
    pub fn start_encrypted(authority: &Authority) -> Self {
        Self::start_with(Some(&authority.certificate("127.0.0.1", "no")))
    }

    fn start_with(tls: Option<&[String]>) -> Self {
        let (mut buses, mut ports) = (Vec::new(), Vec::new());
        let mut servers = Vec::new();
        for _ in 0..2 * PRIMARIES {
            let (mut bus, mut tls_port) = (String::new(), String::new());
            servers.push(Server::start_by(|| {
                (bus, tls_port) = (free_port().to_string(), free_port().to_string());
                let arguments = [
                    ["--cluster-enabled", "yes"],
                    ["--cluster-node-timeout", NODE_TIMEOUT],
                    ["--cluster-port", &bus],
                    ["--cluster-replica-validity-factor", "0"],
                    // Otherwise all primaries reject requests while one is down.
                    ["--cluster-require-full-coverage", "no"],
                    ["--repl-diskless-sync-delay", "0"],
                ];
                let arguments = arguments.as_flattened().iter();
                let mut arguments: Vec<_> = arguments.map(ToString::to_string).collect();
                if let Some(tls) = tls {
                    let encrypted = [
                        ["--tls-port", &tls_port],
                        ["--tls-cluster", "yes"],
                        ["--tls-replication", "yes"],
                    ];
                    let encrypted = encrypted.as_flattened().iter();
                    arguments.extend(encrypted.map(ToString::to_string));
                    arguments.extend_from_slice(tls);
                }
                arguments
            }));
            buses.push(bus);
            ports.push(tls_port);
        }
        let encrypted = tls.is_some();
        if !encrypted {
            ports = servers.iter().map(|node| node.port().to_string()).collect();
        }
        let cluster = Self {
            servers,
            buses,
            ports,
            encrypted,
        };
        for (number, server) in cluster.servers.iter().enumerate() {
            let epoch = (number + 1).to_string();
            ask::<()>(server, &["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
        }
        for number in 1..2 * PRIMARIES {
            cluster.meet(number);
        }
        for number in 0..PRIMARIES {
            let share = |number: usize| usize::from(SLOTS) * number / PRIMARIES;
            let (first, last) = (
                share(number).to_string(),
                (share(number + 1) - 1).to_string(),
            );
            let range = ["CLUSTER", "ADDSLOTSRANGE", &first, &last];
            ask::<()>(&cluster.servers[number], &range);
        }
        cluster.wait_for("all nodes know each other", |server| {
            let info: String = answer(server, &["CLUSTER", "INFO"])?;
            Ok(info.contains("cluster_known_nodes:6"))
        });
        for number in 0..PRIMARIES {
            let primary = cluster.name(number);
            let replicate = ["CLUSTER", "REPLICATE", &primary];
            ask::<()>(&cluster.servers[PRIMARIES + number], &replicate);
        }
        cluster.wait_for("the cluster is ready", |server| {
            let info: String = answer(server, &["CLUSTER", "INFO"])?;
            let replication: String = answer(server, &["INFO", "replication"])?;
            let ranges: Vec<redis::Value> = answer(server, &["CLUSTER", "SLOTS"])?;
            let complete = |range: &redis::Value| {
                matches!(range, redis::Value::Array(parts) if parts.len() == 4)
            };
            Ok(info.contains("cluster_state:ok")
                && ranges.len() == PRIMARIES
                && ranges.iter().all(complete)
                && (replication.contains("role:master")
                    || replication.contains("master_link_status:up")))
        });
        cluster
    }

    fn meet(&self, number: usize) {
        let (port, bus) = (&self.ports[number], &self.buses[number]);
        let meet = ["CLUSTER", "MEET", "127.0.0.1", port, bus];
        ask::<()>(&self.servers[0], &meet);
    }

    /// A URL with all primaries.
    pub fn url(&self) -> String {
        let ports = self.ports[..PRIMARIES].iter();
        let addresses: Vec<_> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
        let scheme = if self.encrypted { "rediss" } else { "redis" };
        format!("{scheme}+cluster://{}/", addresses.join(","))
    }

    /// Resets a replica, and lets it join as a primary without slots.
    pub fn join_as_primary(&self, number: usize) {
        ask::<()>(&self.servers[number], &["CLUSTER", "RESET", "HARD"]);
        self.meet(number);
        self.wait_for("all nodes know the new primary", |server| {
            let info: String = answer(server, &["CLUSTER", "INFO"])?;
            let nodes: String = answer(server, &["CLUSTER", "NODES"])?;
            let mut nodes = nodes.lines();
            let name = self.name(number);
            let is_known = nodes.any(|node| node.starts_with(&name) && !node.contains("handshake"));
            Ok(is_known && info.contains("cluster_state:ok"))
        });
    }

    /// Starts the migration of slots, and leaves their keys on the old primary.
    pub fn start_migrating(&self, slots: std::ops::Range<u16>, from: usize, to: usize) {
        let (old, new) = (self.name(from), self.name(to));
        for (server, state, name) in [
            (&self.servers[to], "IMPORTING", &old),
            (&self.servers[from], "MIGRATING", &new),
        ] {
            let mut pipeline = redis::pipe();
            for slot in slots.clone() {
                let slot = slot.to_string();
                pipeline
                    .cmd("CLUSTER")
                    .arg(&["SETSLOT", &slot, state, name]);
            }
            pipeline.exec(&mut server.connection()).unwrap();
        }
    }

    pub fn primaries(&self) -> &[Server] {
        &self.servers[..PRIMARIES]
    }

    /// The number of keys on all primaries.
    pub fn keys(&self) -> usize {
        let size = |server: &Server| ask::<usize>(server, &["DBSIZE"]);
        self.primaries().iter().map(size).sum()
    }

    /// The number of sessions on a primary, by the names of its keys.
    pub fn handles(&self, primary: usize) -> usize {
        let keys: Vec<String> = ask(&self.servers[primary], &["KEYS", "*"]);
        let is_session = |key: &&String| {
            let name = key.rsplit(':').next();
            name.is_some_and(|name| name.parse::<sessile::Handle>().is_ok())
        };
        keys.iter().filter(is_session).count()
    }

    /// The slots of a primary that contain keys.
    pub fn used_slots(&self, primary: usize) -> Vec<u16> {
        let server = &self.servers[primary];
        let keys: Vec<String> = ask(server, &["KEYS", "*"]);
        let slot = |key: &String| ask(server, &["CLUSTER", "KEYSLOT", key]);
        let mut slots: Vec<u16> = keys.iter().map(slot).collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    /// Migrates slots from one primary to another. For a while, they are migrating, with all keys on the new primary
    /// already.
    pub fn move_slots(&self, slots: &[u16], from: usize, to: usize, pause: Duration) {
        let (here, there) = (&self.servers[from], &self.servers[to]);
        let (old, new) = (self.name(from), self.name(to));
        let port = &self.ports[to];
        for slot in slots {
            let slot = slot.to_string();
            ask::<()>(there, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &old]);
            ask::<()>(here, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &new]);
            loop {
                let keys: Vec<String> = ask(here, &["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
                if keys.is_empty() {
                    break;
                }
                let head = ["MIGRATE", "127.0.0.1", port, "", "0", "60000", "KEYS"];
                let keys = keys.iter().map(String::as_str);
                ask::<()>(here, &head.into_iter().chain(keys).collect::<Vec<_>>());
            }
        }
        std::thread::sleep(pause);
        for slot in slots {
            let set = ["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &new];
            ask::<()>(there, &set);
            ask::<()>(here, &set);
        }
    }

    fn name(&self, number: usize) -> String {
        ask(&self.servers[number], &["CLUSTER", "MYID"])
    }

    fn wait_for(&self, what: &str, done: impl Fn(&Server) -> RedisResult<bool>) {
        let done = |server: &Server| done(server).unwrap_or(false);
        until_blocking(what, || self.servers.iter().all(done));
    }
}

/// Whether a server is a primary.
pub fn is_primary(server: &Server) -> bool {
    let replication: RedisResult<String> = answer(server, &["INFO", "replication"]);
    replication.is_ok_and(|text| text.contains("role:master"))
}

pub fn ask<T: FromRedisValue>(server: &Server, words: &[&str]) -> T {
    answer(server, words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// Sends a command to a server that may close the connection, as one does whose role changes.
pub fn answer<T: FromRedisValue>(server: &Server, words: &[&str]) -> RedisResult<T> {
    let mut connection = redis::Client::open(server.url())?.get_connection()?;
    redis::cmd(words[0]).arg(&words[1..]).query(&mut connection)
}
