//! The indexes: for each principal a sorted set of handles, scored by when their sessions end at the latest.
//!
//! Three keys, which have a time to live each and share a slot on a cluster: `<prefix>of:{<hash>}` with the sessions,
//! `<prefix>of:{<hash>}:reserved` with those whose sign-in may be under way, scored by when the reservation ends, and
//! `<prefix>of:{<hash>}:generation` with the generation, a time in microseconds.
//!
//! `script.rs` has the operations as scripts, which take one round trip. `watch.rs` has them as transactions, for servers where
//! sessions are not replaced by script; there `Snapshot` decides what the scripts decide.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::{Value, cmd};

use crate::error::store::StoreError;
use crate::store::index::{
    Admission, Began, Confirmed, Entered, Entry, GENERATION_KEPT_FOR, Generation, IndexKey,
    Indexed, IndexedSession, RESERVED_FOR, Since,
};
use crate::store::redis::cas::Cas;
use crate::store::redis::config::CompareAndSet;
use crate::store::redis::error::RequestError;
use crate::store::redis::reply::unexpected_reply;
use crate::store::redis::request::{Request, millis};
use crate::store::redis::servers::Servers;
use crate::time::{Millis, after, to_millis, to_time};
use crate::token::Handle;

mod script;
mod watch;

use crate::store::redis::index::script::Scripts;

/// The indexes of a store.
pub(crate) struct Indexes {
    prefix: String,
    scripts: Scripts,
}

/// The keys of one index.
pub(super) struct Keys {
    sessions: String,
    reserved: String,
    generation: String,
}

impl Keys {
    pub(super) fn all(&self) -> [&str; 3] {
        [&self.sessions, &self.reserved, &self.generation]
    }
}

/// One change of an index, with all that it depends on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation<'a> {
    Enter {
        entry: Entry,
        began: Began,
        limit: Option<u32>,
    },
    Confirm {
        entry: Entry,
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
pub(super) enum Outcome {
    /// Done, in this generation where that matters.
    Done(Generation),
    Ended,
    Full,
}

/// A request for one change of an index.
pub(super) struct Change<'a> {
    pub(super) keys: Keys,
    pub(super) operation: Operation<'a>,
    pub(super) now: Millis,
}

impl Change<'_> {
    pub(super) fn reserved_until(&self) -> Millis {
        after(self.now, RESERVED_FOR)
    }
}

/// How long an index remembers a generation.
pub(super) fn generation_ttl() -> u64 {
    millis(GENERATION_KEPT_FOR)
}

