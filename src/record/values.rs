//! The values of a session, and how to decode all of them into one type of the application.

use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

use bytestring::ByteString;
use memchr::memchr;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::value::RawValue;

use crate::error::json::{JsonError, JsonErrorKind};
use crate::error::session::SessionError;
use crate::record::json::Json;
use crate::record::json::map_key::MapKey;
use crate::record::object::{Entries, Parsed};
use crate::record::text::Text;

/// The values of a session, by key. Clones share them until one of the clones is changed.
#[derive(Clone)]
pub(crate) struct Values {
    /// The values as they are stored, unless they have been changed since.
    stored: Option<ByteString>,
    /// Made from `stored` when a call needs more than one value.
    map: OnceLock<Arc<BTreeMap<ByteString, Json>>>,
}

impl Values {
    /// The values of a record. The object must be valid JSON.
    pub(crate) fn stored(
        document: &ByteString,
        object: &RawValue,
    ) -> Result<Self, serde_json::Error> {
        let text = object.get();
        if memchr(b'\\', text.as_bytes()).is_none() && text.starts_with('{') {
            return Ok(Self {
                stored: Some(document.slice_ref(text)),
                map: OnceLock::new(),
            });
        }
        let part = |(key, value): (Text<'_>, &RawValue)| {
            (
                key.part_of(document),
                Json::part_of(document.as_bytes(), value),
            )
        };
        let entries = serde_json::from_str::<Parsed<'_>>(text)?;
        Ok(entries.0.into_iter().map(part).collect())
    }

    /// The values as they are stored, unless they have been changed since.
    pub(crate) fn as_stored(&self) -> Option<&str> {
        self.stored.as_deref()
    }

    /// One value, without splitting the others from one another.
    pub(crate) fn value(&self, key: &str) -> Option<Json> {
        match (&self.stored, self.map.get()) {
            (Some(stored), None) => {
                let entries = Entries::of(stored);
                // Of two values under one key, the last counts.
                let value = entries.filter(|(name, _)| *name == key).last();
                value.map(|(_, value)| Json::part(stored, value))
            }
            _ => self.get(key).cloned(),
        }
    }

    /// Splits the values from one another, so that clones need not do it.
    pub(crate) fn split(&self) -> &Arc<BTreeMap<ByteString, Json>> {
        self.map.get_or_init(|| {
            let stored = self.stored.as_ref();
            let entries = stored.into_iter().flat_map(|stored| {
                let entries = Entries::of(stored);
                entries.map(|(key, value)| (stored.slice_ref(key), Json::part(stored, value)))
            });
            Arc::new(entries.collect())
        })
    }

    /// Puts a value under a key, instead of the one that is there.
    pub(crate) fn set(&mut self, key: &ByteString, value: Json) {
        match self.get_mut(key) {
            Some(present) => *present = value,
            None => drop(self.insert(key.clone(), value)),
        }
    }
}

impl Default for Values {
    fn default() -> Self {
        Self {
            stored: Some(ByteString::from_static("{}")),
            map: OnceLock::new(),
        }
    }
}

impl Deref for Values {
    type Target = BTreeMap<ByteString, Json>;

    fn deref(&self) -> &Self::Target {
        self.split()
    }
}

impl DerefMut for Values {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.split();
        self.stored = None;
        let map = self.map.get_mut().expect("`split` has just set it");
        Arc::make_mut(map)
    }
}

impl PartialEq for Values {
    fn eq(&self, other: &Self) -> bool {
        let same = |one: &ByteString, other: &ByteString| std::ptr::eq(&**one, &**other);
        match (&self.stored, &other.stored) {
            (Some(one), Some(other)) if same(one, other) => true,
            _ => self.split() == other.split(),
        }
    }
}

/// Shows the keys only.
impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keys()).finish()
    }
}

impl FromIterator<(ByteString, Json)> for Values {
    fn from_iter<I: IntoIterator<Item = (ByteString, Json)>>(entries: I) -> Self {
        Self {
            stored: None,
            map: OnceLock::from(Arc::new(entries.into_iter().collect())),
        }
    }
}

