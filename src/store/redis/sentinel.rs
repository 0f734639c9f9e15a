//! The primary of sentinels: the store asks them for its address whenever it opens a connection.
//!
//! The pool replaces a connection that is lost, or whose server is not a primary any more, as any other; the new one leads to
//! the server that took over.

use std::fmt;
use std::time::Duration;

use redis::{AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, Value};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::error::config::ConfigError;
use crate::store::redis::address::{addresses, at_address};
use crate::store::redis::credentials::Credentials;
use crate::store::redis::link::Link;
use crate::store::redis::request::Request;
use crate::store::redis::tls::{TlsConfig, handshake_advice};

/// How to connect to the sentinels that know the primary; for `redis+sentinel://` and `rediss+sentinel://` only.
///
/// Sentinels have users and certificates of their own. The user and password in the [URL](crate::RedisConfig::url) are those of
/// the primary, and are never sent to a sentinel.
#[non_exhaustive]
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SentinelConfig {
    /// The user; by default the user `default`, whose password sentinels call `requirepass`. The user needs
    /// `+sentinel|get-master-addr-by-name` and no more.
    pub username: Option<String>,
    /// The password of all sentinels. By default the store does not log in to them.
    #[serde(deserialize_with = "hide_value")]
    pub password: Option<String>,
    /// Whether the connections to them are encrypted; by default if those to the primary are, which is with
    /// `rediss+sentinel://`. Needs the feature `tls-rustls`.
    pub encrypted: Option<bool>,
    /// The authorities to trust and the client certificate for the sentinels; by default those of
    /// [`RedisConfig::tls`](crate::RedisConfig::tls).
    pub tls: Option<TlsConfig>,
}

/// Serde would repeat a password that is written as a number.
fn hide_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(deserializer)
        .map_err(|_| D::Error::custom("sentinel.password is not a string: write it in quotes"))
}

/// Shows neither user nor password.
impl fmt::Debug for SentinelConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentinelConfig")
            .field("encrypted", &self.encrypted)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

impl SentinelConfig {
    /// Sets [`username`](Self::username).
    #[must_use]
    pub fn with_username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// Sets [`password`](Self::password).
    #[must_use]
    pub fn with_password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Sets [`encrypted`](Self::encrypted).
    #[must_use]
    pub fn with_encrypted(mut self, encrypted: bool) -> Self {
        self.encrypted = Some(encrypted);
        self
    }

    /// Sets [`tls`](Self::tls).
    #[must_use]
    pub fn with_tls(mut self, tls: TlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Validates the settings, for connections to the sentinels that are encrypted or not.
    pub(crate) fn check(&self, encrypted: bool) -> Result<(), ConfigError> {
        if self.username.is_some() && self.password.is_none() {
            let advice =
                "a user without a password would be ignored: write `sentinel.password` too";
            return Err(ConfigError::invalid("sentinel.username", Hidden, advice));
        }
        if encrypted && cfg!(not(feature = "tls-rustls")) {
            let advice = "TLS needs the feature `tls-rustls`: write `cargo add sessile --features tls-rustls`";
            return Err(ConfigError::invalid("sentinel.encrypted", true, advice));
        }
        match &self.tls {
            Some(tls) if !encrypted => {
                let advice = "it would be ignored: write `sentinel.encrypted = true`";
                let value = format_args!("{}", tls.text());
                Err(ConfigError::invalid("sentinel.tls", value, advice))
            }
            _ => Ok(()),
        }
    }

    /// Adds user and password to the settings of a connection to a sentinel.
    pub(crate) fn log_in(&self, sentinel: ConnectionInfo) -> ConnectionInfo {
        let mut settings = sentinel.redis_settings().clone();
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        sentinel.set_redis_settings(settings)
    }

    /// In an error about certificates, names the settings of `sentinel.tls`.
    pub(crate) fn name_settings(&self, error: ConfigError) -> ConfigError {
        match error {
            ConfigError::Invalid {
                setting,
                value,
                advice,
            } if self.tls.is_some() && setting.starts_with("tls") => ConfigError::Invalid {
                setting: format!("sentinel.{setting}").into(),
                value,
                advice: advice.replace("`tls.", "`sentinel.tls."),
            },
            error => error,
        }
    }
}

/// A placeholder for a value that must not be shown.
struct Hidden;

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// The message of the error when no sentinel leads to a primary.
pub(crate) const NO_PRIMARY: &str = "no sentinel names a primary";

#[derive(Clone, Debug)]
pub(crate) struct Sentinels {
    nodes: Vec<ConnectionInfo>,
    /// The name of the primary.
    name: String,
    /// The settings of a connection to the primary; the address is a placeholder.
    primary: ConnectionInfo,
}

impl Sentinels {
    /// Whether the URL contains user and password of the primary.
    pub(crate) fn has_login(&self) -> bool {
        self.primary.redis_settings().password().is_some()
    }

