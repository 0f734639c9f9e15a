//! What every store of tower-sessions does.

use std::future::pending;
use std::time::{Duration as StdDuration, SystemTime};

use serde_json::json;
use sessile::store::{
    Capabilities, Created, Deleted, Durability, Freshness, Loaded, Renewal, Replaced, Stored,
    Touched, Write,
};
use sessile::{Handle, MemoryStore, StoreError};
use sessile_tower_sessions::{HIDDEN_KEY, SessileStore};
use tower_sessions::SessionStore;
use tower_sessions::cookie::time::{Duration, OffsetDateTime};
use tower_sessions::session::{Id, Record};
use tower_sessions::session_store::Error;

use crate::support::{Server, on_both_stores, redis};

pub fn record(data: serde_json::Value) -> Record {
    Record {
        id: Id::default(),
        data: serde_json::from_value(data).unwrap(),
        expiry_date: OffsetDateTime::now_utc() + Duration::minutes(30),
    }
}

/// The values of the application.
fn values(record: &Record) -> serde_json::Value {
    let mut data = record.data.clone();
    assert!(data.remove(HIDDEN_KEY).is_some(), "a loaded record");
    json!(data)
}

on_both_stores!(
    a_created_session_is_loaded,
    a_session_that_nobody_created_is_missing,
    each_session_gets_an_id_of_its_own,
    a_save_is_loaded,
    a_deleted_session_is_missing_and_stays_deleted,
    an_expired_session_is_missing,
    a_save_with_an_expiry_in_the_past_ends_the_session,
    both_versions_of_tower_sessions_share_sessions,
);

async fn a_created_session_is_loaded<S: sessile::SessionStore>(store: SessileStore<S>) {
    let data = json!({"a": 1.5, "b": [null, "x"], "c": {}});
    let mut created = record(data.clone());
    store.create(&mut created).await.unwrap();
    let loaded = store.load(&created.id).await.unwrap().unwrap();
    assert_eq!(loaded.id, created.id);
    assert_eq!(values(&loaded), data);
    assert_eq!(values(&created), data);
    let difference = created.expiry_date - loaded.expiry_date;
    assert!(difference < Duration::milliseconds(1) && difference >= Duration::ZERO);
}

async fn a_session_that_nobody_created_is_missing<S: sessile::SessionStore>(
    store: SessileStore<S>,
) {
    let stranger = record(json!({"a": 1}));
    assert_eq!(store.load(&stranger.id).await.unwrap(), None);
    store.delete(&stranger.id).await.unwrap();
    let error = store.save(&stranger).await.unwrap_err();
    assert!(matches!(error, Error::Backend(_)), "{error:?}");
    assert_eq!(
        store.load(&stranger.id).await.unwrap(),
        None,
        "a save creates nothing"
    );
}

async fn each_session_gets_an_id_of_its_own<S: sessile::SessionStore>(store: SessileStore<S>) {
    let (mut one, mut other) = (record(json!({"a": 1})), record(json!({"a": 2})));
    store.create(&mut one).await.unwrap();
    other.id = one.id;
    store.create(&mut other).await.unwrap();
    assert_ne!(one.id, other.id);
    let one = store.load(&one.id).await.unwrap().unwrap();
    assert_eq!(values(&one), json!({"a": 1}));

    // After a flush, tower-sessions creates its next session with the id that it has just deleted.
    store.delete(&one.id).await.unwrap();
    let mut next = record(json!({}));
    next.id = one.id;
    store.create(&mut next).await.unwrap();
    assert_ne!(next.id, one.id);
    assert_eq!(store.load(&one.id).await.unwrap(), None);
}

