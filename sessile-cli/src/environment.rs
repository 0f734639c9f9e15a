//! The environment variables that say where the sessions are, and the layer's settings.

use std::ffi::OsString;
use std::path::PathBuf;

use toml::{Table, Value};

/// What the variables of settings begin with, as in `examples/configured.rs` of the library.
const PREFIX: &str = "sessile__";

#[derive(Debug, Default)]
pub(crate) struct Environment {
    /// `SESSILE_URL`, for this command alone.
    pub(crate) url: Option<String>,
    /// `SESSILE_CONFIG`.
    pub(crate) config: Option<PathBuf>,
    /// `REDIS_URL`, the last resort.
    pub(crate) fallback: Option<String>,
    /// The application's: `SESSILE__STORE__URL` is `store`, `url`. In the order of their names.
    settings: Vec<(Vec<String>, String)>,
}

impl Environment {
    pub(crate) fn read() -> Self {
        Self::of(std::env::vars_os())
    }

    /// An empty variable is none.
    pub(crate) fn of(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut environment = Self::default();
        for (name, value) in variables.into_iter().filter(|(_, value)| !value.is_empty()) {
            let text = || value.to_string_lossy().into_owned();
            match name.to_str() {
                Some("SESSILE_URL") => environment.url = Some(text()),
                Some("SESSILE_CONFIG") => environment.config = Some(value.into()),
                Some("REDIS_URL") => environment.fallback = Some(text()),
                Some(name) => {
                    if let Some(path) = name.to_lowercase().strip_prefix(PREFIX) {
                        let path = path.split("__").map(str::to_owned).collect();
                        environment.settings.push((path, text()));
                    }
                }
                None => {}
            }
        }
        environment.settings.sort();
        environment
    }

    /// Replaces settings of a file by those of variables, as an application does.
    pub(crate) fn apply(&self, table: &mut Table) {
        for (path, value) in &self.settings {
            replace(table, path, value);
        }
    }
}

fn replace(table: &mut Table, path: &[String], value: &str) {
    match path {
        [] => {}
        [name] => {
            table.insert(name.clone(), Value::String(value.to_owned()));
        }
        [name, rest @ ..] => {
            let below = table.entry(name.clone()).or_insert(Value::Boolean(false));
            if !below.is_table() {
                *below = Value::Table(Table::new());
            }
            if let Value::Table(below) = below {
                replace(below, rest, value);
            }
        }
    }
}
