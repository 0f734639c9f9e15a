//! Authentication: tokens, rotation, login and logout.

use axum::http::StatusCode;
use sessile::{CookieConfig, MemoryStore, ReadSession, Session, SessionConfig, SessionLayer};

use crate::support::app::{app, routes};
use crate::support::{Browser, Ground, Spy, Visit};

fn memory() -> axum::Router {
    app(SessionLayer::new(MemoryStore::new()))
}

async fn visitor(app: &axum::Router) -> Browser {
    let mut browser = Browser::default();
    browser.get(app, "/set?k=name&v=mia").await.ok();
    browser
}

#[tokio::test]
async fn only_the_first_change_of_a_visitor_sets_a_cookie() {
    let app = memory();
    let mut browser = Browser::default();
    assert_eq!(
        browser.get(&app, "/read").await.set_cookies(),
        Vec::<&str>::new()
    );
    let page = browser.get(&app, "/set?k=name&v=mia").await;
    let cookies = page.set_cookies();
    assert_eq!(cookies.len(), 1);
    let (pair, attributes) = cookies[0].split_once("; ").unwrap();
    assert!(
        pair.starts_with("__Host-id=") && pair.len() == "__Host-id=".len() + 43,
        "{pair}"
    );
    assert_eq!(attributes, "HttpOnly; SameSite=Lax; Secure; Path=/");
    for path in ["/read", "/incr?k=n", "/set?k=name&v=noa"] {
        assert_eq!(
            browser.get(&app, path).await.set_cookies(),
            Vec::<&str>::new(),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_login_issues_a_new_token_and_revokes_the_old_one() {
    let app = memory();
    let mut browser = visitor(&app).await;
    let planted = browser.clone();
    let handle = |facts: String| {
        serde_json::from_str::<serde_json::Value>(&facts).unwrap()["handle"].clone()
    };
    let before = handle(browser.get(&app, "/facts").await.ok());
    assert!(browser.carries(before.as_str().unwrap()));
    browser.get(&app, "/login?u=mia").await.ok();
    assert_ne!(browser.token(), planted.token());
    assert_eq!(browser.get(&app, "/whoami").await.ok(), "mia");
    assert_eq!(
        browser.get(&app, "/read").await.ok(),
        "name",
        "a login keeps the visitor's data"
    );
    assert_eq!(
        handle(browser.get(&app, "/facts").await.ok()),
        before,
        "the handle stays"
    );

    assert_eq!(planted.peek(&app, "/whoami").await.ok(), "");
    assert_eq!(planted.peek(&app, "/read").await.ok(), "");
}

#[tokio::test]
async fn a_retired_token_cannot_read_or_write_and_gets_no_cookie() {
    let app = memory();
    let mut browser = visitor(&app).await;
    let late = browser.clone();
    browser.get(&app, "/cycle").await.ok();
    for path in [
        "/set?k=name&v=evil",
        "/incr?k=n",
        "/login?u=eve",
        "/cycle",
        "/incr-now?k=n",
        "/logout",
    ] {
        let page = late.peek(&app, path).await;
        assert_eq!(page.status, StatusCode::CONFLICT, "{path}");
        assert_eq!(
            page.set_cookies(),
            Vec::<&str>::new(),
            "{path} must not replace the new cookie"
        );
    }
    assert_eq!(late.peek(&app, "/read").await.ok(), "");
    assert_eq!(browser.get(&app, "/get?k=name").await.ok(), "\"mia\"");
    assert_eq!(browser.get(&app, "/read").await.ok(), "name");
}

#[tokio::test]
async fn a_token_that_was_never_issued_is_never_adopted() {
    let app = memory();
    let mut browser = visitor(&app).await;
    let handle_of = |token: &str| token[..21].to_owned();
    let genuine = browser.token().to_owned();
    let other = visitor(&app).await.token().to_owned();
    // A valid handle with a wrong secret, with another session's secret, and a token that was never issued.
    let mut wrong_secret = genuine.clone().into_bytes();
    wrong_secret[30] = if wrong_secret[30] == b'A' { b'B' } else { b'A' };
    let mixed = format!("{}{}", &genuine[..22], &other[22..]);
    let made_up = "A".repeat(43);
    for token in [String::from_utf8(wrong_secret).unwrap(), mixed, made_up] {
        let mut thief = Browser {
            cookie: Some(format!("__Host-id={token}")),
        };
        assert_eq!(thief.get(&app, "/read").await.ok(), "");
        thief.get(&app, "/set?k=name&v=evil").await.ok();
        assert_ne!(
            handle_of(thief.token()),
            handle_of(&token),
            "the new session has a handle of its own"
        );
    }
    assert_eq!(browser.get(&app, "/get?k=name").await.ok(), "\"mia\"");
}

#[tokio::test]
async fn a_token_with_one_character_changed_is_invalid() {
    let app = memory();
    let browser = visitor(&app).await;
    let token = browser.token().as_bytes().to_vec();
    for place in 0..token.len() {
        for other in [b'A', b'z', b'-', b'=', b' ', 0xff] {
            if token[place] == other {
                continue;
            }
            let mut changed = token.clone();
            changed[place] = other;
            let mut cookie = b"__Host-id=".to_vec();
            cookie.extend_from_slice(&changed);
            let request = axum::http::Request::get("/read")
                .header(
                    "cookie",
                    axum::http::HeaderValue::from_bytes(&cookie).unwrap(),
                )
                .body(axum::body::Body::empty())
                .unwrap();
            let page = crate::support::browser::fetch(&app, request).await;
            assert_eq!(page.ok(), "", "character {place} changed to {other}");
        }
    }
}

#[tokio::test]
async fn a_logout_is_final_and_removes_the_cookie() {
    let ground = Ground::new();
    let app = app(SessionLayer::new(ground.store().await));
    let mut browser = visitor(&app).await;
    let kept = browser.clone();
    let page = browser.get(&app, "/logout").await;
    assert_eq!(page.set_cookies().len(), 1);
    assert_eq!(page.headers["cache-control"], "no-store");
    assert_eq!(browser.cookie, None);
    assert_eq!(kept.peek(&app, "/read").await.ok(), "");
    let mut again = kept.clone();
    again.get(&app, "/set?k=x&v=y").await.ok();
    assert_ne!(
        again.token()[..21],
        kept.token()[..21],
        "the new session has a new handle"
    );
}

#[tokio::test]
async fn a_logout_without_a_session_only_removes_the_cookie() {
    let spy = Spy::on(MemoryStore::new());
    let calls = spy.calls.clone();
    let app = app(SessionLayer::new(spy));
    let page = Browser::default().get(&app, "/logout").await;
    assert_eq!((page.status.as_u16(), page.set_cookies().len()), (200, 0));
    assert_eq!(calls.so_far(), [0; 5]);
    // A logout removes the cookie of an expired session.
    let mut stale = Browser {
        cookie: Some(format!("__Host-id={}", "A".repeat(43))),
    };
    assert_eq!(stale.get(&app, "/logout").await.set_cookies().len(), 1);
    assert_eq!(stale.cookie, None);
    assert_eq!(calls.so_far(), [1, 0, 0, 0, 0]);
}

#[tokio::test]
async fn changes_after_destroy_go_into_a_fresh_session() {
    let app = memory();
    let mut browser = visitor(&app).await;
    let old = browser.clone();
    browser.get(&app, "/logout-and-say").await.ok();
    assert_ne!(browser.token()[..21], old.token()[..21]);
    assert_eq!(browser.get(&app, "/read").await.ok(), "notice");
    assert_eq!(old.peek(&app, "/read").await.ok(), "");
}

#[tokio::test]
async fn a_principal_never_sees_the_data_of_the_previous_one() {
    let app = memory();
    let mut browser = visitor(&app).await;
    browser.get(&app, "/login?u=mia").await.ok();
    browser.get(&app, "/set?k=orders&v=12").await.ok();
    browser.get(&app, "/step-down").await.ok();
    assert_eq!(browser.get(&app, "/whoami").await.ok(), "");
    assert_eq!(browser.get(&app, "/read").await.ok(), "name,orders");
    browser.get(&app, "/login?u=noa").await.ok();
    assert_eq!(browser.get(&app, "/read").await.ok(), "");
    browser.get(&app, "/login?u=mia").await.ok();
    assert_eq!(browser.get(&app, "/read").await.ok(), "");
}

#[tokio::test]
async fn a_login_without_a_session_creates_one() {
    let app = memory();
    let mut browser = Browser::default();
    browser.get(&app, "/login?u=mia").await.ok();
    assert_eq!(browser.get(&app, "/whoami").await.ok(), "mia");
}

#[tokio::test]
async fn cycling_the_id_of_a_visitor_without_a_session_stores_nothing() {
    let spy = Spy::on(MemoryStore::new());
    let calls = spy.calls.clone();
    let app = app(SessionLayer::new(spy));
    assert_eq!(
        Browser::default()
            .get(&app, "/cycle")
            .await
            .set_cookies()
            .len(),
        0
    );
    assert_eq!(calls.so_far(), [0; 5]);
}

#[tokio::test]
async fn a_cookie_is_valid_only_for_its_layer_and_key_prefix() {
    let ground = Ground::new();
    let store = ground.store().await;
    let named = |name: &str| {
        let config = SessionConfig::default().with_cookie(CookieConfig::default().with_name(name));
        routes().layer(SessionLayer::try_new(store.clone(), config).unwrap())
    };
    let (users, admins) = (named("__Host-user"), named("__Host-admin"));
    let browser = visitor(&users).await;
    assert_eq!(browser.peek(&users, "/read").await.ok(), "name");
    let swapped = Browser {
        cookie: Some(format!("__Host-admin={}", browser.token())),
    };
    assert_eq!(swapped.peek(&admins, "/read").await.ok(), "");
}

#[tokio::test]
async fn a_request_knows_whether_it_ends_or_rotates_its_session() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move {
            assert!(!session.is_destroyed() && !session.is_rotated());
            session.cycle_id().unwrap();
            session.set_principal("mia").await.unwrap();
            assert!(!session.is_rotated(), "there is no token yet");
            session.save().await.unwrap();
            assert!(!session.is_rotated(), "created, and not rotated");
        })
        .await;
    for rotate in [
        (|session| session.cycle_id().unwrap()) as fn(&Session),
        |session| session.clear_principal().unwrap(),
    ] {
        visit
            .request(move |session| async move {
                let read = ReadSession::from(session.clone());
                rotate(&session);
                assert!(session.is_rotated() && read.is_rotated());
                session.discard_changes();
                assert!(!session.is_rotated(), "discarded");
                rotate(&session);
                session.save().await.unwrap();
                assert!(session.is_rotated(), "committed");
                session.insert("n", 1).unwrap();
                assert!(!session.is_destroyed());
                session.destroy();
                assert!(session.is_destroyed() && read.is_destroyed());
                assert!(!session.is_rotated(), "this session has ended");
                session.insert("n", 1).unwrap();
                session.save().await.unwrap();
                assert!(session.is_destroyed() && !session.is_rotated());
                session.set_principal("mia").await.unwrap();
                assert!(session.is_rotated(), "the new session has a token");
            })
            .await;
    }
    visit
        .request(|session| async move { assert!(!session.is_destroyed() && !session.is_rotated()) })
        .await;
}
