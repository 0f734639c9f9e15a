//! Both stores pass the public conformance suite, and the suite names the rule that a flawed store breaks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use sessile::conformance::check;
use sessile::store::{
    Capabilities, Created, Deleted, Durability, Freshness, Leased, Loaded, Owner, Renewal,
    Replaced, Stored, Touched, Write,
};
use sessile::{AnyStore, Handle, MemoryStore, SessionStore, StoreError};

use crate::support::Ground;
use crate::support::forward::forward_index;

#[tokio::test]
async fn the_memory_store_passes_the_suite() {
    check(MemoryStore::new()).await;
}

#[tokio::test]
async fn a_pointer_to_a_store_passes_the_suite() {
    check(Arc::new(MemoryStore::new())).await;
}

#[tokio::test]
async fn the_redis_store_passes_the_suite() {
    let ground = Ground::new();
    check(ground.store().await).await;
}

#[tokio::test]
async fn the_store_of_a_configuration_passes_the_suite() {
    let ground = Ground::new();
    check(AnyStore::from(MemoryStore::new())).await;
    check(AnyStore::from(ground.store().await)).await;
}

#[tokio::test]
async fn the_suite_names_the_rule_that_a_store_breaks() {
    for (flaw, rule) in [
        (Flaw::CreatesAgain, "must not arrive again"),
        (
            Flaw::ShowsTheFirst,
            "`Latest` shows the last acknowledged value",
        ),
        (Flaw::RevivesByTouching, "does not come back"),
        (Flaw::SharesBytes, "must not be replaced, though another"),
        (Flaw::FailsToDeleteNothing, "must not fail, whether or not"),
        (Flaw::DeletesAnything, "must return `Missing`"),
        (Flaw::AddsUp, "they must not add up"),
        (Flaw::NeverCuts, "`Set` cuts"),
        (Flaw::IgnoresDurability, "refuses to"),
        (Flaw::ClaimsDurability, "NotDurable"),
    ] {
        let checked = tokio::spawn(check(Flawed::with(flaw)));
        let panic = checked.await.expect_err("a flaw").into_panic();
        let message = panic.downcast::<String>().expect("a message");
        assert!(message.contains(rule), "{flaw:?}: {message}");
    }
}

/// The flaw of a store.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    /// A copy of the creation arrives again after the deletion.
    CreatesAgain,
    /// Loads return the value of the first load.
    ShowsTheFirst,
    /// Touching a deleted session restores it.
    RevivesByTouching,
    /// A compare-and-set does not distinguish a deleted session from another one with the same bytes.
    SharesBytes,
    FailsToDeleteNothing,
    /// It reports the deletion of a missing session.
    DeletesAnything,
    /// Concurrent renewals add up.
    AddsUp,
    NeverCuts,
    IgnoresDurability,
    /// It claims to wait for replicas, and does not.
    ClaimsDurability,
}

struct Flawed {
    store: MemoryStore,
    flaw: Flaw,
    /// The first loaded value of each session.
    first: Mutex<HashMap<Handle, Stored>>,
}

impl Flawed {
    fn with(flaw: Flaw) -> Self {
        Self {
            store: MemoryStore::new(),
            flaw,
            first: Mutex::default(),
        }
    }

    fn first(&self, key: &Handle) -> Option<Stored> {
        self.first.lock().unwrap().get(key).cloned()
    }

    async fn bring_back(&self, key: &Handle) {
        if let Some(first) = self.first(key) {
            let write = Write::new(first.value(), Duration::from_secs(60));
            let _ = self.store.create(key, write).await;
        }
    }

    /// The durability that the inner store can provide.
    fn durability(&self, asked: Durability) -> Durability {
        match self.flaw {
            Flaw::IgnoresDurability | Flaw::ClaimsDurability => Durability::Primary,
            _ => asked,
        }
    }
}

impl SessionStore for Flawed {
    forward_index!();

