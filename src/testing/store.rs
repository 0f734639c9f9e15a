//! A store in memory that fails, hangs and waits when a test asks for it, and remembers what was written.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::error::store::StoreError;
use crate::lock::Lock;
use crate::record::lifetime::Renewal;
use crate::store::contract::{
    Capabilities, Created, Deleted, Durability, Freshness, Loaded, Replaced, SessionStore, Stored,
    Touched, Write,
};
use crate::store::index::{Admission, Confirmed, Entered, Entry, Generation, IndexKey, Indexed};
use crate::store::lease::{Leased, Owner};
use crate::store::memory::{ManualClock, MemoryStore};
use crate::store::stats::StoreStats;
use crate::testing::fault::{Call, Calls, Fault, Plan, Step};
use crate::testing::hold::{Hold, hold};
use crate::testing::written::Written;
use crate::token::Handle;

/// Nobody uses up a minute on this store, however busy the machine is.
const BUDGET: Duration = Duration::from_secs(60);

/// A store for tests: a [`MemoryStore`] with a clock that only [`advance`](Self::advance) moves, whose calls fail, hang or wait on
/// demand, and which remembers what was written.
///
/// Clones share everything. Give one to [`SessionLayer::new`](crate::SessionLayer::new) and keep another:
///
/// ```
/// use std::time::Duration;
/// use sessile::SessionLayer;
/// use sessile::testing::{Call, Fault, TestStore};
///
/// let store = TestStore::new();
/// let layer = SessionLayer::new(store.clone());
/// store.advance(Duration::from_secs(31 * 60)); // sessions reach their idle timeout
/// store.fail(Fault::Unavailable); // all calls fail …
/// store.recover(); // … until now
/// store.fail_next(Call::Replace, Fault::LoseAnswer); // one write is carried out, and its answer is lost
/// ```
#[derive(Clone)]
pub struct TestStore {
    memory: MemoryStore,
    clock: ManualClock,
    /// A name of its own, so that a layer can tell two such stores apart.
    namespace: Arc<str>,
    request_budget: Duration,
    plan: Arc<Lock<Plan>>,
    written: Arc<Lock<Vec<Written>>>,
    /// Whether calls ignore the plan.
    is_direct: bool,
}

impl TestStore {
    /// An empty store that works, and whose clock shows the present time.
    pub fn new() -> Self {
        let clock = ManualClock::new();
        Self {
            memory: MemoryStore::new().with_clock(clock.clone()),
            clock,
            namespace: format!("test:{}:", Handle::random()).into(),
            request_budget: BUDGET,
            plan: Arc::default(),
            written: Arc::default(),
            is_direct: false,
        }
    }

    /// Sets how long a request may wait for this store; a minute by default, so that no test depends on how busy the machine is.
    /// Only [`Fault::Hang`] uses it up: in no time with `#[tokio::test(start_paused = true)]`, which needs tokio's feature
    /// `test-util`. Call it before the store is cloned.
    #[must_use]
    pub fn with_request_budget(mut self, budget: Duration) -> Self {
        self.request_budget = budget;
        self
    }

    /// Moves the store's clock forward, which decides when sessions reach their timeouts. It is independent of tokio's time.
    #[doc(alias("clock", "sleep", "travel", "expire"))]
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// From now on all calls fail in this way, until [`recover`](Self::recover).
    #[doc(alias("down", "outage"))]
    pub fn fail(&self, fault: Fault) {
        self.plan.lock().add_standing(None, fault);
    }

    /// From now on all calls of one kind fail in this way, until [`recover`](Self::recover): a [`Call::Replace`], for example, in a
    /// store that can be read and not written.
    pub fn fail_all(&self, call: Call, fault: Fault) {
        self.plan.lock().add_standing(Some(call), fault);
    }

    /// The next call of this kind fails in this way, and the ones after it do not. For several in a row, call this several times.
    pub fn fail_next(&self, call: Call, fault: Fault) {
        self.plan
            .lock()
            .add_once(Calls::Of(call), Step::Fail(fault));
    }

    /// How many faults of [`fail_next`](Self::fail_next) have not happened, those included that [`recover`](Self::recover) has taken back.
    /// Assert that it is 0, so that the test does not pass without the fault.
    pub fn faults_left(&self) -> usize {
        self.plan.lock().pending()
    }

    /// From now on no call fails, and a fault of [`fail_next`](Self::fail_next) that has not happened never does. A call that hangs
    /// already never answers.
    pub fn recover(&self) {
        self.plan.lock().recover();
    }

    /// Holds the next call of this kind, before it is carried out, until [`Hold::release`]. Meanwhile, let another request overtake
    /// it. In most tests, [`TestRequest::meanwhile`](crate::testing::TestRequest::meanwhile) does this for you.
    ///
    /// ```
    /// # use sessile::testing::{Call, TestClient, TestStore};
    /// # use sessile::SessionLayer;
    /// # async fn test(store: TestStore, mia: TestClient) {
    /// let mut hold = store.hold(Call::Replace);
    /// let order = tokio::spawn(mia.post("/order").into_future());
    /// hold.arrived().await;
    /// mia.post("/logout").await;
    /// hold.release();
    /// assert_eq!(order.await.unwrap().status(), 409);
    /// # }
    /// ```
    pub fn hold(&self, call: Call) -> Hold {
        self.hold_calls(Calls::Of(call))
    }

    pub(crate) fn hold_calls(&self, calls: Calls) -> Hold {
        let (hold, held) = hold();
        self.plan.lock().add_once(calls, Step::Hold(held));
        hold
    }

