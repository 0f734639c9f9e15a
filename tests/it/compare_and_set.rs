//! The three compare-and-set strategies, which replace a session in Redis only if no other request has changed it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use sessile::store::{
    Created, Freshness, Leased, Loaded, Owner, Replaced, StoreErrorKind, Stored, Write,
};
use sessile::{
    CompareAndSet, Handle, RedisConfig, RedisStore, SessionLayer, SessionStore, StoreError,
};

use crate::support::app::app;
use crate::support::patience::{poll_at_most, unhurried};
use crate::support::proxy::Fault;
use crate::support::server::strategies;
use crate::support::{Browser, Proxy, Server, fresh_prefix, store_with, until};

const LONG: Duration = Duration::from_secs(60);

/// A value with this version number.
fn value(version: u64) -> Bytes {
    format!("{{\"version\":\"{version:016x}\",\"rest\":{version}}}").into()
}

async fn stored(store: &RedisStore, version: u64) -> Handle {
    let handle = Handle::random();
    let value = value(version);
    let created = store.create(&handle, Write::new(&value, LONG));
    assert_eq!(created.await.unwrap(), Created::Done);
    handle
}

async fn replace(
    store: &RedisStore,
    key: &Handle,
    expected: u64,
    version: u64,
) -> Result<Replaced, StoreError> {
    let expected = Stored::new(value(expected), None);
    store
        .replace(key, &expected, Write::new(&value(version), LONG))
        .await
}

/// The stored version.
async fn version(store: &RedisStore, key: &Handle) -> u64 {
    let Loaded::Found(stored) = store.load(key, Freshness::Latest).await.unwrap() else {
        panic!("the session is there");
    };
    let text = std::str::from_utf8(&stored.version()[12..28]).unwrap();
    let version = u64::from_str_radix(text, 16).unwrap();
    assert_eq!(stored.value(), &value(version));
    version
}

async fn store_by(strategy: CompareAndSet, url: &str) -> RedisStore {
    let store = store_with(url, |config| config.compare_and_set = strategy).await;
    assert_eq!(store.compare_and_set(), Some(strategy));
    store
}

/// Stores with these strategies, all with the same sessions.
async fn nodes_by(
    strategies: impl IntoIterator<Item = CompareAndSet>,
    url: &str,
) -> Vec<RedisStore> {
    let prefix = fresh_prefix();
    let mut stores = Vec::new();
    for strategy in strategies {
        let prefix = prefix.clone();
        let store = store_with(url, |config| {
            config.key_prefix = prefix;
            config.compare_and_set = strategy;
        });
        stores.push(store.await);
    }
    stores
}

fn key_of(store: &RedisStore, handle: &Handle) -> String {
    format!("{}{handle}", store.namespace())
}

#[tokio::test]
async fn every_compare_and_set_passes_the_conformance_suite() {
    let server = Server::start();
    for strategy in strategies(&server) {
        sessile::conformance::check(store_by(strategy, &server.url()).await).await;
    }
}

/// Prints the strategies for `scripts/test`, which runs the tests with each of them.
#[test]
fn prints_the_compare_and_sets_of_this_server() {
    let names: Vec<String> = strategies(&Server::start())
        .into_iter()
        .map(|strategy| serde_json::to_value(strategy).unwrap())
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    println!("strategies of this server: {}", names.join(" "));
    assert!(names.len() >= 2, "every server has scripts and WATCH");
}

#[tokio::test]
async fn a_compare_and_set_that_the_server_lacks_is_an_error() {
    let server = Server::start();
    let mut config = RedisConfig::new(server.url());
    config.compare_and_set = CompareAndSet::IfEq;
    unhurried(&mut config);
    let made = RedisStore::from_config(config).await;
    if strategies(&server).contains(&CompareAndSet::IfEq) {
        assert_eq!(made.unwrap().compare_and_set(), Some(CompareAndSet::IfEq));
    } else {
        let text = made.unwrap_err().to_string();
        assert!(text.contains("Valkey 8.1 and Redis 8.4"), "{text}");
        assert!(text.contains("compare_and_set = \"auto\""), "{text}");
    }
    let keys: usize = redis::cmd("DBSIZE")
        .query(&mut server.connection())
        .unwrap();
    assert_eq!(keys, 0, "the detection must leave no key behind");
}

