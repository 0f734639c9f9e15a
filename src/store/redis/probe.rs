//! Tries every command that requests will need when the store connects, so that a missing permission or command shows at
//! startup and not in a request.

use std::collections::HashMap;
use std::sync::Arc;

use redis::{Cmd, Value};

use crate::error::config::ConfigError;
use crate::error::store::StoreError;
use crate::store::redis::advice::advice;
use crate::store::redis::error::RequestError;
use crate::store::redis::replicas;
use crate::store::redis::request::Request;
use crate::store::redis::store::RedisStore;

/// The first version with all that sessions need: `PEXPIRE … GT`, and script errors that keep their codes.
const OLDEST: (u32, u32) = (7, 0);

impl RedisStore {
    /// Sends every command that requests will send, once, with a key that does not exist.
    pub(crate) async fn probe(&self) -> Result<(), ConfigError> {
        let inner = &self.inner;
        let ready = inner
            .servers
            .ready(format!("{}probe", inner.config.key_prefix));
        let key = ready.await.map_err(|failed| self.startup_error(failed))?;
        self.probe_version(&key).await?;
        let command = |name: &str, arguments: &[&str]| {
            let mut command = redis::cmd(name);
            command.arg(&key).arg(arguments);
            command
        };
        let redirected = inner.servers.probe_asking(&key).await;
        redirected.map_err(|failed| self.startup_error(failed))?;
        for read in [command("GET", &[]), command("PTTL", &[])] {
            let answer = self.send(&key, &read).await;
            answer.map_err(|failed| self.startup_error(failed))?;
        }
        // None of them changes anything, since the key does not exist.
        let writes = [
            command("SET", &["", "XX", "PX", "1"]),
            command("PEXPIRE", &["1"]),
            command("PEXPIRE", &["1", "GT"]),
            command("UNLINK", &[]),
        ];
        let mut read_only = false;
        for write in writes {
            match self.send(&key, &write).await {
                Err(failed) if failed.is_denial() => return Err(self.startup_error(failed)),
                // A server that temporarily accepts no writes, such as for lack of memory, must not prevent a start.
                Err(failed) => read_only |= failed.code.as_deref() == Some("READONLY"),
                Ok(_) => {}
            }
        }
        if read_only {
            tracing::warn!(target: "sessile", address = &*inner.address, "this Redis is a replica that accepts no writes, so every change of a session will fail: write the primary's address into `url`, or those of its sentinels");
        }
        match inner.cas.detect(&inner.servers, &key).await {
            // As above. The first request that replaces a session detects the strategy.
            Err(failed) if failed.is_write_refusal() => return Ok(()),
            chosen => chosen.map_err(|failed| self.startup_error(failed))?,
        }
        match inner.indexes.probe(&inner.servers, &inner.cas, &key).await {
            Err(failed) if failed.is_write_refusal() => Ok(()),
            probed => probed.map_err(|failed| self.startup_error(failed)),
        }
    }

    /// Sends the command that waiting for replicas needs.
    pub(crate) async fn probe_replicas(&self) -> Result<(), ConfigError> {
        let key = format!("{}probe", self.inner.config.key_prefix);
        match replicas::probe(&self.inner.servers, &key).await {
            Err(failed) if failed.is_command_missing() => Err(self.startup_error(failed)),
            // The failure may pass, as on a replica that is about to be promoted.
            _ => Ok(()),
        }
    }

    /// A server that is too old fails with errors that do not say so.
    async fn probe_version(&self, key: &str) -> Result<(), ConfigError> {
        let inner = &self.inner;
        // Every user may send it. If it was renamed, the following commands show what is missing.
        let Ok(answer) = self.send(key, &redis::cmd("HELLO")).await else {
            return Ok(());
        };
        match Version::of(answer) {
            Some(version) if version.is_too_old() => {
                let (major, minor) = OLDEST;
                let Version { server, version } = version;
                Err(ConfigError::Connect {
                    address: inner.address.to_string(),
                    advice: format!(
                        "{server} {version} is too old: sessions need Redis {major}.{minor} or later, or Valkey"
                    ),
                    source: Arc::new(StoreError::refused("the server is too old")),
                })
            }
            _ => Ok(()),
        }
    }

    async fn send(&self, key: &str, command: &Cmd) -> Result<Value, RequestError> {
        let servers = &self.inner.servers;
        servers
            .send_idempotent(key, &Request::Command(command))
            .await
    }

    fn startup_error(&self, failed: RequestError) -> ConfigError {
        let inner = &self.inner;
        ConfigError::Connect {
            address: inner.address.to_string(),
            advice: advice(
                inner.config.compare_and_set,
                failed.code.as_deref(),
                &failed.error,
            ),
            source: Arc::new(failed.error),
        }
    }
}

/// The name and version that a server reports.
#[derive(Debug, PartialEq)]
struct Version {
    server: String,
    version: String,
}

impl Version {
    fn of(hello: Value) -> Option<Self> {
        let mut fields: HashMap<String, Value> = redis::from_redis_value(hello).ok()?;
        let mut text = |key| redis::from_redis_value::<String>(fields.remove(key)?).ok();
        Some(Self {
            server: text("server")?,
            version: text("version")?,
        })
    }

    /// A version that cannot be parsed counts as recent, and so do those of other servers, which number their versions
    /// differently.
    fn is_too_old(&self) -> bool {
        if self.server != "redis" {
            return false;
        }
        let mut numbers = self.version.split('.').map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < OLDEST,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_older_than_seven_is_too_old() {
        for (version, too_old) in [
            ("6.2.14", true),
            ("6.0", true),
            ("7.0.0", false),
            ("7.2.4", false),
            ("8.1.3-rc1", false),
            ("10.0.1", false),
            ("", false),
            ("unstable", false),
        ] {
            let text = |text: &str| Value::BulkString(text.into());
            let flat = [
                text("server"),
                text("redis"),
                text("version"),
                text(version),
                text("proto"),
                Value::Int(2),
            ];
            let pairs = flat
                .chunks(2)
                .map(|pair| (pair[0].clone(), pair[1].clone()));
            let map = Value::Map(pairs.collect());
            for hello in [Value::Array(flat.to_vec()), map] {
                let parsed = Version::of(hello).unwrap();
                assert_eq!(
                    (parsed.server.as_str(), parsed.is_too_old()),
                    ("redis", too_old)
                );
            }
        }
        let other = Version {
            server: "other".to_owned(),
            version: "1.0".to_owned(),
        };
        assert!(!other.is_too_old());
        assert_eq!(Version::of(Value::Okay), None);
    }
}
