//! Several cookies of the session cookie's name: its path or domain has changed, or another application has one, too.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, header};
use axum::routing::get;
use sessile::{
    Concurrency, CookieConfig, Event, Exclusive, Load, Logout, MemoryStore, Session, SessionConfig,
    SessionLayer,
};

use crate::support::app::routes;
use crate::support::browser::{Page, fetch};
use crate::support::late::Late;
use crate::support::{Browser, Proxy, Server, Spy, Window, store_with};

/// A layer whose cookie is called `id`.
fn layer(store: impl sessile::SessionStore, path: &str, domain: Option<&str>) -> SessionLayer {
    let mut cookie = CookieConfig::default().with_name("id").with_path(path);
    cookie.domain = domain.map(str::to_owned);
    let config = SessionConfig::default().with_cookie(cookie);
    SessionLayer::try_new(store, config).unwrap()
}

/// An application that is served at the root and below `/app`.
fn site(layer: SessionLayer) -> Router {
    let logs_out = |logout: Logout| async move { logout.end_session() };
    let routes = || routes().route("/log-out", get(logs_out));
    let nested = routes().layer(layer.clone());
    routes().layer(layer).nest("/app", nested)
}

#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    fn observe(&self, layer: SessionLayer) -> SessionLayer {
        let seen = Arc::clone(&self.0);
        layer.with_observer(move |event: &Event| seen.lock().unwrap().push(event.name().to_owned()))
    }

    /// The events about cookies since the last call.
    fn take(&self) -> Vec<String> {
        let mut seen = std::mem::take(&mut *self.0.lock().unwrap());
        seen.retain(|event| event.ends_with("cookie") || event.ends_with("cookies"));
        seen
    }
}

/// Sends a request with these cookies, in this order.
async fn ask(app: &Router, path: &str, cookies: &[&str]) -> Page {
    let request = Request::get(path).header("cookie", cookies.join("; "));
    fetch(app, request.body(Body::empty()).unwrap()).await
}

/// The cookie of a new session with this key.
async fn session(app: &Router, key: &str) -> String {
    let mut browser = Browser::default();
    browser.get(app, &format!("/set?k={key}&v=x")).await.ok();
    browser.cookie.unwrap()
}

const PLACES: [(&str, Option<&str>); 6] = [
    ("/", None),
    ("/app", None),
    ("/", Some("example.org")),
    ("/app", Some("example.org")),
    ("/", Some("shop.example.org")),
    ("/app", Some("shop.example.org")),
];

