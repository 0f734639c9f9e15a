//! Sign-ins and the index of their user's sessions: lost answers, clocks that are not known yet, double clicks, odd contents.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::get;
use bytes::Bytes;
use sessile::store::{Durability, Freshness, IndexKey, Loaded, Write};
use sessile::testing::{Call, Fault, TestStore};
use sessile::{
    Concurrency, CookieConfig, DurabilityConfig, Handle, MaxSessions, MemoryStore, RedisConfig,
    RedisStore, Session, SessionConfig, SessionError, SessionLayer, SessionStore as _, Sessions,
};

use crate::support::app::routes;
use crate::support::patience::unhurried;
use crate::support::server::strategies;
use crate::support::wrapper::Wrapper;
use crate::support::{Browser, Server, Spy, by_protocol, fresh_prefix, store_with, until};

const HOUR: Duration = Duration::from_secs(60 * 60);

fn app(layer: SessionLayer) -> Router {
    routes()
        .route("/login-for-long", get(login_for_long))
        .route("/reset", get(reset))
        .route(
            "/token",
            get(|session: Session| async move { session.csrf_token() }),
        )
        .route("/check/{token}", get(check))
        .layer(layer)
}

async fn login_for_long(session: Session) -> Result<(), SessionError> {
    session.set_principal("mia").await?;
    session.set_absolute_timeout(72 * HOUR)
}

async fn reset(session: Session, sessions: Sessions) -> Result<(), SessionError> {
    sessions.destroy_all("mia").await?;
    session.set_principal(sessions.sign_in("mia").await?).await
}

async fn check(session: Session, Path(token): Path<String>) -> Result<(), SessionError> {
    session.verify_csrf(&token)
}

async fn whoami(browser: &Browser, app: &Router) -> String {
    browser.peek(app, "/whoami").await.ok()
}

/// The next calls of this kind get no answer, this many of them. `Enter` is carried out, the others are not.
fn lose(store: &TestStore, call: Call, times: usize) {
    let fault = match call {
        Call::Enter => Fault::LoseAnswer,
        _ => Fault::LoseRequest,
    };
    for _ in 0..times {
        store.fail_next(call, fault);
    }
}

async fn signed_in(app: &Router) -> Browser {
    let mut browser = Browser::default();
    browser.get(app, "/login?u=mia").await.ok();
    browser
}

async fn visitor(app: &Router) -> Browser {
    let mut browser = Browser::default();
    browser.get(app, "/set?k=cart&v=1").await.ok();
    browser
}

fn lazy(url: &str, prefix: &str) -> RedisStore {
    let mut config = RedisConfig::new(by_protocol(url));
    config.key_prefix = prefix.to_owned();
    unhurried(&mut config);
    RedisStore::lazy(config).unwrap()
}

