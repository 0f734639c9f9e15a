//! The kit for tests of applications, `sessile::testing`: its clients use real sessions, and its faults and conflicts are real.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Method, Request, Response};
use axum::routing::{get, post};
use axum::{Form, Json};
use futures_util::FutureExt as _;
use sessile::testing::{Call, Fault, TestClient, TestRequest, TestStore};
use sessile::{
    Concurrency, CsrfForm, CsrfLayer, Event, Exclusive, Fingerprinting, Gone, Handle, Key,
    MemoryStore, Session, SessionError, SessionLayer, TokenHeader, Transport,
};
use tokio::time::Instant;
use tower::{ServiceExt as _, service_fn};

use crate::support::app::routes;

const CART: Key<Vec<String>> = Key::new("cart");
const MINUTE: Duration = Duration::from_secs(60);

fn app(layer: &SessionLayer) -> Router {
    routes().layer(layer.clone())
}

/// A store, its layer, and mia, who is signed in.
async fn scene() -> (TestStore, SessionLayer, TestClient) {
    let store = TestStore::new();
    let layer = SessionLayer::new(store.clone());
    let mia = TestClient::signed_in(app(&layer), &layer, "mia").await;
    (store, layer, mia)
}

/// The message with which a test fails that awaits this.
async fn panic_of<T>(future: impl Future<Output = T>) -> String {
    let Err(panic) = AssertUnwindSafe(future).catch_unwind().await else {
        panic!("it does not panic");
    };
    *panic.downcast::<String>().expect("a message")
}

async fn number(client: &TestClient, key: &str) -> String {
    client.get(&format!("/number?k={key}")).await.into_body()
}

/// Why the response has no session.
fn gone(response: &Response<String>) -> Option<Gone> {
    match response.extensions().get() {
        Some(SessionError::Gone(gone)) => Some(*gone),
        _ => None,
    }
}

#[tokio::test]
async fn a_client_keeps_its_session_and_signs_in_and_out_as_a_browser_does() {
    let (store, layer, mia) = scene().await;
    assert_eq!(mia.get("/whoami").await.body(), "mia");
    let tab = mia.clone();
    let visitor = TestClient::new(app(&layer), &layer);
    assert_eq!(visitor.get("/whoami").await.body(), "");
    assert_eq!((visitor.handle(), store.stats().sessions), (None, 1));

    visitor.set("theme", "dark").await;
    let before = visitor.prepare(Request::new(()));
    let handle = visitor.handle();
    assert!(handle.is_some());
    visitor.sign_in("tom").await;
    assert_eq!(visitor.get("/whoami").await.body(), "tom");
    assert_eq!(visitor.get("/get?k=theme").await.body(), "\"dark\"");
    assert_eq!(visitor.handle(), handle);
    let after = visitor.prepare(Request::new(()));
    assert_ne!(before.headers()["cookie"], after.headers()["cookie"]);

    assert!(
        mia.get("/logout")
            .await
            .headers()
            .contains_key("set-cookie")
    );
    assert_eq!((mia.handle(), tab.handle()), (None, None));
    assert_eq!(tab.get("/whoami").await.body(), "");
    assert_eq!(store.stats().sessions, 1);
}

#[tokio::test]
async fn a_closure_uses_the_session_of_its_client() {
    let (_, _, mia) = scene().await;
    let borrowed = vec!["tulips".to_owned()];
    let length = mia
        .with_session(async |session| {
            session.insert(CART, borrowed.clone())?;
            session.increment("n", 1)?;
            Ok(session.keys().len())
        })
        .await;
    assert_eq!((length, borrowed.len()), (2, 1));
    mia.with_session(async |session| session.discard("n")).await;
    assert_eq!(mia.get("/read").await.body(), "cart");

    // An error commits nothing, and says why.
    let failing = mia.with_session(async |session| {
        session.insert("n", 1)?;
        session.get::<i64>("cart")
    });
    let message = panic_of(failing).await;
    assert!(message.contains("\"cart\" is not a i64"), "{message}");
    assert_eq!(mia.get("/read").await.body(), "cart");
}

