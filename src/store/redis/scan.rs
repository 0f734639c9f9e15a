//! Goes through the keys of the database, on every primary, with `SCAN`.

use std::collections::VecDeque;
use std::sync::Arc;

use redis::Value;
use tokio::time::Instant;

use crate::error::store::StoreError;
use crate::store::redis::connections::Connections;
use crate::store::redis::reply::unexpected_reply;
use crate::store::redis::request::Request;
use crate::store::redis::store::RedisStore;
use crate::store::stats::{Progress, StatsOptions};
use crate::token::Handle;

/// The cursor at the beginning of a scan, and at its end.
const BEGIN: &[u8] = b"0";

/// How often one server is scanned from its beginning because its connection was replaced.
const MAX_ROUNDS: u32 = 8;

/// The handles of all sessions of a [`RedisStore`], page by page: see [`RedisStore::scan`].
#[derive(Debug)]
pub struct HandleScan {
    scan: KeyScan,
    found: u64,
}

impl RedisStore {
    /// Goes through the handles of all sessions of this store, among all keys of the database. For an administrator's command or a
    /// job, not for requests: it examines every key.
    ///
    /// A session that is created or ends meanwhile may be found or not, and one may be found twice, as in [`stats`](Self::stats). If
    /// a server restarts or fails over meanwhile, its keys are scanned again. On a cluster, a session whose slot moves meanwhile may be
    /// missed: repeat the scan after a reshard.
    ///
    /// ```no_run
    /// # async fn job(store: sessile::RedisStore) -> Result<(), Box<dyn std::error::Error>> {
    /// use sessile::Sessions;
    /// use sessile::store::StatsOptions;
    ///
    /// let sessions = Sessions::new(store.clone());
    /// let mut scan = store.scan(StatsOptions::new()).await?;
    /// while let Some(handles) = scan.next().await? {
    ///     for handle in handles {
    ///         if let Some(session) = sessions.find(handle).await? {
    ///             println!("{handle} {}", session.principal().unwrap_or("anonymous"));
    ///         }
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Redis
    ///
    /// One `DBSIZE`; then one `SCAN` for every [`StatsOptions::count`] keys of the database, when [`HandleScan::next`] is called. The
    /// user needs `+scan +dbsize` in addition to the store's permissions; `SCAN` reveals the names of all keys.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    #[doc(alias("iterate", "list_all", "handles"))]
    pub async fn scan(&self, options: StatsOptions) -> Result<HandleScan, StoreError> {
        let scan = KeyScan::begin(self, options).await?;
        Ok(HandleScan { scan, found: 0 })
    }

    /// The handle of the session that a key, by its name, holds.
    pub(crate) fn handle_in(&self, key: &str) -> Option<Handle> {
        let handle = key.strip_prefix(&*self.inner.config.key_prefix)?;
        handle.parse().ok()
    }
}

impl HandleScan {
    /// The handles of the next page, which may be none; `None` at the end.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]. A call after it repeats the `SCAN` that failed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the next call returns the same page.
    pub async fn next(&mut self) -> Result<Option<Vec<Handle>>, StoreError> {
        let Some((_, keys)) = self.scan.next().await? else {
            return Ok(None);
        };
        let store = &self.scan.store;
        let handles: Vec<Handle> = keys.iter().filter_map(|key| store.handle_in(key)).collect();
        self.found += handles.len() as u64;
        Ok(Some(handles))
    }

    /// How far it has come.
    pub fn progress(&self) -> Progress {
        self.scan.progress(self.found)
    }
}

/// Where a scan goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextStep {
    /// At the cursor.
    Further,
    /// At the beginning of the same server, whose keys come again.
    Again,
    NextServer,
}

/// The keys that begin with the store's prefix.
pub(crate) struct KeyScan {
    store: RedisStore,
    count: u32,
    primaries: VecDeque<Arc<Connections>>,
    cursor: Vec<u8>,
    /// When the connection of the first primary was opened, at the beginning of its scan.
    connected: Option<Instant>,
    rounds: u32,
    /// Where the next step begins.
    pub(crate) next_step: NextStep,
    keys: u64,
    of: u64,
}

