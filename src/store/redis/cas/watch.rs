//! The compare-and-set by WATCH and EXEC, for servers that deny scripts.
//!
//! It takes two round trips on a connection that no other request uses. The first watches the key, reads its version, and opens
//! the transaction; the second, if the version is the expected one, queues the new value and executes. MULTI is in the first,
//! since a server that refuses it would execute the commands after it at once.

use std::time::Instant;

use redis::{Cmd, ServerError, Value, cmd};

use crate::error::store::StoreError;
use crate::store::contract::{Replaced, Stored};
use crate::store::redis::cas::swap::Swap;
use crate::store::redis::error::RequestError;
use crate::store::redis::exclusive::Exclusive;
use crate::store::redis::reply::{conflict, is_wrong_type, unexpected_reply};
use crate::store::redis::servers::{Route, Servers};

/// Replaces the value if it is the expected one. Returns the connection, without a watched key or an open transaction, for
/// further commands.
///
/// If it fails before EXEC is sent, nothing has changed, so the error is never [`Unknown`](crate::store::StoreErrorKind).
pub(crate) async fn replace(
    servers: &Servers,
    route: &mut Route<'_>,
    swap: Swap<'_>,
) -> Result<(Replaced, Exclusive), RequestError> {
    let Swap {
        key,
        expected,
        value,
        ttl,
    } = swap;
    let began = Instant::now();
    let (mut connection, mut present) = begin(route, key).await?;
    loop {
        let is_expected = match &present {
            Value::BulkString(version) => !version.is_empty() && version == expected.version(),
            // WRONGTYPE, which reading the whole value reports too.
            _ => false,
        };
        if !is_expected {
            let replaced = discard_and_read(&mut connection, key)
                .await
                .map_err(RequestError::into_unavailable)?;
            return Ok((replaced, connection));
        }
        let mut set = cmd("SET");
        set.arg(key).arg(value).arg("XX");
        match ttl {
            Some(ttl) => set.arg("PX").arg(ttl),
            None => set.arg("KEEPTTL"),
        };
        match execute(&mut connection, set).await? {
            Some(Value::Okay) => return Ok((Replaced::Done, connection)),
            // It has expired since WATCH.
            Some(Value::Nil) => return Ok((Replaced::Gone, connection)),
            Some(_) => return Err(unexpected_reply("EXEC").into()),
            // Another value, or the same one renewed: for WATCH a PEXPIRE counts as a change, but the value is the same.
            None if began.elapsed() < servers.command_timeout() => {
                present = watch_and_read(&mut connection, key)
                    .await
                    .map_err(RequestError::into_unavailable)?;
            }
            None => {
                connection.return_to_pool();
                let message = "the session was renewed again and again while sessile tried to replace it: try again";
                return Err(StoreError::refused(message).into());
            }
        }
    }
}

/// Sends once all commands of [`replace`], with a key that does not exist.
pub(crate) async fn probe(servers: &Servers, key: &str) -> Result<(), RequestError> {
    let mut route = servers.route(key);
    loop {
        match probe_at(&mut route, key).await {
            Err(failed) if route.prepare_retry(&failed).await => {}
            probed => return probed,
        }
    }
}

async fn probe_at(route: &mut Route<'_>, key: &str) -> Result<(), RequestError> {
    let (mut connection, _) = begin(route, key).await?;
    let _ = discard_and_read(&mut connection, key).await?;
    watch_and_read(&mut connection, key).await?;
    let mut set = cmd("SET");
    set.arg(key).arg(&["", "XX", "PX", "1"]);
    execute(&mut connection, set).await?;
    connection.return_to_pool();
    Ok(())
}

/// Opens a connection and reads the version; uses another connection if the first turns out to be dead.
async fn begin(route: &mut Route<'_>, key: &str) -> Result<(Exclusive, Value), RequestError> {
    let opened = match begin_once(route, key).await {
        Err(failed) if failed.is_dropped() => begin_once(route, key).await,
        opened => opened,
    };
    opened.map_err(RequestError::into_unavailable)
}

async fn begin_once(route: &mut Route<'_>, key: &str) -> Result<(Exclusive, Value), RequestError> {
    let mut connection = route.exclusive().await?;
    let present = watch_and_read(&mut connection, key).await?;
    Ok((connection, present))
}