/// Decodes the values as one object, without copying them. Each value may be nested as deeply as one that is decoded by itself.
pub(crate) fn decode_all<T: DeserializeOwned>(values: &Values) -> Result<T, SessionError> {
    T::deserialize(Object(values)).map_err(|failure| SessionError::DecodeAll {
        key: failure.key,
        type_name: std::any::type_name::<T>(),
        source: failure.source,
    })
}

/// Why the values do not fit the type, and the key of the value that does not, if it is known.
#[derive(Debug)]
struct Failure {
    key: Option<String>,
    source: JsonError,
}

impl Failure {
    fn at(key: &str, source: JsonError) -> Self {
        Self {
            key: Some(key.to_owned()),
            source,
        }
    }
}

impl de::Error for Failure {
    // The message is dropped, since it may quote a value.
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self {
            key: None,
            source: JsonError::in_value(JsonErrorKind::Mismatch),
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::at(field, JsonError::in_value(JsonErrorKind::Mismatch))
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

struct Object<'de>(&'de Values);

impl<'de> Deserializer<'de> for Object<'de> {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_map(self.entries())
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        MapAccessDeserializer::new(self.entries()).deserialize_enum(name, variants, visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> Object<'de> {
    fn entries(self) -> Rest<'de> {
        Rest {
            rest: self.0.iter(),
            entry: None,
        }
    }
}

struct Rest<'de> {
    rest: btree_map::Iter<'de, ByteString, Json>,
    /// The entry whose key was read last.
    entry: Option<(&'de ByteString, &'de Json)>,
}

