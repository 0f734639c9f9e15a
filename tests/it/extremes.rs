//! Extreme settings: each is an error at startup, or harmless in every request.

use std::time::Duration;

use bytes::Bytes;
use sessile::store::{
    Capabilities, Created, Durability, Leased, ManualClock, Owner, Renewal, Replaced, Stored, Write,
};
use sessile::{
    Concurrency, ConfigError, Exclusive, Handle, MemoryStore, RedisConfig, RedisStore,
    SessionConfig, SessionLayer, SessionStore,
};

use crate::support::{Server, Spy, Visit, store_with};

const EXTREMES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_nanos(u64::MAX),
    Duration::from_secs(u64::MAX),
    Duration::MAX,
];

/// Asserts that a layer serves requests of every kind.
async fn serves(layer: SessionLayer) {
    let mut visit = Visit::with(layer.clone());
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    // With a wait of zero, a request must not meet a lease that is still being released.
    layer.drained().await;
    visit
        .request(|session| async move {
            session.reload().await.unwrap();
            session.touch();
            session.increment("n", 1).unwrap();
            session.save().await.unwrap();
            assert!(session.expires_at() > session.created_at());
            assert_eq!(session.take::<u32>("n").await.unwrap(), Some(2));
        })
        .await;
    layer.drained().await;
    visit
        .request(|session| async move { session.destroy() })
        .await;
    layer.drained().await;
}

async fn serves_or_is_refused(setting: &str, layer: Result<SessionLayer, ConfigError>) {
    match layer {
        Ok(layer) => serves(layer).await,
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.starts_with(setting) && text.contains("write"),
                "{text}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_extreme_config_is_rejected_or_serves_requests() {
    type Set = fn(&mut SessionConfig, Duration);
    let settings: [(&str, Set); 4] = [
        ("idle_timeout", |config, value| config.idle_timeout = value),
        ("absolute_timeout", |config, value| {
            config.absolute_timeout = value;
        }),
        ("durability.commits", |config, timeout| {
            config.durability.commits = Durability::Replicas { n: 1, timeout };
        }),
        ("durability.revocations", |config, timeout| {
            config.durability.revocations = Some(Durability::Replicas { n: 1, timeout });
        }),
    ];
    for (setting, set) in settings {
        for value in EXTREMES {
            let mut config = SessionConfig::default();
            set(&mut config, value);
            let can = Capabilities::new().with_durability(true);
            let store = Spy::on(MemoryStore::new()).with_capabilities(can);
            serves_or_is_refused(setting, SessionLayer::try_new(store, config)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn waits_and_leases_of_any_length_serve_requests() {
    for wait in EXTREMES {
        for lease in EXTREMES {
            let concurrency = Concurrency::Exclusive(Exclusive::new(wait).with_lease(lease));
            serves(SessionLayer::new(MemoryStore::new()).with_concurrency(concurrency)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_with_a_budget_of_any_length_serves_requests() {
    for budget in EXTREMES {
        let can = Capabilities::new().with_request_budget(budget);
        let store = || Spy::on(MemoryStore::new()).with_capabilities(can);
        serves(SessionLayer::new(store())).await;
        let layer = SessionLayer::try_new(store(), SessionConfig::default());
        serves(layer.unwrap()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_memory_store_of_any_capacity_serves_requests() {
    for capacity in [0, 1, usize::MAX / 2, usize::MAX] {
        let store = MemoryStore::with_capacity(capacity);
        serves(SessionLayer::new(store.clone())).await;
        serves(SessionLayer::new(store.with_clock(ManualClock::new()))).await;
    }
}

/// Two sessions fit into a store with room for very many.
#[tokio::test]
async fn a_memory_store_with_its_own_clock_keeps_its_capacity() {
    let store = MemoryStore::with_capacity(usize::MAX).with_clock(ManualClock::new());
    let layer = SessionLayer::new(store.clone());
    for _ in 0..2 {
        Visit::with(layer.clone())
            .request(|session| async move { session.insert("n", 1).unwrap() })
            .await;
    }
    assert_eq!(store.stats().sessions, 2);
}

#[tokio::test]
async fn an_extreme_redis_config_is_rejected() {
    type Set = fn(&mut RedisConfig, Duration);
    let settings: [(&str, Set); 3] = [
        ("connection_timeout", |config, value| {
            config.connection_timeout = value;
        }),
        ("command_timeout", |config, value| {
            config.command_timeout = value;
        }),
        ("request_budget", |config, value| {
            config.request_budget = value;
        }),
    ];
    for (setting, set) in settings {
        for value in EXTREMES {
            let mut config = RedisConfig::default();
            set(&mut config, value);
            let error = RedisStore::lazy(config).map(drop).unwrap_err().to_string();
            assert!(
                error.starts_with(setting) && error.contains("write"),
                "{error}"
            );
        }
    }
}

/// Asserts that a store answers every call.
async fn answers(store: &impl SessionStore) {
    for time in EXTREMES {
        let key = Handle::random();
        let value = Bytes::from_static(br#"{"version":"0123456789abcdef"}"#);
        let replicas = match store.capabilities().durability {
            true => Durability::Replicas {
                n: 0,
                timeout: time,
            },
            false => Durability::Primary,
        };
        let write = Write::new(&value, time).with_durability(replicas);
        assert_eq!(store.create(&key, write).await.unwrap(), Created::Done);
        let stored = Stored::new(value.clone(), None);
        let replaced = store.replace(&key, &stored, write).await.unwrap();
        assert!(!matches!(replaced, Replaced::Conflict(_)));
        for renewal in [Renewal::Extend(time), Renewal::Set(time)] {
            let _ = store.touch(&key, renewal).await.unwrap();
        }
        let leased = store.acquire(&key, Owner::random(), time).await.unwrap();
        assert_eq!(leased, Leased::Held);
        let _ = store.delete(&key, replicas).await.unwrap();
    }
}

#[tokio::test]
async fn stores_accept_durations_of_any_length() {
    answers(&MemoryStore::new()).await;
    let server = Server::start();
    answers(&store_with(&server.url(), |_| ()).await).await;
}
