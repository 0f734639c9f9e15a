//! Opens the store of the library.

use std::cmp::Reverse;

use futures_util::future::join_all;
use sessile::store::IndexKey;
use sessile::{Handle, RedisStore, SessionError, SessionStore as _, Sessions, StoredSession};

use crate::failure::Failure;
use crate::settings::Settings;

#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) redis: RedisStore,
    pub(crate) sessions: Sessions,
    /// The start of its keys.
    pub(crate) prefix: String,
}

/// How many sessions are read at once.
pub(crate) const AT_ONCE: usize = 128;

/// A session; `None` instead of it if this version cannot read it.
pub(crate) type Listed = (Handle, Option<StoredSession>);

impl Store {
    /// The sessions of a user, the one that was used last first.
    ///
    /// Unlike `Sessions::of` it leaves the index as it is: entries of sessions that have ended tell `explain` how.
    pub(crate) async fn of_user(&self, principal: &str) -> Result<Vec<Listed>, Failure> {
        let indexed = self.redis.list(&IndexKey::of(principal)).await?;
        let handles: Vec<_> = indexed.sessions.iter().map(|it| it.entry.handle).collect();
        let mut listed = Vec::new();
        for handles in handles.chunks(AT_ONCE) {
            for (handle, session) in self.find_each(handles).await? {
                let owner = session.as_ref().map(StoredSession::principal);
                if owner.is_none_or(|it| it == Some(principal)) {
                    listed.push((handle, session));
                }
            }
        }
        let used = |it: &Listed| it.1.as_ref().map(StoredSession::last_accessed);
        listed.sort_by_key(|it| (Reverse(used(it)), it.0));
        Ok(listed)
    }

    /// Those of the sessions that are stored, in the same order.
    pub(crate) async fn find_each(&self, handles: &[Handle]) -> Result<Vec<Listed>, Failure> {
        let finds = handles.iter().map(|handle| self.sessions.find(*handle));
        let mut found = Vec::new();
        for (handle, session) in handles.iter().zip(join_all(finds).await) {
            match session {
                Ok(None) => {}
                Ok(Some(session)) => found.push((*handle, Some(session))),
                Err(SessionError::Gone(_)) => found.push((*handle, None)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }
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
