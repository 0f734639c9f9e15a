//! The indexes of a memory store: the sessions of each principal.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::store::index::{
    Began, Confirmed, Entered, Entry, GENERATION_KEPT_FOR, Generation, IndexKey, Indexed,
    IndexedSession, RESERVED_FOR, Snapshot, next_generation,
};
use crate::time::{Millis, after, to_millis, to_time};
use crate::token::Handle;

/// Below this number of entries a sweep is not worth its time.
const FEW: usize = 1024;

/// All indexes of a store. It has neither locks nor a clock.
#[derive(Default)]
pub(crate) struct Indexes {
    by_key: HashMap<IndexKey, Index>,
    /// When each index becomes empty by itself.
    ends: BTreeSet<(Millis, IndexKey)>,
    entries: usize,
    /// How many entries the last sweep has left.
    swept: usize,
}

#[derive(Clone, Default)]
struct Index {
    sessions: BTreeMap<Handle, Millis>,
    reserved: BTreeMap<Handle, Millis>,
    /// The generation, and until when it is remembered.
    generation: Option<(u64, Millis)>,
}

impl Index {
    fn drop_ended(&mut self, now: Millis) {
        self.sessions.retain(|_, until| *until > now);
        self.reserved.retain(|_, until| *until > now);
        self.generation = self.generation.filter(|(_, until)| *until > now);
    }

    fn end(&self) -> Option<Millis> {
        let generation = self.generation.iter().map(|(_, until)| until);
        let entries = self.sessions.values().chain(self.reserved.values());
        entries.chain(generation).copied().max()
    }

    /// Sets until when a session is in the index: at least a millisecond later than before.
    fn raise(&mut self, handle: Handle, until: Millis) {
        let present = self.sessions.entry(handle).or_default();
        *present = until.max(present.saturating_add(1));
    }

    fn generation(&self) -> u64 {
        self.generation.map_or(0, |(generation, _)| generation)
    }

    fn snapshot(&self, handle: &Handle) -> Snapshot {
        Snapshot {
            generation: self.generation(),
            holds: self.sessions.contains_key(handle),
            count: self.sessions.len(),
        }
    }
}

impl Indexes {
    pub(crate) fn enter(
        &mut self,
        key: IndexKey,
        entry: Entry,
        began: Began,
        limit: Option<u32>,
        now: Millis,
    ) -> Entered {
        self.change(key, now, |index| {
            let entered = index.snapshot(&entry.handle).enter(began, limit);
            if let Entered::Done(_) = entered {
                index.raise(entry.handle, to_millis(entry.until));
                index
                    .reserved
                    .insert(entry.handle, after(now, RESERVED_FOR));
            }
            entered
        })
    }

    pub(crate) fn confirm(
        &mut self,
        key: IndexKey,
        handle: Handle,
        entered_in: Generation,
        now: Millis,
    ) -> Confirmed {
        self.change(key, now, |index| {
            let confirmed = index.snapshot(&handle).confirm(entered_in);
            if confirmed == Confirmed::Done {
                index.raise(handle, 0);
                index.reserved.remove(&handle);
            }
            confirmed
        })
    }

    pub(crate) fn extend(&mut self, key: IndexKey, entry: Entry, now: Millis) {
        self.change(key, now, |index| {
            let until = index.sessions.entry(entry.handle).or_default();
            *until = (*until).max(to_millis(entry.until));
        });
    }

    pub(crate) fn list(&mut self, key: IndexKey, now: Millis) -> Indexed {
        self.change(key, now, |index| {
            let session = |(handle, until): (&Handle, &Millis)| IndexedSession {
                entry: Entry {
                    handle: *handle,
                    until: to_time(*until),
                },
                reserved: index.reserved.contains_key(handle),
            };
            let sessions = index.sessions.iter().map(session).collect();
            Indexed::new(sessions, Generation::from_number(index.generation()))
        })
    }

    /// `at` is in the unit of generations.
    pub(crate) fn begin_generation(&mut self, key: IndexKey, at: u64, now: Millis) -> Generation {
        self.change(key, now, |index| {
            let next = next_generation(index.generation(), at);
            index.generation = Some((next.number(), after(now, GENERATION_KEPT_FOR)));
            next
        })
    }

    pub(crate) fn leave(&mut self, key: IndexKey, entries: &[Entry], now: Millis) {
        self.change(key, now, |index| {
            for Entry { handle, until } in entries {
                let present = index.sessions.get(handle);
                let is_later = present.is_some_and(|present| *present > to_millis(*until));
                if !is_later && !index.reserved.contains_key(handle) {
                    index.sessions.remove(handle);
                }
            }
        });
    }

