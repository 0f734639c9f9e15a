//! The end of the session, as the request has asked for it.

use crate::commit::delete::Revocation;

/// Whether the request has ended its session: `destroy` was called.
#[derive(Debug, Default)]
pub(crate) enum Ending {
    #[default]
    None,
    /// These are to be deleted before anything else is done.
    Pending(Vec<Revocation>),
    /// What the browser holds is void.
    Done,
}

impl Ending {
    pub(crate) fn has_begun(&self) -> bool {
        !matches!(self, Self::None)
    }

    pub(crate) fn pending(&self) -> &[Revocation] {
        match self {
            Self::Pending(revocations) => revocations,
            Self::None | Self::Done => &[],
        }
    }

    pub(crate) fn begin(&mut self, revocations: impl IntoIterator<Item = Revocation>) {
        let mut pending = self.take_pending();
        for revocation in revocations {
            if !pending.contains(&revocation) {
                pending.push(revocation);
            }
        }
        self.set(pending);
    }

    /// These have been carried out, but for those that are left.
    pub(crate) fn note_done(
        &mut self,
        done: &[Revocation],
        left: impl IntoIterator<Item = Revocation>,
    ) {
        let mut pending = self.take_pending();
        pending.retain(|revocation| !done.contains(revocation));
        pending.extend(left);
        if self.has_begun() || !pending.is_empty() {
            self.set(pending);
        }
    }

    /// Takes out what somebody else is to carry out.
    pub(crate) fn take_pending(&mut self) -> Vec<Revocation> {
        match self {
            Self::Pending(revocations) => {
                let revocations = std::mem::take(revocations);
                *self = Self::Done;
                revocations
            }
            Self::None | Self::Done => Vec::new(),
        }
    }

    fn set(&mut self, pending: Vec<Revocation>) {
        *self = match pending.is_empty() {
            true => Self::Done,
            false => Self::Pending(pending),
        };
    }
}
