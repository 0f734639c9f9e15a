//! Shutdown: on SIGTERM, a node finishes the requests in flight.

use std::future::Future;

use futures_util::future::join_all;
use reqwest::StatusCode;

use crate::support::node::Answer;
use crate::support::{Gate, Node, Proxy, Server, fresh_prefix};

async fn visitors(node: &Node, count: usize) -> Vec<String> {
    let visits = (0..count).map(|_| async { node.get("/set?k=name&v=mia", None).await.cookie });
    let cookies = join_all(visits).await.into_iter();
    cookies.map(|cookie| cookie.expect("a cookie")).collect()
}

/// Sends SIGTERM once the work is in flight, lets the work continue, and waits for both.
async fn terminated_during(
    node: &Node,
    work: impl Future<Output = Vec<Answer>>,
    at_work: impl Future<Output = ()>,
    go_on: impl FnOnce(),
) -> Vec<Answer> {
    let end = async {
        at_work.await;
        node.terminate();
        go_on();
        let status = node.end().await;
        assert!(status.success(), "{status}");
    };
    tokio::join!(work, end).0
}

#[tokio::test]
async fn requests_in_flight_are_answered_and_their_changes_are_stored() {
    let (server, prefix) = (Server::start(), fresh_prefix());
    let node = Node::start(&server.url(), &prefix);
    let cookies = visitors(&node, 20).await;
    let gate = Gate::new();
    let work = join_all(cookies.iter().enumerate().map(|(number, cookie)| {
        // Some of the requests log out.
        let path = match number % 5 {
            0 => format!("/slow-logout?{}", gate.query()),
            _ => format!("/slow?k=late&{}", gate.query()),
        };
        let node = &node;
        async move { node.get(&path, Some(cookie)).await }
    }));
    let answers = terminated_during(&node, work, gate.arrived(20), || gate.open()).await;
    for answer in answers {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }

    let other = Node::start(&server.url(), &prefix);
    for (number, cookie) in cookies.iter().enumerate() {
        let keys = other.get("/read", Some(cookie)).await.text;
        let kept = if number % 5 == 0 { "" } else { "late,name" };
        assert_eq!(keys, kept, "visitor {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_in_flight_arrive_and_are_answered() {
    let (server, prefix) = (Server::start(), fresh_prefix());
    let line = Proxy::before(server.address()).await;
    // Blocks until the node is up, which connects through the proxy.
    let node = tokio::task::block_in_place(|| Node::start(&line.url(), &prefix));
    let cookies = visitors(&node, 10).await;
    // Four requests of each session, and ten first visits, wait at a gate just before their commits. The proxy holds
    // the first commit. Behind it, some commits are in flight, and others have not been sent.
    let gate = Gate::new();
    let path = format!("/two-keys?{}", gate.query());
    let work = join_all((0..50).map(|number| {
        let cookie = cookies.get(number % 10).filter(|_| number < 40);
        node.get(&path, cookie.map(String::as_str))
    }));
    let commit = line.hold_commit();
    let at_work = async {
        gate.arrived(50).await;
        gate.open();
        commit.arrived().await;
    };
    let answers = terminated_during(&node, work, at_work, || commit.release()).await;
    for answer in &answers {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }
    let other = Node::start(&server.url(), &prefix);
    let first_visits = answers[40..].iter().map(|answer| answer.cookie.clone());
    let first_visits = first_visits.map(|cookie| (cookie.expect("a cookie"), "1"));
    let visitors = cookies.into_iter().map(|cookie| (cookie, "4"));
    for (cookie, count) in visitors.chain(first_visits) {
        assert_eq!(
            other.get("/number?k=second", Some(&cookie)).await.text,
            count
        );
    }
}

#[tokio::test]
async fn a_hanging_store_delays_shutdown_by_at_most_the_budget() {
    let (server, prefix) = (Server::start(), fresh_prefix());
    let node = Node::start_hurried(&server.url(), &prefix);
    let cookies = visitors(&node, 10).await;
    let gate = Gate::new();
    let path = format!("/slow?k=late&{}", gate.query());
    let work = join_all(cookies.iter().map(|cookie| node.get(&path, Some(cookie))));
    let at_work = async {
        gate.arrived(10).await;
        server.freeze();
    };
    // The node exits although the server stays frozen.
    let answers = terminated_during(&node, work, at_work, || gate.open()).await;
    for answer in answers {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    server.thaw();
}

#[tokio::test]
async fn shutdown_refuses_new_requests_and_does_not_wait_for_idle_connections() {
    let (server, prefix) = (Server::start(), fresh_prefix());
    let node = Node::start(&server.url(), &prefix);
    // The client keeps the connections of these requests open.
    visitors(&node, 10).await;
    let no_work = async { Vec::new() };
    terminated_during(&node, no_work, async {}, || ()).await;
    let refused = reqwest::get(format!("{}/plain", node.base())).await;
    assert!(refused.unwrap_err().is_connect());
}
