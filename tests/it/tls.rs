//! TLS connections, with authorities and certificates that the tests create.

use std::path::PathBuf;
use std::time::Duration;

use sessile::{ConfigError, RedisConfig, RedisStore, SessionLayer};

use crate::cluster::{TURN, changes_wait_for_replicas, patient};
use crate::sentinel::{behind, load_error, watching};
use crate::support::app::app;
use crate::support::load::{Load, nodes, sessions};
use crate::support::patience::unhurried;
use crate::support::server::free_port;
use crate::support::{Authority, Browser, Cluster, Node, Server, fresh_prefix, store_with};

fn config(url: String, ca: Option<PathBuf>) -> RedisConfig {
    let mut config = RedisConfig::new(url);
    unhurried(&mut config);
    config.key_prefix = fresh_prefix();
    config.tls.ca = ca;
    config
}

/// The error of a store that cannot connect.
async fn refused(config: RedisConfig) -> String {
    match RedisStore::from_config(config).await {
        Err(error @ ConfigError::Connect { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// The invalid setting, and the whole error.
fn invalid(config: RedisConfig) -> (String, String) {
    match RedisStore::lazy(config) {
        Err(error) => match error {
            ConfigError::Invalid { ref setting, .. } => (setting.to_string(), error.to_string()),
            _ => panic!("{error}"),
        },
        Ok(store) => panic!("{store:?}"),
    }
}

#[tokio::test]
async fn sessions_work_over_tls_with_every_compare_and_set() {
    let authority = Authority::new();
    let (server, port) = authority.server("localhost", "no");
    for strategy in crate::support::server::strategies(&server) {
        let mut config = config(format!("rediss://localhost:{port}/"), Some(authority.ca()));
        config.compare_and_set = strategy;
        let store = RedisStore::from_config(config).await.unwrap();
        sessile::conformance::check(store.clone()).await;
        let app = app(SessionLayer::new(store));
        let mut visitor = Browser::default();
        for n in 1..=3 {
            assert_eq!(
                visitor.get(&app, "/incr?k=n").await.ok(),
                n.to_string(),
                "{strategy:?}"
            );
        }
        visitor.get(&app, "/logout").await.ok();
        assert_eq!(visitor.cookie, None);
    }
}

#[tokio::test]
async fn an_ip_address_works_if_the_certificate_names_it() {
    let authority = Authority::new();
    let (_server, port) = authority.server("127.0.0.1", "no");
    let url = format!("rediss://127.0.0.1:{port}/3");
    RedisStore::from_config(config(url, Some(authority.ca())))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_untrusted_authority_is_rejected_with_advice() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (_server, port) = authority.server("localhost", "no");
    for ca in [None, Some(other.ca())] {
        let text = refused(config(format!("rediss://localhost:{port}/"), ca)).await;
        assert!(text.contains("UnknownIssuer"), "{text}");
        assert!(text.contains("`tls.ca`"), "{text}");
        assert!(text.contains(&format!("localhost:{port}")), "{text}");
    }
}

/// `SSL_CERT_FILE` replaces the authorities of the operating system, for a whole process.
#[tokio::test]
async fn authorities_of_the_operating_system_are_trusted() {
    let authority = Authority::new();
    let (_server, port) = authority.server("localhost", "no");
    let url = format!("rediss://localhost:{port}/");
    let ca = authority.ca();
    let environment = [
        ("REDIS_URL", url.as_str()),
        ("SSL_CERT_FILE", ca.to_str().unwrap()),
    ];
    let node = Node::example("node", &environment);
    let answer = node.get("/incr?k=n", None).await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, "1"));
}

#[tokio::test]
async fn a_certificate_for_another_host_is_rejected() {
    let authority = Authority::new();
    let (_server, port) = authority.server("redis.example.org", "no");
    let url = format!("rediss://localhost:{port}/");
    let text = refused(config(url, Some(authority.ca()))).await;
    assert!(
        text.contains("redis.example.org") && text.contains("for another host"),
        "{text}"
    );
}

#[tokio::test]
async fn a_server_that_requires_a_client_certificate_gets_it() {
    let authority = Authority::new();
    let (_server, port) = authority.server("localhost", "yes");
    let (cert, key) = authority.issue("sessile");
    let mut config = config(format!("rediss://localhost:{port}/"), Some(authority.ca()));
    let text = refused(config.clone()).await;
    assert!(
        text.contains("`tls.client_cert`") && text.contains("`tls.client_key`"),
        "{text}"
    );

    config.tls.client_cert = Some(cert.clone());
    config.tls.client_key = Some(key);
    let store = RedisStore::from_config(config.clone()).await.unwrap();
    sessile::conformance::check(store).await;

    let stranger = Authority::new();
    let (strange_cert, strange_key) = stranger.issue("sessile");
    config.tls.client_cert = Some(strange_cert);
    config.tls.client_key = Some(strange_key);
    let text = refused(config.clone()).await;
    assert!(text.contains("`tls.client_cert`"), "{text}");

    // The key of another certificate.
    config.tls.client_cert = Some(cert);
    let (setting, text) = invalid(config);
    assert_eq!(setting, "tls.client_key", "{text}");
    assert!(
        text.contains("not the key of `tls.client_cert`") && !text.contains("BEGIN"),
        "{text}"
    );
}

#[tokio::test]
async fn errors_name_missing_and_invalid_files() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("localhost");
    let (missing, text) = (authority.path("missing.pem"), authority.path("text.pem"));
    std::fs::write(&text, "no certificate").unwrap();
    type Case<'a> = (
        Option<&'a PathBuf>,
        Option<&'a PathBuf>,
        Option<&'a PathBuf>,
        &'a str,
        &'a PathBuf,
    );
    let cases: [Case<'_>; 9] = [
        (Some(&missing), None, None, "tls.ca", &missing),
        (Some(&text), None, None, "tls.ca", &text),
        (Some(&key), None, None, "tls.ca", &key),
        (None, Some(&cert), None, "tls.client_cert", &cert),
        (None, None, Some(&key), "tls.client_key", &key),
        (
            None,
            Some(&missing),
            Some(&key),
            "tls.client_cert",
            &missing,
        ),
        (None, Some(&text), Some(&key), "tls.client_cert", &text),
        (
            None,
            Some(&cert),
            Some(&missing),
            "tls.client_key",
            &missing,
        ),
        (None, Some(&cert), Some(&text), "tls.client_key", &text),
    ];
    for (ca, client_cert, client_key, setting, path) in cases {
        let mut config = config("rediss://localhost:1/".to_owned(), ca.cloned());
        config.tls.client_cert = client_cert.cloned();
        config.tls.client_key = client_key.cloned();
        let (named, text) = invalid(config);
        assert_eq!(named, setting, "{text}");
        assert!(text.contains(path.to_str().unwrap()), "{text}");
        assert!(text.contains("path"), "{text}");
    }
}

