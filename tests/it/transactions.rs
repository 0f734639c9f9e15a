//! `session.transaction`: several values change in one step.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use sessile::store::Durability;
use sessile::{
    Concurrency, Data, DurabilityConfig, Exclusive, LimitedPart, MemoryStore, Session,
    SessionConfig, SessionError, SessionLayer, TransactionError,
};

use crate::support::late::{Late, Post};
use crate::support::{Ground, Visit, fresh_prefix, store_with};

#[derive(Clone, Debug, PartialEq)]
enum Refusal {
    Short { by: i64 },
    Broken(String),
}

impl From<SessionError> for Refusal {
    fn from(error: SessionError) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Moves an amount between two accounts, and returns the remaining balance.
fn pay(data: &mut Data, from: &str, to: &str, amount: i64) -> Result<i64, Refusal> {
    let left = data.increment(from, -amount)?;
    data.increment(to, amount)?;
    match left {
        0.. => Ok(left),
        missing => Err(Refusal::Short { by: -missing }),
    }
}

async fn accounts(layer: SessionLayer) -> Visit {
    let mut visit = Visit::with(layer);
    visit
        .request(|session| async move {
            session.insert("a", 10).unwrap();
            session.insert("b", 10).unwrap();
        })
        .await;
    visit
}

async fn in_memory() -> Visit {
    accounts(SessionLayer::new(MemoryStore::new())).await
}

fn balance(session: &Session) -> [i64; 2] {
    ["a", "b"].map(|key| session.get(key).unwrap().unwrap())
}

async fn see(visit: &mut Visit) -> [i64; 2] {
    let seen = Arc::new(Mutex::new([0; 2]));
    let there = Arc::clone(&seen);
    visit
        .request(move |session| async move { *there.lock().unwrap() = balance(&session) })
        .await;
    *seen.lock().unwrap()
}

/// Sets an account in another request of the same browser, while a handler runs.
async fn meanwhile(tab: &Visit, a: i64) {
    let mut tab = tab.clone();
    tab.request(move |session| async move { session.insert("a", a).unwrap() })
        .await;
}

#[tokio::test]
async fn fifty_payments_on_two_nodes_keep_the_total() {
    let (ground, prefix) = (Ground::new(), fresh_prefix());
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let store = store_with(&ground.url(), |config| config.key_prefix = prefix.clone()).await;
        nodes.push(SessionLayer::new(store));
    }
    let mut visit = accounts(nodes[0].clone()).await;
    let paid = Arc::new(AtomicU32::new(0));
    let payments = (0..50_usize).map(|n| {
        let mut tab = visit.clone();
        tab.layer = nodes[n % 2].clone();
        let paid = Arc::clone(&paid);
        async move {
            tab.request(move |session| async move {
                match session.transaction(|data| pay(data, "a", "b", 1)).await {
                    Ok(left) => assert_eq!(
                        10 - left,
                        1 + i64::from(paid.fetch_add(1, Ordering::SeqCst)).min(9 - left)
                    ),
                    Err(TransactionError::Aborted(refusal)) => {
                        assert_eq!(refusal, Refusal::Short { by: 1 });
                    }
                    Err(error) => panic!("{error}"),
                }
            })
            .await;
        }
    });
    join_all(payments).await;
    assert_eq!(paid.load(Ordering::SeqCst), 10);
    assert_eq!(see(&mut visit).await, [0, 20]);
}

#[tokio::test]
async fn a_transaction_returns_the_result_of_the_run_that_was_committed() {
    let mut visit = in_memory().await;
    let tab = visit.clone();
    visit
        .request(move |session| async move {
            assert_eq!(balance(&session), [10, 10]);
            meanwhile(&tab, 7).await;
            let left = session.transaction(|data| pay(data, "a", "b", 2)).await;
            assert_eq!(left.unwrap(), 5);
            // The change is in the store, and this request sees it.
            assert!(!session.is_modified());
            assert_eq!(balance(&session), [5, 12]);
        })
        .await;
    assert_eq!(see(&mut visit).await, [5, 12]);
}

