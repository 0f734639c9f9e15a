//! The sessions of a user: lists them and ends them.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::join_all;

use crate::commit::backend::Backend;
use crate::commit::context::{Began, CommitContext, Policy};
use crate::commit::end::{Ended, end};
use crate::commit::index::{AT_ONCE, Live, latest_now, sessions_of};
use crate::config::SessionConfig;
use crate::error::config::ConfigError;
use crate::error::session::{Gone, SessionError};
use crate::event::EndReason;
use crate::metrics::introduce;
use crate::record::change::Guard;
use crate::record::lifetime::last_accessed;
use crate::session::Session;
use crate::session::stored::StoredSession;
use crate::store::contract::SessionStore;
use crate::store::deadline::within;
use crate::store::{Entry, Freshness, IndexKey};
use crate::time::to_time;
use crate::token::{Handle, Token};

/// The sessions of a user, on all nodes: for a page that lists their devices, to sign out everywhere, and for operators.
///
/// Take it as an argument of a handler, or from [`SessionLayer::sessions`](crate::SessionLayer::sessions); a job without a layer
/// uses [`new`](Self::new). A principal is the name that the application passed to
/// [`set_principal`](crate::Session::set_principal).
///
/// ```
/// use sessile::{Session, SessionError, Sessions};
///
/// async fn devices(session: Session, sessions: Sessions) -> Result<String, SessionError> {
///     let Some(user) = session.principal() else {
///         return Ok("Sign in first.".to_owned());
///     };
///     let mut list = String::new();
///     for device in sessions.of(&user).await? {
///         let label = device.label().unwrap_or("a device");
///         let here = if device.is_current() { " (this one)" } else { "" };
///         list.push_str(&format!("{} {label}{here}\n", device.handle()));
///     }
///     Ok(list)
/// }
///
/// async fn change_password(session: Session, sessions: Sessions) -> Result<&'static str, SessionError> {
///     let (Some(user), Some(handle)) = (session.principal(), session.handle()) else {
///         return Ok("Sign in first.");
///     };
///     // First the new password, then the sessions: a sign-in that has checked the old password in between is refused.
///     # let store_password = async |_: &str| ();
///     store_password(&user).await;
///     sessions.destroy_others(&user, handle).await?;
///     session.cycle_id()?;
///     Ok("All other devices are signed out.")
/// }
/// ```
///
/// # What is listed
///
/// Every session that the principal is signed in to, under every layer and cookie name of the store. The store keeps an index of
/// them for each principal, from which nothing is missing that a browser can use. It may list sessions that have ended; sessile
/// looks each up, so they are not returned, and removes them. Sessions that were signed in to by a version of sessile without an
/// index are missing until their principal signs in again.
///
/// If Redis loses acknowledged writes, in a failover, an entry may be lost whose session is not, and the other way round. A
/// session that an index has lost cannot be listed or ended here before it expires.
///
/// # A store without an index
///
/// has [`Capabilities::index`](crate::store::Capabilities::index) false, and every call fails with [`SessionError::Store`].
#[derive(Clone)]
#[doc(alias("FindByIndexNameSessionRepository", "SessionRegistry", "devices"))]
pub struct Sessions {
    context: CommitContext,
    current: Option<Session>,
}

/// A session in the list of a user.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    handle: Handle,
    created: SystemTime,
    authenticated: SystemTime,
    last_accessed: SystemTime,
    network: Option<String>,
    label: Option<String>,
    is_current: bool,
}

impl SessionInfo {
    /// The name of the session, for [`Sessions::destroy`] and for logs. It gives no access to the session.
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// When the session was created, by the store's clock: the visitor may have been anonymous then.
    pub fn created_at(&self) -> SystemTime {
        self.created
    }

    /// When the user last signed in, by the store's clock.
    pub fn authenticated_at(&self) -> SystemTime {
        self.authenticated
    }

    /// When the session was last used, by the store's clock. Accurate to half of the idle timeout, as
    /// [`Session::last_accessed`](crate::Session::last_accessed).
    #[doc(alias = "last_seen")]
    pub fn last_accessed(&self) -> SystemTime {
        self.last_accessed
    }

    /// The network that the session belongs to, such as `203.0.113.0/24`; `None` if
    /// [`Fingerprinting`](crate::Fingerprinting) is off or the address was unknown.
    pub fn network(&self) -> Option<&str> {
        self.network.as_deref()
    }