#[tokio::test]
async fn a_store_that_has_not_connected_yet_refuses_no_sign_in() {
    let (server, prefix) = (Server::start(), fresh_prefix());
    let app = app(SessionLayer::new(lazy(&server.url(), &prefix)));
    signed_in(&app).await;
    let down = self::app(SessionLayer::new(lazy("redis://127.0.0.1:1/", &prefix)));
    let page = Browser::default().get(&down, "/login?u=mia").await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_sign_out_everywhere_as_the_first_call_of_a_store_shuts_nobody_out() {
    let (server, prefix) = (Server::start(), fresh_prefix());
    let job = Sessions::new(lazy(&server.url(), &prefix));
    assert_eq!(job.destroy_all("mia").await.unwrap(), 0);
    let app = app(SessionLayer::new(lazy(&server.url(), &prefix)));
    let signs_in = async || Browser::default().get(&app, "/login?u=mia").await.status;
    until("the clocks' uncertainty has passed", async || {
        signs_in().await == StatusCode::OK
    })
    .await;
}

#[tokio::test]
async fn an_entry_or_a_creation_without_an_answer_takes_no_place() {
    for (limit, kept) in [
        (MaxSessions::evict_oldest(1), 0),
        (MaxSessions::refuse(1), 0),
        (MaxSessions::evict_oldest(2), 1),
    ] {
        let store = TestStore::new();
        let app = app(SessionLayer::new(store.clone()).with_max_sessions(limit));
        let mut others = Vec::new();
        for _ in 0..kept {
            others.push(signed_in(&app).await);
        }
        lose(&store, Call::Enter, 1);
        lose(&store, Call::Create, 1);
        let browser = signed_in(&app).await;
        for browser in others.iter().chain([&browser]) {
            assert_eq!(whoami(browser, &app).await, "mia", "{limit:?}");
        }
    }
}

#[tokio::test]
async fn a_confirmation_without_an_answer_is_sent_again() {
    let store = TestStore::new();
    let app = app(SessionLayer::new(store.clone()));
    lose(&store, Call::Confirm, 2);
    assert_eq!(whoami(&signed_in(&app).await, &app).await, "mia");
}

#[tokio::test]
async fn a_new_session_that_was_not_confirmed_is_deleted_and_takes_no_place() {
    let store = TestStore::new();
    let layer = SessionLayer::new(store.clone()).with_max_sessions(MaxSessions::refuse(1));
    let app = app(layer.clone());
    lose(&store, Call::Confirm, 3);
    let page = Browser::default().get(&app, "/login?u=mia").await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(page.set_cookies().is_empty());
    let sessions = layer.sessions();
    until("the session is deleted", async || {
        sessions.of("mia").await.unwrap().is_empty()
    })
    .await;
    let signs_in = async || Browser::default().get(&app, "/login?u=mia").await.status;
    until("its place is free", async || {
        signs_in().await == StatusCode::OK
    })
    .await;
}

#[tokio::test]
async fn a_visitor_whose_sign_in_was_not_confirmed_signs_in_again_and_keeps_the_cart() {
    let store = TestStore::new();
    let app = app(SessionLayer::new(store.clone()));
    let mut browser = visitor(&app).await;
    lose(&store, Call::Confirm, 3);
    let page = browser.get(&app, "/login?u=mia").await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    browser.get(&app, "/login?u=mia").await.ok();
    assert_eq!(whoami(&browser, &app).await, "mia");
    assert_eq!(browser.peek(&app, "/get?k=cart").await.ok(), "\"1\"");
}

#[tokio::test]
async fn a_sign_in_that_fails_does_not_shorten_the_entry_of_the_one_before() {
    let store = TestStore::new();
    let layer = || {
        let config = SessionConfig::default()
            .with_idle_timeout(200 * HOUR)
            .with_absolute_timeout(24 * HOUR)
            .with_concurrency(Concurrency::Reject);
        SessionLayer::try_new(store.clone(), config).unwrap()
    };
    let (one, other) = (layer(), layer());
    let sessions = one.sessions();
    let (app, other) = (app(one), app(other));
    let mut browser = visitor(&app).await;
    // The second click is held before it enters; the first, with "remember me", signs in meanwhile.
    let mut hold = store.hold(Call::Enter);
    let (second_app, second) = (app.clone(), browser.clone());
    let second = tokio::spawn(async move { second.peek(&second_app, "/login?u=mia").await });
    hold.arrived().await;
    browser.get(&other, "/login-for-long").await.ok();
    hold.release();
    assert_eq!(second.await.unwrap().status, StatusCode::CONFLICT);
    store.advance(25 * HOUR);
    assert_eq!(whoami(&browser, &app).await, "mia");
    assert_eq!(sessions.of("mia").await.unwrap().len(), 1);
    assert_eq!(sessions.destroy_all("mia").await.unwrap(), 1);
    assert_eq!(whoami(&browser, &app).await, "");
}

#[tokio::test]
async fn a_double_click_under_way_does_not_end_the_session_that_is_kept() {
    let store = TestStore::new();
    let layer = SessionLayer::new(store.clone());
    let (app, sessions) = (app(layer.clone()), layer.sessions());
    let mut browser = visitor(&app).await;
    let before = browser.clone();
    browser.get(&app, "/login?u=mia").await.ok();
    let mut hold = store.hold(Call::Confirm);
    let second = app.clone();
    let second = tokio::spawn(async move { before.peek(&second, "/login?u=mia").await });
    hold.arrived().await;
    let kept = sessions.of("mia").await.unwrap()[0].handle();
    assert_eq!(sessions.destroy_others("mia", kept).await.unwrap(), 0);
    hold.release();
    let page = second.await.unwrap();
    // What it has changed is in the session that is kept.
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!page.headers.contains_key("retry-after"));
    assert!(page.set_cookies().is_empty());
    assert_eq!(whoami(&browser, &app).await, "mia");
}

#[tokio::test]
async fn whoever_ends_their_own_session_with_all_others_can_sign_in_within_the_request() {
    let app = app(SessionLayer::new(MemoryStore::new()));
    let mut browser = signed_in(&app).await;
    let before = browser.clone();
    browser.get(&app, "/reset").await.ok();
    assert_eq!(whoami(&browser, &app).await, "mia");
    assert_eq!(whoami(&before, &app).await, "");
}

#[tokio::test]
async fn a_generation_that_is_forgotten_meanwhile_refuses_no_sign_in() {
    let store = TestStore::new();
    let layer = SessionLayer::new(store.clone());
    let (app, sessions) = (app(layer.clone()), layer.sessions());
    sessions.destroy_all("mia").await.unwrap();
    store.advance(HOUR - Duration::from_millis(5));
    let mut hold = store.hold(Call::Confirm);
    let sign_in = tokio::spawn(async move { Browser::default().get(&app, "/login?u=mia").await });
    hold.arrived().await;
    store.advance(Duration::from_millis(10));
    hold.release();
    sign_in.await.unwrap().ok();
}

