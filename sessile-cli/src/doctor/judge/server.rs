//! One server: version, role, memory, clients and connections.

use crate::doctor::facts::{Answers, Facts, NodeFacts};
use crate::doctor::finding::Finding;
use crate::human::{bytes, count};

pub(crate) fn judge(facts: &Facts, node: &NodeFacts, answers: &Answers) -> Vec<Finding> {
    let mut findings = vec![version(answers)];
    if let Err(refusal) = &answers.info {
        let seen = format!("INFO is not to be had: {}", refusal.reason());
        let why = "so the doctor cannot tell role, memory, clients, persistence and replicas";
        findings.push(Finding::note("info", seen).because(why).change(
            "ACL SETUSER <user> +info",
            "shows the server's state to this user; the application does not need it",
        ));
        return findings;
    }
    if answers.settings.is_err() {
        let why = "so the doctor knows less about persistence, replicas and connections. Managed services often deny it: look there";
        findings.push(Finding::note("config", "CONFIG GET is not to be had").because(why).change(
            "ACL SETUSER <user> +config|get",
            "shows all settings to this user, passwords among them; the application does not need it",
        ));
    }
    findings.push(role(facts, node, answers));
    if answers.info("loading") == Some("1") {
        let seen = "the server is loading its data";
        let why = "until it has, requests for sessions get 503";
        findings.push(Finding::problem("loading", seen).because(why));
    }
    if node.is_replica {
        return findings;
    }
    findings.push(eviction(answers));
    findings.extend(evicted(answers));
    findings.push(memory(answers));
    findings.extend(clients(answers));
    findings.extend(connections(answers));
    findings
}

fn version(answers: &Answers) -> Finding {
    let valkey = answers.info("valkey_version");
    let (name, version) = match (valkey, answers.info("redis_version")) {
        (Some(version), _) => ("Valkey", version),
        (None, Some(version)) => ("Redis", version),
        (None, None) => return Finding::note("version", "the server does not say its version"),
    };
    let mut numbers = version.split('.').map(str::parse::<u32>);
    let is_old = valkey.is_none()
        && matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(_))) if major < 7);
    let seen = format!("{name} {version}");
    match is_old {
        false => Finding::ok("version", seen),
        true => Finding::problem("version", seen)
            .because("sessions need Redis 7.0 or later, or Valkey: PEXPIRE … GT, and script errors that keep their codes")
            .change("an upgrade to Redis 7.0 or later, or to Valkey", "a failover or a restart"),
    }
}

fn role(facts: &Facts, node: &NodeFacts, answers: &Answers) -> Finding {
    let is_replica = matches!(answers.info("role"), Some("slave" | "replica"));
    match (is_replica, node.is_replica) {
        (false, false) => Finding::ok("role", "a primary"),
        (false, true) => Finding::warning(
            "role",
            "the cluster calls it a replica, and it calls itself a primary",
        )
        .because("a failover is under way, or this node has not heard of one"),
        (true, true) if answers.info("master_link_status") == Some("down") => {
            Finding::warning("role", "a replica without a link to its primary")
                .because(
                    "if it takes over, all sessions since then are lost, and logouts are undone",
                )
                .change(
                    "look at its log, and at `masterauth` and the network",
                    "none",
                )
        }
        (true, true) => Finding::ok("role", "a replica in sync"),
        (true, false) => {
            let primary = format!(
                "{}:{}",
                answers.info("master_host").unwrap_or("?"),
                answers.info("master_port").unwrap_or("?"),
            );
            let url = match (facts.is_cluster(), facts.has_sentinels()) {
                (false, false) => format!("url = \"redis://{primary}/\", or that of its sentinels"),
                _ => "wait until the failover is over, and ask again".to_owned(),
            };
            Finding::problem("role", format!("a replica; its primary is {primary}"))
                .because("it accepts no writes, so every change of a session and every logout fails with 503")
                .change(url, "none")
        }
    }
}

fn eviction(answers: &Answers) -> Finding {
    let Some(policy) = answers.info("maxmemory_policy") else {
        return Finding::note("eviction", "the server does not say its maxmemory-policy");
    };
    let seen = format!("maxmemory-policy {policy}");
    if policy == "noeviction" {
        return Finding::ok("eviction", seen);
    }
    let why = "when memory is full, the server ends sessions, those of signed-in users among them: it does not know which are";
    let price = "when memory is full, new sessions and changes get 503 until there is room; reads and logouts go on";
    let fix = "CONFIG SET maxmemory-policy noeviction";
    match answers.number("maxmemory") {
        Some(0) => Finding::warning(
            "eviction",
            format!("{seen}, and no maxmemory, so it does not act yet"),
        )
        .because(why)
        .change(fix, price),
        _ => Finding::problem("eviction", seen)
            .because(why)
            .change(fix, price),
    }
}

