//! Loads a session.

use redis::{Cmd, Value};

use crate::store::contract::Loaded;
use crate::store::redis::error::RequestError;
use crate::store::redis::reply::{loaded, unexpected_reply};
use crate::store::redis::request::Request;
use crate::store::redis::servers::Servers;

pub(crate) async fn load(servers: &Servers, key: &str) -> Result<Loaded, RequestError> {
    let mut pipeline = redis::Pipeline::with_capacity(2);
    // In this order, a commit between the two commands leaves a time to live that is too short for the record, which a renewal
    // corrects; in the other, one that seems too long.
    for name in ["PTTL", "GET"] {
        let mut command = Cmd::with_capacity(2, name.len() + key.len());
        command.arg(name).arg(key);
        pipeline.add_command(command);
    }
    let answer = servers
        .send_idempotent(key, &Request::Pipeline(&pipeline))
        .await?;
    let Value::Array(answers) = answer else {
        return Err(unexpected_reply("GET").into());
    };
    match <[Value; 2]>::try_from(answers) {
        Ok([left, value]) => Ok(loaded(value, &left)?),
        Err(_) => Err(unexpected_reply("GET").into()),
    }
}
