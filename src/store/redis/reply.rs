//! Reads the replies of servers.

use std::time::Duration;

use redis::Value;

use crate::error::store::StoreError;
use crate::store::contract::{Loaded, Replaced, Stored};
use crate::store::redis::error::{RequestError, without_arguments};

/// The outcome of a replacement that found another value, from the replies to GET and PTTL.
pub(crate) fn conflict(value: Value, left: &Value) -> Result<Replaced, StoreError> {
    Ok(not_replaced(loaded(value, left)?))
}

/// The outcome of a replacement that found this instead of the expected value.
pub(crate) fn not_replaced(present: Loaded) -> Replaced {
    match present {
        Loaded::Found(stored) => Replaced::Conflict(stored),
        Loaded::Unreadable => Replaced::Unreadable,
        Loaded::Missing => Replaced::Gone,
    }
}

/// The session, from the replies to GET and PTTL.
pub(crate) fn loaded(value: Value, left: &Value) -> Result<Loaded, StoreError> {
    match (self::value(value, None)?, left) {
        // It expired between the two commands.
        (Loaded::Found(_), Value::Int(-2)) => Ok(Loaded::Missing),
        (Loaded::Found(stored), Value::Int(-1)) => Ok(Loaded::Found(stored)),
        (Loaded::Found(stored), Value::Int(left)) => {
            let left = Duration::from_millis(u64::try_from(*left).unwrap_or_default());
            Ok(Loaded::Found(Stored::new(
                stored.value().clone(),
                Some(left),
            )))
        }
        (Loaded::Found(_), _) => Err(unexpected_reply("PTTL")),
        (absent, _) => Ok(absent),
    }
}

/// The session, from the reply to GET.
pub(crate) fn value(value: Value, left: Option<Duration>) -> Result<Loaded, StoreError> {
    match value {
        Value::BulkString(value) => Ok(Loaded::Found(Stored::new(value, left))),
        Value::Nil => Ok(Loaded::Missing),
        Value::ServerError(error) if error.code() == "WRONGTYPE" => Ok(Loaded::Unreadable),
        Value::ServerError(error) => {
            let message = format!("Redis refused GET with {}", error.code());
            Err(StoreError::refused(message).with_source(without_arguments(error.into())))
        }
        _ => Err(unexpected_reply("GET")),
    }
}

pub(crate) fn is_wrong_type(failed: &RequestError) -> bool {
    failed.code.as_deref() == Some("WRONGTYPE")
}

/// A reply that Redis never sends: another program speaks its protocol there.
pub(crate) fn unexpected_reply(command: &str) -> StoreError {
    StoreError::unknown(format!(
        "unexpected reply to {command}: is there a proxy between the application and Redis?"
    ))
}
