//! A primary that sentinels watch over: they are asked for its address whenever a connection is made.
//!
//! A connection that is lost, or whose server turns out to be no primary any more, is left as any other; so the next one
//! leads to the server that took over.

use std::fmt;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, RedisError, Value};

use super::place::{addresses, at_address};

#[derive(Clone, Debug)]
pub(super) struct Sentinels {
    nodes: Vec<ConnectionInfo>,
    /// What they call the primary.
    name: String,
    /// How to connect to it, at an address that does not count.
    primary: ConnectionInfo,
}

impl Sentinels {
    pub(super) fn new(nodes: Vec<ConnectionInfo>, name: String, primary: ConnectionInfo) -> Self {
        Self {
            nodes,
            name,
            primary,
        }
    }

    /// Connects to the primary that the first sentinel to name one which is there names. `limit` is for all of it.
    pub(super) async fn open(
        &self,
        config: &AsyncConnectionConfig,
        limit: Duration,
    ) -> Result<MultiplexedConnection, RedisError> {
        // So that one that is silent leaves time for the others, and for the primary.
        let share = limit / u32::try_from(self.nodes.len() + 1).unwrap_or(u32::MAX);
        let mut said = Vec::new();
        let mut failure = None;
        for node in &self.nodes {
            let primary = match tokio::time::timeout(share, self.ask(node, config)).await {
                Ok(Ok(Some(primary))) => primary,
                Ok(Ok(None)) => {
                    said.push(format!("{} knows no `{}`", node.addr(), self.name));
                    continue;
                }
                Ok(Err(error)) => {
                    said.push(format!("{}: {error}", node.addr()));
                    continue;
                }
                Err(_) => {
                    said.push(format!("{} did not answer in {share:?}", node.addr()));
                    continue;
                }
            };
            let address = primary.addr().to_string();
            match connect(primary, config).await {
                Ok(Some(connection)) => return Ok(connection),
                Ok(None) => said.push(format!(
                    "{} names {address}, which is a replica",
                    node.addr()
                )),
                // Another sentinel may know of the failover already.
                Err(error) => failure = Some(error),
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let message = "no sentinel names a primary";
        Err((ErrorKind::Io, message, said.join("; ")).into())
    }

    async fn ask(
        &self,
        sentinel: &ConnectionInfo,
        config: &AsyncConnectionConfig,
    ) -> Result<Option<ConnectionInfo>, RedisError> {
        let mut connection = Client::open(sentinel.clone())?
            .get_multiplexed_async_connection_with_config(config)
            .await?;
        let answer: Option<(String, u16)> = redis::cmd("SENTINEL")
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(&self.name)
            .query_async(&mut connection)
            .await?;
        Ok(answer.map(|(host, port)| at_address(self.primary.clone(), &host, port)))
    }
}

impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = addresses(&self.nodes);
        write!(f, "{} of the sentinels {nodes}", self.name)
    }
}

/// Whether the server thinks so itself: right after a failover a sentinel may still name the old one. One that does not let
/// this user ask is taken at the sentinel's word.
async fn is_primary(connection: &mut MultiplexedConnection) -> Result<bool, RedisError> {
    match redis::cmd("ROLE").query_async(connection).await {
        Ok(Value::Array(role)) => Ok(matches!(
            role.first(),
            Some(Value::BulkString(role)) if role == b"master"
        )),
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::Server(_)) => Ok(true),
        Err(error) => Err(error),
    }
}

/// `None` if the server there is no primary.
async fn connect(
    primary: ConnectionInfo,
    config: &AsyncConnectionConfig,
) -> Result<Option<MultiplexedConnection>, RedisError> {
    let mut connection = Client::open(primary)?
        .get_multiplexed_async_connection_with_config(config)
        .await?;
    Ok(is_primary(&mut connection).await?.then_some(connection))
}