impl Indexes {
    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            prefix: format!("{prefix}of:"),
            scripts: Scripts::new(),
        }
    }

    fn keys(&self, index: &str) -> Keys {
        let sessions = format!("{}{{{index}}}", self.prefix);
        Keys {
            reserved: format!("{sessions}:reserved"),
            generation: format!("{sessions}:generation"),
            sessions,
        }
    }

    pub(crate) async fn enter(
        &self,
        (servers, cas): (&Servers, &Cas),
        index: &IndexKey,
        entry: Entry,
        admission: Admission,
    ) -> Result<Entered, StoreError> {
        let began = match admission.since {
            Since::Time(time) => Began::At(micros(time)),
            Since::Generation(generation) => Began::In(generation.number()),
        };
        let limit = admission.limit;
        let operation = Operation::Enter {
            entry,
            began,
            limit,
        };
        Ok(match self.change(servers, cas, index, operation).await? {
            Outcome::Done(generation) => Entered::Done(generation),
            Outcome::Full => Entered::Full,
            Outcome::Ended => Entered::Ended,
        })
    }

    pub(crate) async fn confirm(
        &self,
        (servers, cas): (&Servers, &Cas),
        index: &IndexKey,
        entry: Entry,
        entered_in: Generation,
    ) -> Result<Confirmed, StoreError> {
        let operation = Operation::Confirm { entry, entered_in };
        Ok(match self.change(servers, cas, index, operation).await? {
            Outcome::Done(_) => Confirmed::Done,
            Outcome::Ended | Outcome::Full => Confirmed::Ended,
        })
    }

    pub(crate) async fn extend(
        &self,
        (servers, cas): (&Servers, &Cas),
        index: &IndexKey,
        entry: Entry,
    ) -> Result<(), StoreError> {
        let operation = Operation::Extend(entry);
        self.change(servers, cas, index, operation).await.map(drop)
    }

    pub(crate) async fn begin_generation(
        &self,
        (servers, cas): (&Servers, &Cas),
        index: &IndexKey,
        at: SystemTime,
    ) -> Result<Generation, StoreError> {
        // Rounded up, and the times of sign-ins down: a sign-in of the same microsecond may be the earlier one.
        let at = micros(at).saturating_add(1);
        let operation = Operation::BeginGeneration { at };
        match self.change(servers, cas, index, operation).await? {
            Outcome::Done(generation) => Ok(generation),
            Outcome::Ended | Outcome::Full => Err(unexpected_reply("EVALSHA")),
        }
    }

    pub(crate) async fn leave(
        &self,
        (servers, cas): (&Servers, &Cas),
        index: &IndexKey,
        entries: &[Entry],
    ) -> Result<(), StoreError> {
        // A script must not run for long, since it blocks the server.
        for entries in entries.chunks(1000) {
            let operation = Operation::Leave(entries);
            self.change(servers, cas, index, operation).await?;
        }
        Ok(())
    }

    pub(crate) async fn list(
        &self,
        servers: &Servers,
        index: &IndexKey,
    ) -> Result<Indexed, StoreError> {
        self.read(servers, &self.keys(&index.to_string())).await
    }

    async fn read(&self, servers: &Servers, keys: &Keys) -> Result<Indexed, StoreError> {
        let now = to_millis(servers.now());
        let mut pipeline = redis::pipe();
        for set in [&keys.sessions, &keys.reserved] {
            let mut list = cmd("ZRANGE");
            list.arg(set).arg(format!("({now}")).arg("+inf");
            list.arg("BYSCORE").arg("WITHSCORES");
            pipeline.add_command(list);
        }
        pipeline.cmd("GET").arg(&keys.generation);
        let answer = servers
            .send_idempotent(&keys.sessions, &Request::Pipeline(&pipeline))
            .await?;
        let Value::Array(answers) = answer else {
            return Err(unexpected_reply("ZRANGE"));
        };
        let Ok([sessions, reserved, generation]) = <[Value; 3]>::try_from(answers) else {
            return Err(unexpected_reply("ZRANGE"));
        };
        let (sessions, reserved) = (entries(sessions)?, entries(reserved)?);
        let is_reserved = |entry: &Entry| reserved.iter().any(|it| it.handle == entry.handle);
        let sessions = sessions.into_iter().map(|entry| IndexedSession {
            reserved: is_reserved(&entry),
            entry,
        });
        Ok(Indexed::new(sessions.collect(), number(&generation)?))
    }

    async fn change(
        &self,
        servers: &Servers,
        cas: &Cas,
        index: &IndexKey,
        operation: Operation<'_>,
    ) -> Result<Outcome, StoreError> {
        let keys = self.keys(&index.to_string());
        let detected = cas.detect(servers, &keys.sessions).await;
        detected.map_err(RequestError::into_unavailable)?;
        let change = Change {
            keys,
            operation,
            now: to_millis(servers.now()),
        };
        Ok(self.run(servers, cas, &change).await?)
    }

    async fn run(
        &self,
        servers: &Servers,
        cas: &Cas,
        change: &Change<'_>,
    ) -> Result<Outcome, RequestError> {
        match cas.chosen() {
            Some(CompareAndSet::Script) => self.scripts.run(servers, change).await,
            _ => watch::run(servers, change).await,
        }
    }

    /// Sends once all commands that the indexes need, for an index that does not exist, and removes what they leave.
    pub(crate) async fn probe(
        &self,
        servers: &Servers,
        cas: &Cas,
        key: &str,
    ) -> Result<(), RequestError> {
        // In the slot of the key, whose server is known to answer.
        let entry = Entry {
            handle: Handle::random(),
            until: servers.now() + Duration::from_secs(1),
        };
        let keys = || self.keys(key);
        for operation in [
            Operation::BeginGeneration { at: 0 },
            Operation::Enter {
                entry,
                began: Began::At(u64::MAX >> 12),
                limit: Some(1000),
            },
            Operation::Confirm {
                entry,
                entered_in: Generation::default(),
            },
            Operation::Extend(entry),
            Operation::Leave(&[entry]),
        ] {
            let change = Change {
                keys: keys(),
                operation,
                now: to_millis(servers.now()),
            };
            self.run(servers, cas, &change).await?;
        }
        let keys = keys();
        self.read(servers, &keys).await?;
        for key in keys.all() {
            let mut unlink = cmd("UNLINK");
            unlink.arg(key);
            let request = Request::Command(&unlink);
            servers.send_idempotent(key, &request).await?;
        }
        Ok(())
    }
}

/// The unit of generations, so that scripts, which have floating-point numbers, can compare them.
fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX >> 12)
}

/// The number in a reply, 0 if there is none.
fn number(value: &Value) -> Result<Generation, StoreError> {
    let number = match value {
        Value::Nil => Some(0),
        Value::BulkString(text) => std::str::from_utf8(text)
            .ok()
            .and_then(|it| it.parse().ok()),
        _ => None,
    };
    number
        .map(Generation::from_number)
        .ok_or_else(|| unexpected_reply("GET"))
}

/// The members of a sorted set with their scores, by RESP2 or RESP3. A member that is not a handle was written by somebody else.
fn entries(reply: Value) -> Result<Vec<Entry>, StoreError> {
    let Value::Array(items) = reply else {
        return Err(unexpected_reply("ZRANGE"));
    };
    let pairs: Vec<[Value; 2]> = match items.first() {
        Some(Value::Array(_)) => {
            let pair = |item| match item {
                Value::Array(pair) => <[Value; 2]>::try_from(pair).ok(),
                _ => None,
            };
            items.into_iter().filter_map(pair).collect()
        }
        _ => items
            .chunks_exact(2)
            .map(|pair| [pair[0].clone(), pair[1].clone()])
            .collect(),
    };
    let entry = |[member, score]: [Value; 2]| {
        let Value::BulkString(member) = member else {
            return None;
        };
        let handle = std::str::from_utf8(&member).ok()?.parse().ok()?;
        let score = match score {
            Value::Double(score) => score,
            Value::BulkString(score) => std::str::from_utf8(&score).ok()?.parse().ok()?,
            _ => return None,
        };
        Some(Entry {
            handle,
            until: to_time(score as Millis),
        })
    };
    Ok(pairs.into_iter().filter_map(entry).collect())
}
