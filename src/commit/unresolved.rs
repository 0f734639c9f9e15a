//! A commit that got no answer, kept until somebody finds out.
//!
//! The bytes belong to all requests whose changes they hold; whichever needs to know first finds out for all. Only those
//! bytes are sent again: if they prove not to have been applied, each request has its own changes back.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::queue::Line;
use super::run::{Base, Commit, Committed, Ended};
use crate::answer::AnswerId;
use crate::change_log::ChangeLog;

/// One request's part of a commit of unknown outcome.
#[derive(Debug)]
pub(crate) struct Unresolved {
    shared: Arc<Mutex<Resolution>>,
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
    pub(super) fn share(commit: Commit) -> Arc<Mutex<Resolution>> {
        Arc::new(Mutex::new(Resolution::Open(Box::new(commit))))
    }

    pub(super) fn of(shared: &Arc<Mutex<Resolution>>, log: ChangeLog) -> Self {
        Self {
            shared: Arc::clone(shared),
            log,
        }
    }

    pub(crate) fn withdraw(&mut self, answer: AnswerId) {
        self.log.withdraw(answer);
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
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut shared, known)
    }
}