#[tokio::test]
async fn auto_selects_the_best_compare_and_set_that_the_user_may_run() {
    let server = Server::start();
    let without_scripts = match strategies(&server).contains(&CompareAndSet::IfEq) {
        true => CompareAndSet::IfEq,
        false => CompareAndSet::Watch,
    };
    for (rule, expected) in [
        ("+ping", CompareAndSet::Script),
        ("-@scripting", without_scripts),
        ("-eval", without_scripts),
        ("-evalsha", without_scripts),
    ] {
        let done: () = redis::cmd("ACL")
            .arg(&["SETUSER", "app", "reset", "on", ">secret", "~*", "+@all"])
            .arg(rule)
            .query(&mut server.connection())
            .unwrap();
        assert_eq!(done, ());
        let url = format!("redis://app:secret@{}/", server.address());
        let store = store_with(&url, |config| config.compare_and_set = CompareAndSet::Auto).await;
        assert_eq!(store.compare_and_set(), Some(expected), "{rule}");
        server.reset_counts();
        sessile::conformance::check(store).await;
        let counts = server.counts();
        assert_eq!(
            ["evalsha", "getrange", "exec"].map(|name| counts.of(name) > 0),
            [
                expected == CompareAndSet::Script,
                expected != CompareAndSet::IfEq,
                // The indexes need it if there are no scripts.
                expected != CompareAndSet::Script,
            ],
            "{rule}: {counts:?}"
        );
    }
}

#[tokio::test]
async fn a_lazy_store_selects_its_compare_and_set_once_it_connects() {
    let mut server = Server::start();
    for strategy in strategies(&server) {
        server.kill();
        let mut config = RedisConfig::new(server.url());
        config.key_prefix = fresh_prefix();
        config.compare_and_set = strategy;
        let store = RedisStore::lazy(config).unwrap();
        let error = replace(&store, &Handle::random(), 1, 2).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
        assert_eq!(store.compare_and_set(), None);
        server.restart();
        until("the server is up", async || store.health().await.is_ok()).await;
        let key = stored(&store, 1).await;
        assert_eq!(replace(&store, &key, 1, 2).await.unwrap(), Replaced::Done);
        assert_eq!(store.compare_and_set(), Some(strategy));
    }
}

#[tokio::test]
async fn each_compare_and_set_sends_the_documented_commands() {
    const TIMES: u64 = 100;
    type Cost<'a> = (&'a [&'a str], u64);
    let server = Server::start();
    for strategy in strategies(&server) {
        let (done, conflict, release): (Cost<'_>, Cost<'_>, Cost<'_>) = match strategy {
            CompareAndSet::Script => (
                (&["evalsha", "getrange", "set"], 1),
                (&["evalsha", "get", "getrange", "pttl"], 1),
                (&["evalsha", "getrange", "set"], 1),
            ),
            CompareAndSet::Watch => (
                (&["exec", "getrange", "multi", "set", "watch"], 2),
                (&["discard", "get", "getrange", "multi", "pttl", "watch"], 2),
                (&["exec", "getrange", "multi", "set", "watch"], 2),
            ),
            _ => (
                (&["pttl", "set"], 1),
                (&["pttl", "set"], 1),
                (&["pttl", "set"], 1),
            ),
        };
        let proxy = Proxy::before(server.address()).await;
        let store = store_with(&proxy.url(), |config| {
            config.compare_and_set = strategy;
            config.pool_size = 1;
        })
        .await;
        let key = stored(&store, 0).await;
        let costs = |before: u64, (commands, round_trips): Cost<'_>, what: &str| {
            let counts = server.counts();
            let expected: Vec<_> = commands.iter().map(|command| (*command, TIMES)).collect();
            assert_eq!(counts.seen(), expected, "{strategy:?}: {what}");
            let trips = proxy.round_trips() - before;
            assert_eq!(trips, round_trips * TIMES, "{strategy:?}: {what}");
        };
        let begin = || {
            server.reset_counts();
            proxy.round_trips()
        };
        let before = begin();
        for round in 0..TIMES {
            let replaced = replace(&store, &key, round, round + 1).await.unwrap();
            assert_eq!(replaced, Replaced::Done);
        }
        costs(before, done, "replace");
        let before = begin();
        for _ in 0..TIMES {
            let replaced = replace(&store, &key, 0, 1).await.unwrap();
            assert!(matches!(replaced, Replaced::Conflict(_)));
        }
        costs(before, conflict, "conflict");
        let leases: Vec<_> = (0..TIMES)
            .map(|_| (Handle::random(), Owner::random()))
            .collect();
        let before = begin();
        for (key, owner) in &leases {
            assert_eq!(
                store.acquire(key, *owner, LONG).await.unwrap(),
                Leased::Held
            );
        }
        costs(before, (&["set"], 1), "acquire");
        let before = begin();
        for (key, owner) in &leases {
            store.release(key, *owner).await.unwrap();
        }
        costs(before, release, "release");
    }
}

