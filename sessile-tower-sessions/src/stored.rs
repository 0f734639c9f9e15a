//! A session as the bytes that a store of sessile keeps.
//!
//! It is one JSON document, `{"version":"<16 hex digits>","tower_sessions":1,"expires":<ms since 1970>,"data":{…}}`. The version
//! comes first, at a fixed place, because stores compare it (`sessile::store`).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use sessile::store::Stored;

use crate::merge::Data;

/// The format that this version writes, and the highest one that it reads.
const FORMAT: u32 = 1;

/// The expiry of a session that has ended. None expires then: the adapter stores no session whose expiry is past.
const ENDED: i64 = 0;

/// Drawn anew for each write, so that two values of one version are the same value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version(u64);

impl Version {
    pub(crate) fn random() -> Self {
        Self(random())
    }

    /// The value of this version, as far as a compare-and-set looks at it.
    pub(crate) fn stored(self) -> Stored {
        let prefix = format!(r#"{{"version":"{:016x}""#, self.0);
        Stored::new(prefix, None)
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.len() {
            16 => u64::from_str_radix(&text, 16)
                .map(Self)
                .map_err(D::Error::custom),
            _ => Err(D::Error::custom("not 16 hex digits")),
        }
    }
}

/// A random number that nobody needs to guess.
///
/// # Panics
///
/// Panics if the operating system cannot provide random bytes: session ids come from there, too.
pub(crate) fn random() -> u64 {
    getrandom::u64().expect("the operating system provides random bytes")
}

/// A session as it is stored.
#[derive(Debug, PartialEq, Deserialize)]
pub(crate) struct StoredSession {
    pub(crate) version: Version,
    #[serde(rename = "tower_sessions")]
    format: u32,
    /// Milliseconds since 1970.
    pub(crate) expires: i64,
    pub(crate) data: Data,
}

/// The value under a key is not a session of this adapter.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error(
        "the stored value is not a session of sessile-tower-sessions: give its store a `key_prefix` that nothing else uses"
    )]
    Foreign(#[source] serde_json::Error),
    #[error(
        "the stored session has format {0}, but this version of sessile-tower-sessions reads only up to {FORMAT}: update it"
    )]
    Newer(u32),
}

impl StoredSession {
    pub(crate) fn new(data: Data, expires: i64) -> Self {
        Self {
            version: Version::random(),
            format: FORMAT,
            expires,
            data,
        }
    }

    /// The mark of a session that has ended, and must not be created again under its id.
    pub(crate) fn ended() -> Self {
        Self::new(Data::new(), ENDED)
    }

    /// Whether this is a session, and not the mark of one that has ended.
    pub(crate) fn unless_ended(self) -> Option<Self> {
        (self.expires != ENDED).then_some(self)
    }

    pub(crate) fn encode(&self) -> Result<Bytes, serde_json::Error> {
        /// The fields in the order in which they are stored.
        #[derive(Serialize)]
        struct Document<'a> {
            version: Version,
            tower_sessions: u32,
            expires: i64,
            // Sorted, so that equal sessions are equal bytes but for the version.
            data: BTreeMap<&'a String, &'a Value>,
        }
        let document = Document {
            version: self.version,
            tower_sessions: self.format,
            expires: self.expires,
            data: self.data.iter().collect(),
        };
        serde_json::to_vec(&document).map(Bytes::from)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let session: Self = serde_json::from_slice(bytes).map_err(Unreadable::Foreign)?;
        match session.format {
            FORMAT => Ok(session),
            newer => Err(Unreadable::Newer(newer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(any::<String>(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_session_comes_back_as_it_was_stored(
            data in prop::collection::hash_map(any::<String>(), values(), 0..6),
            expires: i64,
        ) {
            let session = StoredSession::new(data, expires);
            let bytes = session.encode().unwrap();
            prop_assert!(bytes.starts_with(session.version.stored().value()));
            prop_assert_eq!(StoredSession::decode(&bytes).unwrap(), session);
        }

        #[test]
        fn any_bytes_are_a_session_or_an_error(bytes: Vec<u8>) {
            let _ = StoredSession::decode(&bytes);
        }
    }

    #[test]
    fn the_version_is_all_that_a_store_compares() {
        let session = StoredSession::new(Data::new(), 0);
        let stored = session.version.stored();
        assert_eq!(stored.version().len(), Stored::VERSION_LEN);
        assert_eq!(
            stored.version(),
            Stored::new(session.encode().unwrap(), None).version()
        );
    }

    #[test]
    fn the_format_does_not_change_by_accident() {
        let mut session = StoredSession::new(Data::new(), 1_700_000_000_000);
        session.version = Version(0xab);
        session.data = Data::from([("b".to_owned(), json!(1)), ("a".to_owned(), json!("x"))]);
        let text = r#"{"version":"00000000000000ab","tower_sessions":1,"expires":1700000000000,"data":{"a":"x","b":1}}"#;
        assert_eq!(session.encode().unwrap(), text);
    }

    #[test]
    fn other_values_are_errors_that_say_what_to_do() {
        let native = br#"{"version":"00000000000000ab","format":1,"applied":[],"data":{}}"#;
        let message = StoredSession::decode(native).unwrap_err().to_string();
        assert!(message.contains("key_prefix"), "{message}");
        let newer = br#"{"version":"00000000000000ab","tower_sessions":2,"expires":0,"data":{}}"#;
        let message = StoredSession::decode(newer).unwrap_err().to_string();
        assert!(message.contains("format 2"), "{message}");
    }
}
