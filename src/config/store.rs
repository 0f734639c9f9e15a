//! Which store to use, and its settings.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::config::nearest::names;
use crate::config::tree::Tree;
use crate::config::tree_error::TreeError;
use crate::error::config::ConfigError;
use crate::store::any::AnyStore;
use crate::store::memory::{MemoryStore, config::MemoryConfig};
#[cfg(feature = "redis")]
use crate::store::redis::{config::RedisConfig, store::RedisStore};

/// The store, selected by its URL.
///
/// In a configuration file it is a table with a `url` and the settings of a [`MemoryConfig`] and a [`RedisConfig`] side by side.
/// Those of the store that the URL does not select have no effect, so that an environment variable can select the other one. A
/// table with settings of Redis needs a `url`.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(alias = "StorageType")]
#[allow(
    clippy::large_enum_variant,
    reason = "an application has one, and a `Box` would complicate its use"
)]
pub enum StoreConfig {
    /// `memory:` — a [`MemoryStore`]. The default.
    Memory(MemoryConfig),
    /// `redis://…`, `rediss://…`, `redis+cluster://…`, `redis+sentinel://…` or `unix://…` — a [`RedisStore`].
    #[cfg(feature = "redis")]
    Redis(RedisConfig),
    /// Any other URL if the feature `redis` is off. [`connect`](Self::connect) rejects it with [`ConfigError::Invalid`].
    #[non_exhaustive]
    Unsupported {
        /// The scheme of the URL, such as `redis`; the rest is not kept, since it may hold a password.
        scheme: String,
    },
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self::Memory(MemoryConfig::default())
    }
}

impl StoreConfig {
    /// The store at this URL, with its default settings: `memory:`, or any of [`RedisConfig::url`].
    ///
    /// The URL is checked by [`connect`](Self::connect).
    pub fn from_url(url: impl Into<String>) -> Self {
        let url = url.into();
        match is_memory(&url) {
            true => Self::default(),
            false => Self::not_in_memory(&url),
        }
    }

    /// Creates the store, and connects to Redis as [`RedisStore::from_config`] does: for jobs and commands that have no layer, or
    /// to pass it to [`SessionLayer::try_new`](crate::SessionLayer::try_new). The log names the store, since a missing `url` means
    /// memory.
    ///
    /// # Errors
    ///
    /// Those of [`RedisStore::from_config`] and [`MemoryStore::from_config`]; [`ConfigError::Invalid`] for the URL of a Redis if the
    /// feature `redis` is off. The settings begin with `store.`, as a [`Config`](crate::Config) names them.
    pub async fn connect(self) -> Result<AnyStore, ConfigError> {
        tracing::info!(target: "sessile", store = ?self, "session store configured");
        let connected = match self {
            Self::Memory(memory) => MemoryStore::from_config(memory).map(AnyStore::from),
            #[cfg(feature = "redis")]
            Self::Redis(redis) => RedisStore::from_config(redis).await.map(AnyStore::from),
            Self::Unsupported { scheme } => Err(ConfigError::invalid(
                "url",
                format!("{scheme}://…"),
                "sessions in Redis need the feature `redis`: write `cargo add sessile --features redis`, or \"memory:\" as the URL",
            )),
        };
        connected.map_err(|error| error.under("store"))
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

impl StoreConfig {
    #[cfg(feature = "redis")]
    pub(crate) fn read(tree: Tree) -> Result<Self, TreeError> {
        let mut table = tree.into_table()?;
        let memory =
            MemoryConfig::deserialize(Tree::from(table.split_off(names::<MemoryConfig>())))?;
        let (has_url, setting) = (table.has("url"), table.any_name().map(str::to_owned));
        let redis = RedisConfig::deserialize(Tree::from(table))?;
        match setting {
            // The default of `RedisConfig` would be a surprise, as would memory.
            Some(setting) if !has_url => Err(TreeError::custom(format!(
                "store.url is missing: write it, such as \"redis://127.0.0.1:6379/\", since `store.{setting}` is for Redis"
            ))),
            Some(_) if !is_memory(&redis.url) => Ok(Self::Redis(redis)),
            _ => Ok(Self::Memory(memory)),
        }
    }

    #[cfg(not(feature = "redis"))]
    pub(crate) fn read(tree: Tree) -> Result<Self, TreeError> {
        let mut table = tree.into_table()?;
        let memory =
            MemoryConfig::deserialize(Tree::from(table.split_off(names::<MemoryConfig>())))?;
        let has_url = table.has("url");
        let url = table.take("url", String::deserialize)?;
        let others = table.any_name();
        match others {
            // With another URL these may be settings of Redis, and the error about the missing feature is more helpful.
            Some(name) if has_url && is_memory(&url) => Err(TreeError::unknown_field(
                name,
                &["url", "capacity", "max_bytes"],
            )),
            None if !has_url || is_memory(&url) => Ok(Self::Memory(memory)),
            _ if has_url => Ok(Self::not_in_memory(&url)),
            _ => Ok(Self::not_in_memory("redis://")),
        }
    }
}

impl<'de> Deserialize<'de> for StoreConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = Self::read(Tree::read(deserializer)?);
        read.map_err(|error| D::Error::custom(error.under("store")))
    }
}

fn is_memory(url: &str) -> bool {
    matches!(url.trim_end_matches('/'), "memory" | "memory:")
}
