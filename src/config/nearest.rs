//! The setting that somebody may have meant who wrote an unknown name.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::forward_to_deserialize_any;

use crate::config::SessionConfig;
use crate::config::client_address::ClientAddress;
use crate::config::cookie::CookieConfig;
use crate::config::durability::DurabilityConfig;
use crate::config::max_sessions::MaxSessions;
use crate::config::policies::Exclusive;
use crate::config::transport::TokenHeader;
use crate::store::memory::config::MemoryConfig;
#[cfg(feature = "redis")]
use crate::store::redis::{config::RedisConfig, sentinel::SentinelConfig, tls::TlsConfig};

/// The tables of a configuration with the names of their settings.
fn tables() -> Vec<(&'static str, &'static [&'static str])> {
    vec![
        ("session", names::<SessionConfig>()),
        ("session.cookie", names::<CookieConfig>()),
        ("session.durability", names::<DurabilityConfig>()),
        ("session.client_address", names::<ClientAddress>()),
        ("session.max_sessions", names::<MaxSessions>()),
        ("session.transport.header", names::<TokenHeader>()),
        ("session.concurrency.exclusive", names::<Exclusive>()),
        ("store", names::<MemoryConfig>()),
        #[cfg(feature = "redis")]
        ("store", names::<RedisConfig>()),
        #[cfg(feature = "redis")]
        ("store.tls", names::<TlsConfig>()),
        #[cfg(feature = "redis")]
        ("store.sentinel", names::<SentinelConfig>()),
        #[cfg(feature = "redis")]
        ("store.sentinel.tls", names::<TlsConfig>()),
    ]
}

const ENCRYPTED: &str = "write \"rediss://\" at the start of `store.url`";

/// The names that mean something else in one table than in the others, with the table.
const HERE: [(&str, &str, &str); 13] = [
    (
        "store",
        "timeout",
        "write `store.command_timeout`, or `store.connection_timeout` for connecting",
    ),
    ("store", "response_timeout", "write `store.command_timeout`"),
    (
        "store",
        "max_size",
        "write `store.pool_size` for connections to Redis, or `store.max_bytes` for sessions in memory",
    ),
    (
        "store",
        "path",
        "write `store.url`, such as \"unix:///run/redis.sock\"",
    ),
    ("store", "secure", ENCRYPTED),
    ("store", "encrypted", ENCRYPTED),
    ("store.tls", "timeout", "write `store.connection_timeout`"),
    (
        "store.sentinel",
        "timeout",
        "write `store.connection_timeout`, which is for sentinels, too",
    ),
    ("store.sentinel", "user", "write `store.sentinel.username`"),
    (
        "store.sentinel",
        "secure",
        "write `store.sentinel.encrypted`",
    ),
    (
        "session.durability",
        "timeout",
        "write it into `session.durability.commits`, as in `commits = { replicas = { n = 1, timeout = \"200ms\" } }`",
    ),
    (
        "session.concurrency.exclusive",
        "timeout",
        "write `session.concurrency.exclusive.wait`",
    ),
    (
        "session.concurrency.exclusive",
        "ttl",
        "write `session.concurrency.exclusive.lease`",
    ),
];

const LOGIN: &str = "write it into `store.url`, as in \"redis://user:password@host:6379/0\"; that of sentinels is `store.sentinel.username` and `store.sentinel.password`";

/// What other libraries call a setting, or what one may look for in vain.
const ELSEWHERE: [(&str, &str); 21] = [
    ("ttl", "write `session.idle_timeout`"),
    ("timeout", "write `session.idle_timeout`"),
    ("lifetime", "write `session.idle_timeout`"),
    ("expiry", "write `session.idle_timeout`"),
    (
        "max_age",
        "write `session.idle_timeout`, and `session.persistent = true` for a cookie that outlives the browser",
    ),
    ("remember_me", "write `session.persistent`"),
    ("http_only", "leave it out: the cookie is always `HttpOnly`"),
    ("httponly", "leave it out: the cookie is always `HttpOnly`"),
    ("samesite", "write `session.cookie.same_site`"),
    ("max_connections", "write `store.pool_size`"),
    ("prefix", "write `store.key_prefix`"),
    ("host", "write `store.url`, such as \"redis://host:6379/0\""),
    ("port", "write `store.url`, such as \"redis://host:6379/0\""),
    (
        "database",
        "write `store.url`, such as \"redis://host:6379/0\"",
    ),
    ("db", "write `store.url`, such as \"redis://host:6379/0\""),
    ("password", LOGIN),
    ("username", LOGIN),
    ("user", LOGIN),
    ("insecure", "leave it out: certificates are always verified"),
    ("verify", "leave it out: certificates are always verified"),
    (
        "secret",
        "leave it out: the cookie holds a random token, and no secret has to be configured",
    ),
];

/// What to write instead of an unknown name in the table at this path, which has these settings.
pub(crate) fn advice(path: &str, name: &str, expected: &[&str]) -> String {
    let name = normal(name);
    let here = HERE.iter().filter(|(table, ..)| *table == path);
    let words = here
        .map(|(_, word, advice)| (*word, *advice))
        .chain(ELSEWHERE);
    if let Some((_, advice)) = words.clone().find(|(word, _)| *word == name) {
        return advice.to_owned();
    }
    if let Some(near) = of(&name, expected.iter().copied()) {
        return format!("did you mean `{near}`?");
    }
    let tables = tables();
    let settings = tables
        .iter()
        .flat_map(|(table, names)| names.iter().map(move |name| (*table, *name)));
    let same = settings.clone().filter(|(_, setting)| *setting == name);
    let places = nearest_tables(path, same.map(|(table, _)| table));
    let here = listed(expected.iter().map(|it| format!("`{it}`")), "or");
    if !places.is_empty() {
        let here = if expected.len() > 4 {
            String::new()
        } else {
            format!("; the settings here are {}", here.replace(" or ", " and "))
        };
        let places = places.iter().map(|table| format!("`{table}.{name}`"));
        return format!("write {}{here}", listed(places, "or"));
    }
    if let Some((_, advice)) = closest(&name, 1, words, |(word, _)| word) {
        return advice.to_owned();
    }
    if let Some((table, near)) = closest(&name, 1, settings, |(_, name)| name) {
        return format!("did you mean `{table}.{near}`?");
    }
    format!("leave it out, or write {here}")
}

/// Those of the tables that are below this path, if there are any; and of these, those with the shortest names.
fn nearest_tables<'a>(path: &str, tables: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let is_elsewhere = |table: &str| {
        let below = table.strip_prefix(path);
        !below.is_some_and(|below| below.starts_with('.'))
    };
    let far = |table: &str| (is_elsewhere(table), table.split('.').count());
    let mut tables: Vec<_> = tables.collect();
    let nearest = tables.iter().map(|table| far(table)).min();
    tables.retain(|table| Some(far(table)) == nearest);
    tables
}

