//! The rules of indexes.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::JoinSet;

use crate::conformance::{LONG, SHORT, Suite, value};
use crate::store::{
    Admission, Confirmed, Created, Entered, Entry, Generation, IndexKey, IndexedSession, Since,
    StoreErrorKind,
};
use crate::{Handle, SessionStore};

/// Longer than two nodes may disagree about the time.
const FAR: Duration = Duration::from_secs(10);

impl<S: SessionStore> Suite<S> {
    pub(super) async fn keeps_the_rules_of_indexes(&self) {
        self.lists_what_has_entered().await;
        self.admits_up_to_a_limit().await;
        self.admits_up_to_a_limit_of_many_at_once().await;
        self.refuses_sign_ins_of_earlier_generations().await;
        self.confirms_what_is_still_there().await;
        self.removes_no_later_entry().await;
        self.keeps_what_is_reserved().await;
        self.extends_and_never_shortens().await;
        self.lets_entries_end().await;
        self.keeps_indexes_apart().await;
    }

    pub(super) async fn refuses_indexes(&self) {
        let (key, entry) = (IndexKey::random(), self.entry(LONG));
        let store = &self.0;
        for error in [
            store.enter(&key, entry, self.admission(None)).await.err(),
            store
                .confirm(&key, &entry.handle, Generation::default())
                .await
                .err(),
            store.extend(&key, entry).await.err(),
            store.list(&key).await.err(),
            store.begin_generation(&key, store.now()).await.err(),
            store.leave(&key, &[entry]).await.err(),
        ] {
            assert_eq!(
                error.map(|error| error.kind()),
                Some(StoreErrorKind::Refused),
                "a store without an index must refuse; the capabilities of a store with one must say so"
            );
        }
    }

    /// An entry of a new session that ends after this time, to the millisecond.
    fn entry(&self, ttl: Duration) -> Entry {
        Entry {
            handle: Handle::random(),
            until: to_the_millisecond(self.0.now() + ttl),
        }
    }

    /// A sign-in that began just now.
    fn admission(&self, limit: Option<u32>) -> Admission {
        Admission {
            since: Since::Time(self.0.now() + FAR),
            limit,
        }
    }

    async fn enter(&self, key: &IndexKey, entry: Entry, limit: Option<u32>) -> Entered {
        let admission = self.admission(limit);
        self.0.enter(key, entry, admission).await.expect("enter")
    }

    async fn enter_since(&self, key: &IndexKey, since: Since) -> Entered {
        let admission = Admission { since, limit: None };
        let entered = self.0.enter(key, self.entry(LONG), admission).await;
        entered.expect("enter")
    }

    async fn confirm(&self, key: &IndexKey, entry: Entry, entered_in: Generation) -> Confirmed {
        let confirmed = self.0.confirm(key, &entry.handle, entered_in).await;
        confirmed.expect("confirm")
    }

    /// The entry of a session that has entered and is confirmed.
    async fn listed(&self, key: &IndexKey) -> Entry {
        let entry = self.entry(LONG);
        let Entered::Done(generation) = self.enter(key, entry, None).await else {
            panic!("a session must enter an index without a limit");
        };
        let confirmed = self.confirm(key, entry, generation).await;
        assert_eq!(
            confirmed,
            Confirmed::Done,
            "an entered session is confirmed"
        );
        let present = self.present(key, entry).await;
        assert!(
            !present.reserved && present.entry.until > entry.until,
            "a confirmed session ends a millisecond later than a reserved one"
        );
        present.entry
    }

    /// The session as the index lists it.
    async fn present(&self, key: &IndexKey, entry: Entry) -> IndexedSession {
        let listed = self.list(key).await.into_iter();
        let mut same = listed.filter(|it| it.entry.handle == entry.handle);
        same.next().expect("the session is listed")
    }

    async fn list(&self, key: &IndexKey) -> Vec<IndexedSession> {
        let mut listed = self.0.list(key).await.expect("list").sessions;
        listed.sort_by_key(|it| it.entry.handle);
        listed
    }

    async fn entries(&self, key: &IndexKey) -> Vec<Entry> {
        let listed = self.list(key).await;
        listed.into_iter().map(|it| it.entry).collect()
    }

    async fn leave(&self, key: &IndexKey, entries: &[Entry]) {
        self.0.leave(key, entries).await.expect("leave");
    }

