//! The bytes of a record.
//!
//! A record is one JSON document. Its first bytes are `{"version":"<16 hex digits>"`, so that a store can compare versions without
//! parsing. Values that a request did not change are written back byte for byte, so that values which this version of sessile
//! cannot decode survive.

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::json::{JsonError, JsonErrorKind};
use crate::record::Record;
use crate::record::canonical;
use crate::record::flash;
use crate::record::json::Json;
use crate::record::kept::Kept;
use crate::record::raw::RawRecord;
use crate::record::text::Text;
use crate::record::values::Values;
use crate::time::duration_millis;

/// The highest format of a record that this version of sessile reads. It rejects records of a higher format.
///
/// Records of format 2 have [`added`](Record::added) secrets. A node that did not know them would lock out signed-in browsers, and
/// would leave those secrets valid at the next rotation. All other records are written as format 1, so that nodes which know only
/// format 1 can use them. Such a node rejects records of format 2 like those of any newer format: its requests cannot change the
/// session and get 409, until a rotation on a node that knows format 2 turns the record into one of format 1 again.
///
/// A later version of sessile may add the following without raising the format: fields of the record, of a flash and of an entry
/// of `retired`; levels of flashes; and entries of either list of any other kind. This version preserves all of it byte for byte,
/// as long as the entry exists. A later version must raise the format, so that this one rejects the record,
///
/// - to change the type or meaning of any other field. `version`, `applied`, `epoch`, `secret` and `deadline` decide which changes
///   were applied and who may use the session, and the other fields are too small to be read in part;
/// - to add a field that a login must clear when the principal changes: this version keeps unknown fields at a login.
const FORMAT: u32 = 2;
const FORMAT_OF_ONE_SECRET: u32 = 1;

/// Why a stored value cannot be read as a record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error(
        "the record has format {0}, but this version of sessile reads only up to format {FORMAT}"
    )]
    Newer(u32),
    #[error("the value is not a session record")]
    Malformed(#[source] JsonError),
    #[error("the value does not begin with a version")]
    NoVersion,
    #[error("the key does not hold a string")]
    NotBytes,
}

impl Record {
    pub(crate) fn encode(&self) -> Result<Bytes, serde_json::Error> {
        let unknown = || self.unknown.iter().map(|(key, value)| (key, value));
        let len = |(key, value): (&ByteString, &Json)| key.len() + value.len() + 4;
        let data = match self.data.as_stored() {
            Some(stored) => stored.len(),
            None => self.data.iter().map(len).sum(),
        };
        let unknown_len: usize = unknown().map(len).sum();
        let mut json = Vec::with_capacity(512 + data + unknown_len);
        self.write_head(&mut json)?;
        json.extend_from_slice(b",\"data\":");
        match self.data.as_stored() {
            Some(stored) => json.extend_from_slice(stored.as_bytes()),
            None => {
                json.push(b'{');
                write_entries(&mut json, self.data.iter())?;
                json.push(b'}');
            }
        }
        if !self.unknown.is_empty() {
            json.push(b',');
            write_entries(&mut json, unknown())?;
        }
        json.push(b'}');
        Ok(json.into())
    }

