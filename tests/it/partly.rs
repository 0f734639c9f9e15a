//! Partial commits: requests whose early commit is in the store and whose final commit is not. No response may claim
//! that nothing was committed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sessile::store::StoreErrorKind;
use sessile::{MemoryStore, Session, SessionError, SessionLayer, TransactionError};

use crate::support::browser::Page;
use crate::support::late::{Late, Post};
use crate::support::proxy::Fault;
use crate::support::{Proxy, Server, Visit, store_with};

/// Commits a change before the end of the handler, by the call of this name.
const EARLY: [&str; 5] = [
    "save",
    "increment_now",
    "take",
    "take_flashes",
    "transaction",
];

async fn commit_early(session: &Session, how: &str) {
    session.increment("orders", 1).unwrap();
    match how {
        "save" => session.save().await.unwrap(),
        "increment_now" => drop(session.increment_now("n", 1).await.unwrap()),
        "take" => assert_eq!(session.take::<i64>("token").await.unwrap(), Some(7)),
        "take_flashes" => assert_eq!(session.take_flashes().await.unwrap().len(), 1),
        "transaction" => session
            .transaction(|data| data.increment("m", 1).map(drop))
            .await
            .unwrap(),
        _ => assert_eq!(how, "nothing"),
    }
}

async fn scene(layer: SessionLayer) -> Visit {
    let mut visit = Visit::with(layer);
    visit
        .request(|session| async move {
            session.insert("stock", 1).unwrap();
            session.insert("token", 7).unwrap();
            session.flash_info("hello").unwrap();
        })
        .await;
    visit
}

async fn orders(visit: &Visit) -> i64 {
    let count = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&count);
    let mut visit = visit.clone();
    visit
        .request(move |session| async move {
            *seen.lock().unwrap() = session.get("orders").unwrap().unwrap_or_default();
        })
        .await;
    *count.lock().unwrap()
}

fn buy(session: &Session) -> Result<i64, SessionError> {
    let one_less = |stock: Option<i64>| stock.filter(|stock| *stock > 0).map(|stock| stock - 1);
    session.try_update("stock", one_less)
}

fn is_unavailable(answer: Result<(), SessionError>) -> bool {
    let Err(SessionError::Store(error)) = answer else {
        return false;
    };
    error.kind() == StoreErrorKind::Unavailable
}

/// The status, whether the client may retry, and the number of cookies.
fn summary(page: &Page) -> (u16, bool, usize) {
    let repeat = page.headers.contains_key("retry-after");
    assert_eq!(page.headers["cache-control"], "no-store");
    (page.status.as_u16(), repeat, page.set_cookies().len())
}

#[tokio::test]
async fn a_refusal_at_the_final_commit_after_an_early_one_gets_500() {
    for how in EARLY.into_iter().chain(["nothing"]) {
        let mut visit = scene(SessionLayer::new(MemoryStore::new())).await;
        let tab = visit.clone();
        let page = visit
            .page(move |session| async move {
                commit_early(&session, how).await;
                buy(&session).unwrap();
                let mut tab = tab;
                tab.request(|session| async move { session.insert("stock", 0).unwrap() })
                    .await;
            })
            .await;
        let (status, done) = match how {
            "nothing" => (409, 0),
            _ => (500, 1),
        };
        assert_eq!(summary(&page), (status, false, 0), "{how}");
        assert_eq!(orders(&visit).await, done, "{how}");
    }
}

#[tokio::test]
async fn an_error_that_the_handler_returns_after_an_early_commit_gets_500() {
    for how in EARLY.into_iter().chain(["nothing"]) {
        let mut visit = scene(SessionLayer::new(MemoryStore::new())).await;
        let page = visit
            .page(move |session| async move {
                commit_early(&session, how).await;
                session.insert("stock", 0).unwrap();
                buy(&session).map(drop)
            })
            .await;
        let (status, done) = match how {
            "nothing" => (409, 0),
            _ => (500, 1),
        };
        assert_eq!(summary(&page), (status, false, 0), "{how}");
        assert_eq!(orders(&visit).await, done, "{how}");
    }
}

