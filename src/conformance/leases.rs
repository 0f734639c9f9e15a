//! The rules of leases.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::conformance::{LONG, SHORT, Suite, value};
use crate::store::{Created, Deleted, Durability, Leased, Owner, Replaced, StoreErrorKind};
use crate::{Handle, SessionStore};

impl<S: SessionStore> Suite<S> {
    pub(super) async fn has_leases(&self) {
        self.lends_to_one_owner_at_a_time().await;
        self.renews_for_the_owner_only().await;
        self.takes_back_from_the_owner_only().await;
        self.lets_leases_end().await;
        self.lends_to_one_of_many().await;
        self.keeps_leases_apart_from_sessions().await;
    }

    pub(super) async fn says_that_it_has_no_leases(&self) {
        let (key, owner) = (Handle::random(), Owner::random());
        for error in [
            self.0.acquire(&key, owner, LONG).await.err(),
            self.0.release(&key, owner).await.err(),
        ] {
            let kind = error.map(|error| error.kind());
            assert_eq!(
                kind,
                Some(StoreErrorKind::Refused),
                "a store with leases says so in its capabilities"
            );
        }
    }

    async fn acquire(&self, key: &Handle, owner: Owner, lease: Duration) -> Leased {
        self.0.acquire(key, owner, lease).await.expect("acquire")
    }

    async fn release(&self, key: &Handle, owner: Owner) {
        self.0.release(key, owner).await.expect("release");
    }

    /// Somebody else has it, for about this long.
    async fn is_taken(&self, key: &Handle, lease: Duration) {
        let Leased::Taken { left } = self.acquire(key, Owner::random(), LONG).await else {
            panic!("a lease that another has must not be taken");
        };
        assert!(
            left <= lease && left > lease - LONG / 4,
            "it is taken for {left:?}, of {lease:?}"
        );
    }

    async fn lends_to_one_owner_at_a_time(&self) {
        let (key, other) = (Handle::random(), Handle::random());
        let (first, second) = (Owner::random(), Owner::random());
        assert_eq!(self.acquire(&key, first, LONG).await, Leased::Held);
        self.is_taken(&key, LONG).await;
        assert_eq!(
            self.acquire(&other, second, LONG).await,
            Leased::Held,
            "each handle has a lease of its own"
        );
        self.is_taken(&key, LONG).await;
    }

    async fn renews_for_the_owner_only(&self) {
        let (key, owner) = (Handle::random(), Owner::random());
        for lease in [LONG, LONG * 2, LONG / 2] {
            assert_eq!(
                self.acquire(&key, owner, lease).await,
                Leased::Held,
                "the owner may renew its lease"
            );
            self.is_taken(&key, lease).await;
            // Whom it is refused has not renewed it.
            self.is_taken(&key, lease).await;
        }
    }

    async fn takes_back_from_the_owner_only(&self) {
        let (key, owner) = (Handle::random(), Owner::random());
        let next = Owner::random();
        self.release(&key, owner).await;
        assert_eq!(self.acquire(&key, owner, LONG).await, Leased::Held);
        self.release(&key, next).await;
        self.is_taken(&key, LONG).await;
        self.release(&key, owner).await;
        assert_eq!(
            self.acquire(&key, next, LONG).await,
            Leased::Held,
            "what was given up is free at once"
        );
        self.release(&key, owner).await;
        self.is_taken(&key, LONG).await;
    }

    async fn lets_leases_end(&self) {
        let (key, owner, next) = (Handle::random(), Owner::random(), Owner::random());
        assert_eq!(self.acquire(&key, owner, SHORT).await, Leased::Held);
        tokio::time::sleep(SHORT * 2).await;
        assert_eq!(
            self.acquire(&key, next, LONG).await,
            Leased::Held,
            "a lease ends with its time"
        );
        self.release(&key, owner).await;
        let Leased::Taken { .. } = self.acquire(&key, owner, LONG).await else {
            panic!("who lets a lease lapse has lost it");
        };
    }

    async fn lends_to_one_of_many(&self) {
        let key = Handle::random();
        let mut tasks = JoinSet::new();
        for _ in 0..20 {
            let store = Arc::clone(&self.0);
            tasks.spawn(async move {
                let owner = Owner::random();
                store.acquire(&key, owner, LONG).await.expect("acquire")
            });
        }
        let leased = tasks.join_all().await;
        let held = leased.iter().filter(|leased| **leased == Leased::Held);
        assert_eq!(held.count(), 1, "one of many concurrent owners gets it");
    }

    async fn keeps_leases_apart_from_sessions(&self) {
        let (first, second) = (value(1, b"one"), value(2, b"two"));
        let (key, owner) = (Handle::random(), Owner::random());
        assert_eq!(self.acquire(&key, owner, LONG).await, Leased::Held);
        assert_eq!(self.load(&key).await, None, "a lease is no session");
        assert_eq!(self.create(&key, &first, LONG * 4).await, Created::Done);
        assert_eq!(self.acquire(&key, owner, LONG).await, Leased::Held);
        let stored = self.load(&key).await.expect("the session is there");
        assert_eq!(stored.value(), &first, "a lease leaves the session alone");
        let left = stored.time_left().expect("a time left");
        assert!(
            left > LONG * 3,
            "a lease leaves the session's time alone, and not {left:?}"
        );
        assert_eq!(self.replace(&key, &first, &second).await, Replaced::Done);
        self.is_taken(&key, LONG).await;
        let deleted = self.0.delete(&key, Durability::Primary).await;
        assert_eq!(deleted.expect("delete"), Deleted::Done);
        self.is_taken(&key, LONG).await;
        self.release(&key, owner).await;
        assert_eq!(self.load(&key).await, None);
    }
}
