//! The inputs of the single steps, taken from real requests.

use axum::http::header::COOKIE;
use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use sessile::Load;
use sessile::internals::{ChangeLog, Record};

use crate::scenarios::store::OneSession;
use crate::scenarios::visitor::{Shape, Visitor};

pub(crate) const FEW: usize = 3;
pub(crate) const MANY: usize = 40;

// The bytes of a session's values: 0.2, 1.2 and 16 KiB.
pub(crate) const SMALL: usize = 205;
pub(crate) const USUAL: usize = 1229;
pub(crate) const LARGE: usize = 16 * 1024;

pub(crate) const COOKIE_NAME: &str = "__Host-id";

/// A token that decodes: 43 characters of base64url, of which the last has no stray bits.
pub(crate) const TOKEN: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFI";

/// The bytes of a stored session.
pub(crate) fn record_bytes(values: usize, bytes: usize) -> Bytes {
    let store = OneSession::default();
    Visitor::with_session(store.clone(), Load::Inbound, Shape { values, bytes });
    store.value()
}

pub(crate) fn record(values: usize, bytes: usize) -> Record {
    Record::decode(&record_bytes(values, bytes)).unwrap()
}

/// The cookies of a page with advertisements and statistics; the session's is the last.
pub(crate) fn cookies(others: usize) -> HeaderMap {
    let mut cookies = String::new();
    for number in 0..others {
        cookies += &format!("_ga_{number}=GS1.1.1700000000.1.1.1700000000.60.0.0; ");
    }
    cookies += &format!("{COOKIE_NAME}={TOKEN}");
    HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(&cookies).unwrap())])
}

/// The changes of a request: a counter, a value that is there already, and an item of a list.
pub(crate) fn changes() -> ChangeLog {
    let changes = ChangeLog::default().increment("visits", 1);
    let changes = changes.insert("value00", &"another text").unwrap();
    changes.push("viewed", &"article 17").unwrap()
}
