//! A session as `list` and `show` print it.

use std::time::SystemTime;

use serde::Serialize;
use sessile::{Handle, StoredSession};

use crate::human::{bytes, distance, printable, shortened, time, time_and_distance};

/// The shape of the JSON. Times are UTC, in whole seconds.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct View {
    pub(crate) handle: String,
    pub(crate) principal: Option<String>,
    pub(crate) label: Option<String>,
    /// The networks that it belongs to, with a space between them.
    pub(crate) network: Option<String>,
    pub(crate) created_at: String,
    pub(crate) authenticated_at: Option<String>,
    pub(crate) changed_at: String,
    pub(crate) last_accessed: String,
    /// If it is not used again; `null` if its key has no time to live.
    pub(crate) expires_at: Option<String>,
    /// However much it is used.
    pub(crate) deadline: String,
    /// Its own, instead of the layer's, in seconds.
    pub(crate) idle_timeout: Option<u64>,
    pub(crate) persistent: bool,
    /// Bytes of its values and flash messages.
    pub(crate) size: usize,
}

/// A session that this version cannot read.
#[derive(Debug, Serialize)]
pub(crate) struct Unreadable {
    pub(crate) handle: String,
    pub(crate) error: &'static str,
}

impl Unreadable {
    pub(crate) fn new(handle: Handle) -> Self {
        Self {
            handle: handle.to_string(),
            error: "unreadable: a later version of sessile has written it, or something else",
        }
    }
}

impl View {
    pub(crate) fn of(session: &StoredSession) -> Self {
        let text = |text: &str| text.to_owned();
        Self {
            handle: session.handle().to_string(),
            principal: session.principal().map(text),
            label: session.label().map(text),
            network: session.network().map(text),
            created_at: time(session.created_at()),
            authenticated_at: session.authenticated_at().map(time),
            changed_at: time(session.changed_at()),
            last_accessed: time(session.last_accessed()),
            expires_at: session.expires_at().map(time),
            deadline: time(session.deadline()),
            idle_timeout: session.idle_timeout().map(|it| it.as_secs()),
            persistent: session.is_persistent(),
            size: session.size(),
        }
    }
}

/// The columns of `list`. Those of the user come last, since their widths vary.
pub(crate) const COLUMNS: &str = "HANDLE                  CREATED               USED          ENDS          SIZE       NETWORK            PRINCIPAL             LABEL";

/// One line of `list`.
pub(crate) fn row(session: &StoredSession, now: SystemTime) -> String {
    let ends = session
        .expires_at()
        .map_or_else(|| "never".to_owned(), |at| distance(at, now));
    let network = session.network().unwrap_or("-").replace(' ', "+");
    let principal = session
        .principal()
        .map_or_else(|| "-".to_owned(), printable);
    let label = session.label().map_or_else(String::new, printable);
    let row = format!(
        "{}  {:20}  {:12}  {ends:12}  {:9}  {network:17}  {:20}  {}",
        session.handle(),
        time(session.created_at()),
        distance(session.last_accessed(), now),
        bytes(session.size() as u64),
        shortened(&principal, 60),
        shortened(&label, 60),
    );
    row.trim_end().to_owned()
}

/// The lines of `show`.
pub(crate) fn lines(session: &StoredSession, now: SystemTime) -> Vec<(&'static str, String)> {
    let at = |at| time_and_distance(at, now);
    let mut lines = vec![
        ("handle", session.handle().to_string()),
        (
            "principal",
            session
                .principal()
                .map_or_else(|| "nobody is signed in".to_owned(), printable),
        ),
    ];
    if let Some(label) = session.label() {
        lines.push(("label", printable(label)));
    }
    lines.push(("network", session.network().unwrap_or("none").to_owned()));
    lines.push(("created", at(session.created_at())));
    if let Some(signed_in) = session.authenticated_at() {
        lines.push(("signed in", at(signed_in)));
    }
    lines.push(("changed", at(session.changed_at())));
    lines.push(("used", at(session.last_accessed())));
    lines.push((
        "ends unused",
        session
            .expires_at()
            .map_or_else(|| "never: its key has no time to live".to_owned(), at),
    ));
    lines.push(("ends at last", at(session.deadline())));
    if let Some(idle) = session.idle_timeout() {
        lines.push((
            "idle timeout",
            format!("{}, its own", crate::human::duration(idle)),
        ));
    }
    if session.is_persistent() {
        lines.push(("cookie", "outlives the browser".to_owned()));
    }
    lines.push(("size", bytes(session.size() as u64)));
    lines
}
