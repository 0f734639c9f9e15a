//! A session as it is stored, for those who look at it from outside: operators, jobs and tests.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;

use crate::commit::context::CommitContext;
use crate::error::session::{Gone, SessionError};
use crate::record::Record;
use crate::record::fingerprint::{Fingerprint, Network, admits, compare};
use crate::record::flash::{Flash, known};
use crate::record::format::Unreadable;
use crate::record::kept::Kept;
use crate::record::key::{KeyName, SessionKey};
use crate::record::lifetime::last_accessed;
use crate::record::token_check::TokenCheck;
use crate::record::value::decode;
use crate::record::values::decode_all;
use crate::store::Stored;
use crate::time::{Millis, after, to_time};
use crate::token::{Handle, Token};

/// A session as it was in the store when [`Sessions::find`](crate::Sessions::find) read it. It does not change, and holding it does
/// not prolong the session.
///
/// Times are by the store's clock.
#[derive(Clone)]
pub struct StoredSession {
    context: CommitContext,
    handle: Handle,
    record: Record,
    time_left: Option<Duration>,
    read: Millis,
}

/// What a token gives access to: the value of a session cookie, or of a header.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// It opens the session.
    Valid,
    /// A sign-in or a rotation has replaced it within the last ten seconds: changes with it get 409, and reads find a new session.
    Retired,
    /// It names the session, and has another secret: that of before a sign-in or a rotation, of another cookie name or key prefix,
    /// or a forged one. Or the session's absolute timeout has passed.
    Invalid,
}

impl StoredSession {
    /// # Errors
    ///
    /// [`SessionError::Gone`] if this version of sessile cannot read the value.
    pub(crate) fn read(
        context: &CommitContext,
        handle: Handle,
        stored: &Stored,
    ) -> Result<Self, SessionError> {
        let record = match Record::decode(stored.value()) {
            Ok(record) => record,
            Err(
                Unreadable::Newer(_)
                | Unreadable::Malformed(_)
                | Unreadable::NoVersion
                | Unreadable::NotBytes,
            ) => return Err(SessionError::Gone(Gone::Unreadable)),
        };
        Ok(Self {
            context: context.clone(),
            handle,
            record,
            time_left: stored.time_left(),
            read: context.backend.now(),
        })
    }

    /// The name of the session. It gives no access to it.
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// The user who is signed in.
    pub fn principal(&self) -> Option<&str> {
        self.record.principal.as_deref()
    }

    /// When the session was created.
    pub fn created_at(&self) -> SystemTime {
        to_time(self.record.created)
    }

    /// When the user signed in; `None` for an anonymous visitor.
    pub fn authenticated_at(&self) -> Option<SystemTime> {
        let started = to_time(self.record.started);
        self.record.principal.is_some().then_some(started)
    }

    /// When the session was last changed, by a commit.
    pub fn changed_at(&self) -> SystemTime {
        to_time(self.record.last_accessed)
    }

    /// When the session was last used. Accurate to half of the idle timeout, as
    /// [`Session::last_accessed`](crate::Session::last_accessed), and if the layer's idle timeout is that of these
    /// [`Sessions`](crate::Sessions).
    pub fn last_accessed(&self) -> SystemTime {
        let idle = self.context.policy.idle(&self.record);
        let (deadline, written) = (self.record.deadline, self.record.last_accessed);
        to_time(last_accessed(
            self.time_left,
            idle,
            deadline,
            self.read,
            written,
        ))
    }

    /// When the session ends if it is not used again: its idle timeout, or its absolute timeout if that comes first. `None` if
    /// something other than sessile has removed the time to live of its key; the next request sets it again.
    pub fn expires_at(&self) -> Option<SystemTime> {
        let left = self.time_left?;
        Some(to_time(after(self.read, left).min(self.record.deadline)))
    }

    /// When the session ends however much it is used: its absolute timeout, counted from its creation or the last sign-in.
    #[doc(alias = "absolute_timeout")]
    pub fn deadline(&self) -> SystemTime {
        to_time(self.record.deadline)
    }

