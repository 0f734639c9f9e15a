//! What the application is on every peer: its routes, and what a session contains.
//!
//! | route | what it does | body |
//! |---|---|---|
//! | `/none` | nothing with the session | `ok` |
//! | `/read` | reads one value | [`READ_VALUE`] |
//! | `/change` | adds 1 to the counter | the new count |
//! | `/count` | reads the counter | the count |
//! | `/mark/{name}` | stores one more value under that name | `ok` |
//! | `/marks` | reads the values under [`marks`] | how many there are |
//! | `/seed` | creates a session with [`values`] and a counter of 0 | `ok` |

use std::time::Duration;

use axum::http::StatusCode;
use clap::ValueEnum;
use serde::Serialize;

/// The key of the counter.
pub const COUNTER: &str = "n";
/// The key that `/read` reads.
pub const READ_KEY: &str = "setting_0002";
/// The value that every session has there.
pub const READ_VALUE: &str = "choice 0000002";
/// The body of a route that answers nothing else.
pub const OK: &str = "ok";
/// How long an idle session lives, on peers that ask.
pub const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// How many requests set a mark at once.
pub const MARKS: usize = 50;

/// A session value; every peer's encoding writes it as the plain value that it contains.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Value {
    Text(String),
    Number(u64),
    Flag(bool),
}

/// What a session contains, beside the counter.
#[derive(Clone, Copy, Debug)]
pub struct Contents {
    /// About how many bytes it is as JSON.
    pub bytes: usize,
    pub shape: Shape,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// Settings of some 30 bytes each.
    #[default]
    Many,
    /// Two short values, and one text that is the rest.
    Few,
}

impl Shape {
    pub fn name(self) -> &'static str {
        match self {
            Self::Many => "many",
            Self::Few => "few",
        }
    }
}

/// The values of a session.
pub fn values(contents: Contents) -> Vec<(String, Value)> {
    match contents.shape {
        Shape::Many => settings(contents.bytes),
        Shape::Few => vec![
            (READ_KEY.to_owned(), Value::Text(READ_VALUE.to_owned())),
            ("dark".to_owned(), Value::Flag(true)),
            (
                "draft".to_owned(),
                Value::Text("x".repeat(contents.bytes.saturating_sub(54))),
            ),
        ],
    }
}

fn settings(bytes: usize) -> Vec<(String, Value)> {
    let mut values = Vec::new();
    let mut size = 2;
    while size < bytes || values.len() < 4 {
        let at = values.len();
        let value = match at % 4 {
            0 | 2 => Value::Text(format!("choice {at:07}")),
            1 => Value::Number(1_000_000_000_000 + at as u64),
            _ => Value::Flag(at % 8 == 3),
        };
        size += 16 + serde_json::to_string(&value).map_or(0, |json| json.len());
        values.push((format!("setting_{at:04}"), value));
    }
    values
}

/// The keys that requests mark.
pub fn marks() -> impl Iterator<Item = String> {
    (0..MARKS).map(|at| format!("mark_{at:02}"))
}

/// Turns an error of a peer into a response, which the driver counts as failed.
pub fn failed(error: impl std::fmt::Display) -> StatusCode {
    eprintln!("failed: {error}");
    StatusCode::INTERNAL_SERVER_ERROR
}

/// The response of a session that does not exist.
pub fn missing() -> StatusCode {
    failed("there is no such session")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_the_size_that_is_asked_for_and_the_value_that_is_read() {
        let sizes = [205, 1229, 65536];
        let shapes = [Shape::Many, Shape::Few];
        let all = sizes
            .iter()
            .flat_map(|size| shapes.map(|shape| (*size, shape)));
        for (bytes, shape) in all {
            let values = values(Contents { bytes, shape });
            let read = values.iter().find(|(name, _)| name == READ_KEY);
            assert!(matches!(&read.unwrap().1, Value::Text(text) if text == READ_VALUE));
            let map: std::collections::BTreeMap<_, _> = values.into_iter().collect();
            let json = serde_json::to_string(&map).unwrap();
            assert!((bytes..bytes + 64).contains(&json.len()), "{}", json.len());
        }
    }
}
