//! The request's last commit, while it is running or its outcome is unknown.

use crate::commit::outcome::Unresolved;
use crate::record::deferred::DeferredId;
use crate::record::log::ChangeLog;
use crate::session::state::backing::Backing;

/// The request's last commit, until its outcome is known.
#[derive(Debug, Default)]
pub(crate) enum InFlight {
    #[default]
    None,
    /// It is running, or is being resolved.
    Sent(Sent),
    /// It got no answer. Nothing else is committed before it is resolved.
    Unresolved(Unresolved, Sent),
    /// Its outcome will never be known, so the response must not claim its changes.
    Lost,
}

/// The changes that were sent.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// The changes; `None` once they are part of the session's base, which is on the primary.
    pub(super) log: Option<ChangeLog>,
    /// If the commit fails, its changes do not come back.
    pub(super) discarded: bool,
    /// The backing before the commit, and whether anything had been committed then, in case a commit that too few replicas
    /// have acknowledged is lost.
    pub(super) before: Option<(Backing, bool)>,
}

impl InFlight {
    pub(super) fn send(&mut self, log: ChangeLog) {
        *self = Self::Sent(Sent {
            log: Some(log),
            ..Sent::default()
        });
    }

    fn sent(&self) -> Option<&Sent> {
        match self {
            Self::Sent(sent) | Self::Unresolved(_, sent) => Some(sent),
            Self::None | Self::Lost => None,
        }
    }

    /// Changes that were sent and are not part of the session's base.
    pub(crate) fn log(&self) -> Option<&ChangeLog> {
        self.sent()?.log.as_ref()
    }

    pub(crate) fn is_unresolved(&self) -> bool {
        matches!(self, Self::Unresolved(..))
    }

    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Self::Lost)
    }

    /// Whether the store may have applied changes that are not part of the session's base.
    pub(crate) fn may_be_applied_unseen(&self) -> bool {
        matches!(self, Self::Unresolved(unresolved, _) if !unresolved.is_in_primary())
    }

    /// Takes out the commit to resolve, which counts as running from then on.
    pub(super) fn take_unresolved(&mut self) -> Option<Unresolved> {
        match std::mem::take(self) {
            Self::Unresolved(unresolved, sent) => {
                *self = Self::Sent(sent);
                Some(unresolved)
            }
            other => {
                *self = other;
                None
            }
        }
    }

    /// The changes that were sent, once their outcome is known.
    pub(super) fn end(&mut self) -> Sent {
        match std::mem::take(self) {
            Self::Sent(sent) | Self::Unresolved(_, sent) => sent,
            Self::None | Self::Lost => Sent::default(),
        }
    }

    /// Drops the changes, which do not come back if the commit fails. Returns the logs that are no longer needed.
    #[must_use]
    pub(super) fn discard(&mut self) -> Vec<ChangeLog> {
        match self {
            // Also a commit that is just being resolved, whose log is not here.
            Self::Sent(sent) => {
                sent.discarded = true;
                Vec::new()
            }
            // The commit must still be resolved, so it stays unresolved.
            Self::Unresolved(unresolved, sent) => {
                sent.discarded = true;
                let shown = sent.log.as_mut().map(std::mem::take);
                [Some(unresolved.take_log()), shown]
                    .into_iter()
                    .flatten()
                    .collect()
            }
            Self::None | Self::Lost => Vec::new(),
        }
    }

    /// Withdraws the change whose caller learns that it failed, or may have.
    #[must_use]
    pub(super) fn withdraw(&mut self, deferred: DeferredId) -> Vec<ChangeLog> {
        let (unresolved, sent) = match self {
            Self::Sent(sent) => (None, sent),
            Self::Unresolved(unresolved, sent) => (Some(unresolved), sent),
            Self::None | Self::Lost => return Vec::new(),
        };
        let shown = sent.log.as_mut().map(|log| log.withdraw(deferred));
        let kept = unresolved.map(|unresolved| unresolved.withdraw(deferred));
        shown.into_iter().chain(kept).collect()
    }

    /// Forgets the commit, and returns its changes.
    #[must_use]
    pub(super) fn forget(&mut self) -> Vec<ChangeLog> {
        match std::mem::take(self) {
            Self::Sent(sent) => sent.log.into_iter().collect(),
            Self::Unresolved(mut unresolved, sent) => {
                let kept = unresolved.take_log();
                sent.log.into_iter().chain([kept]).collect()
            }
            Self::Lost => {
                *self = Self::Lost;
                Vec::new()
            }
            Self::None => Vec::new(),
        }
    }

    /// The response reports that the outcome is unknown.
    pub(super) fn acknowledge_loss(&mut self) {
        if self.is_lost() {
            *self = Self::None;
        }
    }
}