    /// What the application has set by [`Session::set_label`](crate::Session::set_label), such as the name of the browser.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// Whether it is the session of the request that asks. False if the list does not come from a handler's argument.
    pub fn is_current(&self) -> bool {
        self.is_current
    }
}

/// Who signs in, for [`Session::set_principal`](crate::Session::set_principal): the name of a principal, or what
/// [`Sessions::sign_in`] returned for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignIn {
    pub(crate) who: String,
    pub(crate) guard: Option<Guard>,
}

impl SignIn {
    /// The name of the principal.
    pub fn principal(&self) -> &str {
        &self.who
    }
}

impl<T: Into<String>> From<T> for SignIn {
    fn from(who: T) -> Self {
        Self {
            who: who.into(),
            guard: None,
        }
    }
}

impl Sessions {
    /// The sessions in a store, for jobs, commands and tests that have no layer. Within an application, use
    /// [`SessionLayer::sessions`](crate::SessionLayer::sessions), which sends events to the layer's observer, waits for replicas
    /// as the layer's settings say, and knows the layer's idle timeout: without it,
    /// [`last_accessed`](SessionInfo::last_accessed) is right for sessions with an idle timeout of 30 minutes, the default, or of
    /// their own.
    pub fn new(store: impl SessionStore) -> Self {
        Self::build(store, SessionConfig::default())
    }

    /// The sessions in a store whose layer has these settings: as [`new`](Self::new), with the layer's idle timeout, cookie name and
    /// fingerprinting.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] if a setting is invalid, or the store does not support it.
    pub fn try_new(store: impl SessionStore, config: SessionConfig) -> Result<Self, ConfigError> {
        config.check()?;
        config.check_for(store.capabilities())?;
        Ok(Self::build(store, config))
    }

    fn build(store: impl SessionStore, config: SessionConfig) -> Self {
        introduce();
        let backend = Arc::new(Backend::new(Box::new(store)));
        Self::within(backend, Arc::new(Policy::new(config)), None)
    }

    pub(crate) fn within(
        backend: Arc<Backend>,
        policy: Arc<Policy>,
        current: Option<Session>,
    ) -> Self {
        let context = CommitContext {
            began: Began::now(&backend),
            backend,
            policy,
            network: None,
        };
        Self { context, current }
    }

    /// Lists the sessions of a principal, the one that was used last first. It does not prolong them.
    ///
    /// # Redis
    ///
    /// One `ZRANGE`, then `PTTL` and `GET` of each session, of 128 sessions in one round trip. If the index lists
    /// sessions that have ended, one `EVALSHA` removes them.
    ///
    /// # Errors
    ///
    /// [`SessionError::Store`], also if one session alone cannot be read: a list without it would hide it.
    #[doc(alias("find_by_principal", "findByPrincipalName"))]
    pub async fn of(&self, principal: &str) -> Result<Vec<SessionInfo>, SessionError> {
        let deadline = self.context.deadline();
        let found = sessions_of(&self.context, principal, deadline).await?;
        // A list that is right must not fail because its index could not be tidied.
        let _ = found.heal(&self.context, deadline).await;
        let mut sessions: Vec<_> = found.live.iter().map(|live| self.info(live)).collect();
        sessions.sort_by_key(|it| (std::cmp::Reverse(it.last_accessed), it.handle));
        Ok(sessions)
    }

    fn info(
        &self,
        Live {
            entry,
            stored,
            record,
            ..
        }: &Live,
    ) -> SessionInfo {
        let now = self.context.backend.now();
        let idle = self.context.policy.idle(record);
        let (deadline, written) = (record.deadline, record.last_accessed);
        let text = |text: &bytestring::ByteString| text.to_string();
        let current = self.current.as_ref().and_then(Session::handle);
        SessionInfo {
            handle: entry.handle,
            created: to_time(record.created),
            authenticated: to_time(record.started),
            last_accessed: to_time(last_accessed(
                stored.time_left(),
                idle,
                deadline,
                now,
                written,
            )),
            network: record.fingerprint.as_ref().map(text),
            label: record.label.as_ref().map(text),
            is_current: current == Some(entry.handle),
        }
    }

