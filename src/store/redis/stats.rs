//! Counting the sessions of a Redis that others use too.

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
    /// Counts the sessions of this store, among all keys of the database. For an administrator's page or command, not for
    /// every request: it looks at every key.
    ///
    /// Nothing is collected: it takes as much memory as one `SCAN` returns. `progress` hears after each of them. Keys of
    /// others are skipped, also those that begin with this store's prefix and go on otherwise. A session that is created or
    /// ends meanwhile is counted or not, and one may be counted twice if Redis resizes its table meanwhile. On a cluster all
    /// primaries are gone through, one after the other; so a session whose slot moves meanwhile is counted or not, or twice.
    ///
    /// # Redis
    ///
    /// One `DBSIZE`, and for every [`StatsOptions::count`] keys of the database a `SCAN`, followed by a `STRLEN` and a
    /// `PTTL` for each session found, in one round trip. Every `SCAN` has its own `command_timeout`. The user needs
    /// `+scan +dbsize +strlen` besides what the store needs; `SCAN` shows the names of all keys.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; counting then has no result.
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
        let primaries = servers.primaries_now().await?;
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

    /// Whether the store can be read, and how its connections are. It reads a key that does not exist, instead of sending
    /// `PING`, which some servers refuse while they serve reads. A server that takes no writes passes. A cluster is healthy
    /// if all of its primaries are.
    ///
    /// # Redis
    ///
    /// One `GET`; on a cluster one to each primary, all at once, of which the slowest counts.
    #[doc(alias("ping", "is_healthy", "pool_status"))]
    pub async fn health(&self) -> Health {
        let mut get = redis::cmd("GET");
        get.arg(format!("{}probe", self.inner.config.key_prefix));
        let began = Instant::now();
        let read = self.inner.servers.ask_all(&Request::Command(&get)).await;
        let read = read.map(|()| began.elapsed()).map_err(StoreError::from);
        Health {
            read,
            pool: self.pool(),
        }
    }

    /// The connections that requests share, as they are now. Asks nothing of Redis.
    pub fn pool(&self) -> PoolStats {
        self.inner.servers.stats()
    }

    /// One step through the database: where to go on, and the names found that begin as ours do.
    async fn scan(
        &self,
        primary: &Connections,
        cursor: &[u8],
        count: u32,
    ) -> Result<(Vec<u8>, Vec<Vec<u8>>), StoreError> {
        let mut scan = redis::cmd("SCAN");
        // No character that a prefix may have means anything in a pattern.
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

    /// Whether a key holds a session of this store, told by its name.
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

/// Size and time left of the sessions under these keys; what has ended meanwhile, or is no string, is none.
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
