//! Sessions of another store are taken over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use sessile_tower_sessions::SessileStore;
use tower_sessions::session::{Id, Record};
use tower_sessions::{MemoryStore, Session, SessionStore, session_store};

use crate::contract::{Silent, record};
use crate::support::on_both_stores;

/// A session in the former store.
async fn former_session(former: &MemoryStore) -> Record {
    let mut session = record(json!({"a": 1}));
    former.create(&mut session).await.unwrap();
    session
}

/// A former store whose deletions fail while it is down.
#[derive(Clone, Debug, Default)]
struct Down {
    store: MemoryStore,
    is_down: Arc<AtomicBool>,
}

#[async_trait::async_trait]
impl SessionStore for Down {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        self.store.create(record).await
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        self.store.save(record).await
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        self.store.load(id).await
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        match self.is_down.load(Ordering::Relaxed) {
            true => Err(session_store::Error::Backend("it is down".to_owned())),
            false => self.store.delete(id).await,
        }
    }
}

on_both_stores!(
    a_session_moves_with_its_id_and_its_values,
    a_session_that_has_moved_merges,
    a_logout_is_final_whether_the_session_has_moved_or_not,
    a_logout_ends_the_session_although_the_former_store_is_down,
    a_request_that_read_the_former_store_before_a_logout_does_not_bring_the_session_back,
    an_expired_session_does_not_move,
    new_sessions_go_into_the_new_store_only,
);

async fn a_session_moves_with_its_id_and_its_values<S: sessile::SessionStore>(
    store: SessileStore<S>,
) {
    let former = MemoryStore::default();
    let old = former_session(&former).await;
    let moving = store.clone().taking_over_from(former.clone());
    let loaded = moving.load(&old.id).await.unwrap().unwrap();
    assert_eq!((loaded.id, &loaded.data["a"]), (old.id, &json!(1)));
    assert!((loaded.expiry_date - old.expiry_date).abs() < std::time::Duration::from_millis(1));
    assert_eq!(former.load(&old.id).await.unwrap(), None);
    assert!(store.load(&old.id).await.unwrap().is_some());
    assert_eq!(moving.load(&Id::default()).await.unwrap(), None);
}

async fn a_session_that_has_moved_merges<S: sessile::SessionStore>(store: SessileStore<S>) {
    let former = MemoryStore::default();
    let old = former_session(&former).await;
    let moving = Arc::new(store.taking_over_from(former));
    let sessions = [0, 1].map(|_| Session::new(Some(old.id), Arc::clone(&moving), None));
    for (n, session) in sessions.iter().enumerate() {
        session.insert(&format!("key{n}"), n).await.unwrap();
    }
    for session in &sessions {
        session.save().await.unwrap();
    }
    let data = moving.load(&old.id).await.unwrap().unwrap().data;
    assert_eq!([&data["a"], &data["key0"], &data["key1"]], [1, 0, 1]);
}

async fn a_logout_is_final_whether_the_session_has_moved_or_not<S: sessile::SessionStore>(
    store: SessileStore<S>,
) {
    for moves in [false, true] {
        let former = MemoryStore::default();
        let old = former_session(&former).await;
        let moving = store.clone().taking_over_from(former.clone());
        let loaded = match moves {
            true => moving.load(&old.id).await.unwrap().unwrap(),
            false => old.clone(),
        };
        moving.delete(&old.id).await.unwrap();
        assert_eq!(former.load(&old.id).await.unwrap(), None);
        assert_eq!(moving.load(&old.id).await.unwrap(), None);
        match moving.save(&loaded).await {
            Err(session_store::Error::Backend(text)) => {
                assert!(text.contains("has ended"), "{text}")
            }
            other => panic!("{other:?}"),
        }
        let session = Session::new(Some(old.id), Arc::new(moving.clone()), None);
        session.clear().await;
        session.save().await.unwrap();
        session.insert("a", 2).await.unwrap();
        let error = session.save().await.unwrap_err().to_string();
        assert!(error.contains("`flush` or `cycle_id`"), "{error}");
        assert_eq!(moving.load(&old.id).await.unwrap(), None);
    }
}

async fn a_logout_ends_the_session_although_the_former_store_is_down<S: sessile::SessionStore>(
    store: SessileStore<S>,
) {
    for moves in [false, true] {
        let former = Down::default();
        let old = former_session(&former.store).await;
        let moving = store.clone().taking_over_from(former.clone());
        if moves {
            assert!(moving.load(&old.id).await.unwrap().is_some());
        }
        former.is_down.store(true, Ordering::Relaxed);
        match moving.delete(&old.id).await {
            Err(session_store::Error::Backend(text)) => {
                assert!(text.contains("it is down"), "{text}")
            }
            other => panic!("{other:?}"),
        }
        former.is_down.store(false, Ordering::Relaxed);
        assert_eq!(moving.load(&old.id).await.unwrap(), None, "{moves}");
        assert_eq!(former.load(&old.id).await.unwrap(), None, "{moves}");
    }
}

#[tokio::test]
async fn a_logout_deletes_the_former_session_although_the_new_store_is_down() {
    let former = MemoryStore::default();
    let old = former_session(&former).await;
    let moving = SessileStore::new(Silent).taking_over_from(former.clone());
    moving.delete(&old.id).await.unwrap_err();
    assert_eq!(former.load(&old.id).await.unwrap(), None);
}

async fn a_request_that_read_the_former_store_before_a_logout_does_not_bring_the_session_back<
    S: sessile::SessionStore,
>(
    store: SessileStore<S>,
) {
    let former = MemoryStore::default();
    let old = former_session(&former).await;
    let moving = store.taking_over_from(former.clone());
    moving.delete(&old.id).await.unwrap();
    // As the slow request sees it, which asked before the logout and goes on after it.
    former.save(&old).await.unwrap();
    assert_eq!(moving.load(&old.id).await.unwrap(), None);
}

async fn an_expired_session_does_not_move<S: sessile::SessionStore>(store: SessileStore<S>) {
    let former = MemoryStore::default();
    let mut old = former_session(&former).await;
    old.expiry_date -= std::time::Duration::from_secs(60 * 60);
    former.save(&old).await.unwrap();
    let moving = store.taking_over_from(former);
    assert_eq!(moving.load(&old.id).await.unwrap(), None);
}

async fn new_sessions_go_into_the_new_store_only<S: sessile::SessionStore>(store: SessileStore<S>) {
    let former = MemoryStore::default();
    let moving = Arc::new(store.taking_over_from(former.clone()));
    let session = Session::new(None, Arc::clone(&moving), None);
    session.insert("a", 1).await.unwrap();
    session.save().await.unwrap();
    let id = session.id().unwrap();
    assert_eq!(former.load(&id).await.unwrap(), None);
    session.cycle_id().await.unwrap();
    session.save().await.unwrap();
    assert_eq!(moving.load(&id).await.unwrap(), None);
    assert!(moving.load(&session.id().unwrap()).await.unwrap().is_some());
}
