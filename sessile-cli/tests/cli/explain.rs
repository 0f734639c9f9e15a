//! `explain`: sessions that a request would not get.

use std::time::{Duration, SystemTime};

use crate::support::{App, Ran, Server, run, run_with_stdin};

fn reason(ran: &Ran) -> String {
    ran.json()["reason"].as_str().unwrap().to_owned()
}

/// This long after now, as RFC 3339.
fn after(secs: u64) -> String {
    let time = SystemTime::now() + Duration::from_secs(secs);
    jiff::Timestamp::try_from(time).unwrap().to_string()
}

#[tokio::test]
async fn a_session_that_lives_is_accepted_until_one_of_its_timeouts() {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    let mia = app.signed_in("mia").await;
    let explain = |more: &[&str]| {
        run(&[
            &["explain", &mia.handle, "--url", &server.url(), "--json"],
            more,
        ]
        .concat())
    };
    for (at, expected, code) in [
        (after(0), "accepted", 0),
        (after(31 * 60), "idle_timeout", 1),
        (after(25 * 60 * 60), "absolute_timeout", 1),
    ] {
        let ran = explain(&["--at", &at]);
        assert_eq!(
            (reason(&ran).as_str(), ran.code),
            (expected, code),
            "{ran:?}"
        );
    }
    for (more, expected) in [
        (vec!["--network", "203.0.113.200"], "accepted"),
        (vec!["--network", "198.51.100.7"], "accepted"),
        (
            vec!["--network", "198.51.100.7", "--fingerprinting", "strict"],
            "other_network",
        ),
        (
            vec!["--network", "203.0.113.200", "--fingerprinting", "strict"],
            "accepted",
        ),
        (
            vec!["--network", "2001:db8::1", "--fingerprinting", "strict"],
            "accepted",
        ),
    ] {
        assert_eq!(reason(&explain(&more)), expected, "{more:?}");
    }
}

#[tokio::test]
async fn a_cookie_says_which_secret_it_has_and_is_not_printed() {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    let mut mia = app.signed_in("mia").await;
    let old = mia.cookie.clone().unwrap();
    mia.go("/rotate").await;
    let new = mia.cookie.clone().unwrap();
    let ben = app.signed_in("ben").await.cookie.unwrap();
    assert_ne!(old, new);
    let later = after(60);
    let url = server.url();
    for (stdin, more, expected) in [
        (new.clone(), vec![], "accepted"),
        (format!("__Host-id={new}; Path=/\n"), vec![], "accepted"),
        // For ten seconds after the rotation the old secret is recognized; this is later.
        (old.clone(), vec!["--at", &later], "wrong_secret"),
        (
            new.clone(),
            vec!["--cookie-name", "__Host-other"],
            "wrong_secret",
        ),
        (ben.clone(), vec![], "accepted"),
        (ben.clone(), vec![mia.handle.as_str()], "another_session"),
        ("rubbish".to_owned(), vec![], "not_a_token"),
        (String::new(), vec![], "not_a_token"),
    ] {
        for json in [&["--json"][..], &[]] {
            let words = [
                &["explain", "--token-stdin", "--url", &url],
                &more[..],
                json,
            ]
            .concat();
            let ran = run_with_stdin(&words, &stdin);
            if !json.is_empty() {
                assert_eq!(reason(&ran), expected, "{more:?}: {ran:?}");
            }
            for cookie in [&old, &new, &ben] {
                // Its second half is the secret.
                assert!(
                    !ran.out.contains(&cookie[23..]) && !ran.err.contains(&cookie[23..]),
                    "{ran:?}"
                );
            }
        }
    }
    let now = run_with_stdin(&["explain", "--token-stdin", "--url", &url, "--json"], &old);
    assert!(
        ["retired", "wrong_secret"].contains(&reason(&now).as_str()),
        "{now:?}"
    );
    assert_eq!(now.code, 1);
}

#[tokio::test]
async fn a_missing_session_is_weighed_by_the_index_of_its_user() {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    let mut out = app.signed_in("mia").await;
    let unused = app.signed_in("mia").await;
    let handle = out.handle.clone();
    out.go("/logout").await;
    // As if its idle timeout had passed.
    server.ask::<()>(&["DEL", &format!("sessile:{}", unused.handle)]);
    let url = server.url();
    let causes = |handle: &str, more: &[&str]| {
        let ran = run(&[&["explain", handle, "--url", &url, "--json"], more].concat());
        assert_eq!((reason(&ran).as_str(), ran.code), ("missing", 1));
        let json = ran.json();
        let causes = json["causes"].as_array().unwrap().iter();
        let pair = |it: &serde_json::Value| {
            (
                it["cause"].as_str().unwrap().to_owned(),
                it["likelihood"].as_str().unwrap().to_owned(),
            )
        };
        causes.map(pair).collect::<Vec<_>>()
    };
    let of_mia = ["--principal", "mia"];
    let expected = ("logout".to_owned(), "likely".to_owned());
    assert!(causes(&handle, &of_mia).contains(&expected));
    let found = causes(&unused.handle, &of_mia);
    // It ended too early for its idle timeout, and without a logout.
    assert_eq!(found[0], ("deleted".to_owned(), "likely".to_owned()));
    assert!(
        found.contains(&("logout".to_owned(), "unlikely".to_owned())),
        "{found:?}"
    );
    // It has not tidied up the index, which would lose the trace.
    assert_eq!(causes(&unused.handle, &of_mia), found);
    assert!(causes(&handle, &[]).iter().any(|it| it.0 == "restart"));
}

#[tokio::test]
async fn an_unreadable_record_and_one_without_a_time_to_live_are_explained() {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    let mia = app.signed_in("mia").await;
    let key = format!("sessile:{}", mia.handle);
    server.ask::<()>(&["PERSIST", &key]);
    let words = ["explain", &mia.handle, "--url", &server.url(), "--json"];
    let ran = run(&words);
    assert_eq!(reason(&ran), "accepted");
    assert!(ran.out.contains("no time to live"), "{ran:?}");
    let record: String = server.ask(&["GET", &key]);
    server.ask::<()>(&[
        "SET",
        &key,
        &record.replace("\"format\":1", "\"format\":99"),
        "PX",
        "1800000",
    ]);
    assert_eq!(reason(&run(&words)), "unreadable");
}
