//! What a request loaded. It travels with the record, for the record is all that `save` gets of the request.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::merge::{Data, Digests, digests};
use crate::stored::{Version, random};

/// The key of a record's data under which the adapter keeps what the request has loaded: the version of the session, and a digest of
/// each value.
///
/// It is added when a session is loaded and removed when it is saved, so it is never stored. tower-sessions has no call that lists
/// keys, so an application does not meet it, except in `Debug` of a session. Store nothing of your own under it.
pub const HIDDEN_KEY: &str = "sessile.loaded";

/// What a request has loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Loaded {
    /// Which load this was. Two requests may load the same version, and then save different things.
    pub(crate) load: u64,
    /// The version that is stored if nobody has saved since. `None` if it cannot be the one that the values are of.
    pub(crate) version: Option<Version>,
    pub(crate) digests: Digests,
}

impl Loaded {
    pub(crate) fn of(data: &Data, version: Version) -> Self {
        Self {
            load: random(),
            version: Some(version),
            digests: digests(data),
        }
    }

    pub(crate) fn put_into(&self, data: &mut Data) {
        // A struct of numbers and texts is always a JSON value. Without it, the next save would replace all that is stored.
        let value = serde_json::to_value(self).unwrap_or(Value::Null);
        data.insert(HIDDEN_KEY.to_owned(), value);
    }
}

/// The values of the application, and what was loaded. That is `None` if the record was not loaded, or was cleared.
pub(crate) fn split(data: &Data) -> (Data, Option<Loaded>) {
    let mut data = data.clone();
    let hidden = data.remove(HIDDEN_KEY);
    let loaded = hidden.and_then(|value| serde_json::from_value(value).ok());
    (data, loaded)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_loaded_comes_back_and_leaves_the_values_alone() {
        let values = Data::from([
            ("a".to_owned(), json!([1.5, null])),
            ("b".to_owned(), json!({})),
        ]);
        let loaded = Loaded::of(&values, Version::random());
        let mut record = values.clone();
        loaded.put_into(&mut record);
        assert_eq!(split(&record), (values, Some(loaded)));
    }

    #[test]
    fn without_the_hidden_key_or_with_another_value_under_it_nothing_is_known() {
        assert_eq!(split(&Data::new()), (Data::new(), None));
        for value in [
            json!(null),
            json!(1),
            json!({"load": 1}),
            json!({"load": 1, "version": "x", "digests": {}}),
        ] {
            let record = Data::from([(HIDDEN_KEY.to_owned(), value)]);
            assert_eq!(split(&record), (Data::new(), None));
        }
    }
}
