//! The sessions of a memory store, and the order in which a full store evicts them. It has neither locks nor a clock.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use crate::error::store::StoreError;
use crate::store::stats::Evicted;
use crate::time::Millis;
use crate::token::Handle;

/// The memory of a session besides its value: its handle, an entry in the map and one in the order, the spare capacity of both,
/// and the allocator's overhead. Measured on 64-bit Linux: 130 to 220 bytes, depending on how full the map is.
pub(crate) const OVERHEAD: usize = 256;

/// Bounds how long one write takes after many sessions have expired at once. A write adds at most one session, so removing this
/// many keeps up.
const EXPIRED_AT_ONCE: usize = 64;

/// A number of sessions and their bytes: the limits, or the usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) sessions: usize,
    pub(crate) bytes: usize,
}

#[derive(Default)]
pub(crate) struct Sessions {
    by_handle: HashMap<Handle, Session>,
    order: Order,
    /// The cost of all sessions.
    bytes: usize,
}

#[cfg_attr(test, derive(Clone, Debug, PartialEq, Eq))]
pub(crate) struct Session {
    pub(crate) value: Bytes,
    pub(crate) expires: Millis,
    pub(crate) signed_in: bool,
}

impl Session {
    fn cost(&self) -> usize {
        self.value.len().saturating_add(OVERHEAD)
    }
}

/// When a session expires, and its handle.
type Entry = (Millis, Handle);

/// All sessions, ordered by when they expire.
#[derive(Default)]
struct Order {
    anonymous: BTreeSet<Entry>,
    signed_in: BTreeSet<Entry>,
}

impl Order {
    fn class(&mut self, signed_in: bool) -> &mut BTreeSet<Entry> {
        match signed_in {
            true => &mut self.signed_in,
            false => &mut self.anonymous,
        }
    }

    fn first_to_go(&self, now: Millis) -> Option<Entry> {
        let (anonymous, signed_in) = (self.anonymous.first(), self.signed_in.first());
        first_to_go(anonymous.copied(), signed_in.copied(), now)
    }
}

/// The session to evict first, given the one of each class that expires first.
fn first_to_go(anonymous: Option<Entry>, signed_in: Option<Entry>, now: Millis) -> Option<Entry> {
    match signed_in {
        // An expired session is useless, while the anonymous one may still be in use.
        Some((expires, _)) if expires <= now => signed_in,
        _ => anonymous.or(signed_in),
    }
}

impl Sessions {
    /// The session of this handle, unless it has expired.
    pub(crate) fn get(&self, key: &Handle, now: Millis) -> Option<&Session> {
        self.by_handle
            .get(key)
            .filter(|session| session.expires > now)
    }

    /// The sessions that have not expired.
    pub(crate) fn iter(&self, now: Millis) -> impl Iterator<Item = &Session> {
        self.by_handle
            .values()
            .filter(move |session| session.expires > now)
    }

    /// The handles of the sessions that have not expired.
    pub(crate) fn handles(&self, now: Millis) -> impl Iterator<Item = Handle> {
        let live = self
            .by_handle
            .iter()
            .filter(move |(_, it)| it.expires > now);
        live.map(|(handle, _)| *handle)
    }

    /// The number of sessions, and the bytes that they take.
    pub(crate) fn usage(&self) -> Limits {
        Limits {
            sessions: self.by_handle.len(),
            bytes: self.bytes,
        }
    }

    /// Stores a session, in place of the one with the same handle if there is one. Evicts others to make room, and returns how
    /// many.
    ///
    /// # Errors
    ///
    /// Refused if the session alone exceeds the limit in bytes; nothing changes.
    pub(crate) fn put(
        &mut self,
        key: Handle,
        session: Session,
        now: Millis,
        limits: Limits,
    ) -> Result<Evicted, StoreError> {
        let cost = session.cost();
        if cost > limits.bytes {
            return Err(too_large(cost, limits.bytes));
        }
        // Removed first, so that a session that grows is not itself evicted.
        self.remove(&key);
        let mut evicted = Evicted::default();
        while self.by_handle.len() >= limits.sessions
            || self.bytes.saturating_add(cost) > limits.bytes
        {
            let Some((_, first)) = self.order.first_to_go(now) else {
                break;
            };
            if let Some(gone) = self.remove(&first)
                && gone.expires > now
            {
                evicted.add_one(gone.signed_in);
            }
        }
        self.order
            .class(session.signed_in)
            .insert((session.expires, key));
        self.by_handle.insert(key, session);
        self.bytes += cost;
        Ok(evicted)
    }