    async fn begin_generation(&self, key: &IndexKey, at: SystemTime) -> Generation {
        let begun = self.0.begin_generation(key, at).await;
        begun.expect("begin_generation")
    }

    async fn lists_what_has_entered(&self) {
        let key = IndexKey::random();
        assert_eq!(self.entries(&key).await, [], "a new index is empty");
        let mut entries = [self.listed(&key).await, self.listed(&key).await];
        entries.sort_by_key(|entry| entry.handle);
        let confirmed = |entry| IndexedSession {
            entry,
            reserved: false,
        };
        let expected = entries.map(confirmed);
        assert_eq!(self.list(&key).await, expected, "both sessions are listed");
        for (change, reason) in [
            (LONG, "a session that enters again has the later `until`"),
            (Duration::ZERO, "which never becomes an earlier one"),
        ] {
            let until = to_the_millisecond(self.0.now() + LONG + change);
            let again = Entry {
                until,
                ..entries[0]
            };
            let before = self.present(&key, again).await.entry.until;
            let entered = self.enter(&key, again, None).await;
            assert!(matches!(entered, Entered::Done(_)));
            let present = self.present(&key, again).await;
            assert!(
                present.reserved,
                "a session that enters again is reserved again"
            );
            assert!(
                present.entry.until >= until && present.entry.until > before,
                "{reason}"
            );
        }
    }

    async fn admits_up_to_a_limit(&self) {
        let key = IndexKey::random();
        let (first, second) = (self.entry(LONG), self.entry(LONG));
        let done = Entered::Done(Generation::default());
        assert_eq!(self.enter(&key, first, Some(1)).await, done);
        assert_eq!(
            self.enter(&key, second, Some(1)).await,
            Entered::Full,
            "reserved sessions count"
        );
        assert_eq!(self.entries(&key).await, [first]);
        assert_eq!(
            self.enter(&key, first, Some(1)).await,
            done,
            "a session that is there may enter again"
        );
        assert_eq!(self.enter(&key, second, Some(2)).await, done);
        assert_eq!(self.entries(&key).await.len(), 2);
    }

    async fn admits_up_to_a_limit_of_many_at_once(&self) {
        let key = IndexKey::random();
        let mut tasks = JoinSet::new();
        for _ in 0..20 {
            let (store, entry) = (Arc::clone(&self.0), self.entry(LONG));
            let admission = self.admission(Some(3));
            tasks.spawn(async move {
                let entered = store.enter(&key, entry, admission).await.expect("enter");
                matches!(entered, Entered::Done(_))
            });
        }
        let entered = tasks.join_all().await;
        assert_eq!(
            entered.iter().filter(|done| **done).count(),
            3,
            "no more sessions enter at once than the limit allows"
        );
        assert_eq!(self.entries(&key).await.len(), 3);
    }

    async fn refuses_sign_ins_of_earlier_generations(&self) {
        let key = IndexKey::random();
        let listed = self.listed(&key).await;
        let at = self.0.now();
        let first = self.begin_generation(&key, at).await;
        assert_ne!(first, Generation::default());
        assert_eq!(
            self.entries(&key).await,
            [listed],
            "a new generation keeps the sessions of the last one"
        );
        for (since, expected) in [
            (Since::Time(at - FAR), Entered::Ended),
            (Since::Time(at), Entered::Ended),
            (Since::Time(at + FAR), Entered::Done(first)),
            (Since::Generation(Generation::default()), Entered::Ended),
            (Since::Generation(first), Entered::Done(first)),
        ] {
            let entered = self.enter_since(&key, since).await;
            assert_eq!(entered, expected, "{since:?} of a sign-out at {at:?}");
        }
        let second = self.begin_generation(&key, at - FAR).await;
        assert!(second > first, "generations never go back");
        assert_eq!(
            self.enter_since(&key, Since::Generation(first)).await,
            Entered::Ended
        );
        let empty = IndexKey::random();
        let begun = self.begin_generation(&empty, at).await;
        let generation = self.0.list(&empty).await.expect("list").generation;
        assert_eq!(generation, begun, "an empty index remembers its generation");
        assert_eq!(
            self.enter_since(&empty, Since::Time(at - FAR)).await,
            Entered::Ended
        );
    }

