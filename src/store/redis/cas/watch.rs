//! The compare-and-set by WATCH and EXEC, for servers that deny scripts.
//!
//! Two round trips on a connection of its own. The first watches the key, reads its version, and opens the transaction;
//! the second, if the version is the expected one, queues the new value and executes. MULTI is in the first, since a
//! server that said no to it would take what follows for plain commands.

use std::time::Instant;

use redis::{Cmd, ServerError, Value, cmd};

use crate::error::store::StoreError;
use crate::store::contract::{Replaced, Stored};
use crate::store::redis::cas::swap::Swap;
use crate::store::redis::error::RequestError;
use crate::store::redis::exclusive::Exclusive;
use crate::store::redis::reply::{conflict, is_wrong_type, unexpected_reply};
use crate::store::redis::servers::{Route, Servers};

/// Replaces the value if it is the expected one, for one who may have more to ask on the connection, which is left as if it
/// were new.
///
/// Nothing has changed when it fails before EXEC is sent, so that is never [`Unknown`](crate::store::StoreErrorKind).
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
        let same = match &present {
            Value::BulkString(version) => !version.is_empty() && version == expected.version(),
            // WRONGTYPE, which reading the whole shows too.
            _ => false,
        };
        if !same {
            let replaced = give_up(&mut connection, key)
                .await
                .map_err(RequestError::unsent)?;
            return Ok((replaced, connection));
        }
        let mut set = cmd("SET");
        set.arg(key).arg(value).arg("XX").arg("PX").arg(ttl);
        match execute(&mut connection, set).await? {
            Some(Value::Okay) => return Ok((Replaced::Done, connection)),
            // It has expired since it was watched.
            Some(Value::Nil) => return Ok((Replaced::Gone, connection)),
            Some(_) => return Err(unexpected_reply("EXEC").into()),
            // Another value, or the same one renewed: a PEXPIRE counts as a change, and is none.
            None if began.elapsed() < servers.command_timeout() => {
                present = look(&mut connection, key)
                    .await
                    .map_err(RequestError::unsent)?;
            }
            None => {
                connection.give_back();
                let message = "the session was renewed again and again while it was to be replaced";
                return Err(StoreError::refused(message).into());
            }
        }
    }
}

/// Does once all that [`replace`] does, to a key that does not exist.
pub(crate) async fn probe(servers: &Servers, key: &str) -> Result<(), RequestError> {
    let mut route = servers.route(key);
    loop {
        match probe_at(&mut route, key).await {
            Err(failed) if route.goes_on(&failed).await => {}
            probed => return probed,
        }
    }
}

async fn probe_at(route: &mut Route<'_>, key: &str) -> Result<(), RequestError> {
    let (mut connection, _) = begin(route, key).await?;
    let _ = give_up(&mut connection, key).await?;
    look(&mut connection, key).await?;
    let mut set = cmd("SET");
    set.arg(key).arg(&["", "XX", "PX", "1"]);
    execute(&mut connection, set).await?;
    connection.give_back();
    Ok(())
}

/// A connection and the first look on it; another connection if the first turns out to be dead.
async fn begin(route: &mut Route<'_>, key: &str) -> Result<(Exclusive, Value), RequestError> {
    let begun = match begin_once(route, key).await {
        Err(failed) if failed.is_dropped() => begin_once(route, key).await,
        begun => begun,
    };
    begun.map_err(RequestError::unsent)
}

async fn begin_once(route: &mut Route<'_>, key: &str) -> Result<(Exclusive, Value), RequestError> {
    let mut connection = route.exclusive().await?;
    let present = look(&mut connection, key).await?;
    Ok((connection, present))
}

/// Watches the key, opens a transaction, and says which version is there.
async fn look(connection: &mut Exclusive, key: &str) -> Result<Value, RequestError> {
    let mut pipeline = redis::pipe();
    let last = Stored::VERSION_LEN - 1;
    pipeline.cmd("WATCH").arg(key);
    pipeline.cmd("GETRANGE").arg(key).arg(0).arg(last);
    pipeline.cmd("MULTI");
    let answers = connection.ask(&mut pipeline).await?;
    match <[Value; 3]>::try_from(answers) {
        Ok([Value::Okay, Value::ServerError(error), Value::Okay]) => {
            let failed = connection.refused(error.clone());
            match is_wrong_type(&failed) {
                true => Ok(Value::ServerError(error)),
                false => Err(failed),
            }
        }
        Ok([Value::Okay, version @ Value::BulkString(_), Value::Okay]) => Ok(version),
        Ok([Value::ServerError(error), _, _] | [_, _, Value::ServerError(error)]) => {
            Err(connection.refused(error))
        }
        _ => Err(unexpected_reply("WATCH").into()),
    }
}

/// Leaves the transaction, and reads what is there instead of the expected value.
async fn give_up(connection: &mut Exclusive, key: &str) -> Result<Replaced, RequestError> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("DISCARD");
    pipeline.cmd("PTTL").arg(key).cmd("GET").arg(key);
    let answers = connection.ask(&mut pipeline).await?;
    match <[Value; 3]>::try_from(answers) {
        Ok([Value::Okay, left, value]) => Ok(conflict(value, &left)?),
        Ok([Value::ServerError(error), _, _]) => Err(connection.refused(error)),
        _ => Err(unexpected_reply("DISCARD").into()),
    }
}

/// What EXEC has done.
#[derive(Debug, PartialEq)]
enum Executed {
    /// The command, which answered this.
    Done(Value),
    /// Nothing: the key was changed since it was watched.
    Changed,
    /// Nothing: the server refused the command or the transaction.
    Refused(ServerError),
    /// No Redis answers so.
    Unexpected,
}

/// Does one command in the open transaction, and ends it.
async fn execute(connection: &mut Exclusive, command: Cmd) -> Result<Option<Value>, RequestError> {
    let mut pipeline = redis::pipe();
    pipeline.add_command(command).cmd("EXEC");
    match executed(connection.ask(&mut pipeline).await?) {
        Executed::Done(answer) => Ok(Some(answer)),
        Executed::Changed => Ok(None),
        Executed::Refused(error) => Err(connection.refused(error)),
        Executed::Unexpected => Err(unexpected_reply("EXEC").into()),
    }
}

/// What the answers to a queued command and to EXEC mean.
fn executed(answers: Vec<Value>) -> Executed {
    match <[Value; 2]>::try_from(answers) {
        // Its own reason tells more than the EXECABORT that follows.
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
    fn what_exec_answers_as_a_table() {
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
