//! Sessions as handlers use them: merges, repeated saves, `clear`, `flush` and `cycle_id`.

use std::sync::Arc;

use sessile::{MemoryStore, SessionStore};
use sessile_tower_sessions::SessileStore;
use tokio::sync::Barrier;
use tower_sessions::Session;
use tower_sessions::session::Id;

use crate::support::{Server, on_both_stores, redis};

type Shared<S> = Arc<SessileStore<S>>;

/// A session with these values, of which each request makes its own `Session`.
async fn stored<S: SessionStore>(store: &Shared<S>, values: &[(&str, i64)]) -> Id {
    let session = Session::new(None, Arc::clone(store), None);
    for (key, value) in values {
        session.insert(key, value).await.unwrap();
    }
    session.save().await.unwrap();
    session.id().unwrap()
}

/// The session of a request that has loaded it.
async fn request<S: SessionStore>(store: &Shared<S>, id: Id) -> Session {
    let session = Session::new(Some(id), Arc::clone(store), None);
    session.load().await.unwrap();
    session
}

/// The values of these keys, as the next request sees them.
async fn seen<S: SessionStore, const N: usize>(
    store: &Shared<S>,
    id: Id,
    keys: [&str; N],
) -> [Option<i64>; N] {
    let session = request(store, id).await;
    let mut values = [None; N];
    for (at, key) in keys.iter().enumerate() {
        values[at] = session.get(key).await.unwrap();
    }
    values
}

on_both_stores!(
    requests_that_change_different_keys_all_survive,
    requests_on_two_nodes_that_change_different_keys_all_survive,
    of_two_changes_of_one_key_the_later_save_wins,
    a_removed_key_stays_removed_unless_the_other_request_changed_it,
    a_request_that_saves_twice_loses_no_change_of_its_own,
    a_request_that_saves_twice_does_not_undo_a_later_change_of_another,
    a_created_session_saves_again,
    a_save_without_changes_keeps_those_of_others,
    a_reloaded_session_is_compared_with_what_it_reloaded,
    a_cleared_session_replaces_all_that_is_stored,
    after_a_flush_the_session_is_gone_and_the_next_one_has_a_new_id,
    after_cycle_id_the_data_is_there_and_the_old_id_is_not,
    a_slow_request_does_not_bring_back_an_ended_session,
);

async fn requests_that_change_different_keys_all_survive<S: SessionStore>(store: SessileStore<S>) {
    all_survive(&[Arc::new(store)]).await;
}

async fn requests_on_two_nodes_that_change_different_keys_all_survive<S: SessionStore + Clone>(
    store: SessileStore<S>,
) {
    // Each has locks and a memory of saves of its own, as on two nodes.
    let other = SessileStore::new(store.store().clone());
    all_survive(&[Arc::new(store), Arc::new(other)]).await;
}

