//! Builds a layer and its store from a configuration file or the environment.

use serde::{Deserialize, Deserializer};

use crate::config::SessionConfig;
use crate::error::config::ConfigError;
use crate::middleware::layer::SessionLayer;
use crate::store::memory::MemoryStore;
#[cfg(feature = "redis")]
use crate::store::redis::{config::RedisConfig, store::RedisStore};

/// The store, selected by its URL.
///
/// In a configuration file it is a table with a `url`: `memory:` alone, or the settings of a [`RedisConfig`].
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[doc(alias = "StorageType")]
#[allow(
    clippy::large_enum_variant,
    reason = "an application has one, and a `Box` would complicate its use"
)]
pub enum StoreConfig {
    /// `memory:` — a [`MemoryStore`]. The default.
    #[default]
    Memory,
    /// `redis://…`, `rediss://…`, `redis+cluster://…`, `redis+sentinel://…` or `unix://…` — a [`RedisStore`].
    #[cfg(feature = "redis")]
    Redis(RedisConfig),
    /// Any other URL if the feature `redis` is off. [`SessionLayer::from_config`] rejects it with [`ConfigError::Invalid`].
    #[non_exhaustive]
    Unsupported {
        /// The scheme of the URL, such as `redis`; the rest is not kept, since it may hold a password.
        scheme: String,
    },
}

impl StoreConfig {
    /// The store at this URL, with its default settings: `memory:`, or any of [`RedisConfig::url`].
    ///
    /// The URL is checked when the layer is created.
    pub fn from_url(url: impl Into<String>) -> Self {
        let url = url.into();
        match is_memory(&url) {
            true => Self::Memory,
            false => Self::not_in_memory(&url),
        }
    }

    #[cfg(feature = "redis")]
    fn not_in_memory(url: &str) -> Self {
        Self::Redis(RedisConfig::new(url))
    }

    #[cfg(not(feature = "redis"))]
    fn not_in_memory(url: &str) -> Self {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+';
        // Any other text may be a misplaced password.
        let scheme = scheme.filter(|scheme| scheme.bytes().all(is_plain));
        Self::Unsupported {
            scheme: scheme.unwrap_or("…").to_owned(),
        }
    }
}

fn is_memory(url: &str) -> bool {
    url.trim_end_matches('/') == "memory:"
}

#[cfg(feature = "redis")]
impl<'de> Deserialize<'de> for StoreConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let config = RedisConfig::deserialize(deserializer)?;
        Ok(match is_memory(&config.url) {
            true => Self::Memory,
            false => Self::Redis(config),
        })
    }
}

#[cfg(not(feature = "redis"))]
impl<'de> Deserialize<'de> for StoreConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use std::collections::BTreeMap;

        use serde::de::{Error as _, IgnoredAny};

        #[derive(Deserialize)]
        struct Settings {
            url: Option<String>,
            #[serde(flatten)]
            others: BTreeMap<String, IgnoredAny>,
        }

        let Settings { url, others } = Settings::deserialize(deserializer)?;
        let store = url.map_or_else(|| Self::not_in_memory("redis://"), Self::from_url);
        // With another URL these may be Redis settings, and the error about the missing feature is more helpful.
        match others.keys().next() {
            Some(name) if store == Self::Memory => Err(D::Error::unknown_field(name, &["url"])),
            _ => Ok(store),
        }
    }
}

/// All settings of a layer and its store, for [`SessionLayer::from_config`].
///
/// ```
/// # async fn app() -> Result<(), Box<dyn std::error::Error>> {
/// use sessile::{Config, SessionLayer};
///
/// // From TOML, YAML or the environment, with a crate such as `config`; here from JSON.
/// let config: Config = serde_json::from_str(
///     r#"{ "store": { "url": "memory:" }, "session": { "idle_timeout": "15m" } }"#,
/// )?;
/// let layer = SessionLayer::from_config(config).await?;
/// # Ok(())
/// # }
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The store; memory by default.
    pub store: StoreConfig,
    /// The sessions and their cookie; [`SessionConfig::default`] by default.
    pub session: SessionConfig,
}

