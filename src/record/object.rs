//! Splits a JSON object into its entries, without parsing the values.

use std::fmt;

use memchr::memchr;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::record::text::Text;

/// The entries of an object: each key and value as they are written, the key without its quotes. The text must be a valid JSON
/// object without backslashes, so that every quote begins or ends a string. Of any other text the entries mean nothing.
pub(crate) struct Entries<'a> {
    rest: &'a str,
}

impl<'a> Entries<'a> {
    pub(crate) fn of(object: &'a str) -> Self {
        debug_assert!(memchr(b'\\', object.as_bytes()).is_none());
        Self { rest: object }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        // Behind the opening brace or a comma.
        let key = self.rest.get(1..)?.trim_ascii_start().strip_prefix('"')?;
        let (key, rest) = key.split_at_checked(memchr(b'"', key.as_bytes())?)?;
        let value = rest.get(1..)?.trim_ascii_start().strip_prefix(':')?;
        let value = value.trim_ascii_start();
        let (value, rest) = value.split_at_checked(end_of(value.as_bytes())?)?;
        self.rest = rest.trim_ascii_start();
        Some((key, value))
    }
}

/// The entries of any object, split by a parser.
pub(crate) struct Parsed<'a>(pub(crate) Vec<(Text<'a>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Parsed<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Split;

        impl<'de> Visitor<'de> for Split {
            type Value = Parsed<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of session values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Parsed(entries))
            }
        }

        deserializer.deserialize_map(Split)
    }
}

/// Where the value ends that the text begins with.
fn end_of(text: &[u8]) -> Option<usize> {
    match text.first()? {
        b'"' => Some(memchr(b'"', text.get(1..)?)? + 2),
        b'{' | b'[' => end_of_container(text),
        _ => text
            .iter()
            .position(|byte| matches!(byte, b',' | b'}') || byte.is_ascii_whitespace()),
    }
}

fn end_of_container(text: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => at += 1 + memchr(b'"', text.get(at + 1..)?)?,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    fn json() -> impl Strategy<Value = String> {
        let text = "[a-z{}\\[\\]:, é]{0,6}";
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            "-?[1-9][0-9]{0,3}(\\.[0-9]{1,2})?([eE]-?[0-9])?",
            text.prop_map(|text| format!("\"{text}\"")),
        ];
        let space = || prop_oneof![Just(""), Just(" "), Just("\n\t ")];
        leaf.prop_recursive(3, 24, 4, move |inner| {
            let entry = (text, space(), inner.clone()).prop_map(|(key, space, value)| {
                format!("{space}\"{key}\"{space}:{space}{value}{space}")
            });
            prop_oneof![
                proptest::collection::vec(inner, 0..4)
                    .prop_map(|items| format!("[{}]", items.join(", "))),
                proptest::collection::vec(entry, 0..4)
                    .prop_map(|entries| format!("{{{}}}", entries.join(","))),
            ]
        })
    }

    proptest! {
        #[test]
        fn an_object_is_split_as_a_parser_splits_it(
            entries in proptest::collection::vec(("[a-z{}, é]{0,6}", json()), 0..6),
            space in prop_oneof![Just(""), Just(" "), Just("\n")],
        ) {
            let entries = entries.iter();
            let entries: Vec<_> = entries.map(|(key, value)| format!("{space}\"{key}\" :{space}{value}{space}")).collect();
            let object = format!("{{{}}}", entries.join(","));
            let expected: BTreeMap<&str, &RawValue> = serde_json::from_str(&object).unwrap();
            let expected: BTreeMap<_, _> = expected.into_iter().map(|(key, value)| (key, value.get())).collect();
            prop_assert_eq!(Entries::of(&object).count(), entries.len());
            prop_assert_eq!(Entries::of(&object).collect::<BTreeMap<_, _>>(), expected);
        }
    }

    #[test]
    fn a_text_that_is_no_object_never_panics() {
        for text in [
            "",
            "{",
            "{}",
            "{\"",
            "{\"a",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":[",
            "{\"a\":[}",
            "[]]",
            "{\"a\":1",
            "é",
        ] {
            assert!(Entries::of(text).count() <= 1, "{text}");
        }
    }
}
