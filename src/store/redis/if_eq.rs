//! The compare-and-set by `SET … IFEQ`, which compares the whole value.

use redis::Value;

use super::failed::Failed;
use super::lane::Lane;
use super::pool::{Connections, Request};
use super::{found, is_wrong_type, odd};
use crate::store::{Replaced, Stored};

/// Replaces the value whose version is that of `expected`, in one round trip; in two if what follows the version differs,
/// which a store never makes so, but another writer might.
pub(super) async fn replace(
    lane: &mut Lane<'_, '_>,
    key: &str,
    expected: &Stored,
    value: &[u8],
    ttl: u64,
) -> Result<Replaced, Failed> {
    if expected.version().is_empty() {
        // An empty value would equal it.
        let present = super::load(lane.connections(), key).await?;
        return Ok(present.map_or(Replaced::Gone, Replaced::Conflict));
    }
    match swap(lane, key, expected.value(), value, ttl).await? {
        // A version is a value's own, so this value is the expected one, and it is safe to compare with.
        Replaced::Conflict(present) if present.version() == expected.version() => {
            swap(lane, key, present.value(), value, ttl).await
        }
        replaced => Ok(replaced),
    }
}

/// Asks the server whether it knows the option, by a key that does not exist.
pub(super) async fn probe(connections: &Connections, key: &str) -> Result<(), Failed> {
    let mut lane = Lane::Shared(connections);
    swap(&mut lane, key, b"none", b"", 1).await.map(drop)
}

async fn swap(
    lane: &mut Lane<'_, '_>,
    key: &str,
    expected: &[u8],
    value: &[u8],
    ttl: u64,
) -> Result<Replaced, Failed> {
    let mut pipeline = redis::pipe();
    // In this order for the reason given at `load`.
    pipeline.cmd("PTTL").arg(key);
    pipeline.cmd("SET").arg(key).arg(value);
    pipeline.arg("IFEQ").arg(expected).arg("GET");
    pipeline.arg("PX").arg(ttl).ignore_errors();
    let answer = lane.send(&Request::Pipeline(&pipeline)).await?;
    let Value::Array(answers) = answer else {
        return Err(odd("SET").into());
    };
    let Ok([left, present]) = <[Value; 2]>::try_from(answers) else {
        return Err(odd("SET").into());
    };
    match present {
        Value::BulkString(present) if present == expected => Ok(Replaced::Done),
        Value::ServerError(error) => {
            let failed = lane.connections().refused(error);
            match is_wrong_type(&failed) {
                true => Ok(Replaced::Conflict(Stored::unreadable())),
                false => Err(failed),
            }
        }
        present => Ok(found(present, &left)?),
    }
}
