//! Errors before the first request, and their messages.

use std::time::Duration;

use sessile::{CompareAndSet, ConfigError, RedisConfig, RedisStore};

use crate::support::patience::unhurried;
use crate::support::server::{free_port, strategies};
use crate::support::{Sentinels, Server, connect, until};

async fn refused(url: String) -> String {
    let mut config = RedisConfig::new(url);
    unhurried(&mut config);
    refused_with(config).await
}

async fn refused_with(config: RedisConfig) -> String {
    let error = RedisStore::from_config(config).await.unwrap_err();
    assert!(matches!(error, ConfigError::Connect { .. }), "{error:?}");
    format!("{error} {error:?}")
}

#[tokio::test]
async fn the_error_names_an_unreachable_server() {
    let port = free_port();
    let text = refused(format!("redis://127.0.0.1:{port}/")).await;
    assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
    assert!(
        text.contains("connection refused") && text.contains("start the server"),
        "{text}"
    );
}

#[tokio::test]
async fn the_error_names_an_unresponsive_server() {
    let server = Server::start();
    server.freeze();
    let text = refused_with(RedisConfig::new(server.url())).await;
    assert!(text.contains("connection_timeout = 1s"), "{text}");
    server.thaw();
}

#[tokio::test]
async fn the_error_names_an_unknown_host() {
    let text = refused("redis://no-such-host.invalid:6379/".to_owned()).await;
    assert!(text.contains("no-such-host.invalid:6379"), "{text}");
}