    pub(crate) fn set_expiry(&mut self, key: Handle, expires: Millis) {
        if let Some(session) = self.by_handle.get_mut(&key) {
            let class = self.order.class(session.signed_in);
            class.remove(&(session.expires, key));
            class.insert((expires, key));
            session.expires = expires;
        }
    }

    pub(crate) fn remove(&mut self, key: &Handle) -> Option<Session> {
        let session = self.by_handle.remove(key)?;
        self.order
            .class(session.signed_in)
            .remove(&(session.expires, *key));
        self.bytes -= session.cost();
        Some(session)
    }

    /// Removes expired sessions, at most [`EXPIRED_AT_ONCE`].
    pub(crate) fn drop_expired(&mut self, now: Millis) {
        for _ in 0..EXPIRED_AT_ONCE {
            match self.order.first_to_go(now) {
                Some((expires, key)) if expires <= now => self.remove(&key),
                _ => break,
            };
        }
    }
}

fn too_large(cost: usize, limit: usize) -> StoreError {
    StoreError::refused(format!(
        "the session takes {cost} bytes of memory, and all sessions together may take {limit}: raise \
         `MemoryStore::with_max_bytes`, or lower `max_size`"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::store::StoreErrorKind;

    const NOW: Millis = 1_000;

    fn session(size: usize, expires: Millis, signed_in: bool) -> Session {
        Session {
            value: vec![b'x'; size].into(),
            expires,
            signed_in,
        }
    }

    /// The order and the sum of bytes match the sessions, and the limits hold.
    fn check(sessions: &Sessions, limits: Limits) {
        let of = |signed_in| -> BTreeSet<Entry> {
            let held = sessions.by_handle.iter();
            let of_class = held.filter(|(_, session)| session.signed_in == signed_in);
            of_class
                .map(|(key, session)| (session.expires, *key))
                .collect()
        };
        assert_eq!(sessions.order.anonymous, of(false));
        assert_eq!(sessions.order.signed_in, of(true));
        let used = sessions.usage();
        let sum: usize = sessions.by_handle.values().map(Session::cost).sum();
        assert_eq!((used.sessions, used.bytes), (sessions.by_handle.len(), sum));
        assert!(used.sessions <= limits.sessions, "{used:?} of {limits:?}");
        assert!(used.bytes <= limits.bytes, "{used:?} of {limits:?}");
    }

    #[test]
    fn expired_sessions_are_evicted_first_and_signed_in_ones_last() {
        let [anonymous, signed_in] = [(); 2].map(|()| Handle::random());
        for (anonymous_expires, signed_in_expires, goes) in [
            (None, None, None),
            (Some(NOW + 1), None, Some(anonymous)),
            (None, Some(NOW + 1), Some(signed_in)),
            (Some(NOW + 1), Some(NOW + 2), Some(anonymous)),
            (Some(NOW + 2), Some(NOW + 1), Some(anonymous)),
            (Some(NOW), Some(NOW + 1), Some(anonymous)),
            (Some(NOW + 1), Some(NOW), Some(signed_in)),
            (None, Some(NOW), Some(signed_in)),
        ] {
            let first = first_to_go(
                anonymous_expires.map(|expires| (expires, anonymous)),
                signed_in_expires.map(|expires| (expires, signed_in)),
                NOW,
            );
            let first = first.map(|(_, key)| key);
            assert_eq!(first, goes, "{anonymous_expires:?} {signed_in_expires:?}");
        }
    }

    #[test]
    fn a_write_evicts_the_sessions_that_it_needs_room_for() {
        const ANONYMOUS: bool = false;
        const SIGNED_IN: bool = true;
        let limits = Limits {
            sessions: 4,
            bytes: 4 * (OVERHEAD + 100),
        };
        // For each case: the size, expiry and class of four stored sessions, the index of the session that is replaced, the
        // write, and the indices of the evicted sessions.
        let full = [
            (100, NOW + 10, SIGNED_IN),
            (100, NOW + 40, ANONYMOUS),
            (100, NOW + 30, ANONYMOUS),
            (100, NOW + 20, SIGNED_IN),
        ];
        let users = full.map(|(size, expires, _)| (size, expires, SIGNED_IN));
        let mut one_expired = full;
        one_expired[3].1 = NOW;
        let new = None;
        let write = |size| (size, NOW + 1, ANONYMOUS);
        for (what, there, place, write, goes) in [
            ("another anonymous session", full, new, write(100), vec![2]),
            (
                "another signed-in session",
                full,
                new,
                (100, NOW + 1, SIGNED_IN),
                vec![2],
            ),
            (
                "an update of the same size",
                full,
                Some(0),
                (100, NOW + 10, SIGNED_IN),
                vec![],
            ),
            (
                "a new session takes the room of two",
                full,
                new,
                write(200),
                vec![2, 1],
            ),
            (
                "a new session takes the room of three",
                full,
                new,
                write(600),
                vec![2, 1, 0],
            ),
            (
                "a new session takes all the room",
                full,
                new,
                write(1_168),
                vec![2, 1, 0, 3],
            ),
            (
                "an anonymous session grows",
                full,
                Some(2),
                write(101),
                vec![1],
            ),
            (
                "a signed-in session grows",
                full,
                Some(0),
                (101, NOW + 1, SIGNED_IN),
                vec![2],
            ),
            (
                "a session becomes anonymous and grows",
                full,
                Some(0),
                write(300),
                vec![2],
            ),
            ("all are signed in", users, new, write(100), vec![0]),
            (
                "all are signed in and one grows",
                users,
                Some(0),
                write(101),
                vec![3],
            ),
            ("one has expired", one_expired, new, write(100), vec![3]),
            (
                "one has expired and another grows",
                one_expired,
                Some(2),
                write(101),
                vec![3],
            ),
        ] {
            let mut sessions = Sessions::default();
            let keys = there.map(|(size, expires, signed_in)| {
                let key = Handle::random();
                let put = sessions.put(key, session(size, expires, signed_in), NOW, limits);
                assert_eq!(put.unwrap(), Evicted::default(), "{what}");
                key
            });
            let (size, expires, signed_in) = write;
            let key = place.map_or_else(Handle::random, |place: usize| keys[place]);
            let written = session(size, expires, signed_in);
            let evicted = sessions.put(key, written.clone(), NOW, limits).unwrap();
            check(&sessions, limits);
            let mut expected = Evicted::default();
            for (index, other) in keys.iter().enumerate().filter(|(_, other)| **other != key) {
                let gone = !sessions.by_handle.contains_key(other);
                assert_eq!(gone, goes.contains(&index), "{what}: {index}");
                if gone && there[index].1 > NOW {
                    expected.add_one(there[index].2);
                }
            }
            assert_eq!(sessions.by_handle.get(&key), Some(&written), "{what}");
            assert_eq!(evicted, expected, "{what}");
        }
    }

    #[test]
    fn a_session_larger_than_the_limit_is_refused_and_changes_nothing() {
        let limits = Limits {
            sessions: 4,
            bytes: OVERHEAD + 100,
        };
        let mut sessions = Sessions::default();
        let [key, other] = [(); 2].map(|()| Handle::random());
        let small = session(100, NOW + 1, false);
        let put = sessions.put(key, small.clone(), NOW, limits);
        assert_eq!(put.unwrap(), Evicted::default());
        for place in [key, other] {
            let refused = sessions.put(place, session(101, NOW + 1, true), NOW, limits);
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Refused);
            assert!(error.to_string().contains("with_max_bytes"), "{error}");
            assert_eq!(sessions.get(&key, NOW), Some(&small));
            assert_eq!(sessions.get(&other, NOW), None);
            check(&sessions, limits);
        }
    }

    #[test]
    fn one_write_removes_a_bounded_number_of_expired_sessions() {
        let limits = Limits {
            sessions: usize::MAX,
            bytes: usize::MAX,
        };
        let mut sessions = Sessions::default();
        for number in 0..EXPIRED_AT_ONCE * 2 + 1 {
            let expired = session(1, NOW, number % 2 == 0);
            let put = sessions.put(Handle::random(), expired, NOW - 1, limits);
            assert_eq!(put.unwrap(), Evicted::default());
        }
        let live = Handle::random();
        let put = sessions.put(live, session(1, NOW + 1, false), NOW - 1, limits);
        assert_eq!(put.unwrap(), Evicted::default());
        for left in [EXPIRED_AT_ONCE + 2, 2, 1, 1] {
            assert_eq!(sessions.iter(NOW).count(), 1);
            sessions.drop_expired(NOW);
            assert_eq!(sessions.usage().sessions, left);
            check(&sessions, limits);
        }
        assert!(sessions.get(&live, NOW).is_some());
    }

    #[derive(Clone, Debug)]
    enum Op {
        Put {
            key: usize,
            size: usize,
            ttl: Millis,
            signed_in: bool,
        },
        SetExpiry {
            key: usize,
            ttl: Millis,
        },
        Remove(usize),
        DropExpired,
        Wait(Millis),
    }

    const KEYS: usize = 9;

    fn op() -> impl Strategy<Value = Op> {
        let ttl = 1..40_u64;
        prop_oneof![
            6 => (0..KEYS, 0..500_usize, ttl.clone(), any::<bool>()).prop_map(
                |(key, size, ttl, signed_in)| Op::Put { key, size, ttl, signed_in },
            ),
            2 => (0..KEYS, ttl).prop_map(|(key, ttl)| Op::SetExpiry { key, ttl }),
            1 => (0..KEYS).prop_map(Op::Remove),
            1 => Just(Op::DropExpired),
            2 => (1..20_u64).prop_map(Op::Wait),
        ]
    }

    /// A write has evicted no more than it must, and in order.
    fn check_evicted(
        before: &HashMap<Handle, Session>,
        after: &Sessions,
        written: Handle,
        now: Millis,
        limits: Limits,
        reported: Evicted,
    ) {
        let others = || after.by_handle.iter().filter(|(key, _)| **key != written);
        let gone: Vec<_> = before
            .iter()
            .filter(|(key, session)| {
                **key != written && !after.by_handle.contains_key(*key) && session.expires > now
            })
            .collect();
        let mut counted = Evicted::default();
        for (key, session) in &gone {
            counted.add_one(session.signed_in);
            for (other, live) in others() {
                assert!(
                    live.expires > now,
                    "{other} has expired, but {key} was evicted"
                );
                assert!(
                    !session.signed_in || live.signed_in,
                    "{other} is anonymous, but {key} was evicted"
                );
                assert!(
                    session.signed_in != live.signed_in || session.expires <= live.expires,
                    "{other} expires first, but {key} was evicted"
                );
            }
        }
        assert_eq!(reported, counted);
        let last = gone
            .iter()
            .max_by_key(|(key, session)| (session.signed_in, session.expires, **key));
        if let Some((key, session)) = last {
            let used = after.usage();
            assert!(
                used.sessions + 1 > limits.sessions || used.bytes + session.cost() > limits.bytes,
                "{key} was evicted without need"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn both_limits_always_hold_and_anonymous_sessions_are_evicted_before_signed_in_ones(
            capacity in 1..6_usize,
            bytes in 0..2_500_usize,
            ops in proptest::collection::vec(op(), 1..80),
        ) {
            let limits = Limits { sessions: capacity, bytes };
            let keys = [(); KEYS].map(|()| Handle::random());
            let (mut sessions, mut now) = (Sessions::default(), NOW);
            for op in ops {
                let before = sessions.by_handle.clone();
                match op {
                    Op::Put { key, size, ttl, signed_in } => {
                        let written = session(size, now + ttl, signed_in);
                        match sessions.put(keys[key], written.clone(), now, limits) {
                            Ok(reported) => {
                                prop_assert_eq!(sessions.get(&keys[key], now), Some(&written));
                                check_evicted(&before, &sessions, keys[key], now, limits, reported);
                            }
                            Err(_) => {
                                prop_assert!(written.cost() > bytes);
                                prop_assert_eq!(&sessions.by_handle, &before);
                            }
                        }
                    }
                    Op::SetExpiry { key, ttl } => {
                        sessions.set_expiry(keys[key], now + ttl);
                        let class = |held: &HashMap<Handle, Session>| held.get(&keys[key]).map(|it| it.signed_in);
                        prop_assert_eq!(class(&sessions.by_handle), class(&before));
                    }
                    Op::Remove(key) => {
                        let removed = sessions.remove(&keys[key]);
                        prop_assert_eq!(removed.as_ref(), before.get(&keys[key]));
                    }
                    Op::DropExpired => {
                        sessions.drop_expired(now);
                        let live = before.values().filter(|session| session.expires > now).count();
                        prop_assert_eq!(sessions.by_handle.len(), live);
                    }
                    Op::Wait(time) => now += time,
                }
                check(&sessions, limits);
            }
        }
    }
}
