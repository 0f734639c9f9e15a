//! How a commit ended for one of its requests, and the rest of a commit that got no answer, until it is resolved.
//!
//! The bytes hold the changes of all requests of a batch; the first request that needs the outcome resolves it for all. Only
//! the same bytes are sent again: if they were not applied, each request gets its own changes back.

use std::any::Any;
use std::sync::Arc;

use tokio::time::Instant;

use crate::commit::attempt::{Attempt, Resolved};
use crate::commit::base::Base;
use crate::commit::span::Cost;
use crate::commit::work::Work;
use crate::error::session::SessionError;
use crate::lock::Lock;
use crate::record::deferred::DeferredId;
use crate::record::log::ChangeLog;

/// How a commit ended, for one of its requests.
#[derive(Debug)]
pub(crate) enum CommitOutcome {
    /// The changes are in the store, once, and this is the session now.
    Committed(Box<Committed>),
    /// Nothing was written. The changes come back.
    Failed { log: ChangeLog, error: SessionError },
    /// The commit was resolved: nothing was written. The changes come back, to be committed again.
    NotApplied(ChangeLog),
    /// The changes may be in the store. `Unresolved` can find out.
    Unknown(Unresolved),
    /// The changes are on the primary, and `done` is the session now. `unresolved` can find out whether the replicas have
    /// them.
    NotDurable {
        unresolved: Unresolved,
        done: Box<Committed>,
    },
    /// The changes may have been applied, and the store holds no evidence any more.
    NeverKnown,
    /// A closure of the application panicked. Nothing was written.
    Panicked(Box<dyn Any + Send>),
}

impl CommitOutcome {
    /// The changes that may have to be committed again.
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

/// The result of a commit.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    pub(crate) base: Base,
    pub(crate) created: bool,
    pub(crate) rotated: bool,
    /// The request has signed a user in.
    pub(crate) signed_in: bool,
    /// The replaced record has a cookie with another end, which the request that wrote it may have sent to the browser.
    pub(crate) changes_cookie: bool,
}

/// One request's part of a commit whose outcome is unknown, or that too few replicas have acknowledged.
#[derive(Debug)]
pub(crate) struct Unresolved {
    shared: Arc<Lock<Resolution>>,
    work: Box<Work>,
    /// The commit is on the primary, and the request's session shows it.
    in_primary: bool,
}

/// The outcome of the bytes, as far as it is known.
#[derive(Debug)]
pub(crate) enum Resolution {
    /// Still unknown. The base is the session on the primary, if the bytes are known to be applied there.
    Open(Box<Attempt>, Option<Base>),
    Applied(Base),
    NotApplied,
    /// The store holds no evidence any more.
    NeverKnown,
}

impl Resolution {
    /// The outcome of an attempt that was resolved, and the session if it is known then.
    fn of(resolved: Resolved) -> (Self, Option<Base>) {
        match resolved {
            Resolved::Applied(base) => (Self::Applied(base.clone()), Some(base)),
            Resolved::NotApplied => (Self::NotApplied, None),
            Resolved::NeverKnown => (Self::NeverKnown, None),
            Resolved::Open(attempt, base) => (Self::Open(attempt, base.clone()), base),
        }
    }
}

impl Unresolved {
    /// What the requests of a batch share: its attempt, until one of them resolves it.
    pub(crate) fn share(attempt: Attempt) -> Arc<Lock<Resolution>> {
        Arc::new(Lock::new(Resolution::Open(
            Box::new(attempt.without_failure()),
            None,
        )))
    }

    pub(crate) fn of(shared: &Arc<Lock<Resolution>>, work: Work) -> Self {
        Self {
            shared: Arc::clone(shared),
            work: Box::new(work),
            in_primary: false,
        }
    }

    /// The outcome while it is unknown. `base` is the session on the primary, if the bytes are known to be applied there.
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
            created: false,
            // Reported once.
            rotated: !self.in_primary && self.work.log.new_secret().is_some(),
            signed_in: !self.in_primary && self.work.has_signed_in(&base),
            base,
            changes_cookie: false,
        }
    }

    /// Whether the commit is on the primary, and the request's session shows it.
    pub(crate) fn is_in_primary(&self) -> bool {
        self.in_primary
    }

    /// Withdraws the change whose caller learns that it failed, or may have.
    #[must_use]
    pub(crate) fn withdraw(&mut self, deferred: DeferredId) -> ChangeLog {
        self.work.log.withdraw(deferred)
    }

    /// Takes the request's changes out, which must not come back to it.
    #[must_use]
    pub(crate) fn take_log(&mut self) -> ChangeLog {
        std::mem::take(&mut self.work.log)
    }

    /// Resolves the commit, and also returns the session if the store has just shown it. The caller has the session's turn,
    /// so only one request resolves at a time.
    pub(crate) async fn resolve(self, deadline: Instant) -> (CommitOutcome, Cost, Option<Base>) {
        // If this future is dropped, the attempt is lost and its outcome is never known.
        let known = self.replace(Resolution::NeverKnown);
        let (known, cost, latest) = match known {
            Resolution::Open(attempt, _) => {
                let (resolved, cost) = attempt.resolve(deadline).await;
                let (known, latest) = Resolution::of(resolved);
                (known, cost, latest)
            }
            known => (known, Cost::default(), None),
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
        (outcome, cost, latest)
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
    fn a_rotation_is_reported_once() {
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

    /// A request's part of a commit whose outcome will never be known.
    pub(crate) fn unresolved(work: Work) -> Unresolved {
        let shared = Arc::new(Lock::new(Resolution::NeverKnown));
        Unresolved::of(&shared, work)
    }
}