#[tokio::test]
async fn unreadable_values_are_not_replaced() {
    let server = Server::start();
    for strategy in strategies(&server) {
        let store = store_by(strategy, &server.url()).await;
        let handle = Handle::random();
        let key = key_of(&store, &handle);
        let pushed: i64 = redis::cmd("LPUSH")
            .arg(&[key.as_str(), "x"])
            .query(&mut server.connection())
            .unwrap();
        assert_eq!(pushed, 1);
        let loaded = store.load(&handle, Freshness::Latest).await.unwrap();
        assert_eq!(loaded, Loaded::Unreadable, "{strategy:?}");
        let nothing = Stored::new("", None);
        for expected in [Stored::new(value(1), None), nothing.clone()] {
            let two = value(2);
            let replaced = store.replace(&handle, &expected, Write::new(&two, LONG));
            let replaced = replaced.await.unwrap();
            assert_eq!(replaced, Replaced::Unreadable, "{strategy:?}");
        }
        let length: i64 = redis::cmd("LLEN")
            .arg(&key)
            .query(&mut server.connection())
            .unwrap();
        assert_eq!(length, 1, "{strategy:?}");
        // Nor is an empty value replaced, which has no version either.
        let empty: () = redis::pipe()
            .cmd("DEL")
            .arg(&key)
            .ignore()
            .cmd("SET")
            .arg(&[key.as_str(), ""])
            .ignore()
            .query(&mut server.connection())
            .unwrap();
        assert_eq!(empty, ());
        let two = value(2);
        let replaced = store.replace(&handle, &nothing, Write::new(&two, LONG));
        let Replaced::Conflict(present) = replaced.await.unwrap() else {
            panic!("{strategy:?}");
        };
        assert!(present.value().is_empty(), "{strategy:?}");
    }
}

#[tokio::test]
async fn nodes_with_different_compare_and_sets_lose_no_change() {
    let server = Server::start();
    let strategies = strategies(&server).into_iter().cycle().take(6);
    let nodes = nodes_by(strategies, &server.url()).await;
    count_to(60, nodes).await;
}

#[tokio::test]
async fn fifty_writers_over_watch_lose_no_change() {
    let server = Server::start();
    let nodes = nodes_by([CompareAndSet::Watch; 5], &server.url()).await;
    count_to(50, nodes).await;

    // Without the queue of a layer, and with more writers than connections.
    let store = store_by(CompareAndSet::Watch, &server.url()).await;
    let key = stored(&store, 0).await;
    let writers = (0..50).map(|_| async {
        loop {
            let seen = version(&store, &key).await;
            if replace(&store, &key, seen, seen + 1).await.unwrap() == Replaced::Done {
                return;
            }
        }
    });
    join_all(writers).await;
    assert_eq!(version(&store, &key).await, 50);
}

/// Sends this many increments at once, spread over all nodes.
async fn count_to(number: usize, nodes: Vec<RedisStore>) {
    let node = |store| app(SessionLayer::new(store));
    let nodes: Vec<_> = nodes.into_iter().map(node).collect();
    let mut browser = Browser::default();
    browser.get(&nodes[0], "/set?k=name&v=mia").await.ok();
    let pages = nodes
        .iter()
        .cycle()
        .take(number)
        .map(|node| browser.peek(node, "/incr?k=n"));
    for page in join_all(pages).await {
        page.ok();
    }
    let counted = browser.peek(&nodes[0], "/number?k=n").await.ok();
    assert_eq!(counted, number.to_string());
}