impl SessionLayer {
    /// Creates a layer and its store. The log names the store, since a missing `store` means memory. To use
    /// [`RedisStore::stats`] and [`RedisStore::health`], create the store yourself and keep a clone.
    ///
    /// # Errors
    ///
    /// Those of [`try_new`](Self::try_new) and [`RedisStore::from_config`], and [`ConfigError::Connect`] if `durability` waits
    /// for replicas and the Redis user may not call `WAIT`.
    #[doc(alias = "factory")]
    pub async fn from_config(config: Config) -> Result<Self, ConfigError> {
        tracing::info!(target: "sessile", store = ?config.store, "session store configured");
        match config.store {
            StoreConfig::Memory => Self::try_new(MemoryStore::new(), config.session),
            #[cfg(feature = "redis")]
            StoreConfig::Redis(redis) => {
                // Invalid session settings are reported even if Redis is unavailable.
                config.session.check()?;
                let store = RedisStore::from_config(redis).await?;
                if config.session.durability.waits() {
                    store.probe_replicas().await?;
                }
                Self::try_new(store, config.session)
            }
            StoreConfig::Unsupported { scheme } => Err(ConfigError::invalid(
                "store.url",
                format!("{scheme}://…"),
                "sessions in Redis need the feature `redis`: write `cargo add sessile --features redis`, or \"memory:\" as the URL",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "redis")]
    #[test]
    fn the_url_selects_the_store() {
        for (json, redis) in [
            (r#"{}"#, false),
            (r#"{"store": {"url": "memory:"}}"#, false),
            (r#"{"store": {"url": "memory://"}}"#, false),
            (r#"{"store": {"url": "redis://h/", "pool_size": 2}}"#, true),
            (
                r#"{"store": {"url": "unix:///run/redis.sock"}, "session": {"max_size": 4096}}"#,
                true,
            ),
        ] {
            let config: Config = serde_json::from_str(json).unwrap();
            assert_eq!(
                matches!(config.store, StoreConfig::Redis(_)),
                redis,
                "{json}"
            );
        }
        assert_eq!(StoreConfig::from_url("memory:"), StoreConfig::Memory);
        for bad in [r#"{"stroe": {}}"#, r#"{"store": {"uri": "memory:"}}"#] {
            assert!(serde_json::from_str::<Config>(bad).is_err(), "{bad}");
        }
    }

    #[cfg(not(feature = "redis"))]
    #[tokio::test]
    async fn a_redis_url_is_rejected_with_the_name_of_the_missing_feature() {
        for (json, scheme) in [
            (r#"{"url": "redis://mia:s3cret@h/"}"#, "redis"),
            (
                r#"{"url": "rediss+cluster://mia:s3cret@h/", "pool_size": 2}"#,
                "rediss+cluster",
            ),
            (r#"{"url": "mia:s3cret@h://"}"#, "…"),
            (r#"{"pool_size": 2}"#, "redis"),
        ] {
            let json = format!(r#"{{"store": {json}}}"#);
            let config: Config = serde_json::from_str(&json).unwrap();
            assert!(!format!("{config:?}").contains("s3cret"), "{config:?}");
            let error = SessionLayer::from_config(config)
                .await
                .map(drop)
                .unwrap_err();
            let text = error.to_string();
            assert!(
                text.starts_with(&format!("store.url = \"{scheme}://…\"")),
                "{text}"
            );
            assert!(text.contains("--features redis"), "{text}");
        }
        for json in [r#"{}"#, r#"{"store": {"url": "memory:"}}"#] {
            let config: Config = serde_json::from_str(json).unwrap();
            assert_eq!(config.store, StoreConfig::Memory, "{json}");
            assert!(SessionLayer::from_config(config).await.is_ok(), "{json}");
        }
        for bad in [
            r#"{"stroe": {}}"#,
            r#"{"store": {"url": "memory:", "pool": 1}}"#,
        ] {
            assert!(serde_json::from_str::<Config>(bad).is_err(), "{bad}");
        }
    }
}
