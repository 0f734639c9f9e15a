//! Logouts of sessions that could not be loaded, while they wait for the store.
//!
//! Their tokens have not been checked yet, so anybody can forge them. Hence they have a queue of their own, of limited
//! length: forged ones take no place from the deletions of known sessions.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::token::Token;

/// How many logouts may wait, so that an outage does not pile up tasks. The session of one that is displaced expires by its
/// idle timeout.
const MAX_WAITING: usize = 1024;

/// The waiting logouts, the oldest first.
#[derive(Default)]
pub(crate) struct Logouts(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    next: u64,
}

struct Waiting {
    number: u64,
    token: Token,
    /// Dropped when the logout is displaced, which its task notices.
    _guard: oneshot::Sender<()>,
}

/// A logout's place among those that wait.
pub(crate) struct Place {
    pub(crate) number: u64,
    /// Resolves when the logout is displaced, since too many have come after it.
    pub(crate) displaced: oneshot::Receiver<()>,
}

impl Logouts {
    /// Adds a logout; displaces the oldest if too many wait. `None` if one with this token waits already.
    pub(crate) fn join(&self, token: &Token) -> Option<Place> {
        let mut queue = self.lock();
        if queue.waiting.iter().any(|waiting| waiting.token == *token) {
            return None;
        }
        if queue.waiting.len() >= MAX_WAITING {
            queue.waiting.pop_front();
        }
        let (guard, displaced) = oneshot::channel();
        let number = queue.next;
        queue.next += 1;
        queue.waiting.push_back(Waiting {
            number,
            token: token.clone(),
            _guard: guard,
        });
        Some(Place { number, displaced })
    }

    pub(crate) fn leave(&self, number: u64) {
        self.lock()
            .waiting
            .retain(|waiting| waiting.number != number);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Logouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logouts").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_logouts_displace_the_oldest() {
        let logouts = Logouts::default();
        let tokens: Vec<Token> = (0..=MAX_WAITING).map(|_| Token::random()).collect();
        let mut places: Vec<Place> = tokens[..MAX_WAITING]
            .iter()
            .map(|token| logouts.join(token).expect("a new token"))
            .collect();
        assert!(
            tokens[..MAX_WAITING]
                .iter()
                .all(|token| logouts.join(token).is_none()),
            "they wait already"
        );
        assert!(!places.iter_mut().any(is_displaced));
        places.push(logouts.join(&tokens[MAX_WAITING]).expect("a new token"));
        let displaced: Vec<bool> = places.iter_mut().map(is_displaced).collect();
        assert!(displaced[0] && !displaced[1..].contains(&true));
        // A logout that leaves makes room, and its token may come again.
        logouts.leave(places[1].number);
        let again = logouts.join(&tokens[1]).expect("it has left");
        assert!(!is_displaced(&mut places[2]));
        logouts.leave(places[0].number);
        assert_eq!(logouts.lock().waiting.len(), MAX_WAITING);
        assert_eq!(again.number, 1025);
        assert_eq!(format!("{logouts:?}"), "Logouts { .. }", "no token shows");
    }

    fn is_displaced(place: &mut Place) -> bool {
        place.displaced.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }
}
