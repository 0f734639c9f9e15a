//! The sessions of a memory store, and which of them go when it is full. Without locks and clocks.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use crate::error::store::StoreError;
use crate::store::stats::Evicted;
use crate::time::Millis;
use crate::token::Handle;

/// What a session takes besides its value: its handle, an entry of the map and one of the order, with the room that both
/// keep free, and what the allocator adds. Measured on 64-bit Linux: 130 to 220 bytes, by how full the map is.
pub(crate) const OVERHEAD: usize = 256;

/// So that no write waits for all that has expired in a quiet night. Every write adds one session at most, so it is more
/// than enough.
const EXPIRED_AT_ONCE: usize = 64;

/// How much there may be, of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) sessions: usize,
    pub(crate) bytes: usize,
}

#[derive(Default)]
pub(crate) struct Sessions {
    held: HashMap<Handle, Session>,
    order: Order,
    /// What all of them take.
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

/// When a session expires, and which it is.
type Entry = (Millis, Handle);

/// Every session, by when it expires.
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

/// Which session goes first, given the one of each class that expires first.
fn first_to_go(anonymous: Option<Entry>, signed_in: Option<Entry>, now: Millis) -> Option<Entry> {
    match signed_in {
        // Nobody misses it, while the anonymous one may still be in use.
        Some((expires, _)) if expires <= now => signed_in,
        _ => anonymous.or(signed_in),
    }
}

impl Sessions {
    /// The session of this handle, unless it has expired.
    pub(crate) fn get(&self, key: &Handle, now: Millis) -> Option<&Session> {
        self.held.get(key).filter(|session| session.expires > now)
    }

    /// Those that have not expired.
    pub(crate) fn iter(&self, now: Millis) -> impl Iterator<Item = &Session> {
        self.held
            .values()
            .filter(move |session| session.expires > now)
    }

    /// How many are held, and the bytes that they take.
    pub(crate) fn usage(&self) -> Limits {
        Limits {
            sessions: self.held.len(),
            bytes: self.bytes,
        }
    }

    /// Puts a session there, in the place of the one that has its handle. Others make room for it, and are counted.
    ///
    /// # Errors
    ///
    /// Refused if it is larger than all may be together; nothing is changed.
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
        // First, so that a session which grows is not the one that makes room.
        self.remove(&key);
        let mut evicted = Evicted::default();
        while self.held.len() >= limits.sessions || self.bytes.saturating_add(cost) > limits.bytes {
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
        self.held.insert(key, session);
        self.bytes += cost;
        Ok(evicted)
    }

    pub(crate) fn set_expiry(&mut self, key: Handle, expires: Millis) {
        if let Some(session) = self.held.get_mut(&key) {
            let class = self.order.class(session.signed_in);
            class.remove(&(session.expires, key));
            class.insert((expires, key));
            session.expires = expires;
        }
    }

    pub(crate) fn remove(&mut self, key: &Handle) -> Option<Session> {
        let session = self.held.remove(key)?;
        self.order
            .class(session.signed_in)
            .remove(&(session.expires, *key));
        self.bytes -= session.cost();
        Some(session)
    }

    /// Drops sessions that have expired, though not all of a great many.
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

    /// The counts are of what is there, and no more is there than may be.
    fn check(sessions: &Sessions, limits: Limits) {
        let of = |signed_in| -> BTreeSet<Entry> {
            let held = sessions.held.iter();
            let of_class = held.filter(|(_, session)| session.signed_in == signed_in);
            of_class
                .map(|(key, session)| (session.expires, *key))
                .collect()
        };
        assert_eq!(sessions.order.anonymous, of(false));
        assert_eq!(sessions.order.signed_in, of(true));
        let used = sessions.usage();
        let sum: usize = sessions.held.values().map(Session::cost).sum();
        assert_eq!((used.sessions, used.bytes), (sessions.held.len(), sum));
        assert!(used.sessions <= limits.sessions, "{used:?} of {limits:?}");
        assert!(used.bytes <= limits.bytes, "{used:?} of {limits:?}");
    }