#[tokio::test]
async fn an_outage_after_an_early_commit_gets_no_retry_after() {
    for (how, returned) in [
        ("save", false),
        ("save", true),
        ("nothing", false),
        ("nothing", true),
    ] {
        let server = Arc::new(Mutex::new(Server::start()));
        let url = server.lock().unwrap().url();
        let mut visit = scene(SessionLayer::new(store_with(&url, |_| ()).await)).await;
        let page = visit
            .page(move |session| async move {
                commit_early(&session, how).await;
                session.insert("more", 1).unwrap();
                server.lock().unwrap().kill();
                // Until the connection is known to be dead, the outcome of a send is unknown.
                while !is_unavailable(session.reload().await) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                match returned {
                    true => session.save().await,
                    false => Ok(()),
                }
            })
            .await;
        let expected = match how {
            "nothing" => (503, true, 0),
            _ => (500, false, 0),
        };
        assert_eq!(summary(&page), expected, "{how}, returned: {returned}");
    }
}

#[tokio::test]
async fn an_unanswered_final_commit_may_be_in_the_store() {
    let late = Late::before(MemoryStore::new());
    let mut visit = scene(SessionLayer::new(late.clone())).await;
    let page = visit
        .page(move |session| async move {
            commit_early(&session, "save").await;
            session.increment("orders", 1).unwrap();
            late.plan(&[Post::Lose; 3]);
        })
        .await;
    assert_eq!(summary(&page), (503, false, 0));
    assert_eq!(orders(&visit).await, 1);
}

#[tokio::test]
async fn a_logout_that_overtakes_the_final_commit_does_not_change_the_cookie() {
    let mut visit = scene(SessionLayer::new(MemoryStore::new())).await;
    let tab = visit.clone();
    let page = visit
        .page(move |session| async move {
            commit_early(&session, "save").await;
            let mut tab = tab;
            tab.request(|session| async move { session.destroy() })
                .await;
            session.insert("more", 1).unwrap();
        })
        .await;
    assert_eq!(summary(&page), (500, false, 0));
}

#[tokio::test]
async fn a_logout_that_fails_after_an_early_commit_gets_no_retry_after() {
    for how in ["save", "nothing"] {
        let server = Arc::new(Mutex::new(Server::start()));
        let url = server.lock().unwrap().url();
        let mut visit = scene(SessionLayer::new(store_with(&url, |_| ()).await)).await;
        let page = visit
            .page(move |session| async move {
                commit_early(&session, how).await;
                session.destroy();
                server.lock().unwrap().kill();
            })
            .await;
        // The cookie is removed in any case.
        assert_eq!(summary(&page), (503, how == "nothing", 1), "{how}");
        assert_eq!(visit.browser.cookie, None, "{how}");
    }
}

#[tokio::test]
async fn the_error_hook_and_outer_layers_get_the_cause() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let layer = SessionLayer::new(MemoryStore::new()).with_on_error(move |error, _| {
        noted.lock().unwrap().push(error.clone());
        let mut response = axum::http::Response::new(bytes::Bytes::from_static(b"ours"));
        *response.status_mut() = error.status();
        response
    });
    let mut visit = scene(layer).await;
    let page = visit
        .page(|session| async move {
            commit_early(&session, "save").await;
            session.insert("stock", 0).unwrap();
            buy(&session).map(drop)
        })
        .await;
    assert_eq!((page.status.as_u16(), page.text.as_str()), (500, "ours"));
    let seen = seen.lock().unwrap();
    let [SessionError::PartlyCommitted { rest, .. }] = seen.as_slice() else {
        panic!("{seen:?}")
    };
    assert!(matches!(**rest, SessionError::Refused { .. }), "{rest:?}");
}

/// A client may repeat changes that a failed request commits in any case, such as a rotation.
#[tokio::test]
async fn a_rotation_alone_is_not_a_partial_commit() {
    for save in [false, true] {
        let mut visit = scene(SessionLayer::new(MemoryStore::new())).await;
        let page = visit
            .page(move |session| async move {
                session.cycle_id().unwrap();
                if save {
                    session.save().await.unwrap();
                }
                session.insert("stock", 0).unwrap();
                buy(&session).map(drop)
            })
            .await;
        assert_eq!(summary(&page), (409, false, 1), "saved: {save}");
        assert_eq!(orders(&visit).await, 0);
    }
}

