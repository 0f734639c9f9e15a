//! A string of a JSON document, not copied unless it has an escape sequence.

use std::borrow::Cow;
use std::fmt;

use bytestring::ByteString;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

/// A string of a JSON document, not copied unless it has an escape sequence.
#[cfg_attr(test, derive(Debug))]
pub(crate) struct Text<'a>(pub(crate) Cow<'a, str>);

impl Text<'_> {
    /// The string as a part of the document that it was read from, whose memory it then shares.
    pub(crate) fn part_of(self, document: &ByteString) -> ByteString {
        match self.0 {
            Cow::Borrowed(part) => document.slice_ref(part),
            Cow::Owned(text) => text.into(),
        }
    }
}

/// Written by hand, because serde's `Cow` always copies.
impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;

        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Borrow)
    }
}