    #[test]
    fn expired_sessions_go_first_then_anonymous_ones_and_those_signed_in_last() {
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
    fn what_makes_room_for_a_session() {
        const ANONYMOUS: bool = false;
        const SIGNED_IN: bool = true;
        let limits = Limits {
            sessions: 4,
            bytes: 4 * (OVERHEAD + 100),
        };
        // Size, expiry and class of the four that are there, those of the write and whose place it takes, and who goes.
        let full = [
            (100, NOW + 10, SIGNED_IN),
            (100, NOW + 40, ANONYMOUS),
            (100, NOW + 30, ANONYMOUS),
            (100, NOW + 20, SIGNED_IN),
        ];
        let users = full.map(|(size, expires, _)| (size, expires, SIGNED_IN));
        let mut one_over = full;
        one_over[3].1 = NOW;
        let new = None;
        let write = |size| (size, NOW + 1, ANONYMOUS);
        for (what, there, place, write, goes) in [
            ("one more", full, new, write(100), vec![2]),
            ("a login", full, new, (100, NOW + 1, SIGNED_IN), vec![2]),
            (
                "no larger",
                full,
                Some(0),
                (100, NOW + 10, SIGNED_IN),
                vec![],
            ),
            (
                "it needs the room of two",
                full,
                new,
                write(200),
                vec![2, 1],
            ),
            (
                "it needs the room of three",
                full,
                new,
                write(600),
                vec![2, 1, 0],
            ),
            (
                "it needs all the room",
                full,
                new,
                write(1_168),
                vec![2, 1, 0, 3],
            ),
            ("an anonymous one grows", full, Some(2), write(101), vec![1]),
            (
                "one signed in grows",
                full,
                Some(0),
                (101, NOW + 1, SIGNED_IN),
                vec![2],
            ),
            ("one logs out and grows", full, Some(0), write(300), vec![2]),
            ("users alone", users, new, write(100), vec![0]),
            ("of users one grows", users, Some(0), write(101), vec![3]),
            ("one has expired", one_over, new, write(100), vec![3]),
            (
                "one has expired, another grows",
                one_over,
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
                let gone = !sessions.held.contains_key(other);
                assert_eq!(gone, goes.contains(&index), "{what}: {index}");
                if gone && there[index].1 > NOW {
                    expected.add_one(there[index].2);
                }
            }
            assert_eq!(sessions.held.get(&key), Some(&written), "{what}");
            assert_eq!(evicted, expected, "{what}");
        }
    }

    #[test]
    fn what_is_larger_than_all_may_be_is_refused_and_changes_nothing() {
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
    fn a_great_many_that_have_expired_are_not_dropped_by_one_write() {
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
        let stays = Handle::random();
        let put = sessions.put(stays, session(1, NOW + 1, false), NOW - 1, limits);
        assert_eq!(put.unwrap(), Evicted::default());
        for left in [EXPIRED_AT_ONCE + 2, 2, 1, 1] {
            assert_eq!(sessions.iter(NOW).count(), 1);
            sessions.drop_expired(NOW);
            assert_eq!(sessions.usage().sessions, left);
            check(&sessions, limits);
        }
        assert!(sessions.get(&stays, NOW).is_some());
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

    /// That a write has evicted no more than it must, and in order.
    fn check_evicted(
        before: &HashMap<Handle, Session>,
        after: &Sessions,
        written: Handle,
        now: Millis,
        limits: Limits,
        reported: Evicted,
    ) {
        let others = || after.held.iter().filter(|(key, _)| **key != written);
        let gone: Vec<_> = before
            .iter()
            .filter(|(key, session)| {
                **key != written && !after.held.contains_key(*key) && session.expires > now
            })
            .collect();
        let mut counted = Evicted::default();
        for (key, session) in &gone {
            counted.add_one(session.signed_in);
            for (other, stays) in others() {
                assert!(stays.expires > now, "{other} has expired, and {key} went");
                assert!(
                    !session.signed_in || stays.signed_in,
                    "{other} is anonymous, and {key} went"
                );
                assert!(
                    session.signed_in != stays.signed_in || session.expires <= stays.expires,
                    "{other} expires first, and {key} went"
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
                "{key} went without need"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn whatever_is_written_both_bounds_hold_and_nobody_is_logged_out_while_an_anonymous_session_is_there(
            capacity in 1..6_usize,
            bytes in 0..2_500_usize,
            ops in proptest::collection::vec(op(), 1..80),
        ) {
            let limits = Limits { sessions: capacity, bytes };
            let keys = [(); KEYS].map(|()| Handle::random());
            let (mut sessions, mut now) = (Sessions::default(), NOW);
            for op in ops {
                let before = sessions.held.clone();
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
                                prop_assert_eq!(&sessions.held, &before);
                            }
                        }
                    }
                    Op::SetExpiry { key, ttl } => {
                        sessions.set_expiry(keys[key], now + ttl);
                        let class = |held: &HashMap<Handle, Session>| held.get(&keys[key]).map(|it| it.signed_in);
                        prop_assert_eq!(class(&sessions.held), class(&before));
                    }
                    Op::Remove(key) => {
                        let removed = sessions.remove(&keys[key]);
                        prop_assert_eq!(removed.as_ref(), before.get(&keys[key]));
                    }
                    Op::DropExpired => {
                        sessions.drop_expired(now);
                        let live = before.values().filter(|session| session.expires > now).count();
                        prop_assert_eq!(sessions.held.len(), live);
                    }
                    Op::Wait(time) => now += time,
                }
                check(&sessions, limits);
            }
        }
    }
}
