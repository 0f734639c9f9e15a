//! The test suite that every [`SessionStore`] must pass. The stores of this crate pass it too.
//!
//! ```no_run
//! # use sessile::MemoryStore;
//! #[tokio::test]
//! async fn it_is_a_session_store() {
//!     sessile::conformance::check(MemoryStore::new()).await;
//! }
//! ```
//!
//! It takes about a second, since sessions must expire. It uses its own random handles, so the store may hold other sessions.
//! A *handle* names a session; a *lease* is held by one owner at a time; an *index* lists the
//! sessions of one user.

// For the reader of the source: `check` lists the rules in order. This file has those of loads and writes, `acknowledged.rs` those
// of acknowledged operations and of replicas, `leases.rs` those of leases, `index.rs` those of indexes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::store::{
    Created, Deleted, Durability, Freshness, Loaded, Renewal, Replaced, Stored, Touched, Write,
};
use crate::{Handle, SessionStore};

mod acknowledged;
mod index;
mod leases;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(80);

/// Checks the store against every rule of [`SessionStore`].
///
/// # Panics
///
/// Panics if the store breaks a rule; the message names it.
pub async fn check<S: SessionStore>(store: S) {
    let suite = Suite(Arc::new(store));
    suite.returns_created_values().await;
    suite.never_overwrites_by_creating().await;
    suite.replaces_only_the_expected_version().await;
    suite.never_creates_by_replacing().await;
    suite.lets_one_of_many_replace().await;
    suite.lets_one_of_many_create().await;
    suite.creates_only_once().await;
    suite.loads_acknowledged_writes().await;
    suite.never_revives_a_deleted_session().await;
    suite.touches_only_the_time_to_live().await;
    suite.extends_to_the_longest_and_shortens_at_once().await;
    suite.keeps_the_time_to_live_if_asked_to().await;
    suite.deletes_for_good().await;
    suite.lets_sessions_expire().await;
    suite.keeps_any_bytes_of_any_size().await;
    suite.has_a_clock_that_advances().await;
    if suite.0.capabilities().durability {
        suite.reports_missing_replicas().await;
    } else {
        suite.refuses_to_wait_for_replicas().await;
    }
    if suite.0.capabilities().lease {
        suite.keeps_the_rules_of_leases().await;
    } else {
        suite.refuses_leases().await;
    }
    if suite.0.capabilities().index {
        suite.keeps_the_rules_of_indexes().await;
    } else {
        suite.refuses_indexes().await;
    }
}

struct Suite<S>(Arc<S>);

/// A value that begins with this version.
fn value(version: u64, rest: &[u8]) -> Bytes {
    let mut value = format!("{{\"version\":\"{version:016x}\"").into_bytes();
    assert_eq!(value.len(), Stored::VERSION_LEN);
    value.extend_from_slice(rest);
    value.into()
}

impl<S: SessionStore> Suite<S> {
    async fn load(&self, key: &Handle) -> Option<Stored> {
        match self.0.load(key, Freshness::Latest).await.expect("load") {
            Loaded::Found(stored) => Some(stored),
            Loaded::Missing => None,
            Loaded::Unreadable => panic!("a value that was stored as bytes must be readable"),
        }
    }

    async fn create(&self, key: &Handle, value: &Bytes, ttl: Duration) -> Created {
        self.0
            .create(key, Write::new(value, ttl))
            .await
            .expect("create")
    }

    async fn replace(&self, key: &Handle, expected: &Bytes, value: &Bytes) -> Replaced {
        let expected = Stored::new(expected.clone(), None);
        self.0
            .replace(key, &expected, Write::new(value, LONG))
            .await
            .expect("replace")
    }

    async fn stored(&self, value: &Bytes) -> Handle {
        let key = Handle::random();
        assert_eq!(
            self.create(&key, value, LONG).await,
            Created::Done,
            "a session must be created under a free handle"
        );
        key
    }

    async fn returns_created_values(&self) {
        let (one, other) = (value(1, b"one"), value(1, b"other"));
        let (first, second) = (self.stored(&one).await, self.stored(&other).await);
        for (key, value) in [(first, &one), (second, &other)] {
            let stored = self.load(&key).await.expect("a created session exists");
            assert_eq!(stored.value(), value, "a value comes back byte for byte");
            let left = stored
                .time_left()
                .expect("every session has a time to live");
            assert!(
                left <= LONG && left > LONG / 2,
                "time left {left:?} of {LONG:?}"
            );
        }
        assert_eq!(
            self.load(&Handle::random()).await,
            None,
            "a session does not exist before it is created"
        );
    }

