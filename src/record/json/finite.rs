//! Finds floats that JSON cannot hold: serde_json writes NaN and the infinities as `null` without an error.

use std::fmt;

use serde::ser::{self, Serialize, Serializer};

use crate::error::json::JsonErrorKind;

/// Fails if the value holds a float that is not finite.
pub(crate) fn check<T: Serialize + ?Sized>(value: &T) -> Result<(), JsonErrorKind> {
    value.serialize(Finite).map_err(|Fault(kind)| kind)
}

/// A serializer that writes nothing, and fails at the first float that is not finite.
#[derive(Clone, Copy)]
struct Finite;

#[derive(Debug)]
struct Fault(JsonErrorKind);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Fault {}

impl ser::Error for Fault {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(JsonErrorKind::Unwritable)
    }
}

macro_rules! ignore {
    ($($method:ident($type:ty)),* $(,)?) => {
        $(
            fn $method(self, _: $type) -> Result<(), Fault> {
                Ok(())
            }
        )*
    };
}

impl Serializer for Finite {
    type Ok = ();
    type Error = Fault;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    ignore!(
        serialize_bool(bool),
        serialize_i8(i8),
        serialize_i16(i16),
        serialize_i32(i32),
        serialize_i64(i64),
        serialize_i128(i128),
        serialize_u8(u8),
        serialize_u16(u16),
        serialize_u32(u32),
        serialize_u64(u64),
        serialize_u128(u128),
        serialize_char(char),
        serialize_str(&str),
        serialize_bytes(&[u8]),
        serialize_unit_struct(&'static str),
    );

    fn serialize_f32(self, value: f32) -> Result<(), Fault> {
        self.serialize_f64(f64::from(value))
    }

    fn serialize_f64(self, value: f64) -> Result<(), Fault> {
        match value.is_finite() {
            true => Ok(()),
            false => Err(Fault(JsonErrorKind::NotFinite)),
        }
    }

    fn serialize_none(self) -> Result<(), Fault> {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Fault> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Fault> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), Fault> {
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Fault> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Fault> {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Fault> {
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Fault> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Fault> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Fault> {
        Ok(self)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, Fault> {
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Fault> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Fault> {
        Ok(self)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, _: &T) -> Result<(), Fault> {
        Ok(())
    }
}

macro_rules! compound {
    ($($trait:ident { $($method:ident($($name:ident)?)),+ })*) => {
        $(
            impl ser::$trait for Finite {
                type Ok = ();
                type Error = Fault;

                $(
                    fn $method<T: Serialize + ?Sized>(
                        &mut self,
                        $($name: &'static str,)?
                        value: &T,
                    ) -> Result<(), Fault> {
                        $(let _ = $name;)?
                        value.serialize(*self)
                    }
                )+

                fn end(self) -> Result<(), Fault> {
                    Ok(())
                }
            }
        )*
    };
}

compound! {
    SerializeSeq { serialize_element() }
    SerializeTuple { serialize_element() }
    SerializeTupleStruct { serialize_field() }
    SerializeTupleVariant { serialize_field() }
    SerializeMap { serialize_key(), serialize_value() }
    SerializeStruct { serialize_field(name) }
    SerializeStructVariant { serialize_field(name) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Serialize;

    use super::check;
    use crate::error::json::JsonErrorKind;

    #[derive(Serialize)]
    struct Unit;

    #[derive(Serialize)]
    struct Wrapped(f64);

    #[derive(Serialize)]
    struct Pair(u8, f32);

    #[derive(Serialize)]
    enum Shape {
        None,
        Circle(f64),
        Line(f64, f64),
        Square { side: f32 },
    }

    #[derive(Serialize)]
    struct Named {
        price: Option<f64>,
        unit: Unit,
        empty: (),
    }

    #[test]
    fn a_float_that_is_not_finite_is_found_wherever_it_is() {
        for float in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.5] {
            #[allow(
                clippy::cast_possible_truncation,
                reason = "these values do not lose precision"
            )]
            let single = float as f32;
            let named = Named {
                price: Some(float),
                unit: Unit,
                empty: (),
            };
            let results = [
                check(&float),
                check(&single),
                check(&Some(float)),
                check(&vec![0.0, float]),
                check(&[vec![vec![single]]]),
                check(&(1, "null", float)),
                check(&BTreeMap::from([("a", float)])),
                check(&Wrapped(float)),
                check(&Pair(1, single)),
                check(&Shape::Circle(float)),
                check(&Shape::Line(0.0, float)),
                check(&Shape::Square { side: single }),
                check(&named),
                check(&Box::new(BTreeMap::from([(1, vec![Some(Wrapped(float))])]))),
            ];
            let expected = match float.is_finite() {
                true => Ok(()),
                false => Err(JsonErrorKind::NotFinite),
            };
            assert_eq!(results, [expected; 14], "{float}");
        }
        let nothing = Named {
            price: None,
            unit: Unit,
            empty: (),
        };
        assert_eq!(check(&(nothing, Shape::None, 'c', i128::MIN)), Ok(()));
    }
}