#[tokio::test]
async fn a_session_that_a_later_version_has_written_is_not_forgotten() {
    let store = MemoryStore::new();
    let layer = SessionLayer::new(store.clone());
    let (app, sessions) = (app(layer.clone()), layer.sessions());
    signed_in(&app).await;
    let handle = sessions.of("mia").await.unwrap()[0].handle();
    let Loaded::Found(stored) = store.load(&handle, Freshness::Latest).await.unwrap() else {
        panic!("a session");
    };
    let text = String::from_utf8(stored.value().to_vec()).unwrap();
    let newer = Bytes::from(text.replacen("\"format\":1", "\"format\":91", 1));
    let written = store
        .replace(&handle, &stored, Write::new(&newer, HOUR))
        .await;
    let _ = written.unwrap();
    for ended in [
        sessions.destroy_all("mia").await.map(drop),
        sessions.destroy("mia", handle).await.map(drop),
    ] {
        assert!(matches!(ended, Err(SessionError::Gone(_))), "{ended:?}");
    }
    let left = store.list(&IndexKey::of("mia")).await.unwrap().sessions;
    assert_eq!(left.len(), 1);
}

#[tokio::test]
async fn sign_ins_work_on_a_store_that_wraps_one_with_an_index_unless_they_must_be_counted() {
    let layer = SessionLayer::new(Wrapper(MemoryStore::new()));
    let error = layer.sessions().of("mia").await.unwrap_err();
    let SessionError::Store(error) = error else {
        panic!("{error}");
    };
    assert!(error.to_string().contains("no index"), "{error}");
    let counted = layer.clone().with_max_sessions(MaxSessions::refuse(1));
    let (app, counted) = (app(layer), self::app(counted));
    assert_eq!(whoami(&signed_in(&app).await, &app).await, "mia");
    let page = Browser::default().get(&counted, "/login?u=mia").await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
}

/// The first attempt may have reached the primary alone, and a failover would bring the session back.
#[tokio::test]
async fn a_session_that_is_ended_again_waits_for_the_replicas_again() {
    let store = MemoryStore::new();
    let capabilities = store.capabilities().with_durability(true);
    let spy = Spy::on(store).with_capabilities(capabilities);
    let calls = Arc::clone(&spy.calls);
    let replicas = Durability::Replicas {
        n: 1,
        timeout: Duration::from_millis(100),
    };
    let durability = DurabilityConfig::default().with_revocations(replicas);
    let config = SessionConfig::default().with_durability(durability);
    let layer = SessionLayer::try_new(spy, config).unwrap();
    let (app, sessions) = (app(layer.clone()), layer.sessions());
    signed_in(&app).await;
    let handle = sessions.of("mia").await.unwrap()[0].handle();
    assert!(sessions.destroy("mia", handle).await.unwrap());
    let [.., before] = calls.so_far();
    assert!(!sessions.destroy("mia", handle).await.unwrap());
    let [.., after] = calls.so_far();
    assert_eq!(
        after,
        before + 1,
        "a deletion that the replicas acknowledge"
    );
}

#[tokio::test]
async fn users_who_come_and_go_in_one_session_leave_no_entries() {
    let store = MemoryStore::new();
    let app = app(SessionLayer::new(store.clone()));
    let mut browser = signed_in(&app).await;
    browser.get(&app, "/login?u=leo").await.ok();
    browser.get(&app, "/step-down").await.ok();
    for user in ["mia", "leo"] {
        let listed = async || store.list(&IndexKey::of(user)).await.unwrap().sessions;
        until("the entry is gone", async || listed().await.is_empty()).await;
    }
}

#[tokio::test]
async fn contents_of_an_index_that_sessile_did_not_write_refuse_no_sign_in() {
    let server = Server::start();
    for strategy in strategies(&server) {
        let store = store_with(&server.url(), |config| config.compare_and_set = strategy).await;
        let limit = MaxSessions::evict_oldest(1);
        let app = app(SessionLayer::new(store.clone()).with_max_sessions(limit));
        let key = format!("{}of:{{{}}}", store.namespace(), IndexKey::of("mia"));
        let mut connection = server.connection();
        for score in ["+inf", "1e300", "-5"] {
            let handle = Handle::random().to_string();
            let added = redis::cmd("ZADD")
                .arg(&key)
                .arg(score)
                .arg(handle)
                .query(&mut connection);
            let added: i64 = added.unwrap();
            assert_eq!(added, 1);
            assert_eq!(
                whoami(&signed_in(&app).await, &app).await,
                "mia",
                "{strategy:?} {score}"
            );
            let left: i64 = redis::cmd("PTTL").arg(&key).query(&mut connection).unwrap();
            assert!(left > 0, "{strategy:?} {score}: {left}");
        }
    }
}

#[tokio::test]
async fn a_token_against_forgery_survives_a_new_name_of_the_cookie() {
    let store = MemoryStore::new();
    let node = |name: &str, former: &[&str]| {
        let cookie = CookieConfig::default().with_name(name);
        let cookie = cookie.with_former_names(former.iter().copied());
        let config = SessionConfig::default().with_cookie(cookie);
        app(SessionLayer::try_new(store.clone(), config).unwrap())
    };
    let (old, new) = (node("__Host-old", &[]), node("__Host-new", &["__Host-old"]));
    let mut browser = Browser::default();
    let token = browser.get(&old, "/token").await.ok();
    for app in [&old, &new] {
        browser.peek(app, &format!("/check/{token}")).await.ok();
    }
    let unrelated = node("__Host-new", &[]);
    let page = browser.peek(&unrelated, &format!("/check/{token}")).await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
}
