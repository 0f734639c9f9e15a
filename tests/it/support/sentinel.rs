//! A primary with a replica, and three sentinels that watch over them.

use redis::RedisResult;

use super::Server;
use super::cluster::answer;
use super::patience::until_blocking;

pub struct Sentinels {
    pub primary: Server,
    pub replica: Server,
    pub sentinels: Vec<Server>,
}

impl Sentinels {
    pub fn start() -> Self {
        let primary = Server::start();
        let port = primary.port().to_string();
        let replicate = ["--replicaof", "127.0.0.1", &port];
        let replica =
            Server::start_with(&[&replicate[..], &["--repl-diskless-sync-delay", "0"]].concat());
        let config = format!(
            "sentinel monitor mymaster 127.0.0.1 {port} 2\n\
             sentinel down-after-milliseconds mymaster 5000\n\
             sentinel failover-timeout mymaster 10000\n"
        );
        let start = |_| Server::start_sentinel(&config);
        let all = Self {
            primary,
            replica,
            sentinels: (0..3).map(start).collect(),
        };
        until_blocking("the sentinels are ready", || {
            all.are_ready().unwrap_or(false)
        });
        all
    }

    /// Whether all sentinels know each other and the replica.
    fn are_ready(&self) -> RedisResult<bool> {
        let replication: String = answer(&self.replica, &["INFO", "replication"])?;
        let mut ready = replication.contains("master_link_status:up");
        for sentinel in &self.sentinels {
            let info: String = answer(sentinel, &["INFO", "sentinel"])?;
            ready &= info.contains("slaves=1,sentinels=3");
        }
        Ok(ready)
    }

    pub fn url(&self) -> String {
        let sentinels = self.sentinels.iter();
        let addresses: Vec<_> = sentinels.map(|node| node.address().to_string()).collect();
        format!("redis+sentinel://{}/mymaster", addresses.join(","))
    }
}
