//! What the doctor knows when it judges.

use std::time::Duration;

use crate::node::{Fields, Refusal};
use crate::place::Link;
use crate::servers::{Sentinel, Shard};

#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) link: Link,
    pub(crate) has_password: bool,
    pub(crate) prefix: String,
    pub(crate) command_timeout: Duration,
    pub(crate) durability: bool,
    /// The strategy that the store has chosen, or why it cannot work with the server.
    pub(crate) store: Result<String, String>,
    pub(crate) nodes: Vec<NodeFacts>,
    pub(crate) shards: Option<Result<Vec<Shard>, Refusal>>,
    pub(crate) sentinels: Vec<Sentinel>,
    pub(crate) permissions: Option<Permissions>,
    pub(crate) keys: Option<Result<Keys, String>>,
}

impl Facts {
    pub(crate) fn is_unreachable(&self) -> bool {
        !self.nodes.iter().any(|node| node.answers.is_ok())
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.shards.is_some()
    }

    pub(crate) fn has_sentinels(&self) -> bool {
        !self.sentinels.is_empty()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct NodeFacts {
    pub(crate) address: String,
    /// Whether the cluster calls it a replica.
    pub(crate) is_replica: bool,
    /// What it has answered, or why it could not be reached.
    pub(crate) answers: Result<Answers, String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Answers {
    pub(crate) info: Result<Fields, Refusal>,
    /// Of CONFIG GET.
    pub(crate) settings: Result<Fields, Refusal>,
    /// Of CLUSTER INFO.
    pub(crate) cluster: Option<Result<Fields, Refusal>>,
    /// Sorted, the shortest first.
    pub(crate) round_trips: Vec<Duration>,
    pub(crate) clock: Option<Skew>,
}

/// How far the server's clock is from that of this machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Skew {
    /// Positive if the server's is ahead.
    pub(crate) millis: i64,
    /// How wrong that may be, since the answer took its time.
    pub(crate) uncertainty: Duration,
}

impl Answers {
    pub(crate) fn info(&self, name: &str) -> Option<&str> {
        self.info.as_ref().ok()?.text(name)
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.info.as_ref().ok()?.number(name)
    }

    pub(crate) fn setting(&self, name: &str) -> Option<&str> {
        self.settings.as_ref().ok()?.text(name)
    }
}

/// What one user may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Permissions {
    /// Whose permissions they are; `None` for the user of the URL.
    pub(crate) user: Option<String>,
    pub(crate) checked: Result<Vec<(&'static str, Access)>, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Allowed,
    Denied,
    /// The command is allowed, but not with keys that begin with the prefix.
    KeyDenied,
    /// The server does not have the command, or calls it otherwise.
    Unknown,
    /// It could not be found out.
    Unclear,
}

/// The keys that begin with the prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keys {
    /// The keys of the database that were examined, and how many there are.
    pub(crate) examined: u64,
    pub(crate) of: u64,
    pub(crate) sessions: u64,
    /// Keys of sessile without a time to live.
    pub(crate) without_ttl: Examples,
    /// Keys that are not sessile's.
    pub(crate) foreign: Examples,
    /// Values that this version cannot read, of those that were read.
    pub(crate) unreadable: Examples,
    /// How many values were read.
    pub(crate) read: u64,
}

/// How many there are, and some of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Examples {
    pub(crate) count: u64,
    pub(crate) some: Vec<String>,
}

impl Examples {
    pub(crate) fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.some.len() < 3 {
            self.some.push(example());
        }
    }
}
