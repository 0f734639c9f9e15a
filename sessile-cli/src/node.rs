//! A connection to one server, for commands that the store does not send.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, RedisError, Value};
use sessile::RedisConfig;

use crate::place::Target;

#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) target: Target,
    connection: MultiplexedConnection,
}

/// Why a server did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The user lacks a permission.
    Denied,
    /// The user may send the command, but not with these keys.
    KeyDenied,
    /// The server does not have the command, or calls it otherwise.
    Unknown,
    /// Anything else that the server answered.
    Other(String),
    /// There was no answer.
    Silent(String),
}

impl Refusal {
    fn of(error: &RedisError) -> Self {
        let text = error.to_string();
        match error.code() {
            Some("NOPERM") if text.contains(" key") || text.contains("keys") => Self::KeyDenied,
            Some("NOPERM") => Self::Denied,
            // An EXEC that is denied ends the transaction.
            Some("EXECABORT") if text.contains("NOPERM") => Self::Denied,
            Some("ERR") if text.contains("unknown command") => Self::Unknown,
            Some(_) => Self::Other(text),
            None => Self::Silent(text),
        }
    }

    /// What the doctor says about a fact that it could not ask for.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Denied | Self::KeyDenied => "the user lacks the permission".to_owned(),
            Self::Unknown => "the server does not have the command".to_owned(),
            Self::Other(text) | Self::Silent(text) => text.clone(),
        }
    }
}

impl Node {
    pub(crate) async fn connect(target: Target, config: &RedisConfig) -> Result<Self, RedisError> {
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(config.connection_timeout))
            .set_response_timeout(Some(config.command_timeout));
        let client = target.client()?;
        let opened = client.get_multiplexed_async_connection_with_config(&settings);
        // The client's timeout does not cover the login.
        let Ok(connection) = tokio::time::timeout(config.connection_timeout * 2, opened).await
        else {
            return Err((ErrorKind::Io, "no answer in time").into());
        };
        Ok(Self {
            target,
            connection: connection?,
        })
    }

    pub(crate) fn address(&self) -> String {
        self.target.address()
    }

    pub(crate) async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> Result<T, Refusal> {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        self.send(&command).await
    }

    pub(crate) async fn send<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Refusal> {
        let mut connection = self.connection.clone();
        let answer: Result<T, RedisError> = command.query_async(&mut connection).await;
        answer.map_err(|error| Refusal::of(&error))
    }

    /// The answers to several commands; errors of the server are among them.
    pub(crate) async fn send_all(
        &self,
        mut commands: redis::Pipeline,
    ) -> Result<Vec<Value>, Refusal> {
        commands.ignore_errors();
        let mut connection = self.connection.clone();
        let answers = commands.query_async(&mut connection).await;
        answers.map_err(|error| Refusal::of(&error))
    }

    pub(crate) async fn info(&self) -> Result<Fields, Refusal> {
        // Without arguments: with several sections, a server before 7.0 reports an error.
        let text: String = self.ask(&["INFO"]).await?;
        Ok(Fields::parse(&text, ':'))
    }

    /// The server's settings of these names. Never ask for one that is a password.
    pub(crate) async fn settings(&self, names: &[&str]) -> Result<Fields, Refusal> {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg(names);
        let fields: BTreeMap<String, String> = self.send(&command).await?;
        Ok(Fields(fields))
    }

    /// The name by which the server's own answers call it, if they leave the host out.
    pub(crate) fn host(&self) -> Option<&str> {
        self.target.host()
    }

    pub(crate) async fn time(&self) -> Result<Duration, Refusal> {
        let (secs, micros): (u64, u32) = self.ask(&["TIME"]).await?;
        Ok(Duration::new(secs, micros.saturating_mul(1000)))
    }
}

/// Names and values, as INFO, CONFIG GET, CLUSTER INFO and SENTINEL MASTER return them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields(pub(crate) BTreeMap<String, String>);

impl Fields {
    pub(crate) fn parse(text: &str, separator: char) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let fields = lines.filter_map(|line| line.trim_end_matches('\r').split_once(separator));
        Self(
            fields
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        )
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// Whether a field has this value.
    pub(crate) fn is(&self, name: &str, value: &str) -> bool {
        self.text(name) == Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_split_into_fields() {
        let fields = Fields::parse(
            "# Server\r\nredis_version:7.0.15\r\n\r\nslave0:ip=h,port=1\r\nn:5",
            ':',
        );
        assert!(fields.is("redis_version", "7.0.15"));
        assert_eq!(fields.text("slave0"), Some("ip=h,port=1"));
        assert_eq!(
            (fields.number("n"), fields.number("redis_version")),
            (Some(5), None)
        );
    }
}
