//! `destroy --all`.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::conduct::copy;
use crate::proxy::Proxy;
use crate::support::{App, Server, command, run};

#[tokio::test]
async fn all_sessions_end_only_if_their_number_is_known() {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    let mia = app.signed_in("mia").await;
    copy(&server, &mia.handle, 2_999);
    server.ask::<()>(&["SET", "other:key", "1"]);
    let url = server.url();
    let all = |more: &[&str]| run(&[&["destroy", "--all", "--yes", "--url", &url], more].concat());

    let unknown = all(&[]);
    assert!(
        unknown.code == 2 && unknown.err.contains("--expect 3000"),
        "{unknown:?}"
    );
    assert_eq!(all(&["--expect", "100"]).code, 2);
    assert_eq!(run(&["stats", &url, "--json"]).json()["sessions"], 3000);

    let ended = all(&["--expect", "3000", "--progress", "--json"]);
    assert_eq!(
        (ended.code, &ended.json()["ended"]),
        (0, &3000.into()),
        "{ended:?}"
    );
    assert!(
        ended.err.contains("sessions ended 3000/3000"),
        "{}",
        ended.err
    );
    assert_eq!(run(&["stats", &url, "--json"]).json()["sessions"], 0);
    assert_eq!(server.ask::<u64>(&["EXISTS", "other:key"]), 1);
}

#[tokio::test]
async fn ctrl_c_ends_it_between_two_sessions_and_it_says_how_many_are_left() {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    let mia = app.signed_in("mia").await;
    copy(&server, &mia.handle, 19_999);
    let url = server.url();
    let words = [
        "destroy",
        "--all",
        "--yes",
        "--expect",
        "20000",
        "--url",
        &url,
        "--json",
        "--progress",
    ];
    let mut destroy = command(&words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(destroy.stderr.take().unwrap()).lines();
    // It has begun.
    assert!(lines.any(|line| line.unwrap().starts_with("sessions ended")));
    kill(Pid::from_raw(destroy.id().cast_signed()), Signal::SIGINT).unwrap();
    lines.for_each(drop);
    let output = destroy.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let left = run(&["stats", &url, "--json"]).json()["sessions"]
        .as_u64()
        .unwrap();
    assert_eq!(report["ended"].as_u64().unwrap() + left, 20_000, "{report}");
    let is_interrupted = report["interrupted"] == true;
    // It may have been faster than the signal.
    assert_eq!(
        (output.status.code(), left > 0),
        if is_interrupted {
            (Some(130), left > 0)
        } else {
            (Some(0), false)
        }
    );
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_is_no_failure_that_may_pass() {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    let mia = app.signed_in("mia").await;
    let record: String = server.ask(&["GET", &format!("sessile:{}", mia.handle)]);
    let later = record.replace("\"format\":1", "\"format\":99");
    let keys = ["A", "B"].map(|first| format!("sessile:{first}AAAAAAAAAAAAAAAAAAAAA"));
    for (key, value) in keys.iter().zip([later.as_str(), "{}"]) {
        server.ask::<()>(&["SET", key, value, "PX", "1800000"]);
    }
    let url = server.url();
    let words = ["destroy", "--all", "--yes", "--expect", "3", "--url", &url];
    let text = run(&words);
    assert_eq!(text.code, 3, "{text:?}");
    assert!(
        text.err.contains("2 sessions could not be read"),
        "{text:?}"
    );
    for part in [
        "1 session ended\n",
        "a later version",
        "UNLINK",
        &keys[0],
        &keys[1],
    ] {
        assert!(text.out.contains(part), "{part}: {text:?}");
    }
    assert!(!text.out.contains("run it again"), "{text:?}");
    let json = run(&[&words[..], &["--json"]].concat()).json();
    assert_eq!(
        (
            &json["ended"],
            &json["gone"],
            &json["unreadable"],
            &json["failed"]
        ),
        (&0.into(), &0.into(), &2.into(), &0.into())
    );
    assert_eq!(json["unreadable_keys"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_failure_says_why() {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    app.signed_in("mia").await;
    let admin = redis::Client::open(server.url()).unwrap();
    // The store has been opened when the keys are counted.
    let denied = Proxy::start(server.port, move |scan| {
        if scan == 1 {
            let mut deny = redis::cmd("ACL");
            deny.arg(&["SETUSER", "default", "-evalsha", "-eval"]);
            deny.exec(&mut admin.get_connection().unwrap()).unwrap();
        }
        None
    });
    let url = denied.url();
    let words = ["destroy", "--all", "--yes", "--expect", "1", "--url", &url];
    let ran = run(&words);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (
            3,
            denied
                .on("0 sessions ended, 1 session may go on: run it again")
                .as_str()
        )
    );
    assert!(ran.err.contains("evalsha"), "{ran:?}");
}

#[tokio::test]
async fn a_session_that_is_created_meanwhile_ends_too_and_a_failed_scan_loses_no_count() {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    let mia = app.signed_in("mia").await;
    let record: String = server.ask(&["GET", &format!("sessile:{}", mia.handle)]);
    let admin = redis::Client::open(server.url()).unwrap();
    // The first SCAN counts, and each of the following is a pass.
    let late = Proxy::start(server.port, move |scan| {
        if scan == 3 {
            let mut create = redis::cmd("SET");
            create.arg(&["sessile:AAAAAAAAAAAAAAAAAAAAAA", &record, "PX", "1800000"]);
            create.exec(&mut admin.get_connection().unwrap()).unwrap();
        }
        (scan == 4).then(|| "NOPERM this user may not scan any more".to_owned())
    });
    let url = late.url();
    let words = ["destroy", "--all", "--yes", "--expect", "1", "--url", &url];
    let ran = run(&words);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (3, late.on("2 sessions ended").as_str()),
        "{ran:?}"
    );
    assert!(
        ran.err.contains("may not scan any more") || ran.err.contains("scan"),
        "{ran:?}"
    );
}
