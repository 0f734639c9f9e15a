//! Configurations from files and from environment variables: what they set, and which errors they get.

use config::{Environment, File, FileFormat};
use serde::Deserialize as _;
use sessile::{Config, SessionLayer, StoreConfig};
use toml::{Table, Value};

use crate::support::Browser;
use crate::support::app::app;

fn sessile_toml() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/sessile.toml");
    std::fs::read_to_string(path).unwrap()
}

fn read(text: &str) -> Result<Config, String> {
    toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())
}

/// What a user sees who starts an application with this file.
async fn start(text: &str) -> Result<(), String> {
    let made = SessionLayer::from_config(read(text)?).await;
    made.map(drop).map_err(|error| error.to_string())
}

#[test]
fn sessile_toml_sets_every_default() {
    let text = sessile_toml();
    assert_eq!(read(&text), Ok(Config::default()));
    let on_redis = text.replace("url = \"memory:\"", "url = \"redis://h/\"");
    let mut expected = Config::default();
    expected.store = StoreConfig::from_url("redis://h/");
    assert_eq!(read(&on_redis), Ok(expected));
}

/// A setting of `sessile.toml`: the names that lead to it, and its value there.
#[derive(Clone, Debug)]
struct Setting {
    path: Vec<String>,
    value: Value,
    /// The tables and their examples of which it is a part, for a setting that is not valid alone.
    needs: Table,
}

/// All settings, also those of the lines that show an example.
fn settings() -> Vec<Setting> {
    let (mut header, mut settings) = (String::new(), Vec::new());
    for line in sessile_toml().lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if line.starts_with('[') {
            header = line.to_owned();
        } else if let Ok(table) = format!("{header}\n{line}").parse::<Table>()
            && !line.is_empty()
            && !line.starts_with('#')
        {
            leaves(&mut Vec::new(), &table.clone(), &table, &mut settings);
        }
    }
    settings
}

fn leaves(path: &mut Vec<String>, table: &Table, needs: &Table, settings: &mut Vec<Setting>) {
    for (name, value) in table {
        path.push(name.clone());
        match value {
            Value::Table(table) => leaves(path, table, needs, settings),
            value => settings.push(Setting {
                path: path.clone(),
                value: value.clone(),
                needs: needs.clone(),
            }),
        }
        path.pop();
    }
}

/// Puts the values of one table into another one.
fn merge(into: &mut Table, from: Table) {
    for (name, value) in from {
        match (into.get_mut(&name), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(name, value);
            }
        }
    }
}

fn set(table: &mut Table, path: &[String], value: Value) {
    let (last, tables) = path.split_last().unwrap();
    let mut table = table;
    for name in tables {
        table = table[name].as_table_mut().unwrap();
    }
    table.insert(last.clone(), value);
}

/// Values of the same kind, of which at least one is valid for the setting and differs from the one it has.
fn others(value: &Value) -> Vec<Value> {
    let texts = "7s watch on_extract anonymous reject strict unchanged header none refuse primary /x ::1 rediss://h/ 150ms X-Other";
    match value {
        Value::Boolean(value) => vec![(!value).into()],
        Value::Integer(value) => vec![(value + 1).into()],
        Value::Array(_) => vec![
            vec!["a.example", "b.example"].into(),
            vec!["::1", "10.0.0.7"].into(),
        ],
        Value::String(value) => {
            let texts = texts.split(' ').filter(|it| it != value);
            let replicas: Table = "replicas = { n = 2, timeout = \"150ms\" }".parse().unwrap();
            texts
                .map(Into::into)
                .chain([Value::Table(replicas)])
                .collect()
        }
        other => panic!("{other:?}"),
    }
}

/// The text of an environment variable.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        other => panic!("{other:?}"),
    }
}

/// The variables that set everything in this table.
fn variables(table: &Table) -> config::Map<String, String> {
    let mut all = Vec::new();
    leaves(&mut Vec::new(), table, table, &mut all);
    let variable =
        |setting: &Setting| format!("SESSILE__{}", setting.path.join("__").to_uppercase());
    all.iter()
        .map(|it| (variable(it), text(&it.value)))
        .collect()
}

fn from_environment(file: &str, variables: config::Map<String, String>) -> Result<Config, String> {
    let environment = Environment::with_prefix("SESSILE")
        .prefix_separator("__")
        .separator("__")
        .source(Some(variables));
    let settings = config::Config::builder()
        .add_source(File::from_str(file, FileFormat::Toml))
        .add_source(environment)
        .build();
    let settings = settings.unwrap();
    settings
        .try_deserialize()
        .map_err(|error| error.to_string())
}

