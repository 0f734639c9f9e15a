//! Three nodes and one durable Redis. Each node has its own proxy.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::{Node, Proxy, Server, fresh_prefix};

pub const NODES: usize = 3;

pub struct Site {
    pub server: Server,
    pub proxies: Vec<Proxy>,
    pub nodes: Vec<Node>,
    prefix: String,
}

/// A session in the store.
pub struct Remains {
    pub record: Value,
    /// The remaining time to live in milliseconds. Negative if it never expires.
    pub time_left: i64,
}

impl Site {
    /// Starts the servers. `control` names the fault of the nodes' stores, if they have one.
    pub async fn start(seed: u64, control: Option<&str>) -> Self {
        let (server, prefix) = (Server::start_durable(), fresh_prefix());
        let (mut proxies, mut nodes) = (Vec::new(), Vec::new());
        for proxy in 0..NODES {
            let proxy = Proxy::seeded(server.address(), seed.wrapping_add(proxy as u64)).await;
            let url = proxy.url();
            let mut environment = vec![
                ("REDIS_URL", url.as_str()),
                ("KEY_PREFIX", &prefix),
                ("NODE_HURRIES", "yes"),
            ];
            environment.extend(control.map(|control| ("NODE_CONTROL", control)));
            // Blocks until the node is up, which connects through the proxy.
            nodes.push(tokio::task::block_in_place(|| {
                Node::start_to_die(&environment)
            }));
            proxies.push(proxy);
        }
        Self {
            server,
            proxies,
            nodes,
            prefix,
        }
    }

    /// Waits for work in flight that no client waits for: nodes exit after they have finished it, and proxies are clear
    /// once they have forwarded all held requests.
    pub async fn drain(&mut self) {
        for node in &self.nodes {
            node.terminate();
        }
        for node in &self.nodes {
            node.end().await;
        }
        for proxy in &self.proxies {
            proxy.is_clear().await;
        }
        for node in &mut self.nodes {
            tokio::task::block_in_place(|| node.restart());
        }
    }

    pub fn bases(&self) -> Vec<String> {
        self.nodes
            .iter()
            .map(|node| node.base().to_owned())
            .collect()
    }

    /// The number of events of each kind, on all nodes.
    pub fn events(&self) -> BTreeMap<String, u64> {
        let mut events = BTreeMap::new();
        for (event, count) in self.nodes.iter().flat_map(Node::events) {
            *events.entry(event).or_default() += count;
        }
        events
    }

    /// All sessions in the store, by their handles.
    pub fn remains(&self) -> BTreeMap<String, Remains> {
        let mut connection = self.server.connection();
        let pattern = format!("{}*", self.prefix);
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg(pattern)
            .query(&mut connection)
            .unwrap();
        let mut remains = BTreeMap::new();
        for key in keys {
            if key[self.prefix.len()..].starts_with("of:") {
                continue;
            }
            let mut both = redis::pipe();
            both.cmd("GET").arg(&key).cmd("PTTL").arg(&key);
            let (text, time_left): (String, i64) = both.query(&mut connection).unwrap();
            let record = serde_json::from_str(&text).expect("a whole record");
            let handle = key[self.prefix.len()..].to_owned();
            remains.insert(handle, Remains { record, time_left });
        }
        remains
    }
}