#[tokio::test]
async fn nodes_with_different_compare_and_sets_share_leases() {
    let server = Server::start();
    let stores = nodes_by(strategies(&server), &server.url()).await;
    let key = Handle::random();
    let owner = Owner::random();
    for holder in &stores {
        assert_eq!(
            holder.acquire(&key, owner, LONG).await.unwrap(),
            Leased::Held
        );
        for other in &stores {
            let leased = other.acquire(&key, Owner::random(), LONG).await.unwrap();
            assert!(matches!(leased, Leased::Taken { .. }), "{leased:?}");
        }
        // One node renews the lease, another releases it, and a third acquires it at once.
        for next in &stores {
            let owner = Owner::random();
            let handle = Handle::random();
            for store in [holder, next] {
                let leased = store.acquire(&handle, owner, LONG).await.unwrap();
                assert_eq!(leased, Leased::Held);
            }
            next.release(&handle, owner).await.unwrap();
            let leased = holder
                .acquire(&handle, Owner::random(), LONG)
                .await
                .unwrap();
            assert_eq!(leased, Leased::Held);
        }
    }
}

#[tokio::test]
async fn a_write_between_watch_and_exec_conflicts_and_a_renewal_does_not() {
    let server = Server::start();
    let proxy = Proxy::before(server.address()).await;
    let store = store_by(CompareAndSet::Watch, &proxy.url()).await;
    for (command, rounds) in [("PEXPIRE", 2), ("SET", 2), ("UNLINK", 2), ("GET", 1)] {
        let handle = stored(&store, 1).await;
        let mut between = redis::cmd(command);
        between.arg(key_of(&store, &handle));
        let theirs = value(7);
        match command {
            "PEXPIRE" => between.arg(30_000),
            "SET" => between.arg(&theirs[..]).arg("PX").arg(30_000),
            _ => &mut between,
        };
        server.reset_counts();
        let exec = proxy.hold("EXEC");
        let meanwhile = async {
            exec.arrived().await;
            let done: redis::Value = between.query(&mut server.connection()).unwrap();
            drop(done);
            exec.release();
        };
        let (replaced, ()) = tokio::join!(replace(&store, &handle, 1, 2), meanwhile);
        match (command, replaced.unwrap()) {
            ("PEXPIRE" | "GET", Replaced::Done) => assert_eq!(version(&store, &handle).await, 2),
            ("SET", Replaced::Conflict(present)) => assert_eq!(present.value(), &theirs),
            ("UNLINK", Replaced::Gone) => {
                let loaded = store.load(&handle, Freshness::Latest).await.unwrap();
                assert_eq!(loaded, Loaded::Missing);
            }
            (_, replaced) => panic!("{command}: {replaced:?}"),
        }
        assert_eq!(server.counts().of("watch"), rounds, "{command}");
    }
}

