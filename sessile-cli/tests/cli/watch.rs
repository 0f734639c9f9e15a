//! `watch`: events as they come.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{App, Server, command, until};

struct Watch {
    process: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Watch {
    /// Returns once it listens.
    fn start(server: &Server, more: &[&str]) -> Self {
        Self::start_as(server, &server.url(), more)
    }

    fn start_as(server: &Server, url: &str, more: &[&str]) -> Self {
        let words = [&["watch", url, "--json"], more].concat();
        let mut process = command(&words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let watch = Self { process, lines };
        listens(server);
        watch
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).unwrap();
    }

    /// The event and the handle of the next line.
    fn next(&mut self) -> (String, String) {
        let line = self.lines.next().expect("another event").unwrap();
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| event[name].as_str().unwrap().to_owned();
        (text("event"), text("handle"))
    }
}

fn listens(server: &Server) {
    until("it listens", || {
        let patterns = server.try_ask::<usize>(&["PUBSUB", "NUMPAT"]).unwrap_or(0);
        let channels: Vec<String> = server.try_ask(&["PUBSUB", "CHANNELS"]).unwrap_or_default();
        patterns + channels.len() > 0
    });
}

fn flags(server: &Server) -> String {
    let setting: Vec<String> = server.ask(&["CONFIG", "GET", "notify-keyspace-events"]);
    setting[1].clone()
}

#[tokio::test]
async fn each_write_is_one_event_and_the_setting_is_put_back() {
    let server = Server::start_with(&["--notify-keyspace-events", "Ex"]);
    let app = App::new(&server.url()).await;
    let mut watch = Watch::start(&server, &["--enable", "--limit", "5"]);
    assert!(flags(&server).contains('K'));
    let mut visitor = app.visitor();
    visitor.go("/set/cart/tulip").await;
    let handle = visitor.handle.clone();
    visitor.go("/set/cart/rose").await;
    visitor.go("/logout").await;
    let mut other = app.visitor();
    other.go("/set/a/b").await;
    server.ask::<()>(&["PEXPIRE", &format!("sessile:{}", other.handle), "1"]);
    until("it has expired", || {
        server.ask::<u64>(&["EXISTS", &format!("sessile:{}", other.handle)]) == 0
    });
    for (event, handle) in [
        ("created", &handle),
        ("changed", &handle),
        ("destroyed", &handle),
        ("created", &other.handle),
        ("renewed", &other.handle),
    ] {
        assert_eq!(watch.next(), (event.to_owned(), handle.clone()));
    }
    let ended = watch.process.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(flags(&server), "xE");
}

#[tokio::test]
async fn ctrl_c_ends_it_cleanly_and_puts_the_setting_back() {
    ends_cleanly_by(Signal::SIGINT).await;
}

#[tokio::test]
async fn the_end_of_a_service_or_a_terminal_ends_it_cleanly_too() {
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        ends_cleanly_by(signal).await;
    }
}

async fn ends_cleanly_by(signal: Signal) {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    let mut watch = Watch::start(&server, &["--enable", "--details"]);
    let mia = app.signed_in("mia").await;
    let line = watch.lines.next().unwrap().unwrap();
    assert!(
        line.contains(&mia.handle) && line.contains("\"mia\""),
        "{line}"
    );
    watch.signal(signal);
    let ended = watch.process.wait_with_output().unwrap();
    assert_eq!(
        (
            ended.status.code(),
            String::from_utf8(ended.stderr).unwrap().as_str()
        ),
        (Some(0), "")
    );
    assert_eq!(flags(&server), "");
}

#[tokio::test]
async fn whoever_ends_it_at_once_is_told_how_to_put_the_setting_back() {
    let server = Server::start_with(&["--notify-keyspace-events", "Ex"]);
    let mut watch = Watch::start(&server, &["--enable"]);
    // So that it cannot put it back itself.
    server.ask::<()>(&["CLIENT", "PAUSE", "600000", "ALL"]);
    until("it has ended", || {
        watch.signal(Signal::SIGINT);
        watch.process.try_wait().unwrap().is_some()
    });
    let ended = watch.process.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130));
    let err = String::from_utf8(ended.stderr).unwrap();
    assert!(
        err.contains("CONFIG SET notify-keyspace-events \"xE\""),
        "{err}"
    );
}

#[tokio::test]
async fn a_watcher_goes_on_after_another_that_had_turned_notifications_on() {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    let first = Watch::start(&server, &["--enable"]);
    let mut second = Watch::start(&server, &["--enable", "--limit", "1"]);
    until("both listen", || {
        let clients: String = server.ask(&["CLIENT", "LIST", "TYPE", "pubsub"]);
        clients.lines().filter(|it| it.contains(" psub=1 ")).count() == 2
    });
    first.signal(Signal::SIGINT);
    assert!(first.process.wait_with_output().unwrap().status.success());
    until("the other has turned them on again", || {
        flags(&server).contains('K')
    });
    let mut visitor = app.visitor();
    visitor.go("/set/a/b").await;
    assert_eq!(
        second.next(),
        ("created".to_owned(), visitor.handle.clone())
    );
    let ended = second.process.wait_with_output().unwrap();
    let err = String::from_utf8(ended.stderr).unwrap();
    assert!(err.contains("may be missing"), "{err}");
    assert_eq!(flags(&server), "");
}

#[tokio::test]
async fn it_subscribes_again_after_a_restart() {
    let mut server = Server::start();
    let mut watch = Watch::start(&server, &["--enable", "--limit", "1"]);
    server.restart();
    listens(&server);
    let app = App::new(&server.url()).await;
    let mut visitor = app.visitor();
    visitor.go("/set/a/b").await;
    assert_eq!(watch.next(), ("created".to_owned(), visitor.handle.clone()));
    let ended = watch.process.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    assert!(String::from_utf8(ended.stderr).unwrap().contains("is lost"));
}

#[tokio::test]
async fn one_session_can_be_watched_alone_by_a_user_who_may_do_little_else() {
    let server = Server::start_with(&["--notify-keyspace-events", "KA"]);
    let app = App::new(&server.url()).await;
    let mut one = app.visitor();
    one.go("/set/a/b").await;
    // As docs/command.md lists them.
    let rules = "ACL SETUSER eye on >pw ~sessile:* resetchannels &__keyspace@0__:sessile:* +subscribe +get +pttl +time +config|get";
    server.ask::<()>(&rules.split(' ').collect::<Vec<_>>());
    let url = format!("redis://eye:pw@127.0.0.1:{}/", server.port);
    let mut watch = Watch::start_as(&server, &url, &["--handle", &one.handle, "--limit", "1"]);
    app.visitor().go("/set/a/b").await;
    one.go("/set/a/c").await;
    // The server reports no new keys.
    assert_eq!(watch.next(), ("written".to_owned(), one.handle.clone()));
    assert_eq!(watch.process.wait().unwrap().code(), Some(0));
    assert_eq!(flags(&server), "AK");
}
