//! The indexes: for each principal one sorted set, `<prefix>of:{<hash>}`, whose members are scored by when they end, in
//! microseconds since 1970:
//!
//! - the handle of a session, until the session ends at the latest;
//! - `r` and a handle, until the reservation of that session ends;
//! - `generation`, until the index may forget the generation, which began [`GENERATION_KEPT_FOR`] before.
//!
//! It is one key, so that it can be used while a cluster migrates its slot: a command with several keys fails then, unless all of
//! them exist.
//!
//! `change.rs: Change` is one change of an index. `script.rs` has the operations as scripts, which take one round trip. `watch.rs` has them as transactions, for servers where
//! sessions are not replaced by script; there `Snapshot` decides what the scripts decide.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::cmd;

use crate::error::store::StoreError;
use crate::store::index::{
    Admission, Began, Confirmed, Entered, Entry, Generation, IndexKey, Indexed, IndexedSession,
    Since,
};
use crate::store::redis::cas::Cas;
use crate::store::redis::config::CompareAndSet;
use crate::store::redis::error::RequestError;
use crate::store::redis::reply::unexpected_reply;
use crate::store::redis::request::Request;
use crate::store::redis::servers::Servers;
use crate::token::Handle;

mod change;
mod script;
mod watch;

use crate::store::redis::index::change::{
    Change, GENERATION, LATEST, Operation, Outcome, after, kept_for, members, micros,
};
use crate::store::redis::index::script::Scripts;

/// The indexes of a store.
pub(crate) struct Indexes {
    prefix: String,
    scripts: Scripts,
}

impl Indexes {
    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            prefix: format!("{prefix}of:"),
            scripts: Scripts::new(),
        }
    }

    fn key(&self, index: &str) -> String {
        format!("{}{{{index}}}", self.prefix)
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
        handle: Handle,
        entered_in: Generation,
    ) -> Result<Confirmed, StoreError> {
        let operation = Operation::Confirm { handle, entered_in };
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
        (servers, cas): (&Servers, &Cas),
        index: &IndexKey,
    ) -> Result<Indexed, StoreError> {
        let key = self.key(&index.to_string());
        // The list depends on the clock alone, and a user who may only read cannot detect the strategy.
        if servers.clock_error().is_none() {
            ready(servers, cas, &key).await?;
        }
        self.read(servers, &key).await
    }

    async fn read(&self, servers: &Servers, key: &str) -> Result<Indexed, StoreError> {
        let mut list = cmd("ZRANGE");
        list.arg(key).arg(after(micros(servers.now()))).arg("+inf");
        list.arg("BYSCORE").arg("WITHSCORES");
        let request = Request::Command(&list);
        let answer = servers.send_idempotent(key, &request).await?;
        let members = members(answer)?;
        let reserved: HashSet<&str> = members
            .iter()
            .filter_map(|(name, _)| name.strip_prefix('r'))
            .collect();
        let generation = members.iter().find(|(name, _)| name == GENERATION);
        let generation = generation.map_or(0, |(_, end)| end.saturating_sub(kept_for()));
        let sessions = members.iter().filter_map(|(name, end)| {
            let entry = Entry {
                handle: name.parse().ok()?,
                until: UNIX_EPOCH + Duration::from_micros(*end),
            };
            let reserved = reserved.contains(name.as_str());
            Some(IndexedSession { entry, reserved })
        });
        let generation = Generation::from_number(generation);
        Ok(Indexed::new(sessions.collect(), generation))
    }

    async fn change(
        &self,
        servers: &Servers,
        cas: &Cas,
        index: &IndexKey,
        operation: Operation<'_>,
    ) -> Result<Outcome, StoreError> {
        let key = self.key(&index.to_string());
        ready(servers, cas, &key).await?;
        let change = Change {
            key,
            operation,
            now: micros(servers.now()),
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
        let key = self.key(key);
        let run = async |operation| {
            let change = Change {
                key: key.clone(),
                operation,
                now: micros(servers.now()),
            };
            self.run(servers, cas, &change).await
        };
        run(Operation::BeginGeneration { at: 0 }).await?;
        let entered = run(Operation::Enter {
            entry,
            began: Began::At(LATEST),
            limit: Some(1000),
        });
        let entered_in = match entered.await? {
            Outcome::Done(generation) => generation,
            Outcome::Ended | Outcome::Full => Generation::default(),
        };
        let handle = entry.handle;
        run(Operation::Confirm { handle, entered_in }).await?;
        run(Operation::Extend(entry)).await?;
        let until = UNIX_EPOCH + Duration::from_micros(LATEST);
        let leaving = [Entry { until, ..entry }];
        run(Operation::Leave(&leaving)).await?;
        // By WATCH, nothing to do is a command of its own.
        run(Operation::Leave(&[])).await?;
        self.read(servers, &key).await?;
        let mut unlink = cmd("UNLINK");
        unlink.arg(&key);
        let request = Request::Command(&unlink);
        servers.send_idempotent(&key, &request).await.map(drop)
    }
}

/// Waits until the strategy is detected, and with it the server's clock read.
async fn ready(servers: &Servers, cas: &Cas, key: &str) -> Result<(), StoreError> {
    let detected = cas.detect(servers, key).await;
    Ok(detected.map_err(RequestError::into_unavailable)?)
}
