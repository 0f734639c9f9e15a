//! Decodes with simd-json, with the same results as serde_json.
//!
//! simd-json parses the JSON into a *tape*, a flat list of nodes, and this file deserializes from the tape. simd-json's own
//! deserializer reads an `f32` by way of an `f64`, which rounds twice, reads `-0` as `0`, and accepts lists that are longer than
//! their type. A value that simd-json could decode differently fails with `Unclear`, and the caller decodes it with serde_json.

use std::fmt;
use std::sync::LazyLock;

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use simd_json::{Buffers, Node, StaticNode};

use crate::record::json::map_key::{MapKey, RAW_VALUE};

/// Decodes a value. Returns `None` if serde_json must decode it.
pub(crate) fn decode<T: DeserializeOwned>(json: &[u8], max_depth: usize) -> Option<T> {
    if !*IS_EXACT {
        return None;
    }
    let mut scratch = json.to_vec();
    let mut buffers = Buffers::with_max_depth(json.len(), max_depth);
    let tape = simd_json::Deserializer::from_slice_with_buffers(&mut scratch, &mut buffers)
        .ok()?
        .into_tape();
    let mut nodes = Nodes { rest: &tape.0 };
    let value = T::deserialize(&mut nodes).ok()?;
    nodes.rest.is_empty().then_some(value)
}

/// Whether the application has enabled serde_json's `arbitrary_precision`, which preserves the digits of a number whose type is
/// unknown. The tape does not have the digits.
static KEEPS_DIGITS: LazyLock<bool> = LazyLock::new(|| {
    let number: Result<serde_json::Number, _> = serde_json::from_str("1.00");
    number.is_ok_and(|number| number.to_string() == "1.00")
});

/// Whether simd-json reads floats bit for bit. It does not if the application has enabled its `approx-number-parsing`, which loses
/// the sign of a zero and the last digits of other floats.
static IS_EXACT: LazyLock<bool> = LazyLock::new(|| {
    let floats: Result<[f64; 2], _> =
        simd_json::serde::from_slice(&mut b"[-0.0,526.5631]".to_vec());
    floats.is_ok_and(|floats| floats.map(f64::to_bits) == [-0.0_f64, 526.5631].map(f64::to_bits))
});

/// simd-json might give another result, or the value is an error: serde_json must decode it, or report the error.
#[derive(Debug)]
struct Unclear;

impl fmt::Display for Unclear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("left to serde_json")
    }
}

impl std::error::Error for Unclear {}

impl de::Error for Unclear {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// The nodes of a value that have not been read yet.
struct Nodes<'a, 'de> {
    rest: &'a [Node<'de>],
}

impl<'a, 'de> Nodes<'a, 'de> {
    fn next(&mut self) -> Result<Node<'de>, Unclear> {
        let (first, rest) = self.rest.split_first().ok_or(Unclear)?;
        self.rest = rest;
        Ok(*first)
    }

    fn string(&mut self) -> Result<&'de str, Unclear> {
        match self.next()? {
            Node::String(text) => Ok(text),
            _ => Err(Unclear),
        }
    }

    fn number<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Unclear> {
        match self.next()? {
            Node::Static(number) => visit_number(number, visitor),
            _ => Err(Unclear),
        }
    }

    fn seq<V: Visitor<'de>>(&mut self, left: usize, visitor: V) -> Result<V::Value, Unclear> {
        let mut items = Items { nodes: self, left };
        let value = visitor.visit_seq(&mut items)?;
        items.end(value)
    }

    fn map<V: Visitor<'de>>(&mut self, left: usize, visitor: V) -> Result<V::Value, Unclear> {
        let mut items = Items { nodes: self, left };
        let value = visitor.visit_map(&mut items)?;
        items.end(value)
    }

    fn skip(&mut self) -> Result<(), Unclear> {
        if let Node::Array { count, .. } | Node::Object { count, .. } = self.next()? {
            self.rest = self.rest.get(count..).ok_or(Unclear)?;
        }
        Ok(())
    }
}

fn visit_number<'de, V: Visitor<'de>>(number: StaticNode, visitor: V) -> Result<V::Value, Unclear> {
    match number {
        // The tape has a signed integer only if the JSON has a minus sign, so this is `-0`.
        StaticNode::I64(0) => visitor.visit_f64(-0.0),
        StaticNode::I64(number) => visitor.visit_i64(number),
        StaticNode::U64(number) => visitor.visit_u64(number),
        #[allow(
            clippy::useless_conversion,
            reason = "with simd-json's `ordered-float` it is another type"
        )]
        StaticNode::F64(number) => visitor.visit_f64(number.into()),
        // Not a number, or a variant of a simd-json feature that the application has enabled.
        _ => Err(Unclear),
    }
}

/// Returns the `f32` nearest to the written decimal, given the nearest `f64`.
///
/// Returns `None` if the `f64` lies half-way between two `f32`: the decimal may then lie on either side of it.
fn single(number: f64) -> Option<f32> {
    #[allow(clippy::cast_possible_truncation, reason = "rounding is the point")]
    let nearest = number as f32;
    let widened = f64::from(nearest);
    let neighbour = f64::from(match widened < number {
        true => nearest.next_up(),
        false => nearest.next_down(),
    });
    let is_clear = widened == number || (widened - number).abs() < (neighbour - number).abs();
    (nearest.is_finite() && neighbour.is_finite() && is_clear).then_some(nearest)
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unclear> {
                self.number(visitor)
            }
        )*
    };
}

