//! Who can read along, how far the server is, and its clock.

use std::time::Duration;

use crate::doctor::facts::{Answers, Facts, Skew};
use crate::doctor::finding::Finding;
use crate::human::duration;
use crate::place::Link;

/// A read is one round trip, and a change two: beyond this, users notice.
const SLOW: Duration = Duration::from_millis(20);
/// Beyond this, the server is in another place than the application should be.
const FAR: Duration = Duration::from_millis(3);

/// The servers of a cluster stand in for each other within this.
const BETWEEN_SERVERS: i64 = 1_000;
/// Beyond this, this machine's clock is of no use for reading logs.
const FROM_HERE: i64 = 5_000;

pub(crate) fn judge_link(facts: &Facts) -> Vec<Finding> {
    let plain = "anybody on the way reads session values and the password, and can then write sessions of their own";
    let to_tls = "rediss:// in the URL, and tls-port in the server's configuration";
    let price = "a certificate, and some CPU for each connection";
    let mut findings = vec![match facts.link {
        Link::Encrypted => Finding::ok("encryption", "TLS"),
        Link::Local => Finding::ok("encryption", "none, on this machine"),
        Link::Private | Link::Named => Finding::warning("encryption", "none, over a network")
            .because(plain)
            .change(to_tls, price),
        Link::Public => Finding::problem("encryption", "none, over a public address")
            .because(plain)
            .change(to_tls, price),
    }];
    findings.extend(password(facts));
    findings
}

/// That a server let the doctor in without a password shows that it needs none.
fn password(facts: &Facts) -> Option<Finding> {
    let answers = facts
        .nodes
        .iter()
        .find_map(|node| node.answers.as_ref().ok())?;
    if facts.has_password {
        return Some(Finding::ok("password", "the URL has one"));
    }
    let seen = "the server lets everybody in without a password";
    let why = "whoever reaches it can read every session, and sign in as anybody";
    let to = "ACL SETUSER <user> on ><password> ~<prefix>* <permissions>, then ACL SETUSER default off; docs/deployment.md lists the permissions";
    let price = "every client needs the password at once";
    let is_open = answers.setting("protected-mode") == Some("no");
    let bind = answers.setting("bind");
    let only_here = facts.link == Link::Local
        && bind.is_some_and(|bind| {
            let mut addresses = bind.split_whitespace().map(|it| it.trim_start_matches('-'));
            addresses.all(|it| matches!(it, "127.0.0.1" | "::1" | "localhost"))
        });
    Some(match (is_open, only_here) {
        (_, true) => Finding::note(
            "password",
            format!("{seen}, and listens on this machine only"),
        )
        .because(why)
        .change(to, price),
        (true, false) => Finding::problem("password", format!("{seen}, and protected-mode is off"))
            .because(why)
            .change(to, price),
        (false, false) => Finding::warning("password", seen)
            .because(why)
            .change(to, price),
    })
}

pub(crate) fn judge_round_trip(facts: &Facts, answers: &Answers) -> Option<Finding> {
    let trips = &answers.round_trips;
    let (median, longest) = (*trips.get(trips.len() / 2)?, *trips.last()?);
    let seen = format!(
        "{}, the longest of {} {}",
        duration(median),
        trips.len(),
        duration(longest)
    );
    let why = "a read waits for one round trip, a change for two";
    let to = "put the application next to the server: the same zone, and no proxy between them";
    Some(match () {
        () if median >= facts.command_timeout / 2 => Finding::problem("round-trip", seen)
            .because(format!(
                "{why}; command_timeout is {}, so requests will get 503",
                duration(facts.command_timeout)
            ))
            .change(
                format!("{to}; or a longer command_timeout"),
                "with a longer one, an outage is noticed later",
            ),
        () if median >= SLOW => Finding::warning("round-trip", seen)
            .because(why)
            .change(to, "none"),
        () if median >= FAR => Finding::note("round-trip", seen)
            .because(why)
            .change(to, "none"),
        () if longest >= facts.command_timeout / 2 => Finding::warning("round-trip", seen)
            .because("one answer took long: requests behind it wait as long")
            .change(
                "SLOWLOG GET and LATENCY LATEST show slow commands of other applications",
                "none",
            ),
        () => Finding::ok("round-trip", seen),
    })
}

