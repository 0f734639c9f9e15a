//! Logins that join the same login: a double click on "sign in", or a retry.

use std::collections::HashMap;

use axum::Router;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::routing::get;
use futures_util::future::join_all;
use sessile::{Concurrency, Exclusive, Session, SessionConfig, SessionError, SessionLayer};

use crate::support::app::routes;
use crate::support::browser::Page;
use crate::support::proxy::Fault;
use crate::support::{Browser, Gate, Proxy, Server, fresh_prefix, gate, store_with};

/// Two nodes, the first behind a proxy, and a visitor with a cart.
struct Shop {
    _server: Server,
    proxy: Proxy,
    nodes: [Router; 2],
    visitor: Browser,
}

impl Shop {
    async fn new() -> Self {
        Self::with(SessionConfig::default()).await
    }

    async fn with(config: SessionConfig) -> Self {
        let server = Server::start();
        let proxy = Proxy::before(server.address()).await;
        let prefix = fresh_prefix();
        let node = async |url: String| {
            let store = store_with(&url, |config| config.key_prefix = prefix.clone()).await;
            let layer = SessionLayer::try_new(store, config.clone()).unwrap();
            routes().route("/sign-in", get(sign_in)).layer(layer)
        };
        let nodes = [node(proxy.url()).await, node(server.url()).await];
        let mut visitor = Browser::default();
        visitor.get(&nodes[0], "/push?k=cart&v=tulip").await.ok();
        Self {
            _server: server,
            proxy,
            nodes,
            visitor,
        }
    }

    async fn ask(&self, browser: &Browser, path: &str) -> String {
        browser.peek(&self.nodes[1], path).await.ok()
    }

    /// Signs in with the browser's cookie. Returns a browser with the new cookie.
    async fn signed_in(&self, browser: &Browser) -> Browser {
        self.on(0, browser, "/sign-in?u=mia").await
    }

    async fn on(&self, node: usize, browser: &Browser, path: &str) -> Browser {
        let page = browser.peek(&self.nodes[node], path).await;
        let browser = taken(&page).expect("a cookie");
        page.ok();
        browser
    }

    /// Sends a request to each node. Both load the session before either continues.
    async fn at_once(&self, paths: [&str; 2]) -> [Page; 2] {
        self.at_once_on([0, 1], paths).await
    }

    async fn at_once_on(&self, nodes: [usize; 2], paths: [&str; 2]) -> [Page; 2] {
        let gate = Gate::new();
        let paths = paths.map(|path| format!("{path}&{}", gate.query()));
        let (one, other, ()) = tokio::join!(
            self.visitor.peek(&self.nodes[nodes[0]], &paths[0]),
            self.visitor.peek(&self.nodes[nodes[1]], &paths[1]),
            async {
                gate.arrived(2).await;
                gate.open();
            }
        );
        [one, other]
    }

    /// Sends a request, and does something on the other node while the request has its session loaded.
    async fn overtaken(&self, path: &str, meanwhile: impl Future<Output = ()>) -> Page {
        let gate = Gate::new();
        let path = format!("{path}&{}", gate.query());
        let (page, ()) = tokio::join!(self.visitor.peek(&self.nodes[0], &path), async {
            gate.arrived(1).await;
            meanwhile.await;
            gate.open();
        });
        page
    }

