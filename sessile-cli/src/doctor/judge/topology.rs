//! Clusters and sentinels.

use std::collections::BTreeSet;

use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;
use crate::servers::{Sentinel, Shard, View};

const SLOTS: u32 = 16_384;

pub(crate) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &facts.shards {
        None => {}
        Some(Err(refusal)) => {
            let seen = format!("where the slots are is not to be had: {}", refusal.reason());
            let why = "the store needs CLUSTER SLOTS to find its sessions";
            let to = "ACL SETUSER <user> +cluster|slots, and cluster-enabled yes";
            findings.push(
                Finding::problem("cluster", seen)
                    .because(why)
                    .change(to, "none"),
            );
        }
        Some(Ok(shards)) => findings.extend(cluster(facts, shards)),
    }
    if facts.has_sentinels() {
        findings.extend(sentinels(&facts.sentinels));
    }
    findings
}

fn cluster(facts: &Facts, shards: &[Shard]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let covered: u32 = shards
        .iter()
        .map(|it| u32::from(it.slots.1 - it.slots.0) + 1)
        .sum();
    let state = |node: &crate::doctor::facts::NodeFacts| {
        let cluster = node
            .answers
            .as_ref()
            .ok()?
            .cluster
            .as_ref()?
            .as_ref()
            .ok()?;
        Some(cluster.text("cluster_state")?.to_owned())
    };
    let failing = facts
        .nodes
        .iter()
        .filter(|node| state(node).is_some_and(|it| it != "ok"));
    let failing: Vec<_> = failing.map(|node| node.address.as_str()).collect();
    if !failing.is_empty() {
        let seen = format!("the cluster is down, say {}", failing.join(", "));
        let why = "requests for sessions get 503: those of all slots, unless cluster-require-full-coverage is no";
        let to = "CLUSTER NODES shows which nodes fail; start them, or CLUSTER FAILOVER TAKEOVER on a replica of each";
        findings.push(
            Finding::problem("cluster", seen)
                .because(why)
                .change(to, "a takeover loses what the replica does not have"),
        );
    }
    if covered < SLOTS {
        let seen = format!("{} of {SLOTS} slots have no node", SLOTS - covered);
        let why =
            "the sessions there cannot be read or written, and a new session may be among them";
        let to = "redis-cli --cluster fix <host>:<port>";
        findings.push(
            Finding::problem("cluster", seen)
                .because(why)
                .change(to, "the slots that it assigns anew are empty"),
        );
    }
    if findings.is_empty() {
        let primaries: BTreeSet<_> = shards.iter().filter_map(|it| it.nodes.first()).collect();
        let seen = format!("ok, {} primaries, all slots covered", primaries.len());
        findings.push(Finding::ok("cluster", seen));
    }
    findings.extend(coverage(facts));
    findings
}

fn coverage(facts: &Facts) -> Option<Finding> {
    let settings = facts.nodes.iter().filter_map(|node| {
        let answers = node.answers.as_ref().ok()?;
        answers.setting("cluster-require-full-coverage")
    });
    let requires = settings.filter(|it| *it == "yes").count();
    let why = "while one primary is down, all others reject every request, and not only those for its slots";
    let to = "CONFIG SET cluster-require-full-coverage no, on every node";
    let price = "none for sessions, whose keys do not belong together";
    (requires > 0).then(|| {
        let seen = "cluster-require-full-coverage yes";
        Finding::warning("coverage", seen)
            .because(why)
            .change(to, price)
    })
}

fn sentinels(sentinels: &[Sentinel]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for sentinel in sentinels {
        if let Err(why) = &sentinel.view {
            let seen = format!("the sentinel {} does not answer: {why}", sentinel.address);
            let why =
                "new connections try it first, and a failover needs a majority of the sentinels";
            let to = "start it, or take it out of the URL";
            findings.push(
                Finding::warning("sentinels", seen)
                    .because(why)
                    .change(to, "none"),
            );
        }
    }
    let views: Vec<(&str, &View)> = sentinels
        .iter()
        .filter_map(|it| Some((it.address.as_str(), it.view.as_ref().ok()?)))
        .collect();
    for (address, view) in &views {
        if view.primary.is_none() {
            let seen = format!("the sentinel {address} does not know the primary's name");
            let why = "the store asks the next one, which takes longer";
            let to =
                "correct the name in the URL, or SENTINEL MONITOR <name> <host> <port> <quorum>";
            findings.push(
                Finding::problem("sentinels", seen)
                    .because(why)
                    .change(to, "none"),
            );
        }
    }
    let primaries: BTreeSet<_> = views
        .iter()
        .filter_map(|it| it.1.primary.as_ref())
        .collect();
    if primaries.len() > 1 {
        let named = views.iter().filter_map(|(address, view)| {
            let (host, port) = view.primary.as_ref()?;
            Some(format!("{address} says {host}:{port}"))
        });
        let seen = format!(
            "the sentinels disagree about the primary: {}",
            named.collect::<Vec<_>>().join(", ")
        );
        let why = "some nodes write to one server and some to another: sessions fork, and one side of them is lost";
        let to = "wait for a failover under way to end; otherwise SENTINEL RESET <name> on the sentinel that is wrong";
        let price = "it forgets replicas and sentinels, and finds them anew within seconds";
        findings.push(
            Finding::problem("sentinels", seen)
                .because(why)
                .change(to, price),
        );
    }
    findings.extend(quorum(sentinels.len(), &views));
    if findings.is_empty() {
        let seen = format!("{} agree, with a quorum", views.len());
        findings.push(Finding::ok("sentinels", seen));
    }
    findings
}

