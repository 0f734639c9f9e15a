//! Constructs a store: `from_config` connects first, `lazy` does not.

use std::sync::Arc;

use redis::RedisError;

use crate::error::config::ConfigError;
use crate::store::redis::advice::connect_error;
use crate::store::redis::cas::Cas;
use crate::store::redis::config::RedisConfig;
use crate::store::redis::credentials::CredentialsProvider;
use crate::store::redis::endpoint::Endpoint;
use crate::store::redis::expiry::Expiries;
use crate::store::redis::index::Indexes;
use crate::store::redis::login::Login;
use crate::store::redis::servers::Servers;
use crate::store::redis::store::{Inner, RedisStore};

impl RedisStore {
    /// Connects to the server at this URL, with the default settings.
    ///
    /// # Redis
    ///
    /// On each connection `TIME`, after `AUTH` and `SELECT` if the URL asks for them. Once, `HELLO` and every command that
    /// requests will need, on a key that does not exist. On a cluster also `CLUSTER SLOTS` and `ASKING`, and the commands go to
    /// one primary, as a sample of all.
    ///
    /// # Errors
    ///
    /// - [`ConfigError::Invalid`]: the URL is not valid.
    /// - [`ConfigError::Connect`]: the server could not be reached, or does not let this user run a command that is needed,
    ///   such as those of the configured way to replace sessions. The error names host, port and cause.
    #[doc(alias = "connect")]
    pub async fn from_url(url: impl Into<String>) -> Result<Self, ConfigError> {
        Self::from_config(RedisConfig::new(url)).await
    }

    /// Connects with these settings.
    ///
    /// # Errors
    ///
    /// Those of [`from_url`](Self::from_url), and [`ConfigError::Invalid`] for an invalid setting.
    pub async fn from_config(config: RedisConfig) -> Result<Self, ConfigError> {
        Self::connect(config, None).await
    }

    /// Connects with these settings, and with user and password from a provider, for credentials that change while the store is
    /// in use: rotated passwords, and tokens. [`CredentialsProvider`] has an example.
    ///
    /// The URL must then contain neither user nor password. The credentials of sentinels remain those of
    /// [`RedisConfig::sentinel`].
    ///
    /// # Errors
    ///
    /// Those of [`from_config`](Self::from_config); [`ConfigError::Invalid`] for a URL with a user and a password; and
    /// [`ConfigError::Connect`] with the provider's error if it fails.
    pub async fn from_config_with_credentials(
        config: RedisConfig,
        provider: impl CredentialsProvider,
    ) -> Result<Self, ConfigError> {
        let login = Login::new(provider, &config);
        Self::connect(config, Some(login)).await
    }

    async fn connect(config: RedisConfig, login: Option<Arc<Login>>) -> Result<Self, ConfigError> {
        let endpoint = config.check()?;
        refuse_second_login(&config, &endpoint, login.as_ref())?;
        let address = endpoint.to_string();
        let failed = |error: RedisError| connect_error(&address, &config, error);
        Servers::connect_once(endpoint, &config, login.clone())
            .await
            .map_err(failed)?;
        let store = Self::in_background(config, login)?;
        store.probe().await?;
        Ok(store)
    }

    /// Creates a store that connects in the background, for an application that must start even if Redis is unreachable. Until
    /// it is connected, requests with a session cookie get 503.
    ///
    /// # Errors
    ///
    /// - [`ConfigError::Invalid`]: a setting is invalid.
    /// - [`ConfigError::NoRuntime`]: it was called outside of a tokio runtime.
    pub fn lazy(config: RedisConfig) -> Result<Self, ConfigError> {
        Self::in_background(config, None)
    }

    /// Like [`lazy`](Self::lazy), with user and password from a provider, as in
    /// [`from_config_with_credentials`](Self::from_config_with_credentials). If the provider fails at first, the store asks it
    /// again when it needs connections.
    ///
    /// # Errors
    ///
    /// Those of [`lazy`](Self::lazy), and [`ConfigError::Invalid`] for a URL with a user and a password.
    pub fn lazy_with_credentials(
        config: RedisConfig,
        provider: impl CredentialsProvider,
    ) -> Result<Self, ConfigError> {
        let login = Login::new(provider, &config);
        Self::in_background(config, Some(login))
    }

    fn in_background(config: RedisConfig, login: Option<Arc<Login>>) -> Result<Self, ConfigError> {
        let endpoint = config.check()?;
        refuse_second_login(&config, &endpoint, login.as_ref())?;
        let address: Arc<str> = endpoint.to_string().into();
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(ConfigError::NoRuntime);
        }
        let probe = format!("{}probe", config.key_prefix);
        let inner = Inner {
            servers: Servers::new(endpoint, Arc::clone(&address), &config, login),
            cas: Cas::new(config.compare_and_set, probe),
            expiries: Expiries::new(),
            indexes: Indexes::new(&config.key_prefix),
            config,
            address,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

/// With a provider, user and password in the URL would be ignored.
fn refuse_second_login(
    config: &RedisConfig,
    endpoint: &Endpoint,
    login: Option<&Arc<Login>>,
) -> Result<(), ConfigError> {
    if login.is_none() {
        return Ok(());
    }
    match endpoint.has_login() {
        true => Err(config.bad_url(
            "user and password would be ignored, since the credentials provider supplies them: leave them out",
        )),
        false => Ok(()),
    }
}
