//! The part of a request that is committed: its changes, and what they depend on.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytestring::ByteString;

use crate::commit::base::Base;
use crate::commit::context::CommitContext;
use crate::commit::join::Joining;
use crate::record::Record;
use crate::record::lifetime::BrowserCookie;
use crate::record::log::ChangeLog;
use crate::record::version::Epoch;
use crate::store::Durability;

/// The changes of one request, and all that a commit needs to apply them.
#[derive(Debug)]
pub(crate) struct Work {
    /// The session as the request has loaded it; `None` to create one.
    pub(crate) base: Option<Base>,
    pub(crate) log: ChangeLog,
    /// The epoch that the request's token opens; `None` if it opens none. It differs from the epoch of the base only for a
    /// login that joins the login there.
    pub(crate) made_in: Option<Epoch>,
    /// Set if the log is a login that may join another one.
    pub(crate) joining: Option<Joining>,
    /// The base with the log applied, if that is known already.
    pub(crate) known_result: Option<Arc<Record>>,
    pub(crate) context: CommitContext,
    pub(crate) reads: ReadSet,
    /// The request's data replaces all data of the session, instead of being merged with it.
    pub(crate) overwrites: bool,
    /// The cookie that the browser has, if the response can still replace it.
    pub(crate) cookie: Option<BrowserCookie>,
}

/// What a request has read. Its changes conflict with a newer record that differs in this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadSet {
    Nothing,
    These(Seen),
    Everything,
}

/// The parts of a session that a handler has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) keys: BTreeSet<ByteString>,
    pub(crate) principal: bool,
    pub(crate) flashes: bool,
}

impl Seen {
    fn has_changed(&self, own: &Record, newer: &Record) -> bool {
        let value = |key: &ByteString| own.data.get(key) != newer.data.get(key);
        (self.principal && own.principal != newer.principal)
            || (self.flashes && own.flash != newer.flash)
            || self.keys.iter().any(value)
    }
}

impl ReadSet {
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::These(seen) => *seen == Seen::default(),
            Self::Everything => false,
        }
    }

    pub(crate) fn conflicts_with(&self, own: &Record, newer: &Record) -> bool {
        match self {
            Self::Nothing => false,
            Self::These(seen) => seen.has_changed(own, newer),
            Self::Everything => own.version != newer.version,
        }
    }
}

impl Work {
    /// The durability that the commit needs. It holds for the whole batch: its requests have the same settings, and one with
    /// a new secret is committed alone.
    pub(crate) fn durability(&self) -> Durability {
        let durability = &self.context.policy.config.durability;
        match self.log.new_secret() {
            Some(_) => durability.revocations(),
            None => durability.commits,
        }
    }

    /// The session of this request once the batch is committed as `base`. Each request keeps the secret that it carried,
    /// except one that has given the session a new secret, which is in `base`.
    pub(crate) fn own(&self, base: &Base) -> Base {
        let mut base = base.clone();
        if let (Some(own), None) = (&self.base, self.log.new_secret()) {
            base.token = own.token.clone();
        }
        base
    }

    /// Whether its changes, committed as `base`, have signed a user in.
    pub(crate) fn has_signed_in(&self, base: &Base) -> bool {
        self.log.has_login() && base.record.principal.is_some()
    }

    /// Whether it must be committed alone: it creates a session, gives it a new secret, or depends on what it has read.
    pub(crate) fn is_alone(&self) -> bool {
        self.base.is_none() || self.log.new_secret().is_some() || self.reads != ReadSet::Nothing
    }
}
