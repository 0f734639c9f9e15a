//! Which commands a user may send.

use crate::doctor::facts::{Access, Permissions};
use crate::node::{Node, Refusal};
use crate::settings::Settings;

/// The commands of a store, each with arguments that change nothing: the key does not exist, and is not created.
///
/// `KEY` stands for that key. The order matters: DISCARD ends what WATCH and MULTI begin.
const COMMANDS: [(&str, &[&str]); 27] = [
    ("get", &["GET", "KEY"]),
    ("pttl", &["PTTL", "KEY"]),
    ("set", &["SET", "KEY", "", "XX", "PX", "1"]),
    ("pexpire", &["PEXPIRE", "KEY", "1"]),
    ("unlink", &["UNLINK", "KEY"]),
    ("time", &["TIME"]),
    ("zadd", &["ZADD", "KEY", "XX", "0", "member"]),
    ("zrange", &["ZRANGE", "KEY", "0", "0"]),
    ("zrem", &["ZREM", "KEY", "member"]),
    ("zremrangebyscore", &["ZREMRANGEBYSCORE", "KEY", "0", "0"]),
    ("zscore", &["ZSCORE", "KEY", "member"]),
    ("getrange", &["GETRANGE", "KEY", "0", "0"]),
    (
        "evalsha",
        &[
            "EVALSHA",
            "0000000000000000000000000000000000000000",
            "1",
            "KEY",
        ],
    ),
    ("eval", &["EVAL", "return 1", "1", "KEY"]),
    ("watch", &["WATCH", "KEY"]),
    ("multi", &["MULTI"]),
    ("discard", &["DISCARD"]),
    ("exec", &["EXEC"]),
    ("select", &["SELECT", "DATABASE"]),
    ("wait", &["WAIT", "0", "1"]),
    ("asking", &["ASKING"]),
    ("cluster|slots", &["CLUSTER", "SLOTS"]),
    ("role", &["ROLE"]),
    ("dbsize", &["DBSIZE"]),
    ("scan", &["SCAN", "0", "COUNT", "1"]),
    ("strlen", &["STRLEN", "KEY"]),
    ("ping", &["PING"]),
];

/// Asks one server: all of them must let the user do the same, and the store's start checks one, too.
pub(crate) async fn check(
    nodes: &[Node],
    user: Option<&str>,
    settings: &Settings,
) -> Option<Permissions> {
    let node = nodes.first()?;
    // Of its own: whether a refused EXEC ends the transaction is up to the server.
    let own = Node::connect(node.target.clone(), &settings.redis).await;
    let node = match own {
        Ok(node) => node,
        Err(error) => {
            return Some(Permissions {
                user: user.map(str::to_owned),
                checked: Err(error.to_string()),
            });
        }
    };
    let key = format!("{}probe", settings.redis.key_prefix);
    let is_needed = |name: &str| match name {
        "wait" => settings.waits_for_replicas(),
        "asking" | "cluster|slots" => settings.redis.url.contains("+cluster://"),
        "role" => settings.redis.url.contains("+sentinel://"),
        "select" => node.target.database() != 0,
        "ping" => false,
        _ => true,
    };
    let mut checked = Vec::new();
    for (name, words) in COMMANDS {
        if !is_needed(name) {
            continue;
        }
        let database = node.target.database().to_string();
        let words: Vec<_> = words
            .iter()
            .map(|word| match *word {
                "KEY" => key.as_str(),
                "DATABASE" => database.as_str(),
                word => word,
            })
            .collect();
        let access = match user {
            None => sent(&node.ask::<redis::Value>(&words).await),
            Some(user) => match dry_run(&node, user, &words).await {
                Ok(access) => access,
                Err(why) => {
                    return Some(Permissions {
                        user: Some(user.to_owned()),
                        checked: Err(why),
                    });
                }
            },
        };
        checked.push((name, access));
    }
    Some(Permissions {
        user: user.map(str::to_owned),
        checked: Ok(checked),
    })
}

/// A server checks permissions before anything else that it may refuse a command for.
fn sent(answer: &Result<redis::Value, Refusal>) -> Access {
    match answer {
        Ok(_) | Err(Refusal::Other(_)) => Access::Allowed,
        Err(Refusal::Denied) => Access::Denied,
        Err(Refusal::KeyDenied) => Access::KeyDenied,
        Err(Refusal::Unknown) => Access::Unknown,
        Err(Refusal::Silent(_)) => Access::Unclear,
    }
}

async fn dry_run(node: &Node, user: &str, words: &[&str]) -> Result<Access, String> {
    let command = [&["ACL", "DRYRUN", user], words].concat();
    dry_run_answer(node.ask::<String>(&command).await)
}

fn dry_run_answer(answer: Result<String, Refusal>) -> Result<Access, String> {
    match answer {
        Ok(answer) if answer == "OK" => Ok(Access::Allowed),
        Ok(answer) if answer.contains(" key") => Ok(Access::KeyDenied),
        Ok(_) => Ok(Access::Denied),
        Err(Refusal::Other(text)) if text.contains("not found") && text.contains("ommand") => {
            Ok(Access::Unknown)
        }
        Err(refusal) => Err(refusal.reason()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_a_server_shows_whether_the_command_is_allowed() {
        let other = |text: &str| Refusal::Other(text.to_owned());
        for (answer, expected) in [
            (Ok(redis::Value::Nil), Access::Allowed),
            (Err(other("NOSCRIPT: no such script")), Access::Allowed),
            (Err(other("READONLY: a replica")), Access::Allowed),
            (Err(other("MOVED: 1 h:1")), Access::Allowed),
            (Err(Refusal::Denied), Access::Denied),
            (Err(Refusal::KeyDenied), Access::KeyDenied),
            (Err(Refusal::Unknown), Access::Unknown),
            (Err(Refusal::Silent("timeout".to_owned())), Access::Unclear),
        ] {
            assert_eq!(sent(&answer), expected);
        }
        let allowed = "OK";
        let denied = "User app has no permissions to run the 'eval' command";
        let key = "User app has no permissions to access the 'sessile:probe' key";
        for (answer, expected) in [
            (Ok(allowed), Ok(Access::Allowed)),
            (Ok(denied), Ok(Access::Denied)),
            (Ok(key), Ok(Access::KeyDenied)),
            (Err("ERR: Command 'evalx' not found"), Ok(Access::Unknown)),
            (Err("ERR: User 'app' not found"), Err(())),
        ] {
            let answer = answer.map(str::to_owned).map_err(other);
            assert_eq!(dry_run_answer(answer).map_err(drop), expected);
        }
    }
}