    async fn confirms_what_is_still_there(&self) {
        let (key, entry) = (IndexKey::random(), self.entry(LONG));
        let none = Generation::default();
        assert_eq!(
            self.confirm(&key, entry, none).await,
            Confirmed::Ended,
            "a session that never entered cannot be confirmed"
        );
        assert_eq!(self.enter(&key, entry, None).await, Entered::Done(none));
        for _ in 0..2 {
            let before = self.present(&key, entry).await.entry.until;
            assert_eq!(self.confirm(&key, entry, none).await, Confirmed::Done);
            let present = self.present(&key, entry).await;
            assert!(
                !present.reserved && present.entry.until > before,
                "a confirmed session is in the index for at least a millisecond longer"
            );
        }
        let _ = self.begin_generation(&key, self.0.now()).await;
        assert_eq!(
            self.confirm(&key, entry, none).await,
            Confirmed::Ended,
            "a session of an earlier generation cannot be confirmed"
        );
    }

    async fn removes_no_later_entry(&self) {
        let key = IndexKey::random();
        let (stays, goes) = (self.listed(&key).await, self.listed(&key).await);
        let earlier = Entry {
            until: stays.until - Duration::from_millis(1),
            ..stays
        };
        let later = Entry {
            until: goes.until + LONG,
            ..goes
        };
        self.leave(&key, &[earlier, later, self.entry(LONG)]).await;
        assert_eq!(
            self.entries(&key).await,
            [stays],
            "an entry with a later `until` stays"
        );
        self.leave(&key, &[]).await;
        self.leave(&key, &[stays]).await;
        assert_eq!(self.entries(&key).await, []);
    }

    async fn keeps_what_is_reserved(&self) {
        let (key, entry) = (IndexKey::random(), self.entry(LONG));
        let Entered::Done(generation) = self.enter(&key, entry, None).await else {
            panic!("a session must enter an index without a limit");
        };
        self.leave(&key, &[entry]).await;
        assert_eq!(self.entries(&key).await, [entry], "a reserved entry stays");
        let confirmed = self.confirm(&key, entry, generation).await;
        assert_eq!(confirmed, Confirmed::Done);
        self.leave(&key, &[entry]).await;
        let present = self.present(&key, entry).await;
        self.leave(&key, &[present.entry]).await;
        assert_eq!(self.entries(&key).await, []);
    }

    async fn extends_and_never_shortens(&self) {
        let key = IndexKey::random();
        let entry = self.listed(&key).await;
        let by = |millis: u64, later: bool| Entry {
            until: match later {
                true => entry.until + Duration::from_millis(millis),
                false => entry.until - Duration::from_millis(millis),
            },
            ..entry
        };
        for (extended, expected) in [(by(5, false), entry), (by(7, true), by(7, true))] {
            self.0.extend(&key, extended).await.expect("extend");
            assert_eq!(self.entries(&key).await, [expected]);
        }
        let missing = self.entry(LONG);
        self.0.extend(&key, missing).await.expect("extend");
        assert_eq!(
            self.entries(&key).await.len(),
            2,
            "extending adds a session that is missing"
        );
    }

    async fn lets_entries_end(&self) {
        let key = IndexKey::random();
        let (short, long) = (self.entry(SHORT), self.entry(LONG));
        for entry in [short, long] {
            let entered = self.enter(&key, entry, Some(2)).await;
            assert!(matches!(entered, Entered::Done(_)));
        }
        tokio::time::sleep(SHORT * 2).await;
        assert_eq!(
            self.entries(&key).await,
            [long],
            "an ended entry is not listed"
        );
        let entered = self.enter(&key, self.entry(LONG), Some(2)).await;
        assert!(matches!(entered, Entered::Done(_)), "nor does it count");
    }

    async fn keeps_indexes_apart(&self) {
        let (one, other) = (IndexKey::random(), IndexKey::random());
        let entry = self.listed(&one).await;
        assert_eq!(self.entries(&other).await, []);
        let _ = self.begin_generation(&other, self.0.now()).await;
        let generation = self.0.list(&one).await.expect("list").generation;
        assert_eq!(generation, Generation::default());
        assert_eq!(
            self.load(&entry.handle).await,
            None,
            "an entry is not a session"
        );
        let created = self.create(&entry.handle, &value(1, b"one"), LONG).await;
        assert_eq!(created, Created::Done);
        self.leave(&one, &[entry]).await;
        assert!(self.load(&entry.handle).await.is_some());
    }
}

fn to_the_millisecond(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let below = Duration::from_nanos(u64::from(since.subsec_nanos() % 1_000_000));
    time - below
}
