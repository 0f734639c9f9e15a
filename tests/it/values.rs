//! The calls on a session, within one request and across requests.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sessile::{
    Event, JsonErrorKind, Key, LimitedPart, MemoryStore, ReadSession, SessionConfig, SessionError,
    SessionLayer,
};

use crate::support::app::app;
use crate::support::{Browser, Visit};

#[tokio::test]
async fn the_next_request_reads_stored_values() {
    const NAMES: Key<Vec<String>> = Key::new("names");
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move {
            assert!(session.is_new() && !session.is_modified());
            assert_eq!(session.get::<u64>("missing").unwrap(), None);
            session.insert(NAMES, vec!["mia".to_owned()]).unwrap();
            session.insert(String::from("n"), 7).unwrap();
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
async fn typed_keys_name_counters_and_lists() {
    const VISITS: Key<i64> = Key::new("visits");
    const SEEN: Key<Vec<String>> = Key::new("seen");
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move {
            assert_eq!(session.increment(VISITS, 5).unwrap(), 5);
            assert_eq!(session.decrement(VISITS, 2).unwrap(), 3);
            assert_eq!(session.increment_now(VISITS, 1).await.unwrap(), 4);
            session.push(SEEN, "home".to_owned()).unwrap();
            let counted = session.transaction(|data| {
                data.push(SEEN, "shop".to_owned())?;
                data.increment(VISITS, 2)?;
                data.decrement(VISITS, 1)
            });
            assert_eq!(counted.await.unwrap(), 5);
        })
        .await;
    visit
        .request(|session| async move {
            assert_eq!(session.get(VISITS).unwrap(), Some(5));
            assert_eq!(session.get(SEEN).unwrap().unwrap(), ["home", "shop"]);
            assert!(session.contains_key(VISITS) && session.contains_key(SEEN));
            for key in ["visits", "seen"].iter().chain(&[VISITS.name()]) {
                assert!(session.contains_key(key) && session.contains_key(key.to_string()));
            }
            session.discard(VISITS);
            let seen = session.transaction(|data| {
                data.discard(SEEN);
                Ok::<_, SessionError>(data.contains_key(SEEN))
            });
            assert!(!seen.await.unwrap());
            assert!(!session.contains_key(VISITS) && !session.contains_key(SEEN));
        })
        .await;
}

#[tokio::test]
async fn a_value_of_another_type_is_an_error_and_is_kept() {
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
async fn a_value_that_json_cannot_hold_is_an_error_and_changes_nothing() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move {
            let map = BTreeMap::from([((1, 2), 3)]);
            let error = session.insert("odd", &map).unwrap_err();
            assert!(matches!(error, SessionError::Encode { .. }), "{error:?}");
            assert!(session.push("odd", &map).is_err());
            assert!(!session.is_modified());
        })
        .await;
    assert_eq!(visit.browser.cookie, None);
}

#[tokio::test]
async fn a_closure_runs_once_without_a_conflict() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    visit
        .request(move |session| async move {
            let count = move |n: &mut u32| {
                counted.fetch_add(1, Ordering::SeqCst);
                *n += 1;
            };
            session.update("n", count).unwrap();
        })
        .await;
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    visit
        .request(|session| async move { assert_eq!(session.get("n").unwrap(), Some(2)) })
        .await;
}

#[tokio::test]
async fn an_update_returns_the_result_of_its_closure_on_the_loaded_value() {
    const QUEUE: Key<Vec<String>> = Key::new("queue");
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move {
            let pop = |queue: &mut Vec<String>| queue.pop();
            assert_eq!(session.update_with(QUEUE, pop).unwrap(), None);
            session.insert(QUEUE, vec!["a".into(), "b".into()]).unwrap();
            let added = session.update_with(QUEUE, |queue| {
                queue.push("c".to_owned());
                queue.len()
            });
            assert_eq!(added.unwrap(), 3);
            let wrong = session.update_with(QUEUE.name(), |_: &mut u64| ());
            assert!(matches!(wrong, Err(SessionError::Decode { .. })));
        })
        .await;
    let mut tab = visit.clone();
    visit
        .request(|session| async move {
            let first = |queue: &mut Vec<String>| queue.remove(0);
            assert_eq!(session.update_with(QUEUE, first).unwrap(), "a");
            tab.request(|session| async move { session.push(QUEUE, "d".to_owned()).unwrap() })
                .await;
        })
        .await;
    visit
        .request(|session| async move {
            let left = session.get(QUEUE).unwrap().unwrap();
            assert_eq!(left, ["b", "c", "d"], "replayed on the newer list");
        })
        .await;
}