    async fn never_overwrites_by_creating(&self) {
        let (first, second) = (value(1, b"first"), value(2, b"second"));
        let key = self.stored(&first).await;
        assert_eq!(self.create(&key, &second, LONG).await, Created::Exists);
        let stored = self.load(&key).await.expect("the first session exists");
        assert_eq!(stored.value(), &first, "create must not overwrite");
    }

    async fn replaces_only_the_expected_version(&self) {
        let (first, second, third) = (value(1, b"1"), value(2, b"22"), value(3, b""));
        let key = self.stored(&first).await;
        assert_eq!(self.replace(&key, &first, &second).await, Replaced::Done);
        let Replaced::Conflict(present) = self.replace(&key, &first, &third).await else {
            panic!("an outdated version must not be replaced");
        };
        assert_eq!(
            present.value(),
            &second,
            "a conflict returns the stored value"
        );
        let left = present
            .time_left()
            .expect("a conflict returns the time to live");
        assert!(
            left <= LONG && left > LONG / 2,
            "time left {left:?} of {LONG:?}"
        );
        let stored = self.load(&key).await.expect("the session exists");
        assert_eq!(stored.value(), &second, "a conflict changes nothing");
        // Only the version is compared, not the bytes after it.
        let same_version = value(2, b"something else");
        assert_eq!(
            self.replace(&key, &same_version, &third).await,
            Replaced::Done
        );
    }

    async fn never_creates_by_replacing(&self) {
        let key = Handle::random();
        let (first, second) = (value(1, b""), value(2, b""));
        assert_eq!(self.replace(&key, &first, &second).await, Replaced::Gone);
        assert_eq!(self.load(&key).await, None, "replace must not create");
        // An empty value has no version, so that it matches no stored value.
        let empty = Bytes::new();
        assert_eq!(self.replace(&key, &empty, &second).await, Replaced::Gone);
        let existing = self.stored(&first).await;
        let Replaced::Conflict(_) = self.replace(&existing, &empty, &second).await else {
            panic!("a value without a version must not be replaced");
        };
    }

    async fn lets_one_of_many_replace(&self) {
        let first = value(0, b"");
        let key = self.stored(&first).await;
        let mut tasks = JoinSet::new();
        for version in 1..=20 {
            let (store, first) = (Arc::clone(&self.0), first.clone());
            tasks.spawn(async move {
                let (mine, expected) = (value(version, b""), Stored::new(first, None));
                let write = Write::new(&mine, LONG);
                (
                    version,
                    store
                        .replace(&key, &expected, write)
                        .await
                        .expect("replace"),
                )
            });
        }
        let mut winners = Vec::new();
        let mut seen = Vec::new();
        for (version, outcome) in tasks.join_all().await {
            match outcome {
                Replaced::Done => winners.push(version),
                Replaced::Conflict(present) => seen.push(present.value().clone()),
                Replaced::Gone | Replaced::Unreadable => panic!("the session exists"),
            }
        }
        assert_eq!(
            winners.len(),
            1,
            "one of many concurrent replacements succeeds"
        );
        let winner = value(winners[0], b"");
        assert!(
            seen.iter().all(|present| *present == winner),
            "the conflicts return the winner's value"
        );
    }

    async fn lets_one_of_many_create(&self) {
        let key = Handle::random();
        let mut tasks = JoinSet::new();
        for version in 1..=20 {
            let store = Arc::clone(&self.0);
            tasks.spawn(async move {
                let mine = value(version, b"");
                store
                    .create(&key, Write::new(&mine, LONG))
                    .await
                    .expect("create")
            });
        }
        let created = tasks.join_all().await;
        let winners = created
            .iter()
            .filter(|created| **created == Created::Done)
            .count();
        assert_eq!(winners, 1, "one of many concurrent creations succeeds");
    }

