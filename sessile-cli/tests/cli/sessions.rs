//! `stats`, `list`, `show` and `destroy`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{App, Server, run};

fn handles(out: &str) -> BTreeSet<String> {
    let handle = |line: &str| {
        let session: Value = serde_json::from_str(line).unwrap();
        session["handle"].as_str().unwrap().to_owned()
    };
    out.lines().map(handle).collect()
}

#[tokio::test]
async fn sessions_are_counted_listed_and_shown() {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    let mia = app.signed_in("mia").await;
    let mut tab = app.signed_in("mia").await;
    tab.go("/set/theme/dark").await;
    tab.go("/flash/saved").await;
    let ben = app.signed_in("ben").await;
    let mut guest = app.visitor();
    guest.go("/set/cart/tulip").await;
    let url = server.url();

    assert_eq!(run(&["stats", &url, "--json"]).json()["sessions"], 4);
    let all = run(&["list", &url, "--json"]);
    let expected = [&mia, &tab, &ben, &guest].map(|it| it.handle.clone());
    assert_eq!(handles(&all.out), BTreeSet::from(expected));
    let of_mia = run(&["list", &url, "--json", "--principal", "mia"]);
    assert_eq!(
        handles(&of_mia.out),
        BTreeSet::from([mia.handle.clone(), tab.handle.clone()])
    );
    assert_eq!(run(&["list", &url, "--principal", "zoe"]).code, 1);
    assert_eq!(
        run(&["list", &url, "--limit", "2", "--json"])
            .out
            .lines()
            .count(),
        2
    );

    let shown = run(&["show", &tab.handle, "--url", &url, "--json"]);
    let session = shown.json();
    assert_eq!(
        (
            &session["principal"],
            &session["keys"][0],
            &session["flashes"]
        ),
        (&"mia".into(), &"theme".into(), &1.into())
    );
    assert_eq!(session["network"], "203.0.113.0/24");
    for json in [&["--json"][..], &[]] {
        let words = [&["show", &tab.handle, "--url", &url], json].concat();
        let out = run(&words).out;
        assert!(
            !out.contains("dark") && !out.contains("saved"),
            "values are not asked for: {out}"
        );
        let out = run(&[&words[..], &["--values"]].concat()).out;
        assert!(out.contains("dark") && out.contains("saved"), "{out}");
    }
}

#[tokio::test]
async fn a_session_that_cannot_be_read_is_listed_as_such() {
    let server = Server::start();
    let handle = "AAAAAAAAAAAAAAAAAAAAAA";
    server.ask::<()>(&["SET", &format!("sessile:{handle}"), "{}", "PX", "1800000"]);
    let listed = run(&["list", &server.url(), "--json"]);
    assert!(
        listed.out.contains(handle) && listed.out.contains("unreadable"),
        "{listed:?}"
    );
    assert_eq!(run(&["show", handle, "--url", &server.url()]).code, 1);
    assert_eq!(
        run(&["destroy", handle, "--yes", "--url", &server.url()]).code,
        3
    );
    assert_eq!(server.ask::<u64>(&["DBSIZE"]), 1);
}

#[tokio::test]
async fn one_session_or_those_of_a_user_end_and_no_others() {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    let url = server.url();
    let one = app.signed_in("mia").await;
    let two = app.signed_in("mia").await;
    let three = app.signed_in("mia").await;
    let ben = app.signed_in("ben").await;
    let left = || handles(&run(&["list", &url, "--json"]).out);

    let unasked = run(&["destroy", &one.handle, "--url", &url]);
    assert_eq!((unasked.code, left().len()), (2, 4), "{unasked:?}");
    let dry = run(&[
        "destroy",
        "--principal",
        "mia",
        "--dry-run",
        "--url",
        &url,
        "--json",
    ]);
    assert_eq!((&dry.json()["found"], left().len()), (&3.into(), 4));

    let ended = run(&["destroy", &one.handle, "--yes", "--url", &url, "--json"]);
    assert_eq!((ended.code, &ended.json()["ended"]), (0, &1.into()));
    assert_eq!(
        run(&["destroy", &one.handle, "--yes", "--url", &url]).code,
        1
    );

    let words = [
        "destroy",
        "--principal",
        "mia",
        "--except",
        &two.handle,
        "--yes",
        "--url",
        &url,
    ];
    let on = format!("on 127.0.0.1:{}, keys sessile:*: ", server.port);
    assert_eq!(run(&words).out, format!("{on}1 session ended\n"));
    assert_eq!(
        left(),
        BTreeSet::from([two.handle.clone(), ben.handle.clone()])
    );
    assert!(!left().contains(&three.handle));
    assert_eq!(
        run(&["destroy", "--principal", "mia", "--yes", "--url", &url]).code,
        0
    );
    assert_eq!(left(), BTreeSet::from([ben.handle.clone()]));
}

