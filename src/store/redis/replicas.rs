//! Writes that count once replicas have acknowledged them.
//!
//! `WAIT` returns how many replicas have the last write **of its own connection**. So a write and its `WAIT` use one connection
//! that no other request uses. On a connection that wrote nothing, `WAIT` returns at once and proves nothing: a compare-and-set
//! that found another value has nothing to wait for, and the deletion of a session that is gone already writes another key
//! first. Replication is one stream, so replicas that have the later write also have the deletion, whoever made it.

use std::time::Duration;

use redis::{Cmd, Value};

use crate::error::store::StoreError;
use crate::store::contract::{Created, Deleted, Replaced};
use crate::store::redis::cas::Cas;
use crate::store::redis::cas::swap::Swap;
use crate::store::redis::error::RequestError;
use crate::store::redis::exclusive::Exclusive;
use crate::store::redis::reply::unexpected_reply;
use crate::store::redis::request::millis;
use crate::store::redis::servers::{Route, Servers};

/// How many replicas must have the write, and how long to wait for them.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) n: u32,
    pub(crate) timeout: Duration,
}

/// Sends a `SET … NX`, and waits for replicas if it has written.
pub(crate) async fn create(
    servers: &Servers,
    key: &str,
    command: &Cmd,
    wanted: Wanted,
) -> Result<Created, StoreError> {
    let (answer, mut connection) = send_exclusively(servers, key, command).await?;
    let created = match answer {
        Value::Okay => {
            wait(&mut connection, wanted).await?;
            Created::Done
        }
        Value::Nil => Created::Exists,
        _ => return Err(unexpected_reply("SET")),
    };
    connection.return_to_pool();
    Ok(created)
}

pub(crate) async fn replace(
    servers: &Servers,
    cas: &Cas,
    swap: Swap<'_>,
    wanted: Wanted,
) -> Result<Replaced, StoreError> {
    let (replaced, mut connection) = cas.replace_exclusively(servers, swap).await?;
    if replaced == Replaced::Done {
        wait(&mut connection, wanted).await?;
    }
    connection.return_to_pool();
    Ok(replaced)
}

/// Deletes, and waits for replicas. `marker` is the prefix of a key that is never read.
pub(crate) async fn delete(
    servers: &Servers,
    key: &str,
    marker: &str,
    wanted: Wanted,
) -> Result<Deleted, StoreError> {
    let mut route = servers.route(key);
    let (deleted, mut connection) = loop {
        match delete_at(servers, &mut route, key, marker).await {
            Err(failed) if route.prepare_retry(&failed).await => {}
            deleted => break deleted?,
        }
    };
    wait(&mut connection, wanted).await?;
    connection.return_to_pool();
    Ok(deleted)
}

async fn delete_at(
    servers: &Servers,
    route: &mut Route<'_>,
    key: &str,
    marker: &str,
) -> Result<(Deleted, Exclusive), RequestError> {
    let mut unlink = redis::cmd("UNLINK");
    unlink.arg(key);
    let (answer, mut connection) = send_exclusively_at(route, &unlink).await?;
    let deleted = match answer {
        Value::Int(0) => {
            let mut set = redis::cmd("SET");
            set.arg(servers.colocated_key(key, marker))
                .arg(&["", "PX", "1"]);
            connection.send_command(&set).await?;
            Deleted::Missing
        }
        Value::Int(_) => Deleted::Done,
        _ => return Err(unexpected_reply("UNLINK").into()),
    };
    Ok((deleted, connection))
}

/// Sends a command to the server that has the key, on a connection that stays open for more commands.
async fn send_exclusively(
    servers: &Servers,
    key: &str,
    command: &Cmd,
) -> Result<(Value, Exclusive), RequestError> {
    let mut route = servers.route(key);
    loop {
        match send_exclusively_at(&mut route, command).await {
            Err(failed) if route.prepare_retry(&failed).await => {}
            sent => return sent,
        }
    }
}

async fn send_exclusively_at(
    route: &mut Route<'_>,
    command: &Cmd,
) -> Result<(Value, Exclusive), RequestError> {
    let mut connection = route.exclusive().await?;
    let answer = connection.send_command(command).await?;
    Ok((answer, connection))
}

/// Sends a `WAIT` for zero replicas.
pub(crate) async fn probe(servers: &Servers, key: &str) -> Result<(), RequestError> {
    let mut wait = redis::cmd("WAIT");
    wait.arg(0).arg(1);
    let (_, connection) = send_exclusively(servers, key, &wait).await?;
    connection.return_to_pool();
    Ok(())
}

/// Waits until replicas have the last write of this connection. If that fails, the write is on the primary all the same.
async fn wait(connection: &mut Exclusive, wanted: Wanted) -> Result<(), StoreError> {
    let Wanted { n, timeout } = wanted;
    let mut command = redis::cmd("WAIT");
    command.arg(n).arg(millis(timeout));
    let error = match connection.send_command_within(&command, timeout).await {
        Ok(Value::Int(acknowledged)) if acknowledged >= i64::from(n) => return Ok(()),
        Ok(Value::Int(acknowledged)) => StoreError::not_durable(format!(
            "{acknowledged} of the {n} replicas that `durability` requires acknowledged the write within {timeout:?}: the primary has it; \
             check whether the replicas are connected"
        )),
        Ok(_) => not_acknowledged(unexpected_reply("WAIT").into()),
        Err(failed) => not_acknowledged(failed),
    };
    tracing::warn!(target: "sessile", %error, source = ?std::error::Error::source(&error), "too few replicas acknowledged a write");
    Err(error)
}

fn not_acknowledged(failed: RequestError) -> StoreError {
    let advice = match failed.code.as_deref() {
        Some("NOPERM") => "grant the user `+wait`, which `durability` needs",
        _ => "it is unknown whether replicas have it",
    };
    StoreError::not_durable(format!(
        "the primary has the write, but WAIT failed: {advice}"
    ))
    .with_source(failed.error)
}