async fn all_survive<S: SessionStore>(nodes: &[Shared<S>]) {
    const REQUESTS: i64 = 40;
    let id = stored(&nodes[0], &[("kept", 1), ("removed", 1)]).await;
    let barrier = Arc::new(Barrier::new(usize::try_from(REQUESTS).unwrap()));
    let mut tasks = Vec::new();
    for n in 0..REQUESTS {
        let node = &nodes[usize::try_from(n).unwrap() % nodes.len()];
        let session = request(node, id).await;
        let barrier = Arc::clone(&barrier);
        tasks.push(tokio::spawn(async move {
            session.insert(&format!("key{n}"), n).await.unwrap();
            if n == 0 {
                session.remove_value("removed").await.unwrap();
            }
            barrier.wait().await;
            session.save().await.unwrap();
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    for node in nodes {
        assert_eq!(seen(node, id, ["kept", "removed"]).await, [Some(1), None]);
        for n in 0..REQUESTS {
            let key = format!("key{n}");
            assert_eq!(seen(node, id, [&key]).await, [Some(n)], "{key}");
        }
    }
}

async fn of_two_changes_of_one_key_the_later_save_wins<S: SessionStore>(store: SessileStore<S>) {
    let store = Arc::new(store);
    let id = stored(&store, &[("a", 1)]).await;
    let (first, second) = (request(&store, id).await, request(&store, id).await);
    first.insert("a", 2).await.unwrap();
    second.insert("a", 3).await.unwrap();
    second.save().await.unwrap();
    first.save().await.unwrap();
    assert_eq!(seen(&store, id, ["a"]).await, [Some(2)]);
}

async fn a_removed_key_stays_removed_unless_the_other_request_changed_it<S: SessionStore>(
    store: SessileStore<S>,
) {
    let store = Arc::new(store);
    let id = stored(&store, &[("a", 1), ("b", 1)]).await;
    let (first, second) = (request(&store, id).await, request(&store, id).await);
    first.remove_value("a").await.unwrap();
    first.remove_value("b").await.unwrap();
    first.save().await.unwrap();
    second.insert("b", 2).await.unwrap();
    second.save().await.unwrap();
    assert_eq!(seen(&store, id, ["a", "b"]).await, [None, Some(2)]);
}

async fn a_request_that_saves_twice_loses_no_change_of_its_own<S: SessionStore>(
    store: SessileStore<S>,
) {
    let store = Arc::new(store);
    let id = stored(&store, &[("a", 1), ("b", 1), ("c", 1)]).await;
    for others in [false, true] {
        let session = request(&store, id).await;
        session.insert("a", 2).await.unwrap();
        session.insert("new", 1).await.unwrap();
        session.remove_value("b").await.unwrap();
        session.save().await.unwrap();
        if others {
            let other = request(&store, id).await;
            other.insert("c", 2).await.unwrap();
            other.save().await.unwrap();
        }
        // As it was loaded, so that what was loaded shows no change.
        session.insert("a", 1).await.unwrap();
        session.remove_value("new").await.unwrap();
        session.insert("b", 1).await.unwrap();
        session.save().await.unwrap();
        let c = if others { 2 } else { 1 };
        let expected = [Some(1), Some(1), Some(c), None];
        assert_eq!(
            seen(&store, id, ["a", "b", "c", "new"]).await,
            expected,
            "{others}"
        );
    }
}

async fn a_request_that_saves_twice_does_not_undo_a_later_change_of_another<S: SessionStore>(
    store: SessileStore<S>,
) {
    let store = Arc::new(store);
    let id = stored(&store, &[("a", 1), ("b", 1)]).await;
    let stream = request(&store, id).await;
    stream.insert("a", 2).await.unwrap();
    stream.save().await.unwrap();
    let other = request(&store, id).await;
    other.insert("a", 3).await.unwrap();
    other.save().await.unwrap();
    for ticks in 1..4 {
        stream.insert("ticks", ticks).await.unwrap();
        stream.save().await.unwrap();
        assert_eq!(
            seen(&store, id, ["a", "ticks"]).await,
            [Some(3), Some(ticks)]
        );
    }
}

async fn a_created_session_saves_again<S: SessionStore>(store: SessileStore<S>) {
    let store = Arc::new(store);
    let session = Session::new(None, Arc::clone(&store), None);
    session.insert("a", 1).await.unwrap();
    session.save().await.unwrap();
    let id = session.id().unwrap();
    let other = request(&store, id).await;
    other.insert("b", 1).await.unwrap();
    other.save().await.unwrap();
    session.insert("c", 1).await.unwrap();
    session.save().await.unwrap();
    assert_eq!(session.id(), Some(id));
    assert_eq!(seen(&store, id, ["a", "b", "c"]).await, [Some(1); 3]);
}

async fn a_save_without_changes_keeps_those_of_others<S: SessionStore>(store: SessileStore<S>) {
    let store = Arc::new(store);
    let id = stored(&store, &[("a", 1)]).await;
    let idle = request(&store, id).await;
    let other = request(&store, id).await;
    other.insert("a", 2).await.unwrap();
    other.insert("b", 2).await.unwrap();
    other.save().await.unwrap();
    idle.save().await.unwrap();
    assert_eq!(seen(&store, id, ["a", "b"]).await, [Some(2), Some(2)]);
}

async fn a_reloaded_session_is_compared_with_what_it_reloaded<S: SessionStore>(
    store: SessileStore<S>,
) {
    let store = Arc::new(store);
    let id = stored(&store, &[("a", 1)]).await;
    let session = request(&store, id).await;
    session.insert("a", 2).await.unwrap();
    session.save().await.unwrap();
    session.load().await.unwrap();
    let other = request(&store, id).await;
    other.insert("a", 3).await.unwrap();
    other.save().await.unwrap();
    session.insert("b", 1).await.unwrap();
    session.save().await.unwrap();
    assert_eq!(seen(&store, id, ["a", "b"]).await, [Some(3), Some(1)]);
}

async fn a_cleared_session_replaces_all_that_is_stored<S: SessionStore>(store: SessileStore<S>) {
    let store = Arc::new(store);
    for loads in [true, false] {
        let id = stored(&store, &[("a", 1), ("b", 1)]).await;
        let session = Session::new(Some(id), Arc::clone(&store), None);
        if loads {
            session.load().await.unwrap();
        }
        let other = request(&store, id).await;
        other.insert("c", 1).await.unwrap();
        other.save().await.unwrap();
        session.clear().await;
        session.insert("a", 2).await.unwrap();
        session.save().await.unwrap();
        let expected = [Some(2), None, None];
        assert_eq!(seen(&store, id, ["a", "b", "c"]).await, expected, "{loads}");
    }
}

async fn after_a_flush_the_session_is_gone_and_the_next_one_has_a_new_id<S: SessionStore>(
    store: SessileStore<S>,
) {
    let store = Arc::new(store);
    let id = stored(&store, &[("a", 1)]).await;
    let session = request(&store, id).await;
    session.flush().await.unwrap();
    assert!(session.is_empty().await && session.id().is_none());
    session.insert("bye", 1).await.unwrap();
    session.save().await.unwrap();
    let next = session.id().unwrap();
    assert_ne!(next, id);
    assert_eq!(seen(&store, next, ["a", "bye"]).await, [None, Some(1)]);
    assert_eq!(seen(&store, id, ["a", "bye"]).await, [None, None]);
}

async fn after_cycle_id_the_data_is_there_and_the_old_id_is_not<S: SessionStore>(
    store: SessileStore<S>,
) {
    let store = Arc::new(store);
    let id = stored(&store, &[("a", 1)]).await;
    let session = request(&store, id).await;
    session.cycle_id().await.unwrap();
    session.insert("b", 1).await.unwrap();
    session.save().await.unwrap();
    let next = session.id().unwrap();
    assert_ne!(next, id);
    assert_eq!(seen(&store, next, ["a", "b"]).await, [Some(1); 2]);
    assert_eq!(seen(&store, id, ["a"]).await, [None]);
    // What was loaded under the old id says nothing of the new session.
    session.remove_value("a").await.unwrap();
    session.save().await.unwrap();
    assert_eq!(seen(&store, next, ["a", "b"]).await, [None, Some(1)]);
}

async fn a_slow_request_does_not_bring_back_an_ended_session<S: SessionStore>(
    store: SessileStore<S>,
) {
    let store = Arc::new(store);
    for rotates in [false, true] {
        let id = stored(&store, &[("a", 1)]).await;
        let slow = request(&store, id).await;
        slow.insert("a", 2).await.unwrap();
        let other = request(&store, id).await;
        match rotates {
            true => other.cycle_id().await.unwrap(),
            false => other.flush().await.unwrap(),
        }
        let error = slow.save().await.unwrap_err().to_string();
        assert!(error.contains("has ended"), "{error}");
        assert_eq!(seen(&store, id, ["a"]).await, [None]);
    }
}

/// The first save after a load is what tower-sessions' own stores need, too: one command.
#[tokio::test]
async fn a_save_is_one_command_and_one_more_for_each_request_that_came_first() {
    let server = Server::start();
    let store = Arc::new(redis(&server).await);
    let id = stored(&store, &[("a", 1)]).await;
    for others in 0..3 {
        let session = request(&store, id).await;
        session.insert("a", others).await.unwrap();
        for other in 0..others {
            let session = request(&store, id).await;
            session.insert("b", 10 * others + other).await.unwrap();
            session.save().await.unwrap();
        }
        server.reset_counts();
        session.save().await.unwrap();
        let saves = server.counts().of("evalsha");
        assert_eq!(
            saves,
            if others == 0 { 1 } else { 2 },
            "after {others} others"
        );
        assert_eq!(server.counts().of("set"), 1, "{others}");
    }
}

#[tokio::test]
async fn the_second_save_of_a_request_is_one_command_too() {
    let server = Server::start();
    let store = Arc::new(redis(&server).await);
    let session = Session::new(None, Arc::clone(&store), None);
    session.insert("a", 0).await.unwrap();
    session.save().await.unwrap();
    for n in 1..4 {
        session.insert("a", n).await.unwrap();
        server.reset_counts();
        session.save().await.unwrap();
        assert_eq!(server.counts().of("evalsha"), 1);
        assert_eq!(server.counts().of("get"), 0, "it need not load");
    }
}

#[tokio::test]
async fn debug_shows_no_session() {
    let store = SessileStore::new(MemoryStore::new());
    assert_eq!(format!("{store:?}"), "SessileStore { .. }");
}
