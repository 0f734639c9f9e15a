//! One subscription to each primary.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use redis::aio::PubSub;
use sessile::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::node::Node;
use crate::place::Place;
use crate::watch::notice::{Event, Notices, handle_in, has_new};

#[derive(Debug)]
pub(crate) struct Subscriptions {
    prefix: String,
    only: Option<Handle>,
    /// By address.
    running: BTreeMap<String, (Node, AbortHandle)>,
    sender: mpsc::Sender<Update>,
    updates: mpsc::Receiver<Update>,
}

#[derive(Debug)]
pub(crate) enum Update {
    Event(Handle, Event),
    /// The connection to this server.
    Lost(String),
}

impl Subscriptions {
    pub(crate) fn new(prefix: &str, only: Option<Handle>) -> Self {
        let (sender, updates) = mpsc::channel(1024);
        Self {
            prefix: prefix.to_owned(),
            only,
            running: BTreeMap::new(),
            sender,
            updates,
        }
    }

    /// Whether there is nothing to look for: the one server that there is.
    pub(crate) fn is_settled(&self, place: &Place) -> bool {
        matches!(place, Place::Server(_)) && !self.running.is_empty()
    }

    /// The servers with a subscription.
    pub(crate) fn nodes(&self) -> Vec<Node> {
        self.running
            .values()
            .map(|(node, _)| node.clone())
            .collect()
    }

    /// The servers without a subscription.
    pub(crate) fn missing(&self, nodes: &[Node]) -> Vec<Node> {
        let is_missing = |node: &&Node| !self.running.contains_key(&node.address());
        nodes.iter().filter(is_missing).cloned().collect()
    }

    /// Ends the subscriptions to servers that are not primaries any more: a replica repeats what its primary sends. While no server
    /// is known, which may be a failure of the search, they go on.
    pub(crate) fn keep(&mut self, nodes: &[Node]) {
        if nodes.is_empty() {
            return;
        }
        self.running.retain(|address, (_, task)| {
            let is_known = nodes.iter().any(|node| node.address() == *address);
            if !is_known {
                task.abort();
            }
            is_known
        });
    }

    /// Subscribes to a server. If that fails, the next search tries again.
    pub(crate) async fn add(&mut self, node: &Node, flags: Option<&str>, limit: Duration) {
        let address = node.address();
        let subscribed = tokio::time::timeout(limit * 2, self.subscribe(node)).await;
        let connection = match subscribed {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                anstream::eprintln!("cannot subscribe to {address}: {error}");
                return;
            }
            Err(_) => {
                anstream::eprintln!("cannot subscribe to {address}: no answer in time");
                return;
            }
        };
        let (prefix, sender) = (self.prefix.clone(), self.sender.clone());
        // Unknown flags: as if there were none for new keys, which calls a creation "written".
        let notices = Notices::new(flags.is_some_and(has_new));
        let task = tokio::spawn(forward(
            connection,
            notices,
            prefix,
            address.clone(),
            sender,
        ));
        self.running
            .insert(address, (node.clone(), task.abort_handle()));
    }

    async fn subscribe(&self, node: &Node) -> redis::RedisResult<PubSub> {
        let mut connection = node.target.client()?.get_async_pubsub().await?;
        let database = node.target.database();
        let channel = format!("__keyspace@{database}__:{}", self.prefix);
        match self.only {
            Some(handle) => connection.subscribe(format!("{channel}{handle}")).await?,
            // No character that a prefix may contain is special in a pattern.
            None => connection.psubscribe(format!("{channel}*")).await?,
        }
        Ok(connection)
    }

    pub(crate) async fn next(&mut self) -> Update {
        let update = self.updates.recv().await;
        let update = update.expect("this holds a sender, so the channel is open");
        if let Update::Lost(address) = &update {
            self.running.remove(address);
        }
        update
    }
}

async fn forward(
    connection: PubSub,
    mut notices: Notices,
    prefix: String,
    address: String,
    sender: mpsc::Sender<Update>,
) {
    let mut messages = connection.into_on_message();
    while let Some(message) = messages.next().await {
        let Some(handle) = handle_in(message.get_channel_name(), &prefix) else {
            continue;
        };
        let name = message.get_payload::<String>().unwrap_or_default();
        let Some(event) = notices.next(handle, &name) else {
            continue;
        };
        if sender.send(Update::Event(handle, event)).await.is_err() {
            return;
        }
    }
    // If nobody listens, nobody needs to know.
    let _ = sender.send(Update::Lost(address)).await;
}
