//! Builds a layer and its store from a configuration file or the environment.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::config::SessionConfig;
use crate::config::store::StoreConfig;
use crate::config::tree::Tree;
use crate::config::tree_error::TreeError;
use crate::error::config::ConfigError;
use crate::middleware::layer::SessionLayer;
use crate::store::any::AnyStore;

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
///
/// The file `sessile.toml` in the repository has every setting with its default and the reason for it.
///
/// # Errors
///
/// An unknown name is an error with the setting that was meant: ``unknown setting `session.idle_timout`: did you mean
/// `idle_timeout`?`` A value of the wrong kind is an error that says which one to write. Each begins with the path of the setting.
///
/// # Environment variables
///
/// They are texts, so every setting may be one: numbers, `true` and `false` in quotes are what they look like, and a list is
/// `"10.0.0.0/8, ::1"`.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The store; memory by default.
    pub store: StoreConfig,
    /// The sessions and their cookie; [`SessionConfig::default`] by default.
    pub session: SessionConfig,
}

impl Config {
    fn read(tree: Tree) -> Result<Self, TreeError> {
        let mut table = tree.into_table()?;
        let store = table.take("store", StoreConfig::read)?;
        let session = table.take("session", SessionConfig::deserialize)?;
        match table.any_name() {
            Some(name) => Err(TreeError::unknown_field(name, &["store", "session"])),
            None => Ok(Self { store, session }),
        }
    }

    /// Creates the store and a layer that uses it. Keep the store for [`Sessions::new`](crate::Sessions::new) in a job, for its
    /// [`stats`](AnyStore::stats) and [`health`](AnyStore::health), or for a second layer.
    ///
    /// ```
    /// # async fn app(config: sessile::Config) -> Result<(), sessile::ConfigError> {
    /// let (layer, store) = config.build().await?;
    /// println!("the store answers: {}", store.health().await.read.is_ok());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`SessionLayer::from_config`].
    pub async fn build(self) -> Result<(SessionLayer, AnyStore), ConfigError> {
        let Self { store, session } = self;
        let of_session = |error: ConfigError| error.under("session");
        // Invalid session settings are reported even if Redis is unavailable.
        session.check().map_err(of_session)?;
        if let StoreConfig::Memory(memory) = &store {
            memory
                .check_for(session.max_size)
                .map_err(|error| error.under("store"))?;
        }
        let store = store.connect().await?;
        #[cfg(feature = "redis")]
        if let AnyStore::Redis(redis) = &store
            && session.durability.waits()
        {
            redis.probe_replicas().await?;
        }
        let layer = SessionLayer::try_new(store.clone(), session).map_err(of_session)?;
        Ok((layer, store))
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(Tree::read(deserializer)?).map_err(D::Error::custom)
    }
}

impl SessionLayer {
    /// Creates a layer and its store. The log names the store, since a missing `store` means memory. [`Config::build`] returns the
    /// store, too.
    ///
    /// # Errors
    ///
    /// Those of [`try_new`](Self::try_new) and [`StoreConfig::connect`], with the whole path of the setting, such as
    /// `session.cookie.name`; and [`ConfigError::Connect`] if `durability` waits for replicas and the Redis user may not call `WAIT`.
    #[doc(alias = "factory")]
    pub async fn from_config(config: Config) -> Result<Self, ConfigError> {
        let (layer, _) = config.build().await?;
        Ok(layer)
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
        assert_eq!(StoreConfig::from_url("memory:"), StoreConfig::default());
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
            assert_eq!(config.store, StoreConfig::default(), "{json}");
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