#[test]
fn an_environment_variable_sets_every_setting_over_the_file() {
    let file = sessile_toml();
    let settings = settings();
    assert!(settings.len() > 50, "{}", settings.len());
    for setting in settings {
        let name = setting.path.join(".");
        // The settings of the store that is not selected have no effect.
        let in_memory = ["store.url", "store.capacity", "store.max_bytes"].contains(&name.as_str());
        let url = if in_memory {
            "memory:"
        } else {
            "redis+sentinel://h/m"
        };
        let file = file.replace("url = \"memory:\"", &format!("url = {url:?}"));
        let mut before: Table = file.parse().unwrap();
        merge(&mut before, setting.needs.clone());
        let before = match name.as_str() {
            "store.url" => Config::deserialize(before).unwrap(),
            _ => {
                set(&mut before, &["store".into(), "url".into()], url.into());
                Config::deserialize(before).unwrap()
            }
        };
        let changed = others(&setting.value).into_iter().find_map(|value| {
            let mut changes = setting.needs.clone();
            set(&mut changes, &setting.path, value);
            let mut tree: Table = file.parse().unwrap();
            merge(&mut tree, changes.clone());
            let config = Config::deserialize(tree).ok()?;
            (config != before).then_some((changes, config))
        });
        let (changes, expected) = changed.unwrap_or_else(|| panic!("no value changes {name}"));
        let read = from_environment(&file, variables(&changes));
        assert_eq!(read, Ok(expected), "{name}: {changes:?}");
    }
}

