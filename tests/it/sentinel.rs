//! Sentinels: a monitored primary, and a replica that takes over.

use std::error::Error;
use std::time::{Duration, Instant};

use sessile::{ConfigError, Credentials, CredentialsProvider, RedisConfig, RedisStore};

use crate::support::cluster::{answer, is_primary};
use crate::support::load::{Load, nodes};
use crate::support::patience::{by_default, unhurried};
use crate::support::server::free_port;
use crate::support::{Sentinels, Server, connect, store_with, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_sessions_continue_on_the_new_primary() {
    let mut servers = Sentinels::start();
    sessile::conformance::check(store_with(&servers.url(), |_| ()).await).await;
    let nodes = nodes(3, &servers.url(), by_default).await;
    let began = Instant::now();
    let load = Load::start(nodes, 60).await;
    load.more(300).await;
    let killed = Instant::now();
    servers.primary.kill();
    until("the replica has taken over", async || {
        is_primary(&servers.replica)
    })
    .await;
    let taken_over = killed.elapsed();
    let back = load.all_work().await;
    let calm = Instant::now();
    load.more(300).await;
    let outcome = load.check(Some((began, calm))).await;
    println!("taken over after {taken_over:?}, all sessions work {back:?} later; {outcome}");
    errors_name_unknown_primaries_and_unreachable_sentinels(&servers).await;
}

async fn refused(url: String) -> String {
    let error = connect(url).await.unwrap_err();
    assert!(matches!(error, ConfigError::Connect { .. }), "{error}");
    error.to_string()
}

async fn errors_name_unknown_primaries_and_unreachable_sentinels(servers: &Sentinels) {
    let text = refused(servers.url().replace("mymaster", "shop")).await;
    for sentinel in &servers.sentinels {
        let load_error = format!("{} does not know `shop`", sentinel.address());
        assert!(text.contains(&load_error), "{text}");
    }
    let nowhere = format!("127.0.0.1:{}", free_port());
    let text = refused(format!("redis+sentinel://{nowhere}/mymaster")).await;
    assert!(
        text.contains(&nowhere) && text.contains("refused"),
        "{text}"
    );
    // One reachable sentinel is enough.
    let some = format!(
        "redis+sentinel://{nowhere},{}/mymaster",
        servers.sentinels[0].address()
    );
    let patient = |url: String| {
        let mut config = RedisConfig::new(url);
        unhurried(&mut config);
        config.connection_timeout = Duration::from_secs(12);
        RedisStore::from_config(config)
    };
    patient(some).await.unwrap();
    // A hanging sentinel leaves time for the others.
    servers.sentinels[0].freeze();
    patient(servers.url()).await.unwrap();
    let mut config = RedisConfig::new(format!(
        "redis+sentinel://{}/mymaster",
        servers.sentinels[0].address()
    ));
    config.connection_timeout = Duration::from_millis(400);
    let text = RedisStore::from_config(config)
        .await
        .unwrap_err()
        .to_string();
    assert!(text.contains("did not answer"), "{text}");
    servers.sentinels[0].thaw();
}

/// Starts a single sentinel without a quorum, for a primary at this port.
fn sentinel_of(host: &str, port: u16) -> Server {
    Server::start_sentinel(&watching(host, port))
}

pub fn watching(host: &str, port: u16) -> String {
    format!(
        "sentinel resolve-hostnames yes\n\
         sentinel announce-hostnames yes\n\
         sentinel monitor mymaster {host} {port} 2\n"
    )
}

fn acl(server: &Server, words: &[&str]) {
    let done: () = answer(server, &[&["ACL", "SETUSER"], words].concat()).unwrap();
    done
}

/// The settings for a primary that this sentinel monitors.
pub fn behind(sentinel: &Server) -> RedisConfig {
    let mut config = RedisConfig::new(format!("redis+sentinel://{}/mymaster", sentinel.address()));
    unhurried(&mut config);
    config
}

pub async fn load_error(config: &RedisConfig) -> String {
    let error = RedisStore::from_config(config.clone()).await.unwrap_err();
    assert!(matches!(error, ConfigError::Connect { .. }), "{error}");
    format!("{error} {error:?} {config:?}")
}

#[tokio::test]
async fn sentinels_and_the_primary_each_get_their_own_password() {
    let primary = Server::start();
    let sentinel = sentinel_of("127.0.0.1", primary.port());
    acl(&primary, &["app", "on", ">of-the-primary", "~*", "+@all"]);
    acl(&sentinel, &["default", "on", ">of-sentinels"]);
    for protocol in ["", "?protocol=resp3"] {
        let mut config = behind(&sentinel);
        config.url = format!(
            "redis+sentinel://app:of-the-primary@{}/mymaster{protocol}",
            sentinel.address()
        );
        for wrong in [None, Some("of-the-primary"), Some("wrong-one")] {
            config.sentinel.password = wrong.map(str::to_owned);
            let text = load_error(&config).await;
            assert!(text.contains("`sentinel.password`"), "{text}");
            assert!(text.contains(&sentinel.address().to_string()), "{text}");
            for hidden in ["`url`", "of-the-primary", "wrong-one"] {
                assert!(!text.contains(hidden), "{text}");
            }
        }
        config.sentinel.password = Some("of-sentinels".to_owned());
        let store = RedisStore::from_config(config.clone()).await.unwrap();
        sessile::conformance::check(store.clone()).await;
        assert!(!format!("{store:?}").contains("of-sentinels"));
        // The primary still gets the credentials of the URL.
        config.url = config.url.replace("of-the-primary", "wrong-one");
        let text = load_error(&config).await;
        assert!(
            text.contains("`url`") && !text.contains("wrong-one"),
            "{text}"
        );
    }
}

/// Otherwise the sentinel would reject them.
#[tokio::test]
async fn the_credentials_of_a_provider_go_only_to_the_primary() {
    let primary = Server::start();
    let sentinel = sentinel_of("127.0.0.1", primary.port());
    acl(&primary, &["app", "on", ">token", "~*", "+@all"]);
    acl(&primary, &["default", "off"]);
    acl(&sentinel, &["default", "on", ">of-sentinels"]);
    let mut config = behind(&sentinel);
    config.sentinel.password = Some("of-sentinels".to_owned());
    let store = RedisStore::from_config_with_credentials(config, Token).await;
    sessile::conformance::check(store.unwrap()).await;
}

struct Token;

impl CredentialsProvider for Token {
    async fn credentials(&self) -> Result<Credentials, Box<dyn Error + Send + Sync>> {
        Ok(Credentials::new("app", "token"))
    }
}

#[tokio::test]
async fn a_sentinel_user_needs_one_permission() {
    let primary = Server::start();
    let sentinel = sentinel_of("127.0.0.1", primary.port());
    acl(&sentinel, &["asker", "on", ">secret", "-@all"]);
    acl(&sentinel, &["default", "on", ">another"]);
    let mut config = behind(&sentinel);
    config.sentinel.username = Some("asker".to_owned());
    config.sentinel.password = Some("secret".to_owned());
    let permission = "+sentinel|get-master-addr-by-name";
    let text = load_error(&config).await;
    assert!(text.contains(&format!("`{permission}`")), "{text}");
    // The error is not about the primary.
    assert!(!text.contains("+pttl"), "{text}");
    let login = format!("redis://:another@{}/", sentinel.address());
    let mut admin = redis::Client::open(login)
        .unwrap()
        .get_connection()
        .unwrap();
    let granted: () = redis::cmd("ACL")
        .arg(&["SETUSER", "asker", permission])
        .query(&mut admin)
        .unwrap();
    assert_eq!(granted, ());
    RedisStore::from_config(config).await.unwrap();
}
