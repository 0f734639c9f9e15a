//! What a restart or a failover loses.

use crate::doctor::facts::{Answers, Facts, NodeFacts};
use crate::doctor::finding::Finding;

/// A replica that has not acknowledged for this many seconds is behind.
const LAG: u64 = 10;

pub(crate) fn judge(facts: &Facts, node: &NodeFacts, answers: &Answers) -> Vec<Finding> {
    if answers.info.is_err() {
        return Vec::new();
    }
    let mut findings = failures(answers);
    if node.is_replica {
        return findings;
    }
    findings.extend(on_disk(answers));
    let is_primary = answers.info("role") == Some("master");
    if is_primary {
        findings.extend(replicas(facts, answers));
        findings.extend(isolation(answers));
    }
    findings
}

fn on_disk(answers: &Answers) -> Option<Finding> {
    let has_log = answers.info("aof_enabled")? == "1";
    // Without CONFIG GET, a snapshot that was taken shows that some are.
    let snapshots = match answers.setting("save") {
        Some(save) => !save.is_empty(),
        None => answers.number("rdb_saves").unwrap_or(0) > 0,
    };
    let to_always = "CONFIG SET appendfsync always";
    Some(match (has_log, answers.setting("appendfsync")) {
        (true, Some("always")) => Finding::ok("persistence", "appendonly, appendfsync always"),
        (true, Some("everysec")) => Finding::note("persistence", "appendonly, appendfsync everysec")
            .because("a crash of the machine loses the last second: logouts of that time are undone, and sign-ins lost")
            .change(to_always, "each write waits for the disk: a millisecond with an SSD that has a cache of its own, ten without"),
        (true, Some(other)) => Finding::warning("persistence", format!("appendonly, appendfsync {other}"))
            .because("a crash of the machine loses what the system has not written yet, half a minute or so, logouts among it")
            .change(to_always, "each write waits for the disk"),
        (true, None) => Finding::ok("persistence", "appendonly"),
        (false, _) if snapshots => Finding::warning("persistence", "snapshots only (RDB)")
            .because("a restart brings back the sessions of the last snapshot: users whom a logout signed out since are signed in again")
            .change(
                "CONFIG SET appendonly yes, then CONFIG SET appendfsync always; or CONFIG SET save \"\"",
                "the first writes each change to disk; with the second a restart signs everybody out",
            ),
        (false, _) => Finding::note("persistence", "none")
            .because("a restart signs everybody out. That is safe, since no logout is undone")
            .change(
                "CONFIG SET appendonly yes, then CONFIG SET appendfsync always",
                "each write waits for the disk",
            ),
    })
}

/// Writes to disk that have failed.
fn failures(answers: &Answers) -> Vec<Finding> {
    let mut findings = Vec::new();
    let failed = |name| answers.info(name).is_some_and(|status| status != "ok");
    let fix = "look at the server's log for the reason: a full disk, or a directory that it may not write";
    if failed("rdb_last_bgsave_status") {
        let seen = "the last snapshot failed (rdb_last_bgsave_status)";
        let stops = answers.setting("stop-writes-on-bgsave-error") != Some("no")
            && answers.setting("save").is_none_or(|save| !save.is_empty());
        findings.push(match stops {
            true => Finding::problem("disk", seen).because(
                "the server rejects every write (MISCONF): changes, sign-ins and logouts get 503",
            ),
            false => Finding::warning("disk", seen)
                .because("a restart brings back older sessions than it should"),
        });
    }
    if failed("aof_last_write_status") {
        let seen = "the last write to the append-only file failed (aof_last_write_status)";
        let why = "the server rejects every write (MISCONF): changes, sign-ins and logouts get 503";
        findings.push(Finding::problem("disk", seen).because(why));
    }
    if failed("aof_last_bgrewrite_status") {
        let seen = "the last rewrite of the append-only file failed (aof_last_bgrewrite_status)";
        let why = "the file grows until the disk is full, and then every write fails";
        findings.push(Finding::warning("disk", seen).because(why));
    }
    let with_fix = |finding: Finding| finding.change(fix, "none");
    findings.into_iter().map(with_fix).collect()
}

fn replicas(facts: &Facts, answers: &Answers) -> Vec<Finding> {
    let connected = answers.number("connected_slaves").unwrap_or(0);
    if connected == 0 {
        let why = "if this machine is lost, all sessions on it are, and requests get 503 until there is another one";
        let to = "a replica: REPLICAOF <host> <port> on another server, and sentinels or a cluster to fail over";
        let price = "a second machine, and as much memory";
        let finding = match facts.is_cluster() || facts.has_sentinels() {
            true => Finding::warning("replicas", "no replica, so nothing can take over"),
            false => Finding::note("replicas", "no replica"),
        };
        let mut findings = vec![finding.because(why).change(to, price)];
        if facts.durability {
            let seen = "`durability` waits for replicas, and there is none";
            let why = "every change that waits gets 503";
            let to = "durability = \"primary\" in the configuration, or a replica";
            findings.push(
                Finding::problem("durability", seen)
                    .because(why)
                    .change(to, "none"),
            );
        }
        return findings;
    }
    let behind: Vec<_> = (0..connected).filter_map(|n| behind(answers, n)).collect();
    if behind.is_empty() {
        let seen = format!("{connected} in sync");
        return vec![Finding::ok("replicas", seen)];
    }
    let why = "if it takes over, the changes that it does not have are lost: logouts are undone";
    let to = "look at its log and the network, and wait until it is in sync";
    let finding = |seen| {
        Finding::warning("replicas", seen)
            .because(why)
            .change(to, "none")
    };
    behind.into_iter().map(finding).collect()
}