#[test]
fn a_misspelt_variable_is_an_error() {
    for (variable, expected) in [
        (
            "SESSILE__SESSION__IDLE_TIMOUT",
            "unknown setting `session.idle_timout`: did you mean `idle_timeout`?",
        ),
        (
            "SESSILE__SESSION__IDLE__TIMEOUT",
            "unknown setting `session.idle`: leave it out, or write",
        ),
        (
            "SESSILE__STORE__COOKIE",
            "unknown setting `store.cookie`: write `session.cookie`",
        ),
        (
            "SESSILE__SESION__LOAD",
            "unknown setting `sesion`: did you mean `session`?",
        ),
    ] {
        let variables = [(variable.to_owned(), "1h".to_owned())].into();
        let error = from_environment(&sessile_toml(), variables).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn the_error_for_a_wrong_file_names_the_setting_and_what_to_write() {
    for (text, expected) in WRONG {
        let error = start(text).await.expect_err(text);
        assert_eq!(error, *expected, "{text}");
    }
}

#[test]
fn json_gets_the_same_errors() {
    for (text, expected) in WRONG.iter().filter(|(text, _)| !text.contains("-27T")) {
        let tree: Table = text.parse().unwrap();
        let json = serde_json::to_string(&tree).unwrap();
        if let Err(error) = serde_json::from_str::<Config>(&json) {
            assert_eq!(error.to_string(), *expected, "{json}");
        }
    }
}

#[test]
fn no_error_shows_a_password() {
    for text in [
        "store = \"redis://mia:s3cret@h/\"",
        "store.url = [\"redis://mia:s3cret@h/\"]",
        "store.url = \"redis://h/\"\nstore.password = \"s3cret\"",
        "store.url = { password = \"s3cret\" }",
        "store.url = \"redis://h/\"\nstore.sentinel = \"s3cret\"",
        "store.url = \"redis://h/\"\nstore.sentinel.password = [\"s3cret\"]",
    ] {
        let error = read(text).expect_err(text);
        assert!(!error.contains("s3cret"), "{error}");
    }
}

#[tokio::test]
async fn a_configuration_hands_out_the_store_too() {
    use sessile::store::StatsOptions;

    let config = read("session.cookie.name = \"__Host-shop\"\nstore.capacity = 7").unwrap();
    let (layer, store) = config.build().await.unwrap();
    let first = app(layer);
    let mut browser = Browser::default();
    browser.get(&first, "/incr?k=n").await.ok();
    let sessions = async || {
        let stats = store.stats(StatsOptions::new(), |_| ()).await;
        stats.unwrap().sessions
    };
    assert_eq!(sessions().await, 1);
    assert!(store.health().await.read.is_ok());
    assert!(store.pool().is_none());
    // A second layer on the same store, and a job.
    let second = app(SessionLayer::new(store.clone()));
    Browser::default().get(&second, "/incr?k=n").await.ok();
    assert_eq!(sessions().await, 2);
    for _ in 0..9 {
        Browser::default().get(&second, "/incr?k=n").await.ok();
    }
    assert_eq!(sessions().await, 7, "its capacity");
}

#[tokio::test]
async fn a_redis_store_is_handed_out_too() {
    use sessile::store::StatsOptions;

    let ground = crate::support::Ground::new();
    let mut config = Config::default();
    config.store = StoreConfig::from_url(ground.url());
    let (_layer, store) = config.build().await.unwrap();
    assert!(store.health().await.read.is_ok());
    assert!(store.pool().is_some());
    store.stats(StatsOptions::new(), |_| ()).await.unwrap();
    let listed = sessile::Sessions::new(store)
        .of("nobody-is-called-this")
        .await;
    assert!(listed.unwrap().is_empty());
}

/// Wrong files, and the whole errors, to be read.
#[rustfmt::skip]
const WRONG: &[(&str, &str)] = &[
    (
        "sesion = {}",
        "unknown setting `sesion`: did you mean `session`?",
    ),
    (
        "stroe = {}",
        "unknown setting `stroe`: did you mean `store`?",
    ),
    (
        "idle_timeout = '1h'",
        "unknown setting `idle_timeout`: write `session.idle_timeout`; the settings here are `store` and `session`",
    ),
    (
        "ttl = 3",
        "unknown setting `ttl`: write `session.idle_timeout`",
    ),
    (
        "session = 3",
        "session: write a table, not 3",
    ),
    (
        "store = 'redis://mia:s3cret@h/'",
        "store: write a table",
    ),
    (
        "store = []",
        "store: write a table",
    ),
    (
        "session.idle_timout = '1h'",
        "unknown setting `session.idle_timout`: did you mean `idle_timeout`?",
    ),
    (
        "session.idle-timeout = '1h'",
        "unknown setting `session.idle-timeout`: did you mean `idle_timeout`?",
    ),
    (
        "session.idleTimeout = '1h'",
        "unknown setting `session.idleTimeout`: did you mean `idle_timeout`?",
    ),
    (
        "session.timeout = '1h'",
        "unknown setting `session.timeout`: write `session.idle_timeout`",
    ),
    (
        "session.max_age = 3",
        "unknown setting `session.max_age`: write `session.idle_timeout`, and `session.persistent = true` for a cookie that outlives the browser",
    ),
    (
        "session.xyz = 1",
        "unknown setting `session.xyz`: leave it out, or write `cookie`, `transport`, `idle_timeout`, `full_idle_timeout`, `absolute_timeout`, `renewal`, `persistent`, `max_size`, `load`, `on_store_error`, `concurrency`, `fingerprinting`, `client_address`, `ipv4_prefix`, `ipv6_prefix`, `commit_on_server_error`, `signed_in_caching`, `durability` or `max_sessions`",
    ),
    (
        "session.cookie.nmae = 'id'",
        "unknown setting `session.cookie.nmae`: did you mean `name`?",
    ),
    (
        "session.cookie.http_only = true",
        "unknown setting `session.cookie.http_only`: leave it out: the cookie is always `HttpOnly`",
    ),
    (
        "session.cookie.samesite = 'lax'",
        "unknown setting `session.cookie.samesite`: write `session.cookie.same_site`",
    ),
    (
        "session.cookie.same_site = 'Laxx'",
        r#"session.cookie.same_site = "Laxx": did you mean "lax"? Write "lax", "strict" or "none""#,
    ),
    (
        "session.cookie.same_site = 'Lax'",
        r#"session.cookie.same_site = "Lax": did you mean "lax"? Write "lax", "strict" or "none""#,
    ),
    (
        "session.cookie.same_site = true",
        r#"session.cookie.same_site: write "lax", "strict" or "none""#,
    ),
    (
        "session.cookie.same_site = 'ignore'",
        r#"session.cookie.same_site = "ignore": write "lax", "strict" or "none""#,
    ),
    (
        "session.cookie.idle_timeout = '1h'",
        "unknown setting `session.cookie.idle_timeout`: write `session.idle_timeout`",
    ),
    (
        "store.idle_timeout = '1h'",
        "unknown setting `store.idle_timeout`: write `session.idle_timeout`",
    ),
    (
        "store.timeout = '1s'",
        "unknown setting `store.timeout`: write `store.command_timeout`, or `store.connection_timeout` for connecting",
    ),
    (
        "store.username = 'mia'",
        r#"unknown setting `store.username`: write it into `store.url`, as in "redis://user:password@host:6379/0"; that of sentinels is `store.sentinel.username` and `store.sentinel.password`"#,
    ),
    (
        "session.concurrency.exclusive = { timeout = '1s' }",
        "unknown setting `session.concurrency.exclusive.timeout`: write `session.concurrency.exclusive.wait`",
    ),
    (
        "store.uri = 'memory:'",
        "unknown setting `store.uri`: did you mean `url`?",
    ),
    (
        "store.pool_size = 3",
        r#"store.url is missing: write it, such as "redis://127.0.0.1:6379/", since `store.pool_size` is for Redis"#,
    ),
    (
        "store.key_prefix = 'x'",
        r#"store.url is missing: write it, such as "redis://127.0.0.1:6379/", since `store.key_prefix` is for Redis"#,
    ),
    (
        "session.name = 'id'",
        "unknown setting `session.name`: write `session.cookie.name`",
    ),
    (
        "session.secure = false",
        "unknown setting `session.secure`: write `session.cookie.secure`",
    ),
    (
        "store.capactiy = 3",
        "unknown setting `store.capactiy`: did you mean `store.capacity`?",
    ),
    (
        "session.ca = 'x'",
        "unknown setting `session.ca`: write `store.tls.ca`",
    ),
    (
        "session.pool_sise = 3",
        "unknown setting `session.pool_sise`: did you mean `store.pool_size`?",
    ),
    (
        "session.sentinel.username = 'x'",
        "unknown setting `session.sentinel`: write `store.sentinel`",
    ),
    (
        "store.sentinel.usernam = 'x'\nstore.url='redis://h/'",
        "unknown setting `store.sentinel.usernam`: did you mean `username`?",
    ),
    (
        "store.tls.insecure = true\nstore.url='redis://h/'",
        "unknown setting `store.tls.insecure`: leave it out: certificates are always verified",
    ),
    (
        "store.tls.verify = true\nstore.url='redis://h/'",
        "unknown setting `store.tls.verify`: leave it out: certificates are always verified",
    ),
    (
        "session.idle_timeout = 1800",
        r#"session.idle_timeout: write a duration in quotes with its unit, such as "30m" or "500ms", not 1800"#,
    ),
    (
        "session.idle_timeout = '30'",
        r#"session.idle_timeout: "30" is not a duration: write a number with a unit of d, h, m, s or ms, such as "30d", "1h 30m" or "500ms""#,
    ),
    (
        "session.idle_timeout = ''",
        r#"session.idle_timeout: "" is not a duration: write a number with a unit of d, h, m, s or ms, such as "30d", "1h 30m" or "500ms""#,
    ),
    (
        "session.idle_timeout = '0s'",
        r#"session.idle_timeout = 0s: write a duration from "1s" to "3650d", such as "30m" or "1d""#,
    ),
    (
        "session.idle_timeout = '-5m'",
        r#"session.idle_timeout: "-5m" is negative: write a number with a unit of d, h, m, s or ms, such as "30d", "1h 30m" or "500ms""#,
    ),
    (
        "session.idle_timeout = '1 month'",
        r#"session.idle_timeout: "1 month" has years or months, whose lengths vary: write a number with a unit of d, h, m, s or ms, such as "30d", "1h 30m" or "500ms""#,
    ),
    (
        "session.idle_timeout = true",
        r#"session.idle_timeout: write a duration in quotes with its unit, such as "30m" or "500ms", not true"#,
    ),
    (
        "session.absolute_timeout = '20y'",
        r#"session.absolute_timeout: "20y" has years or months, whose lengths vary: write a number with a unit of d, h, m, s or ms, such as "30d", "1h 30m" or "500ms""#,
    ),
    (
        "session.absolute_timeout = '9999d'",
        r#"session.absolute_timeout = 9999d: write a duration from "1s" to "3650d", such as "30m" or "1d""#,
    ),
    (
        "session.idle_timeout = 1979-05-27T07:32:00Z",
        r#"session.idle_timeout: write a duration in quotes with its unit, such as "30m" or "500ms", not a table"#,
    ),
    (
        "session.max_size = 'big'",
        r#"session.max_size: write a whole number, not "big""#,
    ),
    (
        "session.max_size = 64",
        "session.max_size = 64: write a number of bytes from 1024 to 134217728: Redis does not accept records that are much larger",
    ),
    (
        "session.max_size = -1",
        "session.max_size: -1 is below the limit: write a whole number above 0",
    ),
    (
        "session.max_size = 1.5",
        "session.max_size: write a whole number, not 1.5",
    ),
    (
        "session.max_size = '64KiB'",
        r#"session.max_size: write a whole number, not "64KiB""#,
    ),
    (
        "session.max_size = 999999999999",
        "session.max_size = 999999999999: write a number of bytes from 1024 to 134217728: Redis does not accept records that are much larger",
    ),
    (
        "session.ipv4_prefix = 300",
        "session.ipv4_prefix: 300 is above the limit: write a smaller number",
    ),
    (
        "session.ipv4_prefix = 64",
        "session.ipv4_prefix = 64: write a number of bits from 8 to 32",
    ),
    (
        "session.ipv6_prefix = 24",
        "session.ipv6_prefix = 24: write a number of bits from 32 to 128",
    ),
    (
        "session.renewal = 'yes'",
        r#"session.renewal: write true or false, not "yes""#,
    ),
    (
        "session.renewal = 1",
        "session.renewal: write true or false, not 1",
    ),
    (
        "session.load = 'lazy'",
        r#"session.load = "lazy": write "inbound" or "on_extract""#,
    ),
    (
        "session.load = 'on_extrct'",
        r#"session.load = "on_extrct": did you mean "on_extract"? Write "inbound" or "on_extract""#,
    ),
    (
        "session.load = 3",
        r#"session.load: write "inbound" or "on_extract""#,
    ),
    (
        "session.on_store_error = 'ignore'",
        r#"session.on_store_error = "ignore": write "reject" or "anonymous""#,
    ),
    (
        "session.concurrency = 'exclusive'",
        r#"session.concurrency = "exclusive": say how long a request waits, such as { exclusive = { wait = "5s" } }"#,
    ),
    (
        "session.concurrency = 'lock'",
        r#"session.concurrency = "lock": write "merge", "last_write_wins", "reject" or "exclusive""#,
    ),
    (
        "session.concurrency = 'merg'",
        r#"session.concurrency = "merg": did you mean "merge"? Write "merge", "last_write_wins", "reject" or "exclusive""#,
    ),
    (
        "session.concurrency = {}",
        "session.concurrency.exclusive is missing: write it, or leave out session.concurrency",
    ),
    (
        "session.concurrency = 3",
        r#"session.concurrency: write "merge", "last_write_wins", "reject" or { exclusive = { wait = "5s" } }, not 3"#,
    ),
    (
        "session.concurrency = { exclusive = {} }",
        "session.concurrency.exclusive.wait is missing: write it, or leave out session.concurrency.exclusive",
    ),
    (
        "session.concurrency = { exclusive = { wait = '5s', leese = '5s' } }",
        "unknown setting `session.concurrency.exclusive.leese`: did you mean `lease`?",
    ),
    (
        "session.concurrency = { exclusive = { wait = '5s', lease = '2h' } }",
        r#"session.concurrency.exclusive.lease = 2h: write a duration from "100ms" to "1h", such as "5s" or "30m""#,
    ),
    (
        "session.concurrency = { exclusive = '5s' }",
        r#"session.concurrency.exclusive: write { wait = "5s" }"#,
    ),
    (
        "session.client_address = 'proxy'",
        r#"session.client_address: write { trusted_proxies = ["10.0.0.0/8"] } or { hops = 2 }"#,
    ),
    (
        "session.client_address = { hops = 0 }",
        "session.client_address.hops = 0: write the number of proxies in front of the application, from 1 to 255, or leave it out if there is none",
    ),
    (
        "session.client_address = { hops = 2, trusted_proxies = [] }",
        "session.client_address.hops = 2: trusted_proxies says which proxies there are: leave out one of the two",
    ),
    (
        "session.client_address = { trusted_proxies = [] }",
        r#"session.client_address.trusted_proxies = []: write the addresses or networks of your proxies, such as "10.0.0.0/8", or leave it out"#,
    ),
    (
        "session.client_address = { trusted_proxies = ['10.1.2.3/8'] }",
        r#"session.client_address.trusted_proxies = "10.1.2.3/8": write "10.0.0.0/8", or "10.1.2.3" for this address alone"#,
    ),
    (
        "session.client_address = { trusted_proxies = ['x'] }",
        r#"session.client_address.trusted_proxies = "x": write an address, such as "10.0.0.2" or "::1", or a network, such as "10.0.0.0/8""#,
    ),
    (
        "session.client_address = { trusted_proxies = [3] }",
        "session.client_address.trusted_proxies[0]: write a text in quotes",
    ),
    (
        "session.client_address = { trusted_proxies = 3 }",
        "session.client_address.trusted_proxies: write a list, not 3",
    ),
    (
        "session.client_address = { header = 'X-Real-IP' }",
        r#"session.client_address.header = "X-Real-IP": sessile reads it only from a proxy: write trusted_proxies = ["10.0.0.2"] with the addresses of your proxies, or leave it out"#,
    ),
    (
        "session.client_address = { hops = 2, header = 'X-Real-IP' }",
        r#"session.client_address.hops = 2: `x-real-ip` holds one address, so there is nothing to count: write hops = 1 if only your proxies can connect to the application, or trusted_proxies = ["10.0.0.2"] with the addresses of those that do"#,
    ),
    (
        "session.client_address = { hop = 2 }",
        "unknown setting `session.client_address.hop`: did you mean `hops`?",
    ),
    (
        "session.client_address = { hops = 256 }",
        "session.client_address.hops: 256 is above the limit: write a smaller number",
    ),
    (
        "session.max_sessions = 3",
        "session.max_sessions: write { n = 3 }, not 3",
    ),
    (
        "session.max_sessions = { n = 0 }",
        "session.max_sessions.n = 0: write a number of sessions from 1 to 1000, or leave the setting out",
    ),
    (
        "session.max_sessions = { when_full = 'refuse' }",
        "session.max_sessions.n is missing: write it, or leave out session.max_sessions",
    ),
    (
        "session.max_sessions = { n = 3, when_full = 'refuze' }",
        r#"session.max_sessions.when_full = "refuze": did you mean "refuse"? Write "evict_oldest" or "refuse""#,
    ),
    (
        "session.max_sessions = { m = 3 }",
        "unknown setting `session.max_sessions.m`: leave it out, or write `n` or `when_full`",
    ),
    (
        "session.max_sessions = {}",
        "session.max_sessions.n is missing: write it, or leave out session.max_sessions",
    ),
    (
        "session.durability.commits = 'replicas'",
        "session.durability.commits.replicas.n is missing: write it, or leave out session.durability.commits.replicas",
    ),
    (
        "session.durability.commits = { replicas = { n = 1 } }",
        "session.durability.commits.replicas.timeout is missing: write it, or leave out session.durability.commits.replicas",
    ),
    (
        "session.durability.commits = { replicas = { n = 0, timeout = '1s' } }",
        r#"session.durability.commits = { replicas = { n = 0, timeout = "1s" } }: write a number of replicas from 1 to 1024, or "primary""#,
    ),
    (
        "session.durability.commits = { replicas = { n = 1, timeout = '1s' } }",
        r#"session.durability.commits = { replicas = { n = 1, timeout = "1s" } }: this store has no replicas to wait for: use another store, or write "primary""#,
    ),
    (
        "session.durability.commit = 'primary'",
        "unknown setting `session.durability.commit`: did you mean `commits`?",
    ),
    (
        "session.durability = 'primary'",
        r#"session.durability: write { commits = "primary" }"#,
    ),
    (
        "session.durability.revocations = { replicas = { n = 1, timeout = '2s' } }\nstore.url = 'redis://127.0.0.1:1/'",
        "cannot use the session store at 127.0.0.1:1: nothing listens there (connection refused): start the server, or correct `url`",
    ),
    (
        "session.transport = 'bearer'",
        r#"session.transport = "bearer": did you mean "header"? Write "cookie" or "header""#,
    ),
    (
        "session.transport = { header = { name = 'x' } }",
        "unknown setting `session.transport.header.name`: write `session.cookie.name`; the settings here are `request` and `response`",
    ),
    (
        "session.transport = { header = { request = 'Cookie' } }",
        r#"session.transport.header.request = "Cookie": write the name of a header that carries nothing else, such as "authorization""#,
    ),
    (
        "session.transport = { cookie = { name = 'x' } }",
        r#"session.transport: write "cookie" alone"#,
    ),
    (
        "session.transport = { header = 'x' }",
        r#"session.transport.header: write { request = "authorization" }"#,
    ),
    (
        "session.cookie = '__Host-id'",
        r#"session.cookie: write a table"#,
    ),
    (
        "session.cookie.name = ''",
        r#"session.cookie.name = "": write 1 to 256 letters, digits, `-` or `_`, such as "__Host-id""#,
    ),
    (
        "session.cookie.name = 3",
        "session.cookie.name: write a text in quotes",
    ),
    (
        "session.cookie.path = 'shop'",
        r#"session.cookie.path = "shop": write a path that begins with `/`, such as "/""#,
    ),
    (
        "session.cookie.domain = 'example.org'",
        r#"session.cookie.name = "__Host-id": browsers accept a `__Host-` cookie only with `secure = true`, `path = "/"` and without `domain`: keep these, or choose another name, such as "id""#,
    ),
    (
        "session.cookie.domain = 'com'\nsession.cookie.name='id'",
        r#"session.cookie.domain = "com": browsers do not accept a domain with a single label, such as `localhost`: leave it out, for this host only, or write a domain of this host, such as "example.org""#,
    ),
    (
        "session.cookie.secure = false",
        r#"session.cookie.name = "__Host-id": browsers accept a `__Host-` cookie only with `secure = true`, `path = "/"` and without `domain`: keep these, or choose another name, such as "id""#,
    ),
    (
        "session.cookie.same_site = 'none'\nsession.cookie.secure=false\nsession.cookie.name='id'",
        r#"session.cookie.same_site = "none": browsers accept `SameSite=None` only with `secure = true`: set it, or write "lax""#,
    ),
    (
        "session.cookie.former_names = ['a b']",
        r#"session.cookie.former_names = "a b": leave it out, or write the 1 to 256 letters, digits, `-` or `_` that the cookie's name had"#,
    ),
    (
        "session.cookie.former_names = [1]",
        "session.cookie.former_names[0]: write a text in quotes",
    ),
    (
        "session.cookie.domains = ['localhost']",
        r#"session.cookie.domains = "localhost": browsers do not accept a domain with a single label, such as `localhost`: leave it out, or write a domain of this site, such as "example.org""#,
    ),
    (
        "session.cookie.former_names = ['__Host-id']",
        r#"session.cookie.former_names = "__Host-id": leave it out: the cookie has this name now"#,
    ),
    (
        "session.fingerprinting = 'on'",
        r#"session.fingerprinting = "on": write "off", "soft" or "strict""#,
    ),
    (
        "session.signed_in_caching = 'no-store'",
        r#"session.signed_in_caching = "no-store": did you mean "no_store"? Write "no_store" or "unchanged""#,
    ),
    (
        "session.commit_on_server_error = 'never'",
        r#"session.commit_on_server_error: write true or false, not "never""#,
    ),
    (
        "store.url = 'postgres://h/'",
        r#"store.url = "postgres://h/": write `redis://user:password@host:6379/0` or `unix:///path/to/socket`; encode `@`, `:` and `/` in a password as %40, %3A and %2F"#,
    ),
    (
        "store.url = 3",
        "store.url: write a text in quotes",
    ),
    (
        "store.url = ''",
        r#"store.url = "": write `redis://user:password@host:6379/0` or `unix:///path/to/socket`; encode `@`, `:` and `/` in a password as %40, %3A and %2F"#,
    ),
    (
        "store.url = 'redis://mia:s3/cret@h/'",
        r#"store.url = "redis://h/": user and password end at the first `/`, `?` or `#`: encode these characters in a password as %2F, %3F and %23, and `@` as %40"#,
    ),
    (
        "store.url = 'redis://h/x'",
        r#"store.url = "redis://h/x": write `redis://user:password@host:6379/0` or `unix:///path/to/socket`; encode `@`, `:` and `/` in a password as %40, %3A and %2F"#,
    ),
    (
        "store.url = 'redis://h/?db=5'",
        r#"store.url = "redis://h/": the only parameter after `?` is `protocol=resp3`: write the database as `redis://host:6379/5`"#,
    ),
    (
        "store.url = 'redis+sentinel://h/'",
        r#"store.url = "redis+sentinel://h/": write `redis+sentinel://user:password@sentinel:26379,sentinel:26379/mymaster/0`, with the name by which the sentinels know the primary in place of `mymaster`"#,
    ),
    (
        "store.capacity = 0",
        "store.capacity = 0: write a number of sessions above 0, such as 100000",
    ),
    (
        "store.max_bytes = 1000",
        "store.max_bytes = 1000: a session may take max_size = 65536 bytes: write a number of bytes well above that, such as 268435456",
    ),
    (
        "store.capacity = 'many'",
        r#"store.capacity: write a whole number, not "many""#,
    ),
    (
        "store.url='redis://h/'\nstore.pool_size = 0",
        "store.pool_size = 0: write a number of connections from 1 to 1024, such as 4",
    ),
    (
        "store.url='redis://h/'\nstore.pool_size = 's3cret'",
        r#"store.pool_size: write a whole number, not "s3cret""#,
    ),
    (
        "store.url='redis://h/'\nstore.command_timeout = '2s'",
        "store.command_timeout = 2s: it is more than request_budget = 1s, so it would never be reached: lower it, or raise the budget",
    ),
    (
        "store.url='redis://h/'\nstore.command_timeout = '0s'",
        r#"store.command_timeout = 0s: write a duration from "1ms" to "1s", such as "100ms" or "500ms""#,
    ),
    (
        "store.url='redis://h/'\nstore.request_budget = '2m'",
        r#"store.request_budget = 2m: write a duration from "500ms" to "1m", such as "5s" or "1m""#,
    ),
    (
        "store.url='redis://h/'\nstore.key_prefix = '{x}'",
        r#"store.key_prefix = "{x}": write 1 to 128 letters, digits, `_`, `-`, `.`, `/` or `:`, such as "sessile:"; `{` and `}` would put all sessions of a cluster on one server, and `*`, `?`, `[` and `\` would be patterns in `SCAN`"#,
    ),
    (
        "store.url='redis://h/'\nstore.compare_and_set = 'lua'",
        r#"store.compare_and_set = "lua": write "auto", "script", "watch" or "if_eq""#,
    ),
    (
        "store.url='redis://h/'\nstore.compare_and_set = 'ifeq'",
        r#"store.compare_and_set = "ifeq": did you mean "if_eq"? Write "auto", "script", "watch" or "if_eq""#,
    ),
    (
        "store.url='redis://h/'\nstore.tls.ca='/x'",
        r#"store.tls = { ca = "/x" }: without TLS it would be ignored: write `rediss://host:6379/0` into `url`"#,
    ),
    (
        "store.url='rediss://h/'\nstore.tls.ca='/x/y'",
        r#"store.tls.ca = "/x/y": the file cannot be read (No such file or directory (os error 2)): correct the path, or its permissions"#,
    ),
    (
        "store.url='redis+sentinel://h/m'\nstore.sentinel.username='x'",
        "store.sentinel.username = …: a user without a password would be ignored: write `sentinel.password` too",
    ),
    (
        "store.url='redis+sentinel://h/m'\nstore.sentinel.password=123",
        "store.sentinel.password is not a string: write it in quotes",
    ),
    (
        "store.url='redis://h/'\nstore.sentinel.password='x'",
        "store.sentinel = { … }: without sentinels it would be ignored: write `redis+sentinel://sentinel:26379/mymaster` into `url`",
    ),
    (
        "store.url='redis+sentinel://h/m'\nstore.sentinel.encrypted='maybe'",
        r#"store.sentinel.encrypted: write true or false, not "maybe""#,
    ),
    (
        "store.url='redis+sentinel://h/m'\nstore.sentinel.tls.ca='/x'",
        r#"store.sentinel.tls = { ca = "/x" }: it would be ignored: write `sentinel.encrypted = true`"#,
    ),
    (
        "store.url='redis+sentinel://h/m'\nstore.sentinel.encrypted=true\nstore.sentinel.tls.ca='/x'",
        r#"store.sentinel.tls.ca = "/x": the file cannot be read (No such file or directory (os error 2)): correct the path, or its permissions"#,
    ),
    (
        "store.url = 'redis://127.0.0.1:1/'",
        "cannot use the session store at 127.0.0.1:1: nothing listens there (connection refused): start the server, or correct `url`",
    ),
    (
        "store.url='redis://h/'\nstore.password = 'x'",
        r#"unknown setting `store.password`: write it into `store.url`, as in "redis://user:password@host:6379/0"; that of sentinels is `store.sentinel.username` and `store.sentinel.password`"#,
    ),
    (
        "store.tls = 'on'\nstore.url='redis://h/'",
        r#"store.tls: write a table"#,
    ),
];
