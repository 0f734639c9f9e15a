//! A user and a password that change while the store is in use.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use redis::ConnectionInfo;
use tokio::time::Instant;
use zeroize::Zeroizing;

const SHORTEST: Duration = Duration::from_secs(4);

/// The user and the password that the store logs in with; the password may be a token that expires.
///
/// `Debug` shows neither, and their memory is overwritten when they are dropped; that of the client's buffers is not.
#[derive(Clone)]
pub struct Credentials {
    pub(crate) username: Zeroizing<String>,
    pub(crate) password: Zeroizing<String>,
    /// When new ones are to be asked for; `None` if these are good for one connection.
    pub(crate) renew_at: Option<Instant>,
}

impl Credentials {
    /// A user of Redis and the password or token. The user of `requirepass` is `default`.
    ///
    /// They are used for the connection that they were asked for, and open connections never log in again. See
    /// [`valid_for`](Self::valid_for) for credentials that expire.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            username: Zeroizing::new(username.into()),
            password: Zeroizing::new(password.into()),
            renew_at: None,
        }
    }

    /// Says that they expire this long after this call.
    ///
    /// Until three quarters of that time are over they are used for every connection that is made. Then new ones are asked
    /// for, and open connections log in again with these. Less than four seconds count as four.
    #[must_use]
    pub fn valid_for(mut self, time: Duration) -> Self {
        // What is so long that it has no end needs no new ones.
        self.renew_at = Instant::now().checked_add(time.max(SHORTEST) / 4 * 3);
        self
    }
}

impl Credentials {
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (&self.username, &self.password) == (&other.username, &other.password)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// Supplies credentials for Redis that may change while the store is in use, for
/// [`RedisStore::from_config_with_credentials`](crate::RedisStore::from_config_with_credentials).
///
/// # When it is asked
///
/// For every connection that is made, unless the last answer [expires](Credentials::valid_for) and is still good, or is less
/// than a second old. There is never more than one call at a time, and connections that are made together share an answer. So
/// a server that is away, or a provider that fails, does not have it called more than once a second.
///
/// Before credentials expire, it is asked for new ones, and open connections log in with these (`AUTH`), so the server has no
/// reason to end them. If that fails, it is tried again after 1 s, 2 s, 4 s and so on up to 30 s, with a warning in the log,
/// and open connections stay as they are.
///
/// If Redis refuses an answer that was kept, new credentials are asked for at once; if it refuses the same again, a second
/// later.
///
/// # A password in a file, replaced from time to time
///
/// ```no_run
/// use std::error::Error;
/// use std::path::PathBuf;
///
/// use sessile::{Credentials, CredentialsProvider, RedisConfig, RedisStore};
///
/// struct PasswordFile(PathBuf);
///
/// impl CredentialsProvider for PasswordFile {
///     async fn credentials(&self) -> Result<Credentials, Box<dyn Error + Send + Sync>> {
///         let password = tokio::fs::read_to_string(&self.0).await?;
///         Ok(Credentials::new("app", password.trim_end()))
///     }
/// }
///
/// # async fn connect() -> Result<RedisStore, sessile::ConfigError> {
/// // Without user and password in the URL.
/// let config = RedisConfig::new("redis://redis.internal/");
/// let file = PasswordFile("/run/secrets/redis".into());
/// RedisStore::from_config_with_credentials(config, file).await
/// # }
/// ```
///
/// To rotate without a refusal, add the new password in Redis (`ACL SETUSER app >new`), replace the file, and remove the old
/// password (`<old`) later: connections that are open stay logged in.
///
/// # A cloud's identities
///
/// - IAM of Amazon ElastiCache and MemoryDB: the user's name, and as the password the request `connect` signed for 15 minutes
///   by the SDK, without `http://`; with `valid_for` 15 minutes. Connections then log in again long before the 12 hours after
///   which AWS ends them.
/// - Microsoft Entra ID with Azure Managed Redis: the object ID of the identity, and the access token as the password; with
///   `valid_for` the time that is left to the token's `expires_on`.
///
/// Both need `rediss://`.
pub trait CredentialsProvider: Send + Sync + 'static {
    /// The credentials to log in with now.
    ///
    /// A connection is not made if it takes longer than [`connection_timeout`](crate::RedisConfig::connection_timeout), of which
    /// the rest is left for connecting. The call goes on all the same, for 30 s at most, and the next connection gets its
    /// answer. It must not block: read files with `tokio::fs`.
    ///
    /// # Errors
    ///
    /// The connection is then not made, and the error is a source of the error that requests get and log. So it must not hold
    /// a secret. A panic counts as an error.
    fn credentials(
        &self,
    ) -> impl Future<Output = Result<Credentials, Box<dyn Error + Send + Sync>>> + Send;
}

/// The address with these credentials.
pub(crate) fn log_in(info: ConnectionInfo, credentials: Option<&Credentials>) -> ConnectionInfo {
    let Some(credentials) = credentials else {
        return info;
    };
    let settings = info.redis_settings().clone();
    let settings = settings
        .set_username(credentials.username.as_str())
        .set_password(credentials.password.as_str());
    info.set_redis_settings(settings)
}
