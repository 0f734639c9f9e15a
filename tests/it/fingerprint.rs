//! Fingerprints: a session that is used from another network.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::connect_info::MockConnectInfo;
use axum::http::Request;
use sessile::{ClientAddress, Event, Fingerprinting, MemoryStore, SessionLayer};

use crate::support::app::app;
use crate::support::browser::fetch;
use crate::support::{Browser, Spy};

struct Site {
    app: Router,
    events: Arc<Mutex<Vec<String>>>,
    calls: Arc<crate::support::spy::Calls>,
}

impl Site {
    fn new(mode: Fingerprinting) -> Self {
        Self::with(mode, |layer| layer)
    }

    fn with(mode: Fingerprinting, set: impl FnOnce(SessionLayer) -> SessionLayer) -> Self {
        let spy = Spy::on(MemoryStore::new());
        let calls = spy.calls.clone();
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&events);
        let layer = SessionLayer::new(spy)
            .with_fingerprinting(mode)
            .with_observer(move |event: &Event| {
                let advice = match event {
                    Event::AddressProblem { problem, .. } => problem.to_string(),
                    _ => String::new(),
                };
                seen.lock().unwrap().push(format!("{event:?} {advice}"));
            });
        Self {
            app: app(set(layer)),
            events,
            calls,
        }
    }

    fn from(&self, address: &str) -> Router {
        let address: IpAddr = address.parse().unwrap();
        self.app
            .clone()
            .layer(MockConnectInfo(SocketAddr::new(address, 4242)))
    }

    /// The last event of this kind, with its advice.
    fn event(&self, kind: &str) -> String {
        let events = self.events.lock().unwrap();
        let last = events.iter().rfind(|event| event.starts_with(kind));
        last.expect("an event").clone()
    }

    fn events(&self, kind: &str) -> usize {
        self.events
            .lock()
            .unwrap()
            .iter()
            .filter(|event| event.starts_with(kind))
            .count()
    }
}