    /// The number of the primary's database.
    pub(crate) fn database(&self) -> i64 {
        self.primary.redis_settings().db()
    }

    pub(crate) fn new(nodes: Vec<ConnectionInfo>, name: String, primary: ConnectionInfo) -> Self {
        Self {
            nodes,
            name,
            primary,
        }
    }

    /// Asks one sentinel after the other, and connects to the first primary that one of them names and that accepts the
    /// connection. `limit` bounds the whole. The credentials, if any, replace those of the primary.
    pub(crate) async fn open(
        &self,
        config: &AsyncConnectionConfig,
        limit: Duration,
        credentials: Option<&Credentials>,
    ) -> Result<Link, RedisError> {
        // A silent sentinel must leave time for the others, and for the primary.
        let time_limit = limit / u32::try_from(self.nodes.len() + 1).unwrap_or(u32::MAX);
        let mut reports = Vec::new();
        let mut action = None;
        let mut failure = None;
        for node in &self.nodes {
            let primary = match tokio::time::timeout(time_limit, self.primary_from(node, config))
                .await
            {
                Ok(Ok(Some(primary))) => primary,
                Ok(Ok(None)) => {
                    reports.push(format!("{} does not know `{}`", node.addr(), self.name));
                    continue;
                }
                Ok(Err(error)) => {
                    reports.push(format!("{}: {error}", node.addr()));
                    action = action.or_else(|| advice(&error, is_encrypted(node)));
                    continue;
                }
                Err(_) => {
                    reports.push(format!("{} did not answer in {time_limit:?}", node.addr()));
                    if is_encrypted(node) {
                        let advice = "look at the sentinels' logs; if they do not speak TLS, write `sentinel.encrypted = false`";
                        action = action.or_else(|| Some(advice.to_owned()));
                    }
                    continue;
                }
            };
            let address = primary.addr().to_string();
            match connect(primary, config, credentials).await {
                Ok(Some(link)) => return Ok(link),
                Ok(None) => reports.push(format!(
                    "{} names {address}, which is a replica",
                    node.addr()
                )),
                // Another sentinel may know of the failover already.
                Err(error) => failure = Some(error),
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let action = action.unwrap_or_else(|| {
            "correct the sentinels and the name in `url`, or look at the sentinels' logs".to_owned()
        });
        let reports = format!("{}: {action}", reports.join("; "));
        Err((ErrorKind::Io, NO_PRIMARY, reports).into())
    }

    async fn primary_from(
        &self,
        sentinel: &ConnectionInfo,
        config: &AsyncConnectionConfig,
    ) -> Result<Option<ConnectionInfo>, RedisError> {
        let mut link = Link::open(sentinel.clone(), config, None).await?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        let answer = link.send(&Request::Command(&question)).await?;
        let answer: Option<(String, u16)> = redis::from_redis_value(answer.extract_error()?)?;
        Ok(answer.map(|(host, port)| at_address(self.primary.clone(), &host, port)))
    }
}

fn is_encrypted(node: &ConnectionInfo) -> bool {
    matches!(node.addr(), ConnectionAddr::TcpTls { .. })
}

/// The advice for the error of a sentinel; `None` if the error may pass.
fn advice(error: &RedisError, encrypted: bool) -> Option<String> {
    if let Some(advice) = handshake_advice(error) {
        let advice = advice.replace("`tls.", "`sentinel.tls.");
        return Some(advice.replace("write `redis://`", "write `sentinel.encrypted = false`"));
    }
    let refused = matches!(error.code(), Some("NOAUTH" | "WRONGPASS"))
        || error.kind() == ErrorKind::AuthenticationFailed;
    let action = match error.code() {
        _ if refused => {
            "write the sentinels' password into `sentinel.password`, and their user, if it is not `default`, into \
             `sentinel.username`"
        }
        Some("NOPERM") => {
            "grant the user of `sentinel.username` the permission `+sentinel|get-master-addr-by-name` on every sentinel"
        }
        None if !error.is_connection_refusal()
            && (error.is_connection_dropped() || error.kind() == ErrorKind::Parse) =>
        {
            match encrypted {
                true => {
                    "the sentinel closed the connection: if it does not speak TLS, write `sentinel.encrypted = false`; if it asks \
                     for a certificate, write `sentinel.tls.client_cert` and `sentinel.tls.client_key`"
                }
                false => {
                    "the sentinel closed the connection, or does not answer as Redis does: if it expects TLS, write \
                     `sentinel.encrypted = true`"
                }
            }
        }
        _ => return None,
    };
    Some(action.to_owned())
}

impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = addresses(&self.nodes);
        write!(f, "{} of the sentinels {nodes}", self.name)
    }
}

/// Returns `None` if the server is not a primary.
async fn connect(
    primary: ConnectionInfo,
    config: &AsyncConnectionConfig,
    credentials: Option<&Credentials>,
) -> Result<Option<Link>, RedisError> {
    let mut link = Link::open(primary, config, credentials).await?;
    Ok(is_primary(&mut link).await?.then_some(link))
}

/// Whether the server reports itself as a primary: right after a failover a sentinel may still name the old one. If this user
/// may not send ROLE, the sentinel is believed.
async fn is_primary(link: &mut Link) -> Result<bool, RedisError> {
    let reply = link.send(&Request::Command(&redis::cmd("ROLE"))).await;
    match reply.and_then(Value::extract_error) {
        Ok(Value::Array(role)) => Ok(matches!(
            role.first(),
            Some(Value::BulkString(role)) if role == b"master"
        )),
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::Server(_)) => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_sentinels_name_the_settings_of_sentinels() {
        let server_error = |line: &str| {
            let line = format!("-{line}\r\n");
            match redis::parse_redis_value(line.as_bytes()).unwrap() {
                Value::ServerError(error) => RedisError::from(error),
                other => panic!("{other:?}"),
            }
        };
        let io = |kind: std::io::ErrorKind| RedisError::from(std::io::Error::from(kind));
        let failed = (
            ErrorKind::AuthenticationFailed,
            "Password authentication failed",
        );
        for (error, named) in [
            (
                server_error("NOAUTH Authentication required."),
                "`sentinel.password`",
            ),
            (server_error("WRONGPASS invalid"), "`sentinel.username`"),
            (failed.into(), "`sentinel.password`"),
            (
                server_error("NOPERM no permissions"),
                "`+sentinel|get-master-addr-by-name`",
            ),
            (
                io(std::io::ErrorKind::UnexpectedEof),
                "`sentinel.encrypted = true`",
            ),
        ] {
            let text = advice(&error, false).unwrap();
            assert!(text.contains(named), "{error}: {text}");
            assert!(!text.contains("`url`"), "{error}: {text}");
        }
        let text = advice(&io(std::io::ErrorKind::UnexpectedEof), true).unwrap();
        assert!(text.contains("`sentinel.encrypted = false`"), "{text}");
        for error in [
            server_error("LOADING loading"),
            io(std::io::ErrorKind::ConnectionRefused),
        ] {
            assert_eq!(advice(&error, false), None, "{error}");
        }
    }

    #[test]
    fn errors_and_debug_output_do_not_show_the_password_of_sentinels() {
        let config = SentinelConfig {
            username: Some("mia".to_owned()),
            password: Some("s3cret".to_owned()),
            ..SentinelConfig::default()
        };
        let shown = format!("{config:?}");
        assert!(
            !shown.contains("s3cret") && !shown.contains("mia"),
            "{shown}"
        );
        let read = |json: &str| serde_json::from_str::<SentinelConfig>(json);
        assert_eq!(
            read(r#"{"username": "mia", "password": "s3cret"}"#).unwrap(),
            config
        );
        let text = read(r#"{"password": 733733}"#).unwrap_err().to_string();
        assert!(
            !text.contains("733733") && text.contains("in quotes"),
            "{text}"
        );
        assert!(read(r#"{"passwort": "x"}"#).is_err());
    }
}
