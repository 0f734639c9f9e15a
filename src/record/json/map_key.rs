//! The keys of maps, as serde_json decodes them.

use std::marker::PhantomData;

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{Deserializer, Error, Visitor};
use serde::forward_to_deserialize_any;

/// The name by which serde_json asks its own deserializer for raw JSON.
pub(crate) const RAW_VALUE: &str = "$serde_json::private::RawValue";

/// The key of an entry. JSON writes a number or a boolean in a key as a string.
pub(crate) struct MapKey<'de, E> {
    text: &'de str,
    error: PhantomData<E>,
}

impl<'de, E> MapKey<'de, E> {
    pub(crate) fn new(text: &'de str) -> Self {
        let error = PhantomData;
        Self { text, error }
    }
}

fn mismatch<E: Error>() -> E {
    E::custom("the key has another type")
}

macro_rules! numeric_keys {
    ($($method:ident)*) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
                // serde_json allows white space around a number, but not around one in a key.
                if self.text.contains(|letter: char| letter.is_ascii_whitespace()) {
                    return Err(mismatch());
                }
                let mut number = serde_json::Deserializer::from_str(self.text);
                let value = number.$method(visitor).map_err(|_| mismatch())?;
                number.end().map_err(|_| mismatch())?;
                Ok(value)
            }
        )*
    };
}

impl<'de, E: Error> Deserializer<'de> for MapKey<'de, E> {
    type Error = E;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_borrowed_str(self.text)
    }

    numeric_keys!(
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64
    );

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        match self.text {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(mismatch()),
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_borrowed_bytes(self.text.as_bytes())
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, E> {
        match name {
            RAW_VALUE => Err(mismatch()),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, E> {
        visitor.visit_enum(BorrowedStrDeserializer::new(self.text))
    }

    forward_to_deserialize_any! {
        char str string unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}
