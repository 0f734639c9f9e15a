//! Explores every order in which sign-ins, a sign-out everywhere and a list of one user's sessions can interleave, with the decisions
//! of the index that the stores use ([`Snapshot`]).
//!
//! A session belongs to a sign-in once its record says so, and a browser can use it once that sign-in is confirmed, since only
//! then it gets the token. Sign-ins may stop after any step, as when their process dies.

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Checker as _, HasDiscoveries, Model, Property};

use crate::store::index::{Began, Confirmed, Entered, Snapshot, next_generation};

/// The rules by which an index misses no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Rule {
    /// A session enters before it is signed in to.
    EnterFirst,
    /// A sign-in that began before the last sign-out everywhere does not enter.
    RefuseTheLate,
    /// A session whose generation has passed is not confirmed.
    ConfirmTheGeneration,
    /// A session that is not listed any more is not confirmed.
    ConfirmThatItIsListed,
    /// A sign-out everywhere begins a generation before it lists the sessions.
    BeginBeforeListing,
    /// An entry that is reserved is not removed.
    KeepTheReserved,
    /// An entry that ends later than the one which was listed is not removed.
    KeepTheLater,
    /// A confirmed entry ends later than the reserved one, so that whoever has listed that does not remove it.
    ConfirmLater,
    /// All sessions count, reserved ones too.
    CountTheReserved,
}

const RULES: [Rule; 9] = [
    Rule::EnterFirst,
    Rule::RefuseTheLate,
    Rule::ConfirmTheGeneration,
    Rule::ConfirmThatItIsListed,
    Rule::BeginBeforeListing,
    Rule::KeepTheReserved,
    Rule::KeepTheLater,
    Rule::ConfirmLater,
    Rule::CountTheReserved,
];