    async fn assert_signed_in(&self, browser: &Browser, logins: usize) {
        assert_eq!(self.ask(browser, "/whoami").await, "mia");
        assert_eq!(self.ask(browser, "/get?k=cart").await, r#"["tulip"]"#);
        let counted = self.ask(browser, "/number?k=logins").await;
        assert_eq!(counted, logins.to_string());
    }

    async fn assert_anonymous(&self, browser: &Browser) {
        assert_eq!(self.ask(browser, "/whoami").await, "");
        assert_eq!(self.ask(browser, "/read").await, "");
    }
}

/// Signs in, and counts the logins. Answers with the keys that it saw before.
async fn sign_in(
    session: Session,
    Query(params): Query<HashMap<String, String>>,
) -> Result<String, SessionError> {
    let param = |name: &str| params.get(name).map_or("", String::as_str);
    let seen = session.keys().join(",");
    if let Some(path) = params.get("gate") {
        gate::pass(path).await;
    }
    // Ignores the results of these calls, as a careless handler does.
    match param("also") {
        "cycle" => drop(session.cycle_id()),
        "clear" => drop(session.clear_principal()),
        "destroy" => session.destroy(),
        "write" => session.push("before", "x")?,
        _ => {}
    }
    session.set_principal(param("u")).await?;
    session.increment("logins", 1)?;
    Ok(seen)
}

/// A browser with the cookie of this response, if it sets one.
fn taken(page: &Page) -> Option<Browser> {
    let cookies = page.set_cookies();
    assert!(cookies.len() < 2);
    let pair = cookies.first()?.split("; ").next();
    Some(Browser {
        cookie: pair.map(str::to_owned),
    })
}

fn assert_rejected(page: &Page) {
    assert_eq!(page.status, StatusCode::CONFLICT, "{}", page.text);
    assert_eq!(page.set_cookies(), Vec::<&str>::new());
}

#[tokio::test]
async fn two_concurrent_logins_on_two_nodes_both_succeed() {
    let shop = Shop::new().await;
    let pages = shop.at_once(["/sign-in?u=mia"; 2]).await;
    let [one, other] = pages.map(|page| {
        let browser = taken(&page).expect("a cookie");
        assert_eq!(page.ok(), "cart");
        browser
    });
    assert_ne!(one.token(), other.token());
    for browser in [&one, &other] {
        shop.assert_signed_in(browser, 2).await;
        assert_eq!(browser.token()[..21], shop.visitor.token()[..21]);
    }
    shop.assert_anonymous(&shop.visitor).await;
    // Each keeps its own cookie, although their changes are committed together.
    let writes = (0..20).map(|number| {
        let browser = [&one, &other][number % 2];
        browser.peek(&shop.nodes[number % 4 / 2], "/incr?k=n")
    });
    for page in join_all(writes).await {
        assert_eq!(page.set_cookies(), Vec::<&str>::new());
        page.ok();
    }
    assert_eq!(shop.ask(&one, "/number?k=n").await, "20");
    shop.assert_signed_in(&other, 2).await;
}

#[tokio::test]
async fn two_concurrent_logins_on_one_node_both_succeed() {
    let shop = Shop::new().await;
    let pages = shop.at_once_on([1, 1], ["/sign-in?u=mia"; 2]).await;
    for page in &pages {
        assert_eq!(page.status, 200, "{}", page.text);
        shop.assert_signed_in(&taken(page).expect("a cookie"), 2)
            .await;
    }
    shop.assert_anonymous(&shop.visitor).await;
}

#[tokio::test]
async fn a_login_with_the_replaced_token_joins_and_sees_no_data_before() {
    let shop = Shop::new().await;
    for node in [0, 1] {
        let visitor = Browser::default();
        let visitor = shop.on(0, &visitor, "/push?k=cart&v=tulip").await;
        let one = shop.signed_in(&visitor).await;
        // A request without changes does not prevent a join.
        shop.assert_signed_in(&one, 1).await;
        let page = visitor.peek(&shop.nodes[node], "/sign-in?u=mia").await;
        let other = taken(&page).expect("a cookie");
        assert_eq!(page.ok(), "");
        shop.assert_signed_in(&one, 2).await;
        shop.assert_signed_in(&other, 2).await;
        shop.assert_anonymous(&visitor).await;
    }
}

#[tokio::test]
async fn a_retried_login_whose_answer_was_lost_succeeds() {
    let shop = Shop::new().await;
    shop.proxy.inject_commits(Fault::LoseAnswer, 3);
    let page = shop.visitor.peek(&shop.nodes[0], "/sign-in?u=mia").await;
    assert_eq!((page.status.as_u16(), page.set_cookies().len()), (503, 0));
    shop.proxy.inject_commits(Fault::LoseAnswer, 0);
    for node in [0, 1] {
        let browser = shop.on(node, &shop.visitor, "/sign-in?u=mia").await;
        shop.assert_signed_in(&browser, 2 + node).await;
    }
}

#[tokio::test]
async fn a_third_login_joins_and_a_fourth_is_rejected() {
    let shop = Shop::new().await;
    let mut browsers = Vec::new();
    for node in [0, 1, 0] {
        browsers.push(shop.on(node, &shop.visitor, "/sign-in?u=mia").await);
    }
    for node in &shop.nodes {
        assert_rejected(&shop.visitor.peek(node, "/sign-in?u=mia").await);
    }
    for browser in &browsers {
        shop.assert_signed_in(browser, 3).await;
    }
}

#[tokio::test]
async fn another_principal_does_not_join() {
    let shop = Shop::new().await;
    let pages = shop.at_once(["/sign-in?u=mia", "/sign-in?u=leo"]).await;
    let (won, lost): (Vec<_>, Vec<_>) = pages.iter().partition(|page| page.status == 200);
    let winner = taken(won[0]).expect("a cookie");
    assert_rejected(lost[0]);
    let who = shop.ask(&winner, "/whoami").await;
    let another = if who == "mia" { "leo" } else { "mia" };
    let path = format!("/sign-in?u={another}");
    assert_rejected(&shop.visitor.peek(&shop.nodes[1], &path).await);
    assert_eq!(shop.ask(&winner, "/whoami").await, who);
}

#[tokio::test]
async fn no_login_joins_after_another_commit() {
    for path in [
        "/set?k=second-factor&v=passed",
        "/incr?k=views",
        "/flash?text=welcome",
        "/cycle",
        "/login?u=mia",
        "/step-down",
    ] {
        let shop = Shop::new().await;
        let mut one = Browser::default();
        let page = shop
            .overtaken("/sign-in?u=mia", async {
                one = shop.on(1, &shop.visitor, "/sign-in?u=mia").await;
                one.get(&shop.nodes[1], path).await.ok();
            })
            .await;
        assert_rejected(&page);
        for node in &shop.nodes {
            assert_rejected(&shop.visitor.peek(node, "/sign-in?u=mia").await);
        }
        assert_eq!(shop.ask(&one, "/number?k=logins").await, "1", "{path}");
    }
}

#[tokio::test]
async fn the_next_rotation_revokes_all_tokens_and_the_next_login_accepts_all_of_them() {
    let shop = Shop::new().await;
    let mut one = shop.signed_in(&shop.visitor).await;
    let other = shop.signed_in(&shop.visitor).await;
    let third = shop.signed_in(&shop.visitor).await;
    let before = one.clone();
    one.get(&shop.nodes[1], "/cycle").await.ok();
    shop.assert_signed_in(&one, 3).await;
    for browser in [&shop.visitor, &before, &other, &third] {
        shop.assert_anonymous(browser).await;
        // They stay known as retired tokens for a while, so that none of them replaces the new cookie.
        assert_rejected(&browser.peek(&shop.nodes[0], "/incr?k=n").await);
        assert_rejected(&browser.peek(&shop.nodes[0], "/sign-in?u=mia").await);
    }

    let visitor = Browser::default();
    let visitor = shop.on(0, &visitor, "/push?k=cart&v=tulip").await;
    let (one, other) = (
        shop.signed_in(&visitor).await,
        shop.signed_in(&visitor).await,
    );
    let again = shop.signed_in(&one).await;
    let joined = shop.signed_in(&other).await;
    assert_rejected(&visitor.peek(&shop.nodes[1], "/sign-in?u=mia").await);
    for browser in [&again, &joined] {
        shop.assert_signed_in(browser, 4).await;
    }
    for browser in [&one, &other] {
        shop.assert_anonymous(browser).await;
    }
}

#[tokio::test]
async fn a_logout_revokes_all_tokens() {
    let shop = Shop::new().await;
    let mut one = shop.signed_in(&shop.visitor).await;
    let other = shop.signed_in(&shop.visitor).await;
    one.get(&shop.nodes[1], "/logout").await.ok();
    for browser in [&one, &other, &shop.visitor] {
        shop.assert_anonymous(browser).await;
    }
}

#[tokio::test]
async fn a_login_that_also_revokes_its_token_does_not_join() {
    for also in ["cycle", "clear", "destroy"] {
        let shop = Shop::new().await;
        let path = format!("/sign-in?u=mia&also={also}");
        let mut one = None;
        let page = shop
            .overtaken(&path, async {
                one = Some(shop.on(1, &shop.visitor, "/sign-in?u=mia").await);
                assert_rejected(&shop.visitor.peek(&shop.nodes[1], &path).await);
            })
            .await;
        let one = one.unwrap();
        match also {
            // A logout ends the session whoever is signed in, and later changes go into a new session.
            "destroy" => {
                let fresh = taken(&page).expect("a cookie");
                assert_ne!(fresh.token()[..21], one.token()[..21]);
                shop.assert_anonymous(&one).await;
            }
            _ => {
                assert_rejected(&page);
                shop.assert_signed_in(&one, 1).await;
            }
        }
    }
}

#[tokio::test]
async fn changes_to_the_session_of_another_principal_do_not_join() {
    for (also, can_join) in [("write", false), ("", true)] {
        let mut shop = Shop::new().await;
        shop.visitor = shop.on(0, &shop.visitor, "/login?u=leo").await;
        let path = format!("/sign-in?u=mia&also={also}");
        let mut one = None;
        let page = shop
            .overtaken(&path, async {
                one = Some(shop.on(1, &shop.visitor, "/sign-in?u=mia").await);
            })
            .await;
        let one = one.unwrap();
        if !can_join {
            assert_rejected(&page);
        }
        assert_eq!(taken(&page).is_some(), can_join);
        assert_eq!(shop.ask(&one, "/read").await, "logins");
        let logins = if can_join { "2" } else { "1" };
        assert_eq!(shop.ask(&one, "/number?k=logins").await, logins);
    }
}

#[tokio::test]
async fn a_login_joins_under_every_policy_except_reject() {
    let wait = std::time::Duration::from_secs(50);
    let exclusive = Concurrency::Exclusive(Exclusive::new(wait).with_lease(wait));
    for (concurrency, can_join) in [
        (Concurrency::LastWriteWins, true),
        (Concurrency::Reject, false),
        (exclusive, true),
    ] {
        let shop = Shop::with(SessionConfig::default().with_concurrency(concurrency)).await;
        let (one, other) = match concurrency {
            // The second request loads once the first has finished.
            Concurrency::Exclusive(_) => tokio::join!(
                shop.visitor.peek(&shop.nodes[0], "/sign-in?u=mia"),
                shop.visitor.peek(&shop.nodes[1], "/sign-in?u=mia"),
            ),
            _ => shop.at_once(["/sign-in?u=mia"; 2]).await.into(),
        };
        let statuses = [one.status, other.status].map(|status| status.as_u16());
        match can_join {
            true => assert_eq!(statuses, [200, 200], "{concurrency:?}"),
            false => assert_eq!(statuses.into_iter().max(), Some(409), "{concurrency:?}"),
        }
        for browser in [&one, &other].into_iter().filter_map(taken) {
            assert_eq!(
                shop.ask(&browser, "/whoami").await,
                "mia",
                "{concurrency:?}"
            );
            assert_eq!(shop.ask(&browser, "/get?k=cart").await, r#"["tulip"]"#);
        }
    }
}
