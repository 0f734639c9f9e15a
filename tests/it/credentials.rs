//! Passwords and access tokens that change while the store is in use.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sessile::store::Freshness;
use sessile::{
    CompareAndSet, ConfigError, Credentials, CredentialsProvider, Handle, RedisConfig, RedisStore,
    SessionLayer, SessionStore as _,
};

use crate::cluster::single_node;
use crate::support::app::app;
use crate::support::patience::unhurried;
use crate::support::server::free_port;
use crate::support::{Browser, Proxy, Server, by_protocol, compare_and_set, fresh_prefix, until};

/// A provider whose answers the test sets.
#[derive(Clone)]
struct Provider(Arc<Inner>);

struct Inner {
    answer: Mutex<Answer>,
    asked: AtomicUsize,
}

#[derive(Clone, Copy)]
enum Answer {
    /// The user, the password, and the lifetime of both.
    Of(&'static str, &'static str, Option<Duration>),
    Fail,
    Hang,
    Panic,
}

impl Provider {
    fn new(answer: Answer) -> Self {
        Self(Arc::new(Inner {
            answer: Mutex::new(answer),
            asked: AtomicUsize::new(0),
        }))
    }

    fn set(&self, answer: Answer) {
        *self.0.answer.lock().unwrap() = answer;
    }

    fn asked(&self) -> usize {
        self.0.asked.load(Ordering::SeqCst)
    }
}

impl CredentialsProvider for Provider {
    async fn credentials(&self) -> Result<Credentials, Box<dyn Error + Send + Sync>> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        let answer = *self.0.answer.lock().unwrap();
        match answer {
            Answer::Of(user, password, valid_for) => {
                let credentials = Credentials::new(user, password);
                Ok(match valid_for {
                    Some(time) => credentials.valid_for(time),
                    None => credentials,
                })
            }
            Answer::Fail => Err("no token today".into()),
            Answer::Hang => std::future::pending().await,
            Answer::Panic => panic!("a provider that panics"),
        }
    }
}

/// Credentials with a short lifetime, so that connections log in again and again.
const SOON: Option<Duration> = Some(Duration::from_secs(4));
const LATE: Option<Duration> = Some(Duration::from_secs(3600));

fn config(url: &str) -> RedisConfig {
    let mut config = RedisConfig::new(by_protocol(url));
    config.key_prefix = fresh_prefix();
    config.pool_size = 2;
    config.compare_and_set = compare_and_set();
    unhurried(&mut config);
    config
}

fn acl(server: &Server, words: &[&str]) {
    let done: () = redis::cmd("ACL")
        .arg("SETUSER")
        .arg(words)
        .query(&mut server.connection())
        .unwrap();
    done
}

/// A server with the user `app`.
fn server(password: &str) -> Server {
    let server = Server::start();
    acl(
        &server,
        &["app", "on", &format!(">{password}"), "~*", "+@all"],
    );
    server
}

/// The ids of a user's connections.
fn clients(server: &Server, user: &str) -> BTreeSet<String> {
    let list: String = redis::cmd("CLIENT")
        .arg("LIST")
        .query(&mut server.connection())
        .unwrap();
    let of_user = list
        .lines()
        .filter(|line| line.contains(&format!(" user={user} ")));
    of_user
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect()
}

fn kill(server: &Server, user: &str) {
    let killed: usize = redis::cmd("CLIENT")
        .arg(&["KILL", "USER", user])
        .query(&mut server.connection())
        .unwrap();
    assert!(killed > 0);
}

async fn refused(config: &RedisConfig, provider: Provider) -> String {
    let store = RedisStore::from_config_with_credentials(config.clone(), provider).await;
    let error = store.unwrap_err();
    assert!(matches!(error, ConfigError::Connect { .. }), "{error}");
    format!("{error} {error:?}")
}

/// The error of a load. `None` if it succeeds.
async fn failure(store: &RedisStore) -> Option<String> {
    let error = store
        .load(&Handle::random(), Freshness::Latest)
        .await
        .err()?;
    let mut text = error.to_string();
    let mut cause: Option<&dyn Error> = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    Some(text)
}

