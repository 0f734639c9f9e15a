//! The advice in errors about a server that the store cannot use.

use std::error::Error;
use std::sync::Arc;

use redis::{ErrorKind, RedisError};

use crate::error::config::ConfigError;
use crate::store::redis::config::{CompareAndSet, RedisConfig};
use crate::store::redis::login::{CREDENTIALS_REFUSED, PROVIDER_FAILED, is_provider_error};
use crate::store::redis::sentinel::NO_PRIMARY;
use crate::store::redis::tls::handshake_advice;

/// The error for a connection that could not be opened.
pub(crate) fn connect_error(address: &str, config: &RedisConfig, error: RedisError) -> ConfigError {
    let advice = if let Some(advice) = handshake_advice(&error) {
        of_nodes(advice, &config.url)
    } else if is_provider_error(&error) {
        error.to_string()
    } else if error.to_string().contains(CREDENTIALS_REFUSED) {
        "the server refused what the credentials provider returned: correct the user and the password or token there, unless the \
         server has as many clients as `maxclients`"
            .to_owned()
    } else if error.is_connection_refusal() {
        "nothing listens there (connection refused): start the server, or correct `url`".to_owned()
    } else if error.is_timeout() {
        let waited = config.connection_timeout;
        let tls = match is_encrypted(config) {
            true => ", or does the server not speak TLS",
            false => "",
        };
        format!(
            "no answer within connection_timeout = {waited:?}: is the server busy, is there a firewall{tls}?"
        )
    } else if !error.to_string().contains(NO_PRIMARY)
        && (error.is_connection_dropped() || error.kind() == ErrorKind::Parse)
    {
        let advice = match is_encrypted(config) {
            true => {
                "the server closed the connection: if it does not speak TLS, write `redis://`; if it asks for a certificate, \
                 write `tls.client_cert` and `tls.client_key`"
            }
            false => {
                "the server closed the connection, or does not answer as Redis does: if it expects TLS, write \
                 `rediss://`"
            }
        };
        of_nodes(advice.to_owned(), &config.url)
    } else if error.kind() == ErrorKind::AuthenticationFailed {
        "the server refused the login: correct user and password in `url`, unless it has as many clients as `maxclients`, or is a \
         sentinel, for which write `redis+sentinel://`"
            .to_owned()
    } else {
        advice(config.compare_and_set, error.code(), &error)
    };
    ConfigError::Connect {
        address: address.to_owned(),
        advice,
        source: Arc::new(error),
    }
}

/// The advice for a node that was named by sentinels or a cluster, not by the URL.
fn of_nodes(advice: String, url: &str) -> String {
    let (kind, names) = match url.split_once("://") {
        Some((scheme, _)) if scheme.ends_with("+sentinel") => (
            "+sentinel",
            "let the sentinels announce that name (`resolve-hostnames` and `announce-hostnames`)",
        ),
        Some((scheme, _)) if scheme.ends_with("+cluster") => (
            "+cluster",
            "let the cluster announce that name (`cluster-announce-hostname` and `cluster-preferred-endpoint-type`)",
        ),
        _ => return advice,
    };
    advice
        .replace("write the name that it is for into `url`", names)
        .replace("`redis://`", &format!("`redis{kind}://`"))
        .replace("`rediss://`", &format!("`rediss{kind}://`"))
}

fn is_encrypted(config: &RedisConfig) -> bool {
    let schemes = ["rediss:", "rediss+", "valkeys:"];
    schemes.iter().any(|scheme| config.url.starts_with(scheme))
}