    /// Looks a session up, whoever it belongs to; `None` if it is not stored: it never was, or has ended. It does not prolong it.
    ///
    /// For operators, jobs and tests: an application shows a user no sessions but their own ([`of`](Self::of)).
    ///
    /// # Redis
    ///
    /// `PTTL` and `GET`, in one round trip.
    ///
    /// # Errors
    ///
    /// - [`SessionError::Store`].
    /// - [`SessionError::Gone`] with [`Gone::Unreadable`](crate::Gone::Unreadable): a later version of sessile has written the
    ///   session, or something else the key.
    #[doc(alias("load", "inspect"))]
    pub async fn find(&self, handle: Handle) -> Result<Option<StoredSession>, SessionError> {
        let context = &self.context;
        let load = context.backend.store.load(&handle, Freshness::Latest);
        match within(context.deadline(), load).await?.bytes() {
            Ok(None) => Ok(None),
            Ok(Some(stored)) => StoredSession::read(context, handle, &stored).map(Some),
            Err(_) => Err(SessionError::Gone(Gone::Unreadable)),
        }
    }

    /// Looks up the session that a token names: the value of a session cookie, or of a header. `None` also if it is malformed.
    /// [`StoredSession::check_token`] tells whether it opens the session.
    ///
    /// # Redis
    ///
    /// As [`find`](Self::find).
    ///
    /// # Errors
    ///
    /// Those of [`find`](Self::find).
    pub async fn find_by_token(&self, token: &str) -> Result<Option<StoredSession>, SessionError> {
        match Token::decode(token.as_bytes()) {
            Some(token) => self.find(token.handle).await,
            None => Ok(None),
        }
    }

    /// Ends one session of a principal. False if it is not theirs, or has ended.
    ///
    /// Its requests under way get 409 if they change the session, and its browser is signed out. To end the session of the request
    /// itself, use [`Session::destroy`](crate::Session::destroy); called through a handler's argument, this does so too.
    ///
    /// # Redis
    ///
    /// `PTTL` and `GET`, `EVALSHA`, `UNLINK`: three round trips, one if the session is not stored or not theirs.
    ///
    /// # Errors
    ///
    /// - [`SessionError::Store`]: the session may have ended.
    /// - [`SessionError::Gone`]: a later version of sessile has written the session, so this one cannot tell whose it is.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the session may have ended or not.
    #[doc(alias("revoke", "kick"))]
    pub async fn destroy(&self, principal: &str, handle: Handle) -> Result<bool, SessionError> {
        let deadline = self.context.deadline();
        let ended = end(
            &self.context,
            handle,
            Some(principal),
            EndReason::Revoked,
            deadline,
        )
        .await?;
        self.note_end(handle, ended);
        is_done(ended)
    }

    /// Ends a session, whoever it belongs to, also one of an anonymous visitor. False if it is not stored.
    ///
    /// For operators and jobs: an application that lets users end their sessions calls [`destroy`](Self::destroy), which checks
    /// whose they are. Otherwise the same.
    ///
    /// # Redis
    ///
    /// The commands of [`destroy`](Self::destroy).
    ///
    /// # Errors
    ///
    /// Those of [`destroy`](Self::destroy); [`SessionError::Gone`] also if something other than sessile has written the value, which stays.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the session may have ended or not.
    pub async fn destroy_of_anyone(&self, handle: Handle) -> Result<bool, SessionError> {
        let ended = end(
            &self.context,
            handle,
            None,
            EndReason::Revoked,
            self.context.deadline(),
        )
        .await?;
        self.note_end(handle, ended);
        is_done(ended)
    }

    /// If the session of the request itself has ended, its later changes go into a new one.
    fn note_end(&self, handle: Handle, ended: Ended) {
        let is_over = matches!(ended, Ended::Done | Ended::Missing);
        if let Some(current) = &self.current
            && is_over
            && current.handle() == Some(handle)
        {
            let shared = current.shared();
            let apply_context = shared.context.apply_context();
            shared.state().note_ended(&apply_context);
        }
    }

    /// Ends all sessions of a principal but one, and refuses sign-ins under way: after a change of the password, keep the
    /// session of the request ([`Session::handle`](crate::Session::handle)). Returns how many sessions have ended.
    ///
    /// Otherwise as [`destroy_all`](Self::destroy_all).
    ///
    /// # Redis
    ///
    /// The commands of [`destroy_all`](Self::destroy_all).
    ///
    /// # Errors
    ///
    /// Those of [`destroy_all`](Self::destroy_all).
    #[doc(alias("logoutOtherDevices", "logout_other_devices"))]
    pub async fn destroy_others(
        &self,
        principal: &str,
        keep: Handle,
    ) -> Result<usize, SessionError> {
        self.destroy_except(principal, Some(keep)).await
    }

