//! Whether the store can work with the server, and which permissions are missing.

use crate::doctor::facts::{Access, Facts, Permissions};
use crate::doctor::finding::Finding;

/// What every store needs; on a cluster, with sentinels and in another database, what was asked for besides these.
const ALWAYS: [&str; 15] = [
    "get",
    "pttl",
    "set",
    "pexpire",
    "unlink",
    "time",
    "zadd",
    "zrange",
    "zrem",
    "zremrangebyscore",
    "zscore",
    "select",
    "wait",
    "asking",
    "cluster|slots",
];
const BY_SCRIPT: [&str; 3] = ["getrange", "evalsha", "eval"];
const BY_WATCH: [&str; 5] = ["getrange", "watch", "multi", "exec", "discard"];
const FOR_STATS: [&str; 3] = ["dbsize", "scan", "strlen"];

pub(crate) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &facts.store {
        Ok(strategy) => findings.push(Finding::ok("store", format!("starts; compare-and-set by {strategy}"))),
        // It has said which permissions the user of the URL lacks, which is not the application's.
        Err(advice) if is_about_another(facts) && advice.contains("grant the user") => {
            let seen = "not started: the user of the URL may not write sessions, and --acl-user names the application's";
            findings.push(Finding::note("store", seen));
        }
        Err(advice) => findings.push(
            Finding::problem("store", format!("cannot start: {advice}"))
                .because("an application with these settings stops at startup; one that connects lazily answers 503"),
        ),
    }
    if let Some(permissions) = &facts.permissions {
        match &permissions.checked {
            Ok(checked) => findings.extend(judge_checked(facts, permissions, checked)),
            Err(why) => {
                let seen = format!("{} could not be checked: {why}", user(permissions));
                let why = "so the doctor cannot tell whether the application may send all commands that it needs";
                let to = "correct --acl-user, or ACL SETUSER <this user> +acl|dryrun";
                let price = "this user may then try out what others may do";
                findings.push(
                    Finding::warning("permissions", seen)
                        .because(why)
                        .change(to, price),
                );
            }
        }
    }
    findings
}