#[tokio::test]
async fn a_closure_fails_the_test_if_its_session_cannot_be_loaded_or_committed() {
    let (store, _, mia) = scene().await;
    for call in [Call::Load, Call::Replace] {
        store.fail_next(call, Fault::Refuse);
        let message = panic_of(mia.set("n", 1)).await;
        assert!(message.contains("cannot use the session"), "{message}");
        assert!(message.contains("TestStore::recover"), "{message}");
    }
    assert_eq!(number(&mia, "n").await, "0");
}

#[tokio::test]
async fn another_request_meets_this_one_and_both_changes_are_kept() {
    let (_, _, mia) = scene().await;
    let page = mia.get("/incr?k=n").meanwhile(async |other| {
        other.increment("n", 10)?;
        other.push(CART, "tulips".to_owned())
    });
    // This request has loaded the session before the other one wrote.
    assert_eq!(page.await.body(), "1");
    assert_eq!(number(&mia, "n").await, "11");
    let stored = mia.stored().await.unwrap();
    assert_eq!(stored.keys(), ["cart", "n"]);
    assert_eq!(stored.get(CART).unwrap().unwrap(), ["tulips"]);
}

#[tokio::test]
async fn another_request_meets_this_one_where_changes_do_not_merge() {
    let exclusive = Exclusive::new(MINUTE);
    for (concurrency, status, kept) in [
        (Concurrency::Reject, 409, 10),
        (Concurrency::Exclusive(exclusive), 409, 10),
        (Concurrency::LastWriteWins, 200, 1),
    ] {
        let store = TestStore::new();
        let layer = SessionLayer::new(store.clone()).with_concurrency(concurrency);
        let mia = TestClient::signed_in(app(&layer), &layer, "mia").await;
        let page = mia.get("/incr?k=n");
        let page = page.meanwhile(async |other| other.increment("n", 10)).await;
        assert_eq!(page.status().as_u16(), status, "{concurrency:?}");
        let stored = mia.stored().await.unwrap();
        assert_eq!(stored.get("n").unwrap(), Some(kept), "{concurrency:?}");
    }
}

#[tokio::test]
async fn a_request_that_meets_a_logout_or_a_rotation_gets_409() {
    let (_, _, mia) = scene().await;
    let page = mia.get("/incr?k=n");
    let page = page.meanwhile(async |other| other.cycle_id()).await;
    assert_eq!(
        (page.status().as_u16(), gone(&page)),
        (409, Some(Gone::Rotated))
    );
    // The browser has got the new token meanwhile.
    assert_eq!(mia.get("/whoami").await.body(), "mia");
    assert_eq!(number(&mia, "n").await, "0");

    let page = mia.get("/incr?k=n");
    let page = page.meanwhile(async |other| other.destroy()).await;
    assert_eq!(
        (page.status().as_u16(), gone(&page)),
        (409, Some(Gone::Ended))
    );
    assert_eq!(mia.get("/whoami").await.body(), "");

    mia.set("n", 1).await;
    let page = mia.get("/logout");
    let page = page.meanwhile(async |other| other.insert("n", 2)).await;
    assert_eq!((page.status().as_u16(), mia.handle()), (200, None));
}

#[tokio::test]
async fn a_conflict_that_cannot_happen_fails_the_test() {
    let (_, layer, mia) = scene().await;
    let visitor = TestClient::new(app(&layer), &layer);
    let memory = SessionLayer::new(MemoryStore::new());
    let elsewhere = TestClient::signed_in(app(&memory), &memory, "mia").await;
    for (request, message) in [
        (
            mia.get("/whoami"),
            "GET /whoami did not write to its session, so no other request could meet it: the response is 200",
        ),
        (
            visitor.get("/incr?k=n"),
            "GET /incr: the client has no session that another request could change; call `set` or `sign_in` first",
        ),
        (
            elsewhere.get("/incr?k=n"),
            "build it as `SessionLayer::new(TestStore::new())`",
        ),
    ] {
        let found = panic_of(request.meanwhile(async |other| other.clear())).await;
        assert!(found.contains(message), "{found}");
    }
    // What was planned for a request that did not write is not left over.
    assert_eq!(mia.get("/incr?k=n").await.body(), "1");
}