/// The nearest of these names, if one is near enough.
pub(crate) fn of<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = normal(name);
    // A quarter of the letters may be wrong.
    closest(&name, name.len().div_ceil(4), names, |name| name)
}

fn closest<T>(
    name: &str,
    limit: usize,
    candidates: impl Iterator<Item = T>,
    word: impl Fn(&T) -> &str,
) -> Option<T> {
    // One wrong letter makes a short word another one.
    let limit = if name.len() < 3 { 0 } else { limit };
    candidates
        .map(|candidate| (strsim::osa_distance(name, word(&candidate)), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The name in the spelling of settings.
fn normal(name: &str) -> String {
    name.trim().replace(['-', ' '], "_").to_lowercase()
}

/// `a, b or c`.
pub(crate) fn listed(items: impl IntoIterator<Item = String>, last: &str) -> String {
    let mut items: Vec<_> = items.into_iter().collect();
    match (items.pop(), items.is_empty()) {
        (None, _) => String::new(),
        (Some(only), true) => only,
        (Some(end), false) => format!("{} {last} {end}", items.join(", ")),
    }
}

/// The names of the settings of a type, as serde knows them.
pub(crate) fn names<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // It fails as soon as the names are known.
    let _ = T::deserialize(Names(&mut names));
    names
}

struct Names<'a>(&'a mut &'static [&'static str]);

#[derive(Debug)]
struct Stop;

impl Error for Stop {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("only the names are asked for")
    }
}