async fn a_save_is_loaded<S: sessile::SessionStore>(store: SessileStore<S>) {
    let mut session = record(json!({"a": 1, "b": 1}));
    store.create(&mut session).await.unwrap();
    session.data.insert("a".to_owned(), json!(2));
    session.data.remove("b");
    session.expiry_date += Duration::hours(1);
    store.save(&session).await.unwrap();
    let loaded = store.load(&session.id).await.unwrap().unwrap();
    assert_eq!(values(&loaded), json!({"a": 2}));
    let later = loaded.expiry_date - OffsetDateTime::now_utc();
    assert!(later > Duration::minutes(60), "{later}");
}

async fn a_deleted_session_is_missing_and_stays_deleted<S: sessile::SessionStore>(
    store: SessileStore<S>,
) {
    let mut session = record(json!({"a": 1}));
    store.create(&mut session).await.unwrap();
    store.delete(&session.id).await.unwrap();
    assert_eq!(store.load(&session.id).await.unwrap(), None);

    // With what was loaded, and without.
    let mut cleared = session.clone();
    cleared.data.clear();
    let mut filled_again = cleared.clone();
    filled_again.data.insert("a".to_owned(), json!(2));
    for record in [session, filled_again] {
        match store.save(&record).await {
            Err(Error::Backend(text)) => assert!(text.contains("has ended"), "{text}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(store.load(&record.id).await.unwrap(), None);
    }
    store.save(&cleared).await.unwrap();
    assert_eq!(store.load(&cleared.id).await.unwrap(), None);
}

async fn an_expired_session_is_missing<S: sessile::SessionStore>(store: SessileStore<S>) {
    let mut session = record(json!({"a": 1}));
    session.expiry_date = OffsetDateTime::now_utc();
    store.create(&mut session).await.unwrap();
    assert_eq!(store.load(&session.id).await.unwrap(), None);
}

async fn a_save_with_an_expiry_in_the_past_ends_the_session<S: sessile::SessionStore>(
    store: SessileStore<S>,
) {
    let mut session = record(json!({"a": 1}));
    store.create(&mut session).await.unwrap();
    session.expiry_date = OffsetDateTime::now_utc() - Duration::seconds(1);
    store.save(&session).await.unwrap();
    assert_eq!(store.load(&session.id).await.unwrap(), None);
}

async fn both_versions_of_tower_sessions_share_sessions<S: sessile::SessionStore>(
    store: SessileStore<S>,
) {
    let mut session = record(json!({"a": 1}));
    store.create(&mut session).await.unwrap();
    let id = tower_sessions_0_14::session::Id(session.id.0);
    let old = tower_sessions_0_14::SessionStore::load(&store, &id);
    let mut old = old.await.unwrap().unwrap();
    assert_eq!(old.data["a"], json!(1));
    old.data.insert("b".to_owned(), json!(2));
    tower_sessions_0_14::SessionStore::save(&store, &old)
        .await
        .unwrap();
    let loaded = store.load(&session.id).await.unwrap().unwrap();
    assert_eq!(values(&loaded), json!({"a": 1, "b": 2}));
}

#[tokio::test]
async fn a_session_expires_by_the_clock_of_the_store() {
    let clock = sessile::store::ManualClock::new();
    let store = SessileStore::new(MemoryStore::new().with_clock(clock.clone()));
    let mut session = record(json!({"a": 1}));
    store.create(&mut session).await.unwrap();
    clock.advance(StdDuration::from_secs(29 * 60));
    assert!(store.load(&session.id).await.unwrap().is_some());
    store.save(&session).await.unwrap();
    clock.advance(StdDuration::from_secs(31 * 60));
    assert_eq!(store.load(&session.id).await.unwrap(), None);
}

#[tokio::test]
async fn redis_holds_neither_the_id_nor_the_hidden_key_and_a_time_to_live() {
    let server = Server::start();
    let store = redis(&server).await;
    let mut session = record(json!({"a": 1}));
    store.create(&mut session).await.unwrap();
    let loaded = store.load(&session.id).await.unwrap().unwrap();
    store.save(&loaded).await.unwrap();

    let mut connection = server.connection();
    let keys: Vec<String> = ::redis::cmd("KEYS")
        .arg("*")
        .query(&mut connection)
        .unwrap();
    let [key] = &keys[..] else { panic!("{keys:?}") };
    assert!(key.starts_with("tower-sessions:"), "{key}");
    let value: String = ::redis::cmd("GET").arg(key).query(&mut connection).unwrap();
    let ttl: i64 = ::redis::cmd("PTTL")
        .arg(key)
        .query(&mut connection)
        .unwrap();
    let id = session.id.to_string();
    assert!(!key.contains(&id) && !value.contains(&id), "{key} {value}");
    assert!(!value.contains(HIDDEN_KEY), "{value}");
    assert!(value.ends_with(r#""data":{"a":1}}"#), "{value}");
    assert!((1..=30 * 60 * 1000).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn a_value_that_the_adapter_did_not_write_is_an_error_and_stays() {
    let server = Server::start();
    let store = redis(&server).await;
    let mut session = record(json!({"a": 1}));
    store.create(&mut session).await.unwrap();
    let mut connection = server.connection();
    let keys: Vec<String> = ::redis::cmd("KEYS")
        .arg("*")
        .query(&mut connection)
        .unwrap();
    let foreign: [&[&str]; 3] = [
        &["SET", "text"],
        &["SET", r#"{"version":"0000000000000001","format":1}"#],
        &["LPUSH", "x"],
    ];
    for command in foreign {
        let () = ::redis::cmd("DEL")
            .arg(&keys[0])
            .query(&mut connection)
            .unwrap();
        let () = ::redis::cmd(command[0])
            .arg(&keys[0])
            .arg(command[1])
            .query(&mut connection)
            .unwrap();
        for result in [
            store.load(&session.id).await.map(drop),
            store.save(&session).await,
        ] {
            match result {
                Err(Error::Decode(text)) => assert!(text.contains("key_prefix"), "{text}"),
                other => panic!("{command:?}: {other:?}"),
            }
        }
        let kind: String = ::redis::cmd("TYPE")
            .arg(&keys[0])
            .query(&mut connection)
            .unwrap();
        assert_eq!(kind == "list", command[0] == "LPUSH");
    }
}

/// A store that never answers.
pub struct Silent;

impl sessile::SessionStore for Silent {
    fn namespace(&self) -> &str {
        ""
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new().with_request_budget(StdDuration::from_millis(10))
    }

    async fn load(&self, _: &Handle, _: Freshness) -> Result<Loaded, StoreError> {
        pending().await
    }

    async fn create(&self, _: &Handle, _: Write<'_>) -> Result<Created, StoreError> {
        pending().await
    }

    async fn replace(&self, _: &Handle, _: &Stored, _: Write<'_>) -> Result<Replaced, StoreError> {
        pending().await
    }

    async fn touch(&self, _: &Handle, _: Renewal) -> Result<Touched, StoreError> {
        pending().await
    }

    async fn delete(&self, _: &Handle, _: Durability) -> Result<Deleted, StoreError> {
        pending().await
    }
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_an_error_once_its_budget_is_spent() {
    let store = SessileStore::new(Silent);
    let mut session = record(json!({"a": 1}));
    let results = [
        store.load(&session.id).await.map(drop),
        store.save(&session).await,
        store.create(&mut session).await,
        store.delete(&session.id).await,
    ];
    for result in results {
        match result {
            Err(Error::Backend(text)) => assert!(text.contains("request_budget"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_is_gone_is_an_error_with_its_cause() {
    let mut server = Server::start();
    let store = redis(&server).await;
    let mut session = record(json!({"a": 1}));
    store.create(&mut session).await.unwrap();
    server.kill();
    for result in [
        store.load(&session.id).await.map(drop),
        store.save(&session).await,
        store.delete(&session.id).await,
    ] {
        match result {
            Err(Error::Backend(text)) => assert!(text.contains(": "), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}