    fn namespace(&self) -> &str {
        self.store.namespace()
    }

    fn now(&self) -> SystemTime {
        self.store.now()
    }

    fn capabilities(&self) -> Capabilities {
        let claims = self.flaw == Flaw::ClaimsDurability;
        self.store.capabilities().with_durability(claims)
    }

    async fn load(&self, key: &Handle, want: Freshness) -> Result<Loaded, StoreError> {
        let loaded = self.store.load(key, want).await?;
        // The values that the suite replaces repeatedly.
        let many = match &loaded {
            Loaded::Found(stored) => stored.value().len() == Stored::VERSION_LEN,
            _ => false,
        };
        match self.first(key) {
            Some(first) if many && self.flaw == Flaw::ShowsTheFirst => Ok(Loaded::Found(first)),
            _ => Ok(loaded),
        }
    }

    async fn create(&self, key: &Handle, write: Write<'_>) -> Result<Created, StoreError> {
        let durability = self.durability(write.durability);
        let created = self
            .store
            .create(key, write.with_durability(durability))
            .await?;
        if created == Created::Done {
            let first = Stored::new(write.value.clone(), Some(write.ttl));
            self.first.lock().unwrap().insert(*key, first);
        }
        Ok(created)
    }

    async fn replace(
        &self,
        key: &Handle,
        expected: &Stored,
        write: Write<'_>,
    ) -> Result<Replaced, StoreError> {
        let durability = self.durability(write.durability);
        let write = write.with_durability(durability);
        let replaced = self.store.replace(key, expected, write).await?;
        let twins = self.first.lock().unwrap();
        let same =
            |other: &&Stored| other.value() == expected.value() && other.value().ends_with(b"one");
        match twins.values().filter(same).count() {
            2.. if replaced == Replaced::Gone && self.flaw == Flaw::SharesBytes => {
                Ok(Replaced::Done)
            }
            _ => Ok(replaced),
        }
    }

    async fn touch(&self, key: &Handle, renewal: Renewal) -> Result<Touched, StoreError> {
        let left = match self.store.load(key, Freshness::Latest).await? {
            Loaded::Found(stored) => stored.time_left().unwrap_or_default(),
            _ => Duration::ZERO,
        };
        let renewal = match (self.flaw, renewal) {
            (Flaw::AddsUp, Renewal::Extend(ttl)) if ttl.as_secs() % 60 != 0 => {
                Renewal::Set(left + ttl)
            }
            (Flaw::NeverCuts, Renewal::Set(ttl)) if ttl.as_secs() == 0 => {
                let extended = self.store.touch(key, Renewal::Extend(ttl));
                return extended.await.map(|_| Touched::Done);
            }
            (_, renewal) => renewal,
        };
        if self.flaw == Flaw::RevivesByTouching && self.first(key).is_some() && left.is_zero() {
            self.bring_back(key).await;
            return Ok(Touched::Unchanged);
        }
        self.store.touch(key, renewal).await
    }

    async fn delete(&self, key: &Handle, durability: Durability) -> Result<Deleted, StoreError> {
        let deleted = self.store.delete(key, self.durability(durability)).await?;
        match self.flaw {
            Flaw::CreatesAgain => self.bring_back(key).await,
            Flaw::DeletesAnything if self.first(key).is_none() => return Ok(Deleted::Done),
            Flaw::FailsToDeleteNothing if self.first(key).is_none() => {
                return Err(StoreError::refused("there is nothing"));
            }
            _ => {}
        }
        Ok(deleted)
    }

    async fn acquire(
        &self,
        key: &Handle,
        owner: Owner,
        lease: Duration,
    ) -> Result<Leased, StoreError> {
        self.store.acquire(key, owner, lease).await
    }

    async fn release(&self, key: &Handle, owner: Owner) -> Result<(), StoreError> {
        self.store.release(key, owner).await
    }
}