/// The advice for an error that the server returned.
pub(crate) fn advice(
    compare_and_set: CompareAndSet,
    code: Option<&str>,
    error: &dyn Error,
) -> String {
    let message = error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string);
    // A denial inside a script is a plain error, with a text that depends on the version.
    let denied = code == Some("NOPERM")
        || message.contains("can't run this command")
        || message.contains("no permissions");
    match code {
        // These messages contain advice already, and are not about this server.
        _ if message.contains(NO_PRIMARY) || message.contains(PROVIDER_FAILED) => message,
        _ if message.contains(CREDENTIALS_REFUSED) => {
            format!("{message}: correct the user and the password or token that it returns")
        }
        _ if denied => {
            let grants = grants(compare_and_set);
            // A command besides those, such as SELECT.
            let missing = match quoted(&message) {
                Some(command) if !grants.contains(&format!("+{command}")) => {
                    format!("`+{command}`, and ")
                }
                _ => String::new(),
            };
            format!(
                "{message}: grant the user {missing}{grants} on keys that begin with `key_prefix`"
            )
        }
        Some("CLUSTERDOWN") => format!(
            "{message}: this server is a node of a cluster that is down: look at `CLUSTER INFO` there; a cluster's URL is \
             `redis+cluster://host:6379,host:6379/`"
        ),
        Some("MOVED" | "ASK") => {
            format!(
                "{message}: this server is a node of a cluster, and has only some of the keys; write `redis+cluster://host:6379,host:6379/`"
            )
        }
        _ if message.contains("cluster support disabled") => {
            format!("{message}: this server is not a cluster; write `redis://host:6379/`")
        }
        Some("NOAUTH" | "WRONGPASS") => format!("{message}: write user and password into `url`"),
        Some("ERR") if message.contains("syntax") && compare_and_set == CompareAndSet::IfEq => {
            format!(
                "{message}: this server does not support `SET … IFEQ`, which came with Valkey 8.1 and Redis 8.4; write `compare_and_set = \"auto\"`"
            )
        }
        Some("ERR") if message.contains("max number of clients") => {
            format!(
                "{message}: raise `maxclients` of the server, or lower `pool_size` of the applications that use it"
            )
        }
        Some("ERR") if message.contains("unknown command") => match quoted(&message) {
            Some(command) if command == "hello" => format!(
                "{message}: `protocol=resp3` needs the command: leave that out of `url`, or remove `rename-command` from the server's \
                 configuration"
            ),
            Some(command) if matches!(&*command, "time" | "select") => format!(
                "{message}: if this is a sentinel, write `redis+sentinel://host:26379/mymaster`; otherwise sessions need the command: remove \
                 `rename-command` from the server's configuration"
            ),
            Some(command) if command == "wait" => format!(
                "{message}: `durability` needs the command: write \"primary\" there, or remove `rename-command` from the server's \
                 configuration"
            ),
            Some(command) if ALWAYS.contains(&&*command) => format!(
                "{message}: sessions need the command: remove `rename-command` from the server's configuration"
            ),
            _ => format!(
                "{message}: `compare_and_set` needs the command; write `compare_and_set = \"auto\"`"
            ),
        },
        _ => format!("{message}: correct `url`, or look at the server's log"),
    }
}

/// Commands that every compare-and-set strategy needs.
const ALWAYS: [&str; 6] = ["get", "pttl", "set", "pexpire", "unlink", "time"];

/// The command that the server names in its reply.
fn quoted(message: &str) -> Option<String> {
    let is_quote = |quote: char| matches!(quote, '\'' | '`');
    let (_, rest) = message.split_once(is_quote)?;
    let (command, _) = rest.split_once(is_quote)?;
    Some(command.to_lowercase())
}

