//! A store of sessions in SQLite.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use sessile::store::{
    Admission, Capabilities, Confirmed, Created, Deleted, Durability, Entered, Entry, Freshness,
    Generation, IndexKey, Indexed, Leased, Loaded, Owner, Renewal, Replaced, Stored, Touched,
    Write,
};
use sessile::{Handle, SessionStore, StoreError};
use tokio::sync::Mutex;

use crate::index;

/// Milliseconds since 1970, as the tables have them.
pub(crate) type Millis = i64;

const SCHEMA: &str = "
    PRAGMA journal_mode = wal;
    CREATE TABLE IF NOT EXISTS sessions (
        handle TEXT PRIMARY KEY, value BLOB NOT NULL, expires INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS sessions_by_expiry ON sessions (expires);
    CREATE TABLE IF NOT EXISTS leases (
        handle TEXT PRIMARY KEY, owner BLOB NOT NULL, expires INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;";

/// How long a call waits for another process that writes to the file: less than the request budget.
const BUSY: Duration = Duration::from_millis(500);

/// Keeps sessions in a file of SQLite, for the processes of one machine.
#[derive(Clone)]
pub(crate) struct SqliteStore {
    connection: Arc<Mutex<Connection>>,
}

impl SqliteStore {
    pub(crate) fn open(path: impl AsRef<Path>) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY)?;
        connection.execute_batch(SCHEMA)?;
        connection.execute_batch(index::SCHEMA)?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
        })
    }

    /// Runs this as one transaction, on a thread that may block: SQLite waits for the disk, and for other processes.
    ///
    /// If the future is dropped while it waits for the connection, nothing happens. Later the transaction goes on to its end all the
    /// same, which a store may do.
    async fn transaction<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>, Millis) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        // Not on the other thread: there, each request that waits would occupy one of the few that the runtime has.
        let mut connection = Arc::clone(&self.connection).lock_owned().await;
        let transaction = tokio::task::spawn_blocking(move || {
            // It locks the file at once. By default it would do so at the first write, which is too late for what was read before.
            let began = connection.transaction_with_behavior(TransactionBehavior::Immediate);
            let transaction = began.map_err(refused)?;
            // What fails before the commit has changed nothing.
            let done = work(&transaction, millis(SystemTime::now())).map_err(refused)?;
            transaction.commit().map_err(unknown)?;
            Ok(done)
        });
        let ended = transaction.await;
        ended.unwrap_or_else(|error| {
            Err(StoreError::unknown("a transaction panicked").with_source(error))
        })
    }
}

/// Never with the statement's values: an error may be logged.
fn refused(error: rusqlite::Error) -> StoreError {
    StoreError::refused("SQLite has rolled the transaction back").with_source(error)
}

fn unknown(error: rusqlite::Error) -> StoreError {
    StoreError::unknown("SQLite could not say whether it has committed").with_source(error)
}

fn primary_only(durability: Durability) -> Result<(), StoreError> {
    match durability {
        Durability::Primary => Ok(()),
        _ => Err(StoreError::refused(
            "SQLite has no replicas to wait for: write \"primary\" for `durability`",
        )),
    }
}

pub(crate) fn millis(time: SystemTime) -> Millis {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

pub(crate) fn after(now: Millis, time: Duration) -> Millis {
    now.saturating_add(Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX))
}

fn until(expires: Millis, now: Millis) -> Duration {
    Duration::from_millis(expires.saturating_sub(now).try_into().unwrap_or(0))
}

/// The session, unless it has expired.
fn load(sql: &Connection, key: &str, now: Millis) -> rusqlite::Result<Option<Stored>> {
    sql.prepare_cached("SELECT value, expires FROM sessions WHERE handle = ?1 AND expires > ?2")?
        .query_row(params![key, now], |row| {
            let (value, expires): (Vec<u8>, Millis) = (row.get(0)?, row.get(1)?);
            Ok(Stored::new(value, Some(until(expires, now))))
        })
        .optional()
}

impl SessionStore for SqliteStore {
    fn namespace(&self) -> &str {
        "sqlite:"
    }

