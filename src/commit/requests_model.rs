//! Explores every order in which the calls of a few requests and their commits can interleave, over real change logs.
//!
//! [`model`](super::model) shows that a commit is applied once or not at all. Here a commit is applied at once, fails, or is
//! applied without an answer. The subject is the request around it: calls that change nothing, commits in the middle,
//! sessions that are used after the response, transactions. Beside the store runs a reference: all calls of each commit,
//! applied to plain numbers in the order of the commits. A request that sends nothing must have read what was stored at some
//! time while it ran.

use std::time::Instant;

use stateright::{Checker as _, HasDiscoveries, Model, Property};

use crate::error::session::SessionError;
use crate::error::store::StoreError;
use crate::record::Record;
use crate::record::change::tests::now;
use crate::record::change::{Change, Rewrite};
use crate::record::deferred::Deferred;
use crate::record::json::Json;
use crate::record::log::ChangeLog;
use crate::record::tests::record;
use crate::record::transaction::tests::transaction;
use crate::record::value::{decode, encode};

/// The rules that keep a request from being stored in part, or its client from getting a wrong answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Rule {
    /// A call is logged although it changes nothing that its request sees: the whole log decides at the end whether the
    /// request has only read.
    JudgeTheWholeLog,
    /// It is decided by the data that this request has read, not by the data that a session saw before it outlived its
    /// request.
    JudgeByWhatThisRequestRead,
    /// A transaction returns the result of the run that was written, not that of its trial.
    ReturnTheRunThatWasWritten,
    /// Nothing of an aborted transaction is written.
    AbortWhole,
    /// A client that learns that nothing was written has written nothing, in any commit.
    ReportTheFirstPart,
}

const RULES: [Rule; 5] = [
    Rule::JudgeTheWholeLog,
    Rule::JudgeByWhatThisRequestRead,
    Rule::ReturnTheRunThatWasWritten,
    Rule::AbortWhole,
    Rule::ReportTheFirstPart,
];

/// The values under three keys.
type Data = [i64; 3];
const KEYS: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Call {
    Set(usize, i64),
    Count(usize),
    /// Keeps the value, and refuses if it is zero.
    Guard(usize),
    /// Moves one from the first to the second, and aborts if the first becomes negative.
    Move,
    Save,
    /// The response: the session is committed, and the handler's clone is kept.
    Respond,
}

use Call::{Count, Guard, Move, Respond, Save, Set};

/// The calls of handlers. Every value of the session begins at one.
const PROGRAMS: [&[Call]; 7] = [
    // A form with one unchanged field.
    &[Set(0, 1), Set(1, 2), Respond],
    // A form that changes both.
    &[Set(0, 3), Set(1, 3), Respond],
    &[Guard(0), Count(2), Respond],
    &[Set(0, 0), Respond],
    &[Move, Respond],
    // An early commit, and a change that may be refused.
    &[Count(2), Save, Guard(0), Count(2), Respond],
    // A session that is used after its response.
    &[Respond, Set(0, 1), Save],
];

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Client {
    program: usize,
    at: usize,
    /// The data that was loaded, or committed since.
    base: Option<Data>,
    log: Vec<Call>,
    /// The handler's calls since the last commit.
    calls: Vec<Call>,
    /// All that was stored at some time since the request, or the work on it after its response, has begun.
    versions: Vec<Data>,
    head_sent: bool,
    committed: bool,
    outcome: Option<Outcome>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    Done,
    /// 409, or 503 with `Retry-After`.
    NothingWritten,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    stored: Data,
    /// What the reference has.
    expected: Data,
    clients: Vec<Client>,
    faults_left: u8,
    wrong: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Step(usize),
    /// A step that commits while the store is down, or that gets no answer.
    Fails(usize),
    Unanswered(usize),
}

#[derive(Clone, Debug)]
struct Requests {
    clients: usize,
    broken: Option<Rule>,
}

fn to_record(data: Data) -> Record {
    let mut record = record();
    let values = KEYS.iter().zip(data);
    record.data = values
        .map(|(key, value)| ((*key).into(), encode(key, &value).unwrap()))
        .collect();
    record
}

fn to_data(record: &Record) -> Data {
    KEYS.map(|key| decode(key, &record.data[key]).unwrap())
}

/// The change that the crate logs for a call, and its deferred result.
fn change(call: Call, ignores_aborts: bool) -> (Change, Option<Deferred<i64>>) {
    let key = |key: usize| KEYS[key].to_owned();
    let change = match call {
        Set(at, value) => Change::Insert {
            key: key(at).into(),
            value: encode(KEYS[at], &value).unwrap(),
        },
        Count(at) => Change::Increment {
            key: key(at).into(),
            by: 1,
            deferred: None,
        },
        Guard(at) => {
            let name = key(at);
            let rewrite: Rewrite = std::sync::Arc::new(move |json: Option<&Json>| {
                let value: i64 = decode(&name, json.unwrap())?;
                match value {
                    0 => Err(SessionError::Refused { key: name.clone() }),
                    value => encode(&name, &value),
                }
            });
            Change::Update {
                key: key(at).into(),
                rewrite,
            }
        }
        Move => {
            let (change, deferred) = transaction(move |data| {
                let left = data.increment(KEYS[0], -1)?;
                if left < 0 {
                    // Without the abort, one is taken and not given.
                    return if ignores_aborts {
                        Ok(left)
                    } else {
                        Err(SessionError::Aborted)
                    };
                }
                data.increment(KEYS[1], 1)?;
                Ok(left)
            });
            return (change, Some(deferred));
        }
        Save | Respond => unreachable!("these commit"),
    };
    (change, None)
}

