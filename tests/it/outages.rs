//! Outages: Redis that dies, hangs or rejects writes.

use std::time::{Duration, Instant};

use axum::Router;
use futures_util::future::join_all;
use sessile::{OnStoreError, RedisConfig, RedisStore, SessionLayer};

use crate::support::app::app;
use crate::support::patience::by_default;
use crate::support::proxy::Fault;
use crate::support::server::free_port;
use crate::support::{Browser, Gate, PATIENCE, Proxy, Server, fresh_prefix, store_with, until};

/// One server and two applications with the same sessions: `app` has the default timeouts, and `calm` has long ones, to
/// read the store on a busy machine.
struct Site {
    server: Server,
    store: RedisStore,
    app: Router,
    calm: Router,
}

impl Site {
    async fn on(server: Server) -> Self {
        let prefix = fresh_prefix();
        let store = store_with(&server.url(), |config| {
            config.key_prefix.clone_from(&prefix);
            by_default(config);
        })
        .await;
        let calm = store_with(&server.url(), |config| config.key_prefix = prefix).await;
        Self {
            server,
            app: app(SessionLayer::new(store.clone())),
            store,
            calm: app(SessionLayer::new(calm)),
        }
    }

    async fn browsers(&self, count: usize) -> Vec<Browser> {
        browsers(&self.calm, count).await
    }

    async fn is_back(&self, visitor: &Browser) {
        is_back(&self.app, visitor).await;
    }
}

async fn is_back(app: &Router, visitor: &Browser) {
    until("the store is back", async || {
        visitor.peek(app, "/number?k=n").await.status == 200
    })
    .await;
}

async fn browsers(app: &Router, count: usize) -> Vec<Browser> {
    let mut browsers = vec![Browser::default(); count];
    for browser in &mut browsers {
        browser.get(app, "/set?k=name&v=mia").await.ok();
    }
    browsers
}

/// Sends a request of every browser at once. All must get 503, and keep their cookies.
async fn assert_all_get_503(app: &Router, browsers: &[Browser], path: &str) {
    let pages = join_all(browsers.iter().map(|browser| browser.peek(app, path))).await;
    for page in pages {
        assert_eq!(page.status, 503, "{path}");
        assert_eq!(
            page.set_cookies(),
            Vec::<&str>::new(),
            "an outage signs nobody out"
        );
        assert!(page.headers.contains_key("retry-after"));
        assert!(
            !page.text.contains("127.0.0.1") && !page.text.contains("Redis"),
            "{}",
            page.text
        );
    }
}

#[tokio::test]
async fn a_killed_server_signs_nobody_out() {
    let mut site = Site::on(Server::start_durable()).await;
    let mut visitors = site.browsers(100).await;
    site.server.kill();
    assert_all_get_503(&site.app, &visitors, "/read").await;
    assert_all_get_503(&site.app, &visitors, "/incr?k=n").await;
    // A request without a session succeeds.
    assert_eq!(
        Browser::default().get(&site.app, "/plain").await.ok(),
        "plain"
    );

    site.server.restart();
    site.is_back(&visitors[0]).await;
    for visitor in &mut visitors {
        assert_eq!(visitor.get(&site.calm, "/read").await.ok(), "name");
        assert_eq!(visitor.get(&site.calm, "/incr?k=n").await.ok(), "1");
    }
}

#[tokio::test]
async fn a_restart_between_two_requests_causes_no_error() {
    let mut server = Server::start_durable();
    let app = app(SessionLayer::new(store_with(&server.url(), |_| ()).await));
    let mut visitor = browsers(&app, 1).await.remove(0);
    for round in 1..=5 {
        server.restart();
        assert_eq!(visitor.get(&app, "/incr?k=n").await.ok(), round.to_string());
    }
    // A first write has no load before it that would notice the dead connections.
    server.restart();
    Browser::default().get(&app, "/set?k=name&v=noa").await.ok();
}

/// An application with a long budget works meanwhile: its requests wait until the server continues, and succeed.
#[tokio::test]
async fn a_frozen_server_delays_no_request_beyond_its_budget() {
    let site = Site::on(Server::start()).await;
    let visitors = site.browsers(50).await;
    site.server.freeze();
    let (patient, calm) = (visitors[0].clone(), site.calm.clone());
    let patient = tokio::spawn(async move { patient.peek(&calm, "/read").await });
    assert_all_get_503(&site.app, &visitors, "/read").await;
    assert_all_get_503(&site.app, &visitors, "/read").await;
    let first_write = Browser::default().get(&site.app, "/set?k=name&v=noa").await;
    assert_eq!(
        (first_write.status.as_u16(), first_write.set_cookies().len()),
        (503, 0)
    );
    assert!(!patient.is_finished());
    site.server.thaw();
    assert_eq!(patient.await.unwrap().ok(), "name");
    site.is_back(&visitors[0]).await;
    for visitor in &visitors {
        assert_eq!(visitor.peek(&site.calm, "/read").await.ok(), "name");
    }
}

