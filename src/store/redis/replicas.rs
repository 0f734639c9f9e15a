//! Writes that count once replicas have them.
//!
//! `WAIT` tells how many replicas have what was written **on its own connection**. So a write and its `WAIT` share one that
//! nobody else uses, and on a connection that wrote nothing `WAIT` answers at once and proves nothing: a compare-and-set
//! that met another value has nothing to wait for, and a deletion of what is gone already first writes something else.
//! Replication is one stream, so that replicas which have the later write have the deletion too, whoever made it.

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

/// How many replicas, and how long they may take.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) n: u32,
    pub(crate) timeout: Duration,
}

/// Does a `SET … NX`, and waits for replicas if it has written.
pub(crate) async fn create(
    servers: &Servers,
    key: &str,
    command: &Cmd,
    wanted: Wanted,
) -> Result<Created, StoreError> {
    let (answer, mut connection) = begin(servers, key, command).await?;
    let created = match answer {
        Value::Okay => {
            wait(&mut connection, wanted).await?;
            Created::Done
        }
        Value::Nil => Created::Exists,
        _ => return Err(unexpected_reply("SET")),
    };
    connection.give_back();
    Ok(created)
}

pub(crate) async fn replace(
    servers: &Servers,
    cas: &Cas,
    swap: Swap<'_>,
    wanted: Wanted,
) -> Result<Replaced, StoreError> {
    let (replaced, mut connection) = cas.replace_alone(servers, swap).await?;
    if replaced == Replaced::Done {
        wait(&mut connection, wanted).await?;
    }
    connection.give_back();
    Ok(replaced)
}

/// Deletes, and waits. `marker` begins a key that nobody reads.
pub(crate) async fn delete(
    servers: &Servers,
    key: &str,
    marker: &str,
    wanted: Wanted,
) -> Result<Deleted, StoreError> {
    let mut route = servers.route(key);
    let (deleted, mut connection) = loop {
        match delete_at(servers, &mut route, key, marker).await {
            Err(failed) if route.goes_on(&failed).await => {}
            deleted => break deleted?,
        }
    };
    wait(&mut connection, wanted).await?;
    connection.give_back();
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
    let (answer, mut connection) = begin_at(route, &unlink).await?;
    let deleted = match answer {
        Value::Int(0) => {
            let mut set = redis::cmd("SET");
            set.arg(servers.beside(key, marker)).arg(&["", "PX", "1"]);
            connection.one(&set).await?;
            Deleted::Missing
        }
        Value::Int(_) => Deleted::Done,
        _ => return Err(unexpected_reply("UNLINK").into()),
    };
    Ok((deleted, connection))
}

/// Sends a command to whoever has the key, over a connection on which more can be asked there.
async fn begin(
    servers: &Servers,
    key: &str,
    command: &Cmd,
) -> Result<(Value, Exclusive), RequestError> {
    let mut route = servers.route(key);
    loop {
        match begin_at(&mut route, command).await {
            Err(failed) if route.goes_on(&failed).await => {}
            begun => return begun,
        }
    }
}

async fn begin_at(
    route: &mut Route<'_>,
    command: &Cmd,
) -> Result<(Value, Exclusive), RequestError> {
    let mut connection = route.exclusive().await?;
    let answer = connection.one(command).await?;
    Ok((answer, connection))
}

/// Waits for no replica at all.
pub(crate) async fn probe(servers: &Servers, key: &str) -> Result<(), RequestError> {
    let mut wait = redis::cmd("WAIT");
    wait.arg(0).arg(1);
    let (_, connection) = begin(servers, key, &wait).await?;
    connection.give_back();
    Ok(())
}

/// Waits until replicas have what was written on this connection last. Whatever goes wrong, that is in the primary.
async fn wait(connection: &mut Exclusive, wanted: Wanted) -> Result<(), StoreError> {
    let Wanted { n, timeout } = wanted;
    let mut command = redis::cmd("WAIT");
    command.arg(n).arg(millis(timeout));
    let error = match connection.one_within(&command, timeout).await {
        Ok(Value::Int(have)) if have >= i64::from(n) => return Ok(()),
        Ok(Value::Int(have)) => StoreError::not_durable(format!(
            "{have} of the {n} replicas that `durability` asks for have the write after {timeout:?}: it is on the primary \
             alone; look at the replicas"
        )),
        Ok(_) => not_acknowledged(unexpected_reply("WAIT").into()),
        Err(failed) => not_acknowledged(failed),
    };
    tracing::warn!(target: "sessile", %error, source = ?std::error::Error::source(&error), "not durable");
    Err(error)
}

fn not_acknowledged(failed: RequestError) -> StoreError {
    let advice = match failed.code.as_deref() {
        Some("NOPERM") => "grant the user `+wait`, which `durability` needs",
        _ => "whether replicas have the write is not known",
    };
    StoreError::not_durable(format!(
        "the primary has the write, but WAIT failed: {advice}"
    ))
    .with_source(failed.error)
}
