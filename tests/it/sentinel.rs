//! A primary that sentinels watch over, and the replica that takes over.

use std::time::{Duration, Instant};

use sessile::{ConfigError, RedisConfig, RedisStore};

use crate::support::cluster::is_primary;
use crate::support::load::{Load, nodes};
use crate::support::patience::{by_default, unhurried};
use crate::support::server::free_port;
use crate::support::{Sentinels, connect, store_with, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_sessions_go_on_at_the_new_primary() {
    let mut servers = Sentinels::start();
    sessile::conformance::check(store_with(&servers.url(), |_| ()).await).await;
    let nodes = nodes(3, &servers.url(), by_default).await;
    let began = Instant::now();
    let load = Load::start(nodes, 60).await;
    load.more(300).await;
    let killed = Instant::now();
    servers.primary.kill();
    until("the replica has taken over", async || {
        is_primary(&servers.replica)
    })
    .await;
    let taken_over = killed.elapsed();
    let back = load.all_work().await;
    let calm = Instant::now();
    load.more(300).await;
    let outcome = load.check(Some((began, calm))).await;
    println!("taken over after {taken_over:?}, all sessions work {back:?} later; {outcome}");
    what_sentinels_do_not_know_is_said(&servers).await;
}

async fn refused(url: String) -> String {
    let error = connect(url).await.unwrap_err();
    assert!(matches!(error, ConfigError::Connect { .. }), "{error}");
    error.to_string()
}

async fn what_sentinels_do_not_know_is_said(servers: &Sentinels) {
    let text = refused(servers.url().replace("mymaster", "shop")).await;
    for sentinel in &servers.sentinels {
        let said = format!("{} knows no `shop`", sentinel.address());
        assert!(text.contains(&said), "{text}");
    }
    let nowhere = format!("127.0.0.1:{}", free_port());
    let text = refused(format!("redis+sentinel://{nowhere}/mymaster")).await;
    assert!(
        text.contains(&nowhere) && text.contains("refused"),
        "{text}"
    );
    // One that is there is enough.
    let some = format!(
        "redis+sentinel://{nowhere},{}/mymaster",
        servers.sentinels[0].address()
    );
    let patient = |url: String| {
        let mut config = RedisConfig::new(url);
        unhurried(&mut config);
        config.connection_timeout = Duration::from_secs(12);
        RedisStore::from_config(config)
    };
    patient(some).await.unwrap();
    // One that hangs leaves time for the others.
    servers.sentinels[0].freeze();
    patient(servers.url()).await.unwrap();
    let mut config = RedisConfig::new(format!(
        "redis+sentinel://{}/mymaster",
        servers.sentinels[0].address()
    ));
    config.connection_timeout = Duration::from_millis(400);
    let text = RedisStore::from_config(config)
        .await
        .unwrap_err()
        .to_string();
    assert!(text.contains("did not answer"), "{text}");
    servers.sentinels[0].thaw();
}