#[tokio::test]
async fn an_aborted_transaction_writes_nothing_and_keeps_earlier_changes() {
    // First the loaded value makes the closure refuse, then only the value that another request committed.
    for overtaken in [false, true] {
        let mut visit = in_memory().await;
        let tab = visit.clone();
        visit
            .request(move |session| async move {
                session.insert("before", 1).unwrap();
                let amount = match overtaken {
                    true => {
                        meanwhile(&tab, 1).await;
                        4
                    }
                    false => 13,
                };
                let error = session
                    .transaction(move |data| pay(data, "a", "b", amount))
                    .await
                    .unwrap_err();
                let TransactionError::Aborted(refusal) = error else {
                    panic!("{error}")
                };
                assert_eq!(refusal, Refusal::Short { by: 3 });
                assert!(session.is_modified());
                assert_eq!(session.get::<i64>("b").unwrap(), Some(10));
            })
            .await;
        let a = if overtaken { 1 } else { 10 };
        assert_eq!(see(&mut visit).await, [a, 10]);
        visit
            .request(|session| async move { assert!(session.contains_key("before")) })
            .await;
    }
}

#[tokio::test]
async fn a_transaction_sees_and_commits_earlier_changes() {
    let mut visit = in_memory().await;
    visit
        .page(|session| async move {
            session.increment("a", 5).unwrap();
            session.flash_info("paid").unwrap();
            let left = session.transaction(|data| pay(data, "a", "b", 15)).await;
            assert_eq!(left.unwrap(), 0);
            // An early commit stays, whatever the handler returns.
            axum::http::StatusCode::INTERNAL_SERVER_ERROR
        })
        .await;
    assert_eq!(see(&mut visit).await, [0, 25]);
    visit
        .request(|session| async move { assert_eq!(session.peek_flashes().len(), 1) })
        .await;
}

#[tokio::test]
async fn a_transaction_is_merged_under_every_policy() {
    let minute = Duration::from_secs(60);
    let exclusive = Concurrency::Exclusive(Exclusive::new(minute).with_lease(minute));
    for policy in [
        Concurrency::Merge,
        Concurrency::LastWriteWins,
        Concurrency::Reject,
        exclusive,
    ] {
        let merging = in_memory().await;
        let mut visit = merging.clone();
        visit.layer = visit.layer.with_concurrency(policy);
        let page = visit
            .page(move |session| async move {
                meanwhile(&merging, 7).await;
                let left = session.transaction(|data| pay(data, "a", "b", 2)).await;
                assert_eq!(left.unwrap(), 5, "{policy:?}");
            })
            .await;
        assert_eq!(page.status, 200, "{policy:?}");
        assert_eq!(see(&mut visit).await, [5, 12], "{policy:?}");
    }
}

/// Earlier changes that the transaction commits are subject to the layer's policy.
#[tokio::test]
async fn under_reject_a_transaction_fails_if_earlier_changes_conflict() {
    let merging = in_memory().await;
    let mut visit = merging.clone();
    visit.layer = visit.layer.with_concurrency(Concurrency::Reject);
    let page = visit
        .page(move |session| async move {
            session.insert("before", 1).unwrap();
            meanwhile(&merging, 7).await;
            let error = session.transaction(|data| pay(data, "a", "b", 2)).await;
            let error = error.unwrap_err();
            let conflict = matches!(
                error,
                TransactionError::Session(SessionError::Conflict { .. })
            );
            assert!(conflict, "{error}");
        })
        .await;
    assert_eq!(page.status, 409);
    assert_eq!(see(&mut visit).await, [7, 10]);
}

/// The transaction has merged the changes of others, but earlier reads are still of the old version.
#[tokio::test]
async fn under_reject_changes_after_a_merged_transaction_fail() {
    for reloads in [false, true] {
        let merging = in_memory().await;
        let mut visit = merging.clone();
        visit.layer = visit.layer.with_concurrency(Concurrency::Reject);
        let page = visit
            .page(move |session| async move {
                let [a, _] = balance(&session);
                meanwhile(&merging, 7).await;
                session
                    .transaction(|data| data.increment("count", 1))
                    .await
                    .unwrap();
                session.flash_info("counted").unwrap();
                session.save().await.unwrap();
                if reloads {
                    session.reload().await.unwrap();
                }
                session.insert("a", a + 1).unwrap();
            })
            .await;
        let (status, stored) = if reloads { (200, 11) } else { (500, 7) };
        assert_eq!(page.status, status);
        assert_eq!(see(&mut visit).await, [stored, 10]);
    }
}

