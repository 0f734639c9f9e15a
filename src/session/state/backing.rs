//! How the request stands to the store.

use crate::commit::base::Base;
use crate::error::session::SessionError;
use crate::token::Handle;

/// How the request stands to the store.
#[derive(Debug)]
pub(crate) enum Backing {
    /// Nothing of this session is stored; its first commit creates it.
    New,
    /// Loaded, or written since.
    Loaded(Box<Base>),
    /// The token names a living session that this request may not use. It sees an empty one, writes nothing, and never
    /// gets a cookie that would push out the one that works. Or the store was away, and nobody can tell. `handle` is there if
    /// it may still be destroyed, `retired_by` if the token was retired: a login may join the one that did it.
    Denied {
        handle: Option<Handle>,
        retired_by: Option<Box<Base>>,
        why: SessionError,
    },
}

impl Backing {
    /// The session that is stored, as far as this request may use it.
    pub(crate) fn base(&self) -> Option<&Base> {
        match self {
            Self::Loaded(base) => Some(base),
            Self::New | Self::Denied { .. } => None,
        }
    }

    pub(crate) fn stored_handle(&self) -> Option<Handle> {
        Some(self.base()?.token.handle)
    }

    /// The session that a commit may write to.
    pub(crate) fn handle_to_commit(&self) -> Option<Handle> {
        match self {
            Self::Denied { retired_by, .. } => retired_by.as_ref().map(|base| base.token.handle),
            Self::Loaded(_) | Self::New => self.stored_handle(),
        }
    }
}
