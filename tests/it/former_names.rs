//! A cookie whose name has changed: former names go on opening sessions, and the browser gets the new one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Query;
use axum::http::{HeaderValue, Response, StatusCode};
use axum::response::IntoResponse as _;
use axum::routing::get;
use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sessile::{
    Concurrency, CookieConfig, Event, Exclusive, Load, MemoryStore, Session, SessionConfig,
    SessionError, SessionLayer,
};

use crate::support::app::{app, routes};
use crate::support::{Browser, Gate, Spy, Window};

const URL: &str = "https://shop.example.org/app";

fn cookie(name: &str, former: &[&str]) -> CookieConfig {
    let former = former.iter().copied();
    CookieConfig::default()
        .with_name(name)
        .with_former_names(former)
}

fn layer(store: impl sessile::SessionStore, cookie: CookieConfig) -> SessionLayer {
    let config = SessionConfig::default().with_cookie(cookie);
    SessionLayer::try_new(store, config).unwrap()
}

/// A node with the old name and one with the new name, which know each other's.
fn nodes(store: &MemoryStore) -> [Router; 2] {
    let old = layer(store.clone(), cookie("id", &["__Host-id"]));
    let new = layer(store.clone(), cookie("__Host-id", &["id"]));
    [app(old), app(new)]
}

/// The same browser after it has lost all cookies but one, which it sends under another name.
fn renamed(browser: &Browser, name: &str) -> Browser {
    Browser {
        cookie: Some(format!("{name}={}", browser.token())),
    }
}

#[tokio::test]
async fn a_session_keeps_its_token_under_the_new_name() {
    let at_app = |cookie: CookieConfig| cookie.with_path("/app").with_domain("example.org");
    for (before, now) in [
        (cookie("id", &[]), cookie("__Host-id", &["sid", "id"])),
        (cookie("__Host-id", &[]), cookie("id", &["__Host-id"])),
        (
            cookie("__Host-id", &[]),
            at_app(cookie("id", &["__Host-id"])),
        ),
        (at_app(cookie("sid", &[])), at_app(cookie("id", &["sid"]))),
    ] {
        let (was, is) = (before.name.clone(), now.name.clone());
        let store = MemoryStore::new();
        let site = |cookie| Router::new().nest("/app", app(layer(store.clone(), cookie)));
        let (before, now) = (site(before), site(now));
        let window = Window::default();
        window
            .get(&before, &format!("{URL}/login?u=mia"))
            .await
            .ok();
        assert_eq!(window.names(&format!("{URL}/")), [&*was]);

        // A page that does not use the session can be cached, so it does not move the cookie.
        let page = window.get(&now, &format!("{URL}/plain")).await;
        assert_eq!(page.set_cookies().len(), 0);
        let page = window.get(&now, &format!("{URL}/whoami")).await;
        assert_eq!(page.headers["cache-control"], "no-store");
        let set = page.set_cookies();
        assert!(set[0].starts_with(&format!("{was}=; ")) && set[0].contains("; Max-Age=0; "));
        assert!(set[1].starts_with(&format!("{is}=")) && !set[1].contains("Max-Age=0"));
        assert_eq!(set.len(), 2);
        assert_eq!(page.ok(), "mia");
        assert_eq!(window.names(&format!("{URL}/")), [&*is]);

        // Once.
        for path in ["whoami", "incr?k=n", "read"] {
            let page = window.get(&now, &format!("{URL}/{path}")).await;
            assert_eq!(page.set_cookies().len(), 0, "{path}");
            page.ok();
        }
        // A logout ends it under every name.
        window.get(&now, &format!("{URL}/logout")).await;
        assert_eq!(window.sends(&format!("{URL}/")), 0);
        assert_eq!(store.stats().sessions, 0);
    }
}

