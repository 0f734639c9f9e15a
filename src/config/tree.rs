//! Settings as a tree of values, read from any format or from environment variables.
//!
//! A [`Tree`] is a `Deserializer` whose errors know where they happened. So an error names the setting by its whole path, whatever
//! format the settings come from.

use std::fmt;

use serde::de::value::StringDeserializer;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer as _,
    MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Number, Value};

use crate::config::tree_error::TreeError;

pub(crate) struct Tree(Value);

impl Tree {
    /// Reads all of it, whatever it contains.
    pub(crate) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self)
    }

    pub(crate) fn into_table(self) -> Result<Table, TreeError> {
        match self.0 {
            Value::Object(table) => Ok(Table(table)),
            // Its value may be a URL with a password.
            _ => Err(TreeError::custom("write a table")),
        }
    }
}

/// A table whose entries are taken out one by one.
pub(crate) struct Table(Map<String, Value>);

impl Table {
    /// Takes out an entry; the default if there is none.
    pub(crate) fn take<T: Default>(
        &mut self,
        name: &str,
        read: impl FnOnce(Tree) -> Result<T, TreeError>,
    ) -> Result<T, TreeError> {
        match self.0.remove(name) {
            None => Ok(T::default()),
            Some(value) => read(Tree(value)).map_err(|error| error.under(name)),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The name of any entry that is left.
    pub(crate) fn any_name(&self) -> Option<&str> {
        self.0.keys().next().map(String::as_str)
    }

    /// Takes out the entries with these names.
    pub(crate) fn split_off(&mut self, names: &[&str]) -> Self {
        let taken = names
            .iter()
            .filter_map(|&name| self.0.remove_entry(name))
            .collect();
        Self(taken)
    }
}

impl From<Table> for Tree {
    fn from(table: Table) -> Self {
        Self(Value::Object(table.0))
    }
}

/// Environment variables are text, so a text that contains a number is one.
fn number(text: &str) -> Option<Number> {
    let text = text.trim();
    let unsigned = text.parse::<u64>().map(Number::from);
    unsigned
        .or_else(|_| text.parse::<i64>().map(Number::from))
        .ok()
}

fn boolean(text: &str) -> Option<bool> {
    let text = text.trim();
    let is = |word: &str| text.eq_ignore_ascii_case(word);
    is("true").then_some(true).or(is("false").then_some(false))
}

impl<'de> Deserializer<'de> for Tree {
    type Error = TreeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Number(number) => visit_number(&number, visitor),
            Value::String(text) => visitor.visit_string(text),
            Value::Array(values) => visitor.visit_seq(Items {
                values: values.into_iter(),
                index: 0,
            }),
            Value::Object(table) => visitor.visit_map(Entries {
                entries: table.into_iter(),
                next: None,
            }),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match self.0.as_str().and_then(boolean) {
            Some(value) => visitor.visit_bool(value),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match self.0.as_str().and_then(number) {
            Some(number) => visit_number(&number, visitor),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    /// A list, or a text of items with commas between them.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        let Value::String(text) = self.0 else {
            return self.deserialize_any(visitor);
        };
        let items = text.split(',').map(str::trim).filter(|it| !it.is_empty());
        let values: Vec<_> = items.map(Value::from).collect();
        Self(Value::Array(values)).deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        visitor.visit_newtype_struct(self)
    }

    /// A name, or a table with a single entry.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        let (name, content) = match self.0 {
            Value::String(name) => (name, Value::Object(Map::new())),
            Value::Object(table) if table.len() == 1 => match table.into_iter().next() {
                Some(entry) => entry,
                None => return Err(TreeError::one_of(variants)),
            },
            _ => return Err(TreeError::one_of(variants)),
        };
        visitor.visit_enum(Variant { name, content })
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
    }
}

fn visit_number<'de, V: Visitor<'de>>(number: &Number, visitor: V) -> Result<V::Value, TreeError> {
    match (number.as_u64(), number.as_i64(), number.as_f64()) {
        (Some(value), _, _) => visitor.visit_u64(value),
        (None, Some(value), _) => visitor.visit_i64(value),
        (None, None, Some(value)) => visitor.visit_f64(value),
        (None, None, None) => Err(TreeError::custom("the number is too large")),
    }
}

struct Items {
    values: std::vec::IntoIter<Value>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = TreeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, TreeError> {
        let Some(value) = self.values.next() else {
            return Ok(None);
        };
        let place = format!("[{}]", self.index);
        self.index += 1;
        let item = seed.deserialize(Tree(value));
        item.map(Some).map_err(|error| error.under(place))
    }
}

struct Entries {
    entries: serde_json::map::IntoIter,
    next: Option<(String, Value)>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = TreeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, TreeError> {
        let Some((name, value)) = self.entries.next() else {
            return Ok(None);
        };
        self.next = Some((name.clone(), value));
        let name: StringDeserializer<TreeError> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, TreeError> {
        let Some((name, value)) = self.next.take() else {
            return Err(TreeError::custom("a value was asked for before its name"));
        };
        let value = seed.deserialize(Tree(value));
        value.map_err(|error| error.under(name))
    }
}

struct Variant {
    name: String,
    content: Value,
}

impl<'de> EnumAccess<'de> for Variant {
    type Error = TreeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), TreeError> {
        let name: StringDeserializer<TreeError> = self.name.clone().into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant {
    type Error = TreeError;

    fn unit_variant(self) -> Result<(), TreeError> {
        match self.content {
            Value::Object(table) if table.is_empty() => Ok(()),
            _ => Err(TreeError::custom(format!("write \"{}\" alone", self.name))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, TreeError> {
        let content = seed.deserialize(Tree(self.content));
        content.map_err(|error| error.under(self.name))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, TreeError> {
        let content = Tree(self.content).deserialize_seq(visitor);
        content.map_err(|error| error.under(self.name))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        let content = Tree(self.content).deserialize_map(visitor);
        content.map_err(|error| error.under(self.name))
    }
}

/// Hides the values, of which some are secret.
impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").finish_non_exhaustive()
    }
}
