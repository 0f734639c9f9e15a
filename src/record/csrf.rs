//! CSRF tokens: what a page must send back to show that it came from this site.
//!
//! A token is a random mask and the mask XOR a key. The key is a hash of the session's epoch, so a token is valid until the next
//! rotation, and nothing is stored for it. The mask differs in each response, so that compression of the page leaks nothing of
//! the key (BREACH).
//!
//! The epoch has 64 bits. That is enough: whoever knows a token of a session knows its key already, and whoever does not must guess
//! the epoch by requests of the victim's browser, 2^63 on average. There is nothing to search offline.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::record::version::Epoch;
use crate::token::{decode, encode, random_bytes};

const KEY_BYTES: usize = 32;

/// The key of a session's CSRF tokens during one epoch.
pub(crate) struct CsrfKey(Zeroizing<[u8; KEY_BYTES]>);

impl CsrfKey {
    /// The key covers the key prefix and the cookie name, as the hash of a secret does, so that a token issued for one store or
    /// cookie is invalid for every other.
    pub(crate) fn new(namespace: &str, cookie: &str, epoch: Epoch) -> Self {
        let mut hash = Sha256::new();
        for part in [
            &b"sessile csrf"[..],
            &[0],
            namespace.as_bytes(),
            &[0],
            cookie.as_bytes(),
            &[0],
            &epoch.to_bytes(),
        ] {
            hash.update(part);
        }
        Self(Zeroizing::new(hash.finalize().into()))
    }

    /// A new token: 86 characters of base64url.
    pub(crate) fn token(&self) -> String {
        let mask: [u8; KEY_BYTES] = random_bytes();
        let mut bytes = [0; 2 * KEY_BYTES];
        bytes[..KEY_BYTES].copy_from_slice(&mask);
        bytes[KEY_BYTES..].copy_from_slice(&self.xor(&mask));
        encode(&bytes, &mut [0; 86]).to_owned()
    }

    /// Whether this is a token of this key; compares in constant time.
    pub(crate) fn accepts(&self, token: &str) -> bool {
        let Some(bytes) = decode::<{ 2 * KEY_BYTES }>(token.as_bytes()) else {
            return false;
        };
        let (mask, masked) = bytes.split_at(KEY_BYTES);
        self.xor(mask).ct_eq(masked).into()
    }

    fn xor(&self, mask: &[u8]) -> [u8; KEY_BYTES] {
        let mut masked = *self.0;
        for (byte, mask) in masked.iter_mut().zip(mask) {
            *byte ^= mask;
        }
        masked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_valid_for_its_store_cookie_and_epoch_only() {
        let epoch = Epoch::random();
        let key = CsrfKey::new("sessile:", "id", epoch);
        let (token, again) = (key.token(), key.token());
        assert_ne!(token, again);
        assert_ne!(token[43..], again[43..]);
        assert_eq!(token.len(), 86);
        assert!(key.accepts(&token) && key.accepts(&again));
        for other in [
            CsrfKey::new("sessile:", "id", Epoch::random()),
            CsrfKey::new("sessile:", "admin", epoch),
            CsrfKey::new("other:", "id", epoch),
            CsrfKey::new("sessile", ":id", epoch),
        ] {
            assert!(!other.accepts(&token));
        }
    }

    #[test]
    fn no_other_text_is_accepted() {
        let key = CsrfKey::new("sessile:", "id", Epoch::random());
        let token = key.token();
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'Q' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(!key.accepts(&changed), "{at}");
        }
        let zeros = "A".repeat(86);
        for bad in [
            "",
            &token[..85],
            &format!("{token}A"),
            &format!("{token}="),
            &format!(" {token}"),
            &zeros,
            &"é".repeat(43),
        ] {
            assert!(!key.accepts(bad), "{bad:?}");
        }
    }
}
