//! Flash messages: none is lost, and none is shown twice.

use axum::body::Body;
use axum::http::Request;
use futures_util::future::join_all;
use sessile::{Flash, Level, MemoryStore, SessionError, SessionLayer};

use crate::support::app::app;
use crate::support::browser::fetch;
use crate::support::node::Answer;
use crate::support::{Browser, Ground, Node, Spy, Visit, fresh_prefix};

async fn get(node: &Node, path: String, cookie: &str) -> Answer {
    node.get(&path, Some(cookie)).await
}

fn texts(flashes: &[Flash]) -> Vec<&str> {
    flashes.iter().map(|flash| flash.text.as_str()).collect()
}

#[tokio::test]
async fn a_message_is_shown_only_on_the_next_page() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move {
            session.flash_success("saved").unwrap();
            session.flash_info("by the way").unwrap();
            session.flash_warning("look").unwrap();
            session.flash_error("failed").unwrap();
        })
        .await;
    visit
        .request(|session| async move {
            assert_eq!(texts(&session.peek_flashes()).len(), 4);
            let flashes = session.take_flashes().await.unwrap();
            assert_eq!(texts(&flashes), ["saved", "by the way", "look", "failed"]);
            let levels: Vec<_> = flashes.iter().map(|flash| flash.level).collect();
            assert_eq!(
                levels,
                [Level::Success, Level::Info, Level::Warning, Level::Error]
            );
            assert_eq!(flashes[0].level.to_string(), "success");
            assert!(session.take_flashes().await.unwrap().is_empty());
        })
        .await;
    visit
        .request(|session| async move { assert!(session.peek_flashes().is_empty()) })
        .await;
}

#[tokio::test]
async fn a_message_for_the_current_page_is_not_stored() {
    let spy = Spy::on(MemoryStore::new());
    let calls = spy.calls.clone();
    let mut visit = Visit::with(SessionLayer::new(spy));
    visit
        .request(|session| async move {
            session.flash_now(Level::Error, "wrong password");
            assert_eq!(texts(&session.peek_flashes()), ["wrong password"]);
            assert_eq!(
                texts(&session.take_flashes().await.unwrap()),
                ["wrong password"]
            );
            assert!(session.take_flashes().await.unwrap().is_empty());
        })
        .await;
    assert_eq!(calls.so_far(), [0; 5]);
}

#[tokio::test]
async fn taken_messages_can_be_kept_for_the_next_page() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.flash_info("keep me").unwrap() })
        .await;
    visit
        .request(|session| async move {
            session.flash_now(Level::Info, "me too");
            assert_eq!(session.take_flashes().await.unwrap().len(), 2);
            session.keep_flashes().unwrap();
            session.keep_flashes().unwrap();
        })
        .await;
    visit
        .request(|session| async move {
            let flashes = session.take_flashes().await.unwrap();
            assert_eq!(texts(&flashes), ["keep me", "me too"]);
        })
        .await;
}

#[tokio::test]
async fn taken_messages_are_not_kept_for_another_principal() {
    for (next, kept) in [(Some("mia"), 1), (Some("noa"), 0), (None, 0)] {
        let mut visit = Visit::in_memory();
        visit
            .request(|session| async move {
                session.set_principal("mia").await.unwrap();
                session.flash_info("for mia").unwrap();
            })
            .await;
        visit
            .request(move |session| async move {
                assert_eq!(session.take_flashes().await.unwrap().len(), 1);
                match next {
                    Some(name) => session.set_principal(name).await.unwrap(),
                    None => session.destroy(),
                }
                session.keep_flashes().unwrap();
            })
            .await;
        visit
            .request(move |session| async move {
                assert_eq!(session.peek_flashes().len(), kept, "{next:?}");
            })
            .await;
    }
}

#[tokio::test]
async fn requests_that_show_no_messages_leave_them_in_the_session() {
    let app = app(SessionLayer::new(MemoryStore::new()));
    let mut browser = Browser::default();
    browser.get(&app, "/flash?text=hello").await.ok();
    let request = || Request::get("/flashes").header("cookie", browser.cookie.as_ref().unwrap());
    let head = Request::head("/flashes").header("cookie", browser.cookie.as_ref().unwrap());
    let in_advance = [
        head,
        request().header("sec-purpose", "prefetch"),
        request().header("sec-purpose", "prefetch;prerender"),
        request().header("purpose", "prefetch"),
    ];
    for request in in_advance {
        let page = fetch(&app, request.body(Body::empty()).unwrap()).await;
        assert_eq!((page.status.as_u16(), page.text.as_str()), (200, ""));
    }
    assert_eq!(browser.get(&app, "/flashes").await.ok(), "hello");
}

