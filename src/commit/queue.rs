//! One commit of a session at a time in a process, in the order in which they came.
//!
//! The record remembers the last commit of each writer. One at a time, a writer's commits reach a session in the order of
//! their numbers, so that an older number in the record proves that a later one has not been applied; and requests that wait
//! here do not race each other at the store.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::token::Handle;

/// Who may commit to which session.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<Handle, Weak<AsyncMutex<()>>>>);

/// The right to commit to one session, until dropped.
pub(crate) struct Turn {
    held: Option<OwnedMutexGuard<()>>,
    handle: Handle,
    turns: Arc<Turns>,
}

impl Turns {
    /// Waits for the session's turn. Waiters are served in order; dropping the future gives up the place.
    pub(crate) async fn take(self: &Arc<Self>, handle: Handle) -> Turn {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = turns.entry(handle).or_default();
            entry.upgrade().unwrap_or_else(|| {
                let fresh = Arc::new(AsyncMutex::new(()));
                *entry = Arc::downgrade(&fresh);
                fresh
            })
        };
        // Built first, so that a waiter who gives up also clears the entry that it may have made.
        let mut place = Turn {
            held: None,
            handle,
            turns: Arc::clone(self),
        };
        place.held = Some(turn.lock_owned().await);
        place
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.held.take());
        let mut turns = self.turns.0.lock().unwrap_or_else(PoisonError::into_inner);
        if turns
            .get(&self.handle)
            .is_some_and(|turn| turn.strong_count() == 0)
        {
            turns.remove(&self.handle);
        }
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_a_session_and_nothing_is_left_behind() {
        let turns = Arc::new(Turns::default());
        let (one, other) = (Handle::random(), Handle::random());
        let held = turns.take(one).await;
        let elsewhere = turns.take(other).await;
        let wait = Duration::from_millis(20);
        assert!(tokio::time::timeout(wait, turns.take(one)).await.is_err());
        drop(held);
        let next = tokio::time::timeout(wait, turns.take(one))
            .await
            .expect("the turn is free");
        drop((next, elsewhere));
        assert!(turns.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn many_tasks_never_hold_one_session_together() {
        let turns = Arc::new(Turns::default());
        let handle = Handle::random();
        let inside = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let (turns, inside) = (Arc::clone(&turns), Arc::clone(&inside));
                tokio::spawn(async move {
                    let _turn = turns.take(handle).await;
                    assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(turns.0.lock().unwrap().is_empty());
    }
}