/// Watches the key, opens a transaction, and returns the current version.
async fn watch_and_read(connection: &mut Exclusive, key: &str) -> Result<Value, RequestError> {
    let mut pipeline = redis::pipe();
    let last = Stored::VERSION_LEN - 1;
    pipeline.cmd("WATCH").arg(key);
    pipeline.cmd("GETRANGE").arg(key).arg(0).arg(last);
    pipeline.cmd("MULTI");
    let answers = connection.send_pipeline(&mut pipeline).await?;
    match <[Value; 3]>::try_from(answers) {
        Ok([Value::Okay, Value::ServerError(error), Value::Okay]) => {
            let failed = connection.server_error(error.clone());
            match is_wrong_type(&failed) {
                true => Ok(Value::ServerError(error)),
                false => Err(failed),
            }
        }
        Ok([Value::Okay, version @ Value::BulkString(_), Value::Okay]) => Ok(version),
        Ok([Value::ServerError(error), _, _] | [_, _, Value::ServerError(error)]) => {
            Err(connection.server_error(error))
        }
        _ => Err(unexpected_reply("WATCH").into()),
    }
}

/// Discards the transaction, and reads the current value.
async fn discard_and_read(connection: &mut Exclusive, key: &str) -> Result<Replaced, RequestError> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("DISCARD");
    pipeline.cmd("PTTL").arg(key).cmd("GET").arg(key);
    let answers = connection.send_pipeline(&mut pipeline).await?;
    match <[Value; 3]>::try_from(answers) {
        Ok([Value::Okay, left, value]) => Ok(conflict(value, &left)?),
        Ok([Value::ServerError(error), _, _]) => Err(connection.server_error(error)),
        _ => Err(unexpected_reply("DISCARD").into()),
    }
}

/// The outcome of EXEC.
#[derive(Debug, PartialEq)]
enum Executed {
    /// It executed the command, which returned this.
    Done(Value),
    /// Nothing happened: the key has changed since WATCH.
    Changed,
    /// Nothing happened: the server refused the command or the transaction.
    Refused(ServerError),
    /// Redis never replies so.
    Unexpected,
}

/// Executes one command in the open transaction, which ends it.
async fn execute(connection: &mut Exclusive, command: Cmd) -> Result<Option<Value>, RequestError> {
    let mut pipeline = redis::pipe();
    pipeline.add_command(command).cmd("EXEC");
    match executed(connection.send_pipeline(&mut pipeline).await?) {
        Executed::Done(answer) => Ok(Some(answer)),
        Executed::Changed => Ok(None),
        Executed::Refused(error) => Err(connection.server_error(error)),
        Executed::Unexpected => Err(unexpected_reply("EXEC").into()),
    }
}

/// The outcome, from the replies to the queued command and to EXEC.
fn executed(answers: Vec<Value>) -> Executed {
    match <[Value; 2]>::try_from(answers) {
        // Its error tells more than the EXECABORT that follows.
        Ok([Value::ServerError(error), _] | [_, Value::ServerError(error)]) => {
            Executed::Refused(error)
        }
        Ok([_, Value::Nil]) => Executed::Changed,
        Ok([_, Value::Array(done)]) => match <[Value; 1]>::try_from(done) {
            Ok([Value::ServerError(error)]) => Executed::Refused(error),
            Ok([answer]) => Executed::Done(answer),
            Err(_) => Executed::Unexpected,
        },
        _ => Executed::Unexpected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> Value {
        let parsed = redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap();
        assert!(matches!(parsed, Value::ServerError(_)));
        parsed
    }

    #[test]
    fn the_outcome_follows_from_the_replies_to_the_command_and_to_exec() {
        let queued = || Value::SimpleString("QUEUED".into());
        let done = |answer| Value::Array(vec![answer]);
        let refused = |text| match error(text) {
            Value::ServerError(error) => Executed::Refused(error),
            _ => Executed::Unexpected,
        };
        for (answers, expected) in [
            ([queued(), done(Value::Okay)], Executed::Done(Value::Okay)),
            ([queued(), done(Value::Nil)], Executed::Done(Value::Nil)),
            ([queued(), Value::Nil], Executed::Changed),
            ([queued(), done(error("OOM full"))], refused("OOM full")),
            (
                [error("READONLY replica"), error("EXECABORT discarded")],
                refused("READONLY replica"),
            ),
            (
                [queued(), error("NOPERM no exec")],
                refused("NOPERM no exec"),
            ),
            ([queued(), Value::Array(Vec::new())], Executed::Unexpected),
            ([queued(), Value::Okay], Executed::Unexpected),
        ] {
            assert_eq!(executed(answers.to_vec()), expected, "{answers:?}");
        }
        assert_eq!(executed(vec![Value::Okay]), Executed::Unexpected);
    }
}
