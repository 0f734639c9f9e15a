//! Protection from cross-site request forgery: tokens.

use std::sync::Arc;

use axum::http::header::{CACHE_CONTROL, SET_COOKIE, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use sessile::{MemoryStore, Session, SessionError, SessionLayer, SignedInCaching};

use crate::support::{Spy, Visit};

type Answer = Result<String, SessionError>;

async fn token(session: Session) -> Answer {
    session.csrf_token()
}

/// A visit whose session has been stored for a token, and the token.
async fn with_token() -> (Visit, String) {
    let mut visit = Visit::in_memory();
    let token = visit.page(token).await.ok();
    (visit, token)
}

async fn verify(visit: &mut Visit, token: &str) -> StatusCode {
    let token = token.to_owned();
    let check = |session: Session| async move { session.verify_csrf(&token) };
    visit.page(check).await.status
}

#[tokio::test]
async fn a_token_stores_the_session_of_a_new_visitor_and_is_valid_for_it() {
    let (mut visit, token) = with_token().await;
    assert!(visit.browser.cookie.is_some());
    assert_eq!(verify(&mut visit, &token).await, StatusCode::OK);
    let mut other = with_token().await.0;
    for (visit, status) in [(&mut visit, 200), (&mut other, 403)] {
        assert_eq!(verify(visit, &token).await.as_u16(), status);
    }
    // Without a session, no token is valid.
    let mut nobody = Visit::in_memory();
    assert_eq!(verify(&mut nobody, &token).await, StatusCode::FORBIDDEN);
    assert_eq!(nobody.browser.cookie, None);
}

#[tokio::test]
async fn a_token_of_a_stored_session_writes_nothing() {
    let spy = Spy::on(MemoryStore::new());
    let calls = Arc::clone(&spy.calls);
    let mut visit = Visit::with(SessionLayer::new(spy));
    let first = visit.page(token).await.ok();
    assert_eq!(calls.so_far(), [0, 1, 0, 0, 0]);
    let page = visit.page(token).await;
    assert!(!page.headers.contains_key(SET_COOKIE));
    let second = page.ok();
    assert_eq!(calls.so_far(), [1, 1, 0, 0, 0]);
    assert_ne!(first, second, "each response has another mask");
    for token in [&first, &second] {
        assert_eq!(verify(&mut visit, token).await, StatusCode::OK);
    }
    assert_eq!(calls.so_far(), [3, 1, 0, 0, 0]);
}

#[tokio::test]
async fn a_token_of_a_new_session_is_valid_after_a_save_and_among_other_changes() {
    for saves in [false, true] {
        let mut visit = Visit::in_memory();
        let handler = move |session: Session| async move {
            session.insert("name", "mia")?;
            let first = session.csrf_token()?;
            if saves {
                session.save().await?;
            }
            session.insert("name", "leo")?;
            Ok::<_, SessionError>(format!("{first} {}", session.csrf_token()?))
        };
        let tokens = visit.page(handler).await.ok();
        for token in tokens.split(' ') {
            assert_eq!(verify(&mut visit, token).await, StatusCode::OK, "{saves}");
        }
    }
}

/// What ends the tokens of the pages before.
#[derive(Clone, Copy, Debug)]
enum End {
    Login,
    SignOut,
    Rotation,
    Logout,
}

async fn end(session: &Session, end: End) -> Result<(), SessionError> {
    match end {
        End::Login => session.set_principal("leo").await,
        End::SignOut => session.clear_principal(),
        End::Rotation => session.cycle_id(),
        End::Logout => {
            session.destroy();
            Ok(())
        }
    }
}

#[tokio::test]
async fn a_token_ends_with_a_rotation_and_one_that_is_asked_for_after_it_is_valid() {
    for stored in [false, true] {
        for how in [End::Login, End::SignOut, End::Rotation, End::Logout] {
            let mut visit = Visit::in_memory();
            let before = |session: Session| async move {
                session.set_principal("mia").await?;
                session.csrf_token()
            };
            let before = match stored {
                true => visit.page(before).await.ok(),
                false => String::new(),
            };
            let rotate = move |session: Session| async move {
                end(&session, how).await?;
                session.csrf_token()
            };
            let after = visit.page(rotate).await.ok();
            let case = format!("{how:?} {stored}");
            assert_eq!(verify(&mut visit, &after).await, StatusCode::OK, "{case}");
            let old = verify(&mut visit, &before).await;
            assert_eq!(old, StatusCode::FORBIDDEN, "{case}");
        }
    }
}

#[tokio::test]
async fn a_login_that_joins_another_one_returns_a_token_of_that_one() {
    let (mut visit, _) = with_token().await;
    let mut late = visit.clone();
    let login = |session: Session| async move {
        session.set_principal("mia").await?;
        session.csrf_token()
    };
    let first = visit.page(login).await.ok();
    // This request carries the token that the login has replaced.
    let second = late.page(login).await.ok();
    for mut browser in [visit, late] {
        for token in [&first, &second] {
            assert_eq!(verify(&mut browser, token).await, StatusCode::OK);
        }
    }
}

#[tokio::test]
async fn a_request_with_a_replaced_cookie_gets_no_token() {
    let (mut visit, token) = with_token().await;
    let mut old = visit.clone();
    visit
        .page(|session: Session| async move { session.cycle_id() })
        .await
        .ok();
    let page = old.page(self::token).await;
    assert_eq!(page.status, StatusCode::CONFLICT);
    assert!(!page.headers.contains_key(SET_COOKIE));
    assert_eq!(verify(&mut old, &token).await, StatusCode::CONFLICT);
}

#[tokio::test]
async fn after_the_response_only_a_stored_session_has_tokens() {
    let mut visit = Visit::in_memory();
    let kept = visit.keep().await;
    assert!(matches!(kept.csrf_token(), Err(SessionError::ResponseSent)));
    let (mut visit, _) = with_token().await;
    let token = visit.keep().await.csrf_token().unwrap();
    assert_eq!(verify(&mut visit, &token).await, StatusCode::OK);
}

#[tokio::test]
async fn a_failed_request_stores_no_session_for_its_token() {
    let mut visit = Visit::in_memory();
    let handler = |session: Session| async move { (StatusCode::BAD_GATEWAY, session.csrf_token()) };
    let page = visit.page(handler).await;
    assert_eq!(page.status, StatusCode::BAD_GATEWAY);
    assert_eq!(visit.browser.cookie, None);
}

#[tokio::test]
async fn a_page_with_a_token_is_not_stored_by_caches() {
    for (cache_control, kept) in [
        (None, "no-store"),
        (Some("public, max-age=60"), "no-store"),
        (Some("max-age=60"), "no-store"),
        (Some("private"), "private"),
    ] {
        let handler = move |session: Session| async move {
            let mut headers = HeaderMap::new();
            if let Some(value) = cache_control {
                headers.insert(CACHE_CONTROL, HeaderValue::from_static(value));
            }
            (headers, session.csrf_token())
        };
        // The header is that of a page which sets no cookie, of an anonymous visitor.
        let layer = SessionLayer::new(MemoryStore::new())
            .with_signed_in_caching(SignedInCaching::Unchanged);
        let mut visit = Visit::with(layer);
        visit.page(token).await.ok();
        let page = visit.page(handler).await;
        assert!(!page.headers.contains_key(SET_COOKIE));
        assert_eq!(page.headers[CACHE_CONTROL], kept, "{cache_control:?}");
        assert_eq!(page.headers[VARY], "cookie");
    }
}