/// sessile goes by the server's clock. Those of servers that stand in for each other must agree.
pub(crate) fn judge_clocks(facts: &Facts) -> Vec<Finding> {
    let reached = facts.nodes.iter().filter_map(|node| {
        let clock = node.answers.as_ref().ok()?.clock?;
        Some((node.address.as_str(), clock))
    });
    let clocks: Vec<(&str, Skew)> = reached.collect();
    let mut findings = Vec::new();
    let ahead = clocks.iter().max_by_key(|(_, clock)| clock.millis);
    let behind = clocks.iter().min_by_key(|(_, clock)| clock.millis);
    let (Some((ahead, most)), Some((behind, least))) = (ahead, behind) else {
        return findings;
    };
    let apart = most.millis - least.millis;
    let doubt = millis(most.uncertainty) + millis(least.uncertainty);
    if clocks.len() > 1 && apart - doubt > BETWEEN_SERVERS {
        let seen = format!(
            "the clock of {ahead} is {} ahead of that of {behind}",
            text(apart)
        );
        let why = "after a failover sessions end earlier or later than they should, and sign-ins may be refused for that long";
        let to = "NTP on all servers: chronyc tracking";
        findings.push(
            Finding::problem("clock", seen)
                .because(why)
                .change(to, "none"),
        );
    }
    let off = clocks.iter().max_by_key(|(_, clock)| clock.millis.abs());
    if let Some((address, clock)) = off {
        let is_off = clock.millis.abs() - millis(clock.uncertainty) > FROM_HERE;
        let side = if clock.millis > 0 {
            "ahead of"
        } else {
            "behind"
        };
        let seen = format!(
            "the clock of {address} is {} {side} that of this machine",
            text(clock.millis.abs())
        );
        findings.push(match is_off {
            true => Finding::warning("clock", seen)
                .because("sessions go by the server's clock, so they are right; the logs of both do not fit together")
                .change("NTP on both: chronyc tracking", "none"),
            false => Finding::ok("clock", format!("within {}", text(clock.millis.abs().max(1)))),
        });
    }
    findings
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn text(millis: i64) -> String {
    duration(Duration::from_millis(millis.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::NodeFacts;
    use crate::doctor::finding::Severity::{Note, Ok, Problem, Warning};
    use crate::doctor::judge::tests::{facts, found, node};

    #[test]
    fn encryption_and_passwords() {
        for (link, severity) in [
            (Link::Encrypted, Ok),
            (Link::Local, Ok),
            (Link::Private, Warning),
            (Link::Named, Warning),
            (Link::Public, Problem),
        ] {
            let mut facts = facts();
            facts.link = link;
            let severities = found(&facts, "encryption").into_iter().map(|it| it.0);
            assert_eq!(severities.max().unwrap_or(Ok), severity, "{link:?}");
        }
        for (has_password, link, settings, severity) in [
            (true, Link::Public, "protected-mode no", Ok),
            (false, Link::Local, "bind 127.0.0.1 -::1", Note),
            (
                false,
                Link::Local,
                "protected-mode no\nbind 127.0.0.1",
                Note,
            ),
            (
                false,
                Link::Local,
                "protected-mode no\nbind * -::*",
                Problem,
            ),
            (
                false,
                Link::Local,
                "protected-mode no\nbind 127.0.0.1 10.0.0.1",
                Problem,
            ),
            (
                false,
                Link::Private,
                "protected-mode no\nbind 10.0.0.1",
                Problem,
            ),
            (
                false,
                Link::Private,
                "protected-mode yes\nbind 10.0.0.1",
                Warning,
            ),
        ] {
            let mut facts = facts();
            (facts.has_password, facts.link) = (has_password, link);
            facts.nodes = vec![node("h:1", "", settings)];
            let severities = found(&facts, "password").into_iter().map(|it| it.0);
            assert_eq!(severities.max().unwrap_or(Ok), severity, "{settings}");
        }
    }

    fn with(change: impl FnOnce(&mut Answers)) -> NodeFacts {
        let mut node = node("h:1", "", "");
        node.answers.as_mut().map(change).unwrap();
        node
    }

    #[test]
    fn round_trips() {
        for (median, longest, severity) in [
            (1, 2, Ok),
            (3, 9, Note),
            (20, 30, Warning),
            (250, 260, Problem),
            (1, 250, Warning),
        ] {
            let trips = [[median; 20].as_slice(), &[longest]].concat();
            let mut facts = facts();
            facts.nodes = vec![with(|it| {
                it.round_trips = trips.into_iter().map(Duration::from_millis).collect();
            })];
            let severities = found(&facts, "round-trip").into_iter().map(|it| it.0);
            assert_eq!(
                severities.max().unwrap_or(Ok),
                severity,
                "{median} {longest}"
            );
        }
    }

    #[test]
    fn clocks() {
        let skew = |millis, uncertainty| {
            with(|it| {
                let uncertainty = Duration::from_millis(uncertainty);
                it.clock = Some(Skew {
                    millis,
                    uncertainty,
                });
            })
        };
        for (nodes, expected) in [
            (vec![skew(4_000, 1)], vec![]),
            (vec![skew(6_000, 1)], vec![Warning]),
            (vec![skew(-6_000, 1)], vec![Warning]),
            (vec![skew(6_000, 2_000)], vec![]),
            (vec![skew(0, 1), skew(900, 1)], vec![]),
            (vec![skew(0, 1), skew(1_500, 1)], vec![Problem]),
            (vec![skew(0, 1), skew(1_500, 500)], vec![]),
            (
                vec![skew(-4_000, 1), skew(7_000, 1)],
                vec![Problem, Warning],
            ),
        ] {
            let mut facts = facts();
            facts.nodes = nodes;
            let severities: Vec<_> = found(&facts, "clock").into_iter().map(|it| it.0).collect();
            assert_eq!(severities, expected, "{:?}", facts.nodes);
        }
    }
}