#[tokio::test]
async fn after_a_change_of_path_or_domain_visitors_can_sign_in_and_out_again() {
    const URL: &str = "https://shop.example.org/app";
    for old in PLACES {
        for new in PLACES {
            // The old layer belongs to another application with other sessions, or to the same one.
            for shared in [false, true] {
                let store = MemoryStore::new();
                let other = MemoryStore::new();
                let other = if shared { store.clone() } else { other };
                let before = site(layer(other, old.0, old.1));
                let now = site(layer(store, new.0, new.1));
                let window = Window::default();
                window
                    .get(&before, &format!("{URL}/login?u=old"))
                    .await
                    .ok();
                // As while both are in use.
                let mut other = Browser::default();
                let set = other.get(&now, "/app/set?k=name&v=mia").await;
                window.keep(&set, &URL.parse().unwrap());
                let what = format!("{old:?} {new:?} {shared}");

                window.get(&now, &format!("{URL}/login?u=mia")).await.ok();
                let page = window.get(&now, &format!("{URL}/whoami")).await;
                assert_eq!(page.ok(), "mia", "{what}");
                assert_eq!(window.sends(&format!("{URL}/whoami")), 1, "{what}");
                window.get(&now, &format!("{URL}/logout")).await.ok();
                assert_eq!(window.sends(&format!("{URL}/whoami")), 0, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn a_session_survives_a_rotation_that_moves_its_cookie() {
    const URL: &str = "https://shop.example.org/app";
    let store = MemoryStore::new();
    let (before, now) = (
        site(layer(store.clone(), "/", None)),
        site(layer(store, "/app", None)),
    );
    let window = Window::default();
    window
        .get(&before, &format!("{URL}/set?k=name&v=mia"))
        .await
        .ok();
    window.get(&now, &format!("{URL}/login?u=mia")).await.ok();
    assert_eq!(window.sends(&format!("{URL}/read")), 2, "old and new");
    assert_eq!(window.get(&now, &format!("{URL}/read")).await.ok(), "name");
    assert_eq!(window.get(&now, &format!("{URL}/whoami")).await.ok(), "mia");
    window.get(&now, &format!("{URL}/cycle")).await.ok();
    assert_eq!(window.sends(&format!("{URL}/read")), 1);
    assert_eq!(window.get(&now, &format!("{URL}/whoami")).await.ok(), "mia");
}

#[tokio::test]
async fn the_one_valid_session_is_used_in_any_order_of_the_cookies() {
    let spy = Spy::on(MemoryStore::new());
    let calls = Arc::clone(&spy.calls);
    let events = Events::default();
    let layer = events.observe(layer(spy, "/", None));
    let app = site(layer);
    let elsewhere = site(self::layer(MemoryStore::new(), "/", None));
    let retired = session(&app, "mia").await;
    let mut mia = Browser {
        cookie: Some(retired.clone()),
    };
    mia.get(&app, "/cycle").await.ok();
    let mia = mia.cookie.unwrap();
    let noa = session(&app, "noa").await;
    let others = [
        session(&elsewhere, "eve").await,
        session(&elsewhere, "eve").await,
        session(&elsewhere, "eve").await,
    ];
    let [one, two, three] = &others;
    let wrong = format!("id={}{}", &mia[3..25], "A".repeat(21));
    for (cookies, keys, expected_events, loads) in [
        (&[&mia[..]][..], "mia", &[][..], 1),
        (&[&mia, &mia], "mia", &[], 1),
        (&[&mia, one], "mia", &["several_cookies"], 2),
        // One load per session.
        (&[&mia, two], "mia", &[], 2),
        (&[&mia, &retired], "mia", &[], 1),
        (&[&mia, &wrong], "mia", &[], 1),
        (&[&mia, one, &mia, two, one], "mia", &[], 3),
        (&[&mia, one, two, three], "mia", &[], 4),
        (&[&mia, "id=x"], "mia", &["malformed_cookie"], 1),
        (&[&mia, "id=x", one], "mia", &["malformed_cookie"], 2),
        (&[one, two], "", &[], 2),
        (&[&retired, one], "", &[], 2),
        (&[&mia, &noa], "", &["ambiguous_cookie"], 2),
        (&[&mia, &noa, one], "", &["ambiguous_cookie"], 3),
        (
            &[&mia, &retired, one, two, three],
            "",
            &["ambiguous_cookie"],
            0,
        ),
    ] {
        for turn in 0..cookies.len() {
            let mut cookies = cookies.to_vec();
            cookies.rotate_left(turn);
            for _ in 0..2 {
                cookies.reverse();
                let before = calls.so_far()[0];
                assert_eq!(ask(&app, "/read", &cookies).await.ok(), keys);
                assert_eq!(calls.so_far()[0] - before, loads, "{}", cookies.len());
                let seen = events.take();
                if expected_events != ["several_cookies"] || !seen.is_empty() {
                    assert_eq!(seen, expected_events);
                }
            }
        }
    }
    // A retired token of another session does not prevent writes.
    let late = ask(&app, "/incr?k=n", &[&retired, &noa]).await;
    assert_eq!(late.set_cookies(), Vec::<&str>::new());
    assert_eq!(late.ok(), "1");
    // Retired tokens alone do.
    let late = ask(&app, "/incr?k=n", &[&retired, one]).await;
    assert_eq!((late.status.as_u16(), late.set_cookies().len()), (409, 0));
}

#[tokio::test]
async fn a_logout_ends_every_session_that_one_of_the_cookies_opens() {
    let minute = Duration::from_secs(60);
    let exclusive = Concurrency::Exclusive(Exclusive::new(minute).with_lease(minute));
    for load in [Load::Inbound, Load::OnExtract] {
        for concurrency in [Concurrency::Merge, exclusive] {
            let layer = layer(MemoryStore::new(), "/", None)
                .with_load(load)
                .with_concurrency(concurrency);
            let app = site(layer);
            let elsewhere = site(self::layer(MemoryStore::new(), "/", None));
            for path in [
                "/logout",
                "/log-out",
                "/logout-and-say",
                "/logout?then=fail",
            ] {
                let (mia, noa) = (session(&app, "mia").await, session(&app, "noa").await);
                let (lea, eve) = (session(&app, "lea").await, session(&elsewhere, "eve").await);
                for (cookies, all) in [
                    (&[&mia, &noa, &eve][..], &[&mia, &noa][..]),
                    (&[&eve, &lea], &[&lea]),
                ] {
                    let cookies: Vec<&str> = cookies.iter().map(|it| it.as_str()).collect();
                    let page = ask(&app, path, &cookies).await;
                    let status = if path.ends_with("fail") { 500 } else { 200 };
                    assert_eq!(page.status, status, "{path}");
                    for cookie in all {
                        let read = ask(&app, "/read", &[cookie.as_str()]).await.ok();
                        assert_eq!(read, "", "{path} {load:?}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_logout_with_more_than_four_cookies_removes_them_and_ends_no_session() {
    let spy = Spy::on(MemoryStore::new());
    let calls = Arc::clone(&spy.calls);
    let app = site(layer(spy, "/", None));
    let mia = session(&app, "mia").await;
    let made_up: Vec<String> = ["B", "C", "D", "E"]
        .map(|letter| format!("id={}A", letter.repeat(42)))
        .into();
    let mut cookies: Vec<&str> = made_up.iter().map(String::as_str).collect();
    cookies.push(&mia);
    let before = calls.so_far();
    for path in ["/logout", "/log-out"] {
        let page = ask(&app, path, &cookies).await;
        assert_eq!(page.set_cookies().len(), 1);
        assert!(page.set_cookies()[0].contains("Max-Age=0"));
        page.ok();
    }
    assert_eq!(calls.so_far(), before);
    assert_eq!(ask(&app, "/read", &[&mia]).await.ok(), "mia");
}

#[tokio::test]
async fn the_other_cookies_are_removed_before_the_new_one_is_set() {
    let app = site(layer(MemoryStore::new(), "/app", Some("example.org")));
    let (mia, noa) = (session(&app, "mia").await, session(&app, "noa").await);
    let forging = |session: Session| async move {
        session.insert("n", 1).unwrap();
        let forged = [
            (header::SET_COOKIE, "id=forged"),
            (header::SET_COOKIE, "theme=dark"),
        ];
        let mut response = Response::new(Body::empty());
        for (name, value) in forged {
            response
                .headers_mut()
                .append(name, HeaderValue::from_static(value));
        }
        response
    };
    let forging = Router::new().route("/forging", get(forging)).layer(layer(
        MemoryStore::new(),
        "/app",
        Some("example.org"),
    ));
    let two = format!("{mia}; {noa}");
    for (host, domains) in [
        (Some("example.org"), &[][..]),
        (Some("shop.example.org:8443"), &["shop.example.org"]),
        (
            Some("a.shop.example.org"),
            &["shop.example.org", "a.shop.example.org"],
        ),
        (Some("shop.internal"), &["shop.internal"]),
        (None, &[]),
        (Some("localhost"), &[]),
        (Some("127.0.0.1:80"), &[]),
        (Some("[::1]:80"), &[]),
        (Some("\u{fc}.example.org"), &[]),
        (Some("a;b.example.org"), &[]),
    ] {
        let request = |path: &str, cookies: &str| {
            let mut request = Request::get(path).header("cookie", cookies);
            if let Some(host) = host {
                let host = HeaderValue::from_bytes(host.as_bytes()).unwrap();
                request = request.header("host", host);
            }
            request.body(Body::empty()).unwrap()
        };
        // Without a domain, and for the configured one.
        let mut expected = BTreeSet::from([
            (None, "/".to_owned()),
            (None, "/app".to_owned()),
            (Some("example.org".to_owned()), "/".to_owned()),
            (Some("example.org".to_owned()), "/app".to_owned()),
        ]);
        for domain in domains {
            for path in ["/", "/app"] {
                expected.insert((Some((*domain).to_owned()), path.to_owned()));
            }
        }
        for (app, path, removed) in [
            (&app, "/set?k=a&v=b", false),
            (&app, "/logout", true),
            (&app, "/log-out", true),
            (&forging, "/forging", false),
        ] {
            let page = fetch(app, request(path, &two)).await;
            let set = page.set_cookies();
            let (others, set): (Vec<_>, Vec<_>) = set
                .into_iter()
                .partition(|cookie| cookie.starts_with("theme="));
            assert_eq!(others.len(), usize::from(path == "/forging"));
            let places: Vec<_> = set.iter().map(|cookie| place(cookie)).collect();
            let distinct: BTreeSet<_> = places.iter().cloned().collect();
            assert_eq!(distinct, expected, "{host:?} {path}");
            assert_eq!(places.len(), expected.len(), "each once");
            let own = (Some("example.org".to_owned()), "/app".to_owned());
            assert_eq!(places.last(), Some(&own), "it comes last");
            let kept = set.iter().filter(|cookie| !cookie.contains("Max-Age=0"));
            assert_eq!(kept.count(), usize::from(!removed));
            assert_eq!(set.last().unwrap().contains("Max-Age=0"), removed);
        }
        // With one cookie, or on a page that sets none, none is removed.
        let page = fetch(&app, request("/cycle", &session(&app, "lea").await)).await;
        assert_eq!(page.set_cookies().len(), 1);
        let page = fetch(&app, request("/read", &two)).await;
        assert_eq!(page.set_cookies().len(), 0);
    }
}

/// Domain and path of a `Set-Cookie`.
fn place(cookie: &str) -> (Option<String>, String) {
    let says = |name: &str| {
        let mut parts = cookie.split("; ");
        parts
            .find_map(|part| part.strip_prefix(name))
            .map(str::to_owned)
    };
    (says("Domain="), says("Path=").expect("a path"))
}

/// Measured by the store's clock, on which each load takes a second.
#[tokio::test(start_paused = true)]
async fn all_tokens_are_loaded_concurrently() {
    const LOAD: Duration = Duration::from_secs(1);
    let late = Late::before(MemoryStore::new());
    let app = site(layer(late.clone(), "/", None));
    let mut cookies = Vec::new();
    for _ in 0..4 {
        cookies.push(session(&app, "mia").await);
    }
    let cookies: Vec<&str> = cookies.iter().map(String::as_str).collect();
    for _ in &cookies {
        late.slow_load(LOAD);
    }
    let began = tokio::time::Instant::now();
    ask(&app, "/read", &cookies).await.ok();
    assert_eq!(began.elapsed(), LOAD);
}

#[tokio::test]
async fn a_repeated_cookie_is_loaded_once_in_one_round_trip() {
    let server = Server::start();
    let proxy = Proxy::before(server.address()).await;
    let store = store_with(&proxy.url(), |config| config.pool_size = 1).await;
    let app = site(layer(store, "/", None));
    let mia = session(&app, "mia").await;
    for cookies in [&[&mia[..]][..], &[&mia, &mia]] {
        server.reset_counts();
        let before = proxy.round_trips();
        assert_eq!(ask(&app, "/read", cookies).await.ok(), "mia");
        let mut counts = server.counts();
        assert!(counts.take("pttl") <= 1);
        assert_eq!(counts.seen(), [("get", 1)]);
        assert_eq!(proxy.round_trips() - before, 1);
    }
}
