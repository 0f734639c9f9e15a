//! Counts the sessions of a Redis that others may use too, and checks its health.

use std::time::{Duration, Instant};

use redis::Value;

use crate::error::store::StoreError;
use crate::store::redis::connections::Connections;
use crate::store::redis::reply::unexpected_reply;
use crate::store::redis::request::Request;
use crate::store::redis::servers::Servers;
use crate::store::redis::store::RedisStore;
use crate::store::stats::{Health, PoolStats, Progress, StatsOptions, StoreStats};
use crate::token::Handle;

impl RedisStore {
    /// Counts the sessions of this store, among all keys of the database. For an administrator's page or command, not for every
    /// request: it examines every key.
    ///
    /// It collects nothing, so it takes as much memory as the reply to one `SCAN`. It calls `progress` after each of them. It
    /// skips other keys, including those that begin with this store's prefix and are not sessions. A session that is created or
    /// ends meanwhile may be counted or not, and one may be counted twice if Redis resizes its table meanwhile. On a cluster it
    /// goes through all primaries, one after the other; so a session whose slot moves meanwhile may be counted, missed or
    /// counted twice.
    ///
    /// # Redis
    ///
    /// One `DBSIZE`, and for every [`StatsOptions::count`] keys of the database a `SCAN`, followed by a `STRLEN` and a `PTTL`
    /// for each session found, in one round trip. `command_timeout` applies to every `SCAN`. The user needs `+scan +dbsize
    /// +strlen` in addition to the store's permissions; `SCAN` reveals the names of all keys.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; there is no partial result.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn admin(store: sessile::RedisStore) -> Result<(), sessile::StoreError> {
    /// use sessile::store::StatsOptions;
    ///
    /// let stats = store.stats(StatsOptions::new(), |progress| println!("{} keys", progress.keys)).await?;
    /// println!("{} sessions of {} bytes", stats.sessions, stats.bytes);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("count", "session_count", "scan"))]
    pub async fn stats(
        &self,
        options: StatsOptions,
        mut progress: impl FnMut(Progress),
    ) -> Result<StoreStats, StoreError> {
        let servers = &self.inner.servers;
        let primaries = servers.refreshed_primaries().await?;
        let mut stats = StoreStats::default();
        let mut so_far = Progress::default();
        for primary in &primaries {
            so_far.of += database_size(primary).await?;
        }
        let mut left = primaries.len();
        for primary in &primaries {
            left -= 1;
            let mut cursor = b"0".to_vec();
            loop {
                let (next, keys) = self.scan(primary, &cursor, options.count).await?;
                so_far.keys = so_far.of.min(so_far.keys + u64::from(options.count));
                let names = keys.iter().filter_map(|key| std::str::from_utf8(key).ok());
                let ours: Vec<_> = names.filter(|key| self.is_session(key)).collect();
                measure(servers, primary, &ours, &mut stats).await?;
                so_far.sessions = stats.sessions;
                if next == b"0" {
                    break;
                }
                progress(so_far);
                cursor = next;
            }
            if left == 0 {
                so_far.keys = so_far.of;
            }
            progress(so_far);
        }
        Ok(stats)
    }

    /// Whether the store can be read, and the state of its connections. It reads a key that does not exist, instead of sending
    /// `PING`, which some servers refuse while they serve reads. A server that accepts no writes is healthy. A cluster is
    /// healthy if all of its primaries are.
    ///
    /// # Redis
    ///
    /// One `GET`; on a cluster one to each primary, all at once, so it takes as long as the slowest.
    #[doc(alias("ping", "is_healthy", "pool_status"))]
    pub async fn health(&self) -> Health {
        let mut get = redis::cmd("GET");
        get.arg(format!("{}probe", self.inner.config.key_prefix));
        let began = Instant::now();
        let read = self
            .inner
            .servers
            .send_to_all(&Request::Command(&get))
            .await;
        let read = read.map(|()| began.elapsed()).map_err(StoreError::from);
        Health {
            read,
            pool: self.pool(),
        }
    }

    /// The connections that requests share, as they are now. Sends nothing to Redis.
    pub fn pool(&self) -> PoolStats {
        self.inner.servers.stats()
    }

    /// One step of the scan: the next cursor, and the keys found that begin with the prefix.
    async fn scan(
        &self,
        primary: &Connections,
        cursor: &[u8],
        count: u32,
    ) -> Result<(Vec<u8>, Vec<Vec<u8>>), StoreError> {
        let mut scan = redis::cmd("SCAN");
        // No character that a prefix may contain is special in a pattern.
        let pattern = format!("{}*", self.inner.config.key_prefix);
        scan.arg(cursor)
            .arg("MATCH")
            .arg(pattern)
            .arg("COUNT")
            .arg(count);
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

    /// Whether a key, by its name, holds a session of this store.
    fn is_session(&self, key: &str) -> bool {
        key.strip_prefix(&*self.inner.config.key_prefix)
            .is_some_and(|handle| handle.parse::<Handle>().is_ok())
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

/// Adds size and time to live of the sessions under these keys; skips keys that are gone meanwhile or not strings.
async fn measure(
    servers: &Servers,
    primary: &Connections,
    keys: &[&str],
    stats: &mut StoreStats,
) -> Result<(), StoreError> {
    if keys.is_empty() {
        return Ok(());
    }
    let answer = primary
        .send_idempotent(&Request::Pipeline(&measures(keys)))
        .await?;
    let Value::Array(answers) = answer else {
        return Err(unexpected_reply("STRLEN"));
    };
    for (key, pair) in keys.iter().zip(answers.chunks_exact(2)) {
        let has_moved = pair.iter().any(|answer| match answer {
            Value::ServerError(error) => matches!(error.code(), "MOVED" | "ASK"),
            _ => false,
        });
        if !has_moved {
            add(stats, pair)?;
            continue;
        }
        let measure = measures(&[key]);
        let answer = servers
            .send_idempotent(key, &Request::Pipeline(&measure))
            .await?;
        match answer {
            Value::Array(pair) => add(stats, &pair)?,
            _ => return Err(unexpected_reply("STRLEN")),
        }
    }
    Ok(())
}

fn measures(keys: &[&str]) -> redis::Pipeline {
    let mut pipeline = redis::pipe();
    for key in keys {
        pipeline.cmd("STRLEN").arg(key).cmd("PTTL").arg(key);
    }
    pipeline.ignore_errors();
    pipeline
}

fn add(stats: &mut StoreStats, answers: &[Value]) -> Result<(), StoreError> {
    match answers {
        [Value::Int(bytes @ 1..), Value::Int(-1)] => stats.add(bytes.unsigned_abs(), None),
        [Value::Int(bytes @ 1..), Value::Int(left @ 0..)] => {
            let left = Duration::from_millis(left.unsigned_abs());
            stats.add(bytes.unsigned_abs(), Some(left));
        }
        [Value::ServerError(error), _] if error.code() == "WRONGTYPE" => {}
        [Value::ServerError(error), _] | [_, Value::ServerError(error)] => {
            return Err(StoreError::refused(format!(
                "Redis refused STRLEN or PTTL with {}",
                error.code()
            )));
        }
        _ => {}
    }
    Ok(())
}
