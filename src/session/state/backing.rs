//! The stored session behind a request, if there is one and the request may use it.

use crate::commit::base::Base;
use crate::error::session::SessionError;
use crate::token::Handle;

/// The stored session behind a request, if there is one and the request may use it.
#[derive(Debug)]
pub(crate) enum Backing {
    /// The session is not stored; its first commit creates it.
    New,
    /// It was loaded, or written since.
    Loaded(Box<Base>),
    /// The token names a session that this request may not use, or the store could not be reached to find out. The request
    /// sees an empty session, writes nothing, and gets no cookie, which might replace a working one in the browser. `handle`
    /// is set if the request may still destroy the session, `retired_by` if a login has retired the token: a login of this
    /// request may join that one.
    Denied {
        handle: Option<Handle>,
        retired_by: Option<Box<Base>>,
        why: SessionError,
    },
}

impl Backing {
    /// The stored session, if this request may use it.
    pub(crate) fn base(&self) -> Option<&Base> {
        match self {
            Self::Loaded(base) => Some(base),
            Self::New | Self::Denied { .. } => None,
        }
    }

    pub(crate) fn stored_handle(&self) -> Option<Handle> {
        Some(self.base()?.token.handle)
    }

    /// The session that a commit of this request may write to.
    pub(crate) fn handle_to_commit(&self) -> Option<Handle> {
        match self {
            Self::Denied { retired_by, .. } => retired_by.as_ref().map(|base| base.token.handle),
            Self::Loaded(_) | Self::New => self.stored_handle(),
        }
    }
}
