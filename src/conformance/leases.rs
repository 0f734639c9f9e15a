//! The rules of leases.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::conformance::{LONG, SHORT, Suite, value};
use crate::store::{Created, Deleted, Durability, Leased, Owner, Replaced, StoreErrorKind};
use crate::{Handle, SessionStore};

impl<S: SessionStore> Suite<S> {
    pub(super) async fn keeps_the_rules_of_leases(&self) {
        self.leases_to_one_owner_at_a_time().await;
        self.renews_for_the_owner_only().await;
        self.releases_for_the_owner_only().await;
        self.lets_leases_expire().await;
        self.leases_to_one_of_many().await;
        self.keeps_leases_apart_from_sessions().await;
    }

    pub(super) async fn refuses_leases(&self) {
        let (key, owner) = (Handle::random(), Owner::random());
        for error in [
            self.0.acquire(&key, owner, LONG).await.err(),
            self.0.release(&key, owner).await.err(),
        ] {
            let kind = error.map(|error| error.kind());
            assert_eq!(
                kind,
                Some(StoreErrorKind::Refused),
                "a store without leases must refuse them; the capabilities of a store with leases must say so"
            );
        }
    }

    async fn acquire(&self, key: &Handle, owner: Owner, lease: Duration) -> Leased {
        self.0.acquire(key, owner, lease).await.expect("acquire")
    }

    async fn release(&self, key: &Handle, owner: Owner) {
        self.0.release(key, owner).await.expect("release");
    }

    /// Checks that another owner holds the lease, for about this long.
    async fn assert_taken(&self, key: &Handle, lease: Duration) {
        let Leased::Taken { left } = self.acquire(key, Owner::random(), LONG).await else {
            panic!("a lease that another owner holds must not be granted");
        };
        assert!(
            left <= lease && left > lease - LONG / 4,
            "the lease remains for {left:?} of {lease:?}"
        );
    }

    async fn leases_to_one_owner_at_a_time(&self) {
        let (key, other) = (Handle::random(), Handle::random());
        let (first, second) = (Owner::random(), Owner::random());
        assert_eq!(self.acquire(&key, first, LONG).await, Leased::Held);
        self.assert_taken(&key, LONG).await;
        assert_eq!(
            self.acquire(&other, second, LONG).await,
            Leased::Held,
            "each handle has its own lease"
        );
        self.assert_taken(&key, LONG).await;
    }

    async fn renews_for_the_owner_only(&self) {
        let (key, owner) = (Handle::random(), Owner::random());
        for lease in [LONG, LONG * 2, LONG / 2] {
            assert_eq!(
                self.acquire(&key, owner, lease).await,
                Leased::Held,
                "the owner may renew its lease"
            );
            self.assert_taken(&key, lease).await;
            // An owner whose request was refused must not have renewed the lease.
            self.assert_taken(&key, lease).await;
        }
    }

    async fn releases_for_the_owner_only(&self) {
        let (key, owner) = (Handle::random(), Owner::random());
        let next = Owner::random();
        self.release(&key, owner).await;
        assert_eq!(self.acquire(&key, owner, LONG).await, Leased::Held);
        self.release(&key, next).await;
        self.assert_taken(&key, LONG).await;
        self.release(&key, owner).await;
        assert_eq!(
            self.acquire(&key, next, LONG).await,
            Leased::Held,
            "a released lease is free at once"
        );
        self.release(&key, owner).await;
        self.assert_taken(&key, LONG).await;
    }

    async fn lets_leases_expire(&self) {
        let (key, owner, next) = (Handle::random(), Owner::random(), Owner::random());
        assert_eq!(self.acquire(&key, owner, SHORT).await, Leased::Held);
        tokio::time::sleep(SHORT * 2).await;
        assert_eq!(
            self.acquire(&key, next, LONG).await,
            Leased::Held,
            "a lease expires"
        );
        self.release(&key, owner).await;
        let Leased::Taken { .. } = self.acquire(&key, owner, LONG).await else {
            panic!("an owner whose lease has expired has lost it");
        };
    }

    async fn leases_to_one_of_many(&self) {
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
        assert_eq!(
            held.count(),
            1,
            "one of many concurrent owners gets the lease"
        );
    }

    async fn keeps_leases_apart_from_sessions(&self) {
        let (first, second) = (value(1, b"one"), value(2, b"two"));
        let (key, owner) = (Handle::random(), Owner::random());
        assert_eq!(self.acquire(&key, owner, LONG).await, Leased::Held);
        assert_eq!(self.load(&key).await, None, "a lease is not a session");
        assert_eq!(self.create(&key, &first, LONG * 4).await, Created::Done);
        assert_eq!(self.acquire(&key, owner, LONG).await, Leased::Held);
        let stored = self.load(&key).await.expect("the session exists");
        assert_eq!(
            stored.value(),
            &first,
            "a lease must not change the session"
        );
        let left = stored.time_left().expect("a time to live");
        assert!(
            left > LONG * 3,
            "a lease must not change the session's time to live, which is {left:?}"
        );
        assert_eq!(self.replace(&key, &first, &second).await, Replaced::Done);
        self.assert_taken(&key, LONG).await;
        let deleted = self.0.delete(&key, Durability::Primary).await;
        assert_eq!(deleted.expect("delete"), Deleted::Done);
        self.assert_taken(&key, LONG).await;
        self.release(&key, owner).await;
        assert_eq!(self.load(&key).await, None);
    }
}
