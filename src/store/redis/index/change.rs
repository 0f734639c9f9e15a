//! A change of an index, and how times and members are written in its key.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::Value;

use crate::error::store::StoreError;
use crate::store::index::{Began, Entry, GENERATION_KEPT_FOR, Generation, RESERVED_FOR};
use crate::store::redis::reply::unexpected_reply;
use crate::token::Handle;

/// The member whose score tells the generation.
pub(crate) const GENERATION: &str = "generation";

/// By how much a session that enters again, or is confirmed, is in the index for longer: a millisecond.
pub(crate) const RAISE: u64 = 1000;

/// The member that reserves a session.
pub(crate) fn reservation(handle: &Handle) -> String {
    format!("r{handle}")
}

/// One change of an index, with all that it depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation<'a> {
    Enter {
        entry: Entry,
        began: Began,
        limit: Option<u32>,
    },
    Confirm {
        handle: Handle,
        entered_in: Generation,
    },
    Extend(Entry),
    BeginGeneration {
        at: u64,
    },
    Leave(&'a [Entry]),
}

/// The result of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done, in this generation where that matters.
    Done(Generation),
    Ended,
    Full,
}

/// A request for one change of an index.
pub(crate) struct Change<'a> {
    pub(crate) key: String,
    pub(crate) operation: Operation<'a>,
    /// The time, in microseconds.
    pub(crate) now: u64,
}

impl Change<'_> {
    pub(crate) fn reserved_until(&self) -> u64 {
        self.now.saturating_add(in_micros(RESERVED_FOR))
    }
}

/// How long an index remembers a generation, in microseconds.
pub(crate) fn kept_for() -> u64 {
    in_micros(GENERATION_KEPT_FOR)
}

/// The latest time that a script, which has floating-point numbers, can tell from its neighbours: in the year 2255.
pub(crate) const LATEST: u64 = 1 << 53;

/// The unit of scores and generations: microseconds since 1970.
pub(crate) fn micros(time: SystemTime) -> u64 {
    in_micros(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn in_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros())
        .unwrap_or(LATEST)
        .min(LATEST)
}

/// Scores above this one.
pub(crate) fn after(score: u64) -> String {
    format!("({score}")
}

/// The members of a sorted set with their scores, by RESP2 or RESP3.
pub(crate) fn members(reply: Value) -> Result<Vec<(String, u64)>, StoreError> {
    let Value::Array(items) = reply else {
        return Err(unexpected_reply("ZRANGE"));
    };
    let mut flat = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Value::Array(pair) => flat.extend(pair),
            item => flat.push(item),
        }
    }
    let member = |pair: &[Value]| match pair {
        [Value::BulkString(name), end] => {
            let name = String::from_utf8_lossy(name).into_owned();
            Some((name, score(end)?))
        }
        _ => None,
    };
    Ok(flat.chunks_exact(2).filter_map(member).collect())
}

/// A score, if there is one. One that is not a time was written by somebody else.
pub(crate) fn score(value: &Value) -> Option<u64> {
    let score: f64 = match value {
        Value::Double(score) => *score,
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok()?,
        _ => return None,
    };
    // Saturates, and NaN becomes 0.
    Some((score as u64).min(LATEST))
}
