//! The compare-and-set by `SET … IFEQ`, which compares the whole value.

use redis::Value;

use crate::store::contract::{Replaced, Stored};
use crate::store::redis::cas::swap::Swap;
use crate::store::redis::channel::Channel;
use crate::store::redis::error::RequestError;
use crate::store::redis::read::load;
use crate::store::redis::reply::{conflict, is_wrong_type, not_replaced, unexpected_reply};
use crate::store::redis::request::Request;
use crate::store::redis::servers::Servers;

/// Replaces the value whose version is that of `expected`, in one round trip. In two, if the version is the same and the rest
/// differs: a store never writes such a value, but another writer might.
pub(crate) async fn replace(
    channel: &mut Channel<'_>,
    swap: Swap<'_>,
) -> Result<Replaced, RequestError> {
    let Swap { key, expected, .. } = swap;
    if expected.version().is_empty() {
        // It would equal an empty value.
        let present = load(channel.servers(), key).await?;
        return Ok(not_replaced(present));
    }
    match replace_exactly(channel, swap).await? {
        // A version identifies a value, so this value is the expected one, and it is safe to compare with it.
        Replaced::Conflict(present) if present.version() == expected.version() => {
            let expected = &present;
            replace_exactly(channel, Swap { expected, ..swap }).await
        }
        replaced => Ok(replaced),
    }
}

/// Checks whether the server supports the option, with a key that does not exist.
pub(crate) async fn probe(servers: &Servers, key: &str) -> Result<(), RequestError> {
    let swap = Swap {
        key,
        expected: &Stored::new("none", None),
        value: b"",
        ttl: Some(1),
    };
    let channel = &mut Channel::shared(servers, key);
    replace_exactly(channel, swap).await.map(drop)
}

async fn replace_exactly(
    channel: &mut Channel<'_>,
    swap: Swap<'_>,
) -> Result<Replaced, RequestError> {
    let Swap {
        key, value, ttl, ..
    } = swap;
    let expected = &swap.expected.value()[..];
    let mut pipeline = redis::pipe();
    // In this order for the reason given in `load`.
    pipeline.cmd("PTTL").arg(key);
    pipeline.cmd("SET").arg(key).arg(value);
    pipeline.arg("IFEQ").arg(expected).arg("GET");
    match ttl {
        Some(ttl) => pipeline.arg("PX").arg(ttl),
        None => pipeline.arg("KEEPTTL"),
    };
    pipeline.ignore_errors();
    let answer = channel.send(&Request::Pipeline(&pipeline)).await?;
    let Value::Array(answers) = answer else {
        return Err(unexpected_reply("SET").into());
    };
    let Ok([left, present]) = <[Value; 2]>::try_from(answers) else {
        return Err(unexpected_reply("SET").into());
    };
    match present {
        Value::BulkString(present) if present == expected => Ok(Replaced::Done),
        Value::ServerError(error) => {
            let failed = channel.server_error(error);
            match is_wrong_type(&failed) {
                true => Ok(Replaced::Unreadable),
                false => Err(failed),
            }
        }
        present => Ok(conflict(present, &left)?),
    }
}
