//! Explores every order in which a few clients and a store can act. The clients follow [`decide`](super::decide) itself.
//!
//! The store performs what it is sent at once, late or never, and its answers get lost. Clients of one node are one writer,
//! which commits one change at a time. A client may resume a commit of unknown outcome, or give it up. The rest of the crate
//! is a sketch here: a record is the list of the changes in it.
//!
//! A record of the model remembers one writer or two where the real one remembers eight. The distances that `decide` gets
//! are raised accordingly, so that two or three commits of others do what takes nine in reality.

use std::time::Instant;

use stateright::{Checker as _, HasDiscoveries, Model, Property};

use crate::commit::decide::{
    Action, Entry, Event, Evidence, Goal, Newer, Rule, State, Verdict, step,
};
use crate::error::store::StoreErrorKind;
use crate::record::WRITERS;

const STEPS: u8 = 2;
const RULES: [Rule; 9] = [
    Rule::GoneStaysGone,
    Rule::NamedIsDone,
    Rule::EpochsAreFences,
    Rule::JoinsComeFirst,
    Rule::ProofBeforeReplay,
    Rule::LaterHidesEarlier,
    Rule::SilenceIsUnknown,
    Rule::RepeatTheSameBytes,
    Rule::CreateUnderFreshHandle,
];

/// What must happen in some order: otherwise what never happens would prove nothing.
const REACHABLE: [&str; 3] = [
    "every client succeeds",
    "an unknown outcome is resolved as committed",
    "a login joins another one",
];

