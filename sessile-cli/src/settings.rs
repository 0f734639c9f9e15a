//! The settings of the store and of the application's layer: from the command line, the environment and a file.

use std::path::Path;

use sessile::store::Durability;
use sessile::{Config, RedisConfig, SessionConfig, StoreConfig};
use toml::{Table, Value};

use crate::args::{Args, Command, Common};
use crate::failure::Failure;

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) redis: RedisConfig,
    pub(crate) session: SessionConfig,
}

impl Settings {
    pub(crate) fn read(args: &Args) -> Result<Self, Failure> {
        let table = match &args.common.config {
            Some(path) => from_file(path)?,
            None => Table::new(),
        };
        let fallback = std::env::var("REDIS_URL").ok();
        Self::from_table(table, args, fallback)
    }

    /// Whether any change waits for replicas.
    pub(crate) fn waits_for_replicas(&self) -> bool {
        let durability = &self.session.durability;
        let revocations = durability.revocations.unwrap_or(durability.commits);
        [durability.commits, revocations]
            .iter()
            .any(|it| *it != Durability::Primary)
    }

    fn from_table(
        mut table: Table,
        args: &Args,
        fallback: Option<String>,
    ) -> Result<Self, Failure> {
        apply(&mut table, overrides(args, fallback))?;
        let config: Config = Value::Table(table)
            .try_into()
            .map_err(|error: toml::de::Error| Failure::Usage(error.message().to_owned()))?;
        match config.store {
            StoreConfig::Redis(redis) => Ok(Self {
                redis,
                session: config.session,
            }),
            _ => Err(Failure::Usage(
                "which store? Give a URL such as redis://127.0.0.1:6379/ as the argument or as --url, set SESSILE_URL, or name the \
                 application's configuration with --config. A memory store cannot be seen from outside its process"
                    .to_owned(),
            )),
        }
    }
}

/// The message of an error must not quote the line, which may hold a password.
fn from_file(path: &Path) -> Result<Table, Failure> {
    let name = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::Usage(format!("cannot read {name}: {error}")))?;
    text.parse::<Table>().map_err(|error| {
        let line = error
            .span()
            .map_or(0, |span| text[..span.start].matches('\n').count() + 1);
        Failure::Usage(format!("{name}, line {line}: {}", error.message()))
    })
}

/// A setting: its path in the file, and its value.
type Setting = (&'static [&'static str], Value);

/// What the command line says, and the URL of last resort, which replaces nothing.
fn overrides(args: &Args, fallback: Option<String>) -> (Vec<Setting>, Option<String>) {
    let Common {
        url,
        prefix,
        timeout,
        connect_timeout,
        ca,
        client_cert,
        client_key,
        ..
    } = &args.common;
    let url = args
        .command
        .server()
        .map(str::to_owned)
        .or_else(|| url.clone());
    let path = |path: &Option<std::path::PathBuf>| {
        path.as_ref()
            .map(|path| path.to_string_lossy().into_owned())
    };
    let mut settings: Vec<(&'static [&'static str], Option<String>)> = vec![
        (&["store", "url"], url),
        (&["store", "key_prefix"], prefix.clone()),
        (&["store", "command_timeout"], timeout.clone()),
        (&["store", "request_budget"], timeout.clone()),
        (&["store", "connection_timeout"], connect_timeout.clone()),
        (&["store", "tls", "ca"], path(ca)),
        (&["store", "tls", "client_cert"], path(client_cert)),
        (&["store", "tls", "client_key"], path(client_key)),
    ];
    if let Command::Explain(explain) = &args.command {
        settings.extend([
            (
                &["session", "idle_timeout"][..],
                explain.idle_timeout.clone(),
            ),
            (
                &["session", "fingerprinting"],
                explain.fingerprinting.clone(),
            ),
            (&["session", "cookie", "name"], explain.cookie_name.clone()),
        ]);
    }
    let given = settings.into_iter();
    let given = given.filter_map(|(path, value)| Some((path, Value::String(value?))));
    (given.collect(), fallback)
}