#[tokio::test]
async fn a_cookie_of_a_former_name_beside_a_present_one_opens_and_ends_nothing() {
    for load in [Load::Inbound, Load::OnExtract] {
        let store = MemoryStore::new();
        let old = app(layer(store.clone(), cookie("id", &[])));
        let new = layer(store.clone(), cookie("__Host-id", &["id"]));
        let app = app(new.with_load(load));
        let (mut mia, mut eve) = (Browser::default(), Browser::default());
        mia.get(&app, "/login?u=mia").await.ok();
        eve.get(&old, "/login?u=eve").await.ok();
        let planted = eve.cookie.clone().unwrap();
        let both = Browser {
            cookie: Some(format!("{planted}; {}", mia.cookie.as_ref().unwrap())),
        };
        assert_eq!(both.peek(&app, "/whoami").await.ok(), "mia");
        // Even if the session of the present one has ended, or it is not a token.
        let gone = format!("__Host-id={}", "A".repeat(43));
        for present in [gone.as_str(), "__Host-id=x"] {
            let both = Browser {
                cookie: Some(format!("{planted}; {present}")),
            };
            let page = both.peek(&app, "/whoami").await;
            assert_eq!(page.set_cookies().len(), 0);
            assert_eq!(page.ok(), "");
            for path in ["/logout", "/sign-out"] {
                let page = both.peek(&app, path).await;
                assert!(page.set_cookies().iter().any(|it| it.starts_with("id=;")));
                page.ok();
            }
            assert_eq!(eve.peek(&old, "/whoami").await.ok(), "eve");
        }
        let path = match load {
            Load::OnExtract => "/sign-out",
            _ => "/logout",
        };
        both.peek(&app, path).await.ok();
        assert_eq!(mia.peek(&app, "/whoami").await.ok(), "");
        assert_eq!(eve.peek(&old, "/whoami").await.ok(), "eve");
    }
}

#[tokio::test]
async fn a_logout_by_a_former_name_ends_the_session_and_removes_both_cookies() {
    for (load, path) in [
        (Load::Inbound, "/logout"),
        (Load::Inbound, "/sign-out"),
        (Load::OnExtract, "/sign-out"),
    ] {
        let store = MemoryStore::new();
        let [old, _] = nodes(&store);
        let new = layer(store.clone(), cookie("__Host-id", &["id"])).with_load(load);
        let mut mia = Browser::default();
        mia.get(&old, "/login?u=mia").await.ok();
        let page = mia.peek(&app(new), path).await;
        let removed: Vec<_> = page.set_cookies();
        assert!(removed[0].starts_with("id=;") && removed[1].starts_with("__Host-id=;"));
        page.ok();
        assert_eq!(store.stats().sessions, 0, "{path}");
        assert_eq!(mia.peek(&old, "/whoami").await.ok(), "");
    }
}

#[tokio::test]
async fn a_login_replaces_the_token_under_every_name() {
    let store = MemoryStore::new();
    let [old, new] = nodes(&store);
    let mut mia = Browser::default();
    mia.get(&old, "/set?k=cart&v=tulip").await.ok();
    let before = mia.clone();
    let page = mia.get(&new, "/login?u=mia").await;
    assert_eq!(page.set_cookies().len(), 2);
    page.ok();
    assert!(mia.cookie.as_ref().unwrap().starts_with("__Host-id="));
    for (node, name) in [
        (&old, "id"),
        (&new, "__Host-id"),
        (&old, "__Host-id"),
        (&new, "id"),
    ] {
        assert_eq!(renamed(&mia, name).peek(node, "/whoami").await.ok(), "mia");
        // The replaced token: nothing to read, and nothing may be written.
        let before = renamed(&before, name);
        assert_eq!(before.peek(node, "/whoami").await.ok(), "");
        let page = before.peek(node, "/set?k=cart&v=x").await;
        assert_eq!(
            (page.status, page.set_cookies().len()),
            (StatusCode::CONFLICT, 0)
        );
    }
    // A second and a third click on "sign in", on each node: all tokens work.
    let [second, third] = [
        sign_in_again(&before, &old).await,
        sign_in_again(&before, &new).await,
    ];
    for browser in [&mia, &second, &third] {
        assert_eq!(browser.peek(&old, "/whoami").await.ok(), "mia");
    }
    // A logout with the token of the other login.
    second.peek(&new, "/sign-out").await.ok();
    assert_eq!(store.stats().sessions, 0);
}

/// A login by the token that another one has replaced.
async fn sign_in_again(before: &Browser, node: &Router) -> Browser {
    let page = before.peek(node, "/login?u=mia").await;
    let set = page.set_cookies();
    let cookie = set.last().unwrap().split(';').next().unwrap().to_owned();
    page.ok();
    Browser {
        cookie: Some(cookie),
    }
}

#[tokio::test]
async fn a_slow_page_does_not_bring_back_the_token_from_before_a_login() {
    let store = MemoryStore::new();
    let [old, new] = nodes(&store);
    let window = Window::default();
    let url = |path: &str| format!("https://example.org{path}");
    window.get(&old, &url("/set?k=cart&v=tulip")).await.ok();
    let gate = Gate::new();
    let path = url(&format!("/slow?{}", gate.query()));
    let slow = window.get(&new, &path);
    let login = async {
        gate.arrived(1).await;
        window.get(&old, &url("/login?u=mia")).await.ok();
        gate.open();
    };
    let (page, ()) = tokio::join!(slow, login);
    assert_eq!(page.set_cookies().len(), 0);
    page.ok();
    for node in [&new, &old] {
        assert_eq!(window.get(node, &url("/whoami")).await.ok(), "mia");
    }
}