/// One operation of one client.
type Op = u8;
type Epoch = u8;
/// The session that exists from the beginning has the first handle; created ones follow.
type Handle = u8;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Record {
    /// The operation and the attempt that wrote it: no two are equal.
    version: (Op, u8),
    count: u8,
    epoch: Epoch,
    /// The version that the last login has left, or one that joined it, and the epoch that the login has ended.
    login: Option<((Op, u8), Epoch)>,
    /// The latest comes last.
    applied: Vec<(u8, u8)>,
    /// Sorted: the order does not matter here.
    data: Vec<Op>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Want {
    Create,
    Change,
    Rotate,
    /// Every login is of the same principal.
    Login,
    Destroy,
    /// Ends the session without having loaded it.
    Logout,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Command {
    Create(Record),
    Replace {
        expected: (Op, u8),
        by: Record,
        /// The epoch that the changes were made in.
        made_in: Epoch,
        is_login: bool,
    },
    Delete {
        /// The client holds a secret of the session, or did a moment ago.
        verified: bool,
    },
}

/// A command on its way to the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Message {
    op: Op,
    handle: Handle,
    command: Command,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Task {
    op: Op,
    want: Want,
    handle: Handle,
    /// The record that was loaded, and later the one that the last bytes were made from.
    base: Option<Record>,
    made_in: Epoch,
    newer: Option<Record>,
    state: State,
    sent: Option<Message>,
    attempts: u8,
    sequence: u8,
    /// The record that was found, which names this commit, is written once more.
    confirming: bool,
    /// The client resolves the outcome.
    resolving: bool,
    resumed: bool,
    /// The client may end the session.
    verified: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Activity {
    Nothing,
    /// A logout that knows only its token. It may check it long after its request has ended.
    Unverified(Task),
    /// The session is loaded and the handler has returned.
    Ready(Task),
    Waiting(Task),
    Reading(Task),
    /// The client has learned that the outcome is unknown.
    Unresolved(Task),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Client {
    steps: u8,
    cookie: Option<(Handle, Epoch)>,
    resolved_as_committed: bool,
    activity: Activity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    Done,
    NothingWritten,
    Unknown,
    /// Done on the primary.
    NotDurable,
    /// The token of a logout no longer opens the session.
    NotYours,
}

impl Outcome {
    /// The session is as the client has changed it.
    fn is_in_primary(self) -> bool {
        matches!(self, Self::Done | Self::NotDurable)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    store: Vec<Option<Record>>,
    in_flight: Vec<Message>,
    clients: Vec<Client>,
    sequences: [u8; 2],
    faults_left: u8,
    rotations_left: u8,
    logins_left: u8,
    ends_left: u8,
    outcomes: Vec<Option<(Want, Handle, Outcome)>>,
    /// Operations that were in a record at some time.
    was_there: Vec<bool>,
    crossed_an_epoch: bool,
    joined: bool,
    ended_by_invalid_token: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Act {
    Load(usize, Want),
    /// A logout checks its token; `late` if a retired token is no longer known.
    CheckToken(usize, bool),
    /// Sends the command of the client. A command that is in flight while others act, and is then answered, is the same as
    /// one that is sent later. So a command that is answered is answered at once.
    Send(usize, Fate),
    /// A command that was never answered arrives after all.
    Arrive(usize),
    Read(usize),
    Resume(usize),
    GiveUp(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    /// It stays in flight, and the client gets no answer; `late` if its deadline passes meanwhile.
    Silent {
        late: bool,
    },
    /// It stays in flight, unknown to the client: the store's own client will send a second copy.
    Repeated,
    Refused,
    /// It is performed, and too few replicas acknowledge it.
    NotAcknowledged,
}

#[derive(Clone, Debug)]
struct Protocol {
    /// Whether the clients begin without a cookie and create their own sessions.
    visitors: bool,
    /// The node of each client.
    nodes: &'static [u8],
    /// How many writers a record remembers.
    remembers: usize,
    faults: u8,
    /// How many logins there are. If there are any, nothing else rotates a session.
    logins: u8,
    /// The store's client resends by itself, which no store may do.
    resends: bool,
    /// Commits wait for replicas.
    durable: bool,
    /// Whether sessions are ended by clients that have not loaded them.
    unloaded: bool,
    /// Whether these check their token first.
    checks_tokens: bool,
    broken: Option<Rule>,
}

enum Reply {
    Done,
    Exists,
    Gone,
    Conflict(Record),
}

impl Protocol {
    fn fresh(&self, goal: Goal) -> State {
        let state = State::new(goal).durable(self.durable && goal != Goal::Delete);
        match self.broken {
            Some(rule) => state.breaking(rule),
            None => state,
        }
    }

    fn load(&self, world: &mut World, client: usize, want: Want) {
        let op = u8::try_from(client).unwrap() * STEPS + world.clients[client].steps;
        let cookie = world.clients[client].cookie;
        let mut made_in = 0;
        let (handle, base) = match (want, cookie) {
            (Want::Create, _) => {
                world.store.push(None);
                (u8::try_from(world.store.len() - 1).unwrap(), None)
            }
            (Want::Logout, Some((handle, epoch))) => {
                made_in = epoch;
                (handle, None)
            }
            (_, Some((handle, epoch))) => {
                // A retired secret opens no session, unless the client is to join it; that is decided before any commit.
                let record = world.store[usize::from(handle)].clone();
                let opens = |record: &Record| match entry(epoch, want, record) {
                    Entry::SameEpoch => true,
                    Entry::SameLogin { fresh } => fresh,
                    Entry::OtherEpoch => false,
                };
                made_in = epoch;
                match record.filter(opens) {
                    Some(record) => (handle, Some(record)),
                    None => {
                        world.clients[client].steps = STEPS;
                        return;
                    }
                }
            }
            (_, None) => return,
        };
        let goal = match want {
            Want::Create => Goal::Create,
            Want::Change | Want::Rotate | Want::Login => Goal::Replace,
            Want::Destroy | Want::Logout => Goal::Delete,
        };
        world.rotations_left -= u8::from(want == Want::Rotate);
        world.logins_left -= u8::from(want == Want::Login);
        world.ends_left -= u8::from(matches!(want, Want::Destroy | Want::Logout));
        let task = Task {
            op,
            want,
            handle,
            made_in,
            base,
            newer: None,
            state: self.fresh(goal),
            sent: None,
            attempts: 0,
            sequence: 0,
            confirming: false,
            resolving: false,
            resumed: false,
            verified: want == Want::Destroy,
        };
        world.clients[client].activity = match want {
            Want::Logout => Activity::Unverified(task),
            _ => Activity::Ready(task),
        };
    }

    /// A logout compares its token with the record.
    fn check_token(&self, world: &mut World, client: usize, mut task: Task, late: bool) {
        let stored = &world.store[usize::from(task.handle)];
        let Some(record) = stored.as_ref().filter(|_| self.checks_tokens) else {
            if stored.is_some() {
                world.clients[client].activity = Activity::Ready(task);
                return;
            }
            return world.end_logout(client, &task, Outcome::Done);
        };
        // Every token of the model has opened its session once.
        task.verified = record.epoch == task.made_in || !late;
        if task.verified {
            world.clients[client].activity = Activity::Ready(task);
        } else {
            world.end_logout(client, &task, Outcome::NotYours);
        }
    }

    /// Advances the client's commit by an event.
    fn advance(&self, world: &mut World, client: usize, mut task: Task, event: Event, late: bool) {
        let (state, action) = step(task.state, event, late);
        task.state = state;
        let writer = self.nodes[client];
        task.confirming = action == Action::Confirm;
        let is_resolving_step =
            matches!(action, Action::Resend | Action::Confirm | Action::Finish(_));
        if task.resolving && !is_resolving_step {
            // The bytes were not applied: the request gets its changes back, and commits again.
            return world.commit_again(self, client, task);
        }
        match action {
            Action::Send | Action::SendAfresh => {
                if let Some(newer) = task.newer.take() {
                    task.base = Some(newer);
                }
                if action == Action::SendAfresh {
                    world.store.push(None);
                    task.handle = u8::try_from(world.store.len() - 1).unwrap();
                }
                let sequence = &mut world.sequences[usize::from(writer)];
                *sequence += 1;
                task.sequence = *sequence;
                task.attempts += 1;
                let command = task.prepare(writer, self.remembers, event == Event::Gone);
                task.sent = Some(Message {
                    op: task.op,
                    handle: task.handle,
                    command,
                });
                world.clients[client].activity = Activity::Waiting(task);
            }
            Action::Resend | Action::Confirm => {
                world.clients[client].activity = Activity::Waiting(task)
            }
            Action::WaitAndLoad => world.clients[client].activity = Activity::Reading(task),
            Action::Finish(verdict) => self.finish(world, client, task, verdict),
        }
    }

    fn finish(&self, world: &mut World, client: usize, task: Task, verdict: Verdict) {
        let outcome = match verdict {
            Verdict::Committed => Outcome::Done,
            Verdict::NotDurable => Outcome::NotDurable,
            Verdict::OutcomeUnknown | Verdict::NeverKnown => Outcome::Unknown,
            _ if task.resolving => return world.commit_again(self, client, task),
            // A deletion that failed is retried in the background.
            _ if matches!(task.want, Want::Destroy | Want::Logout) => Outcome::Unknown,
            Verdict::Gone
            | Verdict::OtherEpoch
            | Verdict::Unreadable
            | Verdict::Conflict
            | Verdict::Failed => Outcome::NothingWritten,
        };
        world.outcomes[usize::from(task.op)] = Some((task.want, task.handle, outcome));
        if outcome.is_in_primary() {
            world.clients[client].resolved_as_committed |= task.resolving;
            let epoch = match task.want {
                Want::Rotate => task.op + 1,
                Want::Login => task.epoch_sent(),
                _ => task.made_in,
            };
            world.clients[client].cookie =
                (task.want != Want::Destroy).then_some((task.handle, epoch));
        }
        if task.want == Want::Logout {
            return world.end_logout(client, &task, outcome);
        }
        world.clients[client].steps += 1;
        world.clients[client].activity = match verdict {
            Verdict::OutcomeUnknown | Verdict::NotDurable if !task.resumed => {
                Activity::Unresolved(task)
            }
            _ => Activity::Nothing,
        };
    }
}

impl Task {
    fn prepare(&self, writer: u8, remembers: usize, create_again: bool) -> Command {
        let mut record = self.base.clone().unwrap_or(Record {
            version: (0, 0),
            count: 0,
            epoch: 0,
            login: None,
            applied: Vec::new(),
            data: Vec::new(),
        });
        let expected = record.version;
        record.version = (self.op, self.attempts);
        record.count += 1;
        record.applied.retain(|(by, _)| *by != writer);
        record.applied.push((writer, self.sequence));
        let surplus = record.applied.len().saturating_sub(remembers);
        record.applied.drain(..surplus);
        match self.want {
            Want::Destroy | Want::Logout => {
                return Command::Delete {
                    verified: self.verified,
                };
            }
            Want::Rotate => (record.epoch, record.login) = (self.op + 1, None),
            Want::Login => {
                let joins = record.login.filter(|_| record.epoch != self.made_in);
                let ended = joins.map_or(record.epoch, |(_, ended)| ended);
                if joins.is_none() {
                    record.epoch = self.op + 1;
                }
                record.login = Some((record.version, ended));
            }
            // Other changes keep the login, as on a node that does not know of it.
            Want::Create | Want::Change => {}
        }
        record.data.push(self.op);
        record.data.sort_unstable();
        match self.base {
            Some(_) if !create_again => Command::Replace {
                expected,
                by: record,
                made_in: self.made_in,
                is_login: self.want == Want::Login,
            },
            _ => Command::Create(record),
        }
    }

    /// The epoch of the session once the sent command is applied.
    fn epoch_sent(&self) -> Epoch {
        match &self.sent.as_ref().expect("it was sent").command {
            Command::Create(record) | Command::Replace { by: record, .. } => record.epoch,
            Command::Delete { .. } => unreachable!("nothing is there then"),
        }
    }

    /// The command that is sent next.
    fn message(&self) -> Message {
        let sent = self.sent.clone().expect("it waits for a reply");
        match &self.newer {
            Some(found) if self.confirming => Message {
                command: Command::Replace {
                    expected: found.version,
                    by: found.clone(),
                    made_in: found.epoch,
                    is_login: false,
                },
                ..sent
            },
            _ => sent,
        }
    }

    /// The event that follows from the store's reply.
    fn event_of(&mut self, reply: Reply, writer: u8, remembers: usize) -> Event {
        match reply {
            Reply::Done => Event::Done,
            Reply::Exists => Event::Exists,
            Reply::Gone => Event::Gone,
            Reply::Conflict(record) => {
                let newer = self.newer(writer, remembers, &record);
                self.newer = Some(record);
                Event::Conflict(newer)
            }
        }
    }

    fn newer(&self, writer: u8, remembers: usize, record: &Record) -> Newer {
        let base = self.base.as_ref().expect("only what was loaded conflicts");
        let ours = record.applied.iter().find(|(by, _)| *by == writer);
        let evidence = match ours {
            Some((_, sequence)) => match sequence.cmp(&self.sequence) {
                std::cmp::Ordering::Equal => Evidence::Applied,
                std::cmp::Ordering::Less => Evidence::NotApplied,
                std::cmp::Ordering::Greater => Evidence::Superseded,
            },
            None => Evidence::Absent,
        };
        let distance = usize::from(record.count.saturating_sub(base.count)) + WRITERS - remembers;
        Newer {
            evidence,
            entry: entry(self.made_in, self.want, record),
            conflicts: false,
            distance: u32::try_from(distance).unwrap(),
        }
    }
}

/// As in [`join`](super::join).
fn entry(made_in: Epoch, want: Want, record: &Record) -> Entry {
    match record.login {
        _ if record.epoch == made_in => Entry::SameEpoch,
        Some((version, ended)) if want == Want::Login && ended == made_in => Entry::SameLogin {
            fresh: version == record.version,
        },
        _ => Entry::OtherEpoch,
    }
}

impl World {
    /// A logout has ended. Whatever its outcome, the browser has lost the cookie.
    fn end_logout(&mut self, client: usize, task: &Task, outcome: Outcome) {
        self.outcomes[usize::from(task.op)] = Some((task.want, task.handle, outcome));
        let client = &mut self.clients[client];
        (client.cookie, client.activity) = (None, Activity::Nothing);
        client.steps += 1;
    }

    fn commit_again(&mut self, protocol: &Protocol, client: usize, mut task: Task) {
        task.resolving = false;
        task.newer = None;
        task.state = protocol.fresh(Goal::Replace);
        self.clients[client].activity = Activity::Ready(task);
    }

    /// Performs a command in the store.
    fn perform(&mut self, message: &Message) -> Reply {
        let stored = &mut self.store[usize::from(message.handle)];
        let written = match (&message.command, &stored) {
            (Command::Create(_), Some(_)) => return Reply::Exists,
            (Command::Create(record), None) => record,
            (Command::Replace { .. } | Command::Delete { .. }, None) => return Reply::Gone,
            (Command::Replace { expected, .. }, Some(there)) if there.version != *expected => {
                return Reply::Conflict(there.clone());
            }
            (
                Command::Replace {
                    by,
                    made_in,
                    is_login,
                    ..
                },
                Some(there),
            ) => {
                if there.epoch != *made_in {
                    let joins = *is_login && there.login == Some((there.version, *made_in));
                    self.joined |= joins;
                    self.crossed_an_epoch |= !joins;
                }
                by
            }
            (Command::Delete { verified }, Some(_)) => {
                self.ended_by_invalid_token |= !verified;
                *stored = None;
                return Reply::Done;
            }
        };
        self.was_there[usize::from(message.op)] = true;
        *stored = Some(written.clone());
        Reply::Done
    }

    /// Drops commands that can change nothing any more: a version never comes back.
    fn drop_stale(&mut self) {
        let store = &self.store;
        self.in_flight.retain(|message| {
            let there = store[usize::from(message.handle)].as_ref();
            match &message.command {
                Command::Create(_) => true,
                Command::Replace { expected, .. } => {
                    there.is_some_and(|there| there.version == *expected)
                }
                Command::Delete { .. } => there.is_some(),
            }
        });
        // A second copy finds its version replaced, but a creation may find its handle free again.
        let same = |one: &mut Message, other: &mut Message| {
            one == other && !matches!(one.command, Command::Create(_))
        };
        self.in_flight.dedup_by(same);
    }

    /// Whether the client's writer has no other commit in flight.
    fn has_turn(&self, client: usize, nodes: &[u8]) -> bool {
        let busy =
            |other: &Client| matches!(other.activity, Activity::Waiting(_) | Activity::Reading(_));
        let others = self.clients.iter().zip(nodes);
        !others
            .into_iter()
            .any(|(other, node)| *node == nodes[client] && busy(other))
    }

    fn destroyed(&self) -> impl Iterator<Item = Handle> {
        self.outcomes
            .iter()
            .flatten()
            .filter_map(|outcome| match outcome {
                (Want::Destroy | Want::Logout, handle, Outcome::Done) => Some(*handle),
                _ => None,
            })
    }

    fn data(&self) -> impl Iterator<Item = &Vec<Op>> {
        self.store.iter().flatten().map(|record| &record.data)
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        let record = Record {
            version: (u8::MAX, 0),
            count: 0,
            epoch: 0,
            login: None,
            applied: Vec::new(),
            data: Vec::new(),
        };
        let client = Client {
            steps: 0,
            cookie: (!self.visitors).then_some((0, 0)),
            resolved_as_committed: false,
            activity: Activity::Nothing,
        };
        let ops = self.nodes.len() * usize::from(STEPS);
        vec![World {
            store: vec![(!self.visitors).then_some(record)],
            in_flight: Vec::new(),
            clients: vec![client; self.nodes.len()],
            sequences: [0; 2],
            faults_left: self.faults,
            rotations_left: u8::from(self.logins == 0),
            logins_left: self.logins,
            ends_left: 1,
            outcomes: vec![None; ops],
            was_there: vec![false; ops],
            crossed_an_epoch: false,
            joined: false,
            ended_by_invalid_token: false,
        }]
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        let end = match self.unloaded {
            true => Want::Logout,
            false => Want::Destroy,
        };
        for (number, client) in world.clients.iter().enumerate() {
            match &client.activity {
                Activity::Nothing if client.steps == STEPS => {}
                Activity::Nothing if client.cookie.is_none() => {
                    if self.visitors {
                        acts.push(Act::Load(number, Want::Create));
                    }
                }
                Activity::Nothing => {
                    acts.push(Act::Load(number, Want::Change));
                    // One each: a second rotation is to the first as the first is to a change.
                    let left = [
                        (Want::Rotate, world.rotations_left),
                        (Want::Login, world.logins_left),
                        (end, world.ends_left),
                    ];
                    let left = left.into_iter().filter(|(_, left)| *left > 0);
                    acts.extend(left.map(|(want, _)| Act::Load(number, want)));
                }
                Activity::Unverified(_) => {
                    acts.extend([false, true].map(|late| Act::CheckToken(number, late)));
                }
                Activity::Ready(_) if !world.has_turn(number, self.nodes) => {}
                Activity::Ready(_) | Activity::Waiting(_) => {
                    acts.push(Act::Send(number, Fate::Answered));
                    if world.faults_left > 0 {
                        let faults = [
                            Fate::Silent { late: false },
                            Fate::Silent { late: true },
                            Fate::Refused,
                        ];
                        acts.extend(faults.map(|fate| Act::Send(number, fate)));
                        if self.durable {
                            acts.push(Act::Send(number, Fate::NotAcknowledged));
                        }
                        if self.resends {
                            acts.push(Act::Send(number, Fate::Repeated));
                        }
                    }
                }
                Activity::Reading(_) => acts.push(Act::Read(number)),
                Activity::Unresolved(_) => {
                    acts.push(Act::GiveUp(number));
                    if world.has_turn(number, self.nodes) {
                        acts.push(Act::Resume(number));
                    }
                }
            }
        }
        acts.extend((0..world.in_flight.len()).map(Act::Arrive));
    }

    fn next_state(&self, before: &World, act: Act) -> Option<World> {
        let mut world = before.clone();
        let task = |world: &World, client: usize| match &world.clients[client].activity {
            Activity::Unverified(task)
            | Activity::Ready(task)
            | Activity::Waiting(task)
            | Activity::Reading(task)
            | Activity::Unresolved(task) => task.clone(),
            Activity::Nothing => unreachable!("it has something to do"),
        };
        match act {
            Act::Load(client, want) => self.load(&mut world, client, want),
            Act::CheckToken(client, late) => {
                let task = task(&world, client);
                self.check_token(&mut world, client, task, late);
            }
            Act::Send(client, fate) => {
                if let Activity::Ready(task) = world.clients[client].activity.clone() {
                    self.advance(&mut world, client, task, Event::Begin, false);
                }
                let mut task = task(&world, client);
                let message = task.message();
                let (event, late) = match fate {
                    Fate::Answered => {
                        let reply = world.perform(&message);
                        (
                            task.event_of(reply, self.nodes[client], self.remembers),
                            false,
                        )
                    }
                    Fate::Silent { late } => {
                        world.in_flight.push(message);
                        // Sorted, since the order does not matter.
                        world.in_flight.sort_unstable();
                        (Event::Failed(StoreErrorKind::Unknown), late)
                    }
                    Fate::Refused => (Event::Failed(StoreErrorKind::Refused), false),
                    Fate::NotAcknowledged => match world.perform(&message) {
                        Reply::Done => (Event::Failed(StoreErrorKind::NotDurable), false),
                        reply => {
                            let node = self.nodes[client];
                            (task.event_of(reply, node, self.remembers), false)
                        }
                    },
                    Fate::Repeated => {
                        world.in_flight.push(message);
                        world.in_flight.sort_unstable();
                        world.faults_left -= 1;
                        world.drop_stale();
                        return Some(world);
                    }
                };
                world.faults_left -= u8::from(fate != Fate::Answered);
                self.advance(&mut world, client, task, event, late);
            }
            Act::Arrive(message) => {
                let message = world.in_flight.remove(message);
                world.perform(&message);
            }
            Act::Read(client) => {
                let mut task = task(&world, client);
                let event = match world.store[usize::from(task.handle)].clone() {
                    None => Event::Gone,
                    Some(record) => {
                        let newer = task.newer(self.nodes[client], self.remembers, &record);
                        task.newer = Some(record);
                        Event::Loaded {
                            entry: newer.entry,
                            conflicts: newer.conflicts,
                        }
                    }
                };
                self.advance(&mut world, client, task, event, false);
            }
            Act::Resume(client) => {
                let mut task = task(&world, client);
                (task.resolving, task.resumed) = (true, true);
                world.clients[client].steps -= 1;
                self.advance(&mut world, client, task, Event::Begin, false);
            }
            Act::GiveUp(client) => world.clients[client].activity = Activity::Nothing,
        }
        world.drop_stale();
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::sometimes(REACHABLE[0], |_, world: &World| {
                let done = |outcome: &Option<(Want, Handle, Outcome)>| {
                    matches!(outcome, Some((_, _, Outcome::Done)))
                };
                world.outcomes.iter().all(done)
            }),
            Property::sometimes(REACHABLE[1], |_, world: &World| {
                let found = |client: &Client| client.resolved_as_committed;
                world.clients.iter().any(found)
            }),
            Property::sometimes(REACHABLE[2], |protocol: &Self, world: &World| {
                world.joined || protocol.logins == 0
            }),
            Property::always(
                "without a fault no outcome is unknown",
                |protocol: &Self, world: &World| {
                    let unknown = |outcome: &Option<(Want, Handle, Outcome)>| {
                        matches!(outcome, Some((_, _, Outcome::Unknown)))
                    };
                    world.faults_left < protocol.faults || !world.outcomes.iter().any(unknown)
                },
            ),
            Property::always("no acknowledged change is lost", |_, world: &World| {
                (0_u8..)
                    .zip(&world.outcomes)
                    .all(|(op, outcome)| match outcome {
                        Some((want, handle, outcome))
                            if !matches!(want, Want::Destroy | Want::Logout)
                                && outcome.is_in_primary() =>
                        {
                            let stored = &world.store[usize::from(*handle)];
                            stored
                                .as_ref()
                                .is_none_or(|record| record.data.contains(&op))
                        }
                        _ => true,
                    })
            }),
            Property::always("no change is applied twice", |_, world: &World| {
                world.data().all(|data| {
                    let mut once = data.clone();
                    once.sort_unstable();
                    once.dedup();
                    once.len() == data.len()
                })
            }),
            Property::always(
                "a change that was reported as not written was never stored",
                |_, world: &World| {
                    world.outcomes.iter().zip(&world.was_there).all(|outcome| {
                    // A created session whose token was never sent does not count.
                    let refused = |want| {
                        matches!(want, Want::Change | Want::Rotate | Want::Login)
                    };
                    !matches!(outcome, (Some((want, _, Outcome::NothingWritten)), true) if refused(*want))
                })
                },
            ),
            Property::always(
                "no change crosses into another epoch, except a login that joins the last commit",
                |_, world: &World| !world.crossed_an_epoch,
            ),
            Property::always(
                "a destroyed session does not come back",
                |_, world: &World| {
                    world
                        .destroyed()
                        .all(|handle| world.store[usize::from(handle)].is_none())
                },
            ),
            Property::always(
                "a session is ended only by a token that opens it, or did a moment ago",
                |_, world: &World| !world.ended_by_invalid_token,
            ),
        ]
    }
}

const SCENES: [Protocol; 10] = [
    scene(true, &[0, 1], 1, 3),
    scene(false, &[0, 1], 1, 3),
    scene(false, &[0, 1], 2, 3),
    scene(false, &[0, 0], 1, 3),
    scene(false, &[0, 0, 1], 2, 1),
    Protocol {
        durable: true,
        ..scene(false, &[0, 1], 1, 2)
    },
    Protocol {
        logins: 2,
        ..scene(false, &[0, 1], 1, 2)
    },
    Protocol {
        logins: 2,
        durable: true,
        ..scene(false, &[0, 0], 1, 1)
    },
    Protocol {
        unloaded: true,
        ..scene(false, &[0, 1], 1, 2)
    },
    Protocol {
        unloaded: true,
        logins: 2,
        ..scene(false, &[0, 1], 1, 1)
    },
];

const fn scene(visitors: bool, nodes: &'static [u8], remembers: usize, faults: u8) -> Protocol {
    Protocol {
        visitors,
        nodes,
        remembers,
        faults,
        logins: 0,
        resends: false,
        durable: false,
        unloaded: false,
        checks_tokens: true,
        broken: None,
    }
}

#[test]
fn a_store_that_resends_by_itself_applies_changes_twice() {
    for (visitors, properties) in [
        (
            false,
            &[
                "no change is applied twice",
                "a change that was reported as not written was never stored",
            ][..],
        ),
        // A creation that was answered arrives a second time.
        (true, &["a destroyed session does not come back"]),
    ] {
        let scene = Protocol {
            resends: true,
            ..scene(visitors, &[0, 1], 1, 1)
        };
        let checker = scene.checker().threads(2).spawn_bfs().join();
        let violated = checker.discoveries();
        for property in properties {
            assert!(
                violated.contains_key(property),
                "{property}: could go unnoticed"
            );
        }
    }
}

#[test]
fn a_logout_that_does_not_check_its_token_ends_a_session_of_somebody_else() {
    let scene = Protocol {
        unloaded: true,
        checks_tokens: false,
        ..scene(false, &[0, 1], 1, 0)
    };
    let checker = scene.checker().threads(2).spawn_bfs().join();
    let mut violated: Vec<_> = checker.discoveries().into_keys().collect();
    violated.retain(|name| !REACHABLE.contains(name));
    assert_eq!(
        violated,
        ["a session is ended only by a token that opens it, or did a moment ago"]
    );
}

#[test]
fn no_change_is_lost_or_applied_twice_in_any_order() {
    for scene in SCENES {
        let began = Instant::now();
        let checker = scene.clone().checker().threads(2).spawn_bfs().join();
        println!(
            "{} clients of {STEPS} steps, {} faults, {} logins: {} states in {:?}",
            scene.nodes.len(),
            scene.faults,
            scene.logins,
            checker.unique_state_count(),
            began.elapsed()
        );
        checker.assert_properties();
    }
}

#[test]
fn without_any_one_of_the_rules_a_change_is_lost_or_applied_twice() {
    for rule in RULES {
        let began = Instant::now();
        // In the other scenes the rule does not matter.
        let mut scenes = SCENES
            .into_iter()
            .filter(|scene| (scene.logins > 0) == (rule == Rule::JoinsComeFirst));
        let violated = scenes.find_map(|scene| {
            let broken = Some(rule);
            let checker = Protocol { broken, ..scene }
                .checker()
                .threads(2)
                .finish_when(HasDiscoveries::AnyFailures)
                .spawn_bfs()
                .join();
            let failures = checker.discoveries().into_keys();
            failures.into_iter().find(|name| !REACHABLE.contains(name))
        });
        println!("without {rule:?}: {violated:?} in {:?}", began.elapsed());
        assert!(violated.is_some(), "{rule:?} could go unnoticed");
    }
}
