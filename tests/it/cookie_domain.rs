//! The scope of the cookie: a domain for each request, and partitions.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::header::HOST;
use axum::http::request::Parts;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use futures_util::FutureExt as _;
use sessile::{
    ConfigError, CookieConfig, Event, MemoryStore, SameSite, SessionConfig, SessionLayer,
};

use crate::support::app::{app, routes};
use crate::support::browser::fetch;
use crate::support::{Browser, Window};

fn layer(cookie: CookieConfig) -> SessionLayer {
    let config = SessionConfig::default().with_cookie(cookie);
    SessionLayer::try_new(MemoryStore::new(), config).unwrap()
}

fn tenants() -> CookieConfig {
    CookieConfig::default()
        .with_name("id")
        .with_domains(["tulips.example", ".Roses.Example"])
}

/// The last two labels of the host, or none for a host of one.
fn site(parts: &Parts) -> Option<String> {
    let host = parts.headers.get(HOST)?.to_str().ok()?;
    let labels: Vec<&str> = host.split(':').next()?.split('.').collect();
    let last = labels.len().checked_sub(2)?;
    Some(labels[last..].join("."))
}

#[tokio::test]
async fn each_tenant_has_a_cookie_for_its_own_domain() {
    let app = app(layer(tenants()).with_cookie_domain(site).unwrap());
    let window = Window::default();
    for (site, domain) in [
        ("tulips.example", "tulips.example"),
        ("roses.example", "roses.example"),
    ] {
        let login = format!("https://{site}/login?u={site}");
        let page = window.get(&app, &login).await;
        let set = page.set_cookies().join("");
        assert!(set.ends_with(&format!("; Domain={domain}")), "{set}");
        page.ok();
    }
    for (host, who) in [
        ("shop.tulips.example", "tulips.example"),
        ("tulips.example", "tulips.example"),
        ("shop.roses.example:8443", "roses.example"),
        ("other.example", ""),
    ] {
        let page = window.get(&app, &format!("https://{host}/whoami")).await;
        assert_eq!(page.ok(), who, "{host}");
    }
    // The removal has the domain of the cookie.
    window
        .get(&app, "https://shop.tulips.example/logout")
        .await
        .ok();
    assert_eq!(window.sends("https://tulips.example/"), 0);
    assert_eq!(window.sends("https://shop.tulips.example/"), 0);
    assert_eq!(window.sends("https://roses.example/"), 1);
}

#[tokio::test]
async fn a_cookie_from_before_the_domain_is_removed_by_the_next_login() {
    let store = MemoryStore::new();
    let layer = |cookie| {
        let config = SessionConfig::default().with_cookie(cookie);
        SessionLayer::try_new(store.clone(), config).unwrap()
    };
    let before = app(layer(CookieConfig::default().with_name("id")));
    let now = app(layer(tenants()).with_cookie_domain(site).unwrap());
    let window = Window::default();
    let url = |path: &str| format!("https://shop.tulips.example{path}");
    window.get(&before, &url("/set?k=cart&v=tulip")).await.ok();
    window.get(&now, &url("/login?u=mia")).await.ok();
    assert_eq!(window.sends(&url("/")), 2);
    assert_eq!(window.get(&now, &url("/whoami")).await.ok(), "mia");
    window.get(&now, &url("/cycle")).await.ok();
    assert_eq!(window.sends(&url("/")), 1);
    window.get(&now, &url("/logout")).await.ok();
    assert_eq!(window.sends(&url("/")), 0);
}

#[tokio::test]
async fn a_domain_that_is_not_on_the_list_is_reported_once_and_not_used() {
    let rejected = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&rejected);
    let layer = layer(tenants())
        .with_cookie_domain(site)
        .unwrap()
        .with_observer(move |event: &Event| {
            if let Event::CookieDomainRejected { domain, .. } = event {
                seen.lock().unwrap().push(domain.clone());
            }
        });
    let app = app(layer);
    for host in [
        "evil.example",
        "a.evil.example",
        "localhost",
        "x.org",
        "evil.example",
    ] {
        let window = Window::default();
        let page = window
            .get(&app, &format!("https://{host}/login?u=mia"))
            .await;
        let set = page.set_cookies().join("");
        assert!(!set.contains("Domain") && set.ends_with("Path=/"), "{set}");
        page.ok();
        let page = window.get(&app, &format!("https://{host}/whoami")).await;
        assert_eq!(page.ok(), "mia");
        window
            .get(&app, &format!("https://{host}/logout"))
            .await
            .ok();
        assert_eq!(window.sends(&format!("https://{host}/")), 0);
    }
    assert_eq!(*rejected.lock().unwrap(), ["evil.example", "x.org"]);
    // What a client can make it return is not kept whole.
    let host = format!("{}.org", "x".repeat(10_000));
    let request = Request::get("/plain").header("host", host);
    fetch(&app, request.body(Body::empty()).unwrap()).await.ok();
    assert_eq!(rejected.lock().unwrap()[2].len(), 253);
}

