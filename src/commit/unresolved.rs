//! A commit that got no answer, kept until somebody finds out.
//!
//! The bytes belong to all requests whose changes they hold; whichever needs to know first finds out for all. Only those
//! bytes are sent again: if they prove not to have been applied, each request has its own changes back.

use std::sync::Arc;

use tokio::time::Instant;

use crate::commit::attempt::{Commit, Committed, Ended, Work};
use crate::commit::base::Base;
use crate::commit::queue::Line;
use crate::lock::Lock;
use crate::record::answer::AnswerId;
use crate::record::log::ChangeLog;

/// One request's part of a commit of unknown outcome, or of one that too few replicas have.
#[derive(Debug)]
pub(crate) struct Unresolved {
    shared: Arc<Lock<Resolution>>,
    work: Work,
    /// The request's session is what was sent: it is in the primary.
    in_primary: bool,
}

/// What is known of the bytes.
#[derive(Debug)]
pub(crate) enum Resolution {
    /// Nothing yet, or only that the primary has them: the session is this one there.
    Open(Box<Commit>, Option<Base>),
    Applied(Base),
    NotApplied,
    /// Nothing in the store tells any more.
    NeverKnown,
}

impl Unresolved {
    pub(crate) fn share(commit: Commit) -> Arc<Lock<Resolution>> {
        Arc::new(Lock::new(Resolution::Open(Box::new(commit), None)))
    }

    pub(crate) fn of(shared: &Arc<Lock<Resolution>>, work: Work) -> Self {
        Self {
            shared: Arc::clone(shared),
            work,
            in_primary: false,
        }
    }

    /// It is still open. `base` is the session as the primary has it, if that is known.
    pub(crate) fn ended(mut self, base: Option<Base>) -> Ended {
        let Some(base) = base else {
            return Ended::Unknown(self);
        };
        let done = Box::new(self.done(base));
        self.in_primary = true;
        Ended::NotDurable {
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
    pub(crate) fn withdraw(&mut self, answer: AnswerId) -> ChangeLog {
        self.work.log.withdraw(answer)
    }

    /// Takes the request's changes out, which it does not want back any more.
    #[must_use]
    pub(crate) fn take_log(&mut self) -> ChangeLog {
        std::mem::take(&mut self.work.log)
    }

    /// Finds out. The caller has the session's turn, so that nobody else does at the same time.
    pub(crate) async fn resolve(self, deadline: Instant, line: &Line) -> Ended {
        // Whoever loses the commit half-way leaves it unknown for ever.
        let known = self.replace(Resolution::NeverKnown);
        let known = match known {
            Resolution::Open(commit, _) => commit.resolve(deadline, line).await,
            known => known,
        };
        let shared = Arc::clone(&self.shared);
        let (ended, known) = match known {
            Resolution::Applied(base) => {
                self.work.log.confirm();
                let done = Box::new(self.done(self.work.own(&base)));
                (Ended::Committed(done), Resolution::Applied(base))
            }
            Resolution::NotApplied => {
                let ended = Ended::NotApplied(self.work.log);
                (ended, Resolution::NotApplied)
            }
            Resolution::NeverKnown => (Ended::NeverKnown, Resolution::NeverKnown),
            Resolution::Open(commit, base) => {
                let own = base.as_ref().map(|base| self.work.own(base));
                (self.ended(own), Resolution::Open(commit, base))
            }
        };
        *shared.lock() = known;
        ended
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