#[tokio::test]
async fn anonymous_pages_are_served_during_an_outage_and_write_nothing() {
    let site = Site::on(Server::start_durable()).await;
    let layer = SessionLayer::new(site.store.clone()).with_on_store_error(OnStoreError::Anonymous);
    let app = app(layer);
    let mut visitor = site.browsers(1).await.remove(0);
    let cookie = visitor.cookie.clone();
    site.server.freeze();
    for path in ["/read", "/whoami", "/flashes"] {
        assert_eq!(visitor.get(&app, path).await.ok(), "", "{path}");
    }
    for path in ["/set?k=name&v=noa", "/login?u=mia", "/cycle"] {
        let page = visitor.get(&app, path).await;
        assert_eq!(
            (page.status.as_u16(), page.set_cookies().len()),
            (503, 0),
            "{path}"
        );
        assert!(page.headers.contains_key("retry-after"), "{path}");
    }
    assert_eq!(visitor.cookie, cookie);
    site.server.thaw();
    until("the store is back", async || {
        visitor.peek(&app, "/read").await.ok() == "name"
    })
    .await;
}

/// Five failures in a row open the breaker, however rare they are.
#[tokio::test]
async fn the_breaker_opens_for_a_hanging_server_even_with_few_requests() {
    let site = Site::on(Server::start()).await;
    let visitor = site.browsers(1).await.remove(0);
    site.server.freeze();
    until("the breaker is open", async || {
        assert_eq!(visitor.peek(&site.app, "/read").await.status, 503);
        site.store.pool().breaker_open
    })
    .await;
    site.server.thaw();
    site.is_back(&visitor).await;
}

