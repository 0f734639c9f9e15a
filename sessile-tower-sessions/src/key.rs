//! Where a session is stored.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sessile::Handle;
use sha2::{Digest as _, Sha256};

/// The handle of a session with this id.
///
/// It is a hash, so whoever reads the keys of Redis cannot make a cookie from them. Half of SHA-256: ids have 128 bits, so a longer
/// hash would not be harder to guess.
pub(crate) fn handle(namespace: &str, id: i128) -> Handle {
    let mut hash = Sha256::new();
    for part in [
        b"sessile-tower-sessions\0",
        namespace.as_bytes(),
        &[0],
        &id.to_le_bytes(),
    ] {
        hash.update(part);
    }
    let text = URL_SAFE_NO_PAD.encode(&hash.finalize()[..16]);
    text.parse().expect("16 bytes in base64url are a handle")
}

/// A new id, from the operating system.
///
/// # Panics
///
/// Panics if the operating system cannot provide random bytes: a guessable session is worse than a stopped process.
pub(crate) fn random_id() -> i128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system provides random bytes");
    i128::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handle_of_an_id_never_changes_and_shows_nothing_of_it() {
        assert_eq!(
            handle("sessile:", 1).to_string(),
            handle("sessile:", 1).to_string()
        );
        assert_ne!(handle("sessile:", 1), handle("sessile:", 2));
        assert_ne!(handle("sessile:", 1), handle("other:", 1));
        // As stored by version 0.1: another value would sign out everybody.
        assert_eq!(handle("sessile:", 1).to_string(), "q5gTmlvFkOjOXCTZrD5Zug");
        let id = URL_SAFE_NO_PAD.encode(7_i128.to_le_bytes());
        assert_ne!(handle("sessile:", 7).to_string(), id);
    }
}