/// How a request ends, by the call that fails: its status, and whether it may be repeated.
#[tokio::test(start_paused = true)]
async fn a_store_fails_by_all_calls_or_by_some_until_it_recovers() {
    let read = |client: &TestClient| client.get("/read");
    let change = |client: &TestClient| client.get("/incr?k=n");
    type Sends = fn(&TestClient) -> TestRequest;
    let cases: [(Sends, Call, Fault, u16, bool); 12] = [
        (read, Call::Load, Fault::Unavailable, 503, true),
        (read, Call::Load, Fault::Refuse, 503, true),
        (read, Call::Load, Fault::Hang, 503, true),
        (read, Call::Load, Fault::LoseRequest, 503, true),
        (read, Call::Load, Fault::LoseAnswer, 503, true),
        (read, Call::Replace, Fault::Unavailable, 200, false),
        (change, Call::Load, Fault::Unavailable, 503, true),
        (change, Call::Replace, Fault::Unavailable, 503, true),
        (change, Call::Replace, Fault::Refuse, 503, true),
        (change, Call::Replace, Fault::LoseRequest, 503, false),
        (change, Call::Replace, Fault::LoseAnswer, 503, false),
        (change, Call::Replace, Fault::Hang, 503, false),
    ];
    for (send, call, fault, status, may_repeat) in cases {
        let (store, layer, mia) = scene().await;
        store.fail_all(call, fault);
        let began = Instant::now();
        let page = send(&mia).await;
        let waited = began.elapsed();
        let case = format!("{call:?} {fault:?}: {page:?}");
        assert_eq!(page.status().as_u16(), status, "{case}");
        assert_eq!(
            page.headers().contains_key("retry-after"),
            may_repeat,
            "{case}"
        );
        assert_eq!(waited >= MINUTE, fault == Fault::Hang, "{case}: {waited:?}");
        store.recover();
        assert_eq!(mia.get("/incr?k=m").await.body(), "1", "{case}");
        let is_applied = (call, fault) == (Call::Replace, Fault::LoseAnswer);
        let n = number(&mia, "n").await;
        assert_eq!(n == "1", is_applied, "{case}: {n}");

        // And by all calls.
        store.fail(fault);
        let visitor = TestClient::new(app(&layer), &layer);
        assert_eq!(visitor.get("/plain").await.status(), 200, "{case}");
        assert_eq!(visitor.get("/incr?k=n").await.status(), 503, "{case}");
    }
}

