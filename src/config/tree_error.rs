//! Errors of a [`Tree`](crate::config::tree::Tree): where the settings are wrong, and what to write instead.

use std::error::Error;
use std::fmt;

use serde::de;

use crate::config::nearest::{self, listed};

/// The setting and what is wrong with it. `Display` says what to write.
#[derive(Debug)]
pub(crate) struct TreeError {
    /// The names from the root to the setting. Indexes of lists are in brackets.
    path: Vec<String>,
    problem: Problem,
}

#[derive(Debug)]
enum Problem {
    UnknownName {
        name: String,
        expected: &'static [&'static str],
    },
    UnknownVariant {
        value: String,
        expected: &'static [&'static str],
    },
    Missing(&'static str),
    Other(String),
}

impl TreeError {
    /// The same error, of the table above.
    pub(crate) fn under(mut self, name: impl Into<String>) -> Self {
        self.path.insert(0, name.into());
        self
    }

    pub(crate) fn one_of(variants: &'static [&'static str]) -> Self {
        de::Error::custom(format!("write {}", quoted(variants)))
    }

    fn new(problem: Problem) -> Self {
        Self {
            path: Vec::new(),
            problem,
        }
    }
}

impl de::Error for TreeError {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self::new(Problem::Other(text.to_string()))
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = expected.to_string();
        let wanted = instead_of(&expected).unwrap_or(&expected);
        // A text, and what is written in place of one, may be a password or a URL.
        let is_secret = match found {
            de::Unexpected::Str(_) => !matches!(wanted, NUMBER | BOOLEAN),
            _ => wanted == TEXT,
        };
        match is_secret {
            true => de::Error::custom(format!("write {wanted}")),
            false => de::Error::custom(format!("write {wanted}, not {}", shown(found))),
        }
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let text = match (found, instead_of(&expected.to_string())) {
            (de::Unexpected::Signed(it), Some(NUMBER)) if it < 0 => {
                format!("{it} is below the limit: write a whole number above 0")
            }
            (de::Unexpected::Unsigned(it), Some(NUMBER)) => {
                format!("{it} is above the limit: write a smaller number")
            }
            (found, _) => format!("write {expected}, not {}", shown(found)),
        };
        de::Error::custom(text)
    }

    fn unknown_variant(value: &str, expected: &'static [&'static str]) -> Self {
        let value = value.to_owned();
        Self::new(Problem::UnknownVariant { value, expected })
    }

    fn unknown_field(name: &str, expected: &'static [&'static str]) -> Self {
        let name = name.to_owned();
        Self::new(Problem::UnknownName { name, expected })
    }

    fn missing_field(name: &'static str) -> Self {
        Self::new(Problem::Missing(name))
    }
}

const TEXT: &str = "a text in quotes";
const NUMBER: &str = "a whole number";
const BOOLEAN: &str = "true or false";

/// What a person calls that which serde expects.
fn instead_of(expected: &str) -> Option<&'static str> {
    match expected {
        "a string" | "path string" => Some(TEXT),
        "a boolean" => Some(BOOLEAN),
        "u8" | "u16" | "u32" | "u64" | "usize" => Some(NUMBER),
        "a sequence" => Some("a list"),
        text if text.starts_with("struct ") => Some("a table"),
        _ => None,
    }
}

fn shown(found: de::Unexpected<'_>) -> String {
    match found {
        de::Unexpected::Bool(it) => it.to_string(),
        de::Unexpected::Unsigned(it) => it.to_string(),
        de::Unexpected::Signed(it) => it.to_string(),
        de::Unexpected::Float(it) => it.to_string(),
        de::Unexpected::Str(it) => format!("{it:?}"),
        de::Unexpected::Seq => "a list".to_owned(),
        de::Unexpected::Map => "a table".to_owned(),
        de::Unexpected::Unit => "nothing".to_owned(),
        other => other.to_string(),
    }
}

fn quoted(variants: &[&str]) -> String {
    listed(variants.iter().map(|it| format!("\"{it}\"")), "or")
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = joined(&self.path);
        match &self.problem {
            Problem::UnknownName { name, expected } => {
                let setting = below(&path, name);
                let advice = nearest::advice(&path, name, expected);
                write!(f, "unknown setting `{setting}`: {advice}")
            }
            Problem::UnknownVariant { value, expected } => {
                let all = quoted(expected);
                match nearest::of(value, expected.iter().copied()) {
                    Some(near) => write!(
                        f,
                        "{path} = {value:?}: did you mean \"{near}\"? Write {all}"
                    ),
                    None => write!(f, "{path} = {value:?}: write {all}"),
                }
            }
            Problem::Missing(name) => {
                let setting = below(&path, name);
                write!(f, "{setting} is missing: write it, or leave out {path}")
            }
            Problem::Other(text) => f.write_str(&located(&self.path, text)),
        }
    }
}

impl Error for TreeError {}

fn below(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

fn joined(path: &[String]) -> String {
    let mut joined = String::new();
    for name in path {
        if !joined.is_empty() && !name.starts_with('[') {
            joined.push('.');
        }
        joined.push_str(name);
    }
    joined
}

/// The text, after the path of its setting. A text that begins with the last names of the path itself is put after the others.
fn located(path: &[String], text: &str) -> String {
    for start in 0..path.len() {
        let tail = joined(&path[start..]);
        let rest = text.strip_prefix(&tail);
        if rest.is_some_and(|rest| rest.starts_with(['.', ' '])) {
            return below(&joined(&path[..start]), text);
        }
    }
    match joined(path).as_str() {
        "" => text.to_owned(),
        path => format!("{path}: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_follows_the_path_and_repeats_no_part_of_it() {
        for (path, text, expected) in [
            ("", "write a table", "write a table"),
            ("session load", "write it", "session.load: write it"),
            (
                "session client_address",
                "client_address.hops = 0: write 1",
                "session.client_address.hops = 0: write 1",
            ),
            (
                "session concurrency exclusive",
                "concurrency.exclusive.lease = 1s: write 2s",
                "session.concurrency.exclusive.lease = 1s: write 2s",
            ),
            (
                "session load",
                "loading takes long",
                "session.load: loading takes long",
            ),
            ("a [1] b", "write it", "a[1].b: write it"),
        ] {
            let path: Vec<_> = path.split(' ').map(str::to_owned).collect();
            let path = if path == [""] { Vec::new() } else { path };
            assert_eq!(located(&path, text), expected);
        }
    }
}