#[tokio::test]
async fn a_login_under_one_name_is_found_beside_its_old_token_under_the_other() {
    for (first, second) in [(0, 1), (1, 0)] {
        let store = MemoryStore::new();
        let nodes = nodes(&store);
        let window = Window::default();
        let url = |path: &str| format!("https://example.org{path}");
        window
            .get(&nodes[first], &url("/set?k=cart&v=tulip"))
            .await
            .ok();
        let gate = Gate::new();
        let sign_in = async |session: Session, query: Query<Vec<(String, String)>>| {
            crate::support::gate::pass(&query[0].1).await;
            session.set_principal("mia").await
        };
        let name = ["id", "__Host-id"];
        let cookie = cookie(name[first], &[name[second]]);
        let slow = Router::new()
            .route("/sign-in", get(sign_in))
            .layer(layer(store.clone(), cookie));
        // The page of another node moves the cookie while the login runs, which then sets it under the other name.
        let path = url(&format!("/sign-in?{}", gate.query()));
        let login = window.get(&slow, &path);
        let page = async {
            gate.arrived(1).await;
            window.get(&nodes[second], &url("/read")).await.ok();
            gate.open();
        };
        let (page, ()) = tokio::join!(login, page);
        page.ok();
        assert_eq!(window.sends(&url("/")), 2);
        for node in [second, first, second, first] {
            let page = window.get(&nodes[node], &url("/whoami")).await;
            assert_eq!(page.ok(), "mia", "{node}");
            assert_eq!(window.sends(&url("/")), 1);
        }
    }
}

/// Waits in the handler, first or last, and does what the path says.
async fn step(
    session: Session,
    query: Query<Vec<(String, String)>>,
) -> Result<String, SessionError> {
    let param = |name: &str| {
        let pair = query.iter().find(|(it, _)| it == name);
        pair.map_or("", |(_, value)| value.as_str())
    };
    let wait = |name| Duration::from_millis(param(name).parse().unwrap_or_default());
    tokio::time::sleep(wait("before")).await;
    match param("do") {
        "login" => session.set_principal(param("u")).await?,
        "cycle" => session.cycle_id()?,
        "write" => session.insert("written", param("u"))?,
        "logout" => session.destroy(),
        _ => {}
    }
    tokio::time::sleep(wait("after")).await;
    Ok(session.principal().unwrap_or_default())
}

/// A browser uses old and new nodes at random, with many requests at once. The time is virtual.
#[tokio::test(start_paused = true)]
async fn while_old_and_new_nodes_run_side_by_side_nobody_is_logged_out() {
    let url = |path: &str| format!("https://example.org{path}");
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let store = MemoryStore::new();
        let node = |name: &str, former: &str| {
            let layer = layer(store.clone(), cookie(name, &[former]));
            routes().route("/step", get(step)).layer(layer)
        };
        let nodes = [node("id", "__Host-id"), node("__Host-id", "id")];
        let window = Window::default();
        window
            .get(&nodes[0], &url("/set?k=cart&v=tulip"))
            .await
            .ok();
        for round in 0..25 {
            let user = format!("user-{round}");
            // One request changes the token; the others read or write, before, beside and after it.
            let change = match random.random_range(0..4) {
                0 => "cycle",
                1 => "logout",
                _ => "login",
            };
            let mut requests = Vec::new();
            for number in 0..8 {
                let (node, start) = (random.random_range(0..2), random.random_range(0..40));
                let (before, after) = (random.random_range(0..40), random.random_range(0..40));
                let what = match number {
                    0 => change,
                    1..3 => "write",
                    _ => "read",
                };
                let path = format!("/step?do={what}&u={user}&before={before}&after={after}");
                let (window, node, url) = (&window, &nodes[node], url(&path));
                requests.push(async move {
                    tokio::time::sleep(Duration::from_millis(start)).await;
                    (what, window.get(node, &url).await)
                });
            }
            for (what, page) in join_all(requests).await {
                let overtaken = what == "write" && page.status == StatusCode::CONFLICT;
                assert!(page.status == StatusCode::OK || overtaken, "{}", page.text);
            }
            let mut who = Vec::new();
            for node in [0, 1, 1, 0] {
                who.push(window.get(&nodes[node], &url("/whoami")).await.ok());
            }
            assert!(who.iter().all(|it| *it == who[0]), "{seed} {round} {who:?}");
            match change {
                "login" => assert_eq!(who[0], user, "{seed} {round}"),
                "logout" => assert_eq!(who[0], "", "{seed} {round}"),
                _ => {}
            }
            let sent = window.sends(&url("/"));
            // After a logout, a request on each node may have begun a new session.
            let most = if change == "logout" { 2 } else { 1 };
            assert!(sent <= most, "{seed} {round}: {sent}");
            if change == "logout" {
                let path = url(&format!("/login?u=again-{round}"));
                window.get(&nodes[round % 2], &path).await.ok();
            }
        }
    }
}

