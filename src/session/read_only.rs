//! A session that can only be read.

use std::time::{Duration, SystemTime};

use http::Extensions;
use http::request::Parts;
use serde::de::DeserializeOwned;

use crate::error::session::SessionError;
use crate::record::fingerprint::Fingerprint;
use crate::record::flash::Flash;
use crate::record::key::{KeyName, SessionKey};
use crate::session::Session;
use crate::token::Handle;

/// The session of a request, for handlers and middleware that must not change it. Loading it may renew it.
///
/// It shows the changes that other extractors of the same request have made.
#[derive(Clone, Debug)]
#[doc(alias("ReadOnlySession", "ReadableSession"))]
pub struct ReadSession(Session);

impl From<Session> for ReadSession {
    fn from(session: Session) -> Self {
        Self(session)
    }
}

impl ReadSession {
    /// Same as [`Session::from_parts`].
    ///
    /// # Errors
    ///
    /// Those of [`Session::from_parts`].
    pub async fn from_parts(parts: &Parts) -> Result<Self, SessionError> {
        Session::from_parts(parts).await.map(Self)
    }

    /// Same as [`Session::from_extensions`].
    ///
    /// # Errors
    ///
    /// Those of [`Session::from_extensions`].
    pub async fn from_extensions(extensions: &Extensions) -> Result<Self, SessionError> {
        Session::from_extensions(extensions).await.map(Self)
    }

    /// Same as [`Session::get`].
    ///
    /// # Errors
    ///
    /// [`SessionError::Decode`] if the value has another type.
    pub fn get<T: DeserializeOwned>(
        &self,
        key: impl SessionKey<T>,
    ) -> Result<Option<T>, SessionError> {
        self.0.get(key)
    }

    /// Same as [`Session::contains_key`].
    pub fn contains_key(&self, key: impl KeyName) -> bool {
        self.0.contains_key(key)
    }

    /// Same as [`Session::keys`].
    pub fn keys(&self) -> Vec<String> {
        self.0.keys()
    }

    /// Same as [`Session::values`].
    ///
    /// # Errors
    ///
    /// [`SessionError::DecodeAll`] if the values do not fit the type.
    pub fn values<T: DeserializeOwned>(&self) -> Result<T, SessionError> {
        self.0.values()
    }

    /// Same as [`Session::principal`].
    pub fn principal(&self) -> Option<String> {
        self.0.principal()
    }

    /// Same as [`Session::authenticated_at`].
    pub fn authenticated_at(&self) -> Option<SystemTime> {
        self.0.authenticated_at()
    }

    /// Same as [`Session::require_fresh`].
    ///
    /// # Errors
    ///
    /// Those of [`Session::require_fresh`].
    pub fn require_fresh(&self, max_age: Duration) -> Result<(), SessionError> {
        self.0.require_fresh(max_age)
    }

    /// Same as [`Session::peek_flashes`].
    pub fn peek_flashes(&self) -> Vec<Flash> {
        self.0.peek_flashes()
    }

    /// Same as [`Session::handle`].
    pub fn handle(&self) -> Option<Handle> {
        self.0.handle()
    }

    /// Same as [`Session::is_new`].
    pub fn is_new(&self) -> bool {
        self.0.is_new()
    }

    /// Same as [`Session::is_destroyed`].
    pub fn is_destroyed(&self) -> bool {
        self.0.is_destroyed()
    }

    /// Same as [`Session::is_rotated`].
    pub fn is_rotated(&self) -> bool {
        self.0.is_rotated()
    }

    /// Same as [`Session::created_at`].
    pub fn created_at(&self) -> SystemTime {
        self.0.created_at()
    }

    /// Same as [`Session::last_accessed`].
    pub fn last_accessed(&self) -> SystemTime {
        self.0.last_accessed()
    }

    /// Same as [`Session::expires_at`].
    pub fn expires_at(&self) -> SystemTime {
        self.0.expires_at()
    }

    /// Same as [`Session::fingerprint`].
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.fingerprint()
    }
}
