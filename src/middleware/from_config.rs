//! A layer and its store from a configuration file or the environment.

use serde::{Deserialize, Deserializer};

use crate::config::SessionConfig;
use crate::error::config::ConfigError;
use crate::middleware::layer::SessionLayer;
use crate::store::{MemoryStore, RedisConfig, RedisStore};

/// The store, selected by its URL.
///
/// In a configuration file it is a table with a `url`: `memory:` alone, or the settings of a [`RedisConfig`].
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[doc(alias = "StorageType")]
#[allow(
    clippy::large_enum_variant,
    reason = "an application has one, and a Box would be a nuisance"
)]
pub enum StoreConfig {
    /// `memory:` — a [`MemoryStore`]. The default.
    #[default]
    Memory,
    /// `redis://…`, `rediss://…`, `redis+cluster://…`, `redis+sentinel://…` or `unix://…` — a [`RedisStore`].
    Redis(RedisConfig),
}

impl StoreConfig {
    /// The store at this URL, with its default settings: `memory:`, or any of [`RedisConfig::url`].
    ///
    /// The URL is checked when the layer is created.
    pub fn from_url(url: impl Into<String>) -> Self {
        Self::of(RedisConfig::new(url))
    }

    fn of(config: RedisConfig) -> Self {
        match config.url.trim_end_matches('/') {
            "memory:" => Self::Memory,
            _ => Self::Redis(config),
        }
    }
}

impl<'de> Deserialize<'de> for StoreConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        RedisConfig::deserialize(deserializer).map(Self::of)
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
    /// for replicas and this user may not send `WAIT`.
    #[doc(alias = "factory")]
    pub async fn from_config(config: Config) -> Result<Self, ConfigError> {
        tracing::info!(target: "sessile", store = ?config.store, "session store configured");
        match config.store {
            StoreConfig::Memory => Self::try_new(MemoryStore::new(), config.session),
            StoreConfig::Redis(redis) => {
                // Invalid session settings are reported even if Redis is unavailable.
                config.session.check()?;
                let store = RedisStore::from_config(redis).await?;
                if config.session.durability.waits() {
                    store.probe_replicas().await?;
                }
                Self::try_new(store, config.session)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