#[tokio::test]
async fn a_layer_that_cannot_have_a_domain_says_what_to_change() {
    for (cookie, expected) in [
        (CookieConfig::default(), "cookie.name = \"__Host-id\": "),
        (
            CookieConfig::default().with_name("id"),
            "cookie.domains = []: ",
        ),
    ] {
        let error = layer(cookie).with_cookie_domain(site).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    let cookie = CookieConfig::default().with_domains(["tulips.example"]);
    let config = SessionConfig::default().with_cookie(cookie);
    let error = SessionLayer::try_new(MemoryStore::new(), config).unwrap_err();
    assert!(
        matches!(&error, ConfigError::Invalid { setting, .. } if setting == "cookie.domains"),
        "{error}"
    );
    // On localhost, the cookie has no domain, whatever the function says.
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&events);
    let layer = layer(tenants())
        .with_cookie_domain(site)
        .unwrap()
        .with_observer(move |event: &Event| seen.lock().unwrap().push(event.name()));
    let app = app(layer.insecure_for_localhost());
    let window = Window::default();
    let page = window.get(&app, "https://tulips.example/set?k=a&v=b").await;
    assert!(!page.set_cookies()[0].contains("Domain"));
    assert_eq!(*events.lock().unwrap(), ["committed", "created"]);
}

#[tokio::test]
async fn a_function_that_panics_leaves_the_layer_as_it_was() {
    let layer = layer(tenants()).with_cookie_domain(|parts| {
        assert_ne!(parts.uri.path(), "/plain", "on purpose");
        site(parts)
    });
    let app = app(layer.unwrap());
    let mut mia = Browser::default();
    mia.get(&app, "/login?u=mia").await.ok();
    for _ in 0..3 {
        let panicking = std::panic::AssertUnwindSafe(mia.peek(&app, "/plain"));
        assert!(panicking.catch_unwind().await.is_err());
        assert_eq!(mia.peek(&app, "/whoami").await.ok(), "mia");
    }
}

#[tokio::test]
async fn an_inner_layers_function_is_reported_as_ignored() {
    let ignored = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ignored);
    let outer = layer(tenants()).with_observer(move |event: &Event| {
        if let Event::SettingsIgnored { settings, .. } = event {
            seen.lock().unwrap().extend(settings.clone());
        }
    });
    let inner = outer.clone().with_cookie_domain(site).unwrap();
    let app = routes().layer(inner).layer(outer);
    let page = Window::default()
        .get(&app, "https://tulips.example/set?k=a&v=b")
        .await;
    assert!(!page.set_cookies()[0].contains("Domain"));
    assert_eq!(*ignored.lock().unwrap(), ["cookie_domain"]);
}

#[tokio::test]
async fn a_partitioned_cookie_and_its_removal_are_for_the_partition() {
    let cookie = CookieConfig::default()
        .with_same_site(SameSite::None)
        .with_partitioned(true);
    let app = app(layer(cookie));
    const ATTRIBUTES: &str = "; HttpOnly; SameSite=None; Partitioned; Secure; Path=/";
    let mut mia = Browser::default();
    let page = mia.get(&app, "/login?u=mia").await;
    let set = page.set_cookies().join("");
    assert_eq!(set, format!("__Host-id={}{ATTRIBUTES}", mia.token()));
    // The browser sends a cookie from before the partition, too.
    for path in ["/cycle", "/logout"] {
        let two = format!(
            "__Host-id={}; {}",
            "A".repeat(43),
            mia.cookie.as_ref().unwrap()
        );
        let request = |cookie: &str| {
            let request = Request::get(path).header("cookie", cookie);
            request.body(Body::empty()).unwrap()
        };
        let page = fetch(&app, request(&two)).await;
        assert_eq!(page.status, StatusCode::OK);
        let set = page.set_cookies();
        assert_eq!(set.len(), 2);
        let removal = "__Host-id=; HttpOnly; SameSite=None; Secure; Path=/; Max-Age=0; ";
        assert!(set[0].starts_with(removal), "{}", set[0]);
        assert!(set[1].contains(ATTRIBUTES), "{}", set[1]);
        if path == "/cycle" {
            let pair = set[1].split(';').next().unwrap();
            mia.cookie = Some(pair.to_owned());
        }
    }
    let page = mia.get(&app, "/logout").await;
    let set = page.set_cookies().join("");
    assert!(
        set.starts_with(&format!("__Host-id={ATTRIBUTES}; Max-Age=0; ")),
        "{set}"
    );
}

#[tokio::test]
async fn a_request_without_a_host_gets_a_cookie_for_its_host_only() {
    let layer = layer(tenants()).with_cookie_domain(site).unwrap();
    let app = Router::new()
        .route("/", get(async |it: sessile::Session| it.insert("k", 1)))
        .layer(layer);
    let request = Request::get("/").body(Body::empty()).unwrap();
    let page = fetch(&app, request).await;
    assert!(!page.set_cookies()[0].contains("Domain"));
}