/// The same holds if the transaction is on the primary, and the handler ignores that too few replicas acknowledged it.
#[tokio::test(start_paused = true)]
async fn under_reject_changes_after_a_transaction_short_of_replicas_fail() {
    let late = Late::before(MemoryStore::new()).with_replicas();
    let one_replica = Durability::Replicas {
        n: 1,
        timeout: Duration::from_millis(100),
    };
    let config = SessionConfig::default()
        .with_concurrency(Concurrency::Reject)
        .with_durability(DurabilityConfig::default().with_commits(one_replica));
    let merging = accounts(SessionLayer::new(late.clone())).await;
    let mut visit = merging.clone();
    visit.layer = SessionLayer::try_new(late.clone(), config).unwrap();
    let page = visit
        .page(move |session| async move {
            let [a, _] = balance(&session);
            meanwhile(&merging, 7).await;
            late.plan(&[Post::Deliver, Post::DeliverShort(Duration::ZERO)]);
            let counted = session.transaction(|data| data.increment("count", 1)).await;
            assert!(matches!(
                counted,
                Err(TransactionError::Session(SessionError::OutcomeUnknown))
            ));
            session.insert("a", a + 1).unwrap();
        })
        .await;
    assert_eq!(page.status, 500);
    assert_eq!(see(&mut visit).await, [7, 10]);
}

#[tokio::test]
async fn a_transaction_whose_answer_is_lost_is_applied_once() {
    let late = Late::before(MemoryStore::new());
    let mut visit = accounts(SessionLayer::new(late.clone())).await;
    let plan = late.clone();
    visit
        .request(move |session| async move {
            plan.plan(&[Post::Hold, Post::DeliverAfterHeld]);
            let left = session.transaction(|data| pay(data, "a", "b", 1)).await;
            assert_eq!(left.unwrap(), 9);
        })
        .await;
    assert!(late.is_done());
    assert_eq!(see(&mut visit).await, [9, 11]);
}

#[tokio::test]
async fn the_response_resolves_a_transaction_of_unknown_outcome() {
    // The commit arrives before the response; or sessile resends it before the response; or it can never arrive, since
    // another request was faster.
    for (last, overtaken, expected) in [
        (Post::Hold, false, [9, 11]),
        (Post::Lose, false, [9, 11]),
        (Post::Lose, true, [7, 10]),
    ] {
        let late = Late::before(MemoryStore::new());
        let mut visit = accounts(SessionLayer::new(late.clone())).await;
        let tab = Visit {
            layer: SessionLayer::new(late.clone()),
            browser: visit.browser.clone(),
        };
        let page = visit
            .page(move |session| async move {
                session.insert("before", 1).unwrap();
                late.plan(&[Post::Lose, Post::Lose, last]);
                let error = session.transaction(|data| pay(data, "a", "b", 1)).await;
                assert!(matches!(
                    error,
                    Err(TransactionError::Session(SessionError::OutcomeUnknown))
                ));
                late.deliver_held().await;
                if overtaken {
                    meanwhile(&tab, 7).await;
                }
            })
            .await;
        assert_eq!(page.status, 200, "the outcome is known by then");
        assert_eq!(see(&mut visit).await, expected, "{last:?}");
        visit
            .request(|session| async move { assert!(session.contains_key("before")) })
            .await;
    }
}

#[tokio::test]
async fn after_the_response_a_transaction_runs_on_the_stored_values() {
    let mut visit = in_memory().await;
    let kept = visit.keep().await;
    meanwhile(&visit, 30).await;
    let left = kept.transaction(|data| pay(data, "a", "b", 20)).await;
    assert_eq!(left.unwrap(), 10, "the request has loaded a balance of ten");
    meanwhile(&visit, 1).await;
    let refused = kept.transaction(|data| pay(data, "a", "b", 2)).await;
    assert!(matches!(
        refused,
        Err(TransactionError::Aborted(Refusal::Short { by: 1 }))
    ));
    assert_eq!(see(&mut visit).await, [1, 30]);
    // It is too late to set a cookie for a session that is not stored.
    let new = Visit::in_memory().keep().await;
    let late = new.transaction(|data| data.insert("n", 1)).await;
    assert!(matches!(
        late,
        Err(TransactionError::Session(SessionError::ResponseSent))
    ));
}