    /// Writes all fields but the data and those of later versions. The first is the version.
    fn write_head(&self, json: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let format = match self.added.is_empty() {
            true => FORMAT_OF_ONE_SECRET,
            false => FORMAT,
        };
        json.extend_from_slice(&self.version.prefix());
        field(json, "format", &format)?;
        field(json, "applied", &self.applied)?;
        field(json, "epoch", &self.epoch)?;
        field(json, "secret", &self.secret)?;
        list(json, "added", &self.added)?;
        list(json, "retired", &self.retired)?;
        optional(json, "login", self.login.as_ref())?;
        field(json, "created", &self.created)?;
        field(json, "started", &self.started)?;
        field(json, "last_accessed", &self.last_accessed)?;
        field(json, "deadline", &self.deadline)?;
        optional(json, "idle_timeout", self.idle_timeout.map(duration_millis))?;
        let absolute = self.absolute_timeout.map(duration_millis);
        optional(json, "absolute_timeout", absolute)?;
        let full = self.full_idle_timeout.then_some(true);
        optional(json, "full_idle_timeout", full)?;
        optional(json, "persistent", self.persistent.then_some(true))?;
        optional(json, "cookie_sent", self.cookie_sent)?;
        optional(json, "principal", self.principal.as_deref())?;
        optional(json, "former_principal", self.former_principal.as_deref())?;
        optional(json, "fingerprint", self.fingerprint.as_deref())?;
        optional(json, "label", self.label.as_deref())?;
        list(json, "flash", &self.flash)
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, Unreadable> {
        let Ok(document) = ByteString::try_from(bytes.clone()) else {
            return Err(unreadable(
                bytes,
                JsonError::in_value(JsonErrorKind::Syntax),
            ));
        };
        let raw_record = match canonical::read(&document) {
            Some(raw_record) => raw_record,
            None => serde_json::from_str::<RawRecord<'_>>(&document)
                .map_err(|error| unreadable(bytes, JsonError::reading(&error)))?,
        };
        if raw_record.format > FORMAT {
            return Err(Unreadable::Newer(raw_record.format));
        }
        let keep = |raw: &RawValue| Json::part_of(bytes, raw);
        let keep_text = |text: Text<'_>| text.part_of(&document);
        let record = Self {
            data: Values::stored(&document, raw_record.data)
                .map_err(|error| Unreadable::Malformed(JsonError::reading(&error)))?,
            unknown: raw_record
                .unknown
                .into_iter()
                .map(|(key, raw)| (keep_text(key), keep(raw)))
                .collect(),
            version: raw_record.version,
            applied: raw_record.applied,
            epoch: raw_record.epoch,
            secret: raw_record.secret,
            added: raw_record.added,
            login: raw_record.login,
            retired: raw_record
                .retired
                .into_iter()
                .map(|raw| Kept::read(keep(raw), |json| json.decode().ok()))
                .collect(),
            created: raw_record.created,
            started: raw_record.started,
            last_accessed: raw_record.last_accessed,
            deadline: raw_record.deadline,
            idle_timeout: raw_record.idle_timeout.map(Duration::from_millis),
            absolute_timeout: raw_record.absolute_timeout.map(Duration::from_millis),
            full_idle_timeout: raw_record.full_idle_timeout,
            persistent: raw_record.persistent,
            cookie_sent: raw_record.cookie_sent,
            principal: raw_record.principal.map(keep_text),
            former_principal: raw_record.former_principal.map(keep_text),
            fingerprint: raw_record.fingerprint.map(keep_text),
            label: raw_record.label.map(keep_text),
            flash: raw_record
                .flash
                .into_iter()
                .map(|raw| Kept::read(keep(raw), flash::read))
                .collect(),
        };
        match bytes.starts_with(&record.version.prefix()) {
            true => Ok(record),
            false => Err(Unreadable::NoVersion),
        }
    }
}

fn field<T: Serialize + ?Sized>(
    json: &mut Vec<u8>,
    name: &str,
    value: &T,
) -> Result<(), serde_json::Error> {
    json.extend_from_slice(b",\"");
    json.extend_from_slice(name.as_bytes());
    json.extend_from_slice(b"\":");
    serde_json::to_writer(json, value)
}

fn optional<T: Serialize>(
    json: &mut Vec<u8>,
    name: &str,
    value: Option<T>,
) -> Result<(), serde_json::Error> {
    value.map_or(Ok(()), |value| field(json, name, &value))
}

fn list<T: Serialize>(
    json: &mut Vec<u8>,
    name: &str,
    items: &[T],
) -> Result<(), serde_json::Error> {
    match items.is_empty() {
        true => Ok(()),
        false => field(json, name, items),
    }
}

/// Why the bytes are not a record of a format that this version of sessile reads. A newer format may have changed any field, so
/// only its number is read.
fn unreadable(bytes: &[u8], error: JsonError) -> Unreadable {
    match serde_json::from_slice::<FormatOnly>(bytes) {
        Ok(FormatOnly { format }) if format > FORMAT => Unreadable::Newer(format),
        _ => Unreadable::Malformed(error),
    }
}

fn write_key(json: &mut Vec<u8>, key: &str) -> Result<(), serde_json::Error> {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if !key.bytes().all(is_plain) {
        return serde_json::to_writer(json, key);
    }
    json.push(b'"');
    json.extend_from_slice(key.as_bytes());
    json.push(b'"');
    Ok(())
}

fn write_entries<'a>(
    json: &mut Vec<u8>,
    entries: impl IntoIterator<Item = (&'a ByteString, &'a Json)>,
) -> Result<(), serde_json::Error> {
    for (index, (key, value)) in entries.into_iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        write_key(json, key)?;
        json.push(b':');
        json.extend_from_slice(value.as_bytes());
    }
    Ok(())
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Login;
    use crate::record::tests::record;
    use crate::token::Secret;

    fn stored(json: impl Into<Bytes>) -> Bytes {
        json.into()
    }

    fn text(record: &Record) -> String {
        String::from_utf8(record.encode().unwrap().to_vec()).unwrap()
    }

    #[test]
    fn unchanged_values_come_back_byte_for_byte() {
        let unusual = r#"{"n":9007199254740993.000, "e":[ 1e400 ,{}],"t":"\u00e9\/"}"#;
        let json = text(&record()).replace(
            r#""data":{"#,
            &format!(r#""data":{{"a b\"":{unusual},"z":null"#),
        );
        let json = json.replace("}}", r#"}, "later":{"x": 1}}"#);
        let record = Record::decode(&stored(json.clone())).unwrap();
        assert_eq!(record.data["a b\""].as_bytes(), unusual.as_bytes());
        let again = text(&record);
        assert!(again.contains(unusual), "{again}");
        assert!(again.ends_with(r#""z":null},"later":{"x": 1}}"#), "{again}");
    }

    #[test]
    fn the_version_is_the_first_29_bytes() {
        let record = record();
        let value = stored(record.encode().unwrap());
        let prefix = record.version.prefix();
        assert_eq!(prefix.len(), 29);
        assert!(value.starts_with(&prefix));
    }

    #[test]
    fn a_value_that_is_not_a_record_is_an_error_and_never_a_panic() {
        let good = text(&record());
        let newer = good
            .replace("\"format\":1", "\"format\":3")
            .replace("\"epoch\":", "\"era\":");
        assert!(matches!(
            Record::decode(&stored(newer)),
            Err(Unreadable::Newer(3))
        ));
        for format in [1, 2] {
            let spoiled = good
                .replace("\"format\":1", &format!("\"format\":{format}"))
                .replace("\"epoch\":", "\"era\":");
            assert!(matches!(
                Record::decode(&stored(spoiled)),
                Err(Unreadable::Malformed(_))
            ));
        }
        let spaced = good.replacen("{\"version\"", "{ \"version\"", 1);
        assert!(matches!(
            Record::decode(&stored(spaced)),
            Err(Unreadable::NoVersion)
        ));
        for end in 0..good.len() {
            assert!(
                Record::decode(&stored(good.as_bytes()[..end].to_vec())).is_err(),
                "{end}"
            );
        }
        for bad in [
            "",
            "[]",
            "null",
            "{}",
            "\u{0}\u{1}",
            "{\"version\":1}",
            "\"x\"",
        ] {
            assert!(Record::decode(&stored(bad.to_owned())).is_err(), "{bad}");
        }
        let nested = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(Record::decode(&stored(nested)).is_err());
    }

    #[test]
    fn only_a_record_with_several_secrets_has_the_format_that_older_nodes_reject() {
        let mut record = record();
        let secret = || Secret::random().hash("sessile:", "id");
        record.login = Some(Login {
            version: record.version,
            retired: vec![secret()],
        });
        let one = text(&record);
        assert!(one.contains("\"format\":1,"), "{one}");
        record.added = vec![secret(), secret()];
        let several = text(&record);
        assert!(several.contains("\"format\":2,"), "{several}");
        let read = Record::decode(&stored(several)).unwrap();
        assert_eq!((&read.added, &read.login), (&record.added, &record.login));
        assert_eq!(read.secrets().count(), 3);
        assert!(Record::decode(&stored(one)).unwrap().added.is_empty());
    }
}