/// The session of each sign-in: two share one, which exists, and the third creates its own.
const SESSIONS: [usize; 3] = [0, 0, 1];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stored {
    Missing,
    /// The version, and the sign-in that it belongs to.
    Present(u8, Option<usize>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum SignIn {
    Waiting,
    /// It began at this time, with the session as it was stored then.
    Begun(u64, Stored),
    /// In this generation.
    Entered(u64, u64, Stored),
    Written(u64, u64),
    /// The browser has the token.
    Done(u64),
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum SignOut {
    Waiting,
    Begun(u64),
    /// Sessions that are to be ended.
    Listed(u64, Vec<usize>),
    Done(u64),
}

/// A list of the sessions, which removes dead entries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum List {
    Waiting,
    /// The sessions with their `until`, and whether they are reserved.
    Read(Vec<(usize, u64, bool)>),
    /// The dead entries.
    Judged(Vec<(usize, u64)>),
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    time: u64,
    generation: u64,
    /// Each session with its `until`, which differs from one sign-in to the next.
    index: BTreeMap<usize, u64>,
    reserved: BTreeSet<usize>,
    stored: [Stored; 2],
    sign_ins: [SignIn; 3],
    sign_out: SignOut,
    list: List,
    may_step_down: bool,
    may_forget: bool,
    /// A sign-in was refused although nobody had ended the sessions.
    is_wronged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    SignIn(usize),
    SignOut,
    /// Ends one of the sessions that were listed.
    End(usize),
    List,
    /// The principal of the first session signs out, and the session stays.
    StepDown,
    /// The reservations end.
    Forget,
}

#[derive(Clone, Debug)]
struct Index {
    limit: Option<u32>,
    broken: Option<Rule>,
}

impl Index {
    fn keeps(&self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }

    fn snapshot(&self, world: &World, session: usize) -> Snapshot {
        let counts =
            |it: &&usize| self.keeps(Rule::CountTheReserved) || !world.reserved.contains(it);
        Snapshot {
            generation: world.generation,
            holds: world.index.contains_key(&session),
            count: world.index.keys().filter(counts).count(),
        }
    }

    fn sign_in(&self, world: &mut World, number: usize) {
        let session = SESSIONS[number];
        world.sign_ins[number] = match world.sign_ins[number] {
            SignIn::Waiting => {
                world.time += 1;
                SignIn::Begun(world.time, world.stored[session])
            }
            SignIn::Begun(began, seen) if self.keeps(Rule::EnterFirst) => {
                self.enter(world, number, began, seen)
            }
            SignIn::Begun(began, seen) => write(world, number, (began, 0, seen)),
            SignIn::Entered(began, entered_in, seen) => {
                write(world, number, (began, entered_in, seen))
            }
            SignIn::Written(began, entered_in) => self.confirm(world, number, began, entered_in),
            over @ (SignIn::Done(_) | SignIn::Refused) => over,
        };
    }

    fn enter(&self, world: &mut World, number: usize, began: u64, seen: Stored) -> SignIn {
        let session = SESSIONS[number];
        let at = match self.keeps(Rule::RefuseTheLate) {
            true => began,
            false => u64::MAX,
        };
        match self
            .snapshot(world, session)
            .enter(Began::At(at), self.limit)
        {
            Entered::Done(generation) => {
                let present = world.index.get(&session).copied().unwrap_or_default();
                world
                    .index
                    .insert(session, present.saturating_add(1).max(began * 10));
                world.reserved.insert(session);
                SignIn::Entered(began, generation.number(), seen)
            }
            Entered::Full | Entered::Ended => SignIn::Refused,
        }
    }

    fn confirm(&self, world: &mut World, number: usize, began: u64, entered_in: u64) -> SignIn {
        let session = SESSIONS[number];
        if !self.keeps(Rule::EnterFirst) {
            world.index.insert(session, began);
            return SignIn::Done(began);
        }
        let mut snapshot = self.snapshot(world, session);
        snapshot.holds |= !self.keeps(Rule::ConfirmThatItIsListed);
        if !self.keeps(Rule::ConfirmTheGeneration) {
            snapshot.generation = entered_in;
        }
        let generation = crate::store::Generation::from_number(entered_in);
        match snapshot.confirm(generation) {
            Confirmed::Done => {
                let raise = u64::from(self.keeps(Rule::ConfirmLater));
                *world.index.entry(session).or_insert(began) += raise;
                world.reserved.remove(&session);
                SignIn::Done(began)
            }
            Confirmed::Ended => {
                let is_theirs = matches!(world.stored[session], Stored::Present(_, Some(owner)) if owner == number);
                let is_current = world.generation == entered_in;
                // Two sign-ins of one session share a reservation, which the first that is confirmed ends.
                let is_alone = session == 1;
                world.is_wronged |= is_theirs && is_current && is_alone && world.may_forget;
                if is_theirs {
                    world.stored[session] = Stored::Missing;
                }
                SignIn::Refused
            }
        }
    }

    fn sign_out(&self, world: &mut World) {
        let listed = |world: &World| world.index.keys().copied().collect();
        world.sign_out = match world.sign_out.clone() {
            SignOut::Waiting => {
                world.time += 1;
                match self.keeps(Rule::BeginBeforeListing) {
                    true => {
                        world.generation = next_generation(world.generation, world.time).number();
                        SignOut::Begun(world.time)
                    }
                    false => SignOut::Listed(world.time, listed(world)),
                }
            }
            SignOut::Begun(at) => SignOut::Listed(at, listed(world)),
            SignOut::Listed(at, left) if left.is_empty() => {
                if !self.keeps(Rule::BeginBeforeListing) {
                    world.generation = next_generation(world.generation, at).number();
                }
                SignOut::Done(at)
            }
            other => other,
        };
    }

    fn list(&self, world: &mut World) {
        world.list = match world.list.clone() {
            List::Waiting => {
                let entry = |(session, until): (&usize, &u64)| {
                    (*session, *until, world.reserved.contains(session))
                };
                List::Read(world.index.iter().map(entry).collect())
            }
            List::Read(entries) => {
                let is_dead = |(session, _, reserved): &&(usize, u64, bool)| {
                    let is_theirs = matches!(world.stored[*session], Stored::Present(_, Some(_)));
                    let is_kept = *reserved && self.keeps(Rule::KeepTheReserved);
                    !is_theirs && !is_kept
                };
                let dead = entries.iter().filter(is_dead);
                List::Judged(dead.map(|(session, until, _)| (*session, *until)).collect())
            }
            List::Judged(dead) => {
                for (session, until) in dead {
                    let is_same = world
                        .index
                        .get(&session)
                        .is_some_and(|present| *present <= until);
                    let is_reserved = world.reserved.contains(&session);
                    if (is_same || !self.keeps(Rule::KeepTheLater))
                        && !(is_reserved && self.keeps(Rule::KeepTheReserved))
                    {
                        world.index.remove(&session);
                    }
                }
                List::Done
            }
            List::Done => List::Done,
        };
    }
}

/// Writes the record, by compare-and-set or as a new one.
fn write(
    world: &mut World,
    number: usize,
    (began, entered_in, seen): (u64, u64, Stored),
) -> SignIn {
    let session = SESSIONS[number];
    if world.stored[session] != seen {
        return SignIn::Refused;
    }
    let version = match seen {
        Stored::Missing => 0,
        Stored::Present(version, _) => version + 1,
    };
    world.stored[session] = Stored::Present(version, Some(number));
    SignIn::Written(began, entered_in)
}

/// The sessions that a browser can use, each with the time at which its sign-in began.
fn usable(world: &World) -> impl Iterator<Item = (usize, u64)> {
    let sign_ins = world.sign_ins.iter().enumerate();
    sign_ins.filter_map(|(number, sign_in)| {
        let SignIn::Done(began) = sign_in else {
            return None;
        };
        let session = SESSIONS[number];
        let is_theirs =
            matches!(world.stored[session], Stored::Present(_, Some(owner)) if owner == number);
        is_theirs.then_some((session, *began))
    })
}

impl Model for Index {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            time: 0,
            generation: 0,
            index: BTreeMap::new(),
            reserved: BTreeSet::new(),
            stored: [Stored::Present(0, None), Stored::Missing],
            sign_ins: [SignIn::Waiting; 3],
            sign_out: SignOut::Waiting,
            list: List::Waiting,
            may_step_down: true,
            may_forget: true,
            is_wronged: false,
        }]
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        for (number, sign_in) in world.sign_ins.iter().enumerate() {
            let is_over = matches!(sign_in, SignIn::Done(_) | SignIn::Refused);
            // A sign-in to a session that is signed in already is another story: it does not change the index.
            let is_signed_in =
                matches!(world.stored[SESSIONS[number]], Stored::Present(_, Some(_)));
            let begins = *sign_in == SignIn::Waiting;
            if !is_over && (!begins || !is_signed_in) {
                acts.push(Act::SignIn(number));
            }
        }
        match &world.sign_out {
            SignOut::Listed(_, left) if !left.is_empty() => {
                acts.extend(left.iter().copied().map(Act::End));
            }
            SignOut::Done(_) => {}
            _ => acts.push(Act::SignOut),
        }
        if world.list != List::Done {
            acts.push(Act::List);
        }
        // Whoever signs out has the token.
        if world.may_step_down && usable(world).any(|(session, _)| session == 0) {
            acts.push(Act::StepDown);
        }
        if world.may_forget && !world.reserved.is_empty() {
            acts.push(Act::Forget);
        }
    }

    fn next_state(&self, before: &World, act: Act) -> Option<World> {
        let mut world = before.clone();
        match act {
            Act::SignIn(number) => self.sign_in(&mut world, number),
            Act::SignOut => self.sign_out(&mut world),
            Act::End(session) => {
                if let SignOut::Listed(_, left) = &mut world.sign_out {
                    left.retain(|it| *it != session);
                }
                // It may be signed in to in a moment, and then does not pass its confirmation.
                if let Stored::Present(_, Some(_)) = world.stored[session] {
                    world.stored[session] = Stored::Missing;
                }
            }
            Act::List => self.list(&mut world),
            Act::StepDown => {
                world.may_step_down = false;
                if let Stored::Present(version, _) = world.stored[0] {
                    world.stored[0] = Stored::Present(version + 1, None);
                }
            }
            Act::Forget => {
                world.may_forget = false;
                world.reserved.clear();
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::sometimes(
                "both sessions are signed in",
                |model: &Self, world: &World| model.limit.is_some() || usable(world).count() == 2,
            ),
            Property::sometimes("a sign-in is refused", |_, world: &World| {
                world.sign_ins.contains(&SignIn::Refused)
            }),
            Property::always("a usable session is listed", |_, world: &World| {
                usable(world).all(|(session, _)| world.index.contains_key(&session))
            }),
            Property::always(
                "no sign-in outlives a sign-out everywhere that began after it",
                |_, world: &World| match world.sign_out {
                    SignOut::Done(at) => usable(world).all(|(_, began)| began > at),
                    _ => true,
                },
            ),
            Property::always("a list refuses no sign-in", |_, world: &World| {
                !world.is_wronged
            }),
            Property::always("no more are usable than the limit says", |model, world| {
                let limit = model.limit.map_or(usize::MAX, |limit| limit as usize);
                usable(world).count() <= limit
            }),
        ]
    }
}

const REACHABLE: [&str; 2] = ["both sessions are signed in", "a sign-in is refused"];

#[test]
fn an_index_misses_no_session_and_no_sign_in_outlives_a_sign_out_everywhere() {
    for limit in [None, Some(1)] {
        let broken = None;
        let checker = Index { limit, broken }
            .checker()
            .threads(2)
            .spawn_bfs()
            .join();
        println!("{} states", checker.unique_state_count());
        checker.assert_properties();
    }
}

#[test]
fn without_any_one_of_the_rules_an_index_misses_a_session_or_admits_one_too_many() {
    for rule in RULES {
        let needs_limit = [Rule::CountTheReserved, Rule::ConfirmThatItIsListed].contains(&rule);
        let limit = needs_limit.then_some(1);
        let broken = Some(rule);
        let checker = Index { limit, broken }
            .checker()
            .threads(2)
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_bfs()
            .join();
        let violated = checker.discoveries().into_keys();
        let violated = violated.into_iter().find(|name| !REACHABLE.contains(name));
        println!("without {rule:?}: {violated:?}");
        assert!(violated.is_some(), "{rule:?} could go unnoticed");
    }
}