    async fn touches_only_the_time_to_live(&self) {
        let first = value(1, b"");
        let key = self.stored(&first).await;
        for (renewal, touched, ttl) in [
            (Renewal::Extend(LONG * 2), Touched::Done, LONG * 2),
            (Renewal::Extend(LONG), Touched::Unchanged, LONG * 2),
            (Renewal::Set(LONG / 2), Touched::Done, LONG / 2),
            (Renewal::Set(LONG), Touched::Done, LONG),
        ] {
            assert_eq!(self.0.touch(&key, renewal).await.expect("touch"), touched);
            let stored = self.load(&key).await.expect("a touched session exists");
            assert_eq!(stored.value(), &first, "touch must not change the value");
            let left = stored.time_left().expect("a time to live");
            assert!(
                left <= ttl && left > ttl - LONG / 4,
                "{renewal:?}: {left:?} of {ttl:?}"
            );
        }
        let missing = Handle::random();
        assert_eq!(
            self.0
                .touch(&missing, Renewal::Set(LONG))
                .await
                .expect("touch"),
            Touched::Unchanged
        );
        assert_eq!(self.load(&missing).await, None, "touch must not create");
    }

    async fn keeps_the_time_to_live_if_asked_to(&self) {
        let (first, second) = (value(1, b""), value(2, b""));
        let key = self.stored(&first).await;
        let renewed = self.0.touch(&key, Renewal::Extend(LONG * 4)).await;
        assert_eq!(renewed.expect("touch"), Touched::Done);
        let expected = Stored::new(first.clone(), Some(LONG));
        for (value, write, done) in [
            (&second, Write::new(&second, LONG), Replaced::Done),
            (
                &second,
                Write::new(&first, LONG),
                Replaced::Conflict(expected.clone()),
            ),
        ] {
            let replaced = self.0.replace(&key, &expected, write.with_keep_ttl(true));
            let replaced = replaced.await.expect("replace");
            assert_eq!(
                std::mem::discriminant(&replaced),
                std::mem::discriminant(&done)
            );
            let stored = self.load(&key).await.expect("the session exists");
            assert_eq!(stored.value(), value);
            let left = stored.time_left().expect("a time to live");
            assert!(
                left <= LONG * 4 && left > LONG * 3,
                "a write that keeps the time to live must not set its own: {left:?}"
            );
        }
    }

    async fn deletes_for_good(&self) {
        let (first, second) = (value(1, b""), value(2, b""));
        let key = self.stored(&first).await;
        let delete = || self.0.delete(&key, Durability::Primary);
        assert_eq!(delete().await.expect("delete"), Deleted::Done);
        assert_eq!(delete().await.expect("delete"), Deleted::Missing);
        assert_eq!(self.load(&key).await, None);
        assert_eq!(self.replace(&key, &first, &second).await, Replaced::Gone);
        assert_eq!(
            self.load(&key).await,
            None,
            "a deleted session does not come back"
        );
    }

    async fn lets_sessions_expire(&self) {
        let first = value(1, b"");
        let key = Handle::random();
        let replaced = self.stored(&first).await;
        assert_eq!(self.create(&key, &first, SHORT).await, Created::Done);
        let second = value(2, b"");
        let write = Write::new(&second, SHORT);
        let expected = Stored::new(first.clone(), None);
        let done = self
            .0
            .replace(&replaced, &expected, write)
            .await
            .expect("replace");
        assert_eq!(done, Replaced::Done);
        tokio::time::sleep(SHORT * 2).await;
        assert_eq!(self.load(&key).await, None, "a session expires");
        assert_eq!(
            self.load(&replaced).await,
            None,
            "a replacement sets its own time to live"
        );
        assert_eq!(self.replace(&key, &first, &second).await, Replaced::Gone);
        assert_eq!(
            self.0.touch(&key, Renewal::Set(LONG)).await.expect("touch"),
            Touched::Unchanged
        );
        assert_eq!(
            self.create(&key, &first, LONG).await,
            Created::Done,
            "the handle of an expired session is free"
        );
    }

    async fn keeps_any_bytes_of_any_size(&self) {
        let every_byte: Vec<u8> = (0..=255).collect();
        for rest in [Vec::new(), every_byte, vec![b'x'; 1 << 20]] {
            let first = value(1, &rest);
            let key = self.stored(&first).await;
            let second = value(2, &rest);
            assert_eq!(self.replace(&key, &first, &second).await, Replaced::Done);
            let stored = self.load(&key).await.expect("the session exists");
            assert!(
                stored.value() == &second,
                "{} bytes do not come back as they were",
                rest.len()
            );
        }
    }

    async fn has_a_clock_that_advances(&self) {
        let before = self.0.now();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let passed = self
            .0
            .now()
            .duration_since(before)
            .expect("the clock must not go back");
        assert!(
            passed >= Duration::from_millis(15),
            "the clock advanced by {passed:?} in 20 ms"
        );
    }
}