    /// What was written so far, in this order. The index of a principal's sessions and leases are not among it.
    ///
    /// A request may write after its response, in the background: wait for [`TestClient::settled`](crate::testing::TestClient::settled)
    /// first, or use [`TestRequest::assert_writes_nothing`](crate::testing::TestRequest::assert_writes_nothing), which does.
    pub fn writes(&self) -> Vec<Written> {
        self.written.lock().clone()
    }

    /// Counts the sessions that are stored, also while calls fail.
    pub fn stats(&self) -> StoreStats {
        self.memory.stats()
    }

    /// This store without its faults, for the test to look into it.
    pub(crate) fn direct(&self) -> Self {
        Self {
            is_direct: true,
            ..self.clone()
        }
    }

    fn note(&self, written: Written) {
        self.written.lock().push(written);
    }

    fn next_step(&self, call: Call, key: Option<&Handle>) -> Option<Step> {
        match self.is_direct {
            true => None,
            false => self.plan.lock().next(call, key),
        }
    }

    /// Carries a call out, unless something else is planned for it.
    async fn pass<T>(
        &self,
        call: Call,
        key: Option<&Handle>,
        run: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let fault = loop {
            match self.next_step(call, key) {
                None => return run.await,
                Some(Step::Hold(held)) => held.wait().await,
                Some(Step::Fail(fault)) => break fault,
            }
        };
        if fault == Fault::LoseAnswer {
            run.await?;
        }
        match fault.error() {
            Some(error) => Err(error),
            None => std::future::pending().await,
        }
    }
}

impl Default for TestStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TestStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestStore").finish_non_exhaustive()
    }
}

impl SessionStore for TestStore {
    fn namespace(&self) -> &str {
        &self.namespace
    }

    fn now(&self) -> SystemTime {
        self.memory.now()
    }

    fn capabilities(&self) -> Capabilities {
        let capabilities = self.memory.capabilities();
        capabilities.with_request_budget(self.request_budget)
    }

    async fn load(&self, key: &Handle, want: Freshness) -> Result<Loaded, StoreError> {
        let run = self.memory.load(key, want);
        self.pass(Call::Load, Some(key), run).await
    }

    async fn create(&self, key: &Handle, write: Write<'_>) -> Result<Created, StoreError> {
        let run = async {
            let created = self.memory.create(key, write).await?;
            if created == Created::Done {
                self.note(Written::created(*key, write.value));
            }
            Ok(created)
        };
        self.pass(Call::Create, Some(key), run).await
    }

    async fn replace(
        &self,
        key: &Handle,
        expected: &Stored,
        write: Write<'_>,
    ) -> Result<Replaced, StoreError> {
        let run = async {
            let replaced = self.memory.replace(key, expected, write).await?;
            if replaced == Replaced::Done {
                self.note(Written::replaced(*key, expected.value(), write.value));
            }
            Ok(replaced)
        };
        self.pass(Call::Replace, Some(key), run).await
    }

    async fn touch(&self, key: &Handle, renewal: Renewal) -> Result<Touched, StoreError> {
        let run = async {
            let touched = self.memory.touch(key, renewal).await?;
            if touched == Touched::Done {
                self.note(Written::without_value(Call::Touch, *key));
            }
            Ok(touched)
        };
        self.pass(Call::Touch, Some(key), run).await
    }

    async fn delete(&self, key: &Handle, durability: Durability) -> Result<Deleted, StoreError> {
        let run = async {
            let deleted = self.memory.delete(key, durability).await?;
            if deleted == Deleted::Done {
                self.note(Written::without_value(Call::Delete, *key));
            }
            Ok(deleted)
        };
        self.pass(Call::Delete, Some(key), run).await
    }

    async fn acquire(
        &self,
        key: &Handle,
        owner: Owner,
        lease: Duration,
    ) -> Result<Leased, StoreError> {
        let run = self.memory.acquire(key, owner, lease);
        self.pass(Call::Acquire, Some(key), run).await
    }

    async fn release(&self, key: &Handle, owner: Owner) -> Result<(), StoreError> {
        let run = self.memory.release(key, owner);
        self.pass(Call::Release, Some(key), run).await
    }

    async fn enter(
        &self,
        index: &IndexKey,
        entry: Entry,
        admission: Admission,
    ) -> Result<Entered, StoreError> {
        let run = self.memory.enter(index, entry, admission);
        self.pass(Call::Enter, None, run).await
    }

    async fn confirm(
        &self,
        index: &IndexKey,
        handle: &Handle,
        entered_in: Generation,
    ) -> Result<Confirmed, StoreError> {
        let run = self.memory.confirm(index, handle, entered_in);
        self.pass(Call::Confirm, None, run).await
    }

    async fn extend(&self, index: &IndexKey, entry: Entry) -> Result<(), StoreError> {
        let run = self.memory.extend(index, entry);
        self.pass(Call::Extend, None, run).await
    }

    async fn list(&self, index: &IndexKey) -> Result<Indexed, StoreError> {
        let run = self.memory.list(index);
        self.pass(Call::List, None, run).await
    }

    async fn begin_generation(
        &self,
        index: &IndexKey,
        at: SystemTime,
    ) -> Result<Generation, StoreError> {
        let run = self.memory.begin_generation(index, at);
        self.pass(Call::BeginGeneration, None, run).await
    }

    async fn leave(&self, index: &IndexKey, entries: &[Entry]) -> Result<(), StoreError> {
        let run = self.memory.leave(index, entries);
        self.pass(Call::Leave, None, run).await
    }
}
