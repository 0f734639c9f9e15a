//! What was answered holds: it is seen at once, it does not come undone, and nothing arrives after it.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::conformance::{LONG, SHORT, Suite, value};
use crate::store::{
    Created, Deleted, Durability, Renewal, Replaced, StoreErrorKind, Stored, Touched, Write,
};
use crate::{Handle, SessionStore};

/// More than any store has, and no time for them.
const IN_VAIN: Durability = Durability::Replicas {
    n: u32::MAX,
    timeout: Duration::from_millis(1),
};

impl<S: SessionStore> Suite<S> {
    pub(super) async fn shows_what_was_answered(&self) {
        let mut present = value(0, b"");
        let key = self.stored(&present).await;
        for version in 1..=20 {
            let next = value(version, b"");
            let replaced = self.replace(&key, &present, &next).await;
            assert_eq!(replaced, Replaced::Done);
            let stored = self.load(&key).await.expect("the session is there");
            assert_eq!(
                stored.value(),
                &next,
                "`Latest` shows what was answered last"
            );
            present = next;
        }
        assert_eq!(self.delete(&key).await, Deleted::Done);
        assert_eq!(
            self.load(&key).await,
            None,
            "`Latest` shows that it was deleted"
        );
    }

    /// As a client does that repeats a creation, though it was answered.
    pub(super) async fn creates_once(&self) {
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
                    "a creation that was answered must not arrive again"
                );
            }
        }
    }

    pub(super) async fn revives_nothing(&self) {
        let (first, second) = (value(1, b"one"), value(2, b"two"));
        let key = self.stored(&first).await;
        assert_eq!(self.delete(&key).await, Deleted::Done);
        let other = self.stored(&first).await;
        assert_eq!(
            self.replace(&key, &first, &second).await,
            Replaced::Gone,
            "what was deleted must not be replaced, though another session has its bytes"
        );
        let touched = self.0.touch(&key, Renewal::Set(LONG)).await;
        assert_eq!(touched.expect("touch"), Touched::Unchanged);
        assert_eq!(
            self.load(&key).await,
            None,
            "a deleted session does not come back"
        );
        let stored = self.load(&other).await.expect("the other session is there");
        assert_eq!(
            stored.value(),
            &first,
            "each handle has a session of its own"
        );
        let never = Handle::random();
        assert_eq!(
            self.delete(&never).await,
            Deleted::Missing,
            "to delete what is not there is no error, and says so"
        );
    }

    pub(super) async fn extends_to_the_longest_and_cuts_at_once(&self) {
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
        let stored = self.load(&key).await.expect("the session is there");
        let left = stored.time_left().expect("a time left");
        assert!(
            left <= longest && left > longest - LONG / 4,
            "of many extensions the longest holds, and no more: {left:?} of {longest:?}"
        );
        let cut = self.0.touch(&key, Renewal::Set(SHORT)).await;
        assert_eq!(cut.expect("touch"), Touched::Done);
        tokio::time::sleep(SHORT * 2).await;
        assert_eq!(
            self.load(&key).await,
            None,
            "`Set` cuts the time that is left"
        );
    }

    /// What too few replicas have is done, and what is not done is not waited for.
    pub(super) async fn says_what_no_replica_has(&self) {
        let (first, second) = (value(1, b"one"), value(2, b"two"));
        let key = Handle::random();
        let create = || self.create_in_vain(&key, &first);
        assert_eq!(create().await, Err(StoreErrorKind::NotDurable));
        self.is(&key, &first, "what was created is on the primary")
            .await;
        assert_eq!(create().await, Ok(Created::Exists));
        let replaced = self.replace_in_vain(&key, &first, &second).await;
        assert_eq!(replaced, Err(StoreErrorKind::NotDurable));
        self.is(&key, &second, "what was replaced is on the primary")
            .await;
        let outdated = self.replace_in_vain(&key, &first, &second).await;
        assert!(
            matches!(outdated, Ok(Replaced::Conflict(_))),
            "a conflict has nothing to wait for, and is no {outdated:?}"
        );
        assert_eq!(
            self.delete_in_vain(&key).await,
            Err(StoreErrorKind::NotDurable)
        );
        assert_eq!(
            self.load(&key).await,
            None,
            "what was deleted is gone on the primary"
        );
    }

    pub(super) async fn says_that_it_has_no_replicas(&self) {
        let (first, second) = (value(1, b"one"), value(2, b"two"));
        let refused =
            "a store that cannot wait for replicas refuses to, and says so in its capabilities";
        let key = Handle::random();
        let created = self.create_in_vain(&key, &first).await;
        assert_eq!(created, Err(StoreErrorKind::Refused), "{refused}");
        assert_eq!(self.load(&key).await, None, "a refusal changes nothing");
        let key = self.stored(&first).await;
        let replaced = self.replace_in_vain(&key, &first, &second).await;
        assert_eq!(replaced, Err(StoreErrorKind::Refused), "{refused}");
        let deleted = self.delete_in_vain(&key).await;
        assert_eq!(deleted, Err(StoreErrorKind::Refused), "{refused}");
        self.is(&key, &first, "a refusal changes nothing").await;
    }

    async fn is(&self, key: &Handle, value: &bytes::Bytes, rule: &str) {
        let stored = self.load(key).await;
        assert_eq!(stored.as_ref().map(Stored::value), Some(value), "{rule}");
    }

    async fn delete(&self, key: &Handle) -> Deleted {
        let deleted = self.0.delete(key, Durability::Primary).await;
        deleted.expect("to delete is no error, whatever is there")
    }

    async fn create_in_vain(
        &self,
        key: &Handle,
        value: &bytes::Bytes,
    ) -> Result<Created, StoreErrorKind> {
        let write = Write::new(value, LONG).with_durability(IN_VAIN);
        let created = self.0.create(key, write).await;
        created.map_err(|error| error.kind())
    }

    async fn replace_in_vain(
        &self,
        key: &Handle,
        expected: &bytes::Bytes,
        value: &bytes::Bytes,
    ) -> Result<Replaced, StoreErrorKind> {
        let write = Write::new(value, LONG).with_durability(IN_VAIN);
        let expected = Stored::new(expected.clone(), None);
        let replaced = self.0.replace(key, &expected, write).await;
        replaced.map_err(|error| error.kind())
    }

    async fn delete_in_vain(&self, key: &Handle) -> Result<Deleted, StoreErrorKind> {
        let deleted = self.0.delete(key, IN_VAIN).await;
        deleted.map_err(|error| error.kind())
    }
}