/// A commit whose answer is lost counts as committed once it is found.
#[tokio::test]
async fn an_early_commit_that_is_found_later_counts_as_committed() {
    let server = Server::start();
    let proxy = Proxy::before(server.address()).await;
    let mut visit = scene(SessionLayer::new(store_with(&proxy.url(), |_| ()).await)).await;
    let tab = visit.clone();
    let page = visit
        .page(move |session| async move {
            session.increment("orders", 1).unwrap();
            proxy.inject_commits(Fault::LoseAnswer, 1);
            session.save().await.unwrap();
            buy(&session).unwrap();
            let mut tab = tab;
            tab.request(|session| async move { session.insert("stock", 0).unwrap() })
                .await;
        })
        .await;
    assert_eq!(summary(&page), (500, false, 0));
    assert_eq!(orders(&visit).await, 1);
}

/// The handler ignores the outcome, and returns an error of its own.
#[tokio::test]
async fn an_early_commit_of_unknown_outcome_counts_once_found() {
    for arrives in [true, false] {
        let late = Late::before(MemoryStore::new());
        let mut visit = scene(SessionLayer::new(late.clone())).await;
        let tab = visit.clone();
        let page = visit
            .page(move |session| async move {
                session.increment("orders", 1).unwrap();
                late.plan(&[Post::Lose, Post::Lose, Post::Hold]);
                let unknown = session.save().await;
                assert!(matches!(unknown, Err(SessionError::OutcomeUnknown)));
                if arrives {
                    late.deliver_held().await;
                } else {
                    // The held commit can no longer arrive.
                    let mut tab = tab;
                    tab.layer = SessionLayer::new(late.clone());
                    tab.request(|session| async move { session.insert("other", 1).unwrap() })
                        .await;
                }
                Err::<(), _>(SessionError::Aborted)
            })
            .await;
        let (status, done) = if arrives { (500, 1) } else { (409, 0) };
        assert_eq!(summary(&page), (status, false, 0));
        assert_eq!(orders(&visit).await, done);
    }
}

/// Too few replicas acknowledged the early commit, and the new primary lacks it.
#[tokio::test]
async fn an_early_commit_that_a_failover_undid_does_not_count() {
    let late = Late::before(MemoryStore::new());
    let mut visit = scene(SessionLayer::new(late.clone())).await;
    let tab = visit.clone();
    let page = visit
        .page(move |session| async move {
            session.increment("orders", 1).unwrap();
            late.plan(&[Post::LoseByFailover]);
            let unknown = session.save().await;
            assert!(matches!(unknown, Err(SessionError::OutcomeUnknown)));
            let mut tab = tab;
            tab.layer = SessionLayer::new(late.clone());
            tab.request(|session| async move { session.insert("other", 1).unwrap() })
                .await;
            Err::<(), _>(SessionError::Aborted)
        })
        .await;
    assert_eq!(summary(&page), (409, false, 0));
    assert_eq!(orders(&visit).await, 0);
}

/// A single step cannot be committed in part.
#[tokio::test]
async fn one_transaction_commits_everything_or_nothing() {
    let mut visit = scene(SessionLayer::new(MemoryStore::new())).await;
    let tab = visit.clone();
    let page = visit
        .page(move |session| async move {
            let mut tab = tab;
            tab.request(|session| async move { session.insert("stock", 0).unwrap() })
                .await;
            let order = session.transaction(|data| {
                data.increment("orders", 1)?;
                let stock = data.get::<i64>("stock")?.unwrap_or_default();
                if stock == 0 {
                    return Err(SessionError::Aborted);
                }
                data.insert("stock", stock - 1)
            });
            let refused = order.await;
            assert!(matches!(refused, Err(TransactionError::Aborted(_))));
            refused
        })
        .await;
    assert_eq!(summary(&page), (409, false, 0));
    assert_eq!(orders(&visit).await, 0);
}
