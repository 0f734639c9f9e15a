//! Exit codes, passwords, pipes and colors.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::support::{App, Server, command, finish, free_port, run};

#[test]
fn exit_codes_say_how_a_command_ended() {
    let server = Server::start();
    let url = server.url();
    let dead = format!("redis://127.0.0.1:{}/", free_port());
    let none = "AAAAAAAAAAAAAAAAAAAAAA";
    for (words, code) in [
        (vec!["stats", &url], 0),
        (vec!["list", &url], 1),
        (vec!["show", none, "--url", &url], 1),
        (vec!["explain", none, "--url", &url], 1),
        (vec!["destroy", none, "--yes", "--url", &url], 1),
        (vec!["doctor", &url], 0),
        (vec!["doctor", &url, "--fail-on", "note"], 1),
        (vec!["stats"], 2),
        (vec!["stats", "memory:"], 2),
        (vec!["stats", "http://127.0.0.1/"], 2),
        (vec!["show", "not a handle", "--url", &url], 2),
        (vec!["stats", &url, "--prefix", "a*b"], 2),
        (vec!["--config", "/nonexistent.toml", "stats"], 2),
        (vec!["stats", &dead], 3),
        (vec!["doctor", &dead], 3),
        (vec!["watch", &url], 3),
    ] {
        let ran = run(&words);
        assert_eq!(ran.code, code, "{words:?}: {ran:?}");
        assert!(code < 2 || !ran.err.is_empty(), "{words:?}: {ran:?}");
    }
}

#[test]
fn the_store_comes_from_the_environment_or_the_file_of_the_application() {
    let server = Server::start();
    for variable in ["SESSILE_URL", "SESSILE__STORE__URL", "REDIS_URL"] {
        let mut stats = command(&["stats"]);
        stats.env(variable, server.url());
        let ran = finish(stats);
        assert_eq!(ran.code, 0, "{variable}: {ran:?}");
    }
    let path = server.path("sessile.toml");
    let text = format!(
        "[store]\nurl = {:?}\nkey_prefix = \"shop:\"\n[session]\nidle_timeout = \"5m\"\n",
        server.url()
    );
    std::fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    assert_eq!(run(&["--config", &path, "stats"]).code, 0);
    // The file that is named, and not the environment.
    let mut named = command(&["--config", &path, "destroy", "--all", "--dry-run", "--json"]);
    named.env("SESSILE_URL", format!("redis://127.0.0.1:{}/", free_port()));
    let ran = finish(named);
    let on = format!("127.0.0.1:{}, keys shop:*", server.port);
    assert_eq!(ran.json()["store"], on.as_str(), "{ran:?}");
    let ran = run(&["--config", &path, "explain", "AAAAAAAAAAAAAAAAAAAAAA"]);
    assert!(ran.out.contains("idle_timeout = 5m"), "{ran:?}");
}

#[test]
fn a_password_is_printed_nowhere() {
    let server = Server::start_with(&["--requirepass", "right-s3cret"]);
    let with = |password: &str| format!("redis://:{password}@127.0.0.1:{}/", server.port);
    let dead = format!("redis://:wrong-s3cret@127.0.0.1:{}/", free_port());
    let bad = "redis://:wrong-s3cret@127.0.0.1:99999/".to_owned();
    for url in [with("right-s3cret"), with("wrong-s3cret"), dead, bad] {
        for command in ["doctor", "stats", "list", "watch"] {
            let ran = run(&[command, &url]);
            let all = format!("{}{}", ran.out, ran.err);
            assert!(!all.contains("s3cret"), "{command} {url}: {all}");
        }
        let mut help = command(&["--help"]);
        help.env("SESSILE_URL", &url);
        assert!(!finish(help).out.contains("s3cret"));
    }
    let ran = run(&["stats", &with("wrong-s3cret")]);
    assert!(ran.err.contains("user and password"), "{ran:?}");
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_error() {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    let visitor = app.signed_in("mia").await;
    copy(&server, &visitor.handle, 5_000);
    let mut list = command(&["list", &server.url()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(list.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("HANDLE"));
    drop(lines);
    let output = list.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

/// Stores the session again, under this many other handles.
pub fn copy(server: &Server, handle: &str, times: usize) {
    let mut connection = server.connection().unwrap();
    let value: Vec<u8> = redis::cmd("GET")
        .arg(format!("sessile:{handle}"))
        .query(&mut connection)
        .unwrap();
    for first in (0..times).step_by(1000) {
        let mut pipeline = redis::pipe();
        for _ in first..times.min(first + 1000) {
            let key = format!("sessile:{}", sessile::Handle::random());
            pipeline
                .cmd("SET")
                .arg(key)
                .arg(&value)
                .arg("PX")
                .arg(1_800_000)
                .ignore();
        }
        pipeline.exec(&mut connection).unwrap();
    }
}

#[tokio::test]
async fn colors_go_to_terminals_only_and_a_label_cannot_bring_its_own() {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    let mut visitor = app.signed_in("mia").await;
    visitor.go("/label/%1B[2Jgone").await;
    let url = server.url();
    for words in [
        vec!["doctor", &url],
        vec!["list", &url],
        vec!["show", &visitor.handle, "--url", &url],
        vec!["explain", &visitor.handle, "--url", &url, "--no-color"],
    ] {
        let ran = run(&words);
        assert!(!ran.out.contains('\u{1b}'), "{words:?}: {}", ran.out);
    }
    let mut forced = command(&["list", &url, "--no-color"]);
    forced.env("CLICOLOR_FORCE", "1");
    assert!(!finish(forced).out.contains('\u{1b}'));
    let mut forced = command(&["list", &url]);
    forced.env("CLICOLOR_FORCE", "1");
    let out = finish(forced).out;
    assert!(
        out.contains("\u{1b}[2mHANDLE") && out.contains("\\u{1b}[2Jgone"),
        "{out}"
    );
}

/// The word after each of these in a source file, such as the name in `Finding::note("name", …)`.
fn words_after(path: &str, starts: &[&str]) -> Vec<String> {
    let root = env!("CARGO_MANIFEST_DIR");
    let text = std::fs::read_to_string(format!("{root}/{path}")).unwrap();
    let text: String = text
        .split("#[cfg(test)]")
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let word = |rest: &str| rest.split('"').next().unwrap().to_owned();
    starts
        .iter()
        .flat_map(|start| text.split(start).skip(1).map(word).collect::<Vec<_>>())
        .collect()
}

#[test]
fn the_documentation_names_every_check_and_every_cause() {
    let root = env!("CARGO_MANIFEST_DIR");
    let text = std::fs::read_to_string(format!("{root}/../docs/command.md")).unwrap();
    let finding = ["ok", "note", "warning", "problem"].map(|it| format!("Finding::{it}(\""));
    let finding = finding.each_ref().map(String::as_str);
    let mut names = Vec::new();
    for part in [
        "access",
        "keys",
        "mod",
        "network",
        "persistence",
        "server",
        "topology",
    ] {
        names.extend(words_after(
            &format!("src/doctor/judge/{part}.rs"),
            &finding,
        ));
    }
    names.extend(words_after("src/explain/missing.rs", &["cause:\""]));
    assert!(names.len() > 60, "{names:?}");
    for name in names {
        assert!(
            text.contains(&format!("`{name}`")),
            "docs/command.md does not name {name}"
        );
    }
}
