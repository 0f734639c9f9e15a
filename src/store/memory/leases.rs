//! The leases of a memory store.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::error::store::StoreError;
use crate::store::lease::{Leased, Owner};
use crate::time::{Millis, after};
use crate::token::Handle;

/// All of a store.
#[derive(Default)]
pub(crate) struct Leases {
    held: HashMap<Handle, (Owner, Millis)>,
    /// The handle of every lease, by when it ends.
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
        match self.held.get(&key) {
            Some((other, ends)) if *other != owner => {
                let left = Duration::from_millis(ends.saturating_sub(now));
                return Ok(Leased::Taken { left });
            }
            Some(_) => self.remove(&key),
            // Another's lease cannot make room as a session does: it was promised for its time.
            None if self.held.len() >= capacity => {
                return Err(StoreError::refused(
                    "as many leases are taken as the store may hold sessions: make it with a larger capacity",
                ));
            }
            None => {}
        }
        let ends = after(now, lease);
        self.held.insert(key, (owner, ends));
        self.ends.insert((ends, key));
        Ok(Leased::Held)
    }

    pub(crate) fn release(&mut self, key: &Handle, owner: Owner, now: Millis) {
        self.drop_ended(now);
        if self.held.get(key).is_some_and(|(held, _)| *held == owner) {
            self.remove(key);
        }
    }

    fn drop_ended(&mut self, now: Millis) {
        while let Some((_, key)) = self.ends.first().copied().filter(|(ends, _)| *ends <= now) {
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &Handle) {
        if let Some((_, ends)) = self.held.remove(key) {
            self.ends.remove(&(ends, *key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn leases_end_leave_no_memory_behind_and_are_bounded() {
        let mut leases = Leases::default();
        let mut acquire = |key: Handle, owner: Owner, now: Millis| {
            let leased = leases.acquire(key, owner, LONG, now, 2);
            assert_eq!(leases.held.len(), leases.ends.len());
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
        assert_eq!(leases.held.len(), 2);
        leases.release(&one, other, 62_000);
        assert_eq!((leases.held.len(), leases.ends.len()), (1, 1));
    }
}