#[tokio::test]
async fn an_exclusive_request_by_a_former_name_has_the_session_for_itself() {
    let store = MemoryStore::new();
    let [old, _] = nodes(&store);
    let exclusive = Concurrency::Exclusive(Exclusive::new(Duration::ZERO));
    let new = layer(store.clone(), cookie("__Host-id", &["id"])).with_concurrency(exclusive);
    let new = app(new);
    let mut mia = Browser::default();
    mia.get(&old, "/set?k=cart&v=tulip").await.ok();
    let gate = Gate::new();
    let path = format!("/slow?k=slow&{}", gate.query());
    let first = mia.peek(&new, &path);
    let second = async {
        gate.arrived(1).await;
        let page = mia.peek(&new, "/incr?k=n").await;
        gate.open();
        page.status
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(first.status, StatusCode::OK);
    assert_eq!(second, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn an_inner_layer_of_a_former_name_uses_the_same_session() {
    let store = MemoryStore::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let events = Arc::clone(&seen);
    let forge = async || {
        let mut response = Response::new(axum::body::Body::empty());
        for cookie in ["id=x; Path=/", "theme=dark"] {
            let cookie = HeaderValue::from_static(cookie);
            response.headers_mut().append("set-cookie", cookie);
        }
        response.into_response()
    };
    let outer =
        layer(store.clone(), cookie("__Host-id", &["id"])).with_observer(move |event: &Event| {
            match event {
                Event::SettingsIgnored { .. }
                | Event::ForeignSetCookie { .. }
                | Event::SeveralCookies { .. } => events.lock().unwrap().push(format!("{event:?}")),
                _ => {}
            }
        });
    let app = routes()
        .route("/forge", get(forge))
        .layer(layer(store.clone(), cookie("id", &[])))
        .layer(outer);
    let mut mia = Browser::default();
    let page = mia.get(&app, "/login?u=mia").await;
    assert_eq!(page.set_cookies().len(), 1);
    assert!(page.set_cookies()[0].starts_with("__Host-id="));
    let page = renamed(&mia, "id").peek(&app, "/whoami").await;
    assert_eq!(page.ok(), "mia");
    let page = mia.peek(&app, "/forge").await;
    assert_eq!(page.set_cookies(), ["theme=dark"]);
    // Two tokens of one session, under two names: nothing to report, and nothing to move.
    let visitor = Browser::default().peek(&app, "/set?k=a&v=b").await;
    let visitor = visitor.set_cookies()[0]
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let visitor = Browser {
        cookie: Some(visitor),
    };
    let first = sign_in_again(&visitor, &app).await;
    let second = sign_in_again(&visitor, &app).await;
    let both = format!("id={}; {}", second.token(), first.cookie.unwrap());
    let page = Browser { cookie: Some(both) }.peek(&app, "/whoami").await;
    assert_eq!(page.set_cookies().len(), 0);
    assert_eq!(page.ok(), "mia");
    let seen = seen.lock().unwrap();
    assert_eq!(
        *seen,
        [
            r#"SettingsIgnored { cookie: "id", settings: ["cookie"] }"#,
            r#"ForeignSetCookie { name: "id" }"#
        ]
    );
}

#[tokio::test]
async fn only_the_response_that_moves_a_cookie_costs_another_read() {
    let store = MemoryStore::new();
    let [old, _] = nodes(&store);
    let spy = Spy::on(store);
    let calls = Arc::clone(&spy.calls);
    let new = app(layer(spy, cookie("__Host-id", &["id"])));
    let mut mia = Browser::default();
    mia.get(&old, "/login?u=mia").await.ok();
    for (path, loads) in [("/plain", 1), ("/whoami", 3), ("/whoami", 4), ("/plain", 5)] {
        mia.get(&new, path).await.ok();
        assert_eq!(calls.so_far(), [loads, 0, 0, 0, 0], "{path}");
    }
}