/// Every known server aborts a transaction whose key has expired since `WATCH`. `XX` makes sure that no server can
/// bring the session back.
#[tokio::test]
async fn a_commit_over_watch_replaces_only_an_existing_key() {
    let server = Server::start();
    let proxy = Proxy::before(server.address()).await;
    let store = store_by(CompareAndSet::Watch, &proxy.url()).await;
    let handle = stored(&store, 1).await;
    let key = key_of(&store, &handle);
    let mut monitor = server.connection();
    let watches: () = redis::cmd("MONITOR").query(&mut monitor).unwrap();
    assert_eq!(watches, ());
    let replaced = replace(&store, &handle, 1, 2).await.unwrap();
    assert_eq!(replaced, Replaced::Done);
    let set = std::iter::repeat_with(|| monitor.recv_response().unwrap())
        .map(|seen| format!("{seen:?}").replace('\\', ""))
        .find(|seen| seen.contains(&format!(r#""SET" "{key}""#)))
        .unwrap();
    assert!(set.contains(r#" "XX" "PX" "#), "{set}");

    // The key expires without a request for it.
    let mut connection = server.connection();
    let now = |connection: &mut redis::Connection| -> u64 {
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query(connection).unwrap();
        seconds * 1000 + micros / 1000
    };
    let end = now(&mut connection) + 500;
    let mut expire = redis::cmd("PEXPIREAT");
    let expires: i64 = expire.arg(&key).arg(end).query(&mut connection).unwrap();
    assert_eq!(expires, 1);
    let exec = proxy.hold("EXEC");
    let expiry = async {
        exec.arrived().await;
        until("it has expired", async || now(&mut connection) > end).await;
        exec.release();
        std::future::pending::<()>().await;
    };
    // On a busy machine the key may expire before `WATCH`, with the same result.
    let replaced = tokio::select! {
        replaced = replace(&store, &handle, 2, 3) => replaced,
        () = expiry => unreachable!("never ends"),
    };
    assert_eq!(replaced.unwrap(), Replaced::Gone);
}

#[tokio::test]
async fn a_commit_over_watch_gives_up_if_renewals_never_stop() {
    let server = Server::start();
    let proxy = Proxy::before(server.address()).await;
    let store = store_with(&proxy.url(), |config| {
        config.compare_and_set = CompareAndSet::Watch;
        config.command_timeout = Duration::from_secs(1);
    })
    .await;
    let handle = stored(&store, 1).await;
    let key = key_of(&store, &handle);
    let mut connection = server.connection();
    // A renewal arrives between every `WATCH` and its `EXEC`.
    let renewing = async {
        loop {
            let exec = proxy.hold("EXEC");
            exec.arrived().await;
            let mut renew = redis::cmd("PEXPIRE");
            let renewed: i64 = renew.arg(&key).arg(60_000).query(&mut connection).unwrap();
            assert_eq!(renewed, 1);
            exec.release();
        }
    };
    let error = tokio::select! {
        replaced = replace(&store, &handle, 1, 2) => replaced.unwrap_err(),
        () = renewing => unreachable!("never ends"),
    };
    assert_eq!(error.kind(), StoreErrorKind::Refused, "{error}");
    assert_eq!(version(&store, &handle).await, 1);
}

#[tokio::test]
async fn a_dropped_commit_over_watch_leaves_its_connection_clean() {
    let server = Server::start();
    let proxy = Proxy::before(server.address()).await;
    let store = store_with(&proxy.url(), |config| {
        config.compare_and_set = CompareAndSet::Watch;
        config.exclusive_pool_size = 2;
    })
    .await;
    let dropped = stored(&store, 0).await;
    let other = stored(&store, 0).await;
    proxy.delay(Duration::from_micros(300));
    let mut finished = 0;
    for round in 0..500 {
        let seen = version(&store, &dropped).await;
        // From zero polls to completion: two round trips take a few polls, on a machine of any speed.
        let polls = match round % 4 {
            0 => u32::MAX,
            _ => rand::random_range(1..6),
        };
        let replaced = replace(&store, &dropped, seen, seen + 1);
        if let Some(replaced) = poll_at_most(polls, replaced).await {
            assert_eq!(replaced.unwrap(), Replaced::Done);
            finished += 1;
        }
        // On the connection of the dropped commit, if the pool kept it.
        let replaced = replace(&store, &other, round, round + 1).await;
        assert_eq!(replaced.unwrap(), Replaced::Done, "round {round}");
        assert_eq!(version(&store, &other).await, round + 1);
    }
    assert!((125..500).contains(&finished), "{finished} of 500 finished");
    let clients: String = redis::cmd("CLIENT")
        .arg("LIST")
        .query(&mut server.connection())
        .unwrap();
    assert!(clients.lines().count() <= 4 + 2 + 1, "{clients}");
    for line in clients.lines() {
        let flags = line.split(' ').find(|fact| fact.starts_with("flags="));
        let in_transaction = flags.unwrap().contains('x');
        assert!(!in_transaction && !line.contains("watch=1"), "{line}");
    }
}

#[tokio::test]
async fn only_an_unanswered_exec_leaves_the_outcome_unknown() {
    let server = Server::start();
    let proxy = Proxy::before(server.address()).await;
    let prefix = fresh_prefix();
    let by_watch = |patience: Duration| {
        let (url, prefix) = (proxy.url(), prefix.clone());
        async move {
            let store = store_with(&url, |config| {
                config.key_prefix = prefix;
                config.compare_and_set = CompareAndSet::Watch;
                config.command_timeout = patience;
            });
            store.await
        }
    };
    let store = by_watch(LONG).await;
    // For answers that never arrive.
    let hurried = by_watch(Duration::from_secs(2)).await;
    let (unavailable, unknown) = (StoreErrorKind::Unavailable, StoreErrorKind::Unknown);
    for (word, fault, times, expected, after) in [
        ("WATCH", Fault::LoseRequest, 1, None, 2),
        ("WATCH", Fault::LoseAnswer, 1, None, 2),
        ("WATCH", Fault::LoseAnswer, 2, Some(unavailable), 1),
        ("WATCH", Fault::SwallowAnswer, 1, Some(unavailable), 1),
        ("EXEC", Fault::LoseRequest, 1, Some(unknown), 1),
        ("EXEC", Fault::LoseAnswer, 1, Some(unknown), 2),
        ("EXEC", Fault::SwallowAnswer, 1, Some(unknown), 2),
    ] {
        let key = stored(&store, 1).await;
        proxy.inject(word, fault, times);
        let asked = match fault {
            Fault::SwallowAnswer => &hurried,
            Fault::LoseRequest | Fault::LoseAnswer => &store,
        };
        let failed = replace(asked, &key, 1, 2).await.err();
        let kind = failed.map(|error| error.kind());
        assert_eq!(kind, expected, "{word} {fault:?} {times}");
        assert_eq!(proxy.faults_left(), 0);
        assert_eq!(version(&store, &key).await, after, "{word} {fault:?}");
        // A resend shows whether the first one was applied.
        let again = replace(&store, &key, 1, 2).await.unwrap();
        let is_consistent = match after {
            1 => again == Replaced::Done,
            _ => matches!(&again, Replaced::Conflict(present) if present.value() == &value(2)),
        };
        assert!(is_consistent, "{word} {fault:?}: {again:?}");
    }
    // The answer to a comparison that found another value may be lost, too.
    let key = stored(&store, 1).await;
    proxy.inject("DISCARD", Fault::LoseAnswer, 1);
    let error = replace(&store, &key, 5, 6).await.unwrap_err();
    assert_eq!(error.kind(), unavailable, "{error}");
}

#[tokio::test]
async fn a_commit_over_watch_whose_answer_is_lost_is_applied_once() {
    let server = Server::start();
    let proxy = Proxy::before(server.address()).await;
    let store = store_by(CompareAndSet::Watch, &proxy.url()).await;
    let app = app(SessionLayer::new(store));
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    for round in 1..=50 {
        proxy.inject("EXEC", Fault::LoseAnswer, 1);
        browser.get(&app, "/incr?k=n").await.ok();
        assert_eq!(proxy.faults_left(), 0);
        let counted = browser.get(&app, "/number?k=n").await.ok();
        assert_eq!(counted, round.to_string());
    }
}

#[tokio::test]
async fn a_read_only_server_rejects_writes_and_changes_nothing() {
    let server = Server::start();
    for strategy in strategies(&server) {
        let store = store_by(strategy, &server.url()).await;
        let key = stored(&store, 1).await;
        let set = |bytes: &str| {
            let done: () = redis::cmd("CONFIG")
                .arg(&["SET", "maxmemory", bytes])
                .query(&mut server.connection())
                .unwrap();
            done
        };
        set("1mb");
        let error = replace(&store, &key, 1, 2).await.unwrap_err();
        assert_eq!(
            error.kind(),
            StoreErrorKind::Refused,
            "{strategy:?}: {error}"
        );
        assert!(error.to_string().contains("OOM"), "{strategy:?}: {error}");
        assert_eq!(version(&store, &key).await, 1);
        // A store can still connect to such a server.
        let late = store_with(&server.url(), |config| config.compare_and_set = strategy).await;
        set("0");
        assert_eq!(replace(&store, &key, 1, 2).await.unwrap(), Replaced::Done);
        let key = stored(&late, 1).await;
        assert_eq!(replace(&late, &key, 1, 2).await.unwrap(), Replaced::Done);
        assert_eq!(late.compare_and_set(), Some(strategy));
    }
}

#[tokio::test]
async fn a_revoked_permission_leaves_the_session_unchanged() {
    let server = Server::start();
    let grant = |rule: &str| {
        let done: () = redis::cmd("ACL")
            .arg(&["SETUSER", "app", "on", ">secret", "~*", rule])
            .query(&mut server.connection())
            .unwrap();
        done
    };
    grant("+@all");
    let url = format!("redis://app:secret@{}/", server.address());
    let store = store_by(CompareAndSet::Watch, &url).await;
    for command in ["watch", "getrange", "multi", "set", "exec"] {
        let key = stored(&store, 1).await;
        grant(&format!("-{command}"));
        let error = replace(&store, &key, 1, 2).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Refused, "{command}: {error}");
        assert_eq!(version(&store, &key).await, 1, "{command}");
        grant("+@all");
        let replaced = replace(&store, &key, 1, 2).await.unwrap();
        assert_eq!(replaced, Replaced::Done, "{command}");
    }
}
