//! The route of one request through a cluster.

use std::sync::Arc;
use std::time::Duration;

use redis::{ServerError, Value};
use tokio::time::Instant;

use crate::store::redis::error::{Redirection, RequestError, Retries};
use crate::store::redis::exclusive::Exclusive;
use crate::store::redis::reply::unexpected_reply;
use crate::store::redis::request::Request;
use crate::store::redis::router::asking::with_asking;
use crate::store::redis::router::slots::{Address, slot_of};
use crate::store::redis::router::topology::{MAX_POOL_SIZE, Node, Router};

/// This many redirections are followed at once; before any further one there is a delay, in case two nodes point at each other.
const MAX_IMMEDIATE_HOPS: u32 = 5;
/// That delay, before jitter.
const HOP_DELAY: Duration = Duration::from_millis(20);

/// Starts at the node that has the slot and follows redirections, for `command_timeout` at most.
pub(crate) struct Route<'a> {
    router: &'a Router,
    slot: u16,
    began: Instant,
    hops: u32,
    /// The node of the last attempt.
    last: Option<Arc<Node>>,
    /// The node for the next attempt, if an ASK redirection named it.
    ask: Option<Arc<Node>>,
}

/// A node to send the request to.
pub(crate) struct Hop {
    node: Arc<Node>,
    /// The slot is migrating to it.
    asking: bool,
}

/// How to go on after a failure.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// The node did nothing, and this one has the slot.
    Moved(Address),
    /// The node did nothing, and this one accepts the request.
    Ask(Address),
    /// The node did nothing, but may soon accept the request.
    Wait,
    /// Nothing was sent. Another node may have taken over.
    Elsewhere,
    /// The request may have been executed, or a retry would fail too.
    Stop,
}

fn next(failed: &RequestError, asked: &str) -> Next {
    if let Some(Redirection { to, ask, .. }) = failed.redirection.as_deref() {
        return match (Address::parse(to, asked), ask) {
            (Some(address), true) => Next::Ask(address),
            (Some(address), false) => Next::Moved(address),
            (None, _) => Next::Wait,
        };
    }
    match failed.code.as_deref() {
        Some("TRYAGAIN") => Next::Wait,
        None if failed.is_unsent() => Next::Elsewhere,
        _ => Next::Stop,
    }
}

impl Router {
    pub(crate) async fn send(
        &self,
        key: &str,
        request: &Request<'_>,
    ) -> Result<Value, RequestError> {
        let mut route = self.route(key);
        loop {
            match route.next().await?.send(request).await {
                Err(failed) if route.prepare_retry(&failed).await => {}
                answer => return answer,
            }
        }
    }

    /// Sends again at once if the connection turns out to be dead, and once more if there is no reply; each time to the node
    /// that has the key by then.
    pub(crate) async fn send_idempotent(
        &self,
        key: &str,
        request: &Request<'_>,
    ) -> Result<Value, RequestError> {
        let mut retries = Retries::new(MAX_POOL_SIZE);
        loop {
            let failed = match self.follow_redirections(key, request).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            if let Some(failed) = retries.final_error(failed) {
                return Err(failed);
            }
            self.refresh_topology().await;
        }
    }

    async fn follow_redirections(
        &self,
        key: &str,
        request: &Request<'_>,
    ) -> Result<Value, RequestError> {
        let mut route = self.route(key);
        loop {
            match route.next().await?.send_idempotent(request).await {
                Err(failed) if route.prepare_retry(&failed).await => {}
                answer => return answer,
            }
        }
    }

    pub(crate) async fn probe_asking(&self, key: &str) -> Result<(), RequestError> {
        let mut get = redis::cmd("GET");
        get.arg(key);
        let (pipeline, _) = with_asking(&Request::Command(&get), &mut false);
        match self
            .send_idempotent(key, &Request::Pipeline(&pipeline))
            .await?
        {
            Value::Array(answers) => match answers.into_iter().next() {
                Some(Value::ServerError(error)) => Err(self.server_error(error)),
                _ => Ok(()),
            },
            _ => Err(unexpected_reply("ASKING").into()),
        }
    }

    pub(crate) fn route(&self, key: &str) -> Route<'_> {
        Route::new(self, slot_of(key))
    }
}

impl<'a> Route<'a> {
    pub(crate) fn new(router: &'a Router, slot: u16) -> Self {
        Self {
            router,
            slot,
            began: Instant::now(),
            hops: 0,
            last: None,
            ask: None,
        }
    }

    /// The node for the next attempt.
    pub(crate) async fn next(&mut self) -> Result<Hop, RequestError> {
        let asking = self.ask.is_some();
        let mut node = self.ask.take().or_else(|| self.router.owner(self.slot));
        if node.is_none() && !self.router.is_unreachable() {
            self.router.refresh_topology().await;
            node = self.router.owner(self.slot);
        }
        let node = node.ok_or_else(|| {
            self.router.refresh_topology_soon();
            self.router.no_primary()
        })?;
        self.last = Some(Arc::clone(&node));
        Ok(Hop { node, asking })
    }

