//! Lost answers: a commit is applied once, or the response says that it may not be.

use std::time::Duration;

use futures_util::future::join_all;
use sessile::SessionLayer;

use crate::support::app::app;
use crate::support::proxy::Fault;
use crate::support::{Browser, Proxy, Server, store_with, until};

/// The number of lost answers for each visitor, one after the other.
const LOSSES_OF_ONE: usize = 20;

struct Line {
    server: Server,
    proxy: Proxy,
    app: axum::Router,
    browser: Browser,
}

impl Line {
    async fn new() -> Self {
        let server = Server::start();
        let proxy = Proxy::before(server.address()).await;
        let store = store_with(&proxy.url(), |config| {
            config.pool_size = 4;
            config.command_timeout = Duration::from_secs(1);
        })
        .await;
        let app = app(SessionLayer::new(store));
        let mut browser = Browser::default();
        browser.get(&app, "/set?k=name&v=mia").await.ok();
        Self {
            server,
            proxy,
            app,
            browser,
        }
    }

    /// Retries until a connection answers. A connection whose answer was swallowed stays silent until the pool replaces
    /// it.
    async fn get(&self, path: &str) -> String {
        let mut found = None;
        until("a connection answers", async || {
            let page = self.browser.peek(&self.app, path).await;
            found = (page.status == 200).then_some(page);
            found.is_some()
        })
        .await;
        found.expect("an answer").ok()
    }

    async fn count(&self) -> u64 {
        self.get("/number?k=n").await.parse().unwrap()
    }

    fn sessions(&self) -> usize {
        redis::cmd("DBSIZE")
            .query(&mut self.server.connection())
            .unwrap()
    }
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_applied_once() {
    // `SESSILE_TEST_LOSSES=1000` runs more.
    let losses = std::env::var("SESSILE_TEST_LOSSES");
    let losses = losses.map_or(200, |losses| losses.parse().expect("a number"));
    let visitors = (0..losses).step_by(LOSSES_OF_ONE).map(|_| lose());
    let succeeded: usize = join_all(visitors).await.into_iter().sum();
    // On a busy machine, the answer to the resend may be late, too. Without resends, no request would succeed.
    assert!(
        succeeded * 2 >= losses,
        "resends should answer most of {losses} requests, not {succeeded}"
    );
}

/// Sends requests of one visitor whose answers are lost. Returns the number of requests that succeeded nevertheless.
async fn lose() -> usize {
    let mut line = Line::new().await;
    let (mut counted, mut succeeded) = (0, 0);
    let mut swallowed = 0;
    while swallowed < LOSSES_OF_ONE {
        let fault = match swallowed % 2 {
            0 => Fault::LoseAnswer,
            _ => Fault::SwallowAnswer,
        };
        line.proxy.inject_commits(fault, 1);
        let page = line.browser.get(&line.app, "/incr?k=n").await;
        // A connection that is silent since an earlier round may have failed the load, so the fault did not happen.
        swallowed += 1 - line.proxy.faults_left();
        line.proxy.inject_commits(fault, 0);
        let now = line.count().await;
        match page.status.as_u16() {
            200 => assert_eq!(now, counted + 1, "applied once"),
            503 => assert!(now == counted || now == counted + 1, "applied at most once"),
            status => panic!("{status}: {}", page.text),
        }
        succeeded += usize::from(page.status == 200);
        counted = now;
    }
    succeeded
}

#[tokio::test]
async fn a_commit_that_never_arrived_is_resent() {
    let mut line = Line::new().await;
    for round in 1..=20 {
        line.proxy.inject_commits(Fault::LoseRequest, 1);
        line.browser.get(&line.app, "/incr?k=n").await.ok();
        assert_eq!(line.count().await, round);
    }
}

#[tokio::test]
async fn a_commit_that_is_never_answered_gets_503_without_retry_after() {
    let mut line = Line::new().await;
    line.proxy.inject_commits(Fault::SwallowAnswer, 3);
    let page = line.browser.get(&line.app, "/incr?k=n").await;
    assert_eq!(page.status, 503);
    assert!(!page.headers.contains_key("retry-after"));
    assert_eq!(page.set_cookies(), Vec::<&str>::new());
    // The first send had arrived, and the resends changed nothing.
    assert_eq!(line.count().await, 1);
}

#[tokio::test]
async fn a_creation_whose_answer_is_lost_is_retried_under_a_fresh_handle() {
    let line = Line::new().await;
    for fault in [Fault::LoseAnswer, Fault::SwallowAnswer, Fault::LoseRequest] {
        let before = line.sessions();
        line.proxy.inject("NX", fault, 1);
        let mut browser = Browser::default();
        browser.get(&line.app, "/incr?k=n").await.ok();
        // The first session may exist, too. Nobody has its token, and sessile deletes it.
        until("one session is left", async || {
            line.sessions() - before == 1
        })
        .await;
        assert_eq!(browser.get(&line.app, "/number?k=n").await.ok(), "1");
    }
}

#[tokio::test]
async fn a_save_whose_error_is_ignored_is_not_applied_twice() {
    let mut line = Line::new().await;
    // The save in the handler fails after three sends. The final commit finds it applied.
    line.proxy.inject_commits(Fault::LoseAnswer, 3);
    let page = line.browser.get(&line.app, "/save-then?also=write").await;
    assert_eq!(
        (page.status.as_u16(), page.text.as_str()),
        (200, "OutcomeUnknown")
    );
    let number = |key: &'static str| {
        let (browser, app) = (line.browser.clone(), line.app.clone());
        async move { browser.peek(&app, &format!("/number?k={key}")).await.ok() }
    };
    assert_eq!(number("saved").await, "1");
    assert_eq!(number("after").await, "1");
}

#[tokio::test]
async fn an_unresolved_save_gets_503_whatever_the_handler_returns() {
    let mut line = Line::new().await;
    line.proxy.inject_commits(Fault::LoseAnswer, 6);
    let page = line.browser.get(&line.app, "/save-then?also=write").await;
    assert_eq!(page.status, 503);
    assert_eq!(
        line.browser.get(&line.app, "/number?k=saved").await.ok(),
        "1"
    );
    assert_eq!(
        line.browser.get(&line.app, "/number?k=after").await.ok(),
        "0"
    );
}

#[tokio::test]
async fn a_rotation_whose_answer_is_lost_still_reaches_the_browser() {
    let mut line = Line::new().await;
    line.proxy.inject_commits(Fault::LoseAnswer, 1);
    let old = line.browser.token().to_owned();
    line.browser.get(&line.app, "/login?u=mia").await.ok();
    assert_ne!(line.browser.token(), old);
    assert_eq!(line.browser.get(&line.app, "/whoami").await.ok(), "mia");
}

#[tokio::test]
async fn increment_now_returns_each_number_once_even_if_answers_are_lost() {
    let mut line = Line::new().await;
    for expected in 1..=20 {
        line.proxy.inject_commits(Fault::LoseAnswer, 1);
        let number = line.browser.get(&line.app, "/incr-now?k=n").await.ok();
        assert_eq!(number, expected.to_string());
    }
}

#[tokio::test]
async fn a_logout_whose_answer_is_lost_is_final() {
    for fault in [Fault::LoseAnswer, Fault::SwallowAnswer, Fault::LoseRequest] {
        let mut line = Line::new().await;
        line.proxy.inject("UNLINK", fault, 1);
        line.browser.get(&line.app, "/logout").await.ok();
        assert_eq!(line.browser.cookie, None);
        assert_eq!(line.sessions(), 0, "{fault:?}");
    }
}
