//! Keys without a time to live, keys of others, and values that cannot be read.

use crate::doctor::facts::{Examples, Facts, Keys};
use crate::doctor::finding::Finding;
use crate::human::{count, counted};

pub(crate) fn judge(facts: &Facts) -> Vec<Finding> {
    match &facts.keys {
        None => Vec::new(),
        Some(Err(why)) => {
            let seen = format!("the keys could not be examined: {why}");
            let why = "so the doctor cannot tell whether some sessions never expire, or others use the prefix";
            let to = "ACL SETUSER <user> +scan +dbsize";
            let price = "SCAN shows the names of all keys of the database";
            vec![Finding::note("keys", seen).because(why).change(to, price)]
        }
        Some(Ok(keys)) => judge_keys(facts, keys),
    }
}

fn judge_keys(facts: &Facts, keys: &Keys) -> Vec<Finding> {
    let mut findings = Vec::new();
    let prefix = &facts.prefix;
    if keys.without_ttl.count > 0 {
        let seen = format!(
            "{} without a time to live: {}",
            counted(keys.without_ttl.count, "key", "keys"),
            list(&keys.without_ttl)
        );
        let why = "a session among them does not expire until its next request, which may never come; a lease keeps other requests out. \
                   sessile writes no key without one: something else has removed it (PERSIST, RESTORE, a copy)";
        let to = "PEXPIRE <key> 1800000 for each";
        findings.push(
            Finding::problem("ttl", seen)
                .because(why)
                .change(to, "a session ends half an hour later unless it is used"),
        );
    }
    if keys.foreign.count > 0 {
        let seen = format!(
            "{} that begin with {prefix} and are not sessile's: {}",
            counted(keys.foreign.count, "key", "keys"),
            list(&keys.foreign)
        );
        let why = "two applications share the prefix: each may delete the other's keys, and the ACL cannot keep them apart";
        let to = "another key_prefix for one of them";
        let price = "a new prefix signs everybody out";
        findings.push(
            Finding::warning("foreign", seen)
                .because(why)
                .change(to, price),
        );
    }
    if keys.unreadable.count > 0 {
        let seen = format!(
            "{} of {} read cannot be read by this version: {}",
            counted(keys.unreadable.count, "session", "sessions"),
            count(keys.read),
            list(&keys.unreadable)
        );
        let why = "their visitors see an empty session, and their changes get 409. A later version of sessile has written them, or something else";
        let to = "this command and all nodes of the version that wrote them; if nothing of sessile did, UNLINK <key>";
        findings.push(
            Finding::warning("unreadable", seen)
                .because(why)
                .change(to, "UNLINK signs the visitor out"),
        );
    }
    let examined = match keys.examined < keys.of {
        true => format!(
            "{} of {} keys examined; --full examines all",
            count(keys.examined),
            count(keys.of)
        ),
        false => format!("all {} keys examined", count(keys.of)),
    };
    if findings.is_empty() {
        let seen = format!(
            "{}, {examined}",
            counted(keys.sessions, "session", "sessions")
        );
        findings.push(Finding::ok("keys", seen));
    } else if keys.examined < keys.of {
        findings.push(Finding::note("keys", examined).because("there may be more"));
    }
    findings
}

fn list(examples: &Examples) -> String {
    let some = examples.some.join(", ");
    match examples.count > examples.some.len() as u64 {
        true => format!("{some}, …"),
        false => some,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity::{Note, Problem, Warning};
    use crate::doctor::judge::tests::{facts, found};

    #[test]
    fn keys_that_should_not_be_there() {
        let examples = |count: u64| Examples {
            count,
            some: vec!["sessile:x".to_owned()],
        };
        let sound = || Keys {
            examined: 10,
            of: 10,
            sessions: 5,
            read: 5,
            ..Keys::default()
        };
        for (keys, expected) in [
            (Ok(sound()), vec![]),
            (
                Ok(Keys {
                    examined: 5,
                    ..sound()
                }),
                vec![],
            ),
            (
                Ok(Keys {
                    without_ttl: examples(1),
                    ..sound()
                }),
                vec![("ttl", Problem)],
            ),
            (
                Ok(Keys {
                    foreign: examples(2),
                    ..sound()
                }),
                vec![("foreign", Warning)],
            ),
            (
                Ok(Keys {
                    unreadable: examples(1),
                    ..sound()
                }),
                vec![("unreadable", Warning)],
            ),
            (
                Ok(Keys {
                    foreign: examples(1),
                    examined: 5,
                    ..sound()
                }),
                vec![("foreign", Warning), ("keys", Note)],
            ),
            (Err("denied".to_owned()), vec![("keys", Note)]),
        ] {
            let mut facts = facts();
            facts.keys = Some(keys);
            let severities = ["ttl", "foreign", "unreadable", "keys"]
                .into_iter()
                .flat_map(|check| {
                    found(&facts, check)
                        .into_iter()
                        .map(move |it| (check, it.0))
                });
            assert_eq!(severities.collect::<Vec<_>>(), expected, "{:?}", facts.keys);
        }
        assert_eq!(list(&examples(1)), "sessile:x");
        assert_eq!(list(&examples(2)), "sessile:x, …");
    }
}
