//! For the benches of this crate; not part of the API. Nothing here keeps its name or its signature from one version to the next.
//!
//! Thin functions over private types, so that a bench can measure one step of a request. They decide nothing.

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use http::HeaderMap;
use serde::Serialize;

use crate::error::session::SessionError;
use crate::middleware::presented::read;
use crate::record::change::Change;
use crate::record::context::ApplyContext;
use crate::record::value::{encode, encode_item};

/// Reads the session's tokens from the `Cookie` headers, and returns how many there are.
pub fn read_cookies(headers: &HeaderMap, name: &str) -> usize {
    read(headers, name, &[]).tokens.len()
}

/// The value of the session cookie.
#[derive(Debug)]
pub struct Token(crate::token::Token);

impl Token {
    pub fn decode(text: &[u8]) -> Option<Self> {
        crate::token::Token::decode(text).map(Self)
    }

    pub fn encode(&self) -> impl AsRef<str> + use<> {
        self.0.encode()
    }
}

/// Everything that is stored of a session.
#[derive(Debug)]
pub struct Record(crate::record::Record);

impl Record {
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        crate::record::Record::decode(bytes).ok().map(Self)
    }

    pub fn encode(&self) -> Option<Bytes> {
        self.0.encode().ok()
    }
}

/// The changes of one request.
#[derive(Debug, Default)]
pub struct ChangeLog(crate::record::log::ChangeLog);

impl ChangeLog {
    #[must_use]
    pub fn increment(mut self, key: &'static str, by: i64) -> Self {
        self.0.push(Change::Increment {
            key: ByteString::from_static(key),
            by,
            deferred: None,
        });
        self
    }

    pub fn insert(
        mut self,
        key: &'static str,
        value: &impl Serialize,
    ) -> Result<Self, SessionError> {
        self.0.push(Change::Insert {
            key: ByteString::from_static(key),
            value: encode(key, value)?,
        });
        Ok(self)
    }

    pub fn push(mut self, key: &'static str, item: &impl Serialize) -> Result<Self, SessionError> {
        self.0.push(Change::Push {
            key: ByteString::from_static(key),
            value: encode_item(key, item)?,
        });
        Ok(self)
    }

    /// Applies the changes to a copy of the record, as a commit does after a conflict.
    pub fn replay(&self, newer: &Record) -> Result<Record, SessionError> {
        let mut record = newer.0.clone();
        let context = ApplyContext {
            now: record.last_accessed,
            absolute_timeout: Duration::from_secs(24 * 60 * 60),
            persistent: false,
            network: None,
        };
        self.0.apply(&mut record, &context)?;
        Ok(Record(record))
    }
}
