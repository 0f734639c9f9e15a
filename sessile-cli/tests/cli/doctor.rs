//! `doctor`: each fault that it can be shown on one server.

use crate::support::{App, Server, run};

/// Checks that the doctor finds this, and names this change.
#[track_caller]
fn finds(url: &str, more: &[&str], check: &str, severity: &str, part: &str) {
    let ran = run(&[&["doctor", url, "--json"], more].concat());
    assert_eq!(ran.found(check), [severity], "{check}: {}", ran.out);
    assert!(ran.out.contains(part), "{check} {part}: {}", ran.out);
    let expected = i32::from(ran.json()["worst"] == "problem");
    assert_eq!(ran.code, expected, "{check}");
    let text = run(&[&["doctor", url], more].concat());
    assert!(text.out.contains(check), "{}", text.out);
}

#[test]
fn settings_that_harm_sessions_are_found() {
    for (arguments, check, severity, part) in [
        (
            &["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"][..],
            "eviction",
            "problem",
            "CONFIG SET maxmemory-policy noeviction",
        ),
        (
            &["--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl"],
            "eviction",
            "problem",
            "volatile-ttl",
        ),
        (
            &["--maxmemory-policy", "volatile-lru"],
            "eviction",
            "warning",
            "no maxmemory",
        ),
        (&[], "persistence", "note", "signs everybody out"),
        (
            &["--save", "3600 1"],
            "persistence",
            "warning",
            "snapshots only",
        ),
        (&["--appendonly", "yes"], "persistence", "note", "everysec"),
        (
            &["--appendonly", "yes", "--appendfsync", "no"],
            "persistence",
            "warning",
            "appendfsync always",
        ),
        (
            &["--timeout", "60"],
            "timeout",
            "note",
            "CONFIG SET timeout 0",
        ),
        (
            &["--tcp-keepalive", "0"],
            "keepalive",
            "note",
            "CONFIG SET tcp-keepalive 300",
        ),
        (
            &["--min-replicas-to-write", "1"],
            "isolation",
            "problem",
            "NOREPLICAS",
        ),
        (
            &["--rename-command", "UNLINK", ""],
            "commands",
            "problem",
            "rename-command",
        ),
        (
            &["--rename-command", "CONFIG", ""],
            "config",
            "note",
            "Managed services",
        ),
        (&[], "replicas", "note", "REPLICAOF"),
        (&[], "password", "note", "ACL SETUSER"),
    ] {
        let server = Server::start_with(arguments);
        finds(&server.url(), &[], check, severity, part);
    }
}

