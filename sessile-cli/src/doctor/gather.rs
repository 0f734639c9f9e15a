//! Asks the servers.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use sessile::{ConfigError, RedisStore};

use crate::doctor::facts::{Answers, Facts, NodeFacts, Skew};
use crate::failure::Failure;
use crate::node::{Fields, Node, Refusal};
use crate::place::Place;
use crate::servers::Servers;
use crate::settings::Settings;

/// The settings of a server that the judgements need. None of them is secret.
const SETTINGS: [&str; 15] = [
    "appendfsync",
    "appendonly",
    "bind",
    "cluster-require-full-coverage",
    "maxclients",
    "maxmemory",
    "maxmemory-policy",
    "min-replicas-max-lag",
    "min-replicas-to-write",
    "notify-keyspace-events",
    "protected-mode",
    "save",
    "stop-writes-on-bgsave-error",
    "tcp-keepalive",
    "timeout",
];

/// Of each server; the median is one of them.
const ROUND_TRIPS: usize = 21;

/// Starts the store as an application does: the strategy that it has chosen, or its advice.
pub(crate) async fn store(settings: &Settings) -> Result<Result<String, String>, Failure> {
    // Not as many connections as an application: the server may be short of them.
    let config = settings.redis.clone().with_pool_size(1);
    match RedisStore::from_config(config).await {
        Ok(store) => Ok(Ok(match store.compare_and_set() {
            Some(strategy) => format!("{strategy:?}").to_lowercase(),
            None => "not detected yet".to_owned(),
        })),
        Err(ConfigError::Connect { advice, .. }) => Ok(Err(advice)),
        Err(error) => Err(error.into()),
    }
}

pub(crate) async fn gather(
    settings: &Settings,
    place: &Place,
    servers: &Servers,
    store: Result<String, String>,
) -> Facts {
    let gather = servers.found.iter().map(async |found| NodeFacts {
        address: found.address.clone(),
        is_replica: found.is_replica,
        answers: match &found.node {
            Ok(node) => heard(gather_node(node).await),
            Err(why) => Err(why.clone()),
        },
    });
    let nodes = join_all(gather).await;
    Facts {
        link: place.login().link(),
        has_password: place.login().has_password(),
        prefix: settings.redis.key_prefix.clone(),
        command_timeout: settings.redis.command_timeout,
        durability: settings.waits_for_replicas(),
        store,
        nodes,
        shards: servers.shards.clone(),
        sentinels: servers.sentinels.clone(),
        permissions: None,
        keys: None,
    }
}

/// A server that closes the connection, or does not answer, has said nothing about itself.
fn heard(answers: Answers) -> Result<Answers, String> {
    match &answers.info {
        Err(Refusal::Silent(why)) => Err(format!("{why}; has it as many clients as `maxclients`?")),
        _ => Ok(answers),
    }
}

/// Everything that one server says about itself.
pub(crate) async fn gather_node(node: &Node) -> Answers {
    let info = node.info().await;
    let in_cluster = info
        .as_ref()
        .is_ok_and(|info| info.is("cluster_enabled", "1"));
    let cluster = match in_cluster {
        true => {
            let text = node.ask::<String>(&["CLUSTER", "INFO"]).await;
            Some(text.map(|text| Fields::parse(&text, ':')))
        }
        false => None,
    };
    let (round_trips, clock) = measure(node).await;
    Answers {
        info,
        settings: node.settings(&SETTINGS).await,
        cluster,
        round_trips,
        clock,
    }
}

/// TIME, which sessions need in any case, and which shows both the time of a round trip and that of the server.
async fn measure(node: &Node) -> (Vec<Duration>, Option<Skew>) {
    let mut round_trips = Vec::new();
    let mut clock: Option<Skew> = None;
    for _ in 0..ROUND_TRIPS {
        let (sent, began) = (SystemTime::now(), Instant::now());
        let Ok(server) = node.time().await else {
            break;
        };
        let took = began.elapsed();
        round_trips.push(took);
        let uncertainty = took / 2;
        if clock.is_none_or(|clock| uncertainty < clock.uncertainty) {
            let here = (sent + uncertainty)
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let millis = millis(server) - millis(here);
            clock = Some(Skew {
                millis,
                uncertainty,
            });
        }
    }
    round_trips.sort_unstable();
    (round_trips, clock)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
