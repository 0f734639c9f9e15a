//! The changes of an index by WATCH and EXEC, for servers where sessions are not replaced by script.
//!
//! Each takes two round trips on a connection that no other request uses, and more if the index changes meanwhile. MULTI is in
//! the first, as for a compare-and-set.

use std::time::Instant;

use redis::{Cmd, Value, cmd};

use crate::error::store::StoreError;
use crate::store::index::{Confirmed, Entered, Entry, Generation, Snapshot, next_generation};
use crate::store::redis::error::RequestError;
use crate::store::redis::exclusive::Exclusive;
use crate::store::redis::index::change::{
    Change, GENERATION, Operation, Outcome, RAISE, after, kept_for, members, micros, reservation,
    score,
};
use crate::store::redis::reply::unexpected_reply;
use crate::store::redis::servers::{Route, Servers};
use crate::token::Handle;

pub(super) async fn run(servers: &Servers, change: &Change<'_>) -> Result<Outcome, RequestError> {
    let mut route = servers.route(&change.key);
    loop {
        let done = match run_at(servers, &mut route, change).await {
            Err(failed) if failed.is_dropped() => run_at(servers, &mut route, change).await,
            done => done,
        };
        match done {
            Err(failed) if route.prepare_retry(&failed).await => {}
            done => return done,
        }
    }
}

async fn run_at(
    servers: &Servers,
    route: &mut Route<'_>,
    change: &Change<'_>,
) -> Result<Outcome, RequestError> {
    let began = Instant::now();
    let mut connection = route.exclusive().await?;
    loop {
        let present = watch_and_read(&mut connection, change).await?;
        let (outcome, commands) = decide(change, &present);
        if execute(&mut connection, commands).await? {
            connection.return_to_pool();
            return Ok(outcome);
        }
        if began.elapsed() >= servers.command_timeout() {
            connection.return_to_pool();
            let message = "the sessions of this principal changed again and again: try again";
            return Err(StoreError::refused(message).into());
        }
    }
}

/// What an index holds, as far as a change depends on it.
struct Present {
    generation: u64,
    /// When the last member ends.
    last: u64,
    count: usize,
    /// For each session of the change, until when it is in the index, and until when it is reserved.
    sessions: Vec<[Option<u64>; 2]>,
}

/// The sessions that a change names.
fn named(operation: &Operation<'_>) -> Vec<Handle> {
    match operation {
        Operation::Enter { entry, .. } | Operation::Extend(entry) => vec![entry.handle],
        Operation::Confirm { handle, .. } => vec![*handle],
        Operation::BeginGeneration { .. } => Vec::new(),
        Operation::Leave(entries) => entries.iter().map(|entry| entry.handle).collect(),
    }
}

async fn watch_and_read(
    connection: &mut Exclusive,
    change: &Change<'_>,
) -> Result<Present, RequestError> {
    let key = &change.key;
    let mut pipeline = redis::pipe();
    pipeline.cmd("WATCH").arg(key);
    pipeline.cmd("ZSCORE").arg(key).arg(GENERATION);
    let mut last = cmd("ZRANGE");
    last.arg(key).arg(-1).arg(-1).arg("WITHSCORES");
    pipeline.add_command(last);
    // They are counted only if there is a limit, which they do not exceed by much then.
    let counts = matches!(change.operation, Operation::Enter { limit: Some(_), .. });
    let mut all = cmd("ZRANGE");
    match counts {
        true => all
            .arg(key)
            .arg(after(change.now))
            .arg("+inf")
            .arg("BYSCORE"),
        false => all.arg(key).arg(0).arg(0),
    };
    pipeline.add_command(all);
    for handle in named(&change.operation) {
        pipeline.cmd("ZSCORE").arg(key).arg(handle.to_string());
        pipeline.cmd("ZSCORE").arg(key).arg(reservation(&handle));
    }
    pipeline.cmd("MULTI");
    let answers = connection.send_pipeline(&mut pipeline).await?;
    for answer in &answers {
        if let Value::ServerError(error) = answer {
            return Err(connection.server_error(error.clone()));
        }
    }
    let [_, generation, last, Value::Array(all), scores @ .., _] = &answers[..] else {
        return Err(unexpected_reply("WATCH").into());
    };
    let is_session = |name: &&Value| matches!(name, Value::BulkString(name) if name.len() == 22);
    Ok(Present {
        generation: score(generation)
            .filter(|end| *end > change.now)
            .map_or(0, |end| end.saturating_sub(kept_for())),
        last: members(last.clone())?.first().map_or(0, |(_, end)| *end),
        count: all.iter().filter(is_session).count(),
        sessions: scores
            .chunks_exact(2)
            .map(|pair| [score(&pair[0]), score(&pair[1])])
            .collect(),
    })
}

