//! How a commit ended for one of its requests, and what is kept of one that got no answer until somebody finds out.
//!
//! The bytes belong to all requests whose changes they hold; whichever needs to know first finds out for all. Only those
//! bytes are sent again: if they prove not to have been applied, each request has its own changes back.

use std::any::Any;
use std::sync::Arc;

use tokio::time::Instant;

use crate::commit::attempt::{Attempt, Found};
use crate::commit::base::Base;
use crate::commit::work::Work;
use crate::error::session::SessionError;
use crate::lock::Lock;
use crate::record::deferred::DeferredId;
use crate::record::log::ChangeLog;

/// How a commit ended, for one of its requests.
#[derive(Debug)]
pub(crate) enum CommitOutcome {
    /// The changes are in the store, once; so is this session.
    Committed(Box<Committed>),
    /// Nothing was written; these are the changes.
    Failed { log: ChangeLog, error: SessionError },
    /// Nothing was written, as has been found out; these are the changes, to be committed anew.
    NotApplied(ChangeLog),
    /// The changes may be in the store; that can be looked into.
    Unknown(Unresolved),
    /// The changes are in the primary, and so is this session; whether replicas have them can be looked into.
    NotDurable {
        unresolved: Unresolved,
        done: Box<Committed>,
    },
    /// The changes may have been in the store; nothing will tell.
    NeverKnown,
    /// A closure of the application panicked. Nothing was written.
    Panicked(Box<dyn Any + Send>),
}

impl CommitOutcome {
    /// The changes, as far as they are not in the store for certain.
    pub(crate) fn into_log(self) -> ChangeLog {
        match self {
            Self::Failed { log, .. } | Self::NotApplied(log) => log,
            Self::Unknown(mut unresolved) | Self::NotDurable { mut unresolved, .. } => {
                unresolved.take_log()
            }
            Self::Committed(_) | Self::NeverKnown | Self::Panicked(_) => ChangeLog::default(),
        }
    }
}

/// What a commit has done.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    pub(crate) base: Base,
    pub(crate) created: bool,
    pub(crate) rotated: bool,
    /// The record that was replaced has a cookie of another life: whoever wrote it may have sent it.
    pub(crate) changes_cookie: bool,
}

/// One request's part of a commit of unknown outcome, or of one that too few replicas have.
#[derive(Debug)]
pub(crate) struct Unresolved {
    shared: Arc<Lock<Resolution>>,
    work: Box<Work>,
    /// The request's session is what was sent: it is in the primary.
    in_primary: bool,
}

/// What is known of the bytes.
#[derive(Debug)]
pub(crate) enum Resolution {
    /// Nothing yet, or only that the primary has them: the session is this one there.
    Open(Box<Attempt>, Option<Base>),
    Applied(Base),
    NotApplied,
    /// Nothing in the store tells any more.
    NeverKnown,
}

impl Resolution {
    /// What an attempt was found to have come to, and the session as it is then.
    fn of(found: Found) -> (Self, Option<Base>) {
        match found {
            Found::Applied(base) => (Self::Applied(base.clone()), Some(base)),
            Found::NotApplied => (Self::NotApplied, None),
            Found::NeverKnown => (Self::NeverKnown, None),
            Found::Open(attempt, base) => (Self::Open(attempt, base.clone()), base),
        }
    }
}

impl Unresolved {
    pub(crate) fn share(attempt: Attempt) -> Arc<Lock<Resolution>> {
        Arc::new(Lock::new(Resolution::Open(Box::new(attempt), None)))
    }

    pub(crate) fn of(shared: &Arc<Lock<Resolution>>, work: Work) -> Self {
        Self {
            shared: Arc::clone(shared),
            work: Box::new(work),
            in_primary: false,
        }
    }

    /// It is still open. `base` is the session as the primary has it, if that is known.
    pub(crate) fn outcome(mut self, base: Option<Base>) -> CommitOutcome {
        let Some(base) = base else {
            return CommitOutcome::Unknown(self);
        };
        let done = Box::new(self.done(base));
        self.in_primary = true;
        CommitOutcome::NotDurable {
            unresolved: self,
            done,
        }
    }

    fn done(&self, base: Base) -> Committed {
        Committed {
            base,
            created: false,
            // Once is enough to tell.
            rotated: !self.in_primary && self.work.log.new_secret().is_some(),
            changes_cookie: false,
        }
    }

    /// Whether the request's session is what was sent.
    pub(crate) fn is_in_primary(&self) -> bool {
        self.in_primary
    }

    #[must_use]
    pub(crate) fn withdraw(&mut self, deferred: DeferredId) -> ChangeLog {
        self.work.log.withdraw(deferred)
    }

    /// Takes the request's changes out, which it does not want back any more.
    #[must_use]
    pub(crate) fn take_log(&mut self) -> ChangeLog {
        std::mem::take(&mut self.work.log)
    }

    /// Finds out, and returns the session besides if this has brought it up to date. The caller has the session's turn, so that
    /// nobody else does at the same time.
    pub(crate) async fn resolve(self, deadline: Instant) -> (CommitOutcome, Option<Base>) {
        // Whoever loses the attempt half-way leaves it unknown for ever.
        let known = self.replace(Resolution::NeverKnown);
        let (known, latest) = match known {
            Resolution::Open(attempt, _) => Resolution::of(attempt.resolve(deadline).await),
            known => (known, None),
        };
        let shared = Arc::clone(&self.shared);
        let (outcome, known) = match known {
            Resolution::Applied(base) => {
                self.work.log.confirm();
                let done = Box::new(self.done(self.work.own(&base)));
                (CommitOutcome::Committed(done), Resolution::Applied(base))
            }
            Resolution::NotApplied => {
                let outcome = CommitOutcome::NotApplied(self.work.log);
                (outcome, Resolution::NotApplied)
            }
            Resolution::NeverKnown => (CommitOutcome::NeverKnown, Resolution::NeverKnown),
            Resolution::Open(attempt, base) => {
                let own = base.as_ref().map(|base| self.work.own(base));
                (self.outcome(own), Resolution::Open(attempt, base))
            }
        };
        *shared.lock() = known;
        (outcome, latest)
    }

    fn replace(&self, known: Resolution) -> Resolution {
        std::mem::replace(&mut *self.shared.lock(), known)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::commit::context::tests::context;
    use crate::record::change::Change;
    use crate::record::change::tests::rotation;
    use crate::session::state::tests::{base, works};

    #[test]
    fn a_rotation_is_told_of_once() {
        let remove = Change::Remove { key: "k".into() };
        for (change, rotates) in [(Change::Rotate(rotation()), true), (remove, false)] {
            let base = base(None, &["k"]);
            let work = works(&base, &context(), vec![change]).remove(0);
            let mut unresolved = unresolved(work);
            assert_eq!(unresolved.done(base.clone()).rotated, rotates);
            unresolved.in_primary = true;
            assert!(!unresolved.done(base).rotated);
        }
    }

    /// A request's part of a commit that nobody will ever know more of.
    pub(crate) fn unresolved(work: Work) -> Unresolved {
        let shared = Arc::new(Lock::new(Resolution::NeverKnown));
        Unresolved::of(&shared, work)
    }
}
