//! The end of the session, after a `destroy`.

use crate::commit::delete::Revocation;

/// Whether the request has ended its session: `destroy` was called.
#[derive(Debug, Default)]
pub(crate) enum Ending {
    #[default]
    None,
    /// These sessions must be deleted before anything is committed.
    Pending(Vec<Revocation>),
    /// The sessions are deleted, or the caller of `take_pending` deletes them. The browser's token is void.
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

    /// Removes revocations that were carried out, except those that remain.
    pub(crate) fn note_done(
        &mut self,
        done: &[Revocation],
        remaining: impl IntoIterator<Item = Revocation>,
    ) {
        let mut pending = self.take_pending();
        pending.retain(|revocation| !done.contains(revocation));
        pending.extend(remaining);
        if self.has_begun() || !pending.is_empty() {
            self.set(pending);
        }
    }

    /// Takes out the pending revocations, which the caller carries out.
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
