//! What was written to a store, by key.

use std::fmt;

use bytes::Bytes;

use crate::record::Record;
use crate::testing::fault::Call;
use crate::token::Handle;

/// One write that a [`TestStore`](crate::testing::TestStore) has carried out. It has the keys of the values that it changed, and not
/// the values.
///
/// It is shown as, for example, `Replace of z5SvYAA… changed "cart", and the principal, the token`.
#[non_exhaustive]
#[derive(Clone, PartialEq, Eq)]
pub struct Written {
    /// [`Call::Create`], [`Call::Replace`], [`Call::Touch`] or [`Call::Delete`]. A `Touch` renews the session's time to live, and
    /// changes nothing of it.
    pub call: Call,
    /// The session.
    pub handle: Handle,
    /// The keys of the values that were added, changed or removed, in alphabetical order. Empty for a `Delete`.
    pub keys: Vec<String>,
    /// What else has changed.
    parts: Vec<&'static str>,
}

impl Written {
    pub(crate) fn created(handle: Handle, value: &Bytes) -> Self {
        Self::new(Call::Create, handle, None, Some(value))
    }

    pub(crate) fn replaced(handle: Handle, before: &Bytes, value: &Bytes) -> Self {
        Self::new(Call::Replace, handle, Some(before), Some(value))
    }

    pub(crate) fn without_value(call: Call, handle: Handle) -> Self {
        Self::new(call, handle, None, None)
    }

    fn new(call: Call, handle: Handle, before: Option<&Bytes>, after: Option<&Bytes>) -> Self {
        let record = |value: Option<&Bytes>| value.and_then(|value| Record::decode(value).ok());
        let before = record(before);
        let (keys, parts) = match record(after) {
            Some(after) => (
                keys(before.as_ref(), &after),
                parts(before.as_ref(), &after),
            ),
            None => (Vec::new(), Vec::new()),
        };
        Self {
            call,
            handle,
            keys,
            parts,
        }
    }
}

/// The keys of the values that differ.
fn keys(before: Option<&Record>, after: &Record) -> Vec<String> {
    let before = before.map(|record| &record.data);
    let differ = |key: &str| before.and_then(|data| data.value(key)) != after.data.value(key);
    let present = after.data.iter();
    let present = present.filter(|(key, _)| differ(key));
    let removed = before.into_iter().flat_map(|data| data.iter());
    let removed = removed.filter(|(key, _)| after.data.value(key).is_none());
    let keys = present.chain(removed);
    let mut keys: Vec<String> = keys.map(|(key, _)| key.to_string()).collect();
    keys.sort_unstable();
    keys
}

/// The other parts that differ. All that a session has from its creation on does not count then.
fn parts(before: Option<&Record>, after: &Record) -> Vec<&'static str> {
    let principal = before.and_then(|record| record.principal.as_ref());
    let label = before.and_then(|record| record.label.as_ref());
    let flash = before.map_or(&[][..], |record| &record.flash);
    let is_rotated = |before: &Record| !before.secrets().eq(after.secrets());
    let changed = [
        (after.principal.as_ref() != principal, "the principal"),
        (before.is_some_and(is_rotated), "the token"),
        (
            before.is_some_and(|before| !after.has_same_lifetimes(before)),
            "the timeouts",
        ),
        (after.label.as_ref() != label, "the label"),
        (after.flash[..] != *flash, "the flash messages"),
    ];
    let changed = changed.into_iter().filter(|(changed, _)| *changed);
    changed.map(|(_, part)| part).collect()
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {}", self.call, self.handle)?;
        let keys = self.keys.iter().map(|key| format!("{key:?}"));
        let parts = self.parts.iter().map(|part| (*part).to_owned());
        let changed: Vec<String> = keys.chain(parts).collect();
        match (self.call, changed.as_slice()) {
            (Call::Create | Call::Replace, []) => f.write_str(" changed no value"),
            (_, []) => Ok(()),
            (_, changed) => write!(f, " changed {}", changed.join(", ")),
        }
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
