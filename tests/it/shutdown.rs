//! A node that is asked to end finishes what it has begun.

use std::future::Future;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::StatusCode;

use crate::support::node::Answer;
use crate::support::{Node, Proxy, Server, fresh_prefix};

/// What a node may take to end that has nothing left to do, on a busy machine.
const SOON: Duration = Duration::from_secs(1);

/// The budget of a request for the store.
const BUDGET: Duration = Duration::from_secs(1);

async fn visitors(node: &Node, count: usize) -> Vec<String> {
    let visits = (0..count).map(|_| async { node.get("/set?k=name&v=mia", None).await.cookie });
    let cookies = join_all(visits).await.into_iter();
    cookies.map(|cookie| cookie.expect("a cookie")).collect()
}

/// Asks the node to end while it is at work; returns what was answered, and how long the end took.
async fn terminated_during(
    node: &Node,
    work: impl Future<Output = Vec<Answer>>,
    after: Duration,
) -> (Vec<Answer>, Duration) {
    let end = async {
        tokio::time::sleep(after).await;
        node.terminate();
        let asked = Instant::now();
        let status = node.end().await;
        assert!(status.success(), "{status}");
        asked.elapsed()
    };
    tokio::join!(work, end)
}

#[tokio::test]
async fn requests_under_way_are_answered_and_what_they_changed_is_there() {
    let (server, prefix) = (Server::start(), fresh_prefix());
    let node = Node::start(&server.url(), &prefix);
    let cookies = visitors(&node, 20).await;
    let work = join_all(cookies.iter().enumerate().map(|(number, cookie)| {
        // Some of them log out.
        let path = match number % 5 {
            0 => "/slow-logout?ms=700",
            _ => "/slow?ms=700&k=late",
        };
        node.get(path, Some(cookie))
    }));
    let (answers, took) = terminated_during(&node, work, Duration::from_millis(300)).await;
    for answer in answers {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }
    assert!(took > Duration::from_millis(200), "{took:?}");
    assert!(took < Duration::from_millis(400) + SOON, "{took:?}");

    let other = Node::start(&server.url(), &prefix);
    for (number, cookie) in cookies.iter().enumerate() {
        let keys = other.get("/read", Some(cookie)).await.text;
        let kept = if number % 5 == 0 { "" } else { "late,name" };
        assert_eq!(keys, kept, "visitor {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_are_on_their_way_arrive_and_are_answered() {
    let (server, prefix) = (Server::start(), fresh_prefix());
    let line = Proxy::before(server.address()).await;
    // Waits for the node, which connects through the line.
    let node = tokio::task::block_in_place(|| Node::start(&line.url(), &prefix));
    let cookies = visitors(&node, 10).await;
    line.delay(Duration::from_millis(120));
    // Four requests of each session, and ten first visits. The line takes 120 ms for a load and again for a commit, and
    // longer for what finds it busy: in between, some commits are on their way and others have not been sent.
    let work = join_all((0..50).map(|number| {
        let cookie = cookies.get(number % 10).filter(|_| number < 40);
        node.get("/incr?k=n", cookie.map(String::as_str))
    }));
    let (answers, took) = terminated_during(&node, work, Duration::from_millis(180)).await;
    assert!(took < BUDGET + SOON, "{took:?}");

    // A busy machine makes the line slower than a command may take; then it may have been done.
    let (done, unknown): (Vec<_>, Vec<_>) = (0..50).partition(|number: &usize| {
        let answer = &answers[*number];
        assert!(
            [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].contains(&answer.status),
            "{}",
            answer.text
        );
        answer.status == StatusCode::OK
    });
    assert!(done.len() >= 25, "only {done:?} are done");
    let other = Node::start(&server.url(), &prefix);
    for (visitor, cookie) in cookies.iter().enumerate() {
        let of_visitor = |numbers: &[usize]| {
            let numbers = numbers.iter().filter(|number| **number < 40);
            numbers.filter(|number| **number % 10 == visitor).count()
        };
        let least = of_visitor(&done);
        let count = other.get("/number?k=n", Some(cookie)).await.text;
        let count: usize = count.parse().unwrap();
        assert!(
            (least..=least + of_visitor(&unknown)).contains(&count),
            "visitor {visitor}: {count}, and {least} were told"
        );
    }
    for first in done.iter().filter(|number| **number >= 40) {
        let cookie = answers[*first].cookie.as_deref().expect("a cookie");
        assert_eq!(other.get("/number?k=n", Some(cookie)).await.text, "1");
    }
}

#[tokio::test]
async fn a_store_that_hangs_holds_the_end_up_for_the_budget_only() {
    let (server, prefix) = (Server::start(), fresh_prefix());
    let node = Node::start(&server.url(), &prefix);
    let cookies = visitors(&node, 10).await;
    let work = join_all(
        cookies
            .iter()
            .map(|cookie| node.get("/slow?ms=200&k=late", Some(cookie))),
    );
    let freeze = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.freeze();
    };
    let ending = terminated_during(&node, work, Duration::from_millis(150));
    let ((answers, took), ()) = tokio::join!(ending, freeze);
    for answer in answers {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert!(took < BUDGET + SOON, "{took:?}");
    server.thaw();
}

#[tokio::test]
async fn who_comes_after_the_end_has_begun_is_turned_away_and_idle_connections_hold_nothing_up() {
    let (server, prefix) = (Server::start(), fresh_prefix());
    let node = Node::start(&server.url(), &prefix);
    // The client keeps the connections of these.
    visitors(&node, 10).await;
    let (_, took) = terminated_during(&node, async { Vec::new() }, Duration::ZERO).await;
    assert!(took < SOON, "{took:?}");
    let refused = reqwest::get(format!("{}/plain", node.base())).await;
    assert!(refused.unwrap_err().is_connect());
}