async fn facts(browser: &Browser, app: &Router) -> String {
    let facts = browser.peek(app, "/facts").await.ok();
    serde_json::from_str::<serde_json::Value>(&facts).unwrap()["fingerprint"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn visitor(app: &Router) -> Browser {
    let mut browser = Browser::default();
    browser.get(app, "/set?k=name&v=mia").await.ok();
    browser
}

#[tokio::test]
async fn soft_allows_the_request_and_emits_one_event_per_network() {
    let site = Site::new(Fingerprinting::Soft);
    let home = site.from("203.0.113.7");
    let browser = visitor(&home).await;
    assert_eq!(facts(&browser, &home).await, "Match");
    assert_eq!(facts(&browser, &site.from("203.0.113.250")).await, "Match");
    assert_eq!(
        facts(&browser, &site.from("::ffff:203.0.113.9")).await,
        "Match"
    );
    assert_eq!(site.events("FingerprintMismatch"), 0);
    for _ in 0..3 {
        let away = facts(&browser, &site.from("198.51.100.7")).await;
        assert_eq!(
            away,
            r#"Mismatch { bound: "203.0.113.0/24", seen: "198.51.100.0/24" }"#
        );
    }
    assert_eq!(site.events("FingerprintMismatch"), 1);
    let further = facts(&browser, &site.from("192.0.2.7")).await;
    assert!(further.contains("192.0.2.0/24"), "{further}");
    assert_eq!(site.events("FingerprintMismatch"), 2);
    assert_eq!(facts(&browser, &site.app).await, "Unknown");
    assert_eq!(site.events("AddressProblem"), 0, "soft needs no address");
    assert_eq!(
        browser.peek(&site.from("198.51.100.7"), "/read").await.ok(),
        "name"
    );
}

#[tokio::test]
async fn off_neither_stores_nor_compares_the_network() {
    let site = Site::new(Fingerprinting::Off);
    let browser = visitor(&site.from("203.0.113.7")).await;
    assert_eq!(facts(&browser, &site.from("198.51.100.7")).await, "Off");
}

#[tokio::test]
async fn strict_hides_the_session_and_keeps_it_and_its_cookie() {
    let site = Site::new(Fingerprinting::Strict);
    let home = site.from("203.0.113.7");
    let browser = visitor(&home).await;
    for away in [
        site.from("198.51.100.7"),
        site.from("192.0.2.7"),
        site.app.clone(),
    ] {
        let before = site.calls.so_far();
        let page = browser.peek(&away, "/read").await;
        assert_eq!((page.set_cookies().len(), page.ok().as_str()), (0, ""));
        for path in [
            "/set?k=name&v=evil",
            "/login?u=eve",
            "/incr-now?k=n",
            "/cycle",
        ] {
            let page = browser.peek(&away, path).await;
            assert_eq!(
                (page.status.as_u16(), page.set_cookies().len()),
                (409, 0),
                "{path}"
            );
            let text = "The session cannot be used from this network.\n";
            assert_eq!(page.text, text, "{path}");
        }
        let after = site.calls.so_far();
        assert_eq!(before[1..], after[1..], "nothing but loads");
    }
    assert_eq!(site.events("AddressProblem { problem: UnknownPeer }"), 1);
    assert_eq!(site.events("FingerprintMismatch"), 2);
    assert!(site.events("Denied") > 0 && site.events("Refused") == 0);
    assert_eq!(browser.peek(&home, "/get?k=name").await.ok(), "\"mia\"");
}

#[tokio::test]
async fn strict_allows_a_logout_from_any_network() {
    let site = Site::new(Fingerprinting::Strict);
    let home = site.from("203.0.113.7");
    let browser = visitor(&home).await;
    let mut away = browser.clone();
    away.get(&site.from("198.51.100.7"), "/logout").await.ok();
    assert_eq!(away.cookie, None);
    assert_eq!(browser.peek(&home, "/read").await.ok(), "");
}

#[tokio::test]
async fn a_session_without_a_network_is_bound_to_the_first_that_writes() {
    let store = MemoryStore::new();
    let with = |mode| app(SessionLayer::new(store.clone()).with_fingerprinting(mode));
    let from = |app: &Router, address: &str| {
        let address: IpAddr = address.parse().unwrap();
        app.clone()
            .layer(MockConnectInfo(SocketAddr::new(address, 1)))
    };
    let browser = visitor(&with(Fingerprinting::Off)).await;
    let strict = with(Fingerprinting::Strict);
    let (home, away) = (from(&strict, "203.0.113.7"), from(&strict, "198.51.100.7"));
    assert_eq!(facts(&browser, &home).await, "Unbound");
    assert_eq!(
        facts(&browser, &away).await,
        "Unbound",
        "reading binds nothing"
    );
    browser.peek(&home, "/incr?k=n").await.ok();
    assert_eq!(facts(&browser, &home).await, "Match");
    assert_eq!(browser.peek(&away, "/read").await.ok(), "");
}

#[tokio::test]
async fn a_login_binds_the_session_to_its_network() {
    let site = Site::new(Fingerprinting::Soft);
    let (home, away) = (site.from("203.0.113.7"), site.from("198.51.100.7"));
    let mut browser = visitor(&home).await;
    browser.get(&away, "/incr?k=n").await.ok();
    assert_eq!(facts(&browser, &home).await, "Match");
    browser.get(&away, "/login?u=mia").await.ok();
    assert_eq!(facts(&browser, &away).await, "Match");
}

#[tokio::test]
async fn a_browser_may_use_one_network_of_each_address_family() {
    for mode in [Fingerprinting::Soft, Fingerprinting::Strict] {
        let site = Site::new(mode);
        let (four, six) = (site.from("203.0.113.7"), site.from("2001:db8::7"));
        let other_six = site.from("2001:db8:0:1::7");
        let browser = visitor(&four).await;
        let other = r#"OtherFamily { bound: "203.0.113.0/24", seen: "2001:db8::/64" }"#;
        for _ in 0..2 {
            assert_eq!(facts(&browser, &six).await, other, "reading binds nothing");
        }
        assert!(facts(&browser, &other_six).await.starts_with("Other"));
        assert_eq!(site.events("OtherFamily"), 2, "once for each network");
        // The first that writes.
        assert_eq!(browser.peek(&six, "/incr?k=n").await.ok(), "1");
        for app in [&four, &six, &site.from("2001:db8::ffff")] {
            assert_eq!(facts(&browser, app).await, "Match");
        }
        assert_eq!(site.events("FingerprintMismatch"), 0);
        for away in [&other_six, &site.from("198.51.100.7")] {
            match mode {
                Fingerprinting::Strict => assert_eq!(browser.peek(away, "/read").await.ok(), ""),
                _ => {
                    let facts = facts(&browser, away).await;
                    let bound = r#"Mismatch { bound: "203.0.113.0/24 2001:db8::/64""#;
                    assert!(facts.starts_with(bound), "{facts}");
                }
            }
        }
        assert_eq!(site.events("FingerprintMismatch"), 2);
        assert_eq!(site.events("OtherFamily"), 2);
    }
}

#[tokio::test]
async fn a_login_drops_the_network_of_the_other_family() {
    let site = Site::new(Fingerprinting::Strict);
    let (four, six) = (site.from("203.0.113.7"), site.from("2001:db8::7"));
    let other_six = site.from("2001:db8:0:1::7");
    let mut browser = visitor(&four).await;
    browser.get(&six, "/incr?k=n").await.ok();
    assert_eq!(browser.peek(&other_six, "/read").await.ok(), "");
    browser.get(&four, "/login?u=mia").await.ok();
    assert_eq!(facts(&browser, &four).await, "Match");
    // Nothing is bound of the other family, so its first write binds another network than before.
    assert!(facts(&browser, &six).await.starts_with("OtherFamily"));
    browser.get(&other_six, "/incr?k=n").await.ok();
    assert_eq!(browser.peek(&six, "/read").await.ok(), "");
    assert_eq!(facts(&browser, &other_six).await, "Match");
}

/// A site behind a proxy, which `client_address` trusts; `mode` decides what a mismatch means.
fn behind(mode: Fingerprinting, client_address: ClientAddress) -> Site {
    Site::with(mode, |layer| layer.with_client_address(client_address))
}

/// The fingerprint of a request by this peer, with a header.
async fn sent(site: &Site, browser: &Browser, peer: &str, header: Option<(&str, &str)>) -> String {
    let mut request = Request::get("/facts");
    if let Some(cookie) = &browser.cookie {
        request = request.header("cookie", cookie);
    }
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    let request = request.body(Body::empty()).unwrap();
    let facts = fetch(&site.from(peer), request).await.ok();
    serde_json::from_str::<serde_json::Value>(&facts).unwrap()["fingerprint"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn a_trusted_proxy_names_the_client_and_nobody_else_does() {
    let proxies = ClientAddress::trusted_proxies(["10.0.0.0/8"]).unwrap();
    for mode in [Fingerprinting::Soft, Fingerprinting::Strict] {
        let site = behind(mode, proxies.clone());
        let browser = visitor(&site.from("203.0.113.7")).await;
        let xff = |value| Some(("x-forwarded-for", value));
        let home = "198.51.100.1, 203.0.113.9, 10.1.1.1";
        assert_eq!(sent(&site, &browser, "10.0.0.2", xff(home)).await, "Match");
        for (peer, header) in [
            ("10.0.0.2", "203.0.113.7, 198.51.100.1"),
            // A thief who connects around the proxy, and writes the header of the victim.
            ("198.51.100.1", "203.0.113.7"),
        ] {
            let found = sent(&site, &browser, peer, xff(header)).await;
            match mode {
                Fingerprinting::Strict => assert!(!found.contains("Match"), "{found}"),
                _ => assert!(found.contains("seen: \"198.51.100.0/24\""), "{found}"),
            }
        }
        assert_eq!(site.events("AddressProblem"), 0);
    }
}

#[tokio::test]
async fn an_address_problem_is_reported_once_for_each_kind() {
    type Case = (
        Option<ClientAddress>,
        &'static str,
        Option<(&'static str, &'static str)>,
        &'static str,
        &'static str,
    );
    let proxies = || ClientAddress::trusted_proxies(["10.0.0.2"]).ok();
    let hops = || ClientAddress::hops(3).ok();
    let xff = |value| Some(("x-forwarded-for", value));
    let cases: [Case; 7] = [
        (
            None,
            "10.0.0.2",
            xff("203.0.113.7"),
            "UntrustedProxy",
            "trusted_proxies = [\"10.0.0.2\"], header = \"x-forwarded-for\"",
        ),
        (None, "203.0.113.7", xff("203.0.113.7"), "", ""),
        (None, "127.0.0.1", None, "", ""),
        (
            proxies(),
            "10.0.0.3",
            xff("203.0.113.7"),
            "UntrustedProxy",
            "trusted_proxies = [\"10.0.0.3\"]",
        ),
        (
            proxies(),
            "10.0.0.2",
            Some(("x-real-ip", "203.0.113.7")),
            "MissingHeader",
            "client_address.header",
        ),
        (
            proxies(),
            "10.0.0.2",
            xff("203.0.113.7, unknown"),
            "UnreadableHeader",
            "write addresses",
        ),
        (
            hops(),
            "10.0.0.2",
            xff("203.0.113.7, 10.1.1.1"),
            "UnreadableHeader",
            "client_address.hops",
        ),
    ];
    for (client_address, peer, header, kind, advice) in cases {
        let site = match client_address {
            Some(client_address) => behind(Fingerprinting::Soft, client_address),
            None => Site::new(Fingerprinting::Soft),
        };
        // A visitor without a session has no network to compare.
        sent(&site, &Browser::default(), peer, header).await;
        assert_eq!(site.events("AddressProblem"), 0, "{kind}");
        let browser = visitor(&site.from("203.0.113.7")).await;
        let before = site.events("AddressProblem");
        for _ in 0..3 {
            sent(&site, &browser, peer, header).await;
        }
        let reports = site.events("AddressProblem") - before;
        assert_eq!(reports, usize::from(!kind.is_empty()), "{kind}");
        if !kind.is_empty() {
            let report = site.event("AddressProblem");
            assert!(report.contains(kind), "{report}");
            assert!(report.contains(advice), "{report}");
        }
    }
}

#[tokio::test]
async fn the_function_of_the_application_takes_the_place_of_the_setting() {
    let hops = ClientAddress::hops(1).unwrap();
    let site = Site::with(Fingerprinting::Strict, |layer| {
        layer
            .with_client_ip(|parts| parts.headers.get("x-own")?.to_str().ok()?.parse().ok())
            .with_client_address(hops)
    });
    let header = |name| Some((name, "203.0.113.7"));
    let new = Browser::default();
    assert_eq!(
        sent(&site, &new, "10.0.0.2", header("x-own")).await,
        "Unbound"
    );
    let forwarded = header("x-forwarded-for");
    assert_eq!(sent(&site, &new, "10.0.0.2", forwarded).await, "Unknown");
    let browser = visitor(&site.app).await;
    sent(&site, &browser, "10.0.0.2", forwarded).await;
    let report = site.event("AddressProblem");
    assert!(report.contains("with_client_ip"), "{report}");
}

#[tokio::test]
async fn the_application_can_supply_the_client_address() {
    let layer = SessionLayer::new(MemoryStore::new())
        .with_client_ip(|parts| parts.headers.get("x-real-ip")?.to_str().ok()?.parse().ok());
    let app = app(layer);
    let request = axum::http::Request::get("/facts").header("x-real-ip", "203.0.113.7");
    let page =
        crate::support::browser::fetch(&app, request.body(axum::body::Body::empty()).unwrap())
            .await;
    assert!(page.ok().contains("Unbound"));
}