/// Sessions that are lost already.
fn evicted(answers: &Answers) -> Option<Finding> {
    let evicted = answers.number("evicted_keys").filter(|n| *n > 0)?;
    let seen = format!("{} keys evicted since the server started", count(evicted));
    let why = "if sessions were among them, their users were signed out and saw no error";
    let fix = "CONFIG SET maxmemory-policy noeviction, and a larger maxmemory";
    let price = "memory of the machine";
    Some(
        Finding::warning("evicted", seen)
            .because(why)
            .change(fix, price),
    )
}

fn memory(answers: &Answers) -> Finding {
    let (Some(used), Some(limit)) = (answers.number("used_memory"), answers.number("maxmemory"))
    else {
        return Finding::note("memory", "the server does not say how much memory it uses");
    };
    let system = answers.number("total_system_memory").unwrap_or(0);
    let percent = |of: u64| (used * 100).checked_div(of).unwrap_or(0);
    if limit == 0 {
        let seen = format!("{} used, no maxmemory", bytes(used));
        return match percent(system) {
            80.. => Finding::warning("memory", format!("{seen}, {} in the machine", bytes(system)))
                .because("the system kills the server when memory runs out, and without persistence all sessions end")
                .change(
                    "a larger machine or a shorter idle_timeout, then CONFIG SET maxmemory <three quarters of the memory>",
                    "beyond maxmemory, changes get 503: at once, if it is less than what is used",
                ),
            _ => Finding::ok("memory", seen),
        };
    }
    let seen = format!(
        "{} of {} used, {} %",
        bytes(used),
        bytes(limit),
        percent(limit)
    );
    let (fix, price) = more_memory(limit, system);
    let why = "when memory is full, new sessions and changes get 503, or sessions are evicted, by maxmemory-policy";
    match percent(limit) {
        98.. => Finding::problem("memory", seen)
            .because(why)
            .change(fix, price),
        85.. => Finding::warning("memory", seen)
            .because(why)
            .change(fix, price),
        _ => Finding::ok("memory", seen),
    }
}

/// What to change if `maxmemory` is too small, and the price. A quarter of the memory is for the system and for buffers: a server that
/// takes more is killed, with all sessions.
fn more_memory(limit: u64, system: u64) -> (String, &'static str) {
    let twice = limit.saturating_mul(2);
    if system == 0 || twice <= system / 4 * 3 {
        let fix = format!("CONFIG SET maxmemory {twice}");
        return (fix, "memory of the machine");
    }
    let fix = format!(
        "a larger machine than this one of {}, or a shorter idle_timeout",
        bytes(system)
    );
    (
        fix,
        "another machine; with a shorter idle_timeout, users sign in more often",
    )
}

fn clients(answers: &Answers) -> Vec<Finding> {
    let mut findings = Vec::new();
    let limit = answers.number("maxclients");
    let limit = limit.or_else(|| answers.setting("maxclients")?.parse().ok());
    if let (Some(clients), Some(limit)) = (answers.number("connected_clients"), limit) {
        let percent = (clients * 100).checked_div(limit).unwrap_or(100);
        let seen = format!("{} of {} clients", count(clients), count(limit));
        let why = "beyond maxclients the server closes new connections, so nodes that start or reconnect get 503";
        let fix = format!(
            "CONFIG SET maxclients {}, or a smaller pool_size",
            limit * 2
        );
        let price = "two file descriptors and some 20 KiB for each client";
        findings.push(match percent {
            90.. => Finding::problem("clients", seen)
                .because(why)
                .change(fix, price),
            75.. => Finding::warning("clients", seen)
                .because(why)
                .change(fix, price),
            _ => Finding::ok("clients", seen),
        });
    }
    if let Some(rejected) = answers.number("rejected_connections").filter(|n| *n > 0) {
        let seen = format!(
            "{} connections rejected since the server started",
            count(rejected)
        );
        let why = "there were more clients than maxclients";
        let fix = "look for clients that do not close their connections: CLIENT LIST";
        findings.push(
            Finding::warning("rejected", seen)
                .because(why)
                .change(fix, "none"),
        );
    }
    findings
}

fn connections(answers: &Answers) -> Vec<Finding> {
    let mut findings = Vec::new();
    let setting = |name| answers.setting(name)?.parse::<u64>().ok();
    match setting("timeout") {
        None => {}
        Some(0) => findings.push(Finding::ok("timeout", "idle connections stay open")),
        Some(secs) => {
            let seen = format!("the server closes connections that are idle for {secs} s");
            let why = "after a quiet time the first requests open new connections, which takes some round trips; none fails";
            let price = "connections of clients that are gone stay until tcp-keepalive finds them";
            let finding = Finding::note("timeout", seen).because(why);
            findings.push(finding.change("CONFIG SET timeout 0", price));
        }
    }
    match setting("tcp-keepalive") {
        Some(0) => {
            let why = "the server keeps the connections of nodes that are gone, until there are maxclients of them";
            let finding = Finding::note("keepalive", "tcp-keepalive is off").because(why);
            findings.push(finding.change(
                "CONFIG SET tcp-keepalive 300",
                "a packet for each idle connection in 5 minutes",
            ));
        }
        Some(secs) => findings.push(Finding::ok("keepalive", format!("tcp-keepalive {secs}"))),
        None => {}
    }
    findings
}

