//! What a save leaves in the store: a three-way merge, key by key.

use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The values of a session.
pub(crate) type Data = HashMap<String, Value>;

/// The digest of each value that the request loaded.
pub(crate) type Digests = HashMap<String, Digest>;

/// Stands for a value, so that a record need not carry every value twice.
///
/// Half of SHA-256. A visitor who finds two values of one digest could hide a change from the merge, so it is not a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest([u8; 16]);

impl Digest {
    pub(crate) fn of(value: &Value) -> Self {
        let hash: [u8; 32] = Sha256::digest(value.to_string()).into();
        let mut half = [0; 16];
        half.copy_from_slice(&hash[..16]);
        Self(half)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(D::Error::custom)?;
        let half = <[u8; 16]>::try_from(bytes).map_err(|_| D::Error::custom("not a digest"))?;
        Ok(Self(half))
    }
}

pub(crate) fn digests(data: &Data) -> Digests {
    let digest = |(key, value): (&String, &Value)| (key.clone(), Digest::of(value));
    data.iter().map(digest).collect()
}

/// The stored values with the changes of this request: every key that it has changed since it loaded the session is as the
/// request has it, and every other key is as it is stored.
///
/// Without the digests of what it loaded, nobody knows what it has changed. Its values then replace all that is stored.
pub(crate) fn merge(loaded: Option<&Digests>, stored: Data, ours: &Data) -> Data {
    let Some(loaded) = loaded else {
        return ours.clone();
    };
    let mut merged = stored;
    for key in changed_keys(loaded, ours) {
        match ours.get(key) {
            Some(value) => merged.insert(key.clone(), value.clone()),
            None => merged.remove(key),
        };
    }
    merged
}

/// The keys whose value in `ours` is another one than was loaded, also those that are missing in one of the two.
pub(crate) fn changed_keys<'a>(loaded: &'a Digests, ours: &'a Data) -> Vec<&'a String> {
    let keys: HashSet<_> = loaded.keys().chain(ours.keys()).collect();
    let is_changed = |key: &&String| loaded.get(*key).copied() != ours.get(*key).map(Digest::of);
    keys.into_iter().filter(is_changed).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn data(value: Value) -> Data {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_merge_as_a_table() {
        // What the request loaded; what is stored when it saves; what it saves; what must come out.
        let table = [
            // Nobody else has written.
            (
                json!({"a": 1}),
                json!({"a": 1}),
                json!({"a": 2}),
                json!({"a": 2}),
            ),
            (json!({"a": 1}), json!({"a": 1}), json!({}), json!({})),
            (json!({}), json!({}), json!({"a": 1}), json!({"a": 1})),
            // Each has changed a key of its own: added, changed, removed.
            (
                json!({}),
                json!({"b": 1}),
                json!({"a": 1}),
                json!({"a": 1, "b": 1}),
            ),
            (
                json!({"a": 1, "b": 1}),
                json!({"a": 1, "b": 2}),
                json!({"a": 2, "b": 1}),
                json!({"a": 2, "b": 2}),
            ),
            (
                json!({"a": 1, "b": 1}),
                json!({"a": 1}),
                json!({"b": 1}),
                json!({}),
            ),
            // Both have changed one key: the later one, which is ours, wins.
            (
                json!({"a": 1}),
                json!({"a": 2}),
                json!({"a": 3}),
                json!({"a": 3}),
            ),
            (json!({"a": 1}), json!({"a": 2}), json!({}), json!({})),
            (json!({"a": 1}), json!({}), json!({"a": 3}), json!({"a": 3})),
            (json!({}), json!({"a": 2}), json!({"a": 3}), json!({"a": 3})),
            // What we have only read is not ours to write.
            (
                json!({"a": 1}),
                json!({"a": 2}),
                json!({"a": 1}),
                json!({"a": 2}),
            ),
            (json!({"a": 1}), json!({}), json!({"a": 1}), json!({})),
            // A value that was changed and changed back was not changed.
            (
                json!({"a": {"x": [1, 2]}}),
                json!({"a": 5}),
                json!({"a": {"x": [1, 2]}}),
                json!({"a": 5}),
            ),
            // JSON has one null, and it is not a missing key.
            (
                json!({"a": 1}),
                json!({"a": 1}),
                json!({"a": null}),
                json!({"a": null}),
            ),
            (json!({"a": null}), json!({"a": null}), json!({}), json!({})),
        ];
        for (loaded, stored, ours, expected) in table {
            let merged = merge(
                Some(&digests(&data(loaded.clone()))),
                data(stored.clone()),
                &data(ours.clone()),
            );
            assert_eq!(merged, data(expected), "{loaded} {stored} {ours}");
        }
    }

    #[test]
    fn without_the_loaded_values_ours_replace_all() {
        let merged = merge(None, data(json!({"a": 1, "b": 1})), &data(json!({"a": 2})));
        assert_eq!(merged, data(json!({"a": 2})));
    }

    #[test]
    fn different_values_have_different_digests() {
        let values = [
            json!(null),
            json!(false),
            json!(0),
            json!(0.0),
            json!(-0.0),
            json!("0"),
            json!(""),
            json!([]),
            json!({}),
            json!([0]),
            json!({"0": 0}),
            json!(1e300),
            json!(u64::MAX),
        ];
        for (at, one) in values.iter().enumerate() {
            for (other_at, other) in values.iter().enumerate() {
                assert_eq!(
                    Digest::of(one) == Digest::of(other),
                    at == other_at,
                    "{one} {other}"
                );
            }
        }
    }
}
