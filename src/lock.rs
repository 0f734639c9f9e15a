//! Locks that are never held while code of the application runs. That code may use the session, and would then deadlock on the
//! lock.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A mutex that sessile holds only briefly, and never across an `await`. Debug builds panic if code of the application runs while
/// one is held: see [`assert_none_held`].
#[derive(Debug, Default)]
pub(crate) struct Lock<T>(Mutex<T>);

/// The guard of a held [`Lock`].
#[derive(Debug)]
pub(crate) struct Guard<'a, T> {
    // Fields drop in this order: the mutex is unlocked before the lock counts as free.
    value: MutexGuard<'a, T>,
    #[cfg(debug_assertions)]
    _held: held::Held,
}

impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> Guard<'_, T> {
        Guard {
            value: self.0.lock().unwrap_or_else(PoisonError::into_inner),
            #[cfg(debug_assertions)]
            _held: held::Held::new(),
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

/// Call this wherever code of the application is about to run, or may run: hooks, observers, and drops of its closures.
///
/// # Panics
///
/// Panics in debug builds if this thread holds a [`Lock`], unless it is panicking already.
pub(crate) fn assert_none_held() {
    #[cfg(debug_assertions)]
    if !std::thread::panicking() {
        assert!(
            !held::any(),
            "code of the application runs while a lock of sessile is held"
        );
    }
}

#[cfg(debug_assertions)]
mod held {
    use std::cell::Cell;

    thread_local! {
        static HELD: Cell<u32> = const { Cell::new(0) };
    }

    /// Counts a lock that this thread holds. It never moves to another thread, since the guard of a mutex is not `Send`.
    #[derive(Debug)]
    pub(super) struct Held;

    impl Held {
        pub(super) fn new() -> Self {
            HELD.set(HELD.get() + 1);
            Self
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            HELD.set(HELD.get() - 1);
        }
    }

    pub(super) fn any() -> bool {
        HELD.get() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "while a lock of sessile is held")]
    fn code_of_the_application_that_runs_under_a_lock_panics() {
        let (one, other) = (Lock::new(1), Lock::new(2));
        let held = one.lock();
        drop(other.lock());
        assert_eq!(*held, 1);
        assert_none_held();
    }

    #[test]
    fn an_unlocked_lock_does_not_count_as_held() {
        let lock = Lock::new(1);
        *lock.lock() += 1;
        assert_none_held();
        assert_eq!(*lock.lock(), 2);
    }
}