    pub(crate) async fn exclusive(&mut self) -> Result<Exclusive, RequestError> {
        let Hop { node, asking } = self.next().await?;
        let exclusive = node.connections.exclusive().await?;
        Ok(match asking {
            true => exclusive.asking(),
            false => exclusive,
        })
    }

    /// Whether the failed request has changed nothing and must be tried again on this route, which now leads to the right node.
    pub(crate) async fn prepare_retry(&mut self, failed: &RequestError) -> bool {
        let Some(last) = self.last.clone() else {
            return false;
        };
        let router = self.router;
        let next = next(failed, &last.host);
        // The redirection ASK is the normal case of a migrating slot: the topology has not changed.
        let is_down = failed.code.as_deref() == Some("CLUSTERDOWN");
        if failed.fault.is_some() || is_down || !matches!(next, Next::Ask(_) | Next::Stop) {
            router.refresh_topology_soon();
        }
        if next == Next::Stop || self.began.elapsed() >= router.command_timeout() {
            return false;
        }
        self.hops += 1;
        if next == Next::Wait || self.hops > MAX_IMMEDIATE_HOPS {
            tokio::time::sleep(HOP_DELAY.mul_f64(rand::random_range(0.5..=1.0))).await;
        }
        match next {
            Next::Moved(address) => router.move_to(self.slot, &address),
            Next::Ask(address) => self.ask = router.node_at(&address),
            Next::Wait | Next::Stop => {}
            Next::Elsewhere => {
                if !last.connections.is_breaker_open() {
                    router.refresh_topology().await;
                }
                let owner = router.owner(self.slot);
                return owner.is_some_and(|owner| !Arc::ptr_eq(&owner, &last));
            }
        }
        true
    }
}

impl Hop {
    /// Fails if the last command of a pipeline was redirected; the commands before it only read. Other errors inside a pipeline
    /// are part of the reply.
    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Value, RequestError> {
        let answer = self.send_to_node(request).await?;
        let last = match &answer {
            Value::Array(answers) => answers.last(),
            _ => None,
        };
        match last.and_then(redirection) {
            Some(error) => Err(self.node.connections.server_error(error)),
            None => Ok(answer),
        }
    }

    /// Like [`send`](Self::send), but fails if any of the commands was redirected.
    pub(crate) async fn send_idempotent(
        &self,
        request: &Request<'_>,
    ) -> Result<Value, RequestError> {
        let answer = self.send_to_node(request).await?;
        let redirected = match &answer {
            Value::Array(answers) => answers.iter().find_map(redirection),
            _ => None,
        };
        match redirected {
            Some(error) => Err(self.node.connections.server_error(error)),
            None => Ok(answer),
        }
    }

    async fn send_to_node(&self, request: &Request<'_>) -> Result<Value, RequestError> {
        let connections = &self.node.connections;
        if !self.asking {
            return connections.send(request).await;
        }
        let (pipeline, filter) = with_asking(request, &mut false);
        let answer = connections.send(&Request::Pipeline(&pipeline)).await?;
        filter.read(answer, connections)
    }
}

fn redirection(answer: &Value) -> Option<ServerError> {
    let Value::ServerError(error) = answer else {
        return None;
    };
    matches!(error.code(), "MOVED" | "ASK" | "TRYAGAIN").then(|| error.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::store::StoreError;

    fn server_error(text: &str) -> RequestError {
        let parsed = redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap();
        RequestError::from_redis("h:1", parsed.extract_error().unwrap_err())
    }

    #[test]
    fn a_failure_decides_where_the_request_goes_next() {
        let address = Address::new("h", 2);
        for (failed, follows) in [
            (server_error("MOVED 5 h:2"), Next::Moved(address.clone())),
            (server_error("ASK 5 h:2"), Next::Ask(address)),
            (
                server_error("MOVED 5 :2"),
                Next::Moved(Address::new("asked", 2)),
            ),
            (server_error("MOVED 5 ?:2"), Next::Wait),
            (server_error("CLUSTERDOWN Hash slot not served"), Next::Stop),
            (server_error("TRYAGAIN Multiple keys request"), Next::Wait),
            (server_error("READONLY no"), Next::Stop),
            (server_error("OOM no"), Next::Stop),
            (server_error("NOSCRIPT no"), Next::Stop),
            (
                StoreError::unavailable("no connection").into(),
                Next::Elsewhere,
            ),
            // It may have been executed.
            (StoreError::unknown("no answer").into(), Next::Stop),
        ] {
            let text = format!("{:?}", failed.error);
            assert_eq!(next(&failed, "asked"), follows, "{text}");
        }
    }
}
