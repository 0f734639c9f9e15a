//! Error messages for invalid settings suggest a valid value, and that value is accepted.

use serde_json::{Value, json};
use sessile::{RedisConfig, RedisStore, SessionConfig, SessionLayer};

/// The error for these settings, if one is invalid.
fn config_error(settings: &Value) -> Option<String> {
    let redis: Result<RedisConfig, _> = serde_json::from_value(settings["store"].clone());
    let session: Result<SessionConfig, _> = serde_json::from_value(settings["session"].clone());
    let (redis, session) = match (redis, session) {
        (Ok(redis), Ok(session)) => (redis, session),
        (Err(error), _) | (_, Err(error)) => return Some(error.to_string()),
    };
    let store = match RedisStore::lazy(redis) {
        Ok(store) => store,
        Err(error) => return Some(error.to_string()),
    };
    let layer = SessionLayer::try_new(store, session);
    layer.err().map(|error| error.to_string())
}

/// A valid configuration with one setting replaced.
fn with(path: &str, value: &Value) -> Value {
    let timeout = json!({ "replicas": { "n": 1, "timeout": "100ms" } });
    let mut settings = json!({
        "store": { "url": "redis://127.0.0.1:6379/" },
        "session": {
            "cookie": { "name": "__Host-id" },
            "concurrency": { "exclusive": { "wait": "5s", "lease": "5s" } },
            "durability": { "commits": timeout, "revocations": timeout },
        },
    });
    let mut place = &mut settings;
    for key in path.split('.') {
        place = &mut place[key];
    }
    *place = value.clone();
    if path == "session.cookie.domain" {
        settings["session"]["cookie"]["name"] = json!("id");
    }
    settings
}

const DURATIONS: [&str; 9] = [
    "session.idle_timeout",
    "session.absolute_timeout",
    "session.concurrency.exclusive.wait",
    "session.concurrency.exclusive.lease",
    "session.durability.commits.replicas.timeout",
    "session.durability.revocations.replicas.timeout",
    "store.connection_timeout",
    "store.command_timeout",
    "store.request_budget",
];

/// The quoted parts of a text.
fn quoted(text: &str, quote: char) -> Vec<&str> {
    text.split(quote).skip(1).step_by(2).collect()
}

#[tokio::test]
async fn durations_suggested_by_error_messages_are_accepted() {
    for path in DURATIONS {
        for bad in ["0s", "1ns", "100000000h", "36501d", "x", "30", "1mo", "-1s"] {
            let Some(error) = config_error(&with(path, &json!(bad))) else {
                assert!(path.ends_with("wait"), "{path} = {bad} was accepted");
                continue;
            };
            assert!(
                !error.contains("jiff") && !error.contains("Span"),
                "{error}"
            );
            let advice = error.split_once(": write ").expect(&error).1;
            let is_specific = advice.starts_with("a duration");
            let named = quoted(advice, '"');
            assert!(named.len() >= 2, "{error}");
            for value in named {
                let mut settings = with(path, &json!(value));
                // A durability timeout may be as long as the request budget, whose default is shorter than a minute.
                if path.contains("durability") && value == "1m" {
                    settings["store"]["request_budget"] = json!("1m");
                }
                let again = config_error(&settings);
                // A text that is not a duration gets a general answer, which does not depend on the setting.
                if is_specific {
                    assert_eq!(again, None, "{error}");
                } else {
                    let again = again.unwrap_or_default();
                    assert!(!again.contains("with a unit"), "{error} {again}");
                }
            }
        }
        let error = config_error(&with(path, &json!(30))).unwrap();
        assert!(error.contains("in quotes with its unit"), "{error}");
    }
}

#[tokio::test]
async fn numbers_and_names_suggested_by_error_messages_are_accepted() {
    let long = "x".repeat(300);
    for (path, bad) in [
        ("session.max_size", json!(0)),
        ("session.ipv4_prefix", json!(0)),
        ("session.ipv6_prefix", json!(200)),
        ("session.durability.commits.replicas.n", json!(0)),
        ("store.pool_size", json!(0)),
        ("store.exclusive_pool_size", json!(2000)),
    ] {
        let error = config_error(&with(path, &bad)).unwrap();
        let advice = error.split_once(": write ").expect(&error).1;
        let numbers: Vec<u64> = advice
            .split(|letter: char| !letter.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect();
        assert!(numbers.len() >= 2, "{error}");
        for number in numbers {
            assert_eq!(config_error(&with(path, &json!(number))), None, "{error}");
        }
    }
    for (path, bad) in [
        ("session.cookie.name", ""),
        ("session.cookie.name", long.as_str()),
        ("session.cookie.path", "app"),
        ("session.cookie.domain", "localhost"),
        ("session.cookie.domain", "127.0.0.1"),
        ("store.key_prefix", "a{b}"),
    ] {
        let error = config_error(&with(path, &json!(bad))).unwrap();
        let named = quoted(error.split_once("such as ").expect(&error).1, '"');
        assert_eq!(named.len(), 1, "{error}");
        assert_eq!(config_error(&with(path, &json!(named[0]))), None, "{error}");
    }
    // The suggested name must fit the other settings of the cookie.
    let mut settings = with("session.cookie.domain", &json!("example.org"));
    settings["session"]["cookie"]["name"] = json!("a b");
    let error = config_error(&settings).unwrap();
    let name = quoted(error.split_once("such as ").unwrap().1, '"')[0];
    settings["session"]["cookie"]["name"] = json!(name);
    assert_eq!(config_error(&settings), None, "{error}");
}

#[tokio::test]
async fn urls_suggested_by_error_messages_are_accepted() {
    for bad in [
        "",
        "localhost:6379",
        "http://localhost/",
        "redis://localhost:x/",
        "redis://localhost/notanumber",
        "redis://mia@localhost/",
        "redis://localhost/?db=5",
        "redis+cluster://a,/",
        "redis+sentinel://a:1/",
        "redis+sentinel://a:1,,b/mymaster",
    ] {
        let error = config_error(&with("store.url", &json!(bad))).unwrap();
        let advice = error.split_once(": ").expect(&error).1;
        let urls: Vec<_> = quoted(advice, '`')
            .into_iter()
            .filter(|quoted| quoted.contains("://"))
            .collect();
        assert!(!urls.is_empty(), "{error}");
        for url in urls {
            assert_eq!(
                config_error(&with("store.url", &json!(url))),
                None,
                "{error}"
            );
        }
    }
}
