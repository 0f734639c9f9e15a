//! A commit that got no answer, kept until somebody finds out.
//!
//! The bytes belong to all requests whose changes they hold; whichever needs to know first finds out for all. Only those
//! bytes are sent again: if they prove not to have been applied, each request has its own changes back.

use std::sync::Arc;

use tokio::time::Instant;

use super::queue::Line;
use super::run::{Base, Commit, Committed, Ended};
use crate::answer::AnswerId;
use crate::change_log::ChangeLog;
use crate::lock::Lock;

/// One request's part of a commit of unknown outcome.
#[derive(Debug)]
pub(crate) struct Unresolved {
    shared: Arc<Lock<Resolution>>,
    log: ChangeLog,
}

/// What is known of the bytes.
#[derive(Debug)]
pub(super) enum Resolution {
    /// Nothing yet.
    Open(Box<Commit>),
    Applied(Base),
    NotApplied,
    /// Nothing in the store tells any more.
    NeverKnown,
}

impl Unresolved {
    pub(super) fn share(commit: Commit) -> Arc<Lock<Resolution>> {
        Arc::new(Lock::new(Resolution::Open(Box::new(commit))))
    }

    pub(super) fn of(shared: &Arc<Lock<Resolution>>, log: ChangeLog) -> Self {
        Self {
            shared: Arc::clone(shared),
            log,
        }
    }

    #[must_use]
    pub(crate) fn withdraw(&mut self, answer: AnswerId) -> ChangeLog {
        self.log.withdraw(answer)
    }

    /// Takes the request's changes out, which it does not want back any more.
    #[must_use]
    pub(crate) fn take_log(&mut self) -> ChangeLog {
        std::mem::take(&mut self.log)
    }

    /// Finds out. The caller has the session's turn, so that nobody else does at the same time.
    pub(super) async fn resolve(self, deadline: Instant, line: &Line) -> Ended {
        // Whoever loses the commit half-way leaves it unknown for ever.
        let known = self.replace(Resolution::NeverKnown);
        let known = match known {
            Resolution::Open(commit) => commit.resolve(deadline, line).await,
            known => known,
        };
        let ended = match &known {
            Resolution::Applied(base) => {
                self.log.confirm();
                Ended::Committed(Box::new(Committed {
                    base: base.clone(),
                    created: false,
                    rotated: self.log.new_secret().is_some(),
                    changes_cookie: false,
                }))
            }
            Resolution::NotApplied => Ended::NotApplied(self.log.clone()),
            Resolution::NeverKnown => Ended::NeverKnown,
            Resolution::Open(_) => Ended::Unknown(Self::of(&self.shared, self.log.clone())),
        };
        self.replace(known);
        ended
    }

    fn replace(&self, known: Resolution) -> Resolution {
        std::mem::replace(&mut *self.shared.lock(), known)
    }
}