/// The permissions that are needed, and no more.
fn grants(compare_and_set: CompareAndSet) -> &'static str {
    match compare_and_set {
        CompareAndSet::Script => {
            "`+get +pttl +set +getrange +evalsha +eval +pexpire +unlink +time +zadd +zrange +zrem +zremrangebyscore +zscore`"
        }
        CompareAndSet::Watch => {
            "`+get +pttl +set +getrange +watch +multi +exec +discard +pexpire +unlink +time +zadd +zrange +zrem +zremrangebyscore +zscore`"
        }
        CompareAndSet::IfEq => {
            "`+get +pttl +set +watch +multi +exec +discard +pexpire +unlink +time +zadd +zrange +zrem +zremrangebyscore +zscore`"
        }
        CompareAndSet::Auto => {
            "`+get +pttl +set +getrange +evalsha +eval +pexpire +unlink +time +zadd +zrange +zrem +zremrangebyscore +zscore`, \
             or `+watch +multi +exec +discard` instead of `+evalsha +eval`,"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redis::error::without_arguments;

    #[test]
    fn advice_for_a_node_of_sentinels_or_a_cluster_does_not_blame_the_url() {
        let host = "for another host: write the name that it is for into `url`, or give it one";
        let plain = "if it does not speak TLS, write `redis://`";
        for (url, named) in [
            ("rediss://a/", ["into `url`", "`redis://`"]),
            (
                "rediss+sentinel://a/m",
                ["`announce-hostnames`", "`redis+sentinel://`"],
            ),
            (
                "rediss+cluster://a/",
                ["`cluster-announce-hostname`", "`redis+cluster://`"],
            ),
        ] {
            for (advice, named) in [host, plain].into_iter().zip(named) {
                let text = of_nodes(advice.to_owned(), url);
                assert!(text.contains(named), "{url}: {text}");
            }
        }
    }

    #[test]
    fn the_advice_names_the_permissions_of_the_configured_strategy() {
        use CompareAndSet::{Auto, IfEq, Script, Watch};
        let denied = "NOPERM no permissions to run the 'eval' command";
        let unknown = "ERR unknown command 'EVAL', with args beginning with:";
        let exec = "NOPERM no permissions to run the 'exec' command";
        let syntax = "ERR syntax error";
        let select = "NOPERM User app has no permissions to run the 'select' command";
        let get = "NOPERM User app has no permissions to run the 'get' command";
        let unlink = "ERR unknown command 'UNLINK', with args beginning with: 'sessile:probe'";
        let hello =
            "ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'app' 's3cret' ";
        let time = "ERR unknown command 'TIME', with args beginning with:";
        for (asked, message, named, unnamed) in [
            (Script, denied, "+evalsha +eval", "+watch"),
            (Watch, exec, "+watch +multi +exec +discard", "+eval"),
            (IfEq, exec, "+get +pttl +set +watch", "+getrange"),
            (Auto, denied, "+evalsha +eval", "on the server's log"),
            (Auto, denied, "+watch +multi +exec +discard", "auto"),
            (Script, "ERR can't run this command", "+getrange", "+watch"),
            (IfEq, syntax, "Valkey 8.1", "grant"),
            (IfEq, syntax, "compare_and_set = \"auto\"", "grant"),
            (Script, syntax, "server's log", "auto"),
            (Script, unknown, "compare_and_set = \"auto\"", "grant"),
            (Auto, "WRONGPASS wrong", "into `url`", "grant"),
            (
                Auto,
                select,
                "grant the user `+select`, and `+get",
                "`+eval`",
            ),
            (Auto, get, "grant the user `+get", "`+get`"),
            (Auto, unlink, "`rename-command`", "auto"),
            (
                Auto,
                "ERR unknown command `PEXPIRE`, with args",
                "`rename-command`",
                "auto",
            ),
            (Auto, time, "redis+sentinel://", "auto"),
            (
                Auto,
                "ERR unknown command 'SELECT'",
                "redis+sentinel://",
                "auto",
            ),
            (Auto, hello, "`protocol=resp3`", "args"),
            (
                Auto,
                "ERR unknown command `HELLO`, with args beginning with: `s3cret`",
                "`protocol=resp3`",
                "args",
            ),
            (
                Auto,
                "ERR max number of clients reached",
                "`maxclients`",
                "`url`",
            ),
        ] {
            let line = format!("-{message}\r\n");
            let redis::Value::ServerError(error) =
                redis::parse_redis_value(line.as_bytes()).unwrap()
            else {
                panic!("{message}");
            };
            let error = RedisError::from(error);
            let error = without_arguments(error);
            let text = advice(asked, error.code(), &error);
            assert!(!text.contains("s3cret"), "{text}");
            assert!(text.contains(named), "{asked:?} {message}: {text}");
            assert!(!text.contains(unnamed), "{asked:?} {message}: {text}");
        }
    }
}
