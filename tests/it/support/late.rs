//! A store in front of a `MemoryStore` that loses, delays or holds compare-and-sets as planned.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sessile::store::{
    Capabilities, Created, Deleted, Durability, Freshness, Leased, Loaded, Owner, Renewal,
    Replaced, Stored, Touched, Write,
};
use sessile::{Handle, MemoryStore, SessionStore, StoreError};

use super::forward::forward_index;

/// The fate of a compare-and-set.
#[derive(Clone, Copy, Debug)]
pub enum Post {
    /// It arrives and is answered. This is the default.
    Deliver,
    /// It arrives after this time, during which others wait.
    Slow(Duration),
    /// It never arrives.
    Lose,
    /// It arrives at the primary, reaches no replica, and is lost in the failover that follows.
    LoseByFailover,
    /// It never arrives, and fails after this time.
    LoseSlowly(Duration),
    /// It is not answered, and arrives later.
    Hold,
    /// It arrives just after the held one.
    DeliverAfterHeld,
    /// It arrives after this time, and too few replicas acknowledge it.
    DeliverShort(Duration),
}

/// A compare-and-set in flight.
struct Held {
    key: Handle,
    expected: Stored,
    value: Bytes,
    ttl: Duration,
}

#[derive(Clone)]
pub struct Late {
    store: MemoryStore,
    plan: Arc<Mutex<VecDeque<Post>>>,
    held: Arc<Mutex<Option<Held>>>,
    sent: Arc<Mutex<Vec<Bytes>>>,
    leases: bool,
    replicas: bool,
    lost_leases: Arc<AtomicBool>,
    slow_loads: Arc<Mutex<VecDeque<Duration>>>,
    slow_touch: Arc<Mutex<Option<Duration>>>,
    frozen: Arc<AtomicBool>,
}

impl Late {
    pub fn before(store: MemoryStore) -> Self {
        Self {
            store,
            plan: Arc::default(),
            held: Arc::default(),
            sent: Arc::default(),
            leases: true,
            replicas: false,
            lost_leases: Arc::default(),
            slow_loads: Arc::default(),
            slow_touch: Arc::default(),
            frozen: Arc::default(),
        }
    }

    /// Reports that the store has no leases.
    pub fn without_leases(self) -> Self {
        let leases = false;
        Self { leases, ..self }
    }

    /// Reports that the store can wait for replicas. They acknowledge every delivered write.
    pub fn with_replicas(self) -> Self {
        let replicas = true;
        Self { replicas, ..self }
    }

    /// From now on, another owner has every lease.
    pub fn lose_leases(&self) {
        self.lost_leases.store(true, Ordering::SeqCst);
    }

    /// Delays the next load that no earlier call delays.
    pub fn slow_load(&self, wait: Duration) {
        self.slow_loads.lock().unwrap().push_back(wait);
    }

    /// From now on, loads and compare-and-sets get no answer.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::SeqCst);
    }

    async fn thawed(&self) {
        if self.frozen.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    /// Delays the next renewal.
    pub fn slow_touch(&self, wait: Duration) {
        *self.slow_touch.lock().unwrap() = Some(wait);
    }

    /// Plans the fates of the next compare-and-sets.
    pub fn plan(&self, plan: &[Post]) {
        self.plan.lock().unwrap().extend(plan);
    }

    /// The values of all compare-and-sets so far, lost ones included.
    pub fn sent(&self) -> Vec<Bytes> {
        self.sent.lock().unwrap().clone()
    }

    pub fn is_done(&self) -> bool {
        self.plan.lock().unwrap().is_empty() && self.held.lock().unwrap().is_none()
    }

    /// Delivers the held compare-and-set.
    pub async fn deliver_held(&self) {
        let held = self.held.lock().unwrap().take();
        if let Some(held) = held {
            let late = self
                .store
                .replace(&held.key, &held.expected, Write::new(&held.value, held.ttl))
                .await
                .unwrap();
            assert_eq!(
                late,
                Replaced::Done,
                "the held compare-and-set must arrive in time"
            );
        }
    }
}

/// The memory store has no replicas and rejects writes that wait for them.
fn in_memory(write: Write<'_>) -> Write<'_> {
    write.with_durability(Durability::Primary)
}

impl SessionStore for Late {
    forward_index!();

    fn namespace(&self) -> &str {
        self.store.namespace()
    }

    fn now(&self) -> SystemTime {
        self.store.now()
    }

    fn capabilities(&self) -> Capabilities {
        let own = self.store.capabilities();
        own.with_lease(self.leases).with_durability(self.replicas)
    }

    async fn load(&self, key: &Handle, want: Freshness) -> Result<Loaded, StoreError> {
        self.thawed().await;
        let wait = self.slow_loads.lock().unwrap().pop_front();
        if let Some(wait) = wait {
            tokio::time::sleep(wait).await;
        }
        self.store.load(key, want).await
    }

    async fn create(&self, key: &Handle, write: Write<'_>) -> Result<Created, StoreError> {
        self.store.create(key, in_memory(write)).await
    }

    async fn replace(
        &self,
        key: &Handle,
        expected: &Stored,
        write: Write<'_>,
    ) -> Result<Replaced, StoreError> {
        self.sent.lock().unwrap().push(write.value.clone());
        let write = in_memory(write);
        self.thawed().await;
        let post = self
            .plan
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or(Post::Deliver);
        match post {
            Post::Deliver => {}
            Post::Slow(wait) => tokio::time::sleep(wait).await,
            Post::LoseSlowly(wait) => {
                tokio::time::sleep(wait).await;
                return Err(StoreError::unknown("lost"));
            }
            Post::Lose => return Err(StoreError::unknown("lost")),
            Post::LoseByFailover => return Err(StoreError::not_durable("no replica has it")),
            Post::Hold => {
                let held = Held {
                    key: *key,
                    expected: expected.clone(),
                    value: write.value.clone(),
                    ttl: write.ttl,
                };
                *self.held.lock().unwrap() = Some(held);
                return Err(StoreError::unknown("held"));
            }
            Post::DeliverAfterHeld => self.deliver_held().await,
            Post::DeliverShort(wait) => {
                tokio::time::sleep(wait).await;
                return match self.store.replace(key, expected, write).await? {
                    Replaced::Done => Err(StoreError::not_durable("no replica has it yet")),
                    found => Ok(found),
                };
            }
        }
        self.store.replace(key, expected, write).await
    }

    async fn touch(&self, key: &Handle, renewal: Renewal) -> Result<Touched, StoreError> {
        let wait = self.slow_touch.lock().unwrap().take();
        if let Some(wait) = wait {
            tokio::time::sleep(wait).await;
        }
        self.store.touch(key, renewal).await
    }

    async fn delete(&self, key: &Handle, _: Durability) -> Result<Deleted, StoreError> {
        self.store.delete(key, Durability::Primary).await
    }

    async fn acquire(
        &self,
        key: &Handle,
        owner: Owner,
        lease: Duration,
    ) -> Result<Leased, StoreError> {
        match self.leases {
            _ if self.lost_leases.load(Ordering::SeqCst) => Ok(Leased::Taken { left: lease }),
            true => self.store.acquire(key, owner, lease).await,
            false => Err(StoreError::refused("no leases")),
        }
    }

    async fn release(&self, key: &Handle, owner: Owner) -> Result<(), StoreError> {
        self.store.release(key, owner).await
    }
}
