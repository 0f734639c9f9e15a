//! The cost of a request: commands counted by Redis, and round trips counted by a proxy.

use std::time::Instant;

use sessile::store::{Freshness, Loaded};
use sessile::{CompareAndSet, Handle, SessionLayer, SessionStore as _};

use crate::support::app::app;
use crate::support::server::Counts;
use crate::support::{Browser, Proxy, Server, store_with};

const REQUESTS: u64 = 1000;

struct Bench {
    server: Server,
    proxy: Proxy,
    app: axum::Router,
}

impl Bench {
    async fn new() -> Self {
        let server = Server::start();
        let proxy = Proxy::before(server.address()).await;
        let store = store_with(&proxy.url(), |config| {
            config.pool_size = 1;
            config.compare_and_set = CompareAndSet::Script;
        })
        .await;
        Self {
            server,
            proxy,
            app: app(SessionLayer::new(store)),
        }
    }

    /// The commands and the round trips of 1000 sequential requests.
    async fn measure(&self, path: &str, browsers: impl Fn(u64) -> Browser) -> (Counts, u64) {
        self.server.reset_counts();
        let before = self.proxy.round_trips();
        for number in 0..REQUESTS {
            browsers(number).get(&self.app, path).await.ok();
        }
        (self.server.counts(), self.proxy.round_trips() - before)
    }

    /// The same for requests that load a session. Its time to live is read at first, and again after a 32nd of it, which is
    /// 56 seconds; and once more if the first was sent in the millisecond in which the connection was opened.
    async fn measure_loads(&self, path: &str, visitor: &Browser) -> (Counts, u64) {
        let began = Instant::now();
        let (mut counts, round_trips) = self.measure(path, |_| visitor.clone()).await;
        let asked = counts.take("pttl");
        let most = 2 + began.elapsed().as_secs() / 56;
        assert!((1..=most).contains(&asked), "{asked} of {most}");
        (counts, round_trips)
    }

    async fn visitor(&self) -> Browser {
        let mut browser = Browser::default();
        browser.get(&self.app, "/set?k=name&v=mia").await.ok();
        browser
    }
}

#[tokio::test]
async fn a_request_without_a_cookie_sends_no_command() {
    let bench = Bench::new().await;
    for path in ["/plain", "/read"] {
        let (counts, round_trips) = bench.measure(path, |_| Browser::default()).await;
        assert_eq!((counts.seen(), round_trips), (vec![], 0), "{path}");
    }
}

#[tokio::test]
async fn a_request_with_a_malformed_cookie_sends_no_command() {
    let bench = Bench::new().await;
    let garbage = |number| Browser {
        cookie: Some(format!("__Host-id=garbage-{number}")),
    };
    let (counts, round_trips) = bench.measure("/read", garbage).await;
    assert_eq!((counts.seen(), round_trips), (vec![], 0));
}

#[tokio::test]
async fn a_read_is_one_get_in_one_round_trip_and_seldom_a_pttl() {
    let bench = Bench::new().await;
    let visitor = bench.visitor().await;
    let (counts, round_trips) = bench.measure_loads("/read", &visitor).await;
    assert_eq!(counts.seen(), [("get", REQUESTS)]);
    assert_eq!(round_trips, REQUESTS);
}

#[tokio::test]
async fn an_equal_value_is_not_written() {
    let bench = Bench::new().await;
    let visitor = bench.visitor().await;
    let (counts, _) = bench.measure_loads("/set?k=name&v=mia", &visitor).await;
    assert_eq!(counts.seen(), [("get", REQUESTS)]);
}

#[tokio::test]
async fn a_change_adds_one_script() {
    let bench = Bench::new().await;
    let visitor = bench.visitor().await;
    let (counts, round_trips) = bench.measure_loads("/incr?k=n", &visitor).await;
    assert_eq!(
        counts.seen(),
        [
            ("evalsha", REQUESTS),
            ("get", REQUESTS),
            ("getrange", REQUESTS),
            ("set", REQUESTS)
        ]
    );
    assert_eq!(round_trips, 2 * REQUESTS);
}

#[tokio::test]
async fn the_first_write_of_a_visitor_is_one_set() {
    let bench = Bench::new().await;
    let (counts, round_trips) = bench
        .measure("/set?k=name&v=mia", |_| Browser::default())
        .await;
    assert_eq!(counts.seen(), [("set", REQUESTS)]);
    assert_eq!(round_trips, REQUESTS);
}

#[tokio::test]
async fn a_logout_is_one_unlink() {
    let bench = Bench::new().await;
    let mut visitor = bench.visitor().await;
    bench.server.reset_counts();
    visitor.get(&bench.app, "/logout").await.ok();
    assert_eq!(
        bench.server.counts().seen(),
        [("get", 1), ("pttl", 1), ("unlink", 1)]
    );
}

#[tokio::test]
async fn a_script_that_the_server_forgot_is_sent_again() {
    let bench = Bench::new().await;
    let mut visitor = bench.visitor().await;
    let flushed: () = redis::cmd("SCRIPT")
        .arg("FLUSH")
        .query(&mut bench.server.connection())
        .unwrap();
    assert_eq!(flushed, ());
    bench.server.reset_counts();
    assert_eq!(visitor.get(&bench.app, "/incr?k=n").await.ok(), "1");
    assert_eq!(visitor.get(&bench.app, "/incr?k=n").await.ok(), "2");
    let counts = bench.server.counts();
    assert_eq!((counts.of("evalsha"), counts.of("eval")), (2, 1));
}

#[tokio::test]
async fn requests_of_one_process_conflict_at_most_once() {
    let bench = Bench::new().await;
    let visitor = bench.visitor().await;
    bench.server.reset_counts();
    let pages = (0..50).map(|_| visitor.peek(&bench.app, "/incr?k=n"));
    for page in futures_util::future::join_all(pages).await {
        page.ok();
    }
    assert_eq!(visitor.peek(&bench.app, "/number?k=n").await.ok(), "50");
    // All are loaded before the first commit, so each meets one conflict and no second one.
    let sent = bench.server.counts().of("evalsha");
    assert!(sent <= 100, "{sent} compare-and-sets for 50 requests");
}

/// One worker runs the tasks one after the other, so that the socket would be written after each of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn commands_of_concurrent_requests_travel_in_few_packets() {
    let server = Server::start();
    let store = store_with(&server.url(), |_| ()).await;
    let reads = || {
        let info: String = redis::cmd("INFO")
            .arg("stats")
            .query(&mut server.connection())
            .unwrap();
        let reads = info
            .lines()
            .find_map(|line| line.strip_prefix("total_reads_processed:"));
        reads.unwrap().trim().parse::<u64>().unwrap()
    };
    let cost_of_a_measurement = {
        let before = reads();
        reads() - before
    };
    let before = reads();
    let all = async move {
        let loads = (0..REQUESTS / 10).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.load(&Handle::random(), Freshness::Recent).await })
        });
        for load in loads.collect::<Vec<_>>() {
            assert_eq!(load.await.unwrap().unwrap(), Loaded::Missing);
        }
    };
    tokio::spawn(all).await.unwrap();
    let packets = reads() - before - cost_of_a_measurement;
    assert!((1..=10).contains(&packets), "{packets}");
}