#[test]
fn a_server_that_is_as_it_should_be_has_no_problem() {
    let server = Server::start_with(&[
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--requirepass",
        "pw",
        "--maxmemory",
        "1gb",
    ]);
    let ran = run(&[
        "doctor",
        &format!("redis://:pw@127.0.0.1:{}/", server.port),
        "--json",
    ]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for check in [
        "store",
        "permissions",
        "version",
        "role",
        "eviction",
        "memory",
        "clients",
        "persistence",
        "password",
        "encryption",
        "keys",
    ] {
        assert_eq!(ran.found(check), Vec::<String>::new(), "{}", ran.out);
    }
}

#[test]
fn a_replica_is_no_place_for_sessions() {
    let primary = Server::start();
    let port = primary.port.to_string();
    let replica = Server::start_with(&[
        "--replicaof",
        "127.0.0.1",
        &port,
        "--repl-diskless-sync-delay",
        "0",
    ]);
    crate::support::until("the replica is in sync", || {
        let info: String = replica.ask(&["INFO", "replication"]);
        info.contains("master_link_status:up")
    });
    finds(
        &replica.url(),
        &[],
        "role",
        "problem",
        &format!("redis://127.0.0.1:{port}/"),
    );
    finds(
        &primary.url(),
        &[],
        "isolation",
        "note",
        "min-replicas-to-write 1",
    );
}

#[test]
fn a_server_at_its_limits_is_found() {
    let server = Server::start_with(&["--maxclients", "30"]);
    let clients: Vec<_> = (0..26).map(|_| server.connection().unwrap()).collect();
    finds(
        &server.url(),
        &[],
        "clients",
        "problem",
        "CONFIG SET maxclients 60",
    );
    drop(clients);

    let server = Server::start();
    let info: String = server.ask(&["INFO", "memory"]);
    let used = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"))
        .unwrap();
    // More than is in use, since what the doctor's own connections take varies.
    let limit = (used.trim().parse::<u64>().unwrap() / 2).to_string();
    server.ask::<()>(&["CONFIG", "SET", "maxmemory", &limit]);
    finds(
        &server.url(),
        &[],
        "memory",
        "problem",
        "CONFIG SET maxmemory",
    );
}

#[test]
fn a_snapshot_that_failed_is_found() {
    let server = Server::start_with(&["--save", "3600 1", "--dbfilename", "taken"]);
    std::fs::create_dir(server.path("taken")).unwrap();
    server.ask::<redis::Value>(&["BGSAVE"]);
    crate::support::until("the snapshot has failed", || {
        let info: String = server.ask(&["INFO", "persistence"]);
        info.contains("rdb_last_bgsave_status:err")
    });
    finds(&server.url(), &[], "disk", "problem", "MISCONF");
}

#[test]
fn the_permissions_that_a_user_lacks_are_named_exactly() {
    let server = Server::start();
    let all = "+get +pttl +set +pexpire +unlink +time +zadd +zrange +zrem +zremrangebyscore +zscore +getrange +evalsha +eval";
    let user = |name: &str, keys: &str, grants: &str| {
        let rules = format!("ACL SETUSER {name} reset on >pw {keys} {grants}");
        server.ask::<()>(&rules.split_whitespace().collect::<Vec<_>>());
    };
    user("full", "~sessile:*", all);
    user(
        "short",
        "~sessile:*",
        &all.replace(" +zadd", "").replace(" +unlink", ""),
    );
    user(
        "noscript",
        "~sessile:*",
        &all.replace(" +evalsha +eval", " +watch +multi +exec +discard"),
    );
    user(
        "noexec",
        "~sessile:*",
        &all.replace(" +evalsha +eval", " +watch +multi +discard"),
    );
    user("lost", "~other:*", all);
    for (name, check, severity, part) in [
        (
            "short",
            "permissions",
            "problem",
            "ACL SETUSER short +unlink +zadd",
        ),
        ("noscript", "compare-and-set", "note", "+evalsha +eval"),
        // The server calls its refusal of EXEC an aborted transaction.
        (
            "noexec",
            "permissions",
            "problem",
            "ACL SETUSER noexec +evalsha +eval",
        ),
        (
            "lost",
            "permissions",
            "problem",
            "ACL SETUSER lost ~sessile:*",
        ),
    ] {
        // By an administrator who asks for the user.
        let ran = run(&["doctor", &server.url(), "--json", "--acl-user", name]);
        assert!(
            ran.found(check).contains(&severity.to_owned()),
            "{name}: {}",
            ran.out
        );
        assert!(ran.out.contains(part), "{name}: {}", ran.out);
        // By the user.
        let own = format!("redis://{name}:pw@127.0.0.1:{}/", server.port);
        let ran = run(&["doctor", &own, "--json"]);
        assert!(
            ran.found(check).contains(&severity.to_owned()),
            "{name}: {}",
            ran.out
        );
        assert!(
            ran.out.contains(&part.replace(name, "<user>")),
            "{name}: {}",
            ran.out
        );
    }
    for words in [vec!["--acl-user", "full"], vec![]] {
        let own = format!("redis://full:pw@127.0.0.1:{}/", server.port);
        let url = if words.is_empty() { own } else { server.url() };
        let ran = run(&[&["doctor", &url, "--json"], &words[..]].concat());
        assert!(
            !ran.found("permissions").contains(&"problem".to_owned()),
            "{}",
            ran.out
        );
        assert_eq!(ran.found("store"), Vec::<String>::new(), "{}", ran.out);
    }
    finds(
        &server.url(),
        &["--acl-user", "nobody"],
        "permissions",
        "warning",
        "not found",
    );
}

#[tokio::test]
async fn keys_that_should_not_be_there_are_found_and_the_others_stay_as_they_are() {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    let mia = app.signed_in("mia").await;
    let key = format!("sessile:{}", mia.handle);
    let ran = run(&["doctor", &server.url(), "--json"]);
    assert_eq!(ran.found("keys"), Vec::<String>::new(), "{}", ran.out);
    let before: (String, u64) = (server.ask(&["GET", &key]), server.ask(&["DBSIZE"]));

    server.ask::<()>(&["PERSIST", &key]);
    finds(&server.url(), &[], "ttl", "problem", &key);
    server.ask::<()>(&["PEXPIRE", &key, "1800000"]);
    let after: (String, u64) = (server.ask(&["GET", &key]), server.ask(&["DBSIZE"]));
    assert_eq!(before, after);

    server.ask::<()>(&["SET", "sessile:cart", "1"]);
    finds(&server.url(), &[], "foreign", "warning", "sessile:cart");
    let unreadable = "sessile:AAAAAAAAAAAAAAAAAAAAAA";
    server.ask::<()>(&["SET", unreadable, "{}", "PX", "1800000"]);
    finds(&server.url(), &[], "unreadable", "warning", unreadable);
}

#[test]
fn a_scan_is_bounded_unless_all_is_asked_for() {
    let server = Server::start();
    let mut pipeline = redis::pipe();
    for number in 0..30_000 {
        pipeline
            .cmd("SET")
            .arg(format!("other:{number}"))
            .arg(1)
            .ignore();
    }
    pipeline.exec(&mut server.connection().unwrap()).unwrap();
    let seen = |more: &[&str]| run(&[&["doctor", &server.url(), "--progress"], more].concat());
    assert!(seen(&[]).out.contains("10 000 of 30 000 keys examined"));
    let full = seen(&["--full"]);
    assert!(
        full.out.contains("all 30 000 keys examined") && full.err.contains("keys 30000/30000"),
        "{full:?}"
    );
}
