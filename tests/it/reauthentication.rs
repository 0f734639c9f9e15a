//! How old a login is, and pages that need a recent one.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::http::StatusCode;
use sessile::store::ManualClock;
use sessile::{Fingerprinting, MemoryStore, ReadSession, Session, SessionError, SessionLayer};

use crate::support::Visit;

const MINUTE: Duration = Duration::from_secs(60);

fn visit() -> (ManualClock, Visit) {
    let clock = ManualClock::new();
    let layer = SessionLayer::new(MemoryStore::new().with_clock(clock.clone()));
    (clock, Visit::with(layer))
}

/// What a request sees of the login.
async fn seen(visit: &mut Visit) -> (Option<SystemTime>, bool) {
    let seen = Arc::new(Mutex::new((None, false)));
    let note = Arc::clone(&seen);
    visit
        .request(move |session| async move {
            let fresh = session.require_fresh(10 * MINUTE);
            let is_stale = matches!(fresh, Err(SessionError::StaleLogin { .. }));
            assert_eq!(is_stale, fresh.is_err());
            let read = ReadSession::from(session.clone());
            assert_eq!(read.authenticated_at(), session.authenticated_at());
            assert_eq!(read.require_fresh(10 * MINUTE).is_err(), is_stale);
            *note.lock().unwrap() = (session.authenticated_at(), !is_stale);
        })
        .await;
    *seen.lock().unwrap()
}

async fn sign_in(visit: &mut Visit, who: &'static str) {
    visit
        .request(move |session| async move { session.set_principal(who).await.unwrap() })
        .await;
}

#[tokio::test]
async fn a_login_is_fresh_until_it_is_too_old_and_again_after_the_same_login() {
    let (clock, mut visit) = visit();
    assert_eq!(seen(&mut visit).await, (None, false), "anonymous");
    visit
        .request(|session| async move { session.insert("cart", 1).unwrap() })
        .await;
    assert_eq!(seen(&mut visit).await, (None, false), "still anonymous");
    clock.advance(MINUTE);
    sign_in(&mut visit, "mia").await;
    let (first, fresh) = seen(&mut visit).await;
    assert!(first.is_some() && fresh);
    clock.advance(10 * MINUTE);
    assert_eq!(seen(&mut visit).await, (first, true));
    clock.advance(MINUTE);
    assert_eq!(seen(&mut visit).await, (first, false));
    let before = visit.browser.token().to_owned();
    sign_in(&mut visit, "mia").await;
    let (again, fresh) = seen(&mut visit).await;
    assert_eq!(again, first.map(|at| at + 11 * MINUTE));
    assert!(fresh);
    assert_ne!(visit.browser.token(), before, "the login has rotated");
    visit
        .request(|session| async move { assert!(session.contains_key("cart")) })
        .await;
}

#[tokio::test]
async fn only_a_login_changes_when_the_principal_signed_in() {
    let (clock, mut visit) = visit();
    sign_in(&mut visit, "mia").await;
    let (first, _) = seen(&mut visit).await;
    for change in [
        (|session| session.cycle_id().unwrap()) as fn(Session),
        |session| session.set_absolute_timeout(300 * MINUTE).unwrap(),
        |session| session.set_idle_timeout(50 * MINUTE).unwrap(),
        |session| session.insert("n", 1).unwrap(),
    ] {
        clock.advance(3 * MINUTE);
        visit
            .request(move |session| async move { change(session) })
            .await;
        assert_eq!(seen(&mut visit).await.0, first);
    }
    assert_eq!(seen(&mut visit).await, (first, false));
    visit
        .request(|session| async move {
            session.clear_principal().unwrap();
            assert_eq!(session.authenticated_at(), None);
            assert!(session.require_fresh(Duration::MAX).is_err());
        })
        .await;
    assert_eq!(seen(&mut visit).await, (None, false));
}

#[tokio::test]
async fn a_stale_login_gets_403_and_its_request_changes_nothing() {
    let (clock, mut visit) = visit();
    sign_in(&mut visit, "mia").await;
    clock.advance(11 * MINUTE);
    let page = visit
        .page(|session| async move {
            session.insert("password", "changed")?;
            session.require_fresh(10 * MINUTE)
        })
        .await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    assert_eq!(page.text, "Sign in again to do this.\n");
    visit
        .request(|session| async move { assert!(!session.contains_key("password")) })
        .await;
}

#[tokio::test]
async fn a_session_that_cannot_be_used_is_an_error_of_its_own_and_not_a_stale_login() {
    let (_, mut visit) = visit();
    sign_in(&mut visit, "mia").await;
    let elsewhere = visit.layer.clone();
    let address = std::net::IpAddr::from([203, 0, 113, 7]);
    let bound = elsewhere
        .clone()
        .with_client_ip(move |_| Some(address))
        .with_fingerprinting(Fingerprinting::Soft);
    visit.layer = bound;
    sign_in(&mut visit, "mia").await;
    let address = std::net::IpAddr::from([198, 51, 100, 7]);
    visit.layer = elsewhere
        .with_client_ip(move |_| Some(address))
        .with_fingerprinting(Fingerprinting::Strict);
    let page = visit
        .page(|session| async move { session.require_fresh(10 * MINUTE) })
        .await;
    assert_eq!(page.status, StatusCode::CONFLICT);
}
