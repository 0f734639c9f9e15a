//! No secret that opens a session is ever stored or logged.

use std::io;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::Request;
use sessile::{CookieConfig, SessionConfig, SessionLayer, TokenHeader, Transport};
use tracing_subscriber::fmt::MakeWriter;

use crate::support::app::app;
use crate::support::browser::fetch;
use crate::support::{Browser, Server, store_with};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn no_token_is_stored_or_logged() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(log.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    // With a single subscriber, `tracing` asks the subscriber of the thread that first meets an event, and disables the
    // event for all threads if that one has none.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let server = Server::start_with(&[
        "--slowlog-log-slower-than",
        "0",
        "--slowlog-max-len",
        "10000",
    ]);
    let store = store_with(&server.url(), |_| ()).await;
    let layer = SessionLayer::new(store.clone());
    let header = Transport::Header(TokenHeader::default());
    let api = app(layer.clone().with_transport(header).unwrap());
    let cookie = CookieConfig::default().with_name("__Host-new");
    let config = SessionConfig::default().with_cookie(cookie.with_former_names(["__Host-id"]));
    let renamed = app(SessionLayer::try_new(store, config).unwrap());
    let app = app(layer);

    let mut browser = Browser::default();
    let mut tokens = Vec::new();
    let mut connection = server.connection();
    let mut epochs = Vec::new();
    for path in [
        "/set?k=name&v=mia",
        "/cycle",
        "/login?u=mia",
        "/step-down",
        "/incr-now?k=n",
        "/logout-and-say",
    ] {
        browser.get(&app, path).await.ok();
        if let Some(first) = tokens.first() {
            let late = Browser {
                cookie: Some(format!("__Host-id={first}")),
            };
            late.peek(&app, "/incr?k=n").await;
        }
        tokens.push(browser.token().to_owned());
        epochs.extend(stored_epochs(&mut connection));
    }
    let broken = Browser {
        cookie: Some(format!("__Host-id={}x", tokens[0])),
    };
    broken.peek(&app, "/incr?k=n").await;
    // Under a former name of the cookie.
    let page = browser.peek(&renamed, "/login?u=mia").await;
    let set = page.set_cookies();
    let moved = set[1].strip_prefix("__Host-new=").unwrap();
    tokens.push(moved.split(';').next().unwrap().to_owned());
    // In a header, which is also malformed once.
    let mut authorization = "Basic eA==".to_owned();
    for path in ["/login?u=mia", "/cycle", "/step-down", "/incr?k=n"] {
        let request = Request::get(path).header("authorization", &authorization);
        let page = fetch(&api, request.body(Body::empty()).unwrap()).await;
        if let Some(token) = page.headers.get("x-session-token") {
            assert!(!format!("{:?}", page.headers).contains(token.to_str().unwrap()));
            tokens.push(token.to_str().unwrap().to_owned());
            authorization = format!("Bearer {}", tokens.last().unwrap());
        }
        page.ok();
    }
    let malformed = Request::get("/read").header("authorization", format!("{authorization}x"));
    fetch(&api, malformed.body(Body::empty()).unwrap())
        .await
        .ok();

    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
    let mut stored = keys.join(" ");
    for key in keys {
        // The keys of an index are not strings; their members are handles.
        let value: redis::RedisResult<String> = redis::cmd("GET").arg(key).query(&mut connection);
        stored.push_str(&value.unwrap_or_default());
    }
    let slow: redis::Value = redis::cmd("SLOWLOG")
        .arg("GET")
        .arg(-1)
        .query(&mut connection)
        .unwrap();
    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    let kept = format!("{stored} {slow:?} {logged}");
    assert!(
        logged.contains("session rotated")
            && logged.contains("changes refused")
            && logged.contains("malformed session token in a header"),
        "{logged}"
    );
    tokens.dedup();
    assert_eq!(
        tokens.len(),
        9,
        "every step but increment_now changes the token"
    );
    for token in tokens {
        // The second half of a token is the secret. The first half names the session and may appear.
        assert!(!kept.contains(&token[23..]), "a secret is stored or logged");
    }
    assert!(epochs.len() >= 5, "{epochs:?}");
    for epoch in epochs {
        // CSRF tokens are made from it.
        let number = u64::from_str_radix(&epoch, 16).unwrap().to_string();
        assert!(
            !logged.contains(&epoch) && !logged.contains(&number),
            "an epoch is logged"
        );
    }
}

/// The epochs of all sessions.
fn stored_epochs(connection: &mut redis::Connection) -> Vec<String> {
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(connection).unwrap();
    let epoch = |key: String| {
        let value: String = redis::cmd("GET").arg(key).query(connection).ok()?;
        let (_, rest) = value.split_once("\"epoch\":\"")?;
        Some(rest[..16].to_owned())
    };
    keys.into_iter().filter_map(epoch).collect()
}