#[tokio::test]
async fn get_or_insert_returns_the_stored_value_or_inserts_one() {
    const NAME: Key<String> = Key::new("name");
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move {
            let name = session.get_or_insert(NAME, "mia".to_owned());
            assert_eq!(name.unwrap(), "mia");
            assert!(session.is_modified());
        })
        .await;
    visit
        .request(|session| async move {
            let name = session.get_or_insert(NAME, "noa".to_owned());
            assert_eq!(name.unwrap(), "mia");
            let name = session.get_or_insert_with(NAME, || panic!("there is a name"));
            assert_eq!(name.unwrap(), "mia");
            let wrong = session.get_or_insert("name", 1);
            assert!(matches!(wrong, Err(SessionError::Decode { .. })));
            let inside = session.clone();
            let color = session.get_or_insert_with("color", || {
                inside.insert("color", "red").unwrap();
                "blue".to_owned()
            });
            assert_eq!(color.unwrap(), "red", "another clone was faster");
            session.discard("color");
            assert!(!session.is_modified());
            let odd = session.get_or_insert("odd", f64::NAN);
            assert!(matches!(odd, Err(SessionError::Encode { .. })));
        })
        .await;
}

/// The stored value stays as it is, byte for byte, including fields that this request's type lacks.
#[tokio::test]
async fn the_first_commit_of_two_concurrent_get_or_inserts_stores_its_value() {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Named {
        name: String,
    }
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    let mut tab = visit.clone();
    visit
        .request(|session| async move {
            let name = "mia".to_owned();
            let named = session.get_or_insert("named", Named { name }).unwrap();
            assert_eq!(named.name, "mia");
            tab.request(|session| async move {
                let named = serde_json::json!({ "name": "noa", "since": 2020 });
                session.get_or_insert("named", named).unwrap();
            })
            .await;
        })
        .await;
    visit
        .request(|session| async move {
            let named: serde_json::Value = session.get("named").unwrap().unwrap();
            assert_eq!(named, serde_json::json!({ "name": "noa", "since": 2020 }));
        })
        .await;
}

#[tokio::test]
async fn values_returns_all_values_at_once() {
    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Profile {
        name: String,
        visits: i64,
        color: Option<String>,
    }
    let profile = || Profile {
        name: "mia".to_owned(),
        visits: 1,
        color: None,
    };
    let mut visit = Visit::in_memory();
    visit
        .request(move |session| async move {
            session.insert("name", "mia").unwrap();
            session.increment("visits", 1).unwrap();
            assert_eq!(session.values::<Profile>().unwrap(), profile());
        })
        .await;
    visit
        .request(move |session| async move {
            assert_eq!(session.values::<Profile>().unwrap(), profile());
            let all = session.values::<BTreeMap<String, serde_json::Value>>();
            assert_eq!(all.unwrap().len(), 2);
            assert!(!session.is_modified());
            let read_only = ReadSession::from(session.clone());
            assert_eq!(read_only.values::<Profile>().unwrap(), profile());
            let inside = session.transaction(|data| {
                data.insert("visits", 7)?;
                data.values::<Profile>()
            });
            assert_eq!(inside.await.unwrap().visits, 7);
            session.discard("name");
            let missing = session.values::<Profile>().unwrap_err();
            let SessionError::DecodeAll { key, .. } = &missing else {
                panic!("{missing:?}");
            };
            assert_eq!(key.as_deref(), Some("name"), "{missing}");
        })
        .await;
}