    /// Whether dead entries should be swept out: a session that expires or is evicted leaves its entry behind until its absolute
    /// timeout.
    pub(crate) fn needs_sweep(&self) -> bool {
        self.entries > FEW && self.entries > self.swept * 2
    }

    /// Removes the entries of sessions that are not alive, unless a sign-in to them may be under way.
    pub(crate) fn sweep(&mut self, now: Millis, is_alive: impl Fn(&Handle) -> bool) {
        let keys: Vec<IndexKey> = self.by_key.keys().copied().collect();
        for key in keys {
            self.change(key, now, |index| {
                let Index {
                    sessions, reserved, ..
                } = index;
                sessions.retain(|handle, _| reserved.contains_key(handle) || is_alive(handle));
            });
        }
        self.swept = self.entries;
    }

    /// Changes an index, after what has ended was removed from it.
    fn change<T>(&mut self, key: IndexKey, now: Millis, change: impl FnOnce(&mut Index) -> T) -> T {
        while let Some((_, ended)) = self.ends.first().filter(|(end, _)| *end <= now).copied() {
            self.remove(ended);
        }
        let mut index = self.remove(key);
        index.drop_ended(now);
        let result = change(&mut index);
        if let Some(end) = index.end() {
            self.entries += index.sessions.len();
            self.ends.insert((end, key));
            self.by_key.insert(key, index);
        }
        result
    }

    fn remove(&mut self, key: IndexKey) -> Index {
        let Some(index) = self.by_key.remove(&key) else {
            return Index::default();
        };
        self.entries -= index.sessions.len();
        if let Some(end) = index.end() {
            self.ends.remove(&(end, key));
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Millis = 1_000_000;

    fn entry(until: Millis) -> Entry {
        Entry {
            handle: Handle::random(),
            until: to_time(until),
        }
    }

    fn enter(indexes: &mut Indexes, key: IndexKey, entry: Entry, now: Millis) -> Entered {
        indexes.enter(key, entry, Began::At(u64::MAX), None, now)
    }

    #[test]
    fn nothing_is_left_of_an_index_once_its_sessions_have_ended() {
        let mut indexes = Indexes::default();
        let (one, other) = (IndexKey::random(), IndexKey::random());
        let far = after(NOW, GENERATION_KEPT_FOR) + 1;
        let entered = enter(&mut indexes, one, entry(NOW + 60_000), NOW);
        assert_eq!(entered, Entered::Done(Generation::default()));
        let _ = indexes.begin_generation(other, 7, NOW);
        assert_eq!(indexes.list(one, NOW + 59_999).sessions.len(), 1);
        assert!(indexes.list(one, NOW + 60_000).sessions.is_empty());
        assert_eq!(indexes.by_key.len(), 1);
        assert_eq!(indexes.list(one, far), Indexed::default());
        assert!(indexes.by_key.is_empty() && indexes.ends.is_empty());
        assert_eq!(indexes.entries, 0);
    }

    #[test]
    fn a_sweep_removes_dead_entries_and_keeps_reserved_ones() {
        let mut indexes = Indexes::default();
        let (key, long) = (IndexKey::random(), NOW + 1_000_000);
        let (alive, dead, reserved) = (entry(long), entry(long), entry(long));
        for entry in [alive, dead] {
            let _ = enter(&mut indexes, key, entry, NOW);
        }
        let later = after(NOW, RESERVED_FOR) + 1;
        let _ = enter(&mut indexes, key, reserved, later);
        indexes.sweep(later, |handle| *handle == alive.handle);
        let left = indexes.list(key, later).sessions;
        assert_eq!(left.len(), 2);
        assert!(left.iter().all(|it| it.entry != dead));
        assert!(!indexes.needs_sweep());
        for _ in 0..=FEW {
            let _ = enter(&mut indexes, key, entry(long), later);
        }
        assert!(indexes.needs_sweep());
    }

    #[test]
    fn an_entry_is_extended_and_never_shortened() {
        let (mut indexes, key) = (Indexes::default(), IndexKey::random());
        let first = entry(NOW + 60_000);
        let until = |indexes: &mut Indexes| indexes.list(key, NOW).sessions[0].entry.until;
        for (minutes, expected) in [(1, 1), (2, 2), (1, 2)] {
            let until_then = to_time(NOW) + Duration::from_secs(minutes * 60);
            let entry = Entry {
                until: until_then,
                ..first
            };
            indexes.extend(key, entry, NOW);
            assert_eq!(
                until(&mut indexes),
                to_time(NOW) + Duration::from_secs(expected * 60)
            );
        }
    }
}
