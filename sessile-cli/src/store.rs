//! Opens the store of the library.

use sessile::{RedisStore, Sessions};

use crate::failure::Failure;
use crate::settings::Settings;

#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) redis: RedisStore,
    pub(crate) sessions: Sessions,
    /// The start of its keys.
    pub(crate) prefix: String,
}

/// For commands that only read: their user need not have the permissions of an application.
pub(crate) async fn open_to_read(settings: &Settings) -> Result<Store, Failure> {
    let redis = RedisStore::lazy(settings.redis.clone())?;
    let redis = match redis.health().await.read {
        Ok(_) => redis,
        // It says what to change.
        Err(_) => RedisStore::from_config(settings.redis.clone()).await?,
    };
    with_sessions(redis, settings)
}

/// Tries every command that it will need before it ends anything.
pub(crate) async fn open_to_write(settings: &Settings) -> Result<Store, Failure> {
    let redis = RedisStore::from_config(settings.redis.clone()).await?;
    with_sessions(redis, settings)
}

fn with_sessions(redis: RedisStore, settings: &Settings) -> Result<Store, Failure> {
    let sessions = Sessions::try_new(redis.clone(), settings.session.clone())?;
    let prefix = settings.redis.key_prefix.clone();
    Ok(Store {
        redis,
        sessions,
        prefix,
    })
}
