//! The store behind a layer, and what this process remembers of its sessions.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::mem::{self, Discriminant};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::commit::background::Background;
use crate::commit::logouts::Logouts;
use crate::event::AddressProblem;
use crate::lock::Lock;
use crate::record::cache::RecordCache;
use crate::record::lifetime::Renewal;
use crate::record::version::{CommitId, Writer};
use crate::store::erased::ErasedStore;
use crate::time::{Millis, duration_millis, to_millis};
use crate::token::Handle;

/// How many deletions may be pending while the store is down, so that an outage does not pile up tasks. The sessions of
/// further ones expire by their idle timeout.
pub(crate) const MAX_PENDING_DELETIONS: usize = 1024;

/// The shortest request budget: with less, no command would be sent.
const MIN_BUDGET: Duration = Duration::from_millis(1);

/// How many sessions a process remembers, so that it reports a mismatch once and renews a key once.
const MAX_REMEMBERED: usize = 4096;

/// The store behind a layer and its clones, and what this process remembers of its sessions.
pub(crate) struct Backend {
    pub(crate) store: Box<dyn ErasedStore>,
    /// Background work, for which no request waits.
    pub(crate) background: Background,
    writer: Writer,
    sequence: AtomicU64,
    /// Sessions whose deletion is pending in the background.
    pending_deletions: Lock<HashSet<Handle>>,
    /// Logouts of sessions that could not be loaded.
    pub(crate) logouts: Logouts,
    /// When each session was last renewed, and whether that has shortened its time to live.
    renewed: Lock<HashMap<Handle, (Millis, bool)>>,
    pub(crate) reported: Reported,
    pub(crate) records: RecordCache,
}

/// What has been reported, and must not be reported again.
#[derive(Debug, Default)]
pub(crate) struct Reported {
    pub(crate) mismatches: Once<(Handle, String)>,
    pub(crate) other_families: Once<(Handle, String)>,
    pub(crate) several_cookies: Once<Handle>,
    /// Domains that an application asked for and that are not on the list.
    pub(crate) cookie_domains: Once<String>,
    /// Pairs of a layer and one inside it whose settings are ignored, by the addresses of their settings.
    pub(crate) joined: Once<[usize; 4]>,
    address_problems: Once<Discriminant<AddressProblem>>,
}

impl Reported {
    /// Whether no problem of this kind has been reported yet. It counts as reported from then on.
    pub(crate) fn is_first_problem(&self, problem: &AddressProblem) -> bool {
        self.address_problems.is_first(mem::discriminant(problem))
    }
}

/// The last few thousand items that have been reported.
#[derive(Debug)]
pub(crate) struct Once<T>(Lock<HashSet<T>>);

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self(Lock::new(HashSet::new()))
    }
}

impl<T: Eq + Hash> Once<T> {
    /// Whether this item has not been reported yet. It counts as reported from then on.
    pub(crate) fn is_first(&self, item: T) -> bool {
        let mut seen = self.0.lock();
        if seen.len() >= MAX_REMEMBERED {
            seen.clear();
        }
        seen.insert(item)
    }
}

/// Whether a deletion in the background may begin.
pub(crate) enum Deletion {
    Started,
    Pending,
    TooMany,
}

impl Backend {
    pub(crate) fn new(store: Box<dyn ErasedStore>) -> Self {
        Self {
            store,
            background: Background::default(),
            writer: Writer::random(),
            sequence: AtomicU64::new(0),
            pending_deletions: Lock::default(),
            logouts: Logouts::default(),
            renewed: Lock::default(),
            reported: Reported::default(),
            records: RecordCache::default(),
        }
    }

    /// The time by the store's clock.
    pub(crate) fn now(&self) -> Millis {
        to_millis(self.store.now())
    }

    /// The earliest time that it may be now, by the clock of any other node; `None` while the store does not know its clock.
    pub(crate) fn earliest_now(&self) -> Option<SystemTime> {
        let error = self.store.clock_error()?;
        self.store.now().checked_sub(error)
    }

    /// The latest time that it may be now, by the clock of any other node; `None` while the store does not know its clock.
    pub(crate) fn latest_now(&self) -> Option<SystemTime> {
        let error = self.store.clock_error()?;
        self.store.now().checked_add(error)
    }

    /// Notes that the session is deleted in the background, unless it is already, or `most` sessions are.
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

    /// Whether to renew the session, which is noted. A renewal within a second of the last one, or within a quarter of the
    /// idle timeout, is left out: a page and its fifty images need one. A renewal that shortens the time to live is sent
    /// even after one that extended it, since a shorter timeout may have been committed in between.
    pub(crate) fn may_renew(
        &self,
        handle: Handle,
        renewal: Renewal,
        idle: Duration,
        now: Millis,
    ) -> bool {
        let shortens = matches!(renewal, Renewal::Set(_));
        let pause = duration_millis(Duration::from_secs(1).min(idle / 4));
        let mut renewed = self.renewed.lock();
        if renewed.len() >= MAX_REMEMBERED {
            renewed.clear();
        }
        let last = renewed.get(&handle).copied();
        let is_recent = |(at, has_shortened): (Millis, bool)| {
            now.saturating_sub(at) < pause && (has_shortened || !shortens)
        };
        if last.is_some_and(is_recent) {
            return false;
        }
        renewed.insert(handle, (now, shortens));
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