#[tokio::test]
async fn a_transaction_of_a_new_visitor_creates_a_session_unless_it_aborts() {
    let mut visit = Visit::in_memory();
    let page = visit
        .page(|session| async move {
            let aborted = session
                .transaction(|data| {
                    data.insert("n", 1)?;
                    Err::<(), _>(Refusal::Short { by: 0 })
                })
                .await;
            assert!(matches!(aborted, Err(TransactionError::Aborted(_))));
        })
        .await;
    assert_eq!(page.set_cookies().len(), 0);
    visit
        .request(|session| async move {
            session
                .transaction(|data| data.insert("n", 1))
                .await
                .unwrap();
        })
        .await;
    visit
        .request(|session| async move { assert_eq!(session.keys(), ["n"]) })
        .await;
}

#[tokio::test]
async fn the_closure_of_a_transaction_may_use_the_session_and_panic() {
    let mut visit = in_memory().await;
    let page = visit
        .page(|session| async move {
            let inside = session.clone();
            let seen = session
                .transaction(move |data| {
                    data.discard("b");
                    Ok::<_, SessionError>(inside.keys().len())
                })
                .await;
            assert!(seen.unwrap() > 0);
            let panics = session.clone();
            let task = tokio::spawn(async move {
                let panics = panics.transaction(|_| -> Result<(), SessionError> { panic!("no") });
                panics.await.unwrap();
            });
            assert!(task.await.is_err());
            assert!(!session.is_modified());
        })
        .await;
    assert_eq!(page.status, 200);
    visit
        .request(|session| async move { assert_eq!(session.keys(), ["a"]) })
        .await;
}

#[tokio::test]
async fn values_in_a_transaction_have_the_usual_limits() {
    let config = SessionConfig::default().with_max_size(4096);
    let layer = SessionLayer::try_new(MemoryStore::new(), config).unwrap();
    let mut visit = accounts(layer).await;
    visit
        .request(|session| async move {
            let too_large = |expected: LimitedPart, error: SessionError| {
                let found =
                    matches!(&error, SessionError::TooLarge { part, .. } if *part == expected);
                assert!(found, "{error}");
            };
            let error = session
                .transaction(|data| data.insert("big", "x".repeat(5000)))
                .await
                .unwrap_err();
            too_large(LimitedPart::Value, error.into());
            let error = session
                .transaction(|data| data.insert("x".repeat(2000).as_str(), 1))
                .await
                .unwrap_err();
            too_large(LimitedPart::Key, error.into());
            let error = session
                .transaction(|data| {
                    data.insert("one", "x".repeat(3000))?;
                    data.push("two", "x".repeat(3000))
                })
                .await
                .unwrap_err();
            too_large(LimitedPart::Session, error.into());
            let error = session
                .transaction(|data| data.get::<String>("a"))
                .await
                .unwrap_err();
            assert!(matches!(error.into(), SessionError::Decode { .. }));
            assert_eq!(balance(&session), [10, 10]);
        })
        .await;
}

#[tokio::test]
async fn data_is_a_map_of_values() {
    let mut visit = in_memory().await;
    visit
        .request(|session| async move {
            let check = session.transaction(|data| {
                assert_eq!(format!("{data:?}"), r#"{"a", "b"}"#);
                assert_eq!(data.keys().collect::<Vec<_>>(), ["a", "b"]);
                assert_eq!(data.remove::<i64>("a")?, Some(10));
                assert!(!data.contains_key("a"));
                data.push("list", "x")?;
                assert_eq!(data.get::<Vec<String>>("list")?.unwrap(), ["x"]);
                data.clear();
                data.insert("c", 1)
            });
            check.await.unwrap();
            assert_eq!(session.keys(), ["c"]);
        })
        .await;
}