/// As docs/command.md lists them.
#[tokio::test]
async fn the_permissions_of_the_documentation_suffice() {
    let server = Server::start_with(&["--notify-keyspace-events", "KA"]);
    let app = App::new(&server.url()).await;
    let mia = app.signed_in("mia").await;
    let missing = "AAAAAAAAAAAAAAAAAAAAAA";
    let application = "+get +pttl +set +pexpire +unlink +time +zadd +zrange +zrem +zremrangebyscore +zscore +getrange +evalsha +eval";
    let doctor = format!("{application} +info +scan +dbsize +config|get");
    let all = format!("{application} +scan +dbsize");
    for (rules, words, code) in [
        ("+get +pttl +time", &["show", &mia.handle][..], 0),
        ("+get +pttl +time", &["explain", &mia.handle], 0),
        (
            "+get +pttl +time +info +zrange",
            &["explain", missing, "--principal", "mia"],
            1,
        ),
        ("+get +pttl +time +scan +dbsize", &["list"], 0),
        (
            "+get +pttl +time +zrange",
            &["list", "--principal", "mia"],
            0,
        ),
        ("+get +pttl +time +scan +dbsize +strlen", &["stats"], 0),
        (
            "+get +pttl +time +scan +dbsize",
            &["destroy", "--all", "--dry-run"],
            0,
        ),
        (&doctor, &["doctor"], 0),
        (
            "+acl|dryrun +time +info",
            &["doctor", "--acl-user", "default"],
            0,
        ),
        (
            application,
            &["destroy", &app.signed_in("ben").await.handle, "--yes"],
            0,
        ),
        (
            application,
            &[
                "destroy",
                "--principal",
                "mia",
                "--except",
                &mia.handle,
                "--yes",
            ],
            1,
        ),
        (&all, &["destroy", "--all", "--yes", "--expect", "5"], 0),
    ] {
        let user = format!("ACL SETUSER someone reset on >pw ~sessile:* {rules}");
        server.ask::<()>(&user.split(' ').collect::<Vec<_>>());
        let url = format!("redis://someone:pw@127.0.0.1:{}/", server.port);
        let ran = run(&[words, &["--url", &url]].concat());
        assert_eq!(ran.code, code, "{words:?}: {ran:?}");
    }
}

#[tokio::test]
async fn nothing_ends_by_a_user_who_may_only_read() {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    let mia = app.signed_in("mia").await;
    server.ask::<()>(&[
        "ACL",
        "SETUSER",
        "auditor",
        "on",
        ">pw",
        "~sessile:*",
        "+get",
        "+pttl",
        "+time",
    ]);
    let url = format!("redis://auditor:pw@127.0.0.1:{}/", server.port);
    let denied = run(&["destroy", &mia.handle, "--yes", "--url", &url]);
    assert!(
        denied.code == 3 && denied.err.contains("grant the user"),
        "{denied:?}"
    );
    assert_eq!(run(&["show", &mia.handle, "--url", &server.url()]).code, 0);
}

#[tokio::test]
async fn the_session_to_spare_is_one_of_the_user_or_nothing_ends() {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    let url = server.url();
    let mia = app.signed_in("mia").await;
    let ben = app.signed_in("ben").await;
    let missing = "AAAAAAAAAAAAAAAAAAAAAA";
    for (except, more) in [
        (ben.handle.as_str(), "--yes"),
        (missing, "--yes"),
        (missing, "--dry-run"),
    ] {
        let words = ["destroy", "--principal", "mia", "--except", except];
        let ran = run(&[&words[..], &[more, "--url", &url]].concat());
        assert!(
            ran.code == 2 && ran.err.contains("is no session of mia"),
            "{ran:?}"
        );
        assert_eq!(run(&["show", &mia.handle, "--url", &url]).code, 0);
    }
}

/// `explain` tells by them how a session has ended.
#[tokio::test]
async fn a_look_at_the_sessions_of_a_user_leaves_the_entries_of_those_that_have_ended() {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    let url = server.url();
    let mia = app.signed_in("mia").await;
    let unused = app.signed_in("mia").await;
    server.ask::<()>(&["DEL", &format!("sessile:{}", unused.handle)]);
    let listed = run(&["list", "--principal", "mia", "--json", "--url", &url]);
    assert_eq!(handles(&listed.out), BTreeSet::from([mia.handle.clone()]));
    let dry = [
        "destroy",
        "--principal",
        "mia",
        "--dry-run",
        "--json",
        "--url",
        &url,
    ];
    assert_eq!(run(&dry).json()["found"], 1);
    let explained = run(&[
        "explain",
        &unused.handle,
        "--principal",
        "mia",
        "--json",
        "--url",
        &url,
    ]);
    let report = explained.json();
    let mut causes = report["causes"].as_array().unwrap().iter();
    let logout = causes.find(|it| it["cause"] == "logout").unwrap();
    assert_eq!(logout["likelihood"], "unlikely", "{explained:?}");
}
