//! Users and passwords that change while the store is in use.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use redis::ConnectionInfo;
use tokio::time::Instant;
use zeroize::Zeroizing;

const MIN_VALIDITY: Duration = Duration::from_secs(4);

/// The user and the password that the store logs in with; the password may be a token that expires.
///
/// `Debug` shows neither. Their memory is overwritten when they are dropped, but not that of the client's buffers.
#[derive(Clone)]
pub struct Credentials {
    pub(crate) username: Zeroizing<String>,
    pub(crate) password: Zeroizing<String>,
    /// When to request new ones; `None` if they do not expire and serve one connection.
    pub(crate) renew_at: Option<Instant>,
}

impl Credentials {
    /// A user of Redis and the password or token. The user of `requirepass` is `default`.
    ///
    /// They serve the connection that they were requested for, and open connections never log in again. See
    /// [`valid_for`](Self::valid_for) for credentials that expire.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            username: Zeroizing::new(username.into()),
            password: Zeroizing::new(password.into()),
            renew_at: None,
        }
    }

    /// Makes the credentials expire this long after this call.
    ///
    /// For three quarters of that time, every new connection uses them. Then the store requests new ones, and open connections
    /// log in again with these. Less than four seconds count as four.
    #[must_use]
    pub fn valid_for(mut self, time: Duration) -> Self {
        // A time that overflows never ends, so it needs no renewal.
        self.renew_at = Instant::now().checked_add(time.max(MIN_VALIDITY) / 4 * 3);
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
/// # When the store calls it
///
/// For every new connection, unless the last answer [expires](Credentials::valid_for) and is still valid, or is less than a
/// second old. The store makes at most one call at a time, and connections that open together share an answer. So neither an
/// unreachable server nor a failing provider causes more than one call a second.
///
/// Before credentials expire, the store requests new ones, and open connections log in with these (`AUTH`), so the server has
/// no reason to close them. If that fails, the store logs a warning and tries again after 1 s, 2 s, 4 s and so on up to 30 s;
/// open connections keep their login.
///
/// If Redis refuses an answer that the store had kept, the store requests new credentials at once; if Redis refuses the same
/// ones again, a second later.
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
/// To rotate a password without a refusal, add the new password in Redis (`ACL SETUSER app >new`), replace the file, and remove
/// the old password (`<old`) later: open connections stay logged in.
///
/// # Cloud identities
///
/// - IAM of Amazon ElastiCache and MemoryDB: the user's name, and as the password the request `connect` signed for 15 minutes
///   by the SDK, without `http://`; with `valid_for` 15 minutes. Connections then log in again long before the 12 hours after
///   which AWS closes them.
/// - Microsoft Entra ID with Azure Managed Redis: the object ID of the identity, and the access token as the password; with
///   `valid_for` the time until the token's `expires_on`.
///
/// Both need `rediss://`.
pub trait CredentialsProvider: Send + Sync + 'static {
    /// The credentials to log in with now.
    ///
    /// If it takes longer than [`connection_timeout`](crate::RedisConfig::connection_timeout), the connection fails; if less,
    /// connecting gets the rest of that time. The call continues in either case, for 30 s at most, and the next connection gets
    /// its answer. It must not block: read files with `tokio::fs`.
    ///
    /// # Errors
    ///
    /// The connection fails, and the error becomes a source of the error that requests get and log. So it must not contain a
    /// secret. A panic counts as an error.
    fn credentials(
        &self,
    ) -> impl Future<Output = Result<Credentials, Box<dyn Error + Send + Sync>>> + Send;
}

/// Adds the credentials to the settings of a connection.
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
