//! Sessions as operators, jobs and tests see them: found by handle or token, listed, and ended without their principal.

use std::collections::BTreeSet;

use axum::Router;
use redis::Commands as _;
use sessile::store::{Progress, StatsOptions};
use sessile::{
    Fingerprint, Fingerprinting, Gone, Handle, MemoryStore, SessionConfig, SessionError,
    SessionLayer, SessionStore, Sessions, StoredSession, TokenState,
};

use crate::support::app::app;
use crate::support::patience::unhurried;
use crate::support::{Browser, Ground, Server, store_with};

async fn found(sessions: &Sessions, browser: &Browser) -> StoredSession {
    let found = sessions.find_by_token(browser.token()).await.unwrap();
    found.expect("a session")
}

async fn shows_everything(store: impl SessionStore + Clone) {
    let app = app(SessionLayer::new(store.clone()));
    let sessions = Sessions::new(store);
    let mut browser = Browser::default();
    for path in [
        "/login?u=mia",
        "/set?k=color&v=crimson",
        "/flash?text=Saved",
    ] {
        browser.get(&app, path).await.ok();
    }
    let session = found(&sessions, &browser).await;
    assert_eq!(session.principal(), Some("mia"));
    assert_eq!(session.keys(), ["color"]);
    let color: Option<String> = session.get("color").unwrap();
    assert_eq!(color.as_deref(), Some("crimson"));
    assert!(session.contains_key("color") && !session.contains_key("colour"));
    assert_eq!(session.flashes().len(), 1);
    assert!(session.authenticated_at().unwrap() >= session.created_at());
    assert!(session.expires_at().unwrap() < session.deadline());
    let debug = format!("{session:?}");
    assert!(
        !debug.contains("crimson") && !debug.contains("mia"),
        "{debug}"
    );

    let again = sessions.find(session.handle()).await.unwrap().unwrap();
    assert!(again.is_same_version(&session));
    browser.get(&app, "/set?k=color&v=blue").await.ok();
    assert!(!found(&sessions, &browser).await.is_same_version(&session));
    assert!(sessions.find(Handle::random()).await.unwrap().is_none());
    assert!(sessions.find_by_token("").await.unwrap().is_none());
}

#[tokio::test]
async fn a_stored_session_shows_everything_that_the_session_does() {
    shows_everything(MemoryStore::new()).await;
    shows_everything(Ground::new().store().await).await;
}

#[tokio::test]
async fn a_token_is_valid_retired_or_invalid() {
    let store = MemoryStore::new();
    let app = app(SessionLayer::new(store.clone()));
    let sessions = Sessions::new(store.clone());
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=a&v=b").await.ok();
    let old = browser.token().to_owned();
    browser.get(&app, "/login?u=mia").await.ok();
    let session = found(&sessions, &browser).await;
    assert_eq!(session.check_token(browser.token()), TokenState::Valid);
    assert_eq!(session.check_token(&old), TokenState::Retired);
    assert!(session.retired_until().is_some());
    for wrong in ["", "x", &"A".repeat(43)] {
        assert_eq!(session.check_token(wrong), TokenState::Invalid, "{wrong}");
    }

    let mut other = SessionConfig::default();
    other.cookie.name = "__Host-other".to_owned();
    let others = Sessions::try_new(store.clone(), other).unwrap();
    let session = found(&others, &browser).await;
    assert_eq!(session.check_token(browser.token()), TokenState::Invalid);

    let mut invalid = SessionConfig::default();
    invalid.cookie.name = "no name".to_owned();
    assert!(Sessions::try_new(store, invalid).is_err());
}

#[tokio::test]
async fn an_address_is_compared_as_the_layer_does() {
    let store = MemoryStore::new();
    let layer = SessionLayer::new(store.clone())
        .with_fingerprinting(Fingerprinting::Strict)
        .with_client_ip(|_| Some("203.0.113.7".parse().expect("an address")));
    let mut browser = Browser::default();
    browser.get(&app(layer), "/set?k=a&v=b").await.ok();
    for (mode, admitted) in [
        (Fingerprinting::Soft, true),
        (Fingerprinting::Strict, false),
    ] {
        let mut config = SessionConfig::default();
        config.fingerprinting = mode;
        let sessions = Sessions::try_new(store.clone(), config).unwrap();
        let session = found(&sessions, &browser).await;
        assert_eq!(session.network(), Some("203.0.113.0/24"));
        let near = session.compare_address("203.0.113.9".parse().unwrap());
        assert_eq!(near, (Fingerprint::Match, true));
        let (far, is_admitted) = session.compare_address("198.51.100.1".parse().unwrap());
        assert!(matches!(far, Fingerprint::Mismatch { .. }), "{far:?}");
        assert_eq!(is_admitted, admitted);
    }
}

