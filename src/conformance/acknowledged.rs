//! The rules of acknowledged operations: loads show them at once, nothing undoes them, and no copy of them arrives later.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::conformance::{LONG, SHORT, Suite, value};
use crate::store::{
    Created, Deleted, Durability, Renewal, Replaced, StoreErrorKind, Stored, Touched, Write,
};
use crate::{Handle, SessionStore};

/// More replicas than any store has, with the shortest timeout.
const TOO_MANY_REPLICAS: Durability = Durability::Replicas {
    n: u32::MAX,
    timeout: Duration::from_millis(1),
};

impl<S: SessionStore> Suite<S> {
    pub(super) async fn loads_acknowledged_writes(&self) {
        let mut present = value(0, b"");
        let key = self.stored(&present).await;
        for version in 1..=20 {
            let next = value(version, b"");
            let replaced = self.replace(&key, &present, &next).await;
            assert_eq!(replaced, Replaced::Done);
            let stored = self.load(&key).await.expect("the session exists");
            assert_eq!(
                stored.value(),
                &next,
                "`Latest` shows the last acknowledged value"
            );
            present = next;
        }
        assert_eq!(self.delete(&key).await, Deleted::Done);
        assert_eq!(self.load(&key).await, None, "`Latest` shows the deletion");
    }

    /// Detects a client that resends a creation after it was acknowledged.
    pub(super) async fn creates_only_once(&self) {
        let mut tasks = JoinSet::new();
        for version in 1..=20 {
            let store = Arc::clone(&self.0);
            tasks.spawn(async move {
                let (key, mine) = (Handle::random(), value(version, b""));
                let created = store.create(&key, Write::new(&mine, LONG)).await;
                assert_eq!(created.expect("create"), Created::Done);
                let deleted = store.delete(&key, Durability::Primary).await;
                assert_eq!(deleted.expect("delete"), Deleted::Done);
                key
            });
        }
        let keys = tasks.join_all().await;
        for wait in [Duration::ZERO, SHORT] {
            tokio::time::sleep(wait).await;
            for key in &keys {
                assert_eq!(
                    self.load(key).await,
                    None,
                    "an acknowledged creation must not arrive again"
                );
            }
        }
    }

    pub(super) async fn never_revives_a_deleted_session(&self) {
        let (first, second) = (value(1, b"one"), value(2, b"two"));
        let key = self.stored(&first).await;
        assert_eq!(self.delete(&key).await, Deleted::Done);
        let other = self.stored(&first).await;
        assert_eq!(
            self.replace(&key, &first, &second).await,
            Replaced::Gone,
            "a deleted session must not be replaced, though another session has its bytes"
        );
        let touched = self.0.touch(&key, Renewal::Set(LONG)).await;
        assert_eq!(touched.expect("touch"), Touched::Unchanged);
        assert_eq!(
            self.load(&key).await,
            None,
            "a deleted session does not come back"
        );
        let stored = self.load(&other).await.expect("the other session exists");
        assert_eq!(stored.value(), &first, "each handle has its own session");
        let never = Handle::random();
        assert_eq!(
            self.delete(&never).await,
            Deleted::Missing,
            "deleting a missing session must return `Missing`"
        );
    }

    pub(super) async fn extends_to_the_longest_and_shortens_at_once(&self) {
        let first = value(1, b"");
        let key = self.stored(&first).await;
        let mut tasks = JoinSet::new();
        for seconds in 1..=20 {
            let store = Arc::clone(&self.0);
            let renewal = Renewal::Extend(LONG + Duration::from_secs(seconds));
            tasks.spawn(async move { store.touch(&key, renewal).await.expect("touch") });
        }
        tasks.join_all().await;
        let longest = LONG + Duration::from_secs(20);
        let stored = self.load(&key).await.expect("the session exists");
        let left = stored.time_left().expect("a time to live");
        assert!(
            left <= longest && left > longest - LONG / 4,
            "the longest of many extensions applies, and they must not add up: {left:?} of {longest:?}"
        );
        let cut = self.0.touch(&key, Renewal::Set(SHORT)).await;
        assert_eq!(cut.expect("touch"), Touched::Done);
        tokio::time::sleep(SHORT * 2).await;
        assert_eq!(self.load(&key).await, None, "`Set` cuts the time to live");
    }

