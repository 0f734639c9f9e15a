//! What one request wants in the store, and what it must not have missed.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::commit::base::Base;
use crate::commit::context::CommitContext;
use crate::commit::join::Joining;
use crate::record::Record;
use crate::record::lifetime::BrowserCookie;
use crate::record::log::ChangeLog;
use crate::record::version::Epoch;
use crate::store::Durability;

/// What one request wants in the store.
#[derive(Debug)]
pub(crate) struct Work {
    /// The session it was loaded from; `None` to create one.
    pub(crate) base: Option<Base>,
    pub(crate) log: ChangeLog,
    /// The epoch that the request's token has opened. It may be another than the base's only for a login that joins it.
    pub(crate) made_in: Option<Epoch>,
    /// The log is that of a login, which may join another.
    pub(crate) joining: Option<Joining>,
    /// What the log makes of the base, if that is known already.
    pub(crate) done: Option<Arc<Record>>,
    pub(crate) context: CommitContext,
    pub(crate) reads: ReadSet,
    /// The request's data replaces whatever is there, instead of being merged.
    pub(crate) whole: bool,
    /// The cookie that the browser has, if the response can still replace it.
    pub(crate) cookie: Option<BrowserCookie>,
}

/// What must not have changed since the session was loaded, for the changes to be done to what it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadSet {
    Nothing,
    These(Seen),
    Everything,
}

/// What a handler has seen of its session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) keys: BTreeSet<String>,
    pub(crate) principal: bool,
    pub(crate) flashes: bool,
}

impl Seen {
    fn has_changed(&self, own: &Record, newer: &Record) -> bool {
        let value = |key| own.data.get(key) != newer.data.get(key);
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
    /// How far it must have spread; those that travel together have the same settings, and one with a new secret travels
    /// alone.
    pub(crate) fn durability(&self) -> Durability {
        let durability = &self.context.policy.config.durability;
        match self.log.new_secret() {
            Some(_) => durability.revocations(),
            None => durability.commits,
        }
    }

    /// What its request's session is once the changes are in the store, whoever else's travelled with them: each request has a
    /// secret of its own.
    pub(crate) fn own(&self, base: &Base) -> Base {
        let mut base = base.clone();
        if let (Some(own), None) = (&self.base, self.log.new_secret()) {
            base.token = own.token.clone();
        }
        base
    }

    /// Whether it must not share a compare-and-set: it gives the session a new secret, or rests on its own base.
    pub(crate) fn is_alone(&self) -> bool {
        self.base.is_none() || self.log.new_secret().is_some() || self.reads != ReadSet::Nothing
    }
}
