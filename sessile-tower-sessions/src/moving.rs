//! Two stores, while sessions move from one to the other.

use std::fmt;

use crate::store::SessileStore;

/// A [`SessileStore`] that takes sessions over from the store that the application had before, so that a change of the store signs
/// nobody out: [`SessileStore::taking_over_from`].
///
/// A session that is not in the new store is looked up in the former one, moved, and deleted there. It keeps its id, so the cookie
/// stays valid. New sessions go into the new store only. Once all sessions of the former store have expired, use the
/// [`SessileStore`] alone.
///
/// A logout is final here, too: it deletes the session in both stores, and leaves a mark in the new one for ten minutes, which a
/// request meets that has read the session in the former store before. If the former store fails, the session ends in the new one all
/// the same, and the call returns the error: a session that had not moved yet may come back after those ten minutes, so delete it again.
///
/// All nodes have to change at once. A node that still uses the former store alone does not find a session that was moved.
///
/// # Redis
///
/// A session that is in the new store costs what it does there. A visitor with the cookie of a session that is in neither costs a load of
/// both. A session that is moved costs a load and a deletion in the former store, two loads here, and one `SET … NX PX`. A `delete` is
/// a load and an `EVALSHA` here, and one of the former store.
///
/// # Errors
///
/// Those of both stores. A failure of one does not keep `delete` from the other.
pub struct Moving<S, F> {
    pub(crate) store: SessileStore<S>,
    pub(crate) former: F,
}

impl<S, F: Clone> Clone for Moving<S, F> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            former: self.former.clone(),
        }
    }
}

impl<S, F> fmt::Debug for Moving<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moving").finish_non_exhaustive()
    }
}
