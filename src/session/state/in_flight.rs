//! The commit of the request that is under way, or of which nobody knows yet what became of it.

use crate::commit::outcome::Unresolved;
use crate::record::deferred::DeferredId;
use crate::record::log::ChangeLog;
use crate::session::state::backing::Backing;

/// The request's last commit, until it is known how it ended.
#[derive(Debug, Default)]
pub(crate) enum InFlight {
    #[default]
    None,
    /// It is under way, or somebody is finding out what became of it.
    Sent(Sent),
    /// It got no answer. Nothing else is committed before somebody finds out.
    Unresolved(Unresolved, Sent),
    /// Nobody will ever know, so the response must not claim its changes.
    Lost,
}

/// What was sent.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// Its changes; `None` once they are in the session's base, which the primary has.
    pub(super) log: Option<ChangeLog>,
    /// Should it fail, its changes are not put back.
    pub(super) discarded: bool,
    /// What the session was before it became what too few replicas have, and whether anything was committed then.
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

    /// Changes that were sent and are not in the session's base.
    pub(crate) fn log(&self) -> Option<&ChangeLog> {
        self.sent()?.log.as_ref()
    }

    pub(crate) fn is_unresolved(&self) -> bool {
        matches!(self, Self::Unresolved(..))
    }

    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Self::Lost)
    }

    /// Whether the store may have changes of a commit that are none of the session's yet.
    pub(crate) fn shows_too_little(&self) -> bool {
        matches!(self, Self::Unresolved(unresolved, _) if !unresolved.is_in_primary())
    }

    /// Takes out the commit that is to be resolved, which is under way from then on.
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

    /// What was sent, now that it is known how it ended.
    pub(super) fn end(&mut self) -> Sent {
        match std::mem::take(self) {
            Self::Sent(sent) | Self::Unresolved(_, sent) => sent,
            Self::None | Self::Lost => Sent::default(),
        }
    }

    /// Its changes are not wanted back. Returns those that nobody needs any more.
    #[must_use]
    pub(super) fn discard(&mut self) -> Vec<ChangeLog> {
        match self {
            // Also what is being looked for just now, which nothing here tells of.
            Self::Sent(sent) => {
                sent.discarded = true;
                Vec::new()
            }
            // Whether they are in the store is still to be found out. What is pending stays so.
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

    /// Takes back the change whose caller is told that it has failed, or may have.
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

    /// Forgets the commit. Returns its changes.
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

    /// The response says that its outcome is unknown.
    pub(super) fn acknowledge_loss(&mut self) {
        if self.is_lost() {
            *self = Self::None;
        }
    }
}
