//! One request's way through a cluster.

use std::sync::Arc;
use std::time::Duration;

use redis::{ServerError, Value};
use tokio::time::Instant;

use crate::store::redis::error::{Redirection, Repetitions, RequestError};
use crate::store::redis::exclusive::Exclusive;
use crate::store::redis::reply::unexpected_reply;
use crate::store::redis::request::Request;
use crate::store::redis::router::asking::with_asking;
use crate::store::redis::router::slots::{Address, slot_of};
use crate::store::redis::router::topology::{MAX_SIZE, Node, Router};

/// So many redirections are followed at once; before others there is a wait, in case two nodes point at each other.
const AT_ONCE: u32 = 5;
/// That wait, with jitter.
const WAIT: Duration = Duration::from_millis(20);

/// Leads from the node that has the slot on along the redirections, for no longer than `command_timeout`.
pub(crate) struct Route<'a> {
    router: &'a Router,
    slot: u16,
    began: Instant,
    hops: u32,
    /// Who was asked last.
    last: Option<Arc<Node>>,
    /// Who is to be asked next, for this request only.
    ask: Option<Arc<Node>>,
}

/// A node that may have the key.
pub(crate) struct Hop {
    node: Arc<Node>,
    /// The slot is on its way to it.
    asking: bool,
}

/// What follows from a failure.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Nothing was done, and this node has the slot.
    Moved(Address),
    /// Nothing was done, and this node takes the request.
    Ask(Address),
    /// Nothing was done, and may be soon.
    Wait,
    /// Nothing was sent. Another node may have taken over.
    Elsewhere,
    /// It may have been done, or will not be.
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
                Err(failed) if route.goes_on(&failed).await => {}
                answer => return answer,
            }
        }
    }

    /// Again at once if the connection turns out to be dead, and once more if there is no answer; each time to whoever has
    /// the key by then.
    pub(crate) async fn send_idempotent(
        &self,
        key: &str,
        request: &Request<'_>,
    ) -> Result<Value, RequestError> {
        let mut repetitions = Repetitions::new(MAX_SIZE);
        loop {
            let failed = match self.send_reading(key, request).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            if let Some(failed) = repetitions.last(failed) {
                return Err(failed);
            }
            self.refresh_topology().await;
        }
    }

    async fn send_reading(&self, key: &str, request: &Request<'_>) -> Result<Value, RequestError> {
        let mut route = self.route(key);
        loop {
            match route.next().await?.send_idempotent(request).await {
                Err(failed) if route.goes_on(&failed).await => {}
                answer => return answer,
            }
        }
    }

    pub(crate) async fn try_asking(&self, key: &str) -> Result<(), RequestError> {
        let mut get = redis::cmd("GET");
        get.arg(key);
        let (pipeline, _) = with_asking(&Request::Command(&get), &mut false);
        match self
            .send_idempotent(key, &Request::Pipeline(&pipeline))
            .await?
        {
            Value::Array(answers) => match answers.into_iter().next() {
                Some(Value::ServerError(error)) => Err(self.refused(error)),
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

    /// Who is to be asked now.
    pub(crate) async fn next(&mut self) -> Result<Hop, RequestError> {
        let asking = self.ask.is_some();
        let mut node = self.ask.take().or_else(|| self.router.owner(self.slot));
        if node.is_none() && !self.router.is_lost() {
            self.router.refresh_topology().await;
            node = self.router.owner(self.slot);
        }
        let node = node.ok_or_else(|| {
            self.router.refresh_topology_soon();
            self.router.nobody()
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

    /// Whether what has failed so has changed nothing, and is to be done again where this leads to now.
    pub(crate) async fn goes_on(&mut self, failed: &RequestError) -> bool {
        let Some(last) = self.last.clone() else {
            return false;
        };
        let router = self.router;
        let next = next(failed, &last.host);
        // A slot that is on its way is where it should be.
        let is_down = failed.code.as_deref() == Some("CLUSTERDOWN");
        if failed.fault.is_some() || is_down || !matches!(next, Next::Ask(_) | Next::Stop) {
            router.refresh_topology_soon();
        }
        if next == Next::Stop || self.began.elapsed() >= router.command_timeout() {
            return false;
        }
        self.hops += 1;
        if next == Next::Wait || self.hops > AT_ONCE {
            tokio::time::sleep(WAIT.mul_f64(rand::random_range(0.5..=1.0))).await;
        }
        match next {
            Next::Moved(address) => router.move_to(self.slot, &address),
            Next::Ask(address) => self.ask = router.at(&address),
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
    /// A pipeline whose last command a node has redirected fails as a whole: what comes before it only reads. Other errors
    /// inside of a pipeline are part of the answer.
    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Value, RequestError> {
        let answer = self.ask(request).await?;
        let last = match &answer {
            Value::Array(answers) => answers.last(),
            _ => None,
        };
        match last.and_then(redirection) {
            Some(error) => Err(self.node.connections.refused(error)),
            None => Ok(answer),
        }
    }

    /// The same if any of the commands was redirected.
    pub(crate) async fn send_idempotent(
        &self,
        request: &Request<'_>,
    ) -> Result<Value, RequestError> {
        let answer = self.ask(request).await?;
        let any = match &answer {
            Value::Array(answers) => answers.iter().find_map(redirection),
            _ => None,
        };
        match any {
            Some(error) => Err(self.node.connections.refused(error)),
            None => Ok(answer),
        }
    }

    async fn ask(&self, request: &Request<'_>) -> Result<Value, RequestError> {
        let connections = &self.node.connections;
        if !self.asking {
            return connections.send(request).await;
        }
        let (pipeline, form) = with_asking(request, &mut false);
        let answer = connections.send(&Request::Pipeline(&pipeline)).await?;
        form.read(answer, connections)
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
        RequestError::of("h:1", parsed.extract_error().unwrap_err())
    }

    #[test]
    fn what_follows_from_a_failure() {
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
            // It may have been done.
            (StoreError::unknown("no answer").into(), Next::Stop),
        ] {
            let text = format!("{:?}", failed.error);
            assert_eq!(next(&failed, "asked"), follows, "{text}");
        }
    }
}
