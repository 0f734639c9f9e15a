//! Entries of the record's lists that keep what a later version of sessile has put into them.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::record::json::Json;

/// An entry as it is stored, and what it means to this version.
#[derive(Clone)]
pub(crate) struct Kept<T> {
    json: Json,
    /// `None` if only a later version knows.
    known: Option<T>,
}

impl<T> Kept<T> {
    /// An entry of this version's.
    ///
    /// # Panics
    ///
    /// If it cannot be written as JSON. Flashes and retired secrets can: they are structs of strings and integers.
    pub(crate) fn new(entry: T) -> Self
    where
        T: Serialize,
    {
        Self {
            json: Json::encode(&entry).expect("strings and integers are JSON"),
            known: Some(entry),
        }
    }

    /// An entry of any version's; one that cannot be read is an entry.
    pub(crate) fn read(json: Json, read: impl FnOnce(&Json) -> Option<T>) -> Self {
        let known = read(&json);
        Self { json, known }
    }

    pub(crate) fn known(&self) -> Option<&T> {
        self.known.as_ref()
    }

    /// Bytes that it takes in the record.
    pub(crate) fn len(&self) -> usize {
        self.json.len()
    }
}

/// By what is stored, whoever knows what it means.
impl<T> PartialEq for Kept<T> {
    fn eq(&self, other: &Self) -> bool {
        self.json == other.json
    }
}

impl<T> Serialize for Kept<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue =
            serde_json::from_slice(self.json.as_bytes()).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

/// Only its size: the text of a flash is none of a log's business.
impl<T> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.json.fmt(f)
    }
}
