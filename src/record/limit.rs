//! How large keys and values may be.

use crate::error::session::SessionError;

/// How long a key may be, in bytes.
const KEY_LONGEST: usize = 1024;

pub(crate) fn check_size(
    what: &'static str,
    size: usize,
    max_size: usize,
) -> Result<(), SessionError> {
    let limit = match what {
        "key" => KEY_LONGEST,
        _ => max_size,
    };
    match size <= limit {
        true => Ok(()),
        false => Err(SessionError::TooLarge { what, size, limit }),
    }
}
