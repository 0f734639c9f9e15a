//! Connections to a cluster: redis-rs's client, which knows where each slot is, follows slots that move and servers that
//! take over, and sends again by itself what gets no answer.
//!
//! Its own defaults wait for minutes, so every wait is set here. It learns of a new primary from answers; one that hangs
//! gives none, and is asked again and again. So after any trouble a second connection is made beside it, which asks the
//! cluster anew, and takes its place once it is there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::{Cmd, ConnectionInfo, ErrorKind, ProtocolVersion, RedisError, ServerErrorKind, Value};

use super::RedisConfig;
use super::wire::{Request, Shard};

/// How often one command is redirected or repeated.
const RETRIES: u32 = 5;
/// The waits before it, in milliseconds, growing from the one to the other: short, as all of it shares `command_timeout`.
const WAITS: (u64, u64) = (10, 100);

/// How often a command is sent once more that went from server to server until it was given up. The client says ASKING on
/// a socket that others use too, one of whose commands may come in between; then the redirection leads back.
const ROUNDS: u32 = 8;
/// The wait before it, with jitter.
const ROUND: Duration = Duration::from_millis(5);

/// How often the cluster is asked anew at most.
const RENEWAL: Duration = Duration::from_secs(1);

/// Sockets to all nodes of a cluster.
#[derive(Clone)]
pub(super) struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    client: ClusterClient,
    current: Mutex<Current>,
}

struct Current {
    connection: ClusterConnection,
    renewed: Instant,
}

pub(super) fn client(
    nodes: Vec<ConnectionInfo>,
    config: &RedisConfig,
) -> Result<ClusterClient, RedisError> {
    let tcp = nodes
        .first()
        .map(|node| node.tcp_settings().clone())
        .unwrap_or_default();
    ClusterClient::builder(nodes)
        .tcp_settings(tcp)
        // Tells of closed connections before something is sent on them.
        .use_protocol(ProtocolVersion::RESP3)
        // The nodes that were named are connected to first, then all, and one that hangs must leave time for the others.
        .connection_timeout(config.connection_timeout / 3)
        .response_timeout(config.command_timeout / 2)
        .overall_response_timeout(Some(config.command_timeout))
        .retries(RETRIES)
        .retry_wait_formula(WAITS.0, 2)
        .min_retry_wait(WAITS.0)
        .max_retry_wait(WAITS.1)
        .build()
}

