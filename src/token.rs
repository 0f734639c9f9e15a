//! The token in the cookie or header: a handle, which names the session, and a secret, which gives access to it.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

const HANDLE_BYTES: usize = 16;
const SECRET_BYTES: usize = 16;
const TOKEN_BYTES: usize = HANDLE_BYTES + SECRET_BYTES;

/// Names a session; safe to show and to log.
///
/// It consists of 128 random bits, written as 22 characters of base64url. The Redis key of a session is the store's prefix followed
/// by the handle. A handle alone does not give access to the session: the token also has a secret, of which the store holds
/// only a hash. The handle stays the same when the session is rotated ([`Session::cycle_id`](crate::Session::cycle_id)).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle([u8; HANDLE_BYTES]);

impl Handle {
    /// Generates a handle with the operating system's random number generator.
    ///
    /// sessile generates the handles of sessions itself; this function is for tests of a [`SessionStore`](crate::SessionStore).
    ///
    /// # Panics
    ///
    /// Panics if the operating system cannot provide random bytes, since sessions would then be guessable.
    pub fn random() -> Self {
        Self(random_bytes())
    }

    /// A number below `limit`; all are about equally likely, since handles are random.
    pub(crate) fn modulo(&self, limit: usize) -> usize {
        usize::from(u16::from_be_bytes([self.0[0], self.0[1]])) % limit
    }

    /// Writes 22 characters of base64url into the buffer.
    pub(crate) fn encode<'a>(&self, text: &'a mut [u8; 22]) -> &'a str {
        encode(&self.0, text)
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encode(&mut [0; 22]))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({self})")
    }
}

/// The text is not 22 characters of base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a session handle: write the 22 characters that `Handle` shows")]
pub struct InvalidHandle;

impl FromStr for Handle {
    type Err = InvalidHandle;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        decode(text.as_bytes()).map(Self).ok_or(InvalidHandle)
    }
}

/// The half of the token that gives access to the session. It is never stored and never logged.
#[derive(Clone)]
pub(crate) struct Secret(Zeroizing<[u8; SECRET_BYTES]>);

impl Secret {
    pub(crate) fn random() -> Self {
        Self(Zeroizing::new(random_bytes()))
    }

    /// The hash that the record stores. It covers the key prefix and the name of the cookie or header, so that a token issued for
    /// one store or cookie is invalid for every other.
    pub(crate) fn hash(&self, namespace: &str, name: &str) -> SecretHash {
        let mut hash = Sha256::new();
        for part in [
            namespace.as_bytes(),
            &[0],
            name.as_bytes(),
            &[0],
            &self.0[..],
        ] {
            hash.update(part);
        }
        SecretHash(hash.finalize().into())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// SHA-256 of a secret; compares in constant time.
#[derive(Clone)]
pub(crate) struct SecretHash([u8; 32]);

impl SecretHash {
    /// A placeholder that no secret hashes to, for a session that is not stored yet.
    pub(crate) fn of_nothing() -> Self {
        Self([0; 32])
    }

    /// Writes 43 characters of base64url into the buffer.
    pub(crate) fn encode<'a>(&self, text: &'a mut [u8; 43]) -> &'a str {
        encode(&self.0, text)
    }

    pub(crate) fn decode(text: &str) -> Option<Self> {
        decode(text.as_bytes()).map(Self)
    }
}

impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

/// The value of the session cookie, or of a header: 43 characters of base64url.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) handle: Handle,
    pub(crate) secret: Secret,
}

impl Token {
    pub(crate) fn random() -> Self {
        Self {
            handle: Handle::random(),
            secret: Secret::random(),
        }
    }

    pub(crate) fn encode(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([0; TOKEN_BYTES]);
        bytes[..HANDLE_BYTES].copy_from_slice(&self.handle.0);
        bytes[HANDLE_BYTES..].copy_from_slice(&self.secret.0[..]);
        Zeroizing::new(URL_SAFE_NO_PAD.encode(&bytes[..]))
    }

    /// Accepts exactly the text that [`encode`](Self::encode) writes: without padding, other alphabets or stray trailing bits.
    pub(crate) fn decode(text: &[u8]) -> Option<Self> {
        let bytes: Zeroizing<[u8; TOKEN_BYTES]> = Zeroizing::new(decode(text)?);
        let mut handle = [0; HANDLE_BYTES];
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        handle.copy_from_slice(&bytes[..HANDLE_BYTES]);
        secret.copy_from_slice(&bytes[HANDLE_BYTES..]);
        Some(Self {
            handle: Handle(handle),
            secret: Secret(secret),
        })
    }
}

pub(crate) fn encode<'a>(bytes: &[u8], text: &'a mut [u8]) -> &'a str {
    let written = URL_SAFE_NO_PAD.encode_slice(bytes, text);
    let written = written.expect("the buffer holds four characters for three bytes");
    std::str::from_utf8(&text[..written]).expect("base64url is ASCII")
}

pub(crate) fn decode<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != (N * 8).div_ceil(6) {
        return None;
    }
    let mut bytes = [0; N];
    let written = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    (written == N).then_some(bytes)
}

/// Returns random bytes from the operating system.
///
/// # Panics
///
/// Panics if the operating system cannot provide them: a guessable session is worse than a stopped process.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system provides random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_encoded_token_is_decoded() {
        let token = Token::random();
        let text = token.encode();
        assert_eq!(text.len(), 43);
        assert_eq!(Token::decode(text.as_bytes()), Some(token));

        let padded = format!("{}=", *text);
        let short = &text[..42];
        let plus = "+".repeat(43);
        // 43 characters hold two bits more than 32 bytes; `B` sets one of them.
        let trailing_bits = format!("{}B", "A".repeat(42));
        for bad in [
            "",
            "=",
            &padded,
            short,
            &plus,
            &trailing_bits,
            &" ".repeat(43),
        ] {
            assert_eq!(Token::decode(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn tokens_are_bound_to_prefix_and_cookie_name() {
        let secret = Secret::random();
        let here = secret.hash("sessile:", "id");
        assert_eq!(here, secret.hash("sessile:", "id"));
        assert_ne!(here, secret.hash("sessile:", "admin"));
        assert_ne!(here, secret.hash("other:", "id"));
        assert_ne!(here, Secret::random().hash("sessile:", "id"));
        assert_eq!(SecretHash::decode(here.encode(&mut [0; 43])), Some(here));
    }

    #[test]
    fn debug_shows_the_handle_but_not_the_secret() {
        let token = Token::random();
        let shown = format!("{token:?}");
        assert!(shown.contains(&token.handle.to_string()));
        assert!(!shown.contains(&token.encode()[22..]));
        assert_eq!(token.handle.to_string().parse(), Ok(token.handle));
        assert_eq!("x".parse::<Handle>(), Err(InvalidHandle));
    }
}
