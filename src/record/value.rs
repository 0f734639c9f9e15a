//! Operations on the values of a session. Their errors name the key.

use bytestring::ByteString;

use crate::error::json::JsonError;
use crate::error::session::SessionError;
use crate::record::json::Json;
use crate::record::values::Values;

/// Adds to a counter and returns the sum; a missing counter starts at zero.
pub(crate) fn count(data: &mut Values, key: &ByteString, by: i64) -> Result<i64, SessionError> {
    let sum = sum(key, data.get(key), by)?;
    data.set(key, encode(key, &sum)?);
    Ok(sum)
}

/// Appends an item to a list; a missing list starts empty.
pub(crate) fn append(data: &mut Values, key: &ByteString, item: &Json) -> Result<(), SessionError> {
    let error = |source| decode_error::<Vec<()>>(key, source);
    if let Some(list) = data.get_mut(key) {
        return list.push(item).map_err(error);
    }
    let mut list = encode::<[(); 0]>(key, &[])?;
    list.push(item).map_err(error)?;
    data.insert(key.clone(), list);
    Ok(())
}

/// The counter's value with `by` added; a missing counter starts at zero.
fn sum(key: &str, value: Option<&Json>, by: i64) -> Result<i64, SessionError> {
    let count: i64 = match value {
        None => 0,
        Some(value) => value.decode().map_err(|_| SessionError::NotANumber {
            key: key.to_owned(),
        })?,
    };
    count.checked_add(by).ok_or_else(|| SessionError::Overflow {
        key: key.to_owned(),
    })
}

/// The increment that subtracts `by`.
pub(crate) fn negated(key: &str, by: i64) -> Result<i64, SessionError> {
    by.checked_neg().ok_or_else(|| SessionError::Overflow {
        key: key.to_owned(),
    })
}

pub(crate) fn encode<T: serde::Serialize + ?Sized>(
    key: &str,
    value: &T,
) -> Result<Json, SessionError> {
    Json::encode(value).map_err(|source| encode_error::<T>(key, source))
}

/// Encodes an item of a list.
pub(crate) fn encode_item<T: serde::Serialize + ?Sized>(
    key: &str,
    value: &T,
) -> Result<Json, SessionError> {
    Json::encode_item(value).map_err(|source| encode_error::<T>(key, source))
}

fn encode_error<T: ?Sized>(key: &str, source: JsonError) -> SessionError {
    SessionError::Encode {
        key: key.to_owned(),
        type_name: std::any::type_name::<T>(),
        source,
    }
}

pub(crate) fn decode<T: serde::de::DeserializeOwned>(
    key: &str,
    value: &Json,
) -> Result<T, SessionError> {
    value
        .decode()
        .map_err(|error| decode_error::<T>(key, error))
}

fn decode_error<T>(key: &str, source: JsonError) -> SessionError {
    SessionError::Decode {
        key: key.to_owned(),
        type_name: std::any::type_name::<T>(),
        source,
    }
}
