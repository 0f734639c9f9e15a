//! Entries of the record's lists. They preserve what a later version of sessile has written into them.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::record::json::Json;

/// An entry as it is stored, and its value if this version of sessile can read it.
#[derive(Clone)]
pub(crate) struct Kept<T> {
    json: Json,
    /// `None` if only a later version of sessile can read the entry.
    known: Option<T>,
}

impl<T> Kept<T> {
    /// Creates an entry of this version of sessile.
    ///
    /// # Panics
    ///
    /// Panics if the entry cannot be written as JSON. Flash messages and retired secrets can: they are structs of strings and
    /// integers.
    pub(crate) fn new(entry: T) -> Self
    where
        T: Serialize,
    {
        Self {
            json: Json::encode(&entry).expect("strings and integers are JSON"),
            known: Some(entry),
        }
    }

    /// Reads an entry that any version of sessile may have written; keeps it even if `read` cannot read it.
    pub(crate) fn read(json: Json, read: impl FnOnce(&Json) -> Option<T>) -> Self {
        let known = read(&json);
        Self { json, known }
    }

    pub(crate) fn known(&self) -> Option<&T> {
        self.known.as_ref()
    }

    /// The size of the entry in the record, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.json.len()
    }
}

/// Compares the stored bytes, so that entries of later versions can be compared too.
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

/// Shows only the size: the text of a flash message must not get into a log.
impl<T> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.json.fmt(f)
    }
}
