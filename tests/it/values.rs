//! The calls on a session, within one request and from one to the next.

use std::collections::BTreeMap;
use std::time::Duration;

use sessile::{Key, MemoryStore, SessionConfig, SessionError, SessionLayer};

use crate::support::app::app;
use crate::support::{Browser, Visit};

#[tokio::test]
async fn values_come_back_in_the_next_request() {
    const NAMES: Key<Vec<String>> = Key::new("names");
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move {
            assert!(session.is_new() && !session.is_modified());
            assert_eq!(session.get::<u64>("missing").unwrap(), None);
            session.insert(NAMES, vec!["mia".to_owned()]).unwrap();
            session.insert(&String::from("n"), 7).unwrap();
            session.push("list", 1).unwrap();
            assert_eq!(session.get(NAMES).unwrap().unwrap(), ["mia"]);
            assert!(session.is_modified() && session.handle().is_none());
        })
        .await;
    visit
        .request(|session| async move {
            assert!(!session.is_new() && !session.is_modified());
            assert_eq!(session.keys(), ["list", "n", "names"]);
            assert_eq!(session.remove(NAMES).unwrap().unwrap(), ["mia"]);
            assert_eq!(session.remove(NAMES).unwrap(), None);
            assert_eq!(session.increment("n", -10).unwrap(), -3);
            assert_eq!(session.decrement("n", 4).unwrap(), -7);
            session.push("list", 2).unwrap();
        })
        .await;
    visit
        .request(|session| async move {
            assert_eq!(session.keys(), ["list", "n"]);
            assert_eq!(session.get::<Vec<u8>>("list").unwrap().unwrap(), [1, 2]);
            assert_eq!(session.get::<i64>("n").unwrap(), Some(-7));
            session.clear();
            session.insert("only", true).unwrap();
        })
        .await;
    visit
        .request(|session| async move { assert_eq!(session.keys(), ["only"]) })
        .await;
}

#[tokio::test]
async fn what_is_of_another_type_is_named_and_kept() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.insert("name", "mia").unwrap() })
        .await;
    visit
        .request(|session| async move {
            let error = session.get::<Vec<u64>>("name").unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("\"name\"") && text.contains("Vec<u64>"),
                "{text}"
            );
            for error in [
                session.remove::<u64>("name").unwrap_err(),
                session.take::<u64>("name").await.unwrap_err(),
                session.update("name", |_: &mut u64| ()).unwrap_err(),
                session
                    .try_update("name", |_: Option<u64>| Some(1))
                    .unwrap_err(),
                session.push("name", 1).unwrap_err(),
            ] {
                assert!(matches!(error, SessionError::Decode { .. }), "{error:?}");
            }
            let error = session.increment("name", 1).unwrap_err();
            assert!(matches!(error, SessionError::NotANumber { .. }));
            assert!(!session.is_modified());
            assert_eq!(session.get::<String>("name").unwrap().unwrap(), "mia");
            session.discard("name");
            assert!(!session.contains_key("name"));
        })
        .await;
    visit
        .request(|session| async move { assert!(session.keys().is_empty()) })
        .await;
}

#[tokio::test]
async fn what_cannot_be_json_is_an_error_and_no_change() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move {
            let odd = BTreeMap::from([((1, 2), 3)]);
            let error = session.insert("odd", &odd).unwrap_err();
            assert!(matches!(error, SessionError::Encode { .. }), "{error:?}");
            assert!(session.push("odd", &odd).is_err());
            assert!(!session.is_modified());
        })
        .await;
    assert_eq!(visit.browser.cookie, None);
}

#[tokio::test]
async fn an_update_may_refuse() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.insert("stock", 1_u32).unwrap() })
        .await;
    visit
        .request(|session| async move {
            let buy = |stock: Option<u32>| stock.and_then(|stock| stock.checked_sub(1));
            assert_eq!(session.try_update("stock", buy).unwrap(), 0);
            let refused = session.try_update("stock", buy).unwrap_err();
            assert!(matches!(refused, SessionError::Refused { .. }));
            assert_eq!(session.get::<u32>("stock").unwrap(), Some(0));
        })
        .await;
}

#[tokio::test]
async fn a_stock_of_ten_is_sold_ten_times_to_fifty_at_once() {
    let app = app(SessionLayer::new(MemoryStore::new()));
    let mut browser = Browser::default();
    for _ in 0..10 {
        browser.get(&app, "/incr?k=stock").await.ok();
    }
    let pages = futures_util::future::join_all((0..50).map(|_| browser.peek(&app, "/buy"))).await;
    let sold = pages.iter().filter(|page| page.status == 200).count();
    let refused = pages.iter().filter(|page| page.status == 409).count();
    assert_eq!((sold, refused), (10, 40));
    assert_eq!(browser.get(&app, "/number?k=stock").await.ok(), "0");
}

#[tokio::test]
async fn a_closure_may_use_the_session_and_a_panic_in_it_harms_nothing() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move {
            let inner = session.clone();
            session
                .update("n", move |n: &mut usize| *n += 1 + inner.keys().len())
                .unwrap();
            let panicking = session.clone();
            let caught = tokio::spawn(async move {
                panicking
                    .update("n", |_: &mut usize| panic!("in a closure"))
                    .unwrap();
            });
            assert!(caught.await.is_err());
            assert_eq!(session.get::<usize>("n").unwrap(), Some(1));
        })
        .await;
    visit
        .request(|session| async move { assert_eq!(session.get::<usize>("n").unwrap(), Some(1)) })
        .await;
}