    /// A write that too few replicas acknowledge is applied on the primary. A write that is not applied does not wait for replicas.
    pub(super) async fn reports_missing_replicas(&self) {
        let (first, second) = (value(1, b"one"), value(2, b"two"));
        let key = Handle::random();
        let create = || self.create_on_too_many_replicas(&key, &first);
        assert_eq!(create().await, Err(StoreErrorKind::NotDurable));
        self.assert_stored(&key, &first, "the primary has the created session")
            .await;
        assert_eq!(create().await, Ok(Created::Exists));
        let replaced = self
            .replace_on_too_many_replicas(&key, &first, &second)
            .await;
        assert_eq!(replaced, Err(StoreErrorKind::NotDurable));
        self.assert_stored(&key, &second, "the primary has the replacement")
            .await;
        let outdated = self
            .replace_on_too_many_replicas(&key, &first, &second)
            .await;
        assert!(
            matches!(outdated, Ok(Replaced::Conflict(_))),
            "a conflict must not wait for replicas: {outdated:?}"
        );
        assert_eq!(
            self.delete_on_too_many_replicas(&key).await,
            Err(StoreErrorKind::NotDurable)
        );
        assert_eq!(
            self.load(&key).await,
            None,
            "the primary has deleted the session"
        );
    }

    pub(super) async fn refuses_to_wait_for_replicas(&self) {
        let (first, second) = (value(1, b"one"), value(2, b"two"));
        let refused =
            "a store that cannot wait for replicas refuses to, and its capabilities say so";
        let key = Handle::random();
        let created = self.create_on_too_many_replicas(&key, &first).await;
        assert_eq!(created, Err(StoreErrorKind::Refused), "{refused}");
        assert_eq!(self.load(&key).await, None, "a refusal changes nothing");
        let key = self.stored(&first).await;
        let replaced = self
            .replace_on_too_many_replicas(&key, &first, &second)
            .await;
        assert_eq!(replaced, Err(StoreErrorKind::Refused), "{refused}");
        let deleted = self.delete_on_too_many_replicas(&key).await;
        assert_eq!(deleted, Err(StoreErrorKind::Refused), "{refused}");
        self.assert_stored(&key, &first, "a refusal changes nothing")
            .await;
    }

    async fn assert_stored(&self, key: &Handle, value: &bytes::Bytes, rule: &str) {
        let stored = self.load(key).await;
        assert_eq!(stored.as_ref().map(Stored::value), Some(value), "{rule}");
    }

    async fn delete(&self, key: &Handle) -> Deleted {
        let deleted = self.0.delete(key, Durability::Primary).await;
        deleted.expect("deleting must not fail, whether or not the session exists")
    }

    async fn create_on_too_many_replicas(
        &self,
        key: &Handle,
        value: &bytes::Bytes,
    ) -> Result<Created, StoreErrorKind> {
        let write = Write::new(value, LONG).with_durability(TOO_MANY_REPLICAS);
        let created = self.0.create(key, write).await;
        created.map_err(|error| error.kind())
    }

    async fn replace_on_too_many_replicas(
        &self,
        key: &Handle,
        expected: &bytes::Bytes,
        value: &bytes::Bytes,
    ) -> Result<Replaced, StoreErrorKind> {
        let write = Write::new(value, LONG).with_durability(TOO_MANY_REPLICAS);
        let expected = Stored::new(expected.clone(), None);
        let replaced = self.0.replace(key, &expected, write).await;
        replaced.map_err(|error| error.kind())
    }

    async fn delete_on_too_many_replicas(&self, key: &Handle) -> Result<Deleted, StoreErrorKind> {
        let deleted = self.0.delete(key, TOO_MANY_REPLICAS).await;
        deleted.map_err(|error| error.kind())
    }
}