/// The reference: applies a call to plain numbers, and returns its result, or `None` if it fails.
fn apply_plainly(call: Call, data: &mut Data) -> Option<Option<i64>> {
    match call {
        Set(at, value) => data[at] = value,
        Count(at) => data[at] += 1,
        Guard(at) if data[at] == 0 => return None,
        Guard(_) => {}
        Move if data[0] < 1 => return None,
        Move => {
            data[0] -= 1;
            data[1] += 1;
            return Some(Some(data[0]));
        }
        Save | Respond => unreachable!("these commit"),
    }
    Some(None)
}

fn apply_all_plainly(calls: &[Call], data: Data) -> Option<(Data, Option<i64>)> {
    let mut after = data;
    let mut result = None;
    for call in calls {
        result = apply_plainly(*call, &mut after)?.or(result);
    }
    Some((after, result))
}

impl Requests {
    fn keeps(&self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }

    fn log(&self, calls: &[Call]) -> (ChangeLog, Option<Deferred<i64>>) {
        let ignores_aborts = !self.keeps(Rule::AbortWhole);
        let (changes, deferred): (Vec<_>, Vec<_>) = calls
            .iter()
            .map(|call| change(*call, ignores_aborts))
            .unzip();
        (changes.into(), deferred.into_iter().flatten().last())
    }

    fn view(&self, client: &Client, base: Data) -> Option<Record> {
        let mut view = to_record(base);
        let (log, _) = self.log(&client.log);
        log.apply(&mut view, &now()).ok()?;
        Some(view)
    }

    /// A call of the handler: it is applied to what the handler sees, and logged.
    fn call(&self, client: &mut Client, call: Call) -> Result<(), SessionError> {
        let base = client.base.expect("it is loaded");
        let before = self.view(client, base);
        client.log.push(call);
        let Some(after) = self.view(client, base) else {
            client.log.pop();
            return Err(SessionError::Refused { key: "a".into() });
        };
        let same = before.is_some_and(|before| after.has_same_content(&before));
        if same && !self.keeps(Rule::JudgeTheWholeLog) {
            client.log.pop();
        }
        client.calls.push(call);
        Ok(())
    }

    /// Commits the session, and returns the result of a transaction.
    fn commit(
        &self,
        world: &mut World,
        number: usize,
        act: Act,
    ) -> Result<Option<i64>, SessionError> {
        let client = &world.clients[number];
        let base = client.base.expect("it is loaded");
        let (log, deferred) = self.log(&client.log);
        let view = self.view(client, base).expect("it was seen");
        let is_known = !client.head_sent || !self.keeps(Rule::JudgeByWhatThisRequestRead);
        if log.is_empty() || is_known && log.changes_nothing(Some(&to_record(base)), &view) {
            let is_a_read = |data: &Data| {
                apply_all_plainly(&client.calls, *data).is_some_and(|(after, _)| after == *data)
            };
            if !client.versions.iter().any(is_a_read) {
                world.wrong = Some("a commit that was left out was not a read");
            }
            return Ok(None);
        }
        if let Act::Fails(_) = act {
            return Err(SessionError::Store(StoreError::unavailable("down")));
        }
        let trial = apply_all_plainly(&client.log, base).and_then(|(_, result)| result);
        let mut record = to_record(world.stored);
        log.apply(&mut record, &now())?;
        world.stored = to_data(&record);
        match apply_all_plainly(&client.calls, world.expected) {
            None => world.wrong = Some("a change that must be refused was written"),
            Some((expected, result)) => {
                let returned = match self.keeps(Rule::ReturnTheRunThatWasWritten) {
                    true => deferred.and_then(|deferred| deferred.unconfirmed()),
                    false => trial,
                };
                if returned != result && act == Act::Step(number) {
                    world.wrong = Some("a transaction returned the result of another run");
                }
                world.expected = expected;
            }
        }
        let stored = world.stored;
        for client in &mut world.clients {
            client.versions.push(stored);
            client.versions.sort_unstable();
            client.versions.dedup();
        }
        let client = &mut world.clients[number];
        client.committed |= !client.head_sent;
        client.base = Some(stored);
        client.log.clear();
        client.calls.clear();
        client.versions = vec![stored];
        match act {
            Act::Unanswered(_) => Err(SessionError::OutcomeUnknown),
            Act::Step(_) | Act::Fails(_) => Ok(None),
        }
    }

