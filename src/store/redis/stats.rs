//! Counts the sessions of a Redis that others may use too, and checks its health.

use std::time::{Duration, Instant};

use redis::Value;

use crate::error::store::StoreError;
use crate::store::redis::connections::Connections;
use crate::store::redis::reply::unexpected_reply;
use crate::store::redis::request::Request;
use crate::store::redis::scan::{KeyScan, NextStep};
use crate::store::redis::servers::Servers;
use crate::store::redis::store::RedisStore;
use crate::store::stats::{Health, PoolStats, Progress, StatsOptions, StoreStats};

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
        let mut scan = KeyScan::begin(self, options).await?;
        let mut stats = StoreStats::default();
        let mut of_servers_before = stats.clone();
        while let Some((primary, keys)) = scan.next().await? {
            let sessions: Vec<_> = keys.iter().filter(|key| self.is_session(key)).collect();
            measure(&self.inner.servers, &primary, &sessions, &mut stats).await?;
            match scan.next_step {
                NextStep::Further => {}
                // Otherwise its sessions would count twice.
                NextStep::Again => stats = of_servers_before.clone(),
                NextStep::NextServer => of_servers_before = stats.clone(),
            }
            progress(scan.progress(stats.sessions));
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

    fn is_session(&self, key: &str) -> bool {
        self.handle_in(key).is_some()
    }
}

/// Adds size and time to live of the sessions under these keys; skips keys that are gone meanwhile or not strings.
async fn measure(
    servers: &Servers,
    primary: &Connections,
    keys: &[&String],
    stats: &mut StoreStats,
) -> Result<(), StoreError> {
    if keys.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = keys.iter().map(|key| key.as_str()).collect();
    let answer = primary
        .send_idempotent(&Request::Pipeline(&measures(&names)))
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
        let measure = measures(&[key.as_str()]);
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
