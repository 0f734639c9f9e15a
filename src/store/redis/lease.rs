//! Leases: the right of one owner at a time to a session, for a limited time. Each is a key of its own beside the session's.
//!
//! `acquire` sends `SET … NX`; if that finds a lease of the same owner, or a released one, it replaces it by compare-and-set.
//! `release` replaces the value by `free`, by compare-and-set too, with a time to live of a millisecond.

use std::time::Duration;

use redis::Value;

use crate::error::store::StoreError;
use crate::store::contract::{Replaced, Stored};
use crate::store::lease::{Leased, Owner};
use crate::store::redis::cas::Cas;
use crate::store::redis::cas::swap::Swap;
use crate::store::redis::reply::unexpected_reply;
use crate::store::redis::request::{Request, millis};
use crate::store::redis::servers::Servers;

/// How often `acquire` tries again if the lease is released and taken meanwhile.
const MAX_ROUNDS: usize = 3;

/// The value of a released lease. The value of an owner never begins like it.
const FREE: &str = "free";

/// The value of an owner's lease. It is no longer than the part of a session that a compare-and-set compares.
fn held_by(owner: Owner) -> String {
    format!("held:{owner}")
}

pub(crate) async fn acquire(
    servers: &Servers,
    cas: &Cas,
    key: &str,
    owner: Owner,
    lease: Duration,
) -> Result<Leased, StoreError> {
    let (mine, ttl) = (held_by(owner), millis(lease));
    for _ in 0..MAX_ROUNDS {
        let mut take = redis::cmd("SET");
        take.arg(key).arg(&mine).arg("NX").arg("PX").arg(ttl);
        // If it is sent twice, the second finds the lease that the first has taken, and renews it.
        match servers
            .send_idempotent(key, &Request::Command(&take))
            .await?
        {
            Value::Okay => return Ok(Leased::Held),
            Value::Nil => {}
            _ => return Err(unexpected_reply("SET")),
        }
        for expected in [&mine, FREE] {
            let expected = Stored::new(expected.to_owned(), None);
            let swap = Swap {
                key,
                expected: &expected,
                value: mine.as_bytes(),
                ttl: Some(ttl),
            };
            match cas.replace(servers, swap).await? {
                Replaced::Done => return Ok(Leased::Held),
                Replaced::Gone => break,
                Replaced::Conflict(present) if present.value() == FREE => {}
                // The command was sent twice: the first acquired the lease, and this is the reply to the second.
                Replaced::Conflict(present) if present.value() == mine.as_str() => {
                    return Ok(Leased::Held);
                }
                Replaced::Conflict(present) => {
                    // A lease that never expires is not one of sessile's.
                    let left = present.time_left().unwrap_or(Duration::MAX);
                    return Ok(Leased::Taken { left });
                }
                Replaced::Unreadable => {
                    return Ok(Leased::Taken {
                        left: Duration::MAX,
                    });
                }
            }
        }
    }
    // In every round another owner released the lease and a third one took it.
    Ok(Leased::Taken {
        left: Duration::ZERO,
    })
}

pub(crate) async fn release(
    servers: &Servers,
    cas: &Cas,
    key: &str,
    owner: Owner,
) -> Result<(), StoreError> {
    let expected = Stored::new(held_by(owner), None);
    let swap = Swap {
        key,
        expected: &expected,
        value: FREE.as_bytes(),
        ttl: Some(1),
    };
    match cas.replace(servers, swap).await? {
        Replaced::Done | Replaced::Conflict(_) | Replaced::Unreadable | Replaced::Gone => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compared_part_of_a_lease_identifies_its_owner() {
        let owner = Owner::random();
        let held = Stored::new(held_by(owner), None);
        assert_eq!(held.version(), held.value());
        assert_ne!(held, Stored::new(held_by(Owner::random()), None));
        assert!(!held.value().starts_with(FREE.as_bytes()));
    }
}