async fn can_be_ended(store: impl SessionStore + Clone) {
    let app = app(SessionLayer::new(store.clone()));
    let sessions = Sessions::new(store);
    for first in ["/set?k=a&v=b", "/login?u=mia"] {
        let mut browser = Browser::default();
        browser.get(&app, first).await.ok();
        let handle = found(&sessions, &browser).await.handle();
        assert!(sessions.destroy_of_anyone(handle).await.unwrap());
        assert!(!sessions.destroy_of_anyone(handle).await.unwrap());
        assert_eq!(browser.get(&app, "/whoami").await.ok(), "");
        assert_eq!(browser.get(&app, "/get?k=a").await.ok(), "");
    }
    assert!(sessions.of("mia").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_session_can_be_ended_without_its_principal() {
    can_be_ended(MemoryStore::new()).await;
    can_be_ended(Ground::new().store().await).await;
}

#[tokio::test]
async fn what_is_not_a_session_is_neither_shown_nor_ended() {
    let server = Server::start();
    let store = store_with(&server.url(), |config| {
        config.key_prefix = "sessile:".to_owned()
    })
    .await;
    let sessions = Sessions::new(store.clone());
    let mut redis = server.connection();
    let newer = r#"{"version":"0000010000000001","format":4000000000}"#;
    for value in ["text", newer] {
        let handle = Handle::random();
        let key = format!("sessile:{handle}");
        let () = redis.set(&key, value).unwrap();
        let found = sessions.find(handle).await;
        assert!(
            matches!(found, Err(SessionError::Gone(Gone::Unreadable))),
            "{found:?}"
        );
        assert!(matches!(
            sessions.destroy_of_anyone(handle).await,
            Err(SessionError::Gone(Gone::Unreadable))
        ));
        assert!(!sessions.destroy("mia", handle).await.unwrap_or(false));
        let kept: String = redis.get(&key).unwrap();
        assert_eq!(kept, value);
    }
    let list = Handle::random();
    let () = redis.lpush(format!("sessile:{list}"), "x").unwrap();
    assert!(sessions.find(list).await.is_err());
}

async fn visits(app: &Router, count: usize) -> BTreeSet<String> {
    let mut tokens = BTreeSet::new();
    for _ in 0..count {
        let mut browser = Browser::default();
        browser.get(app, "/set?k=a&v=b").await.ok();
        tokens.insert(browser.token()[..21].to_owned());
    }
    tokens
}

#[tokio::test]
async fn a_scan_finds_every_session_and_nothing_else() {
    let server = Server::start();
    let store = store_with(&server.url(), |config| {
        config.key_prefix = "sessile:".to_owned()
    })
    .await;
    let app = app(SessionLayer::new(store.clone()));
    let expected = visits(&app, 30).await;
    let mut redis = server.connection();
    for n in 0..50 {
        let () = redis.set(format!("sessile:other{n}"), "x").unwrap();
    }
    let mut scan = store
        .scan(StatsOptions::new().with_count(10))
        .await
        .unwrap();
    let (mut found, mut steps, mut last) = (BTreeSet::new(), 0, Progress::default());
    while let Some(handles) = scan.next().await.unwrap() {
        found.extend(handles.iter().map(|it| it.to_string()[..21].to_owned()));
        assert!(scan.progress().keys >= last.keys);
        last = scan.progress();
        steps += 1;
    }
    assert_eq!(found, expected);
    assert!(steps > 1);
    assert_eq!((last.keys, last.of, last.sessions), (80, 80, 30));
    assert!(scan.next().await.unwrap().is_none());

    let memory = MemoryStore::new();
    let expected = visits(
        &crate::support::app::app(SessionLayer::new(memory.clone())),
        3,
    )
    .await;
    let found = memory.handles();
    let found: BTreeSet<_> = found
        .iter()
        .map(|it| it.to_string()[..21].to_owned())
        .collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_scan_begins_again_when_the_server_was_restarted() {
    let mut server = Server::start_durable();
    let store = store_with(&server.url(), |config| {
        unhurried(config);
        config.key_prefix = "sessile:".to_owned();
    })
    .await;
    let app = app(SessionLayer::new(store.clone()));
    let expected = visits(&app, 200).await;
    let options = StatsOptions::new().with_count(10);
    let mut scan = store.scan(options).await.unwrap();
    let mut found = BTreeSet::new();
    for step in 0.. {
        let page = match scan.next().await {
            Ok(page) => page,
            // The connection broke: the next call repeats the step.
            Err(_) => continue,
        };
        let Some(handles) = page else { break };
        found.extend(handles.iter().map(|it| it.to_string()[..21].to_owned()));
        if step == 10 {
            server.restart();
        }
    }
    assert_eq!(found, expected);
}
