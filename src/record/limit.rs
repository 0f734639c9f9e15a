//! Limits for the sizes of keys and values.

use crate::error::session::{LimitedPart, SessionError};

/// The longest key, in bytes.
const MAX_KEY_LEN: usize = 1024;

pub(crate) fn check_size(
    part: LimitedPart,
    size: usize,
    max_size: usize,
) -> Result<(), SessionError> {
    let limit = match part {
        LimitedPart::Key => MAX_KEY_LEN,
        LimitedPart::Value | LimitedPart::Principal | LimitedPart::Session => max_size,
    };
    match size <= limit {
        true => Ok(()),
        false => Err(SessionError::TooLarge { part, size, limit }),
    }
}
