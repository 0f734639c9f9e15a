//! Leases, each a key of its own beside the session's, with the means that sessions are written with.
//!
//! A lease is taken by `SET … NX`. To renew it, or to give it up, is a compare-and-set by its owner; what has been given
//! up says so for the millisecond that it is still there.

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

/// How often a lease that seems free and is not is looked at.
const ROUNDS: usize = 3;

/// No owner's value begins as this does.
const FREE: &str = "free";

/// Not longer than what is compared of a session.
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
    for _ in 0..ROUNDS {
        let mut take = redis::cmd("SET");
        take.arg(key).arg(&mine).arg("NX").arg("PX").arg(ttl);
        // Sent again, it meets the lease that it has taken, and renews it.
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
                ttl,
            };
            match cas.replace(servers, swap).await? {
                Replaced::Done => return Ok(Leased::Held),
                Replaced::Gone => break,
                Replaced::Conflict(present) if present.value() == FREE => {}
                // It was ours between two copies of one call, of which this answers the second.
                Replaced::Conflict(present) if present.value() == mine.as_str() => {
                    return Ok(Leased::Held);
                }
                Replaced::Conflict(present) => {
                    // Somebody else's key, if it has no end.
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
    // It was given up and taken as often as it was looked at.
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
        ttl: 1,
    };
    match cas.replace(servers, swap).await? {
        Replaced::Done | Replaced::Conflict(_) | Replaced::Unreadable | Replaced::Gone => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owners_lease_is_told_from_anothers_by_what_is_compared() {
        let owner = Owner::random();
        let held = Stored::new(held_by(owner), None);
        assert_eq!(held.version(), held.value());
        assert_ne!(held, Stored::new(held_by(Owner::random()), None));
        assert!(!held.value().starts_with(FREE.as_bytes()));
    }
}