impl<'de> MapAccess<'de> for Rest<'de> {
    type Error = Failure;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Failure> {
        self.entry = self.rest.next();
        let Some((key, _)) = self.entry else {
            return Ok(None);
        };
        let name = seed.deserialize(MapKey::<Failure>::new(key));
        name.map(Some)
            .map_err(|error| Failure::at(key, error.source))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Failure> {
        let Some((key, value)) = self.entry.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let value = value.decode_seed(seed);
        value.map_err(|source| Failure::at(key, source))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::value::RawValue;
    use serde_json::{Value, json};

    use super::*;
    use crate::record::value::encode;

    fn values(json: &Value) -> Values {
        let object = json.as_object().unwrap();
        let encoded = object
            .iter()
            .map(|(key, value)| (key.as_str().into(), encode(key, value).unwrap()));
        encoded.collect()
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Profile {
        name: String,
        visits: Option<u32>,
        #[serde(default)]
        seen: Vec<String>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct NameOnly {
        name: String,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Wrapped(Profile);

    #[derive(Debug, PartialEq, Deserialize)]
    struct Flattened {
        visits: i64,
        #[serde(flatten)]
        rest: BTreeMap<String, Value>,
    }

    #[test]
    fn stored_values_are_the_same_whether_they_are_split_or_not() {
        for text in [
            r#"{}"#,
            r#"{ "a" : 1 , "b":{"a":[2,"}"]},"a":[ 3 ]}"#,
            r#"{"\u0061":1,"b":"\"","c\n":null}"#,
        ] {
            let document = ByteString::from(text);
            let object: &RawValue = serde_json::from_str(&document).unwrap();
            let expected: BTreeMap<String, Value> = serde_json::from_str(text).unwrap();
            let values = Values::stored(&document, object).unwrap();
            let one = |key| {
                values
                    .value(key)
                    .map(|json| json.decode::<Value>().unwrap())
            };
            for key in ["a", "b", "c\n", "d"] {
                assert_eq!(one(key).as_ref(), expected.get(key), "{text} {key}");
            }
            let unsplit = values.clone();
            assert_eq!(
                decode_all::<BTreeMap<String, Value>>(&values).unwrap(),
                expected
            );
            let mut changed = values.clone();
            assert_eq!((&unsplit, &changed), (&values, &values));
            changed.set(&"a".into(), encode("a", "new").unwrap());
            assert_eq!(changed.value("a").unwrap().as_bytes(), br#""new""#);
            assert!(changed != values && changed.as_stored().is_none());
            assert_eq!(values.value("b"), changed.value("b"));
        }
        for text in ["[]", "1", r#"{"\ud800":1}"#] {
            let document = ByteString::from(text);
            let raw: &RawValue = serde_json::from_str(&document).unwrap();
            assert!(Values::stored(&document, raw).is_err(), "{text}");
        }
    }

    #[test]
    fn a_struct_a_map_and_a_json_value_hold_all_values() {
        let stored = json!({"name": "mia", "visits": 3, "other": [1, {"a": null}]});
        let all = values(&stored);
        let profile = || Profile {
            name: "mia".into(),
            visits: Some(3),
            seen: Vec::new(),
        };
        assert_eq!(decode_all::<Profile>(&all).unwrap(), profile());
        assert_eq!(decode_all::<Wrapped>(&all).unwrap(), Wrapped(profile()));
        let maybe = decode_all::<Option<Profile>>(&all).unwrap();
        assert_eq!(maybe, Some(profile()));
        assert_eq!(decode_all::<Value>(&all).unwrap(), stored);
        let map = decode_all::<BTreeMap<String, Value>>(&all).unwrap();
        assert_eq!(map["other"], stored["other"]);
        let raw = decode_all::<BTreeMap<String, Box<RawValue>>>(&all).unwrap();
        assert_eq!(raw["other"].get(), r#"[1,{"a":null}]"#);
        let flattened = decode_all::<Flattened>(&all).unwrap();
        assert_eq!((flattened.visits, flattened.rest.len()), (3, 2));
        let empty = decode_all::<BTreeMap<String, Value>>(&Values::default());
        assert_eq!(empty.unwrap(), BTreeMap::new());
    }

    #[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
    struct Name(String);

    #[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        Color,
        Size,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Choice {
        Color(String),
    }

    #[test]
    fn keys_are_read_as_in_a_map_that_is_one_value() {
        fn check<T: DeserializeOwned + PartialEq + fmt::Debug>(stored: &Value) {
            let alone: T = serde_json::from_value(stored.clone()).unwrap();
            assert_eq!(decode_all::<T>(&values(stored)).unwrap(), alone);
        }
        check::<BTreeMap<Name, u32>>(&json!({"7": 1}));
        check::<BTreeMap<Option<String>, u32>>(&json!({"7": 1}));
        check::<BTreeMap<u8, u32>>(&json!({"7": 1}));
        check::<BTreeMap<i128, u32>>(&json!({"-7": 1}));
        check::<BTreeMap<bool, u32>>(&json!({"true": 1}));
        check::<BTreeMap<char, u32>>(&json!({"7": 1}));
        check::<BTreeMap<Kind, u32>>(&json!({"color": 1, "size": 2}));
        check::<Choice>(&json!({"color": "red"}));
        let error = decode_all::<BTreeMap<u8, u32>>(&values(&json!({"seven": 1})));
        assert!(
            matches!(error, Err(SessionError::DecodeAll { key: Some(key), .. }) if key == "seven")
        );
    }

    #[test]
    fn an_error_names_the_key_that_does_not_fit_but_not_its_value() {
        fn error<T: DeserializeOwned + fmt::Debug>(stored: &Value) -> (Option<String>, String) {
            let error = decode_all::<T>(&values(stored)).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(!text.contains("private"), "{text}");
            let SessionError::DecodeAll { key, .. } = &error else {
                panic!("{error:?}");
            };
            (key.clone(), error.to_string())
        }
        let wrong = json!({"name": "private", "visits": "private"});
        let (key, text) = error::<Profile>(&wrong);
        assert_eq!(key.as_deref(), Some("visits"));
        assert!(
            text.contains("visits") && text.contains("Profile"),
            "{text}"
        );
        let missing = json!({"visits": 1, "other": "private"});
        assert_eq!(error::<Profile>(&missing).0.as_deref(), Some("name"));
        let unknown = json!({"name": "private", "other": 1});
        assert_eq!(error::<NameOnly>(&unknown).0.as_deref(), Some("other"));
        let (key, text) = error::<Vec<String>>(&wrong);
        assert_eq!(key, None);
        assert!(text.contains("Vec<"), "{text}");
    }

    #[test]
    fn a_value_may_be_as_deep_as_one_that_is_decoded_by_itself() {
        let mut deep = json!(1);
        for _ in 0..crate::record::json::MAX_DEPTH {
            deep = json!([deep]);
        }
        let stored = json!({ "deep": deep });
        assert_eq!(decode_all::<Value>(&values(&stored)).unwrap(), stored);
    }
}