/// The outcome of a change, and the commands that bring it about; none if nothing changes.
fn decide(change: &Change<'_>, present: &Present) -> (Outcome, Vec<Cmd>) {
    let key = &change.key;
    let lives = |until: Option<u64>| until.filter(|until| *until > change.now);
    let first = present.sessions.first().copied().unwrap_or_default();
    let snapshot = Snapshot {
        generation: present.generation,
        holds: lives(first[0]).is_some(),
        count: present.count,
    };
    let keep = |until: u64| {
        let left = present.last.max(until).saturating_sub(change.now);
        command("PEXPIRE", key, [left.div_ceil(1000).max(1).to_string()])
    };
    let add = |end: u64, member: String| command("ZADD", key, [end.to_string(), member]);
    let remove = |member: String| command("ZREM", key, [member]);
    let done = Outcome::Done(Generation::from_number(present.generation));
    match &change.operation {
        Operation::Enter {
            entry,
            began,
            limit,
        } => match snapshot.enter(*began, *limit) {
            Entered::Ended => (Outcome::Ended, Vec::new()),
            Entered::Full => (Outcome::Full, Vec::new()),
            Entered::Done(_) => {
                let raised = lives(first[0]).map_or(0, |until| until + RAISE);
                let until = micros(entry.until).max(raised);
                let reserved_until = change.reserved_until();
                let ended = ["-inf".to_owned(), change.now.to_string()];
                let commands = vec![
                    command("ZREMRANGEBYSCORE", key, ended),
                    add(until, entry.handle.to_string()),
                    add(reserved_until, reservation(&entry.handle)),
                    keep(until.max(reserved_until)),
                ];
                (done, commands)
            }
        },
        Operation::Confirm { handle, entered_in } => match snapshot.confirm(*entered_in) {
            Confirmed::Ended => (Outcome::Ended, Vec::new()),
            Confirmed::Done => {
                let until = first[0].unwrap_or_default() + RAISE;
                let commands = vec![
                    add(until, handle.to_string()),
                    remove(reservation(handle)),
                    keep(until),
                ];
                (done, commands)
            }
        },
        Operation::Extend(entry) => {
            let until = first[0].unwrap_or_default().max(micros(entry.until));
            (
                done,
                vec![add(until, entry.handle.to_string()), keep(until)],
            )
        }
        Operation::BeginGeneration { at } => {
            let next = next_generation(present.generation, *at);
            let end = next.number().saturating_add(kept_for());
            (
                Outcome::Done(next),
                vec![add(end, GENERATION.to_owned()), keep(end)],
            )
        }
        Operation::Leave(entries) => {
            let leaves = |(entry, [until, reserved]): &(&Entry, &[Option<u64>; 2])| {
                let is_later = until.is_none_or(|until| until > micros(entry.until));
                !is_later && lives(*reserved).is_none()
            };
            let leaving = entries.iter().zip(&present.sessions).filter(leaves);
            let commands = leaving.map(|(entry, _)| remove(entry.handle.to_string()));
            (done, commands.collect())
        }
    }
}

fn command(name: &str, key: &str, arguments: impl IntoIterator<Item = String>) -> Cmd {
    let mut command = cmd(name);
    command.arg(key);
    for argument in arguments {
        command.arg(argument);
    }
    command
}

/// Executes the commands in the open transaction, which ends it. False if the index has changed since WATCH.
async fn execute(connection: &mut Exclusive, commands: Vec<Cmd>) -> Result<bool, RequestError> {
    let mut pipeline = redis::pipe();
    if commands.is_empty() {
        pipeline.cmd("DISCARD");
    } else {
        for command in commands {
            pipeline.add_command(command);
        }
        pipeline.cmd("EXEC");
    }
    let mut answers = connection.send_pipeline(&mut pipeline).await?;
    let last = answers.pop();
    // The error of a command tells more than the EXECABORT that follows.
    for answer in answers.into_iter().chain(last.clone()) {
        if let Value::ServerError(error) = answer {
            return Err(connection.server_error(error));
        }
    }
    match last {
        Some(Value::Nil) => Ok(false),
        Some(Value::Okay) => Ok(true),
        Some(Value::Array(done)) => {
            for answer in done {
                if let Value::ServerError(error) = answer {
                    return Err(connection.server_error(error));
                }
            }
            Ok(true)
        }
        _ => Err(unexpected_reply("EXEC").into()),
    }
}
