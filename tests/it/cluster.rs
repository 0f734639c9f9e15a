//! Redis Cluster: migrating slots, and primaries that join, leave, hang and die.

use std::time::{Duration, Instant};

use bytes::Bytes;
use sessile::store::{Created, Deleted, Durability, Replaced, StatsOptions, Stored, Write};
use sessile::{CompareAndSet, Handle, RedisConfig, RedisStore, SessionLayer, SessionStore};
use tokio::sync::Mutex;

use crate::support::app::app;
use crate::support::cluster::{ask, is_primary};
use crate::support::load::{Load, nodes, sessions};
use crate::support::patience::{unhurried, until_blocking};
use crate::support::server::{free_port, strategies};
use crate::support::{
    Browser, Cluster, PATIENCE, Proxy, Server, by_protocol, connect, fresh_prefix, store_with,
    until,
};

/// One machine runs at most six servers at a time.
pub static TURN: Mutex<()> = Mutex::const_new(());

/// Timeouts that are long enough for a slow machine, and short enough to give up a dead server.
pub fn patient(config: &mut RedisConfig) {
    config.command_timeout = Duration::from_secs(4);
    config.request_budget = Duration::from_secs(8);
}

/// Grants the documented permissions only.
fn allow(cluster: &Cluster, strategy: CompareAndSet) {
    allow_without(cluster, strategy, "");
}

