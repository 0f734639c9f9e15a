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
use crate::store::redis::index::{Change, Operation, Outcome, entries, generation_ttl, number};
use crate::store::redis::reply::unexpected_reply;
use crate::store::redis::servers::{Route, Servers};
use crate::time::{Millis, to_millis};

pub(super) async fn run(servers: &Servers, change: &Change<'_>) -> Result<Outcome, RequestError> {
    let mut route = servers.route(change.keys.all()[0]);
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
    generation: Generation,
    /// When the session that lives longest ends.
    last: Option<Millis>,
    count: usize,
    /// For each session of the change, until when it is in the index, and until when it is reserved.
    sessions: Vec<[Option<Millis>; 2]>,
}

/// The sessions that a change names.
fn named<'a>(operation: &'a Operation<'_>) -> &'a [Entry] {
    match operation {
        Operation::Enter { entry, .. }
        | Operation::Confirm { entry, .. }
        | Operation::Extend(entry) => std::slice::from_ref(entry),
        Operation::BeginGeneration { .. } => &[],
        Operation::Leave(entries) => entries,
    }
}

async fn watch_and_read(
    connection: &mut Exclusive,
    change: &Change<'_>,
) -> Result<Present, RequestError> {
    let [sessions, reserved, generation] = change.keys.all();
    let named = named(&change.operation);
    let mut pipeline = redis::pipe();
    pipeline.cmd("WATCH").arg(&change.keys.all()[..]);
    pipeline.cmd("GET").arg(generation);
    let after_now = format!("({}", change.now);
    pipeline
        .cmd("ZCOUNT")
        .arg(sessions)
        .arg(after_now)
        .arg("+inf");
    let mut last = cmd("ZRANGE");
    last.arg(sessions).arg(-1).arg(-1).arg("WITHSCORES");
    pipeline.add_command(last);
    for entry in named {
        let handle = entry.handle.to_string();
        pipeline.cmd("ZSCORE").arg(sessions).arg(&handle);
        pipeline.cmd("ZSCORE").arg(reserved).arg(&handle);
    }
    pipeline.cmd("MULTI");
    let answers = connection.send_pipeline(&mut pipeline).await?;
    for answer in &answers {
        if let Value::ServerError(error) = answer {
            return Err(connection.server_error(error.clone()));
        }
    }
    let [_, generation, count, last, scores @ .., _] = &answers[..] else {
        return Err(unexpected_reply("WATCH").into());
    };
    let Value::Int(count) = count else {
        return Err(unexpected_reply("ZCOUNT").into());
    };
    Ok(Present {
        generation: number(generation)?,
        last: entries(last.clone())?
            .first()
            .map(|entry| to_millis(entry.until)),
        count: usize::try_from(*count).unwrap_or_default(),
        sessions: scores
            .chunks_exact(2)
            .map(|pair| [score(&pair[0]), score(&pair[1])])
            .collect(),
    })
}

fn score(value: &Value) -> Option<Millis> {
    match value {
        Value::Double(score) => Some(*score as Millis),
        Value::BulkString(text) => {
            let score: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
            Some(score as Millis)
        }
        _ => None,
    }
}

/// The outcome of a change, and the commands that bring it about; none if nothing changes.
fn decide(change: &Change<'_>, present: &Present) -> (Outcome, Vec<Cmd>) {
    let [sessions, reserved, generation] = change.keys.all();
    let lives = |until: &Option<Millis>| until.filter(|until| *until > change.now);
    let first = present.sessions.first().copied().unwrap_or_default();
    let snapshot = Snapshot {
        generation: present.generation.number(),
        holds: lives(&first[0]).is_some(),
        count: present.count,
    };
    let keep = |until: Millis| {
        let last = present.last.unwrap_or_default().max(until);
        let left = last.saturating_sub(change.now).max(1);
        command("PEXPIRE", sessions, &[left.to_string()])
    };
    let add = |set: &str, until: Millis, entry: &Entry| {
        command("ZADD", set, &[until.to_string(), entry.handle.to_string()])
    };
    let done = Outcome::Done(present.generation);
    match &change.operation {
        Operation::Enter {
            entry,
            began,
            limit,
        } => match snapshot.enter(*began, *limit) {
            Entered::Ended => (Outcome::Ended, Vec::new()),
            Entered::Full => (Outcome::Full, Vec::new()),
            Entered::Done(_) => {
                let (until, reserved_until) = (to_millis(entry.until), change.reserved_until());
                let left = reserved_until.saturating_sub(change.now).max(1);
                let ended = ["-inf".to_owned(), change.now.to_string()];
                let commands = vec![
                    command("ZREMRANGEBYSCORE", sessions, &ended),
                    command("ZREMRANGEBYSCORE", reserved, &ended),
                    add(sessions, until, entry),
                    add(reserved, reserved_until, entry),
                    command("PEXPIRE", reserved, &[left.to_string()]),
                    keep(until),
                ];
                (done, commands)
            }
        },
        Operation::Confirm { entry, entered_in } => match snapshot.confirm(*entered_in) {
            Confirmed::Ended => (Outcome::Ended, Vec::new()),
            Confirmed::Done => {
                let handle = [entry.handle.to_string()];
                let until = to_millis(entry.until);
                let commands = vec![
                    add(sessions, until, entry),
                    command("ZREM", reserved, &handle),
                    keep(until),
                ];
                (done, commands)
            }
        },
        Operation::Extend(entry) => {
            let until = first[0].unwrap_or_default().max(to_millis(entry.until));
            (done, vec![add(sessions, until, entry), keep(until)])
        }
        Operation::BeginGeneration { at } => {
            let next = next_generation(present.generation.number(), *at);
            let ttl = generation_ttl().to_string();
            let arguments = [next.number().to_string(), "PX".to_owned(), ttl];
            let set = command("SET", generation, &arguments);
            (Outcome::Done(next), vec![set])
        }
        Operation::Leave(entries) => {
            let leaves = |(entry, [until, reserved]): &(&Entry, &[Option<Millis>; 2])| {
                *until == Some(to_millis(entry.until)) && lives(reserved).is_none()
            };
            let leaving = entries.iter().zip(&present.sessions).filter(leaves);
            let remove =
                |(entry, _): (&Entry, _)| command("ZREM", sessions, &[entry.handle.to_string()]);
            (done, leaving.map(remove).collect())
        }
    }
}

fn command(name: &str, key: &str, arguments: &[String]) -> Cmd {
    let mut command = cmd(name);
    command.arg(key).arg(arguments);
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