#[tokio::test]
async fn try_update_can_refuse() {
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
async fn fifty_concurrent_buyers_get_a_stock_of_ten_ten_times() {
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
async fn a_closure_may_use_the_session_and_its_panic_changes_nothing() {
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
async fn save_and_reload_show_the_changes_of_others() {
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
async fn keys_and_values_that_are_too_large_are_rejected_at_once() {
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
async fn a_session_that_is_too_large_is_an_error_and_the_stored_one_is_kept() {
    let config = SessionConfig::default().with_max_size(4096);
    let app = app(SessionLayer::try_new(MemoryStore::new(), config).unwrap());
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
        "no response can set the cookie: {error:?}"
    );
}

#[tokio::test]
async fn a_session_reports_its_metadata() {
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

#[tokio::test]
async fn every_call_rejects_a_float_that_json_cannot_hold() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.insert("price", 1.5).unwrap() })
        .await;
    visit
        .request(|session| async move {
            for float in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                for error in [
                    session.insert("price", float).unwrap_err(),
                    session.insert("price", Some(vec![float])).unwrap_err(),
                    session.push("list", (1, float)).unwrap_err(),
                    session
                        .update("price", move |price: &mut f64| *price = float)
                        .unwrap_err(),
                    session
                        .try_update("price", move |_: Option<f64>| Some(float))
                        .unwrap_err(),
                ] {
                    assert!(matches!(error, SessionError::Encode { .. }), "{error:?}");
                }
            }
            assert!(!session.is_modified());
            session.insert("none", None::<f64>).unwrap();
            session.insert("unit", ()).unwrap();
            assert_eq!(session.get("none").unwrap(), Some(None::<f64>));
            assert_eq!(session.get::<f64>("price").unwrap(), Some(1.5));
        })
        .await;
}

#[tokio::test]
async fn a_value_nested_too_deeply_is_rejected_and_the_stored_one_is_kept() {
    fn nested(levels: usize) -> serde_json::Value {
        (1..levels).fold(serde_json::json!([]), |inner, _| serde_json::json!([inner]))
    }

    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move {
            session.insert("deepest", nested(127)).unwrap();
            session.push("list", nested(126)).unwrap();
            for error in [
                session.insert("deepest", nested(128)).unwrap_err(),
                session.push("list", nested(127)).unwrap_err(),
                session
                    .update("deepest", |value: &mut serde_json::Value| {
                        *value = serde_json::json!([value.take()]);
                    })
                    .unwrap_err(),
            ] {
                let source = std::error::Error::source(&error).unwrap().to_string();
                assert!(matches!(error, SessionError::Encode { .. }), "{error:?}");
                assert!(source.contains("127 levels"), "{source}");
            }
        })
        .await;
    visit
        .request(|session| async move {
            let deepest = session.get::<serde_json::Value>("deepest").unwrap();
            assert_eq!(deepest, Some(nested(127)));
            let list = session.get::<Vec<serde_json::Value>>("list").unwrap();
            assert_eq!(list, Some(vec![nested(126)]));
        })
        .await;
}

#[tokio::test]
async fn a_session_above_its_limit_can_be_signed_in_and_out_rotated_shrunk_and_ended() {
    let store = MemoryStore::new();
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&events);
    let mut visit = Visit::with(SessionLayer::new(store.clone()));
    visit
        .request(|session| async move {
            session.insert("large", vec!["x".repeat(1000); 3]).unwrap();
            session.flash_info("hello").unwrap();
        })
        .await;
    let config = SessionConfig::default().with_max_size(1024);
    visit.layer =
        SessionLayer::try_new(store, config)
            .unwrap()
            .with_observer(move |event: &Event| {
                if let Event::TooLarge { handle, part, .. } = event {
                    seen.lock().unwrap().push((handle.is_some(), *part));
                }
            });
    let assert_events = |expected: &[(bool, LimitedPart)]| {
        assert_eq!(std::mem::take(&mut *events.lock().unwrap()), expected);
    };

    visit
        .request(|session| async move {
            session.set_principal("m".repeat(500)).await.unwrap();
            session.set_persistent(true).unwrap();
        })
        .await;
    visit
        .request(|session| async move { session.cycle_id().unwrap() })
        .await;
    visit
        .request(|session| async move {
            session.set_idle_timeout(Duration::from_secs(3600)).unwrap();
            session.clear_principal().unwrap();
            assert_eq!(session.take_flashes().await.unwrap().len(), 1);
        })
        .await;
    assert_events(&[]);

    let grown = visit
        .page(|session| async move { session.insert("more", 1).unwrap() })
        .await;
    assert_eq!(grown.status, 500);
    assert_events(&[(true, LimitedPart::Session)]);
    visit
        .request(|session| async move {
            assert!(session.insert("more", "x".repeat(1025)).is_err());
            assert!(session.insert("k".repeat(1025).as_str(), 1).is_err());
            assert!(session.flash_info("x".repeat(1025)).is_err());
            assert!(session.set_principal("x".repeat(1025)).await.is_err());
        })
        .await;
    assert_events(&[
        (true, LimitedPart::Value),
        (true, LimitedPart::Key),
        (true, LimitedPart::Value),
        (true, LimitedPart::Principal),
    ]);

    // Smaller, but still above the limit; then by a closure; then by removing a key.
    visit
        .request(|session| async move {
            session.insert("large", vec!["x".repeat(900); 3]).unwrap();
        })
        .await;
    visit
        .request(|session| async move {
            let shorten = |list: &mut Vec<String>| drop(list.pop());
            session.update("large", shorten).unwrap();
        })
        .await;
    visit
        .request(|session| async move {
            assert_eq!(
                session.get::<Vec<String>>("large").unwrap().unwrap().len(),
                2
            );
            session.discard("large");
            session.insert("more", 1).unwrap();
        })
        .await;
    visit
        .request(|session| async move { session.destroy() })
        .await;
    assert_events(&[]);
}

