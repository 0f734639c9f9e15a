//! The settings of the store and of the application's layer: from the command line, the environment and a file.

use std::path::Path;

use sessile::store::Durability;
use sessile::{Config, RedisConfig, SessionConfig, StoreConfig};
use toml::{Table, Value};

use crate::args::{Args, Command, Common};
use crate::environment::Environment;
use crate::failure::Failure;

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) redis: RedisConfig,
    pub(crate) session: SessionConfig,
}

impl Settings {
    pub(crate) fn read(args: &Args) -> Result<Self, Failure> {
        let environment = Environment::read();
        let path = args.common.config.as_ref();
        let table = match path.or(environment.config.as_ref()) {
            Some(path) => from_file(path)?,
            None => Table::new(),
        };
        Self::from_table(table, args, environment)
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
        environment: Environment,
    ) -> Result<Self, Failure> {
        environment.apply(&mut table);
        choose_url(&mut table, args, environment)?;
        for (path, value) in overrides(args) {
            set(&mut table, path, value)?;
        }
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

/// Puts the URL of the store into the settings. They have one already if the file has, or a variable of the application.
fn choose_url(table: &mut Table, args: &Args, environment: Environment) -> Result<(), Failure> {
    let given = args.command.server().map(str::to_owned);
    let given = given.or_else(|| args.common.url.clone());
    let has_url = table
        .get("store")
        .and_then(|store| store.get("url"))
        .is_some();
    // Whoever names a file means its store.
    let is_named = has_url && args.common.config.is_some();
    let chosen = given.or_else(|| environment.url.filter(|_| !is_named));
    match chosen {
        Some(url) => set(table, &["store", "url"], Value::String(url)),
        None if has_url => Ok(()),
        None => match environment.fallback {
            Some(url) => set(table, &["store", "url"], Value::String(url)),
            // Without a URL, other settings of a store would mean the default server.
            None => set(table, &["store"], Value::Table(memory())),
        },
    }
}

/// What else the command line says.
fn overrides(args: &Args) -> Vec<Setting> {
    let Common {
        prefix,
        timeout,
        connect_timeout,
        ca,
        client_cert,
        client_key,
        ..
    } = &args.common;
    let path = |path: &Option<std::path::PathBuf>| {
        path.as_ref()
            .map(|path| path.to_string_lossy().into_owned())
    };
    let mut settings: Vec<(&'static [&'static str], Option<String>)> = vec![
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
    given
        .filter_map(|(path, value)| Some((path, Value::String(value?))))
        .collect()
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

    fn settings(
        file: &str,
        words: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Settings, Failure> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sessile.toml");
        std::fs::write(&path, file).unwrap();
        let args = Args::try_parse_from(["sessile"].iter().chain(words)).unwrap();
        let variables = variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()));
        Settings::from_table(from_file(&path)?, &args, Environment::of(variables))
    }

    #[test]
    fn the_command_line_comes_before_the_file_and_the_file_before_the_last_resort() {
        let file = "[store]\nurl = \"redis://file/\"\n";
        for (file, words, variables, expected) in [
            (
                file,
                &["doctor"][..],
                &[("REDIS_URL", "redis://last/")][..],
                Some("redis://file/"),
            ),
            (file, &["doctor", "redis://arg/"], &[], Some("redis://arg/")),
            (
                file,
                &["--url", "redis://flag/", "doctor"],
                &[],
                Some("redis://flag/"),
            ),
            (
                file,
                &["--url", "redis://flag/", "doctor", "redis://arg/"],
                &[],
                Some("redis://arg/"),
            ),
            (
                "",
                &["stats"],
                &[("REDIS_URL", "redis://last/")],
                Some("redis://last/"),
            ),
            ("", &["stats"], &[], None),
            ("[store]\nkey_prefix = \"shop:\"\n", &["stats"], &[], None),
        ] {
            let url = settings(file, words, variables).ok().map(|it| it.redis.url);
            assert_eq!(url.as_deref(), expected, "{words:?}");
        }
    }

    #[test]
    fn a_named_file_comes_before_the_environment_and_its_variables_replace_it() {
        let file = "[store]\nurl = \"redis://file/\"\n";
        let url = ("SESSILE_URL", "redis://env/");
        let last = ("REDIS_URL", "redis://last/");
        let application = ("SESSILE__STORE__URL", "redis://application/");
        let named = &["--config", "its.toml", "stats"][..];
        let with_url = &["--config", "its.toml", "--url", "redis://flag/", "stats"][..];
        for (file, words, variables, expected) in [
            (file, named, &[url, last][..], "redis://file/"),
            (
                file,
                named,
                &[url, last, application],
                "redis://application/",
            ),
            (file, with_url, &[url, application], "redis://flag/"),
            ("", named, &[url, last], "redis://env/"),
            // The file of SESSILE_CONFIG.
            (file, &["stats"], &[url, last, application], "redis://env/"),
            (
                file,
                &["stats"],
                &[last, application],
                "redis://application/",
            ),
            (
                file,
                &["stats"],
                &[last, ("SESSILE_URL", "")],
                "redis://file/",
            ),
            ("", &["stats"], &[last, application], "redis://application/"),
        ] {
            let read = settings(file, words, variables).unwrap();
            assert_eq!(read.redis.url, expected, "{words:?} {variables:?}");
        }
    }

    #[test]
    fn the_variables_of_an_application_are_settings() {
        let variables = [
            ("SESSILE__STORE__URL", "redis://h/"),
            ("SESSILE__STORE__KEY_PREFIX", "shop:"),
            ("SESSILE__STORE__POOL_SIZE", "3"),
            ("SESSILE__SESSION__IDLE_TIMEOUT", "15m"),
            ("SESSILE__SESSION__COOKIE__FORMER_NAMES", "__Host-shop,id"),
            ("SESSILE__SESSION__CONCURRENCY__EXCLUSIVE__WAIT", "5s"),
            ("SESSILE__SESSION__COOKIE__NAME", ""),
        ];
        let file = "[session]\nconcurrency = \"merge\"\n";
        let read = settings(file, &["stats"], &variables).unwrap();
        assert_eq!(
            (read.redis.key_prefix.as_str(), read.redis.pool_size),
            ("shop:", 3)
        );
        assert_eq!(read.session.idle_timeout, Duration::from_secs(15 * 60));
        assert_eq!(read.session.cookie.name, "__Host-id");
        assert_eq!(read.session.cookie.former_names, ["__Host-shop", "id"]);
        let wrong = [
            ("SESSILE__STORE__URL", "redis://h/"),
            ("SESSILE__SESSION__IDLE_TIMOUT", "15m"),
        ];
        let error = settings("", &["stats"], &wrong).unwrap_err().to_string();
        assert!(error.contains("did you mean `idle_timeout`"), "{error}");
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
        let read = settings("[session]\nidle_timeout = \"15m\"\n", &words, &[]).unwrap();
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
        let error = settings("", &words, &[]).unwrap_err();
        assert!(error.to_string().contains("\"1h 30m\""), "{error}");
    }

    #[test]
    fn an_error_in_the_file_names_the_line_and_not_its_content() {
        let file = "[session]\n[store]\nurl = \"redis://:s3cret@h/\n";
        let error = settings(file, &["stats"], &[]).unwrap_err().to_string();
        assert!(
            error.contains("line 3") && !error.contains("s3cret"),
            "{error}"
        );
    }
}
