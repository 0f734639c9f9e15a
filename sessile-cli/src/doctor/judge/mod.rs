//! Turns facts into findings. Pure: the tables of tests beside each part hold what it says.
//!
//! 1. `access.rs`: whether the store can work at all, and which permissions are missing.
//! 2. `server.rs`: version, role, memory, clients and connections.
//! 3. `persistence.rs`: what a restart or a failover loses.
//! 4. `network.rs`: who can read along, how far the server is, and its clock.
//! 5. `topology.rs`: clusters and sentinels.
//! 6. `keys.rs`: keys without a time to live, and keys of others.

mod access;
mod keys;
mod network;
mod persistence;
mod server;
mod topology;

use crate::doctor::facts::{Answers, Facts, NodeFacts};
use crate::doctor::finding::Finding;

/// All findings, the worst first.
pub(crate) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = access::judge(facts);
    for node in &facts.nodes {
        let mut of_node = match &node.answers {
            Ok(answers) => judge_node(facts, node, answers),
            Err(why) => vec![unreachable(node, why)],
        };
        if facts.nodes.len() > 1 || facts.has_sentinels() {
            of_node = of_node.into_iter().map(|it| it.at(&node.address)).collect();
        }
        findings.extend(of_node);
    }
    findings.extend(network::judge_link(facts));
    findings.extend(network::judge_clocks(facts));
    findings.extend(topology::judge(facts));
    findings.extend(keys::judge(facts));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

fn judge_node(facts: &Facts, node: &NodeFacts, answers: &Answers) -> Vec<Finding> {
    let mut findings = server::judge(facts, node, answers);
    findings.extend(persistence::judge(facts, node, answers));
    findings.extend(network::judge_round_trip(facts, answers));
    findings
}

fn unreachable(node: &NodeFacts, why: &str) -> Finding {
    let finding = Finding::problem(
        "connect",
        format!("cannot connect to {}: {why}", node.address),
    );
    match node.is_replica {
        true => Finding::warning("connect", finding.seen)
            .because("the cluster counts on this replica when its primary fails"),
        false => finding.because("requests for the sessions there get 503"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::doctor::finding::Severity;
    use crate::node::Fields;
    use crate::place::Link;

    /// A server with which there is nothing wrong.
    pub(crate) fn facts() -> Facts {
        Facts {
            link: Link::Local,
            has_password: true,
            prefix: "sessile:".to_owned(),
            command_timeout: Duration::from_millis(500),
            durability: false,
            store: Ok("script".to_owned()),
            nodes: vec![node("h:6379", "", "")],
            shards: None,
            sentinels: Vec::new(),
            permissions: None,
            keys: None,
        }
    }

    const INFO: &str = "redis_version:7.2.5\nrole:master\nloading:0\nmaxmemory:1000000\nused_memory:100000\nmaxmemory_policy:noeviction\n\
        evicted_keys:0\nconnected_clients:10\nrejected_connections:0\nuptime_in_seconds:86400\nrdb_last_bgsave_status:ok\naof_enabled:1\n\
        aof_last_write_status:ok\naof_last_bgrewrite_status:ok\nconnected_slaves:1\nslave0:ip=10.0.0.2,port=6379,state=online,offset=5,lag=0\n\
        master_repl_offset:5\ncluster_enabled:0\n";

    const SETTINGS: &str = "appendfsync always\nappendonly yes\nsave \nmaxclients 10000\nmin-replicas-to-write 1\nmin-replicas-max-lag 10\n\
        tcp-keepalive 300\ntimeout 0\nprotected-mode yes\nbind 127.0.0.1\nstop-writes-on-bgsave-error yes\n\
        cluster-require-full-coverage no\nmaxmemory 1000000\nmaxmemory-policy noeviction\n";

    /// A server with which there is nothing wrong, but for these lines of INFO and CONFIG GET.
    pub(crate) fn node(address: &str, info: &str, settings: &str) -> NodeFacts {
        let fields = |sound: &str, other: &str, separator| {
            Fields::parse(&format!("{sound}{other}"), separator)
        };
        NodeFacts {
            address: address.to_owned(),
            is_replica: false,
            answers: Ok(Answers {
                info: Ok(fields(INFO, info, ':')),
                settings: Ok(fields(SETTINGS, settings, ' ')),
                cluster: None,
                round_trips: vec![Duration::from_micros(200); 21],
                clock: Some(crate::doctor::facts::Skew {
                    millis: 0,
                    uncertainty: Duration::from_micros(100),
                }),
            }),
        }
    }

    /// The findings of one check that are worse than ok.
    pub(crate) fn found(facts: &Facts, check: &str) -> Vec<(Severity, String)> {
        let findings = judge(facts).into_iter();
        let found = findings.filter(|it| it.check == check && it.severity > Severity::Ok);
        found.map(|it| (it.severity, it.seen)).collect()
    }

    /// Checks that a server with these lines has one finding of this severity, which shows this.
    pub(crate) fn holds(check: &str, rows: &[(&str, &str, Severity, &str)]) {
        for (info, settings, severity, part) in rows {
            let mut facts = facts();
            facts.nodes = vec![node("h:6379", info, settings)];
            let found = found(&facts, check);
            match severity {
                Severity::Ok => assert_eq!(found, [], "{info} {settings}"),
                severity => {
                    let is_expected =
                        |(found, seen): &(_, String)| found == severity && seen.contains(part);
                    assert!(
                        found.len() == 1 && found.iter().all(is_expected),
                        "{info} {settings}: {found:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_is_found_where_nothing_is_wrong_and_each_finding_is_complete() {
        let bad: Vec<_> = judge(&facts())
            .into_iter()
            .filter(|it| it.severity > Severity::Ok)
            .collect();
        assert_eq!(bad, []);
    }
}
