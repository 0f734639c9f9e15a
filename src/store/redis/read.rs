//! Loads a session.

use std::time::Duration;

use redis::{Cmd, Value};

use crate::store::contract::Loaded;
use crate::store::redis::error::RequestError;
use crate::store::redis::reply::{loaded, unexpected_reply, value};
use crate::store::redis::request::Request;
use crate::store::redis::servers::Servers;

/// Reads the value and the time to live.
pub(crate) async fn load(servers: &Servers, key: &str) -> Result<Loaded, RequestError> {
    // In this order, a commit between the two commands leaves a time to live that is too short for the record, which a renewal
    // corrects; in the other, one that seems too long.
    let answers = read(servers, key, &["PTTL", "GET"]).await?;
    match <[Value; 2]>::try_from(answers) {
        Ok([left, value]) => Ok(loaded(value, &left)?),
        Err(_) => Err(unexpected_reply("GET").into()),
    }
}

/// Reads the value of a key whose time to live is known.
pub(crate) async fn load_value(
    servers: &Servers,
    key: &str,
    left: Duration,
) -> Result<Loaded, RequestError> {
    let answers = read(servers, key, &["GET"]).await?;
    match <[Value; 1]>::try_from(answers) {
        Ok([answer]) => Ok(value(answer, Some(left))?),
        Err(_) => Err(unexpected_reply("GET").into()),
    }
}

async fn read(servers: &Servers, key: &str, commands: &[&str]) -> Result<Vec<Value>, RequestError> {
    let mut pipeline = redis::Pipeline::with_capacity(commands.len());
    for name in commands {
        let mut command = Cmd::with_capacity(2, name.len() + key.len());
        command.arg(name).arg(key);
        pipeline.add_command(command);
    }
    let answer = servers
        .send_idempotent(key, &Request::Pipeline(&pipeline))
        .await?;
    match answer {
        Value::Array(answers) => Ok(answers),
        _ => Err(unexpected_reply("GET").into()),
    }
}