#[tokio::test]
async fn the_next_connection_uses_a_rotated_password() {
    for valid_for in [None, LATE] {
        let server = server("old-one");
        let provider = Provider::new(Answer::Of("app", "old-one", valid_for));
        let config = config(&server.url());
        let store = RedisStore::from_config_with_credentials(config, provider.clone())
            .await
            .unwrap();
        assert!(!format!("{store:?}").contains("old-one"));
        let app = app(SessionLayer::new(store.clone()));
        let mut visitor = Browser::default();
        assert_eq!(visitor.get(&app, "/incr?k=n").await.ok(), "1");

        acl(&server, &["app", ">new-one", "<old-one"]);
        // Open connections stay logged in.
        assert_eq!(visitor.get(&app, "/incr?k=n").await.ok(), "2");
        kill(&server, "app");
        until("the old password is refused", async || {
            failure(&store).await.is_some_and(|text| {
                assert!(!text.contains("old-one"), "{text}");
                text.contains("refused the credentials of the provider")
            })
        })
        .await;
        provider.set(Answer::Of("app", "new-one", valid_for));
        until("the store is back", async || {
            failure(&store).await.is_none()
        })
        .await;
        assert_eq!(visitor.get(&app, "/incr?k=n").await.ok(), "3");

        // No request has to fail first, although the store knows only the rejected password.
        until("all connections are open", async || store.pool().open == 2).await;
        acl(&server, &["app", ">third-one", "<new-one"]);
        provider.set(Answer::Of("app", "third-one", valid_for));
        kill(&server, "app");
        assert_eq!(visitor.get(&app, "/read").await.ok(), "n");
    }
}

#[tokio::test]
async fn open_connections_log_in_again_before_their_credentials_expire() {
    let server = server("secret");
    acl(&server, &["next", "on", ">secret", "~*", "+@all"]);
    let provider = Provider::new(Answer::Of("app", "secret", SOON));
    let mut config = config(&server.url());
    // One connection is exclusive, for transactions.
    config.compare_and_set = CompareAndSet::Watch;
    let store = RedisStore::from_config_with_credentials(config, provider.clone())
        .await
        .unwrap();
    // Two shared connections and the exclusive one. The very first connection was closed after startup.
    until("all connections are open", async || {
        store.pool().open == 2 && clients(&server, "app").len() == 3
    })
    .await;
    let open = clients(&server, "app");
    provider.set(Answer::Of("next", "secret", SOON));
    until("all connections have logged in again", async || {
        clients(&server, "app").is_empty()
    })
    .await;
    assert_eq!(clients(&server, "next"), open);
    sessile::conformance::check(store).await;
}

/// Inside a transaction, the login would be one of its commands, and the new user would execute those after it.
#[tokio::test]
async fn a_new_login_of_a_connection_waits_for_the_end_of_its_transaction() {
    let server = server("secret");
    acl(&server, &["reader", "on", ">secret", "~*", "+@all", "-set"]);
    let proxy = Proxy::before(server.address()).await;
    let provider = Provider::new(Answer::Of("app", "secret", SOON));
    let mut config = config(&proxy.url());
    config.compare_and_set = CompareAndSet::Watch;
    let store = RedisStore::from_config_with_credentials(config, provider.clone())
        .await
        .unwrap();
    let app = app(SessionLayer::new(store.clone()));
    let mut visitor = Browser::default();
    assert_eq!(visitor.get(&app, "/incr?k=n").await.ok(), "1");
    until("all connections are open", async || {
        store.pool().open == 2 && clients(&server, "app").len() == 3
    })
    .await;

    let hold = proxy.hold("MULTI");
    let (waiting, waiting_app) = (visitor.clone(), app.clone());
    let waiting = tokio::spawn(async move { waiting.peek(&waiting_app, "/incr?k=n").await });
    hold.arrived().await;
    provider.set(Answer::Of("reader", "secret", SOON));
    until(
        "the two shared connections belong to `reader`",
        async || clients(&server, "reader").len() == 2,
    )
    .await;
    server.reset_counts();
    until(
        "the shared connections have logged in once more",
        async || server.counts().of("auth") >= 2,
    )
    .await;
    hold.release();
    assert_eq!(waiting.await.unwrap().ok(), "2");

    provider.set(Answer::Of("app", "secret", SOON));
    until("all three connections are back", async || {
        clients(&server, "app").len() == 3
    })
    .await;
    assert_eq!(visitor.get(&app, "/incr?k=n").await.ok(), "3");
}