macro_rules! strings {
    ($($method:ident)*) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unclear> {
                visitor.visit_borrowed_str(self.string()?)
            }
        )*
    };
}

impl<'de> Deserializer<'de> for &mut Nodes<'_, 'de> {
    type Error = Unclear;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unclear> {
        match self.next()? {
            Node::String(text) => visitor.visit_borrowed_str(text),
            Node::Static(StaticNode::Null) => visitor.visit_unit(),
            Node::Static(StaticNode::Bool(value)) => visitor.visit_bool(value),
            Node::Static(_) if *KEEPS_DIGITS => Err(Unclear),
            Node::Static(number) => visit_number(number, visitor),
            Node::Array { len, .. } => self.seq(len, visitor),
            Node::Object { len, .. } => self.map(len, visitor),
        }
    }

    numbers!(
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_f64
    );

    strings!(deserialize_char deserialize_str deserialize_string deserialize_identifier);

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unclear> {
        match self.next()? {
            Node::Static(StaticNode::F64(number)) => {
                #[allow(
                    clippy::useless_conversion,
                    reason = "with simd-json's `ordered-float` it is another type"
                )]
                let number = single(number.into()).ok_or(Unclear)?;
                visitor.visit_f64(f64::from(number))
            }
            Node::Static(number) => visit_number(number, visitor),
            _ => Err(Unclear),
        }
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unclear> {
        match self.next()? {
            Node::Static(StaticNode::I64(number)) => visitor.visit_i128(number.into()),
            Node::Static(StaticNode::U64(number)) => visitor.visit_i128(number.into()),
            _ => Err(Unclear),
        }
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unclear> {
        match self.next()? {
            Node::Static(StaticNode::U64(number)) => visitor.visit_u128(number.into()),
            _ => Err(Unclear),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unclear> {
        match self.next()? {
            Node::Static(StaticNode::Bool(value)) => visitor.visit_bool(value),
            _ => Err(Unclear),
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unclear> {
        match self.next()? {
            Node::String(text) => visitor.visit_borrowed_bytes(text.as_bytes()),
            Node::Array { len, .. } => self.seq(len, visitor),
            _ => Err(Unclear),
        }
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unclear> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unclear> {
        if let Some(Node::Static(StaticNode::Null)) = self.rest.first() {
            self.next()?;
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unclear> {
        match self.next()? {
            Node::Static(StaticNode::Null) => visitor.visit_unit(),
            _ => Err(Unclear),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unclear> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unclear> {
        match name {
            RAW_VALUE => Err(Unclear),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unclear> {
        match self.next()? {
            Node::Array { len, .. } => self.seq(len, visitor),
            _ => Err(Unclear),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Unclear> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Unclear> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unclear> {
        match self.next()? {
            Node::Object { len, .. } => self.map(len, visitor),
            _ => Err(Unclear),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unclear> {
        match self.next()? {
            Node::Array { len, .. } => self.seq(len, visitor),
            Node::Object { len, .. } => self.map(len, visitor),
            _ => Err(Unclear),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unclear> {
        match self.next()? {
            Node::String(variant) => visitor.visit_enum(BorrowedStrDeserializer::new(variant)),
            Node::Object { len: 1, .. } => visitor.visit_enum(Variant(self)),
            _ => Err(Unclear),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unclear> {
        self.skip()?;
        visitor.visit_unit()
    }
}

/// The remaining items of a list, or the remaining entries of an object.
struct Items<'n, 'a, 'de> {
    nodes: &'n mut Nodes<'a, 'de>,
    left: usize,
}

impl Items<'_, '_, '_> {
    fn end<T>(self, value: T) -> Result<T, Unclear> {
        match self.left {
            0 => Ok(value),
            _ => Err(Unclear),
        }
    }
}

impl<'de> SeqAccess<'de> for Items<'_, '_, 'de> {
    type Error = Unclear;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Unclear> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.nodes).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> MapAccess<'de> for Items<'_, '_, 'de> {
    type Error = Unclear;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Unclear> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let key = self.nodes.string()?;
        seed.deserialize(MapKey::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Unclear> {
        seed.deserialize(&mut *self.nodes)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// An enum variant with content.
struct Variant<'n, 'a, 'de>(&'n mut Nodes<'a, 'de>);

impl<'de> EnumAccess<'de> for Variant<'_, '_, 'de> {
    type Error = Unclear;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Unclear> {
        let variant = seed.deserialize(&mut *self.0)?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, '_, 'de> {
    type Error = Unclear;

    fn unit_variant(self) -> Result<(), Unclear> {
        de::Deserialize::deserialize(self.0)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Unclear> {
        seed.deserialize(self.0)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Unclear> {
        self.0.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unclear> {
        self.0.deserialize_struct("", fields, visitor)
    }
}