#[tokio::test]
async fn a_single_fault_happens_once_and_a_lost_answer_is_made_up_for() {
    let (store, _, mia) = scene().await;
    for (fault, status) in [
        (Fault::Refuse, 503),
        (Fault::Unavailable, 200),
        (Fault::LoseRequest, 200),
        (Fault::LoseAnswer, 200),
    ] {
        let before = number(&mia, "n").await;
        store.fail_next(Call::Replace, fault);
        assert_eq!(store.faults_left(), 1);
        let page = mia.get("/incr?k=n").await;
        assert_eq!(page.status().as_u16(), status, "{fault:?}");
        assert_eq!(store.faults_left(), 0, "{fault:?}");
        let after: i64 = before.parse().unwrap();
        let after = after + i64::from(status == 200);
        assert_eq!(number(&mia, "n").await, after.to_string(), "{fault:?}");
        mia.get("/incr?k=other").await;
    }
    store.fail_next(Call::Load, Fault::Hang);
    store.recover();
    assert_eq!(mia.get("/whoami").await.body(), "mia");
    assert_eq!(store.faults_left(), 1, "it has not happened");
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_a_hanging_store_as_long_as_its_budget() {
    let budget = Duration::from_millis(300);
    let store = TestStore::new().with_request_budget(budget);
    let layer = SessionLayer::new(store.clone());
    let mia = TestClient::signed_in(app(&layer), &layer, "mia").await;
    store.fail(Fault::Hang);
    let began = Instant::now();
    assert_eq!(mia.get("/read").await.status(), 503);
    assert!(began.elapsed() >= budget && began.elapsed() < 2 * budget);
}

#[tokio::test]
async fn sessions_expire_when_the_clock_of_the_store_moves() {
    let (store, _, mia) = scene().await;
    store.advance(29 * MINUTE);
    assert_eq!(mia.get("/whoami").await.body(), "mia");
    mia.settled().await;
    store.advance(29 * MINUTE);
    assert_eq!(mia.get("/whoami").await.body(), "mia");
    mia.settled().await;
    assert!(mia.stored().await.is_some());
    store.advance(31 * MINUTE);
    assert!(mia.stored().await.is_none());
    assert_eq!(mia.get("/whoami").await.body(), "");
}

#[tokio::test]
async fn a_test_sees_what_is_stored_whether_the_store_works_or_not() {
    let (store, layer, mia) = scene().await;
    mia.get("/set?k=cart&v=tulips").await;
    mia.get("/flash?text=Saved").await;
    store.fail(Fault::Unavailable);
    assert_eq!(mia.get("/set?k=cart&v=roses").await.status(), 503);
    let stored = mia.stored().await.unwrap();
    assert_eq!(stored.principal(), Some("mia"));
    assert_eq!(stored.get::<String>("cart").unwrap().unwrap(), "tulips");
    assert_eq!(stored.flashes()[0].text, "Saved");
    let before = stored.expires_at();
    store.recover();

    // To look does not prolong the session.
    store.advance(20 * MINUTE);
    assert_eq!(mia.stored().await.unwrap().expires_at(), before);
    mia.settled().await;
    assert_eq!(mia.stored().await.unwrap().expires_at(), before);

    // A token that was replaced opens nothing.
    let thief = TestClient::new(app(&layer), &layer);
    assert!(thief.stored().await.is_none());
    let stolen = mia.prepare(Request::new(())).headers()["cookie"].clone();
    let mut headers = axum::http::HeaderMap::new();
    headers.insert("set-cookie", stolen);
    thief.keep(&headers);
    assert!(thief.stored().await.is_some());
    mia.sign_in("mia").await;
    assert!(thief.stored().await.is_none());
    assert_eq!(thief.handle(), mia.handle());
    store.advance(MINUTE);
    assert!(thief.stored().await.is_none());
    assert!(mia.stored().await.is_some());

    let memory = SessionLayer::new(MemoryStore::new());
    let elsewhere = TestClient::signed_in(app(&memory), &memory, "tom").await;
    assert_eq!(elsewhere.stored().await.unwrap().principal(), Some("tom"));
}

#[tokio::test]
async fn a_test_sees_what_a_request_has_written_by_key_and_without_values() {
    let (store, layer, mia) = scene().await;
    let handle = mia.handle().unwrap();
    let shown = |request: TestRequest| async {
        let (_, writes) = request.with_writes().await;
        format!("{writes:?}").replace(&handle.to_string(), "mia's")
    };
    for (path, expected) in [
        (
            "/set?k=cart&v=secret",
            "[Replace of mia's changed \"cart\"]",
        ),
        (
            "/two-keys",
            "[Replace of mia's changed \"first\", \"second\"]",
        ),
        ("/remove?k=cart", "[Replace of mia's changed \"cart\"]"),
        ("/get?k=first", "[]"),
        (
            "/flash?text=secret",
            "[Replace of mia's changed the flash messages]",
        ),
        ("/cycle", "[Replace of mia's changed the token]"),
        (
            "/save-then?status=200&also=write",
            "[Replace of mia's changed \"saved\", Replace of mia's changed \"after\"]",
        ),
        (
            "/login?u=tom",
            "[Replace of mia's changed \"after\", \"first\", \"saved\", \"second\", the principal, the token, the timeouts]",
        ),
        ("/logout", "[Delete of mia's]"),
    ] {
        store.advance(Duration::from_secs(1));
        let found = shown(mia.get(path)).await;
        // The flash messages of mia are dropped with her data.
        let found = found.replace(", the flash messages]", "]");
        assert_eq!(found, expected, "{path}");
    }
    let visitor = TestClient::new(app(&layer), &layer);
    let (_, writes) = visitor.get("/set?k=n&v=1").with_writes().await;
    assert_eq!((writes.len(), writes[0].call), (1, Call::Create));
    assert_eq!(writes[0].keys, ["n"]);
    assert_eq!(Some(writes[0].handle), visitor.handle());
    assert_eq!(store.writes().last(), writes.last());
}

#[tokio::test]
async fn a_read_writes_nothing_and_a_write_fails_the_assertion() {
    let (store, _, mia) = scene().await;
    // The read renews the session, which is no change of it.
    store.advance(20 * MINUTE);
    mia.get("/read").assert_writes_nothing().await;
    assert_eq!(store.writes().last().unwrap().call, Call::Touch);
    // A change that changes nothing is not written either.
    mia.set("n", "5").await;
    mia.get("/set?k=n&v=5").assert_writes_nothing().await;

    let message = panic_of(mia.get("/set?k=n&v=6").assert_writes_nothing()).await;
    let handle = mia.handle().unwrap();
    let expected = format!(
        "GET /set must not write, and has written: [Replace of {handle} changed \"n\"]; the response is 200 OK"
    );
    assert_eq!(message, expected);
}

/// The deletion is retried in the background, after the response.
#[tokio::test(start_paused = true)]
async fn what_is_written_after_the_response_counts() {
    let (store, _, mia) = scene().await;
    store.fail_next(Call::Delete, Fault::Refuse);
    store.fail_next(Call::Delete, Fault::Refuse);
    let (page, writes) = mia.get("/logout").with_writes().await;
    assert_eq!((page.status().as_u16(), store.faults_left()), (503, 0));
    assert_eq!(writes.len(), 1, "{writes:?}");
    assert_eq!(writes[0].call, Call::Delete);
}

#[tokio::test]
async fn a_held_call_waits_until_it_is_released_or_the_hold_is_dropped() {
    for releases in [true, false] {
        let (store, _, mia) = scene().await;
        let mut hold = store.hold(Call::Replace);
        let request = tokio::spawn(mia.get("/incr?k=n").into_future());
        hold.arrived().await;
        hold.arrived().await;
        assert_eq!(number(&mia, "n").await, "0");
        assert!(!request.is_finished());
        match releases {
            true => hold.release(),
            false => drop(hold),
        }
        assert_eq!(request.await.unwrap().body(), "1");
        // Only one call was held, and one that is released before it is made is not held.
        store.hold(Call::Replace).release();
        assert_eq!(mia.get("/incr?k=n").await.body(), "2");
    }
}

#[tokio::test]
async fn a_client_of_an_api_sends_its_token_in_a_header() {
    let layer = SessionLayer::new(TestStore::new());
    let bearer = Transport::Header(TokenHeader::default());
    let layer = layer.with_transport(bearer).unwrap();
    let mia = TestClient::signed_in(app(&layer), &layer, "mia").await;
    let request = mia.prepare(Request::new(()));
    let names: Vec<_> = request.headers().keys().collect();
    assert_eq!(names, ["authorization"]);
    assert_eq!(mia.get("/whoami").await.body(), "mia");
    let page = mia
        .get("/incr?k=n")
        .meanwhile(async |other| other.cycle_id());
    assert_eq!(page.await.status(), 409);
    assert_eq!(mia.get("/whoami").await.body(), "mia");
}

async fn checked(session: Session, _: CsrfForm<Vec<(String, String)>>) -> String {
    session.principal().unwrap_or_default()
}

#[tokio::test]
async fn requests_come_from_the_same_site_unless_the_test_says_otherwise() {
    let layer = SessionLayer::new(TestStore::new());
    let protected = Router::new()
        .route("/", get(async || "read").post(async || "written"))
        .layer(CsrfLayer::new());
    let app = Router::new()
        .route("/form", post(checked))
        .merge(protected)
        .layer(layer.clone());
    let mia = TestClient::signed_in(app, &layer, "mia").await;
    assert_eq!(mia.post("/").await.body(), "written");
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("origin", "https://evil.example"),
    ] {
        let page = mia.post("/").header("host", "shop.example");
        let page = page.header(name, value).await;
        assert_eq!(page.status(), 403, "{name}");
    }
    assert_eq!(mia.post("/form").form([("_csrf", "x")]).await.status(), 403);
    let token = mia.with_session(async |session| session.csrf_token()).await;
    let page = mia.post("/form").form([("_csrf", &*token), ("a", "b c")]);
    assert_eq!(page.await.body(), "mia");
}

