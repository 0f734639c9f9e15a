//! Redis dies, hangs, and says no.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sessile::{RedisConfig, RedisStore, SessionLayer};

use crate::support::app::app;
use crate::support::proxy::Fault;
use crate::support::server::free_port;
use crate::support::{Browser, Proxy, Server, store_with};

const BUDGET: Duration = Duration::from_secs(1);

async fn browsers(app: &axum::Router, count: usize) -> Vec<Browser> {
    let mut browsers = vec![Browser::default(); count];
    for browser in &mut browsers {
        browser.get(app, "/set?k=name&v=mia").await.ok();
    }
    browsers
}

/// Every browser asks at once; all must get 503 within the budget, and keep their cookies.
async fn all_turned_away(app: &axum::Router, browsers: &[Browser], path: &str) {
    let began = Instant::now();
    let pages = join_all(browsers.iter().map(|browser| browser.peek(app, path))).await;
    let took = began.elapsed();
    for page in pages {
        assert_eq!(page.status, 503, "{path}");
        assert_eq!(
            page.set_cookies(),
            Vec::<&str>::new(),
            "an outage logs nobody out"
        );
        assert!(page.headers.contains_key("retry-after"));
        assert!(
            !page.text.contains("127.0.0.1") && !page.text.contains("Redis"),
            "{}",
            page.text
        );
    }
    assert!(took < BUDGET + Duration::from_millis(500), "{took:?}");
}