/// Why a replica would lose changes if it took over: `slave0:ip=10.0.0.2,port=6379,state=online,offset=5,lag=0`.
fn behind(answers: &Answers, n: u64) -> Option<String> {
    let line = answers.info(&format!("slave{n}"))?;
    let field = |name: &str| {
        let fields = line.split(',').filter_map(|field| field.split_once('='));
        fields
            .into_iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    };
    let address = format!("{}:{}", field("ip")?, field("port")?);
    let state = field("state")?;
    if state != "online" {
        return Some(format!("the replica {address} is not in sync: {state}"));
    }
    let lag: u64 = field("lag")?.parse().ok()?;
    (lag >= LAG).then(|| format!("the replica {address} has not answered for {lag} s"))
}

/// A primary that is cut off from the others.
fn isolation(answers: &Answers) -> Option<Finding> {
    let least: u64 = answers.setting("min-replicas-to-write")?.parse().ok()?;
    let connected = answers.number("connected_slaves").unwrap_or(0);
    let good = answers
        .number("min_slaves_good_slaves")
        .unwrap_or(connected);
    if least == 0 && connected > 0 {
        let why = "a primary that is cut off goes on accepting changes, which are lost when it follows the one that took over";
        let price = "without a replica that answers, changes get 503";
        let finding = Finding::note("isolation", "min-replicas-to-write 0").because(why);
        return Some(finding.change("CONFIG SET min-replicas-to-write 1", price));
    }
    if least > good {
        let seen = format!("min-replicas-to-write {least}, and {good} replicas answer");
        let why =
            "the server rejects every write (NOREPLICAS): changes, sign-ins and logouts get 503";
        let to = format!("repair the replicas, or CONFIG SET min-replicas-to-write {good}");
        let price = "a primary that is cut off loses what it accepts";
        return Some(
            Finding::problem("isolation", seen)
                .because(why)
                .change(to, price),
        );
    }
    (least > 0).then(|| Finding::ok("isolation", format!("min-replicas-to-write {least}")))
}

#[cfg(test)]
mod tests {
    use crate::doctor::finding::Severity::{Note, Ok, Problem, Warning};
    use crate::doctor::judge::tests::{facts, found, holds, node};

    #[test]
    fn persistence() {
        holds(
            "persistence",
            &[
                ("aof_enabled:1", "appendfsync always", Ok, ""),
                ("aof_enabled:1", "appendfsync everysec", Note, "everysec"),
                ("aof_enabled:1", "appendfsync no", Warning, "appendfsync no"),
                ("aof_enabled:0", "save 3600 1", Warning, "snapshots only"),
                ("aof_enabled:0", "save ", Note, "none"),
            ],
        );
        holds(
            "disk",
            &[
                (
                    "rdb_last_bgsave_status:err",
                    "save 3600 1",
                    Problem,
                    "snapshot failed",
                ),
                (
                    "rdb_last_bgsave_status:err",
                    "save ",
                    Warning,
                    "snapshot failed",
                ),
                (
                    "rdb_last_bgsave_status:err",
                    "save 3600 1\nstop-writes-on-bgsave-error no",
                    Warning,
                    "snapshot failed",
                ),
                (
                    "aof_last_write_status:err",
                    "",
                    Problem,
                    "append-only file failed",
                ),
                ("aof_last_bgrewrite_status:err", "", Warning, "rewrite"),
            ],
        );
    }

    #[test]
    fn replicas() {
        let slave = "slave0:ip=r,port=1,offset=5,";
        holds(
            "replicas",
            &[
                ("connected_slaves:0", "", Note, "no replica"),
                (&format!("{slave}state=online,lag=9"), "", Ok, ""),
                (
                    &format!("{slave}state=online,lag=10"),
                    "",
                    Warning,
                    "r:1 has not answered for 10 s",
                ),
                (
                    &format!("{slave}state=wait_bgsave,lag=0"),
                    "",
                    Warning,
                    "not in sync: wait_bgsave",
                ),
            ],
        );
        holds(
            "isolation",
            &[
                (
                    "",
                    "min-replicas-to-write 0",
                    Note,
                    "min-replicas-to-write 0",
                ),
                ("connected_slaves:0", "min-replicas-to-write 0", Ok, ""),
                (
                    "min_slaves_good_slaves:1",
                    "min-replicas-to-write 1",
                    Ok,
                    "",
                ),
                (
                    "min_slaves_good_slaves:0",
                    "min-replicas-to-write 1",
                    Problem,
                    "0 replicas answer",
                ),
                (
                    "connected_slaves:0",
                    "min-replicas-to-write 1",
                    Problem,
                    "0 replicas answer",
                ),
            ],
        );
    }

    #[test]
    fn durability_without_replicas_is_a_problem() {
        let mut facts = facts();
        facts.durability = true;
        assert_eq!(found(&facts, "durability"), []);
        facts.nodes = vec![node("h:1", "connected_slaves:0", "")];
        assert_eq!(found(&facts, "durability")[0].0, Problem);
    }
}