fn allow_without(cluster: &Cluster, strategy: CompareAndSet, missing: &str) {
    let of_strategy = match strategy {
        CompareAndSet::Script => &["+getrange", "+evalsha", "+eval"][..],
        CompareAndSet::Watch => &["+getrange", "+watch", "+multi", "+exec", "+discard"],
        _ => &["+watch", "+multi", "+exec", "+discard"],
    };
    for server in &cluster.servers {
        let user = [
            "ACL",
            "SETUSER",
            "app",
            "reset",
            "on",
            ">secret",
            "~test:*",
            "~sessile:*",
            "-@all",
        ];
        let grants = ["+get", "+pttl", "+set", "+pexpire", "+unlink", "+time"];
        let of_cluster = ["+asking", "+cluster|slots"];
        let of_durability = ["+wait"];
        let of_indexes = ["+zadd", "+zrange", "+zrem", "+zremrangebyscore", "+zscore"];
        let mut words = [
            &user[..],
            &grants,
            of_strategy,
            &of_indexes,
            &of_cluster,
            &of_durability,
        ]
        .concat();
        words.retain(|word| *word != missing);
        ask::<()>(server, &words);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_passes_the_conformance_suite() {
    let _turn = TURN.lock().await;
    let cluster = Cluster::start();
    let url = cluster.url().replace("://", "://app:secret@");
    for strategy in strategies(&cluster.servers[0]) {
        allow(&cluster, strategy);
        let store = store_with(&url, |config| config.compare_and_set = strategy).await;
        assert_eq!(store.compare_and_set(), Some(strategy));
        sessile::conformance::check(store).await;
    }
    let store = store_with(&cluster.url(), |config| {
        config.compare_and_set = CompareAndSet::Auto;
    })
    .await;
    assert_eq!(store.compare_and_set(), Some(CompareAndSet::Script));
    assert!(store.health().await.is_ok());
    for missing in ["+asking", "+cluster|slots"] {
        allow_without(&cluster, CompareAndSet::Script, missing);
        let text = connect(url.clone()).await.unwrap_err().to_string();
        let advice = format!("grant the user `{missing}`");
        assert!(text.contains(&advice), "{text}");
    }
    sessions_are_counted_on_all_primaries(&cluster, &store).await;
    urls_of_the_wrong_kind_are_rejected(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_in_migrating_slots_work_with_every_compare_and_set() {
    let _turn = TURN.lock().await;
    let cluster = Cluster::start();
    let url = cluster.url().replace("://", "://app:secret@");
    // A third of the sessions is loaded through one primary and was created on another.
    cluster.start_migrating(0..5461, 0, 1);
    for protocol in ["", "?protocol=resp3"] {
        for strategy in strategies(&cluster.servers[0]) {
            allow(&cluster, strategy);
            let store = store_with(&format!("{url}{protocol}"), |config| {
                config.compare_and_set = strategy;
            })
            .await;
            sessile::conformance::check(store.clone()).await;
            changes_wait_for_replicas(&store).await;
        }
    }
    let asked = cluster.servers[1].counts().of("asking");
    assert!(asked > 100, "{asked}");
}

fn value(text: &str) -> Bytes {
    Bytes::from(format!("{text:0<24}"))
}

/// Checks that writes wait for the replica of their primary. Each primary has one.
pub async fn changes_wait_for_replicas(store: &RedisStore) {
    let ttl = Duration::from_secs(60);
    let durability = Durability::Replicas {
        n: 1,
        timeout: PATIENCE,
    };
    // Some of these slots are migrating.
    for _ in 0..12 {
        let key = Handle::random();
        let (first, second) = (value("first"), value("second"));
        let write = |value| Write::new(value, ttl).with_durability(durability);
        let created = store.create(&key, write(&first)).await;
        assert!(matches!(created, Ok(Created::Done)), "{created:?}");
        let stored = Stored::new(first.clone(), None);
        let replaced = store.replace(&key, &stored, write(&second)).await;
        assert!(matches!(replaced, Ok(Replaced::Done)), "{replaced:?}");
        let deleted = store.delete(&key, durability).await;
        assert!(matches!(deleted, Ok(Deleted::Done)), "{deleted:?}");
        let deleted = store.delete(&key, durability).await;
        assert!(matches!(deleted, Ok(Deleted::Missing)), "{deleted:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_survive_when_primaries_join_and_leave() {
    let _turn = TURN.lock().await;
    let mut cluster = Cluster::start();
    let nodes = nodes(2, &cluster.url(), patient).await;
    let load = Load::start(nodes, sessions(45)).await;
    load.more(100).await;
    let slots = cluster.used_slots(0);
    // The replica of the first primary migrates to it.
    tokio::task::block_in_place(|| {
        cluster.join_as_primary(3);
        for some in slots.chunks(5) {
            cluster.move_slots(some, 0, 3, Duration::from_millis(50));
        }
    });
    load.more(100).await;
    assert_eq!(cluster.used_slots(0), [] as [u16; 0]);
    cluster.servers[0].kill();
    load.more(300).await;
    let outcome = load.check(None).await;
    assert_eq!(
        (outcome.lost, outcome.unaffected),
        (0, sessions(45)),
        "{outcome}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_primary_without_a_replica_affects_only_its_own_sessions() {
    let _turn = TURN.lock().await;
    let mut cluster = Cluster::start();
    for dead in [3, 0] {
        cluster.servers[dead].kill();
    }
    // Each store probes the server with its own keys at startup.
    for _ in 0..4 {
        for lazy in [false, true] {
            let mut config = RedisConfig::new(by_protocol(&cluster.url()));
            config.key_prefix = fresh_prefix();
            unhurried(&mut config);
            let store = match lazy {
                true => RedisStore::lazy(config),
                false => RedisStore::from_config(config).await,
            };
            let store = store.unwrap();
            let (first, second) = (value("first"), value("second"));
            let ttl = Duration::from_secs(60);
            let mut lived = 0;
            until("sessions of the other primaries work", async || {
                let key = Handle::random();
                let stored = Stored::new(first.clone(), None);
                let done = store.create(&key, Write::new(&first, ttl)).await.is_ok()
                    && store
                        .replace(&key, &stored, Write::new(&second, ttl))
                        .await
                        .is_ok_and(|replaced| replaced == Replaced::Done);
                lived += u32::from(done);
                lived > 10
            })
            .await;
            assert!(!store.health().await.is_ok());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_creation_does_not_revive_a_session() {
    let server = single_node();
    let proxy = Proxy::before(server.address()).await;
    let port = proxy.address().port().to_string();
    ask::<()>(&server, &["CONFIG", "SET", "cluster-announce-port", &port]);
    let url = format!("redis+cluster://{}/", proxy.address());
    let store = store_with(&url, |config| {
        config.command_timeout = Duration::from_secs(1);
        config.request_budget = Duration::from_secs(10);
    })
    .await;
    let app = app(SessionLayer::new(store));
    let hold = proxy.hold("NX");
    let mut browser = Browser::default();
    until("a session is created", async || {
        browser.get(&app, "/set?k=name&v=mia").await.status == 200
    })
    .await;
    hold.arrived().await;
    let before = browser.clone();
    // One connection is silent, so a request may have to be retried.
    until("it is there", async || reads(&before, &app, "name").await).await;
    until("it is ended", async || {
        browser.get(&app, "/logout").await.status == 200
    })
    .await;
    let sets = server.counts().of("set");
    hold.release();
    // The late creation creates a session whose token nobody has.
    until("it has arrived", async || server.counts().of("set") > sets).await;
    until("the ended session is not back", async || {
        reads(&before, &app, "").await
    })
    .await;
}

async fn reads(browser: &Browser, app: &axum::Router, text: &str) -> bool {
    let page = browser.peek(app, "/read?k=name").await;
    page.status == 200 && page.text == text
}

/// A cluster of a single node.
pub fn single_node() -> Server {
    let server = Server::start_by(|| {
        let bus = free_port().to_string();
        let arguments = ["--cluster-enabled", "yes", "--cluster-port", &bus];
        arguments.map(str::to_owned).to_vec()
    });
    ask::<()>(&server, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    until_blocking("the cluster is ready", || {
        let info: String = ask(&server, &["CLUSTER", "INFO"]);
        info.contains("cluster_state:ok")
    });
    server
}

#[tokio::test]
async fn a_hanging_node_of_the_url_does_not_block_startup() {
    let server = single_node();
    // The operating system accepts connections to this port, and nothing answers on them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap();
    let url = format!("redis+cluster://{silent},{silent},{}/", server.address());
    connect(url).await.unwrap();
    let mut config = RedisConfig::new(format!("redis+cluster://{silent},{silent}/"));
    config.connection_timeout = Duration::from_millis(300);
    let text = RedisStore::from_config(config).await.unwrap_err();
    let text = text.to_string();
    assert!(text.contains("connection_timeout = 300ms"), "{text}");
}

async fn sessions_are_counted_on_all_primaries(cluster: &Cluster, store: &RedisStore) {
    let app = app(SessionLayer::new(store.clone()));
    for _ in 0..200 {
        Browser::default().get(&app, "/set?k=name&v=mia").await.ok();
    }
    for primary in 0..3 {
        assert!(
            cluster.used_slots(primary).len() > 20,
            "the sessions are on all primaries"
        );
    }
    let mut last = None;
    let stats = store
        .stats(StatsOptions::new().with_count(10), |progress| {
            last = Some(progress)
        })
        .await
        .unwrap();
    assert_eq!((stats.sessions, stats.time_left.half_hour), (200, 200));
    let last = last.unwrap();
    assert_eq!(last.sessions, 200);
    // The count includes expired keys until the server removes them, which may happen at any time.
    let keys = u64::try_from(cluster.keys()).unwrap();
    assert!(
        keys <= last.of && last.of < keys + 50 && last.keys >= 200,
        "{keys} {last:?}"
    );
}

async fn urls_of_the_wrong_kind_are_rejected(cluster: &Cluster) {
    let one = Server::start();
    let url = format!("redis+cluster://{}/", one.address());
    let text = connect(url).await.unwrap_err().to_string();
    assert!(
        text.contains("not a cluster") && text.contains("redis://"),
        "{text}"
    );
    // A client without cluster support reaches the right node for one key in three.
    let mut text = String::new();
    for primary in cluster.primaries() {
        if let Err(error) = connect(primary.url()).await {
            text = error.to_string();
        }
    }
    assert!(text.contains("redis+cluster://"), "{text}");
    let nowhere = format!(
        "redis+cluster://127.0.0.1:{}/",
        crate::support::server::free_port()
    );
    let text = connect(nowhere).await.unwrap_err().to_string();
    assert!(text.contains("refused"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_is_lost_or_applied_twice_while_slots_move() {
    let _turn = TURN.lock().await;
    let cluster = Cluster::start();
    let nodes = nodes(3, &cluster.url(), patient).await;
    let load = Load::start(nodes, sessions(60)).await;
    load.more(100).await;
    let mut slots = cluster.used_slots(0);
    slots.truncate(100);
    tokio::task::block_in_place(|| {
        for some in slots.chunks(5) {
            cluster.move_slots(some, 0, 1, Duration::from_millis(300));
        }
    });
    load.all_work().await;
    load.more(500).await;
    let outcome = load.check(None).await;
    println!("{} slots moved: {outcome}", slots.len());
    assert_eq!(outcome.unaffected, sessions(60), "{outcome}");
    let left = cluster.used_slots(0);
    assert!(slots.len() > 8 && !slots.iter().any(|slot| left.contains(slot)));
    assert_eq!(outcome.lost, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_takes_over_from_a_primary_that_dies_or_hangs() {
    let _turn = TURN.lock().await;
    let mut cluster = Cluster::start();
    let nodes = nodes(3, &cluster.url(), patient).await;
    // No request uses this primary.
    let idle = store_with(&cluster.url(), patient).await;
    for hangs in [false, true] {
        let began = Instant::now();
        let primary = usize::from(hangs);
        let keys_before = cluster.handles(primary);
        let load = Load::start(nodes.clone(), sessions(45)).await;
        let concerned = cluster.handles(primary) - keys_before;
        load.more(300).await;
        let struck = Instant::now();
        match hangs {
            false => cluster.servers[primary].kill(),
            true => cluster.servers[primary].freeze(),
        }
        let replica = &cluster.servers[3 + primary];
        until("the replica has taken over", async || is_primary(replica)).await;
        let taken_over = struck.elapsed();
        let back = load.all_work().await;
        let calm = Instant::now();
        load.more(300).await;
        let outcome = load.check(Some((began, calm))).await;
        let how = if hangs { "hangs" } else { "is dead" };
        println!(
            "a primary {how}: taken over after {taken_over:?}, all sessions work {back:?} later; {outcome}"
        );
        assert!(outcome.unaffected >= sessions(45) - concerned, "{outcome}");
        until("the store is healthy again", async || {
            idle.health().await.is_ok()
        })
        .await;
        let counted = idle.stats(StatsOptions::new(), |_| ()).await;
        assert!(counted.is_ok(), "{counted:?}");
        if hangs {
            cluster.servers[primary].thaw();
        }
    }
}