#[tokio::test]
async fn one_message_too_many_displaces_the_oldest() {
    let mut visit = Visit::in_memory();
    for number in 0..70 {
        visit
            .request(move |session| async move {
                session.flash_info(number.to_string()).unwrap();
                session.insert("last", number).unwrap();
            })
            .await;
    }
    visit
        .request(|session| async move {
            assert_eq!(session.get::<u32>("last").unwrap(), Some(69));
            for number in 70..80 {
                session.flash_info(number.to_string()).unwrap();
            }
            let waiting: Vec<_> = (16..80).map(|number| number.to_string()).collect();
            assert_eq!(texts(&session.peek_flashes()), waiting);
            assert_eq!(texts(&session.take_flashes().await.unwrap()), waiting);
            // Messages of the session and of the current page, up to the limit of both.
            session.flash_now(Level::Info, "80");
            session.take_flashes().await.unwrap();
            session.keep_flashes().unwrap();
        })
        .await;
    visit
        .request(|session| async move {
            let waiting: Vec<_> = (17..81).map(|number| number.to_string()).collect();
            assert_eq!(texts(&session.take_flashes().await.unwrap()), waiting);
        })
        .await;
}

#[tokio::test]
async fn a_message_that_is_too_large_is_rejected_and_the_others_are_kept() {
    let mut visit = Visit::in_memory();
    visit
        .request(|session| async move { session.flash_info("first").unwrap() })
        .await;
    visit
        .request(|session| async move {
            let large = session.flash_info("x".repeat(1 << 20)).unwrap_err();
            assert!(matches!(large, SessionError::TooLarge { .. }), "{large}");
            assert!(!session.is_modified());
        })
        .await;
    visit
        .request(|session| async move { assert_eq!(texts(&session.peek_flashes()), ["first"]) })
        .await;
}

#[tokio::test]
async fn ten_concurrent_messages_are_shown_once_to_twelve_readers_on_two_nodes() {
    let (ground, prefix) = (Ground::new(), fresh_prefix());
    let nodes = [(); 2].map(|()| Node::start(&ground.url(), &prefix));
    let cookie = nodes[0]
        .get("/set?k=name&v=mia", None)
        .await
        .cookie
        .unwrap();
    for round in 0..5 {
        let add = |number: usize| {
            get(
                &nodes[number % 2],
                format!("/flash?text={round}.{number}"),
                &cookie,
            )
        };
        for answer in join_all((0..10).map(add)).await {
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
        let read = |number: usize| get(&nodes[number % 2], "/flashes".to_owned(), &cookie);
        let answers = join_all((0..12).map(read)).await;
        assert!(answers.iter().all(|answer| answer.status == 200));
        let mut shown: Vec<_> = answers
            .iter()
            .flat_map(|answer| answer.text.split(','))
            .filter(|text| !text.is_empty())
            .collect();
        shown.sort_unstable();
        let mut all: Vec<_> = (0..10).map(|number| format!("{round}.{number}")).collect();
        all.sort_unstable();
        assert_eq!(shown, all);
    }
}

#[tokio::test]
async fn one_of_a_hundred_requests_takes_the_token() {
    let (ground, prefix) = (Ground::new(), fresh_prefix());
    let nodes = [(); 2].map(|()| Node::start(&ground.url(), &prefix));
    let cookie = nodes[0]
        .get("/set?k=token&v=secret", None)
        .await
        .cookie
        .unwrap();
    let take = |number: usize| get(&nodes[number % 2], "/take?k=token".to_owned(), &cookie);
    let answers = join_all((0..100).map(take)).await;
    assert_eq!(
        answers
            .iter()
            .filter(|answer| answer.text == "secret")
            .count(),
        1
    );
    assert!(answers.iter().all(|answer| answer.status == 200));
}
