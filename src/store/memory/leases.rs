//! The leases of a memory store.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::error::store::StoreError;
use crate::store::lease::{Leased, Owner};
use crate::time::{Millis, after};
use crate::token::Handle;

/// All leases of a store.
#[derive(Default)]
pub(crate) struct Leases {
    by_handle: HashMap<Handle, (Owner, Millis)>,
    /// The handle of every lease, ordered by when the lease expires.
    ends: BTreeSet<(Millis, Handle)>,
}

impl Leases {
    pub(crate) fn acquire(
        &mut self,
        key: Handle,
        owner: Owner,
        lease: Duration,
        now: Millis,
        capacity: usize,
    ) -> Result<Leased, StoreError> {
        self.drop_ended(now);
        match self.by_handle.get(&key) {
            Some((other, ends)) if *other != owner => {
                let left = Duration::from_millis(ends.saturating_sub(now));
                return Ok(Leased::Taken { left });
            }
            Some(_) => self.remove(&key),
            // A lease cannot be evicted as a session can: it was granted until it expires.
            None if self.by_handle.len() >= capacity => {
                return Err(StoreError::refused(
                    "the store holds as many leases as it may hold sessions: raise `MemoryStore::with_capacity`",
                ));
            }
            None => {}
        }
        let ends = after(now, lease);
        self.by_handle.insert(key, (owner, ends));
        self.ends.insert((ends, key));
        Ok(Leased::Held)
    }

    pub(crate) fn release(&mut self, key: &Handle, owner: Owner, now: Millis) {
        self.drop_ended(now);
        if self
            .by_handle
            .get(key)
            .is_some_and(|(current, _)| *current == owner)
        {
            self.remove(key);
        }
    }

    fn drop_ended(&mut self, now: Millis) {
        while let Some((_, key)) = self.ends.first().copied().filter(|(ends, _)| *ends <= now) {
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &Handle) {
        if let Some((_, ends)) = self.by_handle.remove(key) {
            self.ends.remove(&(ends, *key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn leases_expire_and_their_number_is_bounded() {
        let mut leases = Leases::default();
        let mut acquire = |key: Handle, owner: Owner, now: Millis| {
            let leased = leases.acquire(key, owner, LONG, now, 2);
            assert_eq!(leases.by_handle.len(), leases.ends.len());
            leased.map_err(|error| error.kind())
        };
        let [one, two, three] = [(); 3].map(|()| Handle::random());
        let (owner, other) = (Owner::random(), Owner::random());
        let full = Err(crate::error::store::StoreErrorKind::Refused);
        let taken = |left| Ok(Leased::Taken { left });
        for (key, owner, now, expected) in [
            (one, owner, 0, Ok(Leased::Held)),
            (one, other, 1_000, taken(Duration::from_secs(59))),
            (two, other, 1_000, Ok(Leased::Held)),
            (three, owner, 1_000, full),
            // Renewed although there is no room for another.
            (one, owner, 2_000, Ok(Leased::Held)),
            (one, other, 60_000, taken(Duration::from_secs(2))),
            (three, owner, 61_000, Ok(Leased::Held)),
            (one, other, 62_000, Ok(Leased::Held)),
        ] {
            assert_eq!(acquire(key, owner, now), expected, "{now}");
        }
        leases.release(&one, owner, 62_000);
        assert_eq!(leases.by_handle.len(), 2);
        leases.release(&one, other, 62_000);
        assert_eq!((leases.by_handle.len(), leases.ends.len()), (1, 1));
    }
}
