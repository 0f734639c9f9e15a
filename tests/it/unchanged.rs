//! Calls that do not change the session as their request sees it, and their effect if others have changed it.

use std::time::Duration;

use sessile::{MemoryStore, Session, SessionError, SessionLayer};

use crate::support::app::app;
use crate::support::{Ground, Spy, Visit, fresh_prefix, store_with};

/// Two nodes, and a browser with a saved address.
async fn two_nodes() -> (Ground, Visit, Visit) {
    let (ground, prefix) = (Ground::new(), fresh_prefix());
    let layer = async || {
        let store = store_with(&ground.url(), |config| config.key_prefix = prefix.clone()).await;
        SessionLayer::new(store)
    };
    let mut one = Visit::with(layer().await);
    one.request(|session| async move { address(&session, "Elm", "Rome") })
        .await;
    let mut other = one.clone();
    other.layer = layer().await;
    (ground, one, other)
}

fn address(session: &Session, street: &str, city: &str) {
    session.insert("street", street).unwrap();
    session.insert("city", city).unwrap();
}

#[tokio::test]
async fn the_later_of_two_concurrent_forms_is_stored_whole() {
    let (_ground, mut one, other) = two_nodes().await;
    one.request(move |session| async move {
        let mut other = other;
        other
            .request(|session| async move { address(&session, "Oak", "Oslo") })
            .await;
        // The street is the loaded one.
        address(&session, "Elm", "Paris");
    })
    .await;
    one.request(|session| async move {
        let stored = ["street", "city"].map(|key| session.get::<String>(key).unwrap().unwrap());
        assert_eq!(stored, ["Elm", "Paris"]);
    })
    .await;
}

type Call = fn(&Session);
type Facts = fn(&Session) -> String;

/// A call without effect on the loaded session, a concurrent request, and the expected result: as if the call had come
/// after the other request.
const CALLS: [(&str, Call, Call, Facts, &str); 11] = [
    (
        "insert",
        |session| session.insert("n", 1).unwrap(),
        |session| session.insert("n", 5).unwrap(),
        number,
        "1",
    ),
    (
        "insert of a list",
        |session| session.insert("list", [1]).unwrap(),
        |session| session.push("list", 2).unwrap(),
        list,
        "[1]",
    ),
    (
        "remove of a missing key",
        |session| assert_eq!(session.remove::<i64>("new").unwrap(), None),
        |session| session.insert("new", 1).unwrap(),
        keys,
        "list,mine,n",
    ),
    (
        "discard of a missing key",
        |session| session.discard("new"),
        |session| session.insert("new", 1).unwrap(),
        keys,
        "list,mine,n",
    ),
    (
        "update to the same value",
        |session| assert_eq!(session.update("n", |n: &mut i64| *n = 1).unwrap(), 1),
        |session| session.insert("n", 5).unwrap(),
        number,
        "1",
    ),
    (
        "update that keeps a small value",
        |session| assert_eq!(session.update("n", at_most_three).unwrap(), 1),
        |session| session.insert("n", 5).unwrap(),
        number,
        "3",
    ),
    (
        "insert and back",
        |session| {
            session.insert("n", 2).unwrap();
            session.insert("n", 1).unwrap();
        },
        |session| session.insert("n", 5).unwrap(),
        number,
        "1",
    ),
    (
        "increment by nothing",
        |session| assert_eq!(session.increment("n", 0).unwrap(), 1),
        |session| session.insert("n", 5).unwrap(),
        number,
        "5",
    ),
    (
        "idle timeout",
        |session| session.set_idle_timeout(MINUTE * 10).unwrap(),
        |session| session.set_idle_timeout(MINUTE * 20).unwrap(),
        minutes,
        "10",
    ),
    (
        "absolute timeout",
        |session| session.set_absolute_timeout(MINUTE * 60).unwrap(),
        |session| session.set_absolute_timeout(MINUTE * 5).unwrap(),
        minutes,
        "10",
    ),
    (
        "persistence",
        |session| session.set_persistent(false).unwrap(),
        |session| session.set_persistent(true).unwrap(),
        keys,
        "list,mine,n",
    ),
];

fn at_most_three(n: &mut i64) {
    *n = (*n).min(3);
}

const MINUTE: Duration = Duration::from_secs(60);

fn number(session: &Session) -> String {
    session.get::<i64>("n").unwrap().unwrap().to_string()
}

fn list(session: &Session) -> String {
    format!("{:?}", session.get::<Vec<i64>>("list").unwrap().unwrap())
}

fn keys(session: &Session) -> String {
    session.keys().join(",")
}

/// The idle time that the session has left, rounded up to minutes.
fn minutes(session: &Session) -> String {
    let left = session
        .expires_at()
        .duration_since(std::time::SystemTime::now());
    left.unwrap().as_secs().div_ceil(60).to_string()
}

