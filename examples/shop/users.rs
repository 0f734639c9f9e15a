//! Users and the hashes of their passwords: a stand-in for the shop's database. Everybody who has not changed the password has the
//! same one, since nobody registers here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands as _, AsyncConnectionConfig, Client, RedisResult, Script};
use tokio::sync::Semaphore;

const FIRST_PASSWORD: &str = "tulip";
const LONGEST_NAME: usize = 40;

/// The key in Redis: a hash from users to the hashes of their passwords.
const PASSWORDS: &str = "shop:passwords";

/// Replaces the hash of a user if it is the expected one, which is empty if there is none.
const REPLACE: &str = "
    if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
    return 1";

#[derive(Clone)]
pub enum Users {
    InMemory(Arc<Mutex<BTreeMap<String, String>>>),
    InRedis(Arc<(Client, AsyncConnectionConfig)>),
}

impl Users {
    pub fn in_memory() -> Self {
        Self::InMemory(Arc::default())
    }

    pub fn in_redis(url: &str, timeout: Duration) -> RedisResult<Self> {
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        Ok(Self::InRedis(Arc::new((Client::open(url)?, settings))))
    }

    /// Whether this is the password of the user.
    pub async fn is_right(&self, user: &str, password: &str) -> RedisResult<bool> {
        let is_name = !user.is_empty() && user.len() <= LONGEST_NAME;
        Ok(is_name && is_password(password, self.hash(user).await?).await)
    }

    /// Changes the password of the user. False if the old one is wrong, or another request has changed it meanwhile.
    pub async fn change(&self, user: &str, old: &str, new: &str) -> RedisResult<bool> {
        let before = self.hash(user).await?;
        if !is_password(old, before.clone()).await {
            return Ok(false);
        }
        let after = hash_of(new).await;
        self.replace(user, before.unwrap_or_default(), after).await
    }

    async fn hash(&self, user: &str) -> RedisResult<Option<String>> {
        match self {
            Self::InMemory(hashes) => Ok(hashes.lock().unwrap().get(user).cloned()),
            Self::InRedis(redis) => {
                let mut redis = connect(redis).await?;
                redis.hget(PASSWORDS, user).await
            }
        }
    }

    async fn replace(&self, user: &str, before: String, after: String) -> RedisResult<bool> {
        match self {
            Self::InMemory(hashes) => {
                let mut hashes = hashes.lock().unwrap();
                let is_same = hashes.get(user).map_or("", String::as_str) == before;
                if is_same {
                    hashes.insert(user.to_owned(), after);
                }
                Ok(is_same)
            }
            Self::InRedis(redis) => {
                let mut redis = connect(redis).await?;
                let script = Script::new(REPLACE);
                let mut call = script.key(PASSWORDS);
                call.arg(user).arg(before).arg(after);
                call.invoke_async(&mut redis).await
            }
        }
    }
}

/// Opens a connection for one call: a sign-in is rare, and its hash takes longer.
async fn connect(
    (client, settings): &(Client, AsyncConnectionConfig),
) -> RedisResult<MultiplexedConnection> {
    client
        .get_multiplexed_async_connection_with_config(settings)
        .await
}

async fn is_password(password: &str, hash: Option<String>) -> bool {
    let Some(hash) = hash else {
        return password == FIRST_PASSWORD;
    };
    let password = password.to_owned();
    hashing(move || {
        let hash = PasswordHash::new(&hash).expect("`hash_of` has made it");
        Argon2::default()
            .verify_password(password.as_bytes(), &hash)
            .is_ok()
    })
    .await
}

async fn hash_of(password: &str) -> String {
    let password = password.to_owned();
    hashing(move || {
        let hash = Argon2::default().hash_password(password.as_bytes());
        hash.expect("the default settings are valid").to_string()
    })
    .await
}

/// Runs this on a thread that may block. A hash takes 19 MiB and a core, so that a flood of sign-ins would leave none for the pages.
async fn hashing<T: Send + 'static>(hash: impl FnOnce() -> T + Send + 'static) -> T {
    static AT_ONCE: Semaphore = Semaphore::const_new(1);
    let _permit = AT_ONCE.acquire().await.expect("nobody closes it");
    let hashed = tokio::task::spawn_blocking(hash).await;
    hashed.expect("a hash does not panic")
}