fn judge_checked(
    facts: &Facts,
    permissions: &Permissions,
    checked: &[(&'static str, Access)],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is = |name: &str, access: Access| checked.iter().any(|it| it.0 == name && it.1 == access);
    let having = |access: Access, names: &[&'static str]| -> Vec<&'static str> {
        names
            .iter()
            .copied()
            .filter(|name| is(name, access.clone()))
            .collect()
    };
    let user = user(permissions);
    let renamed = having(Access::Unknown, &ALWAYS);
    if !renamed.is_empty() {
        let seen = format!("the server does not have {}", renamed.join(", "));
        let why = "sessions need these commands: without them the store does not start";
        let to = "remove `rename-command` from the server's configuration, and restart it; to keep others from a command, use the ACL";
        findings.push(
            Finding::problem("commands", seen)
                .because(why)
                .change(to, "a restart or a failover"),
        );
    }
    let mut missing = having(Access::Denied, &ALWAYS);
    let unusable = |names: &[&'static str]| {
        [
            having(Access::Denied, names),
            having(Access::Unknown, names),
        ]
        .concat()
    };
    let (no_script, no_watch) = (unusable(&BY_SCRIPT), unusable(&BY_WATCH));
    if !no_script.is_empty() && !no_watch.is_empty() {
        missing.extend(having(Access::Denied, &BY_SCRIPT));
        let seen = format!(
            "{user} may neither run scripts ({} missing) nor transactions ({} missing)",
            no_script.join(", "),
            no_watch.join(", ")
        );
        let why =
            "nothing is left by which a session could be replaced only if nobody has changed it";
        findings.push(
            Finding::problem("compare-and-set", seen)
                .because(why)
                .change(
                    grant(permissions, facts, &having(Access::Denied, &BY_SCRIPT)),
                    "scripts of this user may run only these commands",
                ),
        );
    } else if !no_script.is_empty() {
        let seen = format!(
            "{user} may not run scripts ({} missing)",
            no_script.join(", ")
        );
        let why =
            "so a change takes one more round trip, by WATCH, unless the server has SET … IFEQ";
        findings.push(Finding::note("compare-and-set", seen).because(why).change(
            grant(permissions, facts, &having(Access::Denied, &BY_SCRIPT)),
            "scripts of this user may run only the commands that it may send",
        ));
    }
    if !missing.is_empty() {
        let seen = format!("{user} may not send {}", missing.join(", "));
        let why = "the store does not start without them";
        let finding = Finding::problem("permissions", seen).because(why);
        findings.push(finding.change(
            grant(permissions, facts, &missing),
            "none: an application needs no others",
        ));
    }
    let keys: Vec<_> = checked
        .iter()
        .filter(|it| it.1 == Access::KeyDenied)
        .map(|it| it.0)
        .collect();
    if !keys.is_empty() {
        let seen = format!("{user} may not use keys that begin with {}", facts.prefix);
        let why = format!("{} fail there", keys.join(", "));
        let to = format!("ACL SETUSER {} ~{}*", name(permissions), facts.prefix);
        findings.push(
            Finding::problem("permissions", seen)
                .because(why)
                .change(to, "none"),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            "permissions",
            format!("{user} may send all commands that sessions need"),
        ));
    }
    let for_stats = having(Access::Denied, &FOR_STATS);
    if !for_stats.is_empty() {
        let seen = format!("{user} may not send {}", for_stats.join(", "));
        let why =
            "RedisStore::stats, `sessile stats` and `sessile list` need them; sessions do not";
        let to = grant(permissions, facts, &for_stats);
        let price = "SCAN shows the names of all keys of the database";
        findings.push(
            Finding::note("permissions", seen)
                .because(why)
                .change(to, price),
        );
    }
    if is("role", Access::Denied) {
        let seen = format!("{user} may not send role");
        let why = "after a failover, a demoted primary is noticed at the first write and not on connecting";
        let to = grant(permissions, facts, &["role"]);
        findings.push(
            Finding::note("permissions", seen)
                .because(why)
                .change(to, "none"),
        );
    }
    findings
}

fn is_about_another(facts: &Facts) -> bool {
    facts
        .permissions
        .as_ref()
        .is_some_and(|it| it.user.is_some())
}

fn user(permissions: &Permissions) -> String {
    match &permissions.user {
        Some(name) => format!("the user {name}"),
        None => "the user of the URL".to_owned(),
    }
}

fn name(permissions: &Permissions) -> &str {
    permissions.user.as_deref().unwrap_or("<user>")
}

fn grant(permissions: &Permissions, facts: &Facts, commands: &[&str]) -> String {
    let commands: Vec<_> = commands.iter().map(|it| format!("+{it}")).collect();
    let on_all = if facts.is_cluster() {
        ", on every node"
    } else {
        ""
    };
    format!(
        "ACL SETUSER {} {}{on_all}",
        name(permissions),
        commands.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity::{self, Note, Problem, Warning};
    use crate::doctor::judge::tests::{facts, found};

    fn permissions(not_allowed: &[(&'static str, Access)]) -> Permissions {
        let all = [&ALWAYS[..11], &BY_SCRIPT, &BY_WATCH[1..], &FOR_STATS].concat();
        let checked = all.into_iter().map(|name| {
            let other = not_allowed.iter().find(|it| it.0 == name);
            (name, other.map_or(Access::Allowed, |it| it.1.clone()))
        });
        Permissions {
            user: Some("app".to_owned()),
            checked: Ok(checked.collect()),
        }
    }

    #[test]
    fn the_exact_permissions_that_are_missing_are_named() {
        use Access::{Denied, KeyDenied, Unknown};
        type Row<'a> = (
            &'a [(&'static str, Access)],
            &'a [(&'a str, Severity, &'a str)],
        );
        let rows: &[Row<'_>] = &[
            (&[], &[]),
            (
                &[("zadd", Denied), ("unlink", Denied)],
                &[("permissions", Problem, "ACL SETUSER app +unlink +zadd")],
            ),
            (
                &[("unlink", Unknown)],
                &[("commands", Problem, "rename-command")],
            ),
            (
                &[("eval", Denied), ("evalsha", Denied)],
                &[("compare-and-set", Note, "ACL SETUSER app +evalsha +eval")],
            ),
            (&[("watch", Denied)], &[]),
            (
                &[("eval", Unknown), ("exec", Denied)],
                &[("compare-and-set", Problem, "ACL SETUSER app")],
            ),
            (
                &[("get", KeyDenied), ("set", KeyDenied)],
                &[("permissions", Problem, "ACL SETUSER app ~sessile:*")],
            ),
            (&[("scan", Denied)], &[("permissions", Note, "+scan")]),
        ];
        for (not_allowed, expected) in rows {
            let mut facts = facts();
            facts.permissions = Some(permissions(not_allowed));
            let findings = judge(&facts).into_iter();
            let found: Vec<_> = findings.filter(|it| it.severity > Severity::Ok).collect();
            assert_eq!(found.len(), expected.len(), "{not_allowed:?}: {found:?}");
            for (found, (check, severity, to)) in found.iter().zip(*expected) {
                assert_eq!((found.check, found.severity), (*check, *severity));
                let change = found.change.as_ref().unwrap();
                assert!(change.to.contains(to), "{change:?}");
            }
        }
    }

    #[test]
    fn a_store_that_does_not_start_is_a_problem_and_an_unknown_user_a_warning() {
        let mut facts = facts();
        facts.store = Err("write user and password into `url`".to_owned());
        facts.permissions = Some(Permissions {
            user: Some("nobody".to_owned()),
            checked: Err("User 'nobody' not found".to_owned()),
        });
        assert_eq!(found(&facts, "store")[0].0, Problem);
        facts.store =
            Err("NOPERM: grant the user `+get` on keys that begin with `key_prefix`".to_owned());
        assert_eq!(found(&facts, "store")[0].0, Note);
        assert_eq!(found(&facts, "permissions")[0].0, Warning);
    }
}