#[tokio::test]
async fn the_error_names_a_failing_provider() {
    let server = server("secret");
    let mut config = config(&server.url());
    for (answer, named) in [
        (Answer::Fail, "no token today"),
        (Answer::Panic, "panicked"),
        (Answer::Hang, "connection_timeout = 300ms"),
        (
            Answer::Of("app", "hidden-one", None),
            "what the credentials provider returned",
        ),
        (
            Answer::Of("app", "hidden-one", LATE),
            "what the credentials provider returned",
        ),
    ] {
        if let Answer::Hang = answer {
            config.connection_timeout = Duration::from_millis(300);
        } else {
            unhurried(&mut config);
        }
        let provider = Provider::new(answer);
        let text = refused(&config, provider.clone()).await;
        assert!(text.contains(named), "{text}");
        assert!(text.contains("credentials provider"), "{text}");
        assert!(
            !text.contains("`url`") && !text.contains("hidden-one"),
            "{text}"
        );
        assert_eq!(provider.asked(), 1, "{named}");
    }
}

#[tokio::test]
async fn while_a_provider_fails_open_connections_stay_and_none_is_opened() {
    for failing in [Answer::Fail, Answer::Panic] {
        let server = server("secret");
        let provider = Provider::new(Answer::Of("app", "secret", SOON));
        let config = config(&server.url());
        let store = RedisStore::from_config_with_credentials(config, provider.clone())
            .await
            .unwrap();
        // Without scripts, the index of sign-ins needs one more connection: it uses `WATCH`.
        let exclusive = usize::from(store.compare_and_set() != Some(CompareAndSet::Script));
        until("all connections are open", async || {
            store.pool().open == 2 && clients(&server, "app").len() == 2 + exclusive
        })
        .await;
        let open = clients(&server, "app");
        provider.set(failing);
        let asked = provider.asked();
        until("the provider has failed twice", async || {
            provider.asked() >= asked + 2
        })
        .await;
        assert_eq!(failure(&store).await, None);
        assert_eq!(clients(&server, "app"), open);

        kill(&server, "app");
        until("the error names the provider", async || {
            let error = failure(&store).await;
            error.is_some_and(|text| text.contains("the credentials provider failed"))
        })
        .await;
        provider.set(Answer::Of("app", "secret", SOON));
        until("the store is back", async || {
            failure(&store).await.is_none()
        })
        .await;
    }
}

#[tokio::test]
async fn an_application_can_start_before_its_provider_works() {
    let server = server("secret");
    let provider = Provider::new(Answer::Fail);
    let config = config(&server.url());
    let store = RedisStore::lazy_with_credentials(config, provider.clone()).unwrap();
    assert!(failure(&store).await.unwrap().contains("no token today"));
    provider.set(Answer::Of("app", "secret", None));
    until("the store is up", async || failure(&store).await.is_none()).await;
}

#[tokio::test]
async fn every_node_of_a_cluster_gets_the_credentials_of_the_provider() {
    let server = single_node();
    acl(&server, &["app", "on", ">first", "~*", "+@all"]);
    let provider = Provider::new(Answer::Of("app", "first", None));
    let url = format!("redis+cluster://{}/", server.address());
    let store = RedisStore::from_config_with_credentials(config(&url), provider.clone());
    let store = store.await.unwrap();
    assert!(failure(&store).await.is_none());
    acl(&server, &["app", "<first", ">second"]);
    provider.set(Answer::Of("app", "second", None));
    kill(&server, "app");
    until("the store is back", async || {
        failure(&store).await.is_none()
    })
    .await;
}

#[tokio::test]
async fn a_url_with_credentials_beside_a_provider_is_rejected() {
    let port = free_port();
    for url in [
        format!("redis://app:s3cret@127.0.0.1:{port}/"),
        format!("redis://:s3cret@127.0.0.1:{port}/"),
        format!("redis+sentinel://app:s3cret@127.0.0.1:{port}/mymaster"),
        format!("redis+cluster://app:s3cret@127.0.0.1:{port}/"),
        "unix:///run/redis.sock?user=app&pass=s3cret".to_owned(),
    ] {
        let provider = Provider::new(Answer::Of("app", "secret", None));
        let lazy = RedisStore::lazy_with_credentials(RedisConfig::new(url.as_str()), provider);
        let text = lazy.unwrap_err().to_string();
        assert!(
            text.starts_with("url = ") && text.contains("credentials provider"),
            "{text}"
        );
        assert!(!text.contains("s3cret"), "{text}");
    }
}
