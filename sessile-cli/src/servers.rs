//! Finds the servers that have the sessions: the one of the URL, all nodes of a cluster, or the primary of sentinels.

use futures_util::future::join_all;
use redis::Value;
use sessile::RedisConfig;

use crate::node::{Fields, Node, Refusal};
use crate::place::{Place, Target};

/// Every server that was found.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    pub(crate) found: Vec<Found>,
    /// With the slots of a cluster; `None` for anything else.
    pub(crate) shards: Option<Result<Vec<Shard>, Refusal>>,
    pub(crate) sentinels: Vec<Sentinel>,
}

#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) address: String,
    /// Whether the cluster calls it a replica.
    pub(crate) is_replica: bool,
    pub(crate) node: Result<Node, String>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Node").field(&self.address()).finish()
    }
}

/// A range of slots and the nodes that have it, the primary first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) slots: (u16, u16),
    pub(crate) nodes: Vec<(String, u16)>,
}

/// One sentinel's view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sentinel {
    pub(crate) address: String,
    pub(crate) view: Result<View, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// `None` if it does not know the name.
    pub(crate) primary: Option<(String, u16)>,
    /// What it says about the primary, if the user may ask for that.
    pub(crate) about: Option<Fields>,
    /// Its answer to CKQUORUM.
    pub(crate) quorum: Option<Result<String, String>>,
}

impl Servers {
    pub(crate) async fn find(place: &Place, config: &RedisConfig) -> Self {
        match place {
            Place::Server(target) => Self {
                found: vec![connect(target.clone(), false, config).await],
                ..Self::default()
            },
            Place::Cluster(seeds) => cluster(seeds, config).await,
            Place::Sentinels {
                sentinels,
                name,
                primary,
            } => {
                let ask = sentinels
                    .iter()
                    .map(|target| ask_sentinel(target, name, config));
                let sentinels = join_all(ask).await;
                let named = sentinels.iter().filter_map(|it| it.view.as_ref().ok());
                let found = match named.into_iter().find_map(|view| view.primary.as_ref()) {
                    Some((host, port)) => {
                        vec![connect(primary.at(host, *port), false, config).await]
                    }
                    None => Vec::new(),
                };
                Self {
                    found,
                    shards: None,
                    sentinels,
                }
            }
        }
    }

    /// The servers that were reached and have sessions of their own.
    pub(crate) fn primaries(&self) -> impl Iterator<Item = &Node> {
        let primaries = self.found.iter().filter(|found| !found.is_replica);
        primaries.filter_map(|found| found.node.as_ref().ok())
    }
}

async fn connect(target: Target, is_replica: bool, config: &RedisConfig) -> Found {
    let address = target.address();
    let node = Node::connect(target, config).await;
    Found {
        address,
        is_replica,
        node: node.map_err(|error| error.to_string()),
    }
}

async fn cluster(seeds: &[Target], config: &RedisConfig) -> Servers {
    let mut found = Vec::new();
    for seed in seeds {
        let seed = connect(seed.clone(), false, config).await;
        let Ok(node) = &seed.node else {
            found.push(seed);
            continue;
        };
        let shards = shards(node).await;
        let Ok(known) = &shards else {
            found.push(seed);
            return Servers {
                found,
                shards: Some(shards),
                sentinels: Vec::new(),
            };
        };
        let mut nodes: Vec<(&(String, u16), bool)> = Vec::new();
        for shard in known {
            for (position, address) in shard.nodes.iter().enumerate() {
                if !nodes.iter().any(|(known, _)| *known == address) {
                    nodes.push((address, position > 0));
                }
            }
        }
        let connect = nodes.into_iter().map(|((host, port), is_replica)| {
            connect(seeds[0].at(host, *port), is_replica, config)
        });
        let found = join_all(connect).await;
        return Servers {
            found,
            shards: Some(shards),
            sentinels: Vec::new(),
        };
    }
    Servers {
        found,
        shards: Some(Err(Refusal::Silent(
            "no node of the URL answers".to_owned(),
        ))),
        sentinels: Vec::new(),
    }
}

async fn shards(node: &Node) -> Result<Vec<Shard>, Refusal> {
    let answer: Vec<Value> = node.ask(&["CLUSTER", "SLOTS"]).await?;
    let unexpected = || Refusal::Other("CLUSTER SLOTS has an unexpected answer".to_owned());
    let shards = answer.into_iter().map(|value| shard(value, node.host()));
    shards.collect::<Option<_>>().ok_or_else(unexpected)
}

/// One entry of CLUSTER SLOTS: first and last slot, and the nodes. A node without a host has that of the answer.
fn shard(value: Value, own_host: Option<&str>) -> Option<Shard> {
    let Value::Array(parts) = value else {
        return None;
    };
    let mut parts = parts.into_iter();
    let mut slot = || match parts.next() {
        Some(Value::Int(slot)) => u16::try_from(slot).ok(),
        _ => None,
    };
    let slots = (slot()?, slot()?);
    let node = |value: Value| {
        let Value::Array(fields) = value else {
            return None;
        };
        let host: Option<String> = redis::from_redis_value(fields.first()?.clone()).ok()?;
        let port = match fields.get(1)? {
            Value::Int(port) => u16::try_from(*port).ok()?,
            _ => return None,
        };
        let host = host.filter(|host| !host.is_empty());
        Some((host.or_else(|| own_host.map(str::to_owned))?, port))
    };
    Some(Shard {
        slots,
        nodes: parts.map(node).collect::<Option<_>>()?,
    })
}

async fn ask_sentinel(target: &Target, name: &str, config: &RedisConfig) -> Sentinel {
    let address = target.address();
    let view = match Node::connect(target.clone(), config).await {
        Ok(node) => view(&node, name).await.map_err(|refusal| refusal.reason()),
        Err(error) => Err(error.to_string()),
    };
    Sentinel { address, view }
}

async fn view(sentinel: &Node, name: &str) -> Result<View, Refusal> {
    let primary: Option<(String, u16)> = sentinel
        .ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name])
        .await?;
    let about: Result<_, Refusal> = sentinel.ask(&["SENTINEL", "MASTER", name]).await;
    let quorum: Result<String, Refusal> = sentinel.ask(&["SENTINEL", "CKQUORUM", name]).await;
    Ok(View {
        primary,
        about: about.ok().map(Fields),
        quorum: match quorum {
            Ok(answer) => Some(Ok(answer)),
            Err(Refusal::Other(answer)) => Some(Err(answer)),
            Err(_) => None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_does_not_know_its_host_has_that_of_the_answer() {
        let text = |text: &str| Value::BulkString(text.into());
        let node = |host: Value, port| Value::Array(vec![host, Value::Int(port), text("id")]);
        let entry = |nodes: Vec<Value>| {
            Value::Array([vec![Value::Int(0), Value::Int(5460)], nodes].concat())
        };
        let value = entry(vec![
            node(text("h"), 1),
            node(text(""), 2),
            node(Value::Nil, 3),
        ]);
        let nodes = [("h", 1), ("own", 2), ("own", 3)];
        let expected = Shard {
            slots: (0, 5460),
            nodes: nodes.map(|(host, port)| (host.to_owned(), port)).to_vec(),
        };
        assert_eq!(shard(value, Some("own")), Some(expected));
        assert_eq!(shard(entry(vec![node(Value::Nil, 3)]), None), None);
        assert_eq!(shard(entry(vec![node(text("h"), 70_000)]), None), None);
        assert_eq!(shard(Value::Okay, None), None);
    }
}