    /// Ends all sessions of a principal, and refuses sign-ins under way: nobody who has signed in, or begun to, before this call
    /// is signed in after it. Returns how many sessions have ended. If that of the request itself is among them, its later changes go
    /// into a new session, as after [`Session::destroy`](crate::Session::destroy).
    ///
    /// A [`set_principal`](crate::Session::set_principal) of a request that began before is refused with 409. This includes the
    /// request of this call; to sign in within it, use [`sign_in`](Self::sign_in) after it:
    ///
    /// ```
    /// # use sessile::{Session, SessionError, Sessions};
    /// # async fn reset_password(session: Session, sessions: Sessions, user: &str) -> Result<(), SessionError> {
    /// sessions.destroy_all(user).await?;
    /// session.set_principal(sessions.sign_in(user).await?).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Redis
    ///
    /// One `EVALSHA` and one `ZRANGE`, then for 128 sessions at once the commands of [`destroy`](Self::destroy), and one `EVALSHA`.
    ///
    /// # Errors
    ///
    /// - [`SessionError::Store`]: some sessions may not have ended. Call it again; that is harmless.
    /// - [`SessionError::Gone`]: a later version of sessile has written one of the sessions, which goes on. Call it on a node of that
    ///   version.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, any number of sessions may have ended.
    #[doc(alias("revoke_all", "logout_everywhere", "invalidate_all_sessions"))]
    pub async fn destroy_all(&self, principal: &str) -> Result<usize, SessionError> {
        self.destroy_except(principal, None).await
    }

    async fn destroy_except(
        &self,
        principal: &str,
        keep: Option<Handle>,
    ) -> Result<usize, SessionError> {
        let (context, index) = (&self.context, IndexKey::of(principal));
        let store = &context.backend.store;
        // Before the sessions are listed: a sign-in that enters in between finds the new generation.
        let now = latest_now(context, &index, context.deadline()).await?;
        let begun = store.begin_generation(&index, now);
        within(context.deadline(), begun).await?;
        let indexed = within(context.deadline(), store.list(&index)).await?;
        let entries = indexed.sessions.iter().map(|it| it.entry);
        let entries: Vec<Entry> = entries.filter(|it| Some(it.handle) != keep).collect();
        let (mut count, mut failed) = (0, None);
        for entries in entries.chunks(AT_ONCE) {
            let deadline = context.deadline();
            let ends = entries.iter().map(|entry| {
                end(
                    context,
                    entry.handle,
                    Some(principal),
                    EndReason::Revoked,
                    deadline,
                )
            });
            let mut gone = Vec::new();
            for (entry, ended) in entries.iter().zip(join_all(ends).await) {
                match ended {
                    Ok(Ended::Unreadable) => {
                        failed = Some(SessionError::Gone(Gone::Unreadable));
                    }
                    Ok(ended) => {
                        count += usize::from(ended == Ended::Done);
                        gone.push(*entry);
                        self.note_end(entry.handle, ended);
                    }
                    Err(error) => failed = Some(error.into()),
                }
            }
            // If this fails, the index lists sessions that have ended, which the next list removes.
            let _ = within(deadline, store.leave(&index, &gone)).await;
        }
        failed.map_or(Ok(count), Err)
    }

    /// Begins a sign-in of this principal: call it before the password is checked, and pass the result to
    /// [`set_principal`](crate::Session::set_principal). If all sessions of the principal are ended between the two, the sign-in is
    /// refused. This holds exactly; without it, the time at which the request began decides, which is known up to the uncertainty
    /// of the clocks.
    ///
    /// The result is valid for 55 minutes.
    ///
    /// # Redis
    ///
    /// One `ZRANGE`.
    ///
    /// # Errors
    ///
    /// [`SessionError::Store`].
    pub async fn sign_in(&self, principal: &str) -> Result<SignIn, SessionError> {
        let index = IndexKey::of(principal);
        let list = self.context.backend.store.list(&index);
        let generation = within(self.context.deadline(), list).await?.generation;
        // Once the store has answered, it knows its clock.
        let read_at = self.context.backend.now();
        Ok(SignIn {
            who: principal.to_owned(),
            guard: Some(Guard {
                generation: generation.number(),
                read_at,
            }),
        })
    }
}

fn is_done(ended: Ended) -> Result<bool, SessionError> {
    match ended {
        Ended::Unreadable => Err(SessionError::Gone(Gone::Unreadable)),
        ended => Ok(ended == Ended::Done),
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}
