//! The store behind a layer, and what this process remembers of its sessions.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::commit::logouts::Logouts;
use crate::lock::Lock;
use crate::record::lifetime::Renewal;
use crate::record::version::{CommitId, Writer};
use crate::store::erased::AnyStore;
use crate::time::{Millis, duration_millis, to_millis};
use crate::token::Handle;

/// How many deletions may wait for the store to come back, so that an outage does not pile up tasks. The sessions of the rest
/// end with their idle timeout.
pub(crate) const MAX_PENDING_DELETIONS: usize = 1024;

/// With less, a store would be asked for nothing.
const MIN_BUDGET: Duration = Duration::from_millis(1);

/// How many sessions are remembered, so that a mismatch is reported and a key is renewed once.
const MAX_REMEMBERED: usize = 4096;

/// The store behind a layer and its clones, and what this process remembers of its sessions.
pub(crate) struct Backend {
    pub(crate) store: Box<dyn AnyStore>,
    /// What goes on although no request waits for it.
    pub(crate) background: TaskTracker,
    writer: Writer,
    sequence: AtomicU64,
    /// Sessions that are destroyed in the background.
    pending_deletions: Lock<HashSet<Handle>>,
    /// Logouts of sessions that could not be loaded.
    pub(crate) logouts: Logouts,
    /// When sessions were renewed last, and whether that has shortened their time.
    renewed: Lock<HashMap<Handle, (Millis, bool)>>,
    pub(crate) reported: Reported,
}

/// What has been reported, and is not to be again.
#[derive(Debug, Default)]
pub(crate) struct Reported {
    pub(crate) mismatches: Once<(Handle, String)>,
    pub(crate) several_cookies: Once<Handle>,
    /// Layers, by the addresses of their settings, and those inside of them whose settings are ignored.
    pub(crate) joined: Once<[usize; 4]>,
    address_missed: AtomicBool,
}

impl Reported {
    /// Whether it has not been reported yet that client addresses are missing.
    pub(crate) fn first_missing_address(&self) -> bool {
        !self.address_missed.swap(true, Ordering::Relaxed)
    }
}

/// The last few thousand things that have been reported.
#[derive(Debug)]
pub(crate) struct Once<T>(Lock<HashSet<T>>);

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self(Lock::new(HashSet::new()))
    }
}

impl<T: Eq + Hash> Once<T> {
    /// Whether this one has not been reported yet.
    pub(crate) fn is_first(&self, it: T) -> bool {
        let mut seen = self.0.lock();
        if seen.len() >= MAX_REMEMBERED {
            seen.clear();
        }
        seen.insert(it)
    }
}

/// Whether a session may be destroyed in the background.
pub(crate) enum Deletion {
    Started,
    Pending,
    TooMany,
}

impl Backend {
    pub(crate) fn new(store: Box<dyn AnyStore>) -> Self {
        Self {
            store,
            background: TaskTracker::new(),
            writer: Writer::random(),
            sequence: AtomicU64::new(0),
            pending_deletions: Lock::default(),
            logouts: Logouts::default(),
            renewed: Lock::default(),
            reported: Reported::default(),
        }
    }

    /// The time by the store's clock.
    pub(crate) fn now(&self) -> Millis {
        to_millis(self.store.now())
    }

    /// Notes that it is destroyed in the background, unless so many are already.
    pub(crate) fn begin_deletion(&self, handle: Handle, most: usize) -> Deletion {
        let mut pending_deletions = self.pending_deletions.lock();
        if pending_deletions.contains(&handle) {
            return Deletion::Pending;
        }
        if pending_deletions.len() >= most {
            return Deletion::TooMany;
        }
        pending_deletions.insert(handle);
        Deletion::Started
    }

    pub(crate) fn end_deletion(&self, handle: Handle) {
        let mut pending_deletions = self.pending_deletions.lock();
        pending_deletions.remove(&handle);
    }

    /// How long one request may wait for the store.
    pub(crate) fn request_budget(&self) -> Duration {
        self.store.capabilities().request_budget.max(MIN_BUDGET)
    }

    /// The id of a commit that begins now.
    pub(crate) fn next_commit(&self) -> CommitId {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        CommitId {
            writer: self.writer,
            sequence,
        }
    }

    /// Whether the session was not renewed just now: a page and its fifty images need it once. What cuts the time left is sent
    /// after what has extended it: a shorter timeout may have been committed in between.
    pub(crate) fn may_renew(
        &self,
        handle: Handle,
        renewal: Renewal,
        idle: Duration,
        now: Millis,
    ) -> bool {
        let cuts = matches!(renewal, Renewal::Set(_));
        let pause = duration_millis(Duration::from_secs(1).min(idle / 4));
        let mut renewed = self.renewed.lock();
        if renewed.len() >= MAX_REMEMBERED {
            renewed.clear();
        }
        let last = renewed.get(&handle).copied();
        let is_enough =
            |(at, has_cut): (Millis, bool)| now.saturating_sub(at) < pause && (has_cut || !cuts);
        if last.is_some_and(is_enough) {
            return false;
        }
        renewed.insert(handle, (now, cuts));
        true
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("namespace", &self.store.namespace())
            .finish_non_exhaustive()
    }
}