#[tokio::test]
async fn only_data_and_messages_count_towards_the_limit() {
    let config = SessionConfig::default().with_max_size(1024);
    let layer = SessionLayer::try_new(MemoryStore::new(), config).unwrap();
    // Keys and values count with their quotes, and a message as it is stored.
    let others = r#""key""n"7"""#.len() + r#"{"level":"info","text":"hello"}"#.len();
    for (letters, status) in [(1024 - others, 200), (1025 - others, 500)] {
        let page = Visit::with(layer.clone())
            .page(move |session| async move {
                session.insert("key", "x".repeat(letters)).unwrap();
                session.insert("n", 7).unwrap();
                session.flash_info("hello").unwrap();
            })
            .await;
        assert_eq!(page.status, status);
    }
}

/// A type whose error messages quote the value, as those of many types do.
#[derive(Debug)]
struct Quoting;

impl<'de> serde::Deserialize<'de> for Quoting {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = String::deserialize(deserializer)?;
        Err(serde::de::Error::custom(format!("{found} is invalid")))
    }
}

impl serde::Serialize for Quoting {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("s3cr3t cannot be written"))
    }
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "it is never read")]
struct Strict {
    name: String,
}

#[derive(Debug, serde::Deserialize)]
#[allow(dead_code, reason = "it is never read")]
enum Choice {
    One,
}

#[tokio::test]
async fn errors_never_show_a_value() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move {
            let padding = " ".repeat(8 * 1024);
            session.insert("small", "s3cr3t").unwrap();
            session.insert("large", format!("s3cr3t{padding}")).unwrap();
            session
                .insert("fields", BTreeMap::from([("s3cr3t", 1)]))
                .unwrap();
        })
        .await;
    visit
        .request(|session| async move {
            let mut errors = Vec::new();
            for key in ["small", "large"] {
                errors.extend([
                    session.get::<u64>(key).unwrap_err(),
                    session.get::<Quoting>(key).unwrap_err(),
                    session.get::<Choice>(key).unwrap_err(),
                    session.remove::<Vec<u8>>(key).unwrap_err(),
                    session.take::<u64>(key).await.unwrap_err(),
                    session.push(key, 1).unwrap_err(),
                    session.increment(key, 1).unwrap_err(),
                    session.increment_now(key, 1).await.unwrap_err(),
                    session.update(key, |_: &mut u64| ()).unwrap_err(),
                    session
                        .try_update(key, |_: Option<u64>| Some(1))
                        .unwrap_err(),
                ]);
            }
            errors.push(session.get::<Strict>("fields").unwrap_err());
            errors.push(session.get::<Choice>("fields").unwrap_err());
            errors.push(session.insert("own", Quoting).unwrap_err());
            errors.push(session.push("own", Quoting).unwrap_err());
            for error in &errors {
                let mut texts = format!("{error}\n{error:?}\n{error:#?}");
                let mut source = std::error::Error::source(error);
                while let Some(cause) = source {
                    texts += &format!("\n{cause}\n{cause:?}");
                    source = cause.source();
                }
                assert!(!texts.contains("s3cr3t"), "{texts}");
            }
            let SessionError::Decode { source, .. } = &errors[0] else {
                panic!("{:?}", errors[0]);
            };
            assert_eq!(source.kind, JsonErrorKind::Mismatch);
            assert_eq!((source.line, source.column), (1, 8));
            session.discard_changes();
        })
        .await;
}
