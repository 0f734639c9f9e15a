//! Lifetimes: the calls that read and set how long a session lives.

use std::time::{Duration, SystemTime};

use crate::commit::base::Base;
use crate::commit::renew::load_and_renew;
use crate::error::session::SessionError;
use crate::record::change::{Change, Lifetimes};
use crate::record::lifetime::{Idle, check_timeout, last_accessed};
use crate::session::Session;
use crate::session::state::backing::Backing;
use crate::time::{after, to_time};

/// How long the session lives.
impl Session {
    /// When the session was created, by the store's clock.
    pub fn created_at(&self) -> SystemTime {
        to_time(self.shared().state().view.created)
    }

    /// When the session was last used before this request loaded or saved it, by the store's clock. Accurate to half of the
    /// idle timeout, since a read that needs no renewal writes nothing.
    pub fn last_accessed(&self) -> SystemTime {
        let now = self.shared().context.backend.now();
        let state = self.shared().state();
        let Backing::Loaded(base) = &state.backing else {
            return to_time(state.view.last_accessed);
        };
        let idle = self.shared().context.policy.idle(&base.record);
        let (deadline, written) = (base.record.deadline, base.record.last_accessed);
        to_time(last_accessed(
            base.stored.time_left(),
            idle,
            deadline,
            now,
            written,
        ))
    }

    /// When the session ends if it is not used again, by the store's clock: at its idle timeout, counted from the last renewal,
    /// or at its absolute timeout, whichever comes first. A renewal by another node in the last minute may be missing.
    #[doc(alias("expiry_date", "expiry_age", "expiry"))]
    pub fn expires_at(&self) -> SystemTime {
        let now = self.shared().context.backend.now();
        let state = self.shared().state();
        let policy = &self.shared().context.policy;
        let renewed = |idle: Idle| after(now, idle.ttl()).min(state.view.deadline);
        let end = match &state.backing {
            Backing::Loaded(base) if !state.commit_renews(policy.config.renewal) => {
                let renewed = renewed(policy.idle(&base.record));
                let left = base.stored.time_left();
                match (policy.renewal(left, &base.record, now), left) {
                    (None, Some(left)) => after(now, left).min(renewed),
                    // The load has begun to renew it in the background.
                    _ => renewed,
                }
            }
            // The commit renews it.
            Backing::Loaded(_) | Backing::New | Backing::Denied { .. } => {
                renewed(policy.idle_after_commit(&state.view))
            }
        };
        to_time(end)
    }

    /// Renews the session now, however much of its idle timeout is left: for a connection that stays open without requests.
    /// Requests renew their session by themselves, unless their layer has [`renewal`](crate::SessionConfig::renewal) off; a `touch`
    /// renews it there too.
    ///
    /// It reads the session first and applies the timeouts that it then has, whichever request set them. It does not renew a
    /// session that has ended or was rotated since it was loaded, nor one that
    /// [`Fingerprinting::Strict`](crate::Fingerprinting) hides from this client.
    ///
    /// # Redis
    ///
    /// One `GET` and one `PTTL`, in one round trip, and then one `PEXPIRE`, all in the background. None if the session is not
    /// stored.
    #[doc(alias("keep_alive", "extend", "update_database_expires"))]
    pub fn touch(&self) {
        let shared = self.shared();
        let base = match &shared.state().backing {
            Backing::Loaded(base) => Base::clone(base),
            Backing::New | Backing::Denied { .. } => return,
        };
        if let Ok(runtime) = shared.runtime() {
            load_and_renew(&base, shared.context.clone(), &runtime);
        }
    }

    /// Gives this session its own idle timeout instead of the layer's. It holds on every node, until the session ends or
    /// another principal signs in.
    ///
    /// # Errors
    ///
    /// [`SessionError::InvalidTimeout`] below one second or above ten years.
    #[doc(alias = "set_expiry")]
    pub fn set_idle_timeout(&self, timeout: Duration) -> Result<(), SessionError> {
        check_timeout(timeout)?;
        self.change(Change::Lifetimes(Lifetimes {
            idle: Some(timeout),
            ..Lifetimes::default()
        }))
    }

    /// Gives this session its own absolute timeout, counted from its creation or its last login. It holds on every node, until
    /// the session ends or another principal signs in.
    ///
    /// # Errors
    ///
    /// [`SessionError::InvalidTimeout`] below one second or above ten years, or if the timeout has already passed; to end the
    /// session, use [`destroy`](Self::destroy).
    pub fn set_absolute_timeout(&self, timeout: Duration) -> Result<(), SessionError> {
        check_timeout(timeout)?;
        let now = self.shared().context.backend.now();
        if after(self.shared().state().view.started, timeout) <= now {
            return Err(SessionError::InvalidTimeout { value: timeout });
        }
        let absolute = Some(timeout);
        self.change(Change::Lifetimes(Lifetimes {
            absolute,
            ..Lifetimes::default()
        }))
    }

    /// Sets whether the cookie outlives the browser: "remember me"; by default it does as
    /// [`SessionConfig::persistent`](crate::SessionConfig::persistent) says, which holds again once another principal signs in.
    ///
    /// The `Max-Age` of such a cookie is the rest of the absolute timeout, but at most 400 days (RFC 6265bis §5.6). If the session
    /// lives longer, the cookie is sent again once it is 200 days old, with a response whose handler asked for the session. With
    /// [`CookieConfig::rolling`](crate::CookieConfig::rolling) it expires with an unused session instead. The session itself lives
    /// as long as its timeouts allow, so set these too.
    ///
    /// A client that has its token in a header ([`Transport::Header`](crate::Transport::Header)) is not told.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use sessile::{Session, SessionError};
    /// const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);
    ///
    /// # async fn sign_in(session: Session) -> Result<(), SessionError> {
    /// session.set_principal("mia").await?;
    /// session.set_idle_timeout(MONTH)?;
    /// session.set_absolute_timeout(MONTH)?;
    /// session.set_persistent(true)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`SessionError::ResponseSent`]: the response has been sent, so its cookie can no longer change.
    #[doc(alias("remember_me", "set_longterm"))]
    pub fn set_persistent(&self, persistent: bool) -> Result<(), SessionError> {
        if self.shared().state().phase.is_head_sent() {
            return Err(SessionError::ResponseSent);
        }
        let persistent = Some(persistent);
        self.change(Change::Lifetimes(Lifetimes {
            persistent,
            ..Lifetimes::default()
        }))
    }
}