#[tokio::test]
async fn save_and_reload_show_what_others_have_done() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    let browser = visit.browser.clone();
    let other = app(visit.layer.clone());
    visit
        .request(move |session| async move {
            browser.peek(&other, "/incr?k=n").await.ok();
            assert_eq!(session.increment("n", 1).unwrap(), 2);
            session.save().await.unwrap();
            assert!(!session.is_modified());
            assert_eq!(session.get::<i64>("n").unwrap(), Some(3));

            session.insert("mine", true).unwrap();
            browser.peek(&other, "/incr?k=n").await.ok();
            session.reload().await.unwrap();
            assert_eq!(session.get::<i64>("n").unwrap(), Some(4));
            assert_eq!(
                session.get::<bool>("mine").unwrap(),
                Some(true),
                "unsaved changes are kept"
            );

            browser.peek(&other, "/logout").await.ok();
            assert!(matches!(session.reload().await, Err(SessionError::Gone(_))));
            session.destroy();
        })
        .await;
}

#[tokio::test]
async fn clones_share_one_session() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move {
            let tasks = (0..10).map(|_| {
                let session = session.clone();
                tokio::spawn(async move {
                    session.increment("n", 1).unwrap();
                    session.save().await.unwrap();
                })
            });
            for task in tasks.collect::<Vec<_>>() {
                task.await.unwrap();
            }
            assert_eq!(session.get::<i64>("n").unwrap(), Some(10));
        })
        .await;
    visit
        .request(|session| async move { assert_eq!(session.get::<i64>("n").unwrap(), Some(10)) })
        .await;
}

#[tokio::test]
async fn keys_and_values_that_are_too_large_are_refused_at_once() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.insert("name", "mia").unwrap() })
        .await;
    visit
        .request(|session| async move {
            let (long, large) = ("k".repeat(10 * 1024), "v".repeat(65 * 1024));
            for error in [
                session.insert(&long, 1).unwrap_err(),
                session.increment(&long, 1).unwrap_err(),
                session.push(&long, 1).unwrap_err(),
                session.update(&long, |n: &mut u32| *n += 1).unwrap_err(),
                session.insert("name", &large).unwrap_err(),
                session.push("list", &large).unwrap_err(),
                session
                    .update("name", move |name: &mut String| name.clone_from(&large))
                    .unwrap_err(),
            ] {
                assert!(matches!(error, SessionError::TooLarge { .. }), "{error}");
            }
            assert!(!session.is_modified());
        })
        .await;
    visit
        .request(|session| async move { assert_eq!(session.keys(), ["name"]) })
        .await;
}

#[tokio::test]
async fn discarded_changes_are_not_written() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    visit
        .request(|session| async move {
            session.insert("n", 2).unwrap();
            session.cycle_id().unwrap();
            session.discard_changes();
            assert!(!session.is_modified());
            assert_eq!(session.get::<i64>("n").unwrap(), Some(1));
        })
        .await;
    visit
        .request(|session| async move { assert_eq!(session.get::<i64>("n").unwrap(), Some(1)) })
        .await;
}

#[tokio::test]
async fn a_session_outlives_its_layer() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    let session = visit.keep().await;
    drop(visit);
    session.increment("n", 1).unwrap();
    session.save().await.unwrap();
    assert_eq!(session.get::<i64>("n").unwrap(), Some(2));
}

#[tokio::test]
async fn a_session_that_is_too_large_is_an_error_and_the_store_keeps_what_it_had() {
    let mut config = SessionConfig::default();
    config.max_size = 4096;
    let app = app(SessionLayer::with_config(MemoryStore::new(), config).unwrap());
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    let large = "x".repeat(4096);
    for _ in 0..2 {
        let page = browser.get(&app, &format!("/set?k=name&v={large}")).await;
        assert_eq!((page.status.as_u16(), page.set_cookies().len()), (500, 0));
        assert_eq!(browser.get(&app, "/get?k=name").await.ok(), "\"mia\"");
    }
    let page = Browser::default()
        .get(&app, &format!("/set?k=name&v={large}"))
        .await;
    assert_eq!((page.status.as_u16(), page.set_cookies().len()), (500, 0));
}

#[tokio::test]
async fn after_the_response_only_save_reaches_the_store() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    let late = visit.keep().await;
    assert!(matches!(late.cycle_id(), Err(SessionError::ResponseSent)));
    assert!(matches!(
        late.set_principal("mia").await,
        Err(SessionError::ResponseSent)
    ));
    assert!(matches!(
        late.clear_principal(),
        Err(SessionError::ResponseSent)
    ));
    assert!(matches!(
        late.set_persistent(true),
        Err(SessionError::ResponseSent)
    ));
    late.increment("n", 1).unwrap();
    late.save().await.unwrap();
    visit
        .request(|session| async move { assert_eq!(session.get::<i64>("n").unwrap(), Some(2)) })
        .await;

    let late = Visit::in_memory().keep().await;
    late.insert("n", 1).unwrap();
    let error = late.save().await.unwrap_err();
    assert!(
        matches!(error, SessionError::ResponseSent),
        "nobody would have the cookie: {error:?}"
    );
}

#[tokio::test]
async fn the_facts_of_a_session_are_right() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    visit
        .request(|session| async move {
            let now = std::time::SystemTime::now();
            let near = |time: std::time::SystemTime, other: std::time::SystemTime| {
                let apart = time
                    .duration_since(other)
                    .unwrap_or_else(|error| error.duration());
                assert!(apart < Duration::from_secs(5), "{apart:?}");
            };
            near(session.created_at(), now);
            near(session.last_accessed(), now);
            near(session.expires_at(), now + Duration::from_secs(1800));
            let handle = session.handle().unwrap();
            assert_eq!(
                format!("{session:?}"),
                format!("Session {{ handle: Some(Handle({handle})), .. }}")
            );
        })
        .await;
}
