//! The phase of a request: before or after its response head.

/// The phase of a request: before or after its response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its handler runs. `committed` once changes of the request are in the store.
    Handling { committed: bool },
    /// Its response head was sent: no cookie can be set any more.
    HeadSent { committed: bool },
    /// No response follows: the handler was dropped, panicked or failed. `forgotten` once the uncommitted changes were
    /// dropped.
    Abandoned { forgotten: bool },
}

impl Phase {
    pub(crate) fn is_head_sent(self) -> bool {
        !matches!(self, Self::Handling { .. })
    }

    pub(crate) fn is_abandoned(self) -> bool {
        matches!(self, Self::Abandoned { .. })
    }

    /// Whether changes of this request were in the store before its response was sent.
    pub(crate) fn has_committed(self) -> bool {
        match self {
            Self::Handling { committed } | Self::HeadSent { committed } => committed,
            Self::Abandoned { .. } => false,
        }
    }

    pub(crate) fn note_committed(&mut self) {
        if let Self::Handling { committed } = self {
            *committed = true;
        }
    }

    /// The changes that counted as committed were not.
    pub(crate) fn restore_committed(&mut self, before: bool) {
        if let Self::Handling { committed } | Self::HeadSent { committed } = self {
            *committed = before;
        }
    }

    pub(crate) fn send_head(&mut self) {
        if let Self::Handling { committed } = *self {
            *self = Self::HeadSent { committed };
        }
    }

    pub(crate) fn abandon(&mut self) {
        *self = Self::Abandoned { forgotten: false };
    }

    /// Whether the uncommitted changes of an abandoned request must be dropped now; true only once.
    pub(crate) fn begin_forgetting(&mut self) -> bool {
        match self {
            Self::Abandoned { forgotten } => !std::mem::replace(forgotten, true),
            Self::Handling { .. } | Self::HeadSent { .. } => false,
        }
    }
}
