//! Counts the evictions of a memory store, and decides when to log them: at most once a second.

use crate::store::stats::Evicted;
use crate::time::Millis;

const SECOND: Millis = 1_000;

#[derive(Default)]
pub(crate) struct Evictions {
    so_far: Evicted,
    /// How many of them are logged, and when they were last logged.
    logged: Option<(Evicted, Millis)>,
}

impl Evictions {
    pub(crate) fn so_far(&self) -> Evicted {
        self.so_far
    }

    /// Counts the evictions of one write. Returns the evictions to log now, if any: all since the last time.
    pub(crate) fn add(&mut self, evicted: Evicted, now: Millis) -> Option<Evicted> {
        if evicted == Evicted::default() {
            return None;
        }
        self.so_far = self.so_far.plus(evicted);
        let logged = match self.logged {
            Some((_, at)) if now.saturating_sub(at) < SECOND => return None,
            Some((logged, _)) => logged,
            None => Evicted::default(),
        };
        self.logged = Some((self.so_far, now));
        Some(self.so_far.minus(logged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evictions_are_logged_at_most_once_a_second_and_none_is_logged_twice() {
        let of = |anonymous, signed_in| Evicted {
            anonymous,
            signed_in,
        };
        let mut evictions = Evictions::default();
        for (now, evicted, logged) in [
            (0, of(0, 0), None),
            (0, of(2, 0), Some(of(2, 0))),
            (1, of(1, 0), None),
            (999, of(1, 3), None),
            (1_000, of(0, 0), None),
            (1_000, of(1, 0), Some(of(3, 3))),
            (1_999, of(1, 1), None),
            (9_000, of(0, 1), Some(of(1, 2))),
            (8_000, of(1, 0), None),
            (10_000, of(1, 0), Some(of(2, 0))),
        ] {
            assert_eq!(evictions.add(evicted, now), logged, "{now}");
        }
        assert_eq!(evictions.so_far(), of(8, 5));
    }
}