/// Neither a FIN nor a RST reports that the connection is dead.
#[tokio::test]
async fn silent_connections_are_replaced() {
    const COMMAND: Duration = Duration::from_millis(200);
    let server = Server::start();
    let proxy = Proxy::before(server.address()).await;
    let store = store_with(&proxy.url(), |config| {
        config.pool_size = 4;
        config.command_timeout = COMMAND;
    })
    .await;
    let app = app(SessionLayer::new(store));
    let visitor = browsers(&app, 1).await.remove(0);
    proxy.silence();
    until("new connections are in use", async || {
        visitor.peek(&app, "/read").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn one_silent_connection_is_replaced_and_the_others_stay() {
    let server = Server::start();
    let proxy = Proxy::before(server.address()).await;
    let store = store_with(&proxy.url(), |config| {
        config.pool_size = 4;
        config.command_timeout = Duration::from_secs(3);
    })
    .await;
    until("all connections are open", async || store.pool().open == 4).await;
    let app = app(SessionLayer::new(store.clone()));
    let visitor = browsers(&app, 1).await.remove(0);
    proxy.inject("PTTL", Fault::SwallowAnswer, 1);
    until("the silent connection is closed", async || {
        assert_eq!(visitor.peek(&app, "/read").await.ok(), "name");
        store.pool().broken > 0
    })
    .await;
    for _ in 0..8 {
        visitor.peek(&app, "/read").await.ok();
    }
    assert_eq!(store.pool().broken, 1);
}

/// While the breaker is open, requests fail at once: a thousand of them, one after the other, take less than a tenth of
/// their budgets.
#[tokio::test(flavor = "multi_thread")]
async fn the_breaker_stays_open_until_a_hanging_server_answers() {
    const REQUESTS: u32 = 1000;
    let site = Site::on(Server::start()).await;
    let visitor = site.browsers(1).await.remove(0);
    site.server.freeze();
    let (mut acknowledged, mut sent) = (0, 0);
    until("the breaker is open", async || {
        let pages = (0..50).map(|_| visitor.peek(&site.app, "/incr?k=n"));
        let pages = join_all(pages).await;
        sent += pages.len();
        acknowledged += pages.iter().filter(|page| page.status == 200).count();
        site.store.pool().breaker_open
    })
    .await;
    let began = Instant::now();
    for _ in 0..REQUESTS {
        let page = visitor.peek(&site.app, "/incr?k=n").await;
        assert_eq!(page.status, 503);
        assert!(page.headers.contains_key("retry-after"));
    }
    let (took, budget) = (began.elapsed(), RedisConfig::default().request_budget);
    assert!(took < budget * REQUESTS / 10, "{took:?}");
    assert!(
        site.store.pool().breaker_open,
        "the requests do not close the breaker"
    );
    site.server.thaw();
    // Only reads, so that the counter stays comparable.
    site.is_back(&visitor).await;
    let total: usize = visitor
        .peek(&site.calm, "/number?k=n")
        .await
        .ok()
        .parse()
        .unwrap();
    assert!((acknowledged..=sent).contains(&total), "{total} of {sent}");
}

#[tokio::test]
async fn a_server_that_freezes_between_load_and_commit_causes_503() {
    let site = Site::on(Server::start()).await;
    let visitor = site.browsers(1).await.remove(0);
    let gate = Gate::new();
    let path = format!("/slow?k=late&{}", gate.query());
    let freeze = async {
        gate.arrived(1).await;
        site.server.freeze();
        gate.open();
    };
    let (page, ()) = tokio::join!(visitor.peek(&site.app, &path), freeze);
    assert_eq!((page.status.as_u16(), page.set_cookies().len()), (503, 0));
    site.server.thaw();
}

#[tokio::test]
async fn a_failed_logout_gets_503_and_is_retried() {
    let mut site = Site::on(Server::start_durable()).await;
    let mut visitor = site.browsers(1).await.remove(0);
    let stolen = visitor.clone();
    // The session is loaded before the outage, and destroyed during it.
    let gate = Gate::new();
    let path = format!("/slow-logout?{}", gate.query());
    let logout = visitor.get(&site.app, &path);
    let dies = async {
        gate.arrived(1).await;
        site.server.kill();
        gate.open();
    };
    let (page, ()) = tokio::join!(logout, dies);
    assert_eq!(page.status, 503);
    assert_eq!(visitor.cookie, None, "the cookie is removed nevertheless");
    site.server.restart();
    until("the session is gone", async || {
        let page = stolen.peek(&site.calm, "/read").await;
        page.status == 200 && page.text.is_empty()
    })
    .await;
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
        "nothing was written, so the client may retry"
    );
    assert_eq!(Browser::default().get(&app, "/incr?k=n").await.status, 503);
    visitor.get(&app, "/logout").await.ok();
    set("maxmemory", "0");
    Browser::default().get(&app, "/incr?k=n").await.ok();
}

#[tokio::test]
async fn connections_to_a_demoted_primary_are_replaced() {
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
    // sessile replaces all connections, so that the address can lead to the new primary.
    for _ in 0..4 {
        visitor.get(&app, "/read").await.ok();
    }
    assert!(store.pool().broken >= 4, "{:?}", store.pool());
    replica_of("NO", "ONE");
    assert_eq!(visitor.get(&app, "/incr?k=n").await.ok(), "1");
}

#[tokio::test]
async fn a_read_succeeds_despite_a_silent_connection() {
    let server = Server::start();
    let proxy = Proxy::before(server.address()).await;
    let store = store_with(&proxy.url(), |config| {
        config.pool_size = 2;
        config.command_timeout = Duration::from_secs(2);
    })
    .await;
    let app = app(SessionLayer::new(store));
    let mut visitor = browsers(&app, 1).await.remove(0);
    proxy.inject("PTTL", Fault::SwallowAnswer, 1);
    assert_eq!(visitor.get(&app, "/read").await.ok(), "name");
    assert_eq!(proxy.faults_left(), 0);
}

#[tokio::test]
async fn requests_wait_for_a_slow_network_up_to_their_budget() {
    let server = Server::start();
    let proxy = Proxy::before(server.address()).await;
    let prefix = fresh_prefix();
    let patient = store_with(&proxy.url(), |config| config.key_prefix.clone_from(&prefix)).await;
    let patient = app(SessionLayer::new(patient));
    let hurried = store_with(&proxy.url(), |config| {
        config.key_prefix = prefix;
        by_default(config);
    })
    .await;
    let hurried = app(SessionLayer::new(hurried));
    let mut visitor = browsers(&patient, 1).await.remove(0);
    proxy.delay(Duration::from_millis(200));
    assert_eq!(visitor.get(&patient, "/incr?k=n").await.ok(), "1");
    proxy.delay(PATIENCE);
    assert_all_get_503(&hurried, &[visitor], "/read").await;
}

#[tokio::test]
async fn an_application_can_start_before_redis() {
    let mut server = Server::start();
    server.kill();
    let store = RedisStore::lazy(RedisConfig::new(server.url())).unwrap();
    let app = app(SessionLayer::new(store));
    assert_eq!(Browser::default().get(&app, "/plain").await.ok(), "plain");
    assert_eq!(Browser::default().get(&app, "/incr?k=n").await.status, 503);
    server.restart();
    until("it is there", async || {
        Browser::default().get(&app, "/incr?k=n").await.status == 200
    })
    .await;
}