fn quorum(in_url: usize, views: &[(&str, &View)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let short = views
        .iter()
        .find_map(|(_, view)| view.quorum.as_ref()?.as_ref().err());
    if let Some(answer) = short {
        let seen = format!("no failover is possible: {answer}");
        let why = "if the primary fails, nothing takes over, and requests get 503 until somebody does something";
        let to = "start the sentinels that are down";
        findings.push(
            Finding::problem("quorum", seen)
                .because(why)
                .change(to, "none"),
        );
    }
    let others = views
        .iter()
        .filter_map(|it| it.1.about.as_ref()?.number("num-other-sentinels"));
    let Some(all) = others.max().map(|others| others + 1) else {
        return findings;
    };
    if all < 3 {
        let seen = format!("{all} sentinels in all");
        let why = "a failover needs a majority: with fewer than three, the loss of one machine prevents it";
        let to = "three sentinels on three machines";
        findings.push(
            Finding::warning("quorum", seen)
                .because(why)
                .change(to, "a small process on each"),
        );
    }
    if in_url < 2 && all > 1 {
        let seen = format!("the URL names {in_url} of {all} sentinels");
        let why = "while that one is down, no connection can be made";
        let to = "name all of them in the URL";
        findings.push(
            Finding::warning("quorum", seen)
                .because(why)
                .change(to, "none"),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity::{Problem, Warning};
    use crate::doctor::judge::tests::{facts, found, node};
    use crate::node::Fields;

    fn shard(first: u16, last: u16) -> Shard {
        Shard {
            slots: (first, last),
            nodes: vec![(format!("h{first}"), 1)],
        }
    }

    #[test]
    fn clusters() {
        for (shards, state, coverage, expected) in [
            (vec![shard(0, 16_383)], "ok", "no", vec![]),
            (
                vec![shard(0, 8_000), shard(8_001, 16_383)],
                "ok",
                "no",
                vec![],
            ),
            (
                vec![shard(0, 8_000), shard(8_002, 16_383)],
                "ok",
                "no",
                vec![("cluster", Problem)],
            ),
            (
                vec![shard(0, 16_383)],
                "fail",
                "no",
                vec![("cluster", Problem)],
            ),
            (
                vec![shard(0, 16_383)],
                "ok",
                "yes",
                vec![("coverage", Warning)],
            ),
        ] {
            let mut facts = facts();
            let setting = format!("cluster-require-full-coverage {coverage}");
            facts.nodes = vec![node("h:1", "", &setting)];
            let fields = Fields::parse(&format!("cluster_state:{state}"), ':');
            facts.nodes[0].answers.as_mut().unwrap().cluster = Some(Ok(fields));
            facts.shards = Some(Ok(shards));
            let severities = ["cluster", "coverage"].into_iter().flat_map(|check| {
                found(&facts, check)
                    .into_iter()
                    .map(move |it| (check, it.0))
            });
            assert_eq!(
                severities.collect::<Vec<_>>(),
                expected,
                "{state} {coverage}"
            );
        }
    }

    #[test]
    fn sentinels_that_fail_or_disagree() {
        let sentinel = |name: &str,
                        primary: Option<&str>,
                        others: &str,
                        quorum: Option<Result<&str, &str>>| {
            let to_text = |it: Result<&str, &str>| it.map(str::to_owned).map_err(str::to_owned);
            Sentinel {
                address: name.to_owned(),
                view: Ok(View {
                    primary: primary.map(|host| (host.to_owned(), 1)),
                    about: Some(Fields::parse(&format!("num-other-sentinels:{others}"), ':')),
                    quorum: quorum.map(to_text),
                }),
            }
        };
        let ok = || Some(Ok("OK 3 usable Sentinels"));
        let none = || Some(Err("NOQUORUM 1 usable Sentinels"));
        let dead = Sentinel {
            address: "c".to_owned(),
            view: Err("refused".to_owned()),
        };
        for (sentinels, expected) in [
            (
                vec![
                    sentinel("a", Some("p"), "2", ok()),
                    sentinel("b", Some("p"), "2", ok()),
                ],
                vec![],
            ),
            (
                vec![sentinel("a", Some("p"), "2", None), dead],
                vec![("sentinels", Warning)],
            ),
            (
                vec![
                    sentinel("a", Some("p"), "2", ok()),
                    sentinel("b", Some("q"), "2", ok()),
                ],
                vec![("sentinels", Problem)],
            ),
            (
                vec![
                    sentinel("a", Some("p"), "2", ok()),
                    sentinel("b", None, "2", ok()),
                ],
                vec![("sentinels", Problem)],
            ),
            (
                vec![
                    sentinel("a", Some("p"), "2", none()),
                    sentinel("b", Some("p"), "2", ok()),
                ],
                vec![("quorum", Problem)],
            ),
            (
                vec![
                    sentinel("a", Some("p"), "1", ok()),
                    sentinel("b", Some("p"), "1", ok()),
                ],
                vec![("quorum", Warning)],
            ),
            (
                vec![sentinel("a", Some("p"), "2", ok())],
                vec![("quorum", Warning)],
            ),
        ] {
            let mut facts = facts();
            facts.sentinels = sentinels;
            let severities = ["sentinels", "quorum"].into_iter().flat_map(|check| {
                found(&facts, check)
                    .into_iter()
                    .map(move |it| (check, it.0))
            });
            assert_eq!(
                severities.collect::<Vec<_>>(),
                expected,
                "{:?}",
                facts.sentinels
            );
        }
    }
}
