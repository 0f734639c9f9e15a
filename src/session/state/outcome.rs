//! Brings the outcome of a commit into the request's state.

use crate::commit::base::Base;
use crate::commit::outcome::CommitOutcome;
use crate::error::session::SessionError;
use crate::record::log::ChangeLog;
use crate::session::state::State;
use crate::session::state::backing::Backing;
use crate::session::state::in_flight::{InFlight, Sent};

impl State {
    /// Brings the outcome of a commit into the state; false if the session was destroyed meanwhile.
    pub(crate) fn apply_outcome(&mut self, generation: u32, outcome: CommitOutcome) -> bool {
        if self.generation != generation {
            if let CommitOutcome::Committed(_) | CommitOutcome::NotDurable { .. } = outcome {
                self.phase.note_committed();
            }
            self.remove(outcome.into_log());
            return false;
        }
        let sent = self.in_flight.end();
        // A request that is retried may rotate again without harm, so rotations alone do not count as a committed part.
        let counts = sent.log.as_ref().is_some_and(|log| !log.is_all_rotations());
        match outcome {
            CommitOutcome::Committed(committed) => {
                self.remove(sent.log.unwrap_or_default());
                self.reads.mark_verified();
                self.has_rotated |= committed.rotated;
                self.adopt(committed.base);
                self.note_committed(counts);
            }
            CommitOutcome::Failed { log, .. } => self.restore_log(log, sent),
            CommitOutcome::NotApplied(log) => self.restore_log(log, sent),
            CommitOutcome::Unknown(mut unresolved) => {
                let mut sent = sent;
                if sent.discarded {
                    self.remove(unresolved.take_log());
                    let shown = sent.log.as_mut().map(std::mem::take);
                    self.remove(shown.unwrap_or_default());
                    self.outdate_view();
                }
                self.in_flight = InFlight::Unresolved(unresolved, sent);
            }
            CommitOutcome::NotDurable {
                mut unresolved,
                done,
            } => {
                if sent.discarded {
                    self.remove(unresolved.take_log());
                }
                self.remove(sent.log.unwrap_or_default());
                let committed = self.phase.has_committed();
                self.has_rotated |= done.rotated;
                let before = self.adopt(done.base);
                self.note_committed(counts);
                let sent = Sent {
                    log: None,
                    discarded: sent.discarded,
                    before: sent.before.or(Some((before, committed))),
                };
                self.in_flight = InFlight::Unresolved(unresolved, sent);
            }
            CommitOutcome::NeverKnown => self.lose(sent, SessionError::OutcomeUnknown),
            CommitOutcome::Panicked(_) => self.lose(sent, SessionError::Discarded),
        }
        true
    }

    fn note_committed(&mut self, counts: bool) {
        if counts {
            self.phase.note_committed();
        }
    }

    /// Makes this the session behind the request. Returns the backing before.
    fn adopt(&mut self, base: Base) -> Backing {
        if let Some(own) = self.backing.base() {
            let (version, before) = (base.record.version, own.record.version);
            self.reads.overtaken |= version.distance_from(before) > 1;
        }
        self.was_signed_in |= base.record.principal.is_some();
        self.outdate_view();
        std::mem::replace(&mut self.backing, Backing::Loaded(Box::new(base)))
    }

    /// Nothing was written: the changes are pending again.
    fn restore_log(&mut self, log: ChangeLog, sent: Sent) {
        self.remove(sent.log.unwrap_or_default());
        self.restore_backing(sent.before);
        match sent.discarded {
            true => self.remove(log),
            false => self.log.restore(log),
        }
        self.outdate_view();
    }

    /// Restores the backing before a commit that was on the primary and is lost there.
    fn restore_backing(&mut self, before: Option<(Backing, bool)>) {
        if let Some((backing, committed)) = before {
            // If the rotation was lost with the commit, it is in the log again.
            self.has_rotated = false;
            self.backing = backing;
            self.phase.restore_committed(committed);
        }
    }

    /// The outcome will never be known. If the handler still runs, its response must not claim the changes.
    fn lose(&mut self, sent: Sent, error: SessionError) {
        self.remove(sent.log.unwrap_or_default());
        self.restore_backing(sent.before);
        if !self.phase.is_head_sent() {
            self.in_flight = InFlight::Lost;
        }
        self.dropped.add(error);
        self.outdate_view();
    }

    /// A closure of the application panicked during a commit.
    pub(crate) fn lose_in_flight(&mut self) {
        if self.in_flight.log().is_some() {
            let sent = self.in_flight.end();
            self.lose(sent, SessionError::Discarded);
        }
    }
}
