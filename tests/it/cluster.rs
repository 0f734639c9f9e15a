//! A Redis Cluster: slots that move, primaries that die, and a client that repeats by itself.

use std::time::{Duration, Instant};

use sessile::store::StatsOptions;
use sessile::{CompareAndSet, RedisConfig, RedisStore, SessionLayer, SessionStore};
use tokio::sync::Mutex;

use crate::support::app::app;
use crate::support::cluster::{ask, is_primary};
use crate::support::load::{Load, nodes, sessions};
use crate::support::{Browser, Cluster, Server, connect, store_with, until};

/// Six servers at a time are enough for one machine.
static TURN: Mutex<()> = Mutex::const_new(());

/// What a slow machine does is not taken for a dead server, and a dead server is given up in the end.
fn patient(config: &mut RedisConfig) {
    config.command_timeout = Duration::from_secs(4);
    config.request_budget = Duration::from_secs(8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_a_session_store() {
    let _turn = TURN.lock().await;
    let cluster = Cluster::start();
    let mut ways = vec![CompareAndSet::Script];
    if crate::support::server::ways(&Server::start()).contains(&CompareAndSet::IfEq) {
        ways.push(CompareAndSet::IfEq);
    }
    // The permissions of the documentation.
    for server in &cluster.servers {
        let user = ["ACL", "SETUSER", "app", "on", ">secret", "~test:*", "-@all"];
        let grants = ["+get", "+pttl", "+set", "+pexpire", "+unlink", "+time"];
        let of_script = ["+getrange", "+evalsha", "+eval"];
        let of_cluster = ["+ping", "+asking", "+cluster|slots"];
        let words = [&user[..], &grants, &of_script, &of_cluster].concat();
        ask::<()>(server, &words);
    }
    let url = cluster.url().replace("://", "://app:secret@");
    for way in ways {
        let store = store_with(&url, |config| config.compare_and_set = way).await;
        assert_eq!(store.compare_and_set(), Some(way));
        assert!(store.capabilities().resends);
        sessile::conformance::check(store).await;
    }
    let store = store_with(&cluster.url(), |config| {
        config.compare_and_set = CompareAndSet::Auto;
    })
    .await;
    assert_eq!(store.compare_and_set(), Some(CompareAndSet::Script));
    assert!(store.health().await.is_ok());
    sessions_are_counted_on_all_primaries(&cluster, &store).await;
    what_it_is_not_is_said(&cluster).await;
}

async fn sessions_are_counted_on_all_primaries(cluster: &Cluster, store: &RedisStore) {
    let app = app(SessionLayer::new(store.clone()));
    for _ in 0..200 {
        Browser::default().get(&app, "/set?k=name&v=mia").await.ok();
    }
    for primary in 0..3 {
        assert!(cluster.used_slots(primary).len() > 20, "on all of them");
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
    // Keys whose time is up are counted until the server drops them, which it does at any moment.
    let keys = u64::try_from(cluster.keys()).unwrap();
    assert!(
        keys <= last.of && last.of < keys + 50 && last.keys >= 200,
        "{keys} {last:?}"
    );
}

async fn what_it_is_not_is_said(cluster: &Cluster) {
    let one = Server::start();
    let url = format!("redis+cluster://{}/", one.address());
    let text = connect(url).await.unwrap_err().to_string();
    assert!(
        text.contains("no cluster") && text.contains("redis://"),
        "{text}"
    );
    // A node of a cluster knows where a key is, and a client that does not ask where goes wrong two times of three.
    let mut told = String::new();
    for primary in cluster.primaries() {
        if let Err(error) = connect(primary.url()).await {
            told = error.to_string();
        }
    }
    assert!(told.contains("redis+cluster://"), "{told}");
    let nowhere = format!(
        "redis+cluster://127.0.0.1:{}/",
        crate::support::server::free_port()
    );
    let text = connect(nowhere).await.unwrap_err().to_string();
    assert!(text.contains("refused"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_slots_move_nothing_is_lost_or_done_twice() {
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
    // The client may have to connect anew on the way; then all sessions work, and go on to.
    load.all_work().await;
    load.more(500).await;
    let outcome = load.check(None).await;
    println!("{} slots moved: {outcome}", slots.len());
    let left = cluster.used_slots(0);
    assert!(slots.len() > 8 && !slots.iter().any(|slot| left.contains(slot)));
    assert_eq!(outcome.lost, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_dies_or_hangs_is_followed_by_its_replica() {
    let _turn = TURN.lock().await;
    let mut cluster = Cluster::start();
    let nodes = nodes(3, &cluster.url(), patient).await;
    for hangs in [false, true] {
        let began = Instant::now();
        let load = Load::start(nodes.clone(), sessions(45)).await;
        load.more(300).await;
        let primary = usize::from(hangs);
        let struck = Instant::now();
        match hangs {
            false => cluster.servers[primary].kill(),
            true => cluster.servers[primary].freeze(),
        }
        let replica = &cluster.servers[3 + primary];
        until("its replica has taken over", async || is_primary(replica)).await;
        let taken_over = struck.elapsed();
        let back = load.all_work().await;
        let calm = Instant::now();
        load.more(300).await;
        let outcome = load.check(Some((began, calm))).await;
        let how = if hangs { "hangs" } else { "is dead" };
        println!(
            "a primary {how}: taken over after {taken_over:?}, all sessions work {back:?} later; {outcome}"
        );
        // Two thirds of the sessions are with other primaries. One that hangs holds up a few of their requests too.
        assert!(hangs || outcome.unhurt >= sessions(45) / 3, "{outcome}");
        if hangs {
            cluster.servers[primary].thaw();
        }
    }
}