fn apply(
    table: &mut Table,
    (settings, fallback): (Vec<Setting>, Option<String>),
) -> Result<(), Failure> {
    for (path, value) in settings {
        set(table, path, value)?;
    }
    let has_url = table
        .get("store")
        .and_then(|store| store.get("url"))
        .is_some();
    match fallback {
        Some(url) if !has_url => set(table, &["store", "url"], Value::String(url)),
        _ if has_url => Ok(()),
        // Without a URL, other settings of a store would mean the default server.
        _ => set(table, &["store"], Value::Table(memory())),
    }
}

fn memory() -> Table {
    Table::from_iter([("url".to_owned(), Value::String("memory:".to_owned()))])
}

fn set(table: &mut Table, path: &[&str], value: Value) -> Result<(), Failure> {
    match path {
        [] => Ok(()),
        [name] => {
            table.insert((*name).to_owned(), value);
            Ok(())
        }
        [name, rest @ ..] => {
            let below = table
                .entry((*name).to_owned())
                .or_insert_with(|| Value::Table(Table::new()));
            match below {
                Value::Table(below) => set(below, rest, value),
                _ => Err(Failure::Usage(format!(
                    "{name} in the configuration must be a table: write [{name}]"
                ))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;

    use super::*;

    fn settings(file: &str, words: &[&str], fallback: Option<&str>) -> Result<Settings, Failure> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sessile.toml");
        std::fs::write(&path, file).unwrap();
        let args = Args::try_parse_from(["sessile"].iter().chain(words)).unwrap();
        Settings::from_table(from_file(&path)?, &args, fallback.map(str::to_owned))
    }

    #[test]
    fn the_command_line_comes_before_the_file_and_the_file_before_the_last_resort() {
        let file = "[store]\nurl = \"redis://file/\"\n";
        for (file, words, fallback, expected) in [
            (
                file,
                &["doctor"][..],
                Some("redis://last/"),
                Some("redis://file/"),
            ),
            (
                file,
                &["doctor", "redis://arg/"],
                None,
                Some("redis://arg/"),
            ),
            (
                file,
                &["--url", "redis://flag/", "doctor"],
                None,
                Some("redis://flag/"),
            ),
            (
                file,
                &["--url", "redis://flag/", "doctor", "redis://arg/"],
                None,
                Some("redis://arg/"),
            ),
            ("", &["stats"], Some("redis://last/"), Some("redis://last/")),
            ("", &["stats"], None, None),
            ("[store]\nkey_prefix = \"shop:\"\n", &["stats"], None, None),
        ] {
            let url = settings(file, words, fallback).ok().map(|it| it.redis.url);
            assert_eq!(url.as_deref(), expected, "{words:?}");
        }
    }

    #[test]
    fn settings_of_the_layer_can_be_given_and_are_those_of_the_library() {
        let handle = "AAAAAAAAAAAAAAAAAAAAAA";
        let words = [
            "--url",
            "redis://h/",
            "--prefix",
            "shop:",
            "--timeout",
            "2s",
            "explain",
            handle,
        ];
        let given = [
            "--idle-timeout",
            "1h 30m",
            "--fingerprinting",
            "strict",
            "--cookie-name",
            "id",
        ];
        let words = [&words[..], &given].concat();
        let read = settings("[session]\nidle_timeout = \"15m\"\n", &words, None).unwrap();
        assert_eq!(read.redis.key_prefix, "shop:");
        assert_eq!(read.redis.command_timeout, Duration::from_secs(2));
        assert_eq!(read.session.idle_timeout, Duration::from_secs(90 * 60));
        assert_eq!(read.session.fingerprinting, sessile::Fingerprinting::Strict);
        assert_eq!(read.session.cookie.name, "id");

        let words = [
            "--url",
            "redis://h/",
            "explain",
            handle,
            "--idle-timeout",
            "soon",
        ];
        let error = settings("", &words, None).unwrap_err();
        assert!(error.to_string().contains("\"1h 30m\""), "{error}");
    }

    #[test]
    fn an_error_in_the_file_names_the_line_and_not_its_content() {
        let file = "[session]\n[store]\nurl = \"redis://:s3cret@h/\n";
        let error = settings(file, &["stats"], None).unwrap_err().to_string();
        assert!(
            error.contains("line 3") && !error.contains("s3cret"),
            "{error}"
        );
    }
}