impl std::error::Error for Stop {}

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = Stop;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        Err(Stop)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Stop> {
        *self.0 = names;
        Err(Stop)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use toml::{Table, Value};

    use super::*;

    /// Every name in `sessile.toml`, also in lines that show an example, with the path of its table.
    fn names_in_file() -> BTreeSet<String> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/sessile.toml");
        let text = std::fs::read_to_string(path).unwrap();
        let (mut table, mut names) = (String::new(), BTreeSet::new());
        for line in text.lines() {
            let line = line.strip_prefix("# ").unwrap_or(line);
            if let Some(header) = line.strip_prefix('[') {
                table = header.trim_end_matches(']').to_owned();
                names.insert(table.clone());
            } else if let Some((name, _)) = line.split_once(" = ")
                && name
                    .bytes()
                    .all(|it| it.is_ascii_lowercase() || b"_0123456789".contains(&it))
            {
                collect(&table, &line.parse::<Table>().unwrap(), &mut names);
            }
        }
        names
    }

    fn collect(path: &str, table: &Table, names: &mut BTreeSet<String>) {
        for (name, value) in table {
            let path = format!("{path}.{name}");
            if let Value::Table(table) = value {
                collect(&path, table, names);
            }
            names.insert(path);
        }
    }

    #[cfg(feature = "redis")]
    #[test]
    fn sessile_toml_has_every_setting_and_no_other() {
        let mut missing = names_in_file();
        assert!(missing.len() > 60, "{missing:?}");
        let all = names_in_file();
        for (table, names) in tables() {
            for name in names {
                let setting = format!("{table}.{name}");
                assert!(all.contains(&setting), "sessile.toml lacks {setting}");
                missing.remove(&setting);
            }
        }
        // What is left belongs to values that are tables.
        let known = [
            "session",
            "store",
            "session.transport.header",
            "session.concurrency.exclusive",
        ];
        missing.retain(|name| !known.contains(&name.as_str()) && !name.contains(".replicas"));
        assert!(missing.is_empty(), "`tables` lacks {missing:?}");
    }

    #[test]
    fn an_unknown_name_gets_the_setting_that_was_meant() {
        let session = names::<SessionConfig>();
        for (name, expected) in [
            ("idle_timout", "did you mean `idle_timeout`?"),
            ("Idle-Timeout", "did you mean `idle_timeout`?"),
            ("idleTimeout", "did you mean `idle_timeout`?"),
            ("cokie", "did you mean `cookie`?"),
            ("ttl", "write `session.idle_timeout`"),
            ("same_site", "write `session.cookie.same_site`"),
            ("samesite", "write `session.cookie.same_site`"),
            ("when_ful", "did you mean `session.max_sessions.when_full`?"),
            ("capacity", "write `store.capacity`"),
            // One wrong letter makes a short name another one.
            ("m", "leave it out, or write `cookie`, `transport`"),
            ("xyz", "leave it out, or write `cookie`, `transport`"),
        ] {
            let advice = advice("session", name, session);
            assert!(advice.starts_with(expected), "{name}: {advice}");
        }
        let header = advice("session.transport.header", "name", names::<TokenHeader>());
        assert_eq!(
            header,
            "write `session.cookie.name`; the settings here are `request` and `response`"
        );
        let here = HERE.iter().map(|(.., advice)| *advice);
        for advice in ELSEWHERE.iter().map(|(_, advice)| *advice).chain(here) {
            for setting in advice
                .split('`')
                .filter(|it| it.starts_with("se") || it.starts_with("st"))
            {
                let setting = setting.split(' ').next().unwrap();
                assert!(names_in_file().contains(setting), "{advice}");
            }
        }
    }

    #[cfg(feature = "redis")]
    #[test]
    fn a_setting_of_redis_in_another_table_is_found() {
        for (name, expected) in [
            ("pool_size", "write `store.pool_size`"),
            ("ca", "write `store.tls.ca`"),
            ("tls", "write `store.tls`"),
            ("username", LOGIN),
            ("pool_sise", "did you mean `store.pool_size`?"),
        ] {
            assert_eq!(advice("session", name, names::<SessionConfig>()), expected);
        }
    }

    #[cfg(feature = "redis")]
    #[test]
    fn the_advice_depends_on_the_table() {
        let (store, sentinel) = (names::<RedisConfig>(), names::<SentinelConfig>());
        let exclusive = names::<Exclusive>();
        for (table, settings, name, expected) in [
            ("store", store, "timeout", "write `store.command_timeout`, "),
            (
                "store",
                store,
                "time_out",
                "write `store.command_timeout`, ",
            ),
            ("store", store, "ttl", "write `session.idle_timeout`"),
            ("store", store, "max_size", "write `store.pool_size` "),
            ("store", store, "username", LOGIN),
            ("store", store, "user", LOGIN),
            ("store", store, "pasword", LOGIN),
            ("store", store, "encrypted", ENCRYPTED),
            ("store", store, "secure", ENCRYPTED),
            ("store", store, "ca", "write `store.tls.ca`"),
            (
                "store.sentinel",
                sentinel,
                "ca",
                "write `store.sentinel.tls.ca`; the settings here ",
            ),
            (
                "store.sentinel",
                sentinel,
                "user",
                "write `store.sentinel.username`",
            ),
            (
                "session.concurrency.exclusive",
                exclusive,
                "timeout",
                "write `session.concurrency.exclusive.wait`",
            ),
            (
                "session.durability",
                names::<DurabilityConfig>(),
                "timeout",
                "write it into `session.durability.commits`, ",
            ),
        ] {
            let advice = advice(table, name, settings);
            assert!(advice.starts_with(expected), "{table}.{name}: {advice}");
        }
    }
}
