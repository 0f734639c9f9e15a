//! Session counts and the health check of a store.

use std::time::Duration;

use sessile::store::{Leased, ManualClock, Owner, StatsOptions};
use sessile::{Handle, MemoryStore, SessionLayer, SessionStore};

use crate::support::app::app;
use crate::support::{Browser, Server, store_with};

#[tokio::test]
async fn two_hundred_thousand_keys_are_counted_without_blocking_the_server() {
    let server = Server::start();
    let store = store_with(&server.url(), |config| {
        config.key_prefix = "app:".to_owned()
    })
    .await;
    // Half of the keys are sessions of 100 bytes. The others belong to other applications, some under names that look
    // like those of sessions.
    let fill: i64 = redis::Script::new(
        r"
        local letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
        for n = 0, 99999 do
          local handle, rest = '', n
          for _ = 1, 21 do
            local digit = rest % 64
            handle = handle .. string.sub(letters, digit + 1, digit + 1)
            rest = (rest - digit) / 64
          end
          redis.call('SET', 'app:' .. handle .. 'A', string.rep('x', 100), 'PX', n < 50000 and 1000000 or 5000000)
          redis.call('SET', (n % 2 == 0 and 'app:user:' or 'other:') .. n, 'y')
        end
        return 100000",
    )
    .invoke(&mut server.connection())
    .unwrap();
    assert_eq!(fill, 100_000);
    // The log has the duration of each command, and not only of slow ones.
    for (setting, value) in [("slowlog-log-slower-than", 0), ("slowlog-max-len", 10_000)] {
        let () = redis::cmd("CONFIG")
            .arg("SET")
            .arg(setting)
            .arg(value)
            .query(&mut server.connection())
            .unwrap();
    }
    let mut seen = Vec::new();
    let stats = store
        .stats(StatsOptions::new(), |progress| seen.push(progress))
        .await
        .unwrap();
    assert_eq!(
        (stats.sessions, stats.bytes, stats.largest),
        (100_000, 10_000_000, 100)
    );
    let left = &stats.time_left;
    assert_eq!(
        (left.half_hour, left.day, left.forever),
        (50_000, 50_000, 0)
    );
    assert!(seen.len() >= 150, "{} steps", seen.len());
    assert!(
        seen.windows(2)
            .all(|pair| pair[0].keys <= pair[1].keys && pair[0].sessions <= pair[1].sessions)
    );
    let last = seen.last().unwrap();
    assert_eq!(
        (last.keys, last.of, last.sessions),
        (200_000, 200_000, 100_000)
    );
    // For comparison, one call for all keys, which blocks Redis for the whole time.
    let _: Vec<String> = redis::cmd("KEYS")
        .arg("*")
        .query(&mut server.connection())
        .unwrap();
    // On a busy machine some calls take long: that the process waits for a core is in its durations.
    let (scan, all) = (median(&server, "SCAN"), median(&server, "KEYS"));
    assert!(
        scan < all / 20,
        "{scan} µs a call, and {all} µs for all keys"
    );

    let fewer = store
        .stats(StatsOptions::new().with_count(10_000), |_| ())
        .await
        .unwrap();
    assert_eq!(fewer, stats);
}

/// The median duration of a command in the log, in microseconds.
fn median(server: &Server, command: &str) -> u64 {
    type Entry = (u64, u64, u64, Vec<String>, String, String);
    let log: Vec<Entry> = redis::cmd("SLOWLOG")
        .arg("GET")
        .arg(10_000)
        .query(&mut server.connection())
        .unwrap();
    let is_command = |entry: &&Entry| entry.3[0].eq_ignore_ascii_case(command);
    let mut micros: Vec<u64> = log.iter().filter(is_command).map(|it| it.2).collect();
    micros.sort_unstable();
    micros[micros.len() / 2]
}

#[tokio::test]
async fn sessions_are_counted_as_they_are_stored() {
    let server = Server::start();
    let store = store_with(&server.url(), |_| ()).await;
    assert_eq!(
        store
            .stats(StatsOptions::new(), |_| ())
            .await
            .unwrap()
            .sessions,
        0
    );
    let app = app(SessionLayer::new(store.clone()));
    for _ in 0..3 {
        Browser::default().get(&app, "/set?k=name&v=mia").await.ok();
    }
    let mut connection = server.connection();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
    let persisted: i64 = redis::cmd("PERSIST")
        .arg(&keys[0])
        .query(&mut connection)
        .unwrap();
    let spoiled: () = redis::cmd("DEL")
        .arg(&keys[1])
        .query(&mut connection)
        .unwrap();
    let list: i64 = redis::cmd("RPUSH")
        .arg(&keys[1])
        .arg("x")
        .query(&mut connection)
        .unwrap();
    assert_eq!((persisted, spoiled, list), (1, (), 1));
    let stats = store.stats(StatsOptions::new(), |_| ()).await.unwrap();
    assert_eq!(
        (
            stats.sessions,
            stats.time_left.forever,
            stats.time_left.half_hour
        ),
        (2, 1, 1)
    );
}

#[tokio::test]
async fn the_memory_store_counts_its_sessions() {
    let clock = ManualClock::new();
    let store = MemoryStore::new().with_clock(clock.clone());
    let app = app(SessionLayer::new(store.clone()));
    for _ in 0..3 {
        Browser::default().get(&app, "/set?k=name&v=mia").await.ok();
    }
    let stats = store.stats();
    assert_eq!((stats.sessions, stats.time_left.half_hour), (3, 3));
    assert!(stats.bytes > 3 * 200 && store.health().is_ok());
    clock.advance(Duration::from_secs(1800));
    assert_eq!(store.stats().sessions, 0);
}

#[tokio::test]
async fn a_health_check_is_one_read() {
    let mut server = Server::start();
    let store = store_with(&server.url(), |config| config.pool_size = 2).await;
    let health = store.health().await;
    assert!(health.is_ok());
    assert_eq!(health.pool.size, 2);
    assert!(
        health.pool.open <= 2 && health.pool.made >= 1,
        "{:?}",
        health.pool
    );
    server.kill();
    let health = store.health().await;
    assert!(!health.is_ok());
    let text = health.read.unwrap_err().to_string();
    assert!(text.contains(&server.address().to_string()), "{text}");
}

#[tokio::test]
async fn leases_are_not_counted() {
    let server = Server::start();
    let store = store_with(&server.url(), |_| ()).await;
    let lease = Duration::from_secs(60);
    let handle = Handle::random();
    let acquired = store.acquire(&handle, Owner::random(), lease);
    assert_eq!(acquired.await.unwrap(), Leased::Held);
    let stats = store.stats(StatsOptions::new(), |_| ()).await.unwrap();
    assert_eq!((stats.sessions, stats.bytes), (0, 0));
    let keys: usize = redis::cmd("DBSIZE")
        .query(&mut server.connection())
        .unwrap();
    assert_eq!(keys, 1);
}