#[cfg(test)]
mod tests {
    use crate::doctor::finding::Severity::{Note, Ok, Problem, Warning};
    use crate::doctor::judge::judge;
    use crate::doctor::judge::server::more_memory;
    use crate::doctor::judge::tests::{facts, found, holds, node};

    #[test]
    fn versions() {
        holds(
            "version",
            &[
                ("redis_version:7.0.0", "", Ok, ""),
                ("redis_version:6.2.14", "", Problem, "Redis 6.2.14"),
                ("redis_version:10.0.1", "", Ok, ""),
                ("redis_version:unstable", "", Ok, ""),
                ("redis_version:6.0.0\nvalkey_version:8.1.0", "", Ok, ""),
            ],
        );
    }

    #[test]
    fn roles() {
        let replica = "role:slave\nmaster_host:p\nmaster_port:1\nmaster_link_status:";
        holds(
            "role",
            &[
                ("role:master", "", Ok, ""),
                (&format!("{replica}up"), "", Problem, "its primary is p:1"),
            ],
        );
        for (info, severity) in [
            (format!("{replica}up"), None),
            (format!("{replica}down"), Some(Warning)),
            ("role:master".to_owned(), Some(Warning)),
        ] {
            let mut facts = facts();
            facts.nodes.push(node("r:1", &info, ""));
            facts.nodes[1].is_replica = true;
            let severities: Vec<_> = found(&facts, "role").into_iter().map(|it| it.0).collect();
            assert_eq!(severities, Vec::from_iter(severity), "{info}");
        }
    }

    #[test]
    fn memory_and_eviction() {
        holds(
            "eviction",
            &[
                ("maxmemory_policy:noeviction", "", Ok, ""),
                ("maxmemory_policy:allkeys-lru", "", Problem, "allkeys-lru"),
                ("maxmemory_policy:volatile-ttl", "", Problem, "volatile-ttl"),
                (
                    "maxmemory_policy:volatile-lru\nmaxmemory:0",
                    "",
                    Warning,
                    "does not act yet",
                ),
            ],
        );
        holds(
            "evicted",
            &[
                ("evicted_keys:0", "", Ok, ""),
                ("evicted_keys:1200", "", Warning, "1 200 keys"),
            ],
        );
        holds(
            "memory",
            &[
                ("used_memory:849999", "", Ok, ""),
                ("used_memory:850000", "", Warning, "85 %"),
                ("used_memory:980000", "", Problem, "98 %"),
                (
                    "maxmemory:0\nused_memory:79\ntotal_system_memory:100",
                    "",
                    Ok,
                    "",
                ),
                (
                    "maxmemory:0\nused_memory:80\ntotal_system_memory:100",
                    "",
                    Warning,
                    "no maxmemory",
                ),
                (
                    "maxmemory:0\nused_memory:80\ntotal_system_memory:0",
                    "",
                    Ok,
                    "",
                ),
            ],
        );
        holds("loading", &[("loading:1", "", Problem, "loading")]);
    }

    #[test]
    fn more_memory_is_advised_only_if_the_machine_has_it() {
        const GIB: u64 = 1 << 30;
        for (limit, system, expected) in [
            (2 * GIB, 8 * GIB, "CONFIG SET maxmemory 4294967296"),
            (3 * GIB, 8 * GIB, "CONFIG SET maxmemory 6442450944"),
            (
                3 * GIB + 1,
                8 * GIB,
                "a larger machine than this one of 8.0 GiB",
            ),
            (6 * GIB, 8 * GIB, "a larger machine"),
            // The server does not say.
            (6 * GIB, 0, "CONFIG SET maxmemory 12884901888"),
        ] {
            let (fix, _) = more_memory(limit, system);
            assert!(fix.starts_with(expected), "{limit} of {system}: {fix}");
        }
        let full = "maxmemory:6\nused_memory:6\ntotal_system_memory:8";
        let mut facts = facts();
        facts.nodes = vec![node("h:6379", full, "")];
        let findings = judge(&facts);
        let memory = findings.iter().find(|it| it.check == "memory").unwrap();
        let text = format!("{memory:?}");
        assert!(text.contains("a larger machine"), "{text}");
    }

    #[test]
    fn clients_and_connections() {
        holds(
            "clients",
            &[
                ("connected_clients:7499", "", Ok, ""),
                ("connected_clients:7500", "", Warning, "7 500 of 10 000"),
                ("connected_clients:9000", "", Problem, "9 000 of 10 000"),
                (
                    "connected_clients:9\nmaxclients:10",
                    "maxclients 10000",
                    Problem,
                    "9 of 10",
                ),
            ],
        );
        holds(
            "rejected",
            &[("rejected_connections:3", "", Warning, "3 connections")],
        );
        holds(
            "timeout",
            &[("", "timeout 0", Ok, ""), ("", "timeout 60", Note, "60 s")],
        );
        holds(
            "keepalive",
            &[
                ("", "tcp-keepalive 60", Ok, ""),
                ("", "tcp-keepalive 0", Note, "off"),
            ],
        );
    }
}
