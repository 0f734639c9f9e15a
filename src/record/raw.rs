//! A record as it was parsed, whose values still borrow the buffer that they were read from.

use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use crate::record::Login;
use crate::record::text::Text;
use crate::record::version::{CommitId, Epoch, Version};
use crate::time::Millis;
use crate::token::SecretHash;

/// A parsed record, whose values still borrow the buffer that they were read from.
#[cfg_attr(test, derive(Debug))]
pub(crate) struct RawRecord<'a> {
    pub(crate) version: Version,
    pub(crate) format: u32,
    pub(crate) applied: SmallVec<[CommitId; 4]>,
    pub(crate) epoch: Epoch,
    pub(crate) secret: SecretHash,
    pub(crate) added: Vec<SecretHash>,
    pub(crate) retired: Vec<&'a RawValue>,
    pub(crate) login: Option<Login>,
    pub(crate) created: Millis,
    pub(crate) started: Millis,
    pub(crate) last_accessed: Millis,
    pub(crate) deadline: Millis,
    pub(crate) idle_timeout: Option<Millis>,
    pub(crate) absolute_timeout: Option<Millis>,
    pub(crate) full_idle_timeout: bool,
    pub(crate) persistent: bool,
    pub(crate) cookie_sent: Option<Millis>,
    pub(crate) principal: Option<Text<'a>>,
    pub(crate) former_principal: Option<Text<'a>>,
    pub(crate) fingerprint: Option<Text<'a>>,
    pub(crate) label: Option<Text<'a>>,
    pub(crate) data: &'a RawValue,
    pub(crate) flash: Vec<&'a RawValue>,
    pub(crate) unknown: Vec<(Text<'a>, &'a RawValue)>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field<'a> {
    Version,
    Format,
    Applied,
    Epoch,
    Secret,
    Added,
    Retired,
    Login,
    Created,
    Started,
    LastAccessed,
    Deadline,
    IdleTimeout,
    AbsoluteTimeout,
    FullIdleTimeout,
    Persistent,
    CookieSent,
    Principal,
    FormerPrincipal,
    Fingerprint,
    Label,
    Flash,
    Data,
    #[serde(borrow)]
    Unknown(Text<'a>),
}

/// Written by hand, because serde's `flatten` cannot leave values raw.
impl<'de> Deserialize<'de> for RawRecord<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = RawRecord<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a session record")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawRecord<'de>, A::Error> {
                let mut version = None;
                let mut format = None;
                let mut applied = None;
                let mut epoch = None;
                let mut secret = None;
                let mut added = Vec::new();
                let mut retired = Vec::new();
                let mut login = None;
                let mut created = None;
                let mut started = None;
                let mut last_accessed = None;
                let mut deadline = None;
                let mut idle_timeout = None;
                let mut absolute_timeout = None;
                let mut full_idle_timeout = false;
                let mut persistent = false;
                let mut cookie_sent = None;
                let mut flash = Vec::new();
                let mut principal = None;
                let mut former_principal = None;
                let mut fingerprint = None;
                let mut label = None;
                let mut data = None;
                let mut unknown = Vec::new();
                while let Some(field) = map.next_key()? {
                    match field {
                        Field::Version => version = Some(map.next_value()?),
                        Field::Format => format = Some(map.next_value()?),
                        Field::Applied => applied = Some(map.next_value()?),
                        Field::Epoch => epoch = Some(map.next_value()?),
                        Field::Secret => secret = Some(map.next_value()?),
                        Field::Added => added = map.next_value()?,
                        Field::Retired => retired = map.next_value()?,
                        Field::Login => login = map.next_value()?,
                        Field::Created => created = Some(map.next_value()?),
                        Field::Started => started = Some(map.next_value()?),
                        Field::IdleTimeout => idle_timeout = map.next_value()?,
                        Field::AbsoluteTimeout => absolute_timeout = map.next_value()?,
                        Field::FullIdleTimeout => full_idle_timeout = map.next_value()?,
                        Field::Persistent => persistent = map.next_value()?,
                        Field::CookieSent => cookie_sent = map.next_value()?,
                        Field::Flash => flash = map.next_value()?,
                        Field::LastAccessed => last_accessed = Some(map.next_value()?),
                        Field::Deadline => deadline = Some(map.next_value()?),
                        Field::Principal => principal = map.next_value()?,
                        Field::FormerPrincipal => former_principal = map.next_value()?,
                        Field::Fingerprint => fingerprint = map.next_value()?,
                        Field::Label => label = map.next_value()?,
                        Field::Data => data = Some(map.next_value()?),
                        Field::Unknown(key) => unknown.push((key, map.next_value()?)),
                    }
                }
                let missing = A::Error::missing_field;
                Ok(RawRecord {
                    version: version.ok_or_else(|| missing("version"))?,
                    format: format.ok_or_else(|| missing("format"))?,
                    applied: applied.ok_or_else(|| missing("applied"))?,
                    epoch: epoch.ok_or_else(|| missing("epoch"))?,
                    secret: secret.ok_or_else(|| missing("secret"))?,
                    added,
                    retired,
                    login,
                    created: created.ok_or_else(|| missing("created"))?,
                    started: started.ok_or_else(|| missing("started"))?,
                    last_accessed: last_accessed.ok_or_else(|| missing("last_accessed"))?,
                    deadline: deadline.ok_or_else(|| missing("deadline"))?,
                    idle_timeout,
                    absolute_timeout,
                    full_idle_timeout,
                    persistent,
                    cookie_sent,
                    flash,
                    principal,
                    former_principal,
                    fingerprint,
                    label,
                    data: data.ok_or_else(|| missing("data"))?,
                    unknown,
                })
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

impl Serialize for SecretHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.encode(&mut [0; 43]))
    }
}

impl<'de> Deserialize<'de> for SecretHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(text) = Text::deserialize(deserializer)?;
        Self::decode(&text).ok_or_else(|| D::Error::custom("expected a hash in base64url"))
    }
}
