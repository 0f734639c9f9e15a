//! Redis dies, hangs, and says no.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sessile::{OnStoreError, RedisConfig, RedisStore, SessionLayer};

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
async fn pages_for_anybody_are_served_without_the_store_and_write_nothing() {
    let server = Server::start_durable();
    let store = store_with(&server.url(), |_| ()).await;
    let layer = SessionLayer::new(store).with_on_store_error(OnStoreError::Anonymous);
    let app = app(layer);
    let mut visitor = browsers(&app, 1).await.remove(0);
    let cookie = visitor.cookie.clone();
    server.freeze();
    for path in ["/read", "/whoami", "/flashes"] {
        assert_eq!(visitor.get(&app, path).await.ok(), "", "{path}");
    }
    for path in [
        "/set?k=name&v=noa",
        "/login?u=mia",
        "/cycle",
        "/logout",
        "/logout-and-say",
    ] {
        let page = visitor.get(&app, path).await;
        assert_eq!(
            (page.status.as_u16(), page.set_cookies().len()),
            (503, 0),
            "{path}"
        );
        assert!(page.headers.contains_key("retry-after"), "{path}");
    }
    assert_eq!(visitor.cookie, cookie);
    server.thaw();
    wait_until_back(&app, &visitor).await;
    assert_eq!(visitor.get(&app, "/read").await.ok(), "name");
}

async fn wait_until_back(app: &axum::Router, visitor: &Browser) {
    let back = Instant::now();
    while visitor.peek(app, "/number?k=n").await.status != 200 {
        assert!(back.elapsed() < Duration::from_secs(2), "not back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// 200 requests a second before a server that hangs: `SESSILE_TEST_FREEZE=10` for ten seconds of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_left_alone_until_it_answers_again() {
    const PAUSE: Duration = Duration::from_millis(5);
    let frozen = std::env::var("SESSILE_TEST_FREEZE");
    let frozen = Duration::from_secs(frozen.map_or(3, |secs| secs.parse().expect("seconds")));
    let server = Server::start();
    let app = app(SessionLayer::new(store_with(&server.url(), |_| ()).await));
    let visitor = browsers(&app, 1).await.remove(0);
    let under_way = Arc::new(AtomicUsize::new(0));
    let (quiet, after) = (Duration::from_millis(500), Duration::from_millis(1500));
    let memory = resident();
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    let (mut most, mut froze, mut thawed) = (0, None, None);
    let mut beat = tokio::time::interval(PAUSE);
    while began.elapsed() < quiet + frozen + after {
        beat.tick().await;
        if froze.is_none() && began.elapsed() >= quiet {
            server.freeze();
            froze = Some(Instant::now());
        }
        if thawed.is_none() && began.elapsed() >= quiet + frozen {
            server.thaw();
            thawed = Some(Instant::now());
        }
        let (app, visitor, gauge) = (app.clone(), visitor.clone(), Arc::clone(&under_way));
        most = most.max(under_way.fetch_add(1, Ordering::SeqCst));
        tasks.spawn(async move {
            let asked = Instant::now();
            let page = visitor.peek(&app, "/incr?k=n").await;
            gauge.fetch_sub(1, Ordering::SeqCst);
            (asked, asked.elapsed(), page.status.as_u16())
        });
    }
    let answers = tasks.join_all().await;
    let (froze, thawed) = (froze.unwrap(), thawed.unwrap());
    let mut took: Vec<_> = answers.iter().map(|(_, took, _)| *took).collect();
    took.sort_unstable();
    let p99 = took[took.len() * 99 / 100];
    let open = froze + Duration::from_millis(1200)..thawed;
    let mut while_open: Vec<_> = answers
        .iter()
        .filter(|(asked, ..)| open.contains(asked))
        .map(|(_, took, _)| *took)
        .collect();
    while_open.sort_unstable();
    let median = while_open[while_open.len() / 2];
    let good = answers
        .iter()
        .filter(|(asked, _, status)| *status == 200 && *asked > thawed);
    let back = good.map(|(asked, ..)| *asked).min().expect("it is back") - thawed;
    println!(
        "{} requests, {frozen:?} frozen: p99 {p99:?}, median while open {median:?}, {most} under way at most, back after \
         {back:?}, resident {memory} -> {} KiB",
        answers.len(),
        resident()
    );
    assert!(p99 <= BUDGET + BUDGET / 4, "{p99:?}");
    assert!(median < Duration::from_millis(100), "{median:?}");
    assert!(most < 350, "{most} requests waited at once");
    assert!(back < Duration::from_secs(1), "{back:?}");
    let counted: usize = visitor
        .peek(&app, "/number?k=n")
        .await
        .ok()
        .parse()
        .unwrap();
    let told = |wanted: u16| {
        answers
            .iter()
            .filter(|(.., status)| *status == wanted)
            .count()
    };
    assert!(
        (told(200)..=told(200) + told(503)).contains(&counted),
        "{counted}"
    );
}

/// Memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
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