    // One machine, one clock. The store of several machines asks the database for the time, and says in `clock_error` how far its
    // answer may be off.
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new().with_lease(true).with_index(true)
    }

    async fn load(&self, key: &Handle, _: Freshness) -> Result<Loaded, StoreError> {
        let key = key.to_string();
        let found = self.transaction(move |sql, now| load(sql, &key, now));
        Ok(found.await?.map_or(Loaded::Missing, Loaded::Found))
    }

    async fn create(&self, key: &Handle, write: Write<'_>) -> Result<Created, StoreError> {
        primary_only(write.durability)?;
        let (key, value, ttl) = (key.to_string(), write.value.clone(), write.ttl);
        self.transaction(move |sql, now| {
            sql.prepare_cached("DELETE FROM sessions WHERE expires <= ?1")?
                .execute([now])?;
            let insert = "INSERT INTO sessions VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
            let created =
                sql.prepare_cached(insert)?
                    .execute(params![key, &value[..], after(now, ttl)])?;
            Ok(match created {
                0 => Created::Exists,
                _ => Created::Done,
            })
        })
        .await
    }

    async fn replace(
        &self,
        key: &Handle,
        expected: &Stored,
        write: Write<'_>,
    ) -> Result<Replaced, StoreError> {
        primary_only(write.durability)?;
        let (key, value, ttl) = (key.to_string(), write.value.clone(), write.ttl);
        let (expected, keep_ttl) = (expected.clone(), write.keep_ttl);
        self.transaction(move |sql, now| {
            // Nobody else writes between the comparison and the change.
            let Some(present) = load(sql, &key, now)? else {
                return Ok(Replaced::Gone);
            };
            if present.version() != expected.version() {
                return Ok(Replaced::Conflict(present));
            }
            let expires = (!keep_ttl).then_some(after(now, ttl));
            sql.prepare_cached(
                "UPDATE sessions SET value = ?2, expires = coalesce(?3, expires) WHERE handle = ?1",
            )?
            .execute(params![key, &value[..], expires])?;
            Ok(Replaced::Done)
        })
        .await
    }

    async fn touch(&self, key: &Handle, renewal: Renewal) -> Result<Touched, StoreError> {
        let key = key.to_string();
        self.transaction(move |sql, now| {
            // `Extend` never shortens the time.
            let (expires, longest) = match renewal {
                Renewal::Extend(ttl) => (after(now, ttl), after(now, ttl)),
                Renewal::Set(ttl) => (after(now, ttl), Millis::MAX),
            };
            let touched = sql
                .prepare_cached(
                    "UPDATE sessions SET expires = ?2
                     WHERE handle = ?1 AND expires > ?3 AND expires < ?4",
                )?
                .execute(params![key, expires, now, longest])?;
            Ok(match touched {
                0 => Touched::Unchanged,
                _ => Touched::Done,
            })
        })
        .await
    }

    async fn delete(&self, key: &Handle, durability: Durability) -> Result<Deleted, StoreError> {
        primary_only(durability)?;
        let key = key.to_string();
        self.transaction(move |sql, now| {
            let deleted = sql
                .prepare_cached("DELETE FROM sessions WHERE handle = ?1 AND expires > ?2")?
                .execute(params![key, now])?;
            Ok(match deleted {
                0 => Deleted::Missing,
                _ => Deleted::Done,
            })
        })
        .await
    }

    async fn acquire(
        &self,
        key: &Handle,
        owner: Owner,
        lease: Duration,
    ) -> Result<Leased, StoreError> {
        let key = key.to_string();
        self.transaction(move |sql, now| {
            sql.prepare_cached("DELETE FROM leases WHERE expires <= ?1")?
                .execute([now])?;
            let taken = sql
                .prepare_cached(
                    "INSERT INTO leases VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE
                     SET expires = excluded.expires WHERE owner = excluded.owner",
                )?
                .execute(params![key, owner.as_bytes(), after(now, lease)])?;
            if taken > 0 {
                return Ok(Leased::Held);
            }
            let expires = sql
                .prepare_cached("SELECT expires FROM leases WHERE handle = ?1")?
                .query_row([key], |row| row.get(0))?;
            let left = until(expires, now);
            Ok(Leased::Taken { left })
        })
        .await
    }

    async fn release(&self, key: &Handle, owner: Owner) -> Result<(), StoreError> {
        let key = key.to_string();
        self.transaction(move |sql, _| {
            sql.prepare_cached("DELETE FROM leases WHERE handle = ?1 AND owner = ?2")?
                .execute(params![key, owner.as_bytes()])?;
            Ok(())
        })
        .await
    }

    async fn enter(
        &self,
        index: &IndexKey,
        entry: Entry,
        admission: Admission,
    ) -> Result<Entered, StoreError> {
        let index = index.to_string();
        self.transaction(move |sql, now| index::enter(sql, &index, entry, admission, now))
            .await
    }

    async fn confirm(
        &self,
        index: &IndexKey,
        handle: &Handle,
        entered_in: Generation,
    ) -> Result<Confirmed, StoreError> {
        let (index, handle) = (index.to_string(), handle.to_string());
        self.transaction(move |sql, now| index::confirm(sql, &index, &handle, entered_in, now))
            .await
    }

    async fn extend(&self, index: &IndexKey, entry: Entry) -> Result<(), StoreError> {
        let index = index.to_string();
        self.transaction(move |sql, _| index::extend(sql, &index, entry))
            .await
    }

    async fn list(&self, index: &IndexKey) -> Result<Indexed, StoreError> {
        let index = index.to_string();
        self.transaction(move |sql, now| index::list(sql, &index, now))
            .await
    }

    async fn begin_generation(
        &self,
        index: &IndexKey,
        at: SystemTime,
    ) -> Result<Generation, StoreError> {
        let index = index.to_string();
        self.transaction(move |sql, now| index::begin_generation(sql, &index, at, now))
            .await
    }

    async fn leave(&self, index: &IndexKey, entries: &[Entry]) -> Result<(), StoreError> {
        let (index, entries) = (index.to_string(), entries.to_owned());
        self.transaction(move |sql, now| index::leave(sql, &index, &entries, now))
            .await
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn who_waits_for_the_connection_occupies_no_thread() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            // Calls that reach this thread run in their order.
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = SqliteStore::open(":memory:").unwrap();
            let (key, value) = (Handle::random(), Bytes::from_static(&[b'v'; 40]));
            let write = Write::new(&value, Duration::from_secs(60));
            let created = store.create(&key, write).await.unwrap();
            assert!(matches!(created, Created::Done));

            let connection = Arc::clone(&store.connection).lock_owned().await;
            let waits = store.delete(&key, Durability::Primary).now_or_never();
            assert!(waits.is_none());
            drop(connection);

            // The call that was dropped while it waited never got to a thread.
            let loaded = store.load(&key, Freshness::Latest).await.unwrap();
            assert!(matches!(loaded, Loaded::Found(_)));
        });
    }
}
