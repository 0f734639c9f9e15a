//! The compare-and-set by `SET … IFEQ`, which compares the whole value.

use redis::Value;

use crate::store::contract::{Loaded, Replaced, Stored};
use crate::store::redis::cas::swap::Swap;
use crate::store::redis::channel::Channel;
use crate::store::redis::error::RequestError;
use crate::store::redis::read::load;
use crate::store::redis::reply::{is_wrong_type, not_replaced, unexpected_reply};
use crate::store::redis::request::Request;
use crate::store::redis::servers::Servers;

/// Replaces the value whose version is that of `expected`, in one round trip. In three, if the version is the same and the rest
/// differs: a store never writes such a value, but another writer might.
pub(crate) async fn replace(
    channel: &mut Channel<'_>,
    swap: Swap<'_>,
) -> Result<Replaced, RequestError> {
    let (servers, Swap { key, expected, .. }) = (channel.servers(), swap);
    // No version would equal an empty value.
    if !expected.version().is_empty() {
        match replace_exactly(channel, swap).await? {
            Outcome::Replaced => return Ok(Replaced::Done),
            Outcome::Unreadable => return Ok(Replaced::Unreadable),
            Outcome::Unchanged => {}
        }
    }
    // The server does not say which value it has.
    let present = load(servers, key)
        .await
        .map_err(RequestError::into_unavailable)?;
    let Loaded::Found(stored) = &present else {
        return Ok(not_replaced(present));
    };
    if stored.version().is_empty() || stored.version() != expected.version() {
        return Ok(not_replaced(present));
    }
    // A version identifies a value, so this value is the expected one, and it is safe to compare with it.
    let swap = Swap {
        expected: stored,
        ..swap
    };
    match replace_exactly(channel, swap).await? {
        Outcome::Replaced => Ok(Replaced::Done),
        Outcome::Unreadable => Ok(Replaced::Unreadable),
        Outcome::Unchanged => Ok(not_replaced(
            load(servers, key)
                .await
                .map_err(RequestError::into_unavailable)?,
        )),
    }
}

/// Checks whether the server supports the option, with a key that does not exist.
pub(crate) async fn probe(servers: &Servers, key: &str) -> Result<(), RequestError> {
    let swap = Swap {
        key,
        expected: &Stored::new("none", None),
        value: b"",
        ttl: 1,
    };
    let channel = &mut Channel::shared(servers, key);
    replace_exactly(channel, swap).await.map(drop)
}

/// Whether the server does not know the option; it has changed nothing.
pub(crate) fn is_missing(failed: &RequestError) -> bool {
    failed.code.as_deref() == Some("ERR")
}

async fn replace_exactly(
    channel: &mut Channel<'_>,
    swap: Swap<'_>,
) -> Result<Outcome, RequestError> {
    let Swap {
        key, value, ttl, ..
    } = swap;
    let expected = &swap.expected.value()[..];
    // The rest is the names and the time to live.
    let len = key.len() + value.len() + expected.len() + 29;
    let mut command = redis::Cmd::with_capacity(7, len);
    command.arg("SET").arg(key).arg(value);
    command.arg("IFEQ").arg(expected).arg("PX").arg(ttl);
    match channel.send(&Request::Command(&command)).await {
        Ok(Value::Okay) => Ok(Outcome::Replaced),
        Ok(Value::Nil) => Ok(Outcome::Unchanged),
        Ok(_) => Err(unexpected_reply("SET").into()),
        Err(failed) if is_wrong_type(&failed) => Ok(Outcome::Unreadable),
        Err(failed) => Err(failed),
    }
}

/// What one `SET … IFEQ` has done.
enum Outcome {
    Replaced,
    /// There is another value, or none.
    Unchanged,
    /// There is something other than a string.
    Unreadable,
}