#[tokio::test]
async fn a_wrong_password_is_reported_but_not_shown() {
    let server = Server::start();
    let protected: () = redis::cmd("CONFIG")
        .arg(&["SET", "requirepass", "right-one"])
        .query(&mut server.connection())
        .unwrap();
    assert_eq!(protected, ());
    let address = server.address();
    for login in ["", ":wrong-one@", "nobody:wrong-one@"] {
        let text = refused(format!("redis://{login}{address}/")).await;
        assert!(
            text.contains("`url`") && !text.contains("wrong-one"),
            "{text}"
        );
    }
    connect(format!("redis://:right-one@{address}/"))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_documented_permissions_are_sufficient_and_necessary() {
    let server = Server::start();
    let set_user = |grants: &[&str], without: &str| {
        let mut command = redis::cmd("ACL");
        command.arg(&[
            "SETUSER",
            "app",
            "reset",
            "on",
            ">secret",
            "~sessile:*",
            "resetchannels",
            "-@all",
        ]);
        for grant in grants.iter().filter(|grant| **grant != without) {
            command.arg(format!("+{grant}"));
        }
        let done: () = command.query(&mut server.connection()).unwrap();
        done
    };
    for strategy in strategies(&server) {
        let own: &[&str] = match strategy {
            CompareAndSet::Script => &["getrange", "evalsha", "eval"],
            CompareAndSet::Watch => &["getrange", "watch", "multi", "exec", "discard"],
            _ => &["watch", "multi", "exec", "discard"],
        };
        let grants = ["get", "pttl", "set", "pexpire", "unlink", "time"];
        let of_indexes = ["zadd", "zrange", "zrem", "zremrangebyscore", "zscore"];
        let grants = [&grants, &of_indexes[..], own].concat();
        let mut config = RedisConfig::new(format!("redis://app:secret@{}/", server.address()));
        config.compare_and_set = strategy;
        unhurried(&mut config);
        set_user(&grants, "");
        let store = RedisStore::from_config(config.clone()).await.unwrap();
        sessile::conformance::check(store).await;
        // The startup probes every command, and the error names a missing permission with all others that the strategy
        // needs.
        for missing in &grants {
            set_user(&grants, missing);
            let text = refused_with(config.clone()).await;
            assert!(text.contains("grant the user"), "{missing}: {text}");
            assert!(text.contains(&format!("+{missing}")), "{missing}: {text}");
        }
    }
}

/// The startup reports each of these, so that no logout fails later.
#[tokio::test]
async fn a_server_that_lacks_a_required_command_is_rejected() {
    for command in ["GET", "PTTL", "SET", "PEXPIRE", "UNLINK", "TIME"] {
        let server = Server::start_with(&["--rename-command", command, ""]);
        let text = refused(server.url()).await;
        for name in [command, "`rename-command`"] {
            assert!(text.contains(name), "{command}: {text}");
        }
    }
}

#[tokio::test]
async fn errors_name_the_permission_to_grant_and_the_limit_to_raise() {
    let server = Server::start();
    let mut admin = server.connection();
    let grants = "~sessile:* -@all +get +pttl +set +getrange +evalsha +eval +pexpire +unlink +time +zadd +zrange +zrem +zremrangebyscore +zscore";
    let mut user = redis::cmd("ACL");
    user.arg(&["SETUSER", "app", "on", ">secret"]);
    user.arg(grants.split(' ').collect::<Vec<_>>());
    let done: () = user.query(&mut admin).unwrap();
    assert_eq!(done, ());
    let login = format!("redis://app:secret@{}", server.address());
    connect(format!("{login}/0")).await.unwrap();
    let text = refused(format!("{login}/5")).await;
    assert!(text.contains("`+select`"), "{text}");
    let done: () = redis::cmd("CONFIG")
        .arg(&["SET", "maxclients", "1"])
        .query(&mut admin)
        .unwrap();
    assert_eq!(done, ());
    let text = refused(server.url()).await;
    assert!(text.contains("`maxclients`"), "{text}");
}

#[tokio::test]
async fn a_sentinel_is_not_mistaken_for_a_server() {
    let servers = Sentinels::start();
    let text = refused(servers.sentinels[0].url()).await;
    assert!(text.contains("redis+sentinel://"), "{text}");
}

#[tokio::test]
async fn debug_output_never_shows_a_password() {
    let server = Server::start();
    let address = server.address();
    let done: () = redis::cmd("ACL")
        .arg(&["SETUSER", "default", "on", ">hidden-one"])
        .query(&mut server.connection())
        .unwrap();
    assert_eq!(done, ());
    let store = connect(format!("redis://:hidden-one@{address}/"))
        .await
        .unwrap();
    assert!(!format!("{store:?}").contains("hidden-one"));
}

#[tokio::test]
async fn an_ipv6_address_works_in_brackets() {
    let server = Server::start_with(&["--bind", "127.0.0.1", "::1"]);
    let url = format!("redis://[::1]:{}/", server.address().port());
    sessile::conformance::check(connect(url).await.unwrap()).await;
}

#[tokio::test]
async fn the_url_selects_the_protocol() {
    let server = Server::start();
    for (query, spoken) in [
        ("", " resp=2"),
        ("?protocol=resp2", " resp=2"),
        ("?protocol=resp3", " resp=3"),
    ] {
        let url = format!("{}{query}", server.url());
        let store = connect(url.as_str()).await.unwrap();
        let clients: String = redis::cmd("CLIENT")
            .arg("LIST")
            .query(&mut server.connection())
            .unwrap();
        let (asking, others): (Vec<_>, Vec<_>) = clients
            .lines()
            .partition(|client| client.contains("cmd=client|list"));
        assert_eq!(asking.len(), 1, "{clients}");
        assert!(
            others.iter().any(|client| client.contains(spoken)),
            "{clients}"
        );
        drop(store);
    }
}

#[tokio::test]
async fn other_databases_and_unix_sockets_work() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("redis.sock");
    let server = Server::start_with(&["--unixsocket", socket.to_str().unwrap()]);
    for url in [
        format!("unix://{}", socket.display()),
        format!("{}5", server.url()),
    ] {
        sessile::conformance::check(connect(url.as_str()).await.unwrap()).await;
    }
    let keys: String = redis::cmd("INFO")
        .arg("keyspace")
        .query(&mut server.connection())
        .unwrap();
    assert!(keys.contains("db5:"), "{keys}");
}

#[test]
fn connecting_outside_a_runtime_is_an_error() {
    let error = RedisStore::lazy(RedisConfig::default()).unwrap_err();
    assert!(matches!(error, ConfigError::NoRuntime), "{error}");
}

#[tokio::test]
async fn the_store_uses_the_clock_of_the_server() {
    let server = Server::start();
    let theirs = || {
        let mut connection = server.connection();
        let (secs, micros): (u64, u32) = redis::cmd("TIME").query(&mut connection).unwrap();
        std::time::UNIX_EPOCH + Duration::new(secs, micros * 1000)
    };
    let before = theirs();
    let store = crate::support::store_with(&server.url(), |_| ()).await;
    let ours = sessile::SessionStore::now(&store);
    // Two readings of one machine's clock may differ a little.
    let slack = Duration::from_millis(5);
    assert!((before - slack..=theirs() + slack).contains(&ours));
}

#[tokio::test]
async fn the_pool_keeps_the_configured_number_of_connections() {
    let server = Server::start();
    let store = crate::support::store_with(&server.url(), |config| {
        config.pool_size = 7;
        config.compare_and_set = CompareAndSet::Script;
    })
    .await;
    let clients = || {
        let list: String = redis::cmd("CLIENT")
            .arg("LIST")
            .query(&mut server.connection())
            .unwrap();
        list.lines().count() - 1
    };
    until("seven connections are open", async || clients() == 7).await;
    drop(store);
}