impl Cluster {
    pub(super) async fn open(client: &ClusterClient) -> Result<Self, RedisError> {
        let current = Current {
            connection: client.get_async_connection().await?,
            renewed: Instant::now(),
        };
        let inner = Inner {
            client: client.clone(),
            current: Mutex::new(current),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    pub(super) async fn ask(&self, request: &Request<'_>) -> Result<Value, RedisError> {
        match request {
            Request::Command(command) => self.one(command).await,
            Request::On(Shard(slot), command) => {
                let route = slot.map(|slot| Route::new(slot, SlotAddr::Master));
                self.route((*command).clone(), route).await
            }
            // A redirection to a slot that is on its way holds for one command only, so a whole pipeline would be sent to
            // and fro.
            Request::Pipeline(pipeline) => {
                let answers = join_all(pipeline.cmd_iter().map(|command| self.one(command))).await;
                let answers = answers.into_iter().map(|answer| answer.or_else(said));
                answers.collect::<Result<_, _>>().map(Value::Array)
            }
        }
    }

    async fn one(&self, command: &Cmd) -> Result<Value, RedisError> {
        if let Some(key) = key_of(command) {
            let route = Route::with_key(key, SlotAddr::Master);
            return self.route(command.clone(), Some(route)).await;
        }
        // Answers of several servers are added up.
        if command.args_iter().next() == Some(redis::Arg::Simple(b"DBSIZE")) {
            let mut connection = self.connection();
            return redis::aio::ConnectionLike::req_packed_command(&mut connection, command).await;
        }
        self.route(command.clone(), None).await
    }

    async fn route(&self, command: Cmd, route: Option<Route>) -> Result<Value, RedisError> {
        let node = match route {
            Some(route) => SingleNodeRoutingInfo::SpecificNode(route),
            None => SingleNodeRoutingInfo::RandomPrimary,
        };
        let routing = RoutingInfo::SingleNode(node);
        let mut round = 1;
        loop {
            let mut connection = self.connection();
            let answer = connection.route_command(command.clone(), routing.clone());
            match answer.await {
                Err(error) if is_redirection(&error) && round < ROUNDS => {
                    tokio::time::sleep(ROUND.mul_f64(rand::random())).await;
                    round += 1;
                }
                answer => return answer,
            }
        }
    }

    /// The first slot of each primary.
    pub(super) async fn shards(&self) -> Result<Vec<Shard>, RedisError> {
        let mut slots = redis::cmd("CLUSTER");
        slots.arg("SLOTS");
        let answer = self.route(slots, None).await?.extract_error()?;
        Ok(first_slots(answer))
    }

    /// Asks the cluster anew, on a connection that takes the place of the present one once it is there.
    pub(super) fn renew(&self) {
        let mut current = self.lock();
        if current.renewed.elapsed() < RENEWAL {
            return;
        }
        current.renewed = Instant::now();
        drop(current);
        let cluster = self.clone();
        tokio::spawn(async move {
            match cluster.inner.client.get_async_connection().await {
                Ok(connection) => cluster.lock().connection = connection,
                Err(error) => {
                    tracing::debug!(target: "sessile", %error, "the cluster was not reached anew");
                }
            }
        });
    }

    fn connection(&self) -> ClusterConnection {
        self.lock().connection.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        self.inner
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the server has done nothing, and named another.
fn is_redirection(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask)
    )
}

/// The one key of a command; none of those that have no key.
fn key_of(command: &Cmd) -> Option<&[u8]> {
    let mut arguments = command.args_iter().map(|argument| match argument {
        redis::Arg::Simple(bytes) => bytes,
        _ => b"",
    });
    match arguments.next()? {
        b"EVAL" | b"EVALSHA" => arguments.nth(2),
        b"TIME" | b"DBSIZE" | b"SCAN" => None,
        _ => arguments.next(),
    }
}

/// What the server said of one command among others is part of the answer.
fn said(error: RedisError) -> Result<Value, RedisError> {
    match error.clone().into_server_errors().as_deref() {
        Some([(_, said)]) => Ok(Value::ServerError(said.clone())),
        _ => Err(error),
    }
}

/// From the answer to `CLUSTER SLOTS`: ranges with their first slot, their last, and their servers, the primary first, each
/// with address, port and name.
fn first_slots(ranges: Value) -> Vec<Shard> {
    let mut seen = Vec::new();
    let mut shards = Vec::new();
    let Value::Array(ranges) = ranges else {
        return shards;
    };
    for range in &ranges {
        let Value::Array(range) = range else { continue };
        let [Value::Int(first), _, Value::Array(primary), ..] = range.as_slice() else {
            continue;
        };
        let (Ok(first), Some(name)) = (u16::try_from(*first), primary.get(2)) else {
            continue;
        };
        if !seen.contains(&name) {
            seen.push(name);
            shards.push(Shard(Some(first)));
        }
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_goes_to_where_its_key_is() {
        let command = |words: &[&str]| {
            let mut command = redis::cmd(words[0]);
            command.arg(&words[1..]);
            command
        };
        for (words, key) in [
            (&["GET", "k"][..], Some("k")),
            (&["SET", "k", "v", "NX"], Some("k")),
            (&["UNLINK", "k"], Some("k")),
            (&["EVALSHA", "hash", "1", "k", "v"], Some("k")),
            (&["EVAL", "text", "1", "k", "v"], Some("k")),
            (&["TIME"], None),
            (&["DBSIZE"], None),
            (&["SCAN", "0"], None),
        ] {
            assert_eq!(key_of(&command(words)), key.map(str::as_bytes), "{words:?}");
        }
    }

    #[test]
    fn a_primary_of_several_ranges_is_one_shard() {
        let range = |first, name: &str| {
            let name = Value::BulkString(name.into());
            let address = Value::BulkString("127.0.0.1".into());
            let primary = Value::Array(vec![address, Value::Int(7000), name]);
            Value::Array(vec![Value::Int(first), Value::Int(first + 9), primary])
        };
        let ranges = Value::Array(vec![range(0, "a"), range(10, "b"), range(20, "a")]);
        assert_eq!(first_slots(ranges), [Shard(Some(0)), Shard(Some(10))]);
        assert_eq!(first_slots(Value::Nil), []);
    }
}
