//! What a server answers to the commands that sessions need.

use std::time::Duration;

use bytes::Bytes;
use redis::Value;

use crate::error::store::StoreError;
use crate::store::contract::{Replaced, Stored};
use crate::store::redis::error::{Failed, without_arguments};

/// What is there instead of the expected value.
pub(crate) fn found(value: Value, left: &Value) -> Result<Replaced, StoreError> {
    Ok(stored(value, left)?.map_or(Replaced::Gone, Replaced::Conflict))
}

/// What GET and PTTL said.
pub(crate) fn stored(value: Value, left: &Value) -> Result<Option<Stored>, StoreError> {
    let value = match value {
        Value::BulkString(value) => Bytes::from(value),
        Value::Nil => return Ok(None),
        Value::ServerError(error) if error.code() == "WRONGTYPE" => {
            return Ok(Some(Stored::unreadable()));
        }
        Value::ServerError(error) => {
            let message = format!("Redis refused GET with {}", error.code());
            return Err(StoreError::refused(message).with_source(without_arguments(error.into())));
        }
        _ => return Err(odd("GET")),
    };
    let left = match left {
        Value::Int(-1) => None,
        // It expired between the two commands.
        Value::Int(-2) => return Ok(None),
        Value::Int(left) => Some(Duration::from_millis(
            u64::try_from(*left).unwrap_or_default(),
        )),
        _ => return Err(odd("PTTL")),
    };
    Ok(Some(Stored::new(value, left)))
}

pub(crate) fn is_wrong_type(failed: &Failed) -> bool {
    failed.code.as_deref() == Some("WRONGTYPE")
}

/// An answer that no Redis gives: something else speaks its protocol there.
pub(crate) fn odd(command: &str) -> StoreError {
    StoreError::unknown(format!(
        "the answer to {command} is none that Redis gives: is a proxy between?"
    ))
}