#[tokio::test]
async fn tls_on_one_side_only_is_an_error_with_advice() {
    let authority = Authority::new();
    let (server, port) = authority.server("localhost", "no");
    let plain = server.address().port();
    let mut towards_plain = config(format!("rediss://localhost:{plain}/"), Some(authority.ca()));
    // Redis reads the TLS greeting as an incomplete command, and waits for the rest.
    towards_plain.connection_timeout = Duration::from_millis(300);
    let text = refused(towards_plain).await;
    assert!(text.contains("TLS"), "{text}");
    let text = refused(config(format!("redis://localhost:{port}/"), None)).await;
    assert!(text.contains("`rediss://`"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_works_over_tls() {
    let _turn = TURN.lock().await;
    let authority = Authority::new();
    let cluster = Cluster::start_encrypted(&authority);
    let trusting = |config: &mut RedisConfig| {
        patient(config);
        config.tls.ca = Some(authority.ca());
    };
    let store = store_with(&cluster.url(), trusting).await;
    changes_wait_for_replicas(&store).await;
    let nodes = nodes(2, &cluster.url(), trusting).await;
    let load = Load::start(nodes, sessions(30)).await;
    load.more(100).await;
    let mut slots = cluster.used_slots(0);
    slots.truncate(10);
    tokio::task::block_in_place(|| {
        cluster.move_slots(&slots, 0, 1, Duration::from_millis(300));
    });
    load.more(100).await;
    let outcome = load.check(None).await;
    assert_eq!(
        (outcome.lost, outcome.unaffected),
        (0, sessions(30)),
        "{outcome}"
    );
}

#[tokio::test]
async fn sentinels_can_use_tls_when_the_primary_does_not() {
    let (authority, other) = (Authority::new(), Authority::new());
    let primary = Server::start();
    let mut port = 0;
    let watching = watching("127.0.0.1", primary.port());
    let sentinel = Server::start_sentinel_by(&watching, || {
        port = free_port();
        authority.arguments("localhost", port, "no")
    });
    let mut config = behind(&sentinel);
    config.url = format!("redis+sentinel://localhost:{port}/mymaster");
    let text = load_error(&config).await;
    assert!(text.contains("`sentinel.encrypted = true`"), "{text}");
    config.sentinel.encrypted = Some(true);
    let mut tls = sessile::TlsConfig::default();
    for ca in [None, Some(other.ca())] {
        tls.ca = ca;
        config.sentinel.tls = Some(tls.clone());
        let text = load_error(&config).await;
        assert!(text.contains("`sentinel.tls.ca`"), "{text}");
        assert!(text.contains(&format!("localhost:{port}")), "{text}");
    }
    tls.ca = Some(authority.ca());
    config.sentinel.tls = Some(tls);
    RedisStore::from_config(config.clone()).await.unwrap();
    // A sentinel reads the TLS greeting as an incomplete command, and waits for the rest.
    config.url = format!("redis+sentinel://{}/mymaster", sentinel.address());
    config.connection_timeout = Duration::from_millis(400);
    let text = load_error(&config).await;
    assert!(text.contains("`sentinel.encrypted = false`"), "{text}");
}

#[tokio::test]
async fn a_primary_that_is_announced_by_name_needs_a_certificate_for_that_name() {
    let authority = Authority::new();
    for (host, certified, works) in [
        ("localhost", "localhost", true),
        ("127.0.0.1", "127.0.0.1", true),
        ("localhost", "redis.example.org", false),
    ] {
        let (_primary, primary_port) = authority.server(certified, "no");
        let mut port = 0;
        let watching = watching(host, primary_port) + "tls-replication yes\n";
        let sentinel = Server::start_sentinel_by(&watching, || {
            port = free_port();
            authority.arguments("localhost", port, "no")
        });
        let mut config = behind(&sentinel);
        config.url = format!("rediss+sentinel://localhost:{port}/mymaster");
        config.tls.ca = Some(authority.ca());
        if !works {
            let text = load_error(&config).await;
            assert!(text.contains("for another host"), "{text}");
            assert!(text.contains("`announce-hostnames`"), "{text}");
            continue;
        }
        // The settings of the primary apply to the sentinels, too, unless these have their own.
        RedisStore::from_config(config.clone()).await.unwrap();
        config.sentinel.encrypted = Some(false);
        config.url = format!("rediss+sentinel://{}/mymaster", sentinel.address());
        RedisStore::from_config(config).await.unwrap();
    }
}