/// The call has an effect as if it had come last, or, if the request makes no other, as a read that came first.
#[tokio::test]
async fn a_call_without_effect_is_replayed_with_the_rest_of_its_request() {
    for (name, call, meanwhile, facts, expected) in CALLS {
        let mut visit = prepared().await;
        let tab = visit.clone();
        let page = visit
            .page(move |session| async move {
                call(&session);
                session.insert("mine", true).unwrap();
                let mut tab = tab;
                tab.request(move |session| async move { meanwhile(&session) })
                    .await;
            })
            .await;
        assert_eq!(page.status, 200, "{name}");
        if name == "persistence" {
            // The browser's cookie, too, reflects the last commit.
            assert!(!page.set_cookies()[0].contains("Max-Age"), "{name}");
        }
        visit
            .request(move |session| async move { assert_eq!(facts(&session), expected, "{name}") })
            .await;
    }
}

async fn prepared() -> Visit {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move {
            session.insert("n", 1).unwrap();
            session.insert("list", [1]).unwrap();
            session.set_idle_timeout(MINUTE * 10).unwrap();
            session.set_absolute_timeout(MINUTE * 60).unwrap();
        })
        .await;
    visit
}

#[tokio::test]
async fn a_guard_that_changes_nothing_runs_again_at_the_commit() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.insert("stock", 1).unwrap() })
        .await;
    let tab = visit.clone();
    let page = visit
        .page(move |session| async move {
            let some = |stock: Option<i64>| stock.filter(|stock| *stock > 0);
            session.try_update("stock", some).unwrap();
            session.insert("ordered", true).unwrap();
            let mut tab = tab;
            tab.request(|session| async move { session.insert("stock", 0).unwrap() })
                .await;
        })
        .await;
    assert_eq!((page.status.as_u16(), page.set_cookies().len()), (409, 0));
    visit
        .request(|session| async move { assert_eq!(session.keys(), ["stock"]) })
        .await;
}

#[tokio::test]
async fn a_request_whose_calls_cancel_out_writes_nothing() {
    let spy = Spy::on(MemoryStore::new());
    let calls = spy.calls.clone();
    let mut visit = Visit::with(SessionLayer::new(spy));
    // A new visitor gets no session for this.
    let page = visit
        .page(|session| async move {
            session.insert("n", 1).unwrap();
            assert!(session.is_modified());
            session.discard("n");
            session.set_persistent(false).unwrap();
            assert!(!session.is_modified());
        })
        .await;
    assert_eq!((calls.so_far(), page.set_cookies().len()), ([0; 5], 0));
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    let before = calls.so_far();
    for save in [false, true] {
        let page = visit
            .page(move |session| async move {
                session.insert("n", 1).unwrap();
                session.increment("n", 2).unwrap();
                session.decrement("n", 2).unwrap();
                session.discard("other");
                session.update("n", |n: &mut i64| *n = 1).unwrap();
                assert!(!session.is_modified());
                if save {
                    session.save().await.unwrap();
                }
            })
            .await;
        assert_eq!((page.status.as_u16(), page.set_cookies().len()), (200, 0));
    }
    let [load, create, replace, touch, delete] = calls.so_far();
    assert_eq!([create, replace, touch, delete], before[1..], "writes");
    assert_eq!(load, before[0] + 2);
}

/// A session that outlives its response may show values that differ from the stored ones.
#[tokio::test]
async fn a_save_after_the_response_writes_values_equal_to_the_loaded_ones() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    let kept = visit.keep().await;
    visit
        .request(|session| async move { session.insert("n", 5).unwrap() })
        .await;
    kept.insert("n", 1).unwrap();
    assert!(kept.is_modified());
    kept.save().await.unwrap();
    visit
        .request(|session| async move { assert_eq!(number(&session), "1") })
        .await;
}

#[tokio::test]
async fn a_retired_token_allows_calls_without_effect_but_no_writes() {
    let mut visit = prepared().await;
    let mut late = visit.clone();
    visit
        .request(|session| async move { session.cycle_id().unwrap() })
        .await;
    let page = late
        .page(|session| async move { session.discard("n") })
        .await;
    assert_eq!((page.status.as_u16(), page.set_cookies().len()), (200, 0));
    let page = late
        .page(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    assert_eq!((page.status.as_u16(), page.set_cookies().len()), (409, 0));
}

#[tokio::test]
async fn a_failed_call_leaves_its_value_unchanged() {
    let mut visit = prepared().await;
    visit
        .request(|session| async move {
            let error = session.remove::<String>("n").unwrap_err();
            assert!(matches!(error, SessionError::Decode { .. }), "{error}");
            assert!(!session.is_modified());
            assert_eq!(number(&session), "1");
        })
        .await;
    assert_eq!(
        visit
            .browser
            .peek(&app(visit.layer.clone()), "/read")
            .await
            .ok(),
        "list,n"
    );
}