    /// The session's own idle timeout, if [`set_idle_timeout`](crate::Session::set_idle_timeout) has set one.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.record.idle_timeout
    }

    /// Until when the token that the last sign-in or rotation replaced is recognized, and gets 409; `None` if there was none, or if a
    /// commit since has removed it.
    pub fn retired_until(&self) -> Option<SystemTime> {
        let retired = self.record.retired.iter().filter_map(Kept::known);
        retired.map(|it| to_time(it.until)).max()
    }

    /// Whether the browser keeps the cookie after it is closed.
    pub fn is_persistent(&self) -> bool {
        self.record.persistent
    }

    /// The networks that the session belongs to, such as `203.0.113.0/24`, at most one of each address family, separated by a space.
    pub fn network(&self) -> Option<&str> {
        self.record.fingerprint.as_deref()
    }

    /// What the application has set by [`Session::set_label`](crate::Session::set_label).
    pub fn label(&self) -> Option<&str> {
        self.record.label.as_deref()
    }

    /// The flash messages that no page has shown yet.
    pub fn flashes(&self) -> Vec<Flash> {
        known(&self.record.flash).collect()
    }

    /// The keys of the values, in alphabetical order.
    pub fn keys(&self) -> Vec<String> {
        self.record.data.keys().map(ToString::to_string).collect()
    }

    /// The value under a key, or `None`.
    ///
    /// # Errors
    ///
    /// [`SessionError::Decode`] if the value has another type.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "as `Session::get`: keys are references or `Copy`"
    )]
    pub fn get<T: DeserializeOwned>(
        &self,
        key: impl SessionKey<T>,
    ) -> Result<Option<T>, SessionError> {
        let key = key.name();
        let value = self.record.data.value(key);
        value.map(|value| decode(key, &value)).transpose()
    }

    /// Whether there is a value under a key.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "as `Session::contains_key`: keys are references or `Copy`"
    )]
    pub fn contains_key(&self, key: impl KeyName) -> bool {
        self.record.data.value(key.name()).is_some()
    }

    /// All values at once, as [`Session::values`](crate::Session::values).
    ///
    /// # Errors
    ///
    /// [`SessionError::DecodeAll`] if the values do not fit the type.
    pub fn values<T: DeserializeOwned>(&self) -> Result<T, SessionError> {
        decode_all(&self.record.data)
    }

    /// The bytes that [`SessionConfig::max_size`](crate::SessionConfig::max_size) limits: keys, values and flash messages as JSON.
    pub fn size(&self) -> usize {
        self.record.size()
    }

    /// Whether two of these were read from the same commit. A renewal is not a commit.
    pub fn is_same_version(&self, other: &Self) -> bool {
        self.handle == other.handle && self.record.version == other.record.version
    }

    /// How a request from this address compares with the networks of the session, and whether the layer would let it use the session:
    /// by the [`fingerprinting`](crate::SessionConfig::fingerprinting) and prefixes of the settings that these
    /// [`Sessions`](crate::Sessions) have.
    pub fn compare_address(&self, address: IpAddr) -> (Fingerprint, bool) {
        let config = &self.context.policy.config;
        let seen = Network::of(address, config.ipv4_prefix, config.ipv6_prefix);
        let bound = self.record.fingerprint.as_deref();
        let fingerprint = compare(config.fingerprinting, bound, seen);
        let is_admitted = admits(config.fingerprinting, &fingerprint);
        (fingerprint, is_admitted)
    }

    /// What a token, the value of a session cookie, is worth now. The cookie's name is that of the settings that these
    /// [`Sessions`](crate::Sessions) have. [`TokenState::Invalid`] also if it names another session or is malformed.
    ///
    /// A token gives access to the session: do not log it, nor pass it as an argument of a command.
    pub fn check_token(&self, token: &str) -> TokenState {
        let Some(token) = Token::decode(token.as_bytes()) else {
            return TokenState::Invalid;
        };
        if token.handle != self.handle {
            return TokenState::Invalid;
        }
        let now = self.context.backend.now();
        match self.context.check_secret(&self.record, &token.secret, now) {
            TokenCheck::Valid => TokenState::Valid,
            TokenCheck::Retired => TokenState::Retired,
            TokenCheck::Invalid => TokenState::Invalid,
        }
    }
}

impl fmt::Debug for StoredSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredSession")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}