#[tokio::test]
async fn a_killed_server_logs_nobody_out() {
    let mut server = Server::start_durable();
    let app = app(SessionLayer::new(store_with(&server.url(), |_| ()).await));
    let mut visitors = browsers(&app, 100).await;
    server.kill();
    all_turned_away(&app, &visitors, "/read").await;
    all_turned_away(&app, &visitors, "/incr?k=n").await;
    // Who carries no session is served all the same.
    assert_eq!(Browser::default().get(&app, "/plain").await.ok(), "plain");

    server.restart();
    let back = Instant::now();
    while visitors[0].get(&app, "/read").await.status != 200 {
        assert!(
            back.elapsed() < Duration::from_secs(1),
            "not back within a second"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for visitor in &mut visitors {
        assert_eq!(visitor.get(&app, "/read").await.ok(), "name");
        assert_eq!(visitor.get(&app, "/incr?k=n").await.ok(), "1");
    }
}

#[tokio::test]
async fn a_restart_between_two_requests_is_not_noticed() {
    let mut server = Server::start_durable();
    let app = app(SessionLayer::new(store_with(&server.url(), |_| ()).await));
    let mut visitor = browsers(&app, 1).await.remove(0);
    for round in 1..=5 {
        server.restart();
        assert_eq!(visitor.get(&app, "/incr?k=n").await.ok(), round.to_string());
    }
    // A first write has no load before it that would find the dead connections.
    server.restart();
    Browser::default().get(&app, "/set?k=name&v=noa").await.ok();
}

#[tokio::test]
async fn a_frozen_server_holds_nobody_longer_than_the_budget() {
    let server = Server::start();
    let app = app(SessionLayer::new(store_with(&server.url(), |_| ()).await));
    let mut visitors = browsers(&app, 50).await;
    server.freeze();
    all_turned_away(&app, &visitors, "/read").await;
    all_turned_away(&app, &visitors, "/read").await;
    let first_write = Browser::default().get(&app, "/set?k=name&v=noa").await;
    assert_eq!(
        (first_write.status.as_u16(), first_write.set_cookies().len()),
        (503, 0)
    );
    server.thaw();
    let back = Instant::now();
    while visitors[0].get(&app, "/read").await.status != 200 {
        assert!(back.elapsed() < Duration::from_secs(2), "not back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for visitor in &mut visitors {
        assert_eq!(visitor.get(&app, "/read").await.ok(), "name");
    }
}

#[tokio::test]
async fn a_server_that_freezes_between_load_and_commit_is_503() {
    let server = Server::start();
    let app = app(SessionLayer::new(store_with(&server.url(), |_| ()).await));
    let visitor = browsers(&app, 1).await.remove(0);
    let began = Instant::now();
    let slow = visitor.peek(&app, "/slow?ms=200&k=late");
    let freeze = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.freeze();
    };
    let (page, ()) = tokio::join!(slow, freeze);
    assert_eq!((page.status.as_u16(), page.set_cookies().len()), (503, 0));
    let took = began.elapsed();
    assert!(
        took < Duration::from_millis(200) + BUDGET + Duration::from_millis(300),
        "{took:?}"
    );
    server.thaw();
}

#[tokio::test]
async fn a_logout_that_fails_is_loud_and_is_done_later() {
    let mut server = Server::start_durable();
    let store = store_with(&server.url(), |_| ()).await;
    let app = app(SessionLayer::new(store));
    let mut visitor = browsers(&app, 1).await.remove(0);
    let stolen = visitor.clone();
    let slow = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.kill();
        server
    };
    // Loaded while the server was there, and destroyed when it is not.
    let slow_app = app.clone();
    let logout = async { visitor.get(&slow_app, "/slow-logout?ms=400").await };
    let (mut server, page) = tokio::join!(slow, logout);
    assert_eq!(page.status, 503);
    assert_eq!(
        visitor.cookie, None,
        "the cookie is taken away all the same"
    );
    server.restart();
    let back = Instant::now();
    loop {
        let page = stolen.peek(&app, "/read").await;
        if page.status == 200 && page.text.is_empty() {
            break;
        }
        assert!(
            back.elapsed() < Duration::from_secs(10),
            "the session is still there"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_full_server_still_reads_and_logs_out() {
    let server = Server::start();
    let app = app(SessionLayer::new(store_with(&server.url(), |_| ()).await));
    let mut visitor = browsers(&app, 1).await.remove(0);
    let set = |name: &str, value: &str| {
        let set: () = redis::cmd("CONFIG")
            .arg("SET")
            .arg(name)
            .arg(value)
            .query(&mut server.connection())
            .unwrap();
        set
    };
    set("maxmemory", "1mb");
    assert_eq!(visitor.get(&app, "/read").await.ok(), "name");
    let page = visitor.get(&app, "/incr?k=n").await;
    assert_eq!(page.status, 503);
    assert!(
        page.headers.contains_key("retry-after"),
        "nothing was written, so it may be repeated"
    );
    assert_eq!(Browser::default().get(&app, "/incr?k=n").await.status, 503);
    visitor.get(&app, "/logout").await.ok();
    set("maxmemory", "0");
    Browser::default().get(&app, "/incr?k=n").await.ok();
}

#[tokio::test]
async fn a_demoted_primary_is_left_and_found_again() {
    let server = Server::start();
    let store = store_with(&server.url(), |_| ()).await;
    let app = app(SessionLayer::new(store.clone()));
    let mut visitor = browsers(&app, 1).await.remove(0);
    let replica_of = |host: &str, port: &str| {
        let done: () = redis::cmd("REPLICAOF")
            .arg(host)
            .arg(port)
            .query(&mut server.connection())
            .unwrap();
        done
    };
    replica_of("127.0.0.1", &free_port().to_string());
    assert_eq!(visitor.get(&app, "/read").await.ok(), "name");
    assert_eq!(visitor.get(&app, "/incr?k=n").await.status, 503);
    // All connections are made anew, so that the address may lead to the new primary.
    for _ in 0..4 {
        visitor.get(&app, "/read").await.ok();
    }
    assert!(store.pool().broken >= 4, "{:?}", store.pool());
    replica_of("NO", "ONE");
    assert_eq!(visitor.get(&app, "/incr?k=n").await.ok(), "1");
}

#[tokio::test]
async fn one_silent_connection_is_not_noticed_by_a_read() {
    let server = Server::start();
    let proxy = Proxy::before(server.address()).await;
    let store = store_with(&proxy.url(), |config| {
        config.pool_size = 2;
        config.command_timeout = Duration::from_millis(100);
    })
    .await;
    let app = app(SessionLayer::new(store));
    let mut visitor = browsers(&app, 1).await.remove(0);
    proxy.inject("PTTL", Fault::SwallowAnswer, 1);
    assert_eq!(visitor.get(&app, "/read").await.ok(), "name");
    assert_eq!(proxy.faults_left(), 0);
}

#[tokio::test]
async fn a_slow_network_is_waited_for_and_one_too_slow_is_not() {
    let server = Server::start();
    let proxy = Proxy::before(server.address()).await;
    let app = app(SessionLayer::new(store_with(&proxy.url(), |_| ()).await));
    let mut visitor = browsers(&app, 1).await.remove(0);
    proxy.delay(Duration::from_millis(200));
    assert_eq!(visitor.get(&app, "/incr?k=n").await.ok(), "1");
    proxy.delay(Duration::from_millis(700));
    all_turned_away(&app, &[visitor], "/read").await;
}

#[tokio::test]
async fn an_application_may_start_before_redis_does() {
    let mut server = Server::start();
    server.kill();
    let store = RedisStore::lazy(RedisConfig::new(server.url())).unwrap();
    let app = app(SessionLayer::new(store));
    assert_eq!(Browser::default().get(&app, "/plain").await.ok(), "plain");
    assert_eq!(Browser::default().get(&app, "/incr?k=n").await.status, 503);
    server.restart();
    let back = Instant::now();
    while Browser::default().get(&app, "/incr?k=n").await.status != 200 {
        assert!(back.elapsed() < Duration::from_secs(2), "not there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
