//! Arbitrary cookies and arbitrary stored values: the visitor is anonymous or has the genuine session. No request
//! panics, and no data is lost.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::{HeaderValue, Request};
use proptest::prelude::*;
use sessile::{Event, MemoryStore, SessionLayer, TokenHeader, Transport};

use crate::support::app::app;
use crate::support::browser::fetch;
use crate::support::{Browser, Gate, Ground, Spy};

fn request(cookies: &[&[u8]]) -> Request<Body> {
    let mut request = Request::get("/read");
    for cookie in cookies {
        request = request.header("cookie", HeaderValue::from_bytes(cookie).unwrap());
    }
    request.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn forged_and_malformed_cookies_do_not_affect_the_genuine_one() {
    let spy = Spy::on(MemoryStore::new());
    let calls = spy.calls.clone();
    let app = app(SessionLayer::new(spy));
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    let mut thief = Browser::default();
    thief.get(&app, "/set?k=evil&v=eve").await.ok();
    let (genuine, evil) = (browser.cookie.clone().unwrap(), thief.token());
    let forged = [
        format!("__%48ost-id={evil}"),
        format!("__host-id={evil}"),
        format!("\u{2000}__Host-id={evil}"),
        format!("\u{a0}__Host-id={evil}"),
        format!("=__Host-id={evil}"),
        format!("\"__Host-id\"={evil}"),
        "odd=\u{ff}".to_owned(),
        "a=;".repeat(50_000),
    ];
    let before = calls.so_far()[0];
    for forged in &forged {
        assert_eq!(
            fetch(&app, request(&[forged.as_bytes()])).await.ok(),
            "",
            "{forged:.60}"
        );
    }
    assert_eq!(calls.so_far()[0], before, "no load for a malformed cookie");
    for forged in &forged {
        for cookies in [
            [forged.as_bytes(), genuine.as_bytes()],
            [genuine.as_bytes(), forged.as_bytes()],
        ] {
            assert_eq!(
                fetch(&app, request(&cookies)).await.ok(),
                "name",
                "{forged:.60}"
            );
        }
    }
    let invalid = b"odd=\xff\xfe\x80; x".to_vec();
    assert_eq!(
        fetch(&app, request(&[&invalid, genuine.as_bytes()]))
            .await
            .ok(),
        "name"
    );
    let both = format!("{genuine}; __Host-id={evil}");
    assert_eq!(
        fetch(&app, request(&[both.as_bytes()])).await.ok(),
        "",
        "two tokens: neither"
    );
    let url = Request::get(format!("/read?id={evil}&__Host-id={evil}"))
        .header("authorization", format!("Bearer {evil}"))
        .header("x-session-id", evil)
        .body(Body::empty())
        .unwrap();
    assert_eq!(
        fetch(&app, url).await.ok(),
        "",
        "only a cookie can carry a token"
    );
}

proptest! {
    #[test]
    fn a_cookie_of_arbitrary_bytes_makes_the_visitor_anonymous(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let Ok(cookie) = HeaderValue::from_bytes(&[b"__Host-id=", &bytes[..]].concat()) else { return Ok(()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let page = runtime.block_on(async {
            let app = app(SessionLayer::new(MemoryStore::new()));
            let request = Request::get("/incr?k=n").header("cookie", cookie).body(Body::empty()).unwrap();
            fetch(&app, request).await
        });
        prop_assert_eq!(page.text, "1");
    }

    #[test]
    fn a_header_of_arbitrary_bytes_makes_the_client_anonymous(
        scheme in prop_oneof![Just("Bearer "), Just("bearer"), Just("")],
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        times in 1..3_usize,
    ) {
        let Ok(header) = HeaderValue::from_bytes(&[scheme.as_bytes(), &bytes[..]].concat()) else { return Ok(()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let page = runtime.block_on(async {
            let layer = SessionLayer::new(MemoryStore::new());
            let transport = Transport::Header(TokenHeader::default());
            let app = app(layer.with_transport(transport).unwrap());
            let mut request = Request::get("/incr?k=n");
            for _ in 0..times {
                request = request.header("authorization", header.clone());
            }
            fetch(&app, request.body(Body::empty()).unwrap()).await
        });
        prop_assert_eq!(page.text, "1");
    }
}

struct Tampered {
    ground: Ground,
    layer: SessionLayer,
    app: axum::Router,
    events: Arc<Mutex<Vec<String>>>,
    browser: Browser,
    key: String,
}

impl Tampered {
    async fn new() -> Self {
        let ground = Ground::new();
        let store = ground.store().await;
        let prefix = sessile::SessionStore::namespace(&store).to_owned();
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&events);
        let observe = move |event: &Event| seen.lock().unwrap().push(format!("{event:?}"));
        let layer = SessionLayer::new(store).with_observer(observe);
        let app = app(layer.clone());
        let mut browser = Browser::default();
        browser.get(&app, "/set?k=name&v=mia").await.ok();
        let pattern = format!("{prefix}*");
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg(pattern)
            .query(&mut ground.connection())
            .unwrap();
        let [key] = keys.try_into().unwrap();
        Self {
            ground,
            layer,
            app,
            events,
            browser,
            key,
        }
    }

    fn run<T: redis::FromRedisValue>(&self, command: &mut redis::Cmd) -> T {
        command.query(&mut self.ground.connection()).unwrap()
    }

    fn value(&self) -> String {
        self.run(redis::cmd("GET").arg(&self.key))
    }

    fn set(&self, value: &str) {
        self.run(
            redis::cmd("SET")
                .arg(&self.key)
                .arg(value)
                .arg("PX")
                .arg(100_000),
        )
    }

    fn has_event(&self, kind: &str) -> bool {
        std::mem::take(&mut *self.events.lock().unwrap())
            .iter()
            .any(|event| event.starts_with(kind))
    }
}

#[tokio::test]
async fn a_value_that_is_not_a_record_makes_the_visitor_anonymous_and_is_kept() {
    let tampered = Tampered::new().await;
    let good = tampered.value();
    for bad in [
        "",
        "x",
        "null",
        "{}",
        "[1]",
        "{\"version\":\"0000000000000001\"}",
        &good[..good.len() - 1],
        &good[..good.len() / 2],
        &good.replacen("\"secret\":\"", "\"secret\":\"!", 1),
        &good.replacen("\"deadline\":", "\"deadline\":-", 1),
        &good.replacen("{\"version\"", "{ \"version\"", 1),
        &good.replacen("\"data\":{", "\"data\":[{", 1),
    ] {
        tampered.set(bad);
        let page = tampered.browser.peek(&tampered.app, "/read").await;
        assert_eq!(
            (page.set_cookies().len(), page.ok().as_str()),
            (0, ""),
            "{bad}"
        );
        assert!(tampered.has_event("UnreadableRecord"), "{bad}");
        let mut visitor = tampered.browser.clone();
        visitor.get(&tampered.app, "/incr?k=n").await.ok();
        assert_ne!(
            visitor.token()[..21],
            tampered.browser.token()[..21],
            "the visitor gets a new session"
        );
        assert_eq!(tampered.value(), bad, "the value is kept");
    }
    tampered.set(&good);
    assert_eq!(
        tampered.browser.peek(&tampered.app, "/read").await.ok(),
        "name"
    );
}

#[tokio::test]
async fn a_redis_list_under_the_key_makes_the_visitor_anonymous_and_is_kept() {
    let tampered = Tampered::new().await;
    let _: () = tampered.run(redis::cmd("DEL").arg(&tampered.key));
    let _: () = tampered.run(redis::cmd("RPUSH").arg(&tampered.key).arg("a").arg("b"));
    assert_eq!(tampered.browser.peek(&tampered.app, "/read").await.ok(), "");
    assert!(tampered.has_event("UnreadableRecord"));
    tampered.browser.peek(&tampered.app, "/incr?k=n").await.ok();
    let length: u32 = tampered.run(redis::cmd("LLEN").arg(&tampered.key));
    assert_eq!(length, 2);
}

#[tokio::test]
async fn a_record_corrupted_while_the_handler_runs_is_not_overwritten() {
    for spoil in ["string", "list", "newer"] {
        let tampered = Tampered::new().await;
        let spoiled = tampered.value().replace("\"format\":1", "\"format\":3");
        let gate = Gate::new();
        let path = format!("/slow?k=late&{}", gate.query());
        let slow = tampered.browser.peek(&tampered.app, &path);
        let change = async {
            gate.arrived(1).await;
            match spoil {
                "string" => tampered.set("x"),
                "newer" => tampered.set(&spoiled.replacen("\"version\":\"0", "\"version\":\"1", 1)),
                _ => {
                    let _: () = tampered.run(redis::cmd("DEL").arg(&tampered.key));
                    let _: () = tampered.run(redis::cmd("RPUSH").arg(&tampered.key).arg("a"));
                }
            }
            gate.open();
        };
        let (page, ()) = tokio::join!(slow, change);
        assert_eq!(
            (page.status.as_u16(), page.set_cookies().len()),
            (409, 0),
            "{spoil}"
        );
        let kind: String = tampered.run(redis::cmd("TYPE").arg(&tampered.key));
        assert_eq!(kind, if spoil == "list" { "list" } else { "string" });
    }
}

#[tokio::test]
async fn a_record_of_a_newer_format_is_not_modified_and_its_cookie_is_kept() {
    let tampered = Tampered::new().await;
    let newer = tampered
        .value()
        .replace("\"format\":1", "\"format\":3")
        .replace("\"epoch\"", "\"era\"");
    tampered.set(&newer);
    assert_eq!(tampered.browser.peek(&tampered.app, "/read").await.ok(), "");
    assert!(tampered.has_event("UnreadableRecord"));
    for path in ["/incr?k=n", "/logout", "/login?u=eve"] {
        let page = tampered.browser.peek(&tampered.app, path).await;
        assert_eq!(
            (page.status.as_u16(), page.set_cookies().len()),
            (409, 0),
            "{path}"
        );
    }
    assert_eq!(tampered.value(), newer);
}

#[tokio::test]
async fn fields_of_a_later_version_survive_a_write() {
    let tampered = Tampered::new().await;
    let value = tampered.value();
    tampered.set(&value.replacen("\"data\":", "\"later\":{\"x\": [1.0]},\"data\":", 1));
    tampered.browser.peek(&tampered.app, "/incr?k=n").await.ok();
    assert!(
        tampered.value().contains("\"later\":{\"x\": [1.0]}"),
        "{}",
        tampered.value()
    );
}

#[tokio::test]
async fn messages_of_a_later_version_are_kept_and_shown_as_far_as_possible() {
    let tampered = Tampered::new().await;
    let urgent = r#"{"level":"urgent","text":"now","button":{"n": 1.0}}"#;
    let bare = r#"{"text":"bare"}"#;
    let odd = r#"{"level":{"of": 2},"text":"odd"}"#;
    let unreadable = r#"["a message of", {"another":"kind"}]"#;
    let flashes = format!("\"flash\":[{urgent},{bare},{odd},{unreadable}],\"data\":");
    let retired = r#"{"secret":"of another kind","until":9999999999999}"#;
    let retired = format!("\"retired\":[{retired}],\"created\":");
    let value = tampered.value().replacen("\"data\":", &flashes, 1);
    tampered.set(&value.replacen("\"created\":", &retired, 1));

    let browser = &tampered.browser;
    assert_eq!(browser.peek(&tampered.app, "/read").await.ok(), "name");
    assert!(!tampered.has_event("UnreadableRecord"));
    browser.peek(&tampered.app, "/incr?k=n").await.ok();
    let value = tampered.value();
    assert!(value.contains(&flashes[..flashes.len() - 8]), "{value}");
    assert!(value.contains(&retired[..retired.len() - 10]), "{value}");

    let routes = axum::Router::new().route(
        "/keep",
        axum::routing::get(|session: sessile::Session| async move {
            let taken = session.take_flashes().await.unwrap();
            let shown = taken.iter().map(|it| format!("{} {}", it.level, it.text));
            let shown = shown.collect::<Vec<_>>().join(",");
            assert!(session.peek_flashes().is_empty());
            session.keep_flashes().unwrap();
            shown
        }),
    );
    let app = routes.layer(tampered.layer.clone());
    let shown = browser.peek(&app, "/keep").await.ok();
    assert_eq!(shown, "info now,info bare,info odd");
    let value = tampered.value();
    let kept = format!("\"flash\":[{unreadable},{urgent},{bare},{odd}]");
    assert!(value.contains(&kept), "{value}");

    let shown = browser.peek(&tampered.app, "/flashes").await.ok();
    assert_eq!(shown, "now,bare,odd");
    for number in 0..64 {
        let add = format!("/flash?text={number}");
        browser.peek(&tampered.app, &add).await.ok();
        let waits = tampered.value().contains(unreadable);
        assert_eq!(waits, number < 63, "the oldest of 64 messages is dropped");
    }
}

#[tokio::test]
async fn the_record_of_another_session_is_rejected_under_this_key() {
    let tampered = Tampered::new().await;
    let mut other = Browser::default();
    other.get(&tampered.app, "/set?k=role&v=admin").await.ok();
    let prefix = tampered.key.rsplit_once(':').unwrap().0;
    let keys: Vec<String> = tampered.run(redis::cmd("KEYS").arg(format!("{prefix}:*")));
    let admin = keys.into_iter().find(|key| *key != tampered.key).unwrap();
    let record: String = tampered.run(redis::cmd("GET").arg(&admin));
    tampered.set(&record);
    assert_eq!(tampered.browser.peek(&tampered.app, "/read").await.ok(), "");
}

#[tokio::test]
async fn a_call_on_a_value_of_another_type_fails_and_keeps_the_value() {
    let tampered = Tampered::new().await;
    let page = tampered.browser.peek(&tampered.app, "/incr?k=name").await;
    assert_eq!(page.status, 500);
    for path in ["/number?k=name", "/push?k=name&v=x", "/cart-over-name"] {
        let status = tampered.browser.peek(&tampered.app, path).await.status;
        assert!(status == 500 || status == 404, "{path}: {status}");
    }
    assert_eq!(
        tampered
            .browser
            .peek(&tampered.app, "/get?k=name")
            .await
            .ok(),
        "\"mia\""
    );
}