    fn respond(&self, client: &mut Client, result: Result<Option<i64>, SessionError>) {
        let part = client.committed && self.keeps(Rule::ReportTheFirstPart);
        let outcome = match result {
            Ok(_) => Outcome::Done,
            Err(error) => {
                let error = if part {
                    error.after_partial_commit(false)
                } else {
                    error
                };
                let response = error.response();
                let may_repeat = response.headers().contains_key("retry-after");
                match response.status().as_u16() {
                    409 => Outcome::NothingWritten,
                    503 if may_repeat => Outcome::NothingWritten,
                    _ => Outcome::Other,
                }
            }
        };
        client.outcome = Some(outcome);
        client.head_sent = true;
        client.log.clear();
        client.calls.clear();
    }
}

impl Model for Requests {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        let mut choices: Vec<Vec<usize>> = vec![Vec::new()];
        for _ in 0..self.clients {
            let longer = |choice: &Vec<usize>| {
                let choice = choice.clone();
                // Sorted, since it does not matter which of them comes first.
                (choice.last().copied().unwrap_or_default()..PROGRAMS.len())
                    .map(move |program| [choice.clone(), vec![program]].concat())
            };
            choices = choices.iter().flat_map(longer).collect();
        }
        let client = |program: usize| Client {
            program,
            at: 0,
            base: None,
            log: Vec::new(),
            calls: Vec::new(),
            versions: Vec::new(),
            head_sent: false,
            committed: false,
            outcome: None,
        };
        let world = |programs: Vec<usize>| World {
            stored: [1; 3],
            expected: [1; 3],
            clients: programs.into_iter().map(client).collect(),
            faults_left: 1,
            wrong: None,
        };
        choices.into_iter().map(world).collect()
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        for (number, client) in world.clients.iter().enumerate() {
            let Some(call) = PROGRAMS[client.program].get(client.at) else {
                continue;
            };
            acts.push(Act::Step(number));
            let commits = matches!(call, Save | Respond | Move) && client.base.is_some();
            if commits && world.faults_left > 0 {
                acts.extend([Act::Fails(number), Act::Unanswered(number)]);
            }
        }
    }

    fn next_state(&self, before: &World, act: Act) -> Option<World> {
        let mut world = before.clone();
        let (Act::Step(number) | Act::Fails(number) | Act::Unanswered(number)) = act;
        if !matches!(act, Act::Step(_)) {
            world.faults_left -= 1;
        }
        let stored = world.stored;
        let client = &mut world.clients[number];
        if client.base.is_none() {
            client.base = Some(stored);
            client.versions = vec![stored];
            return Some(world);
        }
        let call = PROGRAMS[client.program][client.at];
        client.at += 1;
        if client.head_sent && client.calls.is_empty() {
            // What the session has seen may be old, and its new work begins now.
            client.versions = vec![stored];
        }
        let result = match call {
            Save | Respond => self.commit(&mut world, number, act),
            Move => match self.call(client, call) {
                Ok(()) => self.commit(&mut world, number, act),
                Err(_) => Err(SessionError::Aborted),
            },
            _ => self.call(client, call).map(|()| None),
        };
        let client = &mut world.clients[number];
        match (call, &result) {
            // The handler returns the error.
            (_, Err(_)) if !client.head_sent => {
                self.respond(client, result);
                client.at = PROGRAMS[client.program].len();
            }
            (Respond, _) => self.respond(client, result),
            _ => {}
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::sometimes("every client succeeds", |_, world: &World| {
                let served = |client: &Client| client.outcome == Some(Outcome::Done);
                world.clients.iter().all(served)
            }),
            Property::sometimes("a client is rejected", |_, world: &World| {
                let refused = |client: &Client| client.outcome == Some(Outcome::NothingWritten);
                world.clients.iter().any(refused)
            }),
            Property::always(
                "the store has the result of all calls of each commit",
                |_, world: &World| world.stored == world.expected,
            ),
            Property::always(
                "a client that learns that nothing was written has written nothing",
                |_, world: &World| {
                    let misled = |client: &Client| {
                        client.outcome == Some(Outcome::NothingWritten) && client.committed
                    };
                    !world.clients.iter().any(misled)
                },
            ),
            Property::always(
                "reads saw what was stored, refused changes were not written, results are of the run that was written",
                |_, world: &World| world.wrong.is_none(),
            ),
        ]
    }
}

const REACHABLE: [&str; 2] = ["every client succeeds", "a client is rejected"];

#[test]
fn each_commit_is_as_if_it_had_run_alone() {
    let began = Instant::now();
    let model = Requests {
        clients: 3,
        broken: None,
    };
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!(
        "{} states in {:?}",
        checker.unique_state_count(),
        began.elapsed()
    );
    checker.assert_properties();
}

#[test]
fn without_any_one_of_the_rules_a_request_is_stored_in_part_or_its_client_misled() {
    for rule in RULES {
        let began = Instant::now();
        let model = Requests {
            clients: 2,
            broken: Some(rule),
        };
        let checker = model
            .checker()
            .threads(2)
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_bfs()
            .join();
        let violated = checker.discoveries().into_keys();
        let violated = violated.into_iter().find(|name| !REACHABLE.contains(name));
        println!("without {rule:?}: {violated:?} in {:?}", began.elapsed());
        assert!(violated.is_some(), "{rule:?} could go unnoticed");
    }
}
