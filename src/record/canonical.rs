//! Reads a record in the form in which [`Record::encode`](crate::record::Record::encode) writes it, several times as fast as a
//! parser that expects the fields in any order.

use std::borrow::Cow;

use memchr::memchr2;
use serde::Deserialize;

use crate::record::raw::RawRecord;
use crate::record::text::Text;
use crate::record::version::{CommitId, Epoch, Version};
use crate::token::SecretHash;

/// Reads a record that has exactly the form in which this version of sessile writes it. Returns `None` for every other text, which
/// may be a record all the same.
pub(crate) fn read(document: &str) -> Option<RawRecord<'_>> {
    let mut reader = Reader { rest: document };
    reader.take("{\"version\":\"")?;
    let version = Version::parse(reader.string()?)?;
    let format = u32::try_from(reader.number("format")?).ok()?;
    reader.take(",\"applied\":[")?;
    let mut applied = smallvec::SmallVec::new();
    while reader.take("\"").is_some() {
        applied.push(CommitId::parse(reader.string()?)?);
        if reader.take(",").is_none() {
            break;
        }
    }
    reader.take("],\"epoch\":\"")?;
    let epoch = Epoch::parse(reader.string()?)?;
    reader.take(",\"secret\":\"")?;
    let secret = SecretHash::decode(reader.string()?)?;
    let record = RawRecord {
        version,
        format,
        applied,
        epoch,
        secret,
        added: reader.optional_json("added")?.unwrap_or_default(),
        retired: reader.optional_json("retired")?.unwrap_or_default(),
        login: reader.optional_json("login")?,
        created: reader.number("created")?,
        started: reader.number("started")?,
        last_accessed: reader.number("last_accessed")?,
        deadline: reader.number("deadline")?,
        idle_timeout: reader.optional_number("idle_timeout")?,
        absolute_timeout: reader.optional_number("absolute_timeout")?,
        full_idle_timeout: reader.take(",\"full_idle_timeout\":true").is_some(),
        persistent: reader.take(",\"persistent\":true").is_some(),
        cookie_sent: reader.optional_number("cookie_sent")?,
        principal: reader.optional_text("principal")?,
        former_principal: reader.optional_text("former_principal")?,
        fingerprint: reader.optional_text("fingerprint")?,
        label: reader.optional_text("label")?,
        flash: reader.optional_json("flash")?.unwrap_or_default(),
        data: reader.optional_json("data")??,
        unknown: Vec::new(),
    };
    (reader.rest == "}").then_some(record)
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    /// Takes this text, if it is next.
    fn take(&mut self, text: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(text)?;
        Some(())
    }

    /// Takes the name of a field, if it is next.
    fn field(&mut self, name: &str) -> bool {
        let rest = self.rest.strip_prefix(",\"");
        let rest = rest.and_then(|rest| rest.strip_prefix(name));
        let rest = rest.and_then(|rest| rest.strip_prefix("\":"));
        rest.is_some_and(|rest| {
            self.rest = rest;
            true
        })
    }

    /// A string after its opening quote, if it has no escape sequences.
    fn string(&mut self) -> Option<&'a str> {
        let end = memchr2(b'"', b'\\', self.rest.as_bytes())?;
        let (text, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest.strip_prefix('"')?;
        text.bytes().all(|byte| byte >= b' ').then_some(text)
    }

    fn number(&mut self, name: &str) -> Option<u64> {
        self.optional_number(name)?
    }

    /// The outer `None` says that the field is not in the form that is expected.
    fn optional_number(&mut self, name: &str) -> Option<Option<u64>> {
        if !self.field(name) {
            return Some(None);
        }
        let is_digit = |byte: &u8| byte.is_ascii_digit();
        let digits = self.rest.bytes().take_while(is_digit).count();
        let (digits, rest) = self.rest.split_at_checked(digits)?;
        let is_padded = digits.len() > 1 && digits.starts_with('0');
        self.rest = rest;
        let number = digits.parse().ok().filter(|_| !is_padded)?;
        Some(Some(number))
    }

    fn optional_text(&mut self, name: &str) -> Option<Option<Text<'a>>> {
        if !self.field(name) {
            return Some(None);
        }
        self.take("\"")?;
        Some(Some(Text(Cow::Borrowed(self.string()?))))
    }

    fn optional_json<T: Deserialize<'a>>(&mut self, name: &str) -> Option<Option<T>> {
        if !self.field(name) {
            return Some(None);
        }
        let mut values = serde_json::Deserializer::from_str(self.rest).into_iter();
        let value = values.next()?.ok()?;
        self.rest = self.rest.get(values.byte_offset()..)?;
        Some(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use bytestring::ByteString;
    use proptest::prelude::*;

    use super::*;
    use crate::record::change::tests::{json, now, rotation};
    use crate::record::change::{Change, Lifetimes};
    use crate::record::flash::{Flash, Level};
    use crate::record::kept::Kept;
    use crate::record::tests::record;
    use crate::record::{Login, Record};

    /// A change of any part of a record.
    fn change() -> impl Strategy<Value = Change> {
        let text = || any::<String>().prop_map(ByteString::from);
        let seconds =
            || proptest::option::of((1_u64..9_000).prop_map(std::time::Duration::from_secs));
        prop_oneof![
            (text(), any::<f64>()).prop_map(|(key, n)| Change::Insert {
                key,
                value: json(n)
            }),
            (text(), any::<String>()).prop_map(|(key, s)| Change::Insert {
                key,
                value: json(s)
            }),
            (text(), any::<Vec<Option<String>>>()).prop_map(|(key, list)| Change::Insert {
                key,
                value: json(list)
            }),
            any::<String>().prop_map(|s| Change::AddFlash(Kept::new(Flash::new(Level::Info, s)))),
            text().prop_map(|who| Change::SetPrincipal {
                who,
                rotation: rotation(),
                guard: None,
            }),
            Just(()).prop_map(|()| Change::ClearPrincipal(rotation())),
            Just(()).prop_map(|()| Change::Rotate(rotation())),
            (seconds(), seconds(), any::<Option<bool>>()).prop_map(
                |(idle, absolute, persistent)| {
                    Change::Lifetimes(Lifetimes {
                        idle,
                        absolute,
                        persistent,
                    })
                }
            ),
        ]
    }

    fn changed(changes: &[Change], commits: u32, cookie_sent: Option<u64>) -> Record {
        let mut record = record();
        for change in changes {
            change.apply(&mut record, &now()).unwrap();
        }
        for writer in 0..commits {
            record.note_applied(CommitId {
                writer: crate::record::version::Writer(writer),
                sequence: u64::from(writer) << 40,
            });
        }
        record.cookie_sent = cookie_sent;
        record.full_idle_timeout = commits % 2 == 1;
        record.login = changes
            .last()
            .and_then(Change::rotation)
            .map(|rotation| Login {
                version: record.version,
                retired: vec![rotation.hash.clone()],
            });
        record.added = changes
            .iter()
            .filter_map(|it| Some(it.rotation()?.hash.clone()))
            .take(2)
            .collect();
        record
    }

    /// `Debug` shows no secrets.
    fn is_same(one: &RawRecord<'_>, other: &RawRecord<'_>) -> bool {
        let secrets = |of: &RawRecord<'_>| (of.secret.clone(), of.added.clone(), of.login.clone());
        format!("{one:?}") == format!("{other:?}") && secrets(one) == secrets(other)
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_the_general_parser_reads_it(
            changes in proptest::collection::vec(change(), 0..6),
            commits in 0_u32..9,
            cookie_sent in any::<Option<u64>>(),
            cut in any::<proptest::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let bytes = changed(&changes, commits, cookie_sent).encode().unwrap();
            let text = std::str::from_utf8(&bytes).unwrap();
            let general: RawRecord<'_> = serde_json::from_str(text).unwrap();
            if let Some(fast) = read(text) {
                prop_assert!(is_same(&fast, &general), "{fast:?} {general:?}");
            } else {
                let has_escapes = [&general.principal, &general.former_principal]
                    .into_iter()
                    .flatten()
                    .any(|text| matches!(text.0, Cow::Owned(_)));
                prop_assert!(has_escapes);
            }
            // With any byte changed, the general parser accepts at least what this one accepts, as the same record.
            let mut spoiled = bytes.to_vec();
            let at = cut.index(spoiled.len());
            spoiled[at] = byte;
            if let Ok(text) = std::str::from_utf8(&spoiled)
                && let Some(fast) = read(text)
            {
                let general = serde_json::from_str(text).unwrap();
                prop_assert!(is_same(&fast, &general), "{fast:?} {general:?}");
            }
        }
    }
}