impl std::fmt::Debug for KeyScan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyScan").finish_non_exhaustive()
    }
}

impl KeyScan {
    pub(crate) async fn begin(
        store: &RedisStore,
        options: StatsOptions,
    ) -> Result<Self, StoreError> {
        let primaries = store.inner.servers.refreshed_primaries().await?;
        let mut of = 0;
        for primary in &primaries {
            of += database_size(primary).await?;
        }
        Ok(Self {
            store: store.clone(),
            count: options.with_count(options.count).count,
            primaries: primaries.into(),
            cursor: BEGIN.to_vec(),
            connected: None,
            rounds: 0,
            next_step: NextStep::NextServer,
            keys: 0,
            of,
        })
    }

    /// The keys of one `SCAN`, and the server that holds them; `None` at the end.
    pub(crate) async fn next(
        &mut self,
    ) -> Result<Option<(Arc<Connections>, Vec<String>)>, StoreError> {
        let Some(primary) = self.primaries.front().cloned() else {
            return Ok(None);
        };
        if self.cursor == BEGIN {
            self.connected = primary.connected();
        }
        let (next, keys) = self.step(&primary).await?;
        self.keys = self.of.min(self.keys + u64::from(self.count));
        // A cursor is a position in the hash table of one process. In that of another, a server that was restarted or has taken
        // over, it would skip keys.
        if primary.connected() != self.connected {
            self.rounds += 1;
            if self.rounds > MAX_ROUNDS {
                let message = "the connection was replaced again and again while sessile scanned the keys: try again once it is stable";
                return Err(StoreError::unavailable(message));
            }
            self.cursor = BEGIN.to_vec();
            self.next_step = NextStep::Again;
        } else if next == BEGIN {
            self.primaries.pop_front();
            self.cursor = next;
            self.rounds = 0;
            self.next_step = NextStep::NextServer;
        } else {
            self.cursor = next;
            self.next_step = NextStep::Further;
        }
        if self.primaries.is_empty() {
            self.keys = self.of;
        }
        let names = keys
            .into_iter()
            .filter_map(|key| String::from_utf8(key).ok());
        Ok(Some((primary, names.collect())))
    }

    pub(crate) fn progress(&self, sessions: u64) -> Progress {
        Progress {
            keys: self.keys,
            of: self.of,
            sessions,
        }
    }

    /// One `SCAN`: the next cursor, and the keys found that begin with the prefix.
    async fn step(&self, primary: &Connections) -> Result<(Vec<u8>, Vec<Vec<u8>>), StoreError> {
        let mut scan = redis::cmd("SCAN");
        // No character that a prefix may contain is special in a pattern.
        let pattern = format!("{}*", self.store.inner.config.key_prefix);
        scan.arg(&self.cursor)
            .arg("MATCH")
            .arg(pattern)
            .arg("COUNT")
            .arg(self.count);
        let request = Request::Command(&scan);
        let Value::Array(answer) = primary.send_idempotent(&request).await? else {
            return Err(unexpected_reply("SCAN"));
        };
        let Ok([Value::BulkString(next), Value::Array(keys)]) = <[Value; 2]>::try_from(answer)
        else {
            return Err(unexpected_reply("SCAN"));
        };
        let names = keys.into_iter().filter_map(|key| match key {
            Value::BulkString(name) => Some(name),
            _ => None,
        });
        Ok((next, names.collect()))
    }
}

async fn database_size(connections: &Connections) -> Result<u64, StoreError> {
    match connections
        .send_idempotent(&Request::Command(&redis::cmd("DBSIZE")))
        .await?
    {
        Value::Int(size) => Ok(u64::try_from(size).unwrap_or_default()),
        _ => Err(unexpected_reply("DBSIZE")),
    }
}