async fn echo_form(Form(fields): Form<Vec<(String, String)>>) -> String {
    format!("{fields:?}")
}

async fn echo_json(Json(value): Json<serde_json::Value>) -> String {
    value.to_string()
}

async fn address(ConnectInfo(address): ConnectInfo<SocketAddr>) -> String {
    address.to_string()
}

#[tokio::test]
async fn a_request_carries_a_body_headers_and_extensions() {
    let layer = SessionLayer::new(TestStore::new());
    let app = Router::new()
        .route("/form", post(echo_form))
        .route("/json", post(echo_json))
        .route("/text", axum::routing::put(async |body: String| body))
        .route("/address", get(address))
        .layer(layer.clone());
    let client = TestClient::new(app, &layer);
    let form = client.post("/form").form([("a", "x & y"), ("b", "ä")]);
    assert_eq!(form.await.body(), r#"[("a", "x & y"), ("b", "ä")]"#);
    let json = client.post("/json").json(&serde_json::json!({"a": [1]}));
    assert_eq!(json.await.body(), r#"{"a":[1]}"#);
    let text = client.request(Method::PUT, "/text").body("hello");
    assert_eq!(text.await.body(), "hello");
    let peer: SocketAddr = "192.0.2.7:80".parse().unwrap();
    let page = client.get("/address").extension(ConnectInfo(peer));
    assert_eq!(page.await.body(), "192.0.2.7:80");
    assert_eq!(client.get("/nowhere").await.status(), 404);
}

#[tokio::test]
async fn a_client_with_an_address_passes_a_strict_fingerprint_and_another_address_does_not() {
    let store = TestStore::new();
    let layer = SessionLayer::new(store.clone()).with_fingerprinting(Fingerprinting::Strict);
    let [home, away] = [[203, 0, 113, 7], [198, 51, 100, 7]].map(IpAddr::from);
    let mia = TestClient::new(app(&layer), &layer).with_address(home);
    mia.sign_in("mia").await;
    mia.set("n", 1).await;
    assert_eq!(mia.get("/whoami").await.body(), "mia");
    let page = mia
        .get("/incr?k=n")
        .meanwhile(async |other| other.increment("n", 10));
    assert_eq!(page.await.body(), "2");
    assert_eq!(number(&mia, "n").await, "12");

    let thief = mia.clone().with_address(away);
    assert_eq!(thief.get("/whoami").await.body(), "");
    let elsewhere = ConnectInfo(SocketAddr::new(away, 80));
    assert_eq!(mia.get("/whoami").extension(elsewhere).await.body(), "");
    assert_eq!(mia.get("/whoami").await.body(), "mia");
}

async fn echo_cookies(headers: HeaderMap, session: Session) -> String {
    let cookies = headers.get_all("cookie").iter();
    let cookies: Vec<&str> = cookies.map(|it| it.to_str().unwrap()).collect();
    let names = cookies.join("|");
    let names = names
        .split("; ")
        .map(|pair| pair.split('=').next().unwrap());
    format!(
        "{} {:?}",
        names.collect::<Vec<_>>().join(" "),
        session.principal()
    )
}

#[tokio::test]
async fn a_cookie_of_a_request_is_sent_beside_that_of_the_session() {
    let layer = SessionLayer::new(TestStore::new());
    let app = Router::new()
        .route("/", get(echo_cookies))
        .layer(layer.clone());
    let mia = TestClient::signed_in(app, &layer, "mia").await;
    let page = mia.get("/").header("cookie", "theme=dark");
    assert_eq!(page.await.body(), r#"theme __Host-id Some("mia")"#);
    let page = mia.get("/").header("cookie", "a=1; __Host-id=forged");
    assert_eq!(page.await.body(), "a __Host-id None");
}

#[tokio::test]
async fn any_tower_service_can_be_tested_with_and_without_a_client() {
    async fn who(request: Request<String>) -> Result<Response<String>, Infallible> {
        let session = Session::from_extensions(request.extensions()).await;
        let who = session.unwrap().principal().unwrap_or_default();
        Ok(Response::new(who))
    }
    let layer = SessionLayer::new(TestStore::new());
    let service = tower::ServiceBuilder::new()
        .layer(layer.clone())
        .service(service_fn(who));
    let mia = TestClient::signed_in(service, &layer, "mia").await;
    assert_eq!(mia.get("/").await.body(), "mia");

    // Requests of the test's own.
    let app = app(&layer);
    let send = async |path: &str| {
        let request = Request::get(path).body(axum::body::Body::empty());
        let request = mia.prepare(request.unwrap());
        app.clone().oneshot(request).await.unwrap()
    };
    let response = send("/cycle").await;
    mia.keep(response.headers());
    assert_eq!(mia.get("/").await.body(), "mia");
    mia.keep(send("/logout").await.headers());
    assert_eq!(mia.handle(), None);
    assert_eq!(mia.get("/").await.body(), "");
}

#[tokio::test]
async fn nothing_that_the_kit_shows_contains_a_token_or_a_value() {
    let (store, _, mia) = scene().await;
    let (_, writes) = mia.get("/set?k=n&v=tulips").with_writes().await;
    let request = mia.prepare(Request::new(()));
    let cookie = request.headers()["cookie"].to_str().unwrap();
    let (_, token) = cookie.split_once('=').unwrap();
    let shown = format!("{mia:?} {store:?} {writes:?} {:?}", mia.get("/read"));
    assert!(
        shown.contains(&mia.handle().unwrap().to_string()),
        "{shown}"
    );
    assert!(shown.contains("GET /read"), "{shown}");
    assert!(!shown.contains(&token[22..]), "{shown}");
    assert!(!shown.contains("tulips"), "{shown}");
}

/// A layer of another store inside is reported, so the stores must not be taken for one.
#[tokio::test]
async fn two_stores_of_the_kit_are_different_stores() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let (store, seen) = (TestStore::new(), Arc::clone(&events));
    let outer = SessionLayer::new(store.clone()).with_observer(move |event: &Event| {
        if let Event::SettingsIgnored { settings, .. } = event {
            seen.lock().unwrap().push(settings.clone());
        }
    });
    let other = TestStore::new();
    for (inner, ignored) in [(store, Vec::new()), (other, vec![vec!["store"]])] {
        let app = routes()
            .layer(SessionLayer::new(inner))
            .layer(outer.clone());
        TestClient::new(app, &outer).get("/read").await;
        let mut events = events.lock().unwrap();
        assert_eq!(*events, ignored);
        events.clear();
    }
    // A handle is no token.
    let mia = TestClient::new(app(&outer), &outer);
    let mut headers = axum::http::HeaderMap::new();
    let forged = format!("__Host-id={}", Handle::random());
    headers.insert("set-cookie", forged.parse().unwrap());
    mia.keep(&headers);
    assert_eq!(mia.handle(), None);
}
