//! What a commit does next: a pure function, without I/O, clock or closures.
//!
//! [`step`] takes where the commit stands and what has just happened, and says where it stands then and what to do.
//! [`run`](super::run) does it. Nothing is sent after the deadline; the second attempt follows at once on the record that
//! won, later ones wait and read a fresh one. The rest is the nine [rules](Rule), without any one of which a change is
//! lost, done twice, or brings a session back.

use crate::error::store::StoreErrorKind;
use crate::record::WRITERS;

/// How often a send without an answer is repeated.
const RESENDS: u32 = 2;

/// What keeps changes from being lost or done twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rule {
    /// A session that is gone is never created again.
    GoneStaysGone,
    /// A commit that the record names has been applied: done, however it came there.
    NamedIsDone,
    /// Changes made in one epoch are never done to another, but for a login that joins one of the same principal.
    EpochsAreFences,
    /// A login joins one of the same principal only as long as nothing but such logins has been committed since.
    JoinsComeFirst,
    /// Changes are done again only once every earlier send is known not to have been applied: had one been, the record
    /// would name it, unless so many others have committed since that it no longer can.
    ProofBeforeReplay,
    /// A later commit of our own writer in the record proves nothing: ours may have been there before it.
    LaterHidesEarlier,
    /// A send without an answer may have been applied. What is not known is never called a failure.
    SilenceIsUnknown,
    /// What is repeated is repeated byte for byte, under the same id and version.
    RepeatTheSameBytes,
    /// A creation without an answer is never repeated under its handle, which a late copy could revive.
    CreateUnderFreshHandle,
}

/// What the commit is to do to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Goal {
    /// Store a session that was not stored before.
    Create,
    /// Replace the record by compare-and-set.
    Replace,
    /// Delete it.
    Delete,
}

/// Where a commit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    goal: Goal,
    /// Sends with bytes of their own.
    attempts: u32,
    /// Repetitions since the last answer.
    resends: u32,
    /// The bytes sent last may have been applied, or still be on their way.
    unresolved: bool,
    /// They have been applied on the primary. Whether replicas have them is what is unresolved.
    on_primary: bool,
    /// Replicas must have it too.
    durable: bool,
    #[cfg(test)]
    broken: Option<Rule>,
}

impl State {
    pub(crate) fn new(goal: Goal) -> Self {
        Self {
            goal,
            durable: false,
            attempts: 0,
            resends: 0,
            unresolved: false,
            on_primary: false,
            #[cfg(test)]
            broken: None,
        }
    }

    /// The commit counts as done only once replicas have it.
    pub(crate) fn durable(self, durable: bool) -> Self {
        Self { durable, ..self }
    }

    /// For tests that must fail without it.
    #[cfg(test)]
    pub(crate) fn breaking(self, rule: Rule) -> Self {
        Self {
            broken: Some(rule),
            ..self
        }
    }

    #[cfg(test)]
    fn keeps(self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }

    #[cfg(not(test))]
    fn keeps(self, _: Rule) -> bool {
        true
    }

    pub(crate) fn attempts(self) -> u32 {
        self.attempts
    }
}

/// What a newer record's `applied` says of our commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// Our id is there.
    Applied,
    /// An older id of our writer is there, so ours has not been.
    NotApplied,
    /// A later id of our writer is there; ours may have been before it.
    Superseded,
    /// No id of our writer is there.
    Absent,
}

/// How the record that was found relates to the one that the changes were made in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It is of the same epoch.
    SameEpoch,
    /// It is of a login that has retired the secret of these changes, and they are a login of the same principal. `fresh` as
    /// long as nothing but such logins has been committed since.
    SameLogin { fresh: bool },
    /// It is of another epoch.
    OtherEpoch,
}

/// What is known of the record that another request put in place of the one we worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Newer {
    pub(crate) evidence: Evidence,
    pub(crate) entry: Entry,
    /// What the changes rest on is different there, so that they may not be done again.
    pub(crate) conflicts: bool,
    /// Commits between our base and it.
    pub(crate) distance: u32,
}

/// What has just happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The commit begins, or is taken up again.
    Begin,
    /// The store has done it.
    Done,
    /// Another session has the handle.
    Exists,
    /// Nothing is stored under the handle.
    Gone,
    /// The stored record is another one.
    Conflict(Newer),
    /// What is stored is not a record.
    Unreadable,
    /// The fresh record that was asked for.
    Loaded { entry: Entry, conflicts: bool },
    /// The store failed to do what it was sent.
    Failed(StoreErrorKind),
    /// The store failed to give the fresh record.
    LoadFailed,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Apply the changes to the record at hand and send them.
    Send,
    /// Send the same bytes again.
    Resend,
    /// Write the record that was found once more, byte for byte: it names our commit, and only what is written is waited
    /// for.
    Confirm,
    /// Send a creation under a fresh handle.
    SendAfresh,
    /// Wait with jitter, for longer the higher the number of attempts, and load a fresh record.
    WaitAndLoad,
    /// It is over.
    Finish(Verdict),
}

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The changes are in the store, once.
    Committed,
    /// The session has ended. Nothing was written.
    Gone,
    /// The session has changed hands. Nothing was written.
    OtherEpoch,
    /// What is stored cannot be read. Nothing was written.
    Unreadable,
    /// Others were faster until the deadline. Nothing was written.
    Conflict,
    /// The store failed. Nothing was written.
    Failed,
    /// The changes may be in the store, or still arrive there. Sending them again may tell.
    OutcomeUnknown,
    /// The changes are in the primary, once, and too few replicas have said that they have them. Asking again may tell.
    NotDurable,
    /// The changes may have been in the store, and nothing there tells any more.
    NeverKnown,
}

/// Says what follows from an event. `late` is true once the deadline has passed.
pub(crate) fn step(mut state: State, event: Event, late: bool) -> (State, Action) {
    let action = match event {
        Event::Begin if late => Action::Finish(nothing_written(state, Verdict::Failed)),
        Event::Begin if state.unresolved => {
            state.resends = 0;
            Action::Resend
        }
        Event::Begin => send(&mut state),
        Event::Done => Action::Finish(Verdict::Committed),
        Event::Gone if state.goal == Goal::Delete => Action::Finish(Verdict::Committed),
        Event::Gone if !state.keeps(Rule::GoneStaysGone) => {
            state.goal = Goal::Create;
            send(&mut state)
        }
        // What is sent now cannot be applied any more, but an earlier send may have been.
        Event::Gone | Event::Unreadable if state.unresolved => Action::Finish(Verdict::NeverKnown),
        Event::Gone => Action::Finish(Verdict::Gone),
        Event::Unreadable => Action::Finish(Verdict::Unreadable),
        Event::Exists if late => Action::Finish(Verdict::Failed),
        Event::Exists => send_afresh(&mut state),
        Event::Conflict(newer) => conflict(&mut state, newer, late),
        Event::Loaded { entry, .. } if !may_enter(state, entry) => {
            Action::Finish(Verdict::OtherEpoch)
        }
        Event::Loaded { conflicts, .. } if late || conflicts => Action::Finish(Verdict::Conflict),
        Event::Loaded { .. } => send(&mut state),
        Event::Failed(kind) => failed(&mut state, kind, late),
        Event::LoadFailed if late || state.resends == RESENDS => Action::Finish(Verdict::Failed),
        Event::LoadFailed => {
            state.resends += 1;
            Action::WaitAndLoad
        }
    };
    (state, action)
}

fn conflict(state: &mut State, newer: Newer, late: bool) -> Action {
    if newer.evidence == Evidence::Applied && state.keeps(Rule::NamedIsDone) {
        return match state.durable {
            false => Action::Finish(Verdict::Committed),
            // An earlier send has done it, and whether replicas have it was not said to us.
            true => {
                (state.unresolved, state.on_primary) = (true, true);
                match late {
                    true => Action::Finish(Verdict::NotDurable),
                    false => Action::Confirm,
                }
            }
        };
    }
    if state.unresolved && !proves_not_applied(*state, newer) {
        return Action::Finish(Verdict::NeverKnown);
    }
    // The bytes sent compare against a version that is history now, so a late copy of them cannot be applied either.
    (state.unresolved, state.on_primary) = (false, false);
    state.resends = 0;
    if !may_enter(*state, newer.entry) {
        Action::Finish(Verdict::OtherEpoch)
    } else if late || newer.conflicts {
        Action::Finish(Verdict::Conflict)
    } else if state.attempts == 1 {
        send(state)
    } else {
        Action::WaitAndLoad
    }
}

fn may_enter(state: State, entry: Entry) -> bool {
    match entry {
        Entry::SameEpoch => true,
        Entry::SameLogin { fresh } => fresh || !state.keeps(Rule::JoinsComeFirst),
        Entry::OtherEpoch => !state.keeps(Rule::EpochsAreFences),
    }
}

/// Had our commit been applied it would be among the last of eight writers, unless eight commits followed it.
fn proves_not_applied(state: State, newer: Newer) -> bool {
    match newer.evidence {
        Evidence::NotApplied => true,
        Evidence::Absent => {
            newer.distance as usize <= WRITERS || !state.keeps(Rule::ProofBeforeReplay)
        }
        Evidence::Superseded => !state.keeps(Rule::LaterHidesEarlier),
        Evidence::Applied => !state.keeps(Rule::NamedIsDone),
    }
}

fn failed(state: &mut State, kind: StoreErrorKind, late: bool) -> Action {
    if kind == StoreErrorKind::NotDurable {
        // It is done, and to send it again would only wait for the same replicas. Taken up again, it is found.
        state.unresolved = state.goal == Goal::Replace;
        state.on_primary = state.unresolved;
        return Action::Finish(nothing_written(*state, Verdict::Failed));
    }
    if kind == StoreErrorKind::Unknown {
        // A creation under a handle that nobody will ever hear of has changed nothing that anyone can see.
        state.unresolved = state.goal == Goal::Replace && state.keeps(Rule::SilenceIsUnknown);
    }
    let hopeless = kind == StoreErrorKind::Refused && !state.unresolved;
    if late || hopeless || state.resends == RESENDS {
        return Action::Finish(nothing_written(*state, Verdict::Failed));
    }
    state.resends += 1;
    match state.goal {
        Goal::Create if state.keeps(Rule::CreateUnderFreshHandle) => Action::SendAfresh,
        Goal::Replace if !state.keeps(Rule::RepeatTheSameBytes) => Action::Send,
        Goal::Create | Goal::Replace | Goal::Delete => Action::Resend,
    }
}

fn send(state: &mut State) -> Action {
    state.attempts += 1;
    state.resends = 0;
    Action::Send
}

fn send_afresh(state: &mut State) -> Action {
    state.attempts += 1;
    Action::SendAfresh
}

/// The verdict, if it is certain that nothing was written.
fn nothing_written(state: State, verdict: Verdict) -> Verdict {
    match (state.unresolved, state.on_primary) {
        (false, _) => verdict,
        (true, false) => Verdict::OutcomeUnknown,
        (true, true) => Verdict::NotDurable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use StoreErrorKind::{Refused, Unavailable, Unknown};

    fn newer(evidence: Evidence, same_epoch: bool, distance: u32) -> Event {
        let entry = match same_epoch {
            true => Entry::SameEpoch,
            false => Entry::OtherEpoch,
        };
        Event::Conflict(Newer {
            evidence,
            entry,
            conflicts: false,
            distance,
        })
    }

    const LOADED: Event = Event::Loaded {
        entry: Entry::SameEpoch,
        conflicts: false,
    };

    /// Feeds the events in and returns the actions, the first of which answers `Begin`.
    fn play(goal: Goal, events: &[Event]) -> Vec<Action> {
        play_from(State::new(goal), events)
    }

    fn play_from(state: State, events: &[Event]) -> Vec<Action> {
        let (mut state, action) = step(state, Event::Begin, false);
        let mut actions = vec![action];
        for event in events {
            let (next, action) = step(state, *event, false);
            state = next;
            actions.push(action);
        }
        actions
    }

    #[test]
    fn the_protocol_as_a_table() {
        use Action::{Finish, Resend, Send, SendAfresh, WaitAndLoad};
        use Event::{Done, Exists, Failed, Gone, LoadFailed, Loaded, Unreadable};
        use Evidence::{Absent, Applied, NotApplied, Superseded};
        use Goal::{Create, Delete, Replace};
        use Verdict::{Committed, NeverKnown, OtherEpoch, OutcomeUnknown};

        let other = newer(Absent, true, 1);
        let table: &[(&str, Goal, &[Event], &[Action])] = &[
            ("undisturbed", Replace, &[Done], &[Send, Finish(Committed)]),
            (
                "second attempt at once, third after waiting",
                Replace,
                &[other, other, LOADED, other, LOADED, Done],
                &[
                    Send,
                    Send,
                    WaitAndLoad,
                    Send,
                    WaitAndLoad,
                    Send,
                    Finish(Committed),
                ],
            ),
            (
                "logged out meanwhile",
                Replace,
                &[Gone],
                &[Send, Finish(Verdict::Gone)],
            ),
            (
                "logged out between attempts",
                Replace,
                &[other, other, Gone],
                &[Send, Send, WaitAndLoad, Finish(Verdict::Gone)],
            ),
            (
                "rotated meanwhile",
                Replace,
                &[newer(Absent, false, 1)],
                &[Send, Finish(OtherEpoch)],
            ),
            (
                "rotated while waiting",
                Replace,
                &[
                    other,
                    other,
                    Loaded {
                        entry: Entry::OtherEpoch,
                        conflicts: false,
                    },
                ],
                &[Send, Send, WaitAndLoad, Finish(OtherEpoch)],
            ),
            (
                "garbage in its place",
                Replace,
                &[Unreadable],
                &[Send, Finish(Verdict::Unreadable)],
            ),
            (
                "the answer was lost, the commit was not",
                Replace,
                &[Failed(Unknown), newer(Applied, true, 1)],
                &[Send, Resend, Finish(Committed)],
            ),
            (
                "our own rotation, answer lost",
                Replace,
                &[Failed(Unknown), newer(Applied, false, 1)],
                &[Send, Resend, Finish(Committed)],
            ),
            (
                "lost, then others committed, at most eight",
                Replace,
                &[Failed(Unknown), newer(Absent, true, 8), Done],
                &[Send, Resend, Send, Finish(Committed)],
            ),
            (
                "lost, then nine others: cannot be known",
                Replace,
                &[Failed(Unknown), newer(Absent, true, 9)],
                &[Send, Resend, Finish(NeverKnown)],
            ),
            (
                "nine others and nothing lost",
                Replace,
                &[newer(Absent, true, 9), Done],
                &[Send, Send, Finish(Committed)],
            ),
            (
                "lost, an older id of ours is a proof at any distance",
                Replace,
                &[Failed(Unknown), newer(NotApplied, true, 9), Done],
                &[Send, Resend, Send, Finish(Committed)],
            ),
            (
                "lost, a later id of ours hides it",
                Replace,
                &[Failed(Unknown), newer(Superseded, true, 2)],
                &[Send, Resend, Finish(NeverKnown)],
            ),
            (
                "lost, and the session is gone",
                Replace,
                &[Failed(Unknown), Gone],
                &[Send, Resend, Finish(NeverKnown)],
            ),
            (
                "lost, and another epoch: refused only if not applied",
                Replace,
                &[Failed(Unknown), newer(Absent, false, 9)],
                &[Send, Resend, Finish(NeverKnown)],
            ),
            (
                "no answer three times",
                Replace,
                &[Failed(Unknown); 3],
                &[Send, Resend, Resend, Finish(OutcomeUnknown)],
            ),
            (
                "not reached three times",
                Replace,
                &[Failed(Unavailable); 3],
                &[Send, Resend, Resend, Finish(Verdict::Failed)],
            ),
            (
                "the store says no",
                Replace,
                &[Failed(Refused)],
                &[Send, Finish(Verdict::Failed)],
            ),
            (
                "lost, then a no: the first may have been applied",
                Replace,
                &[Failed(Unknown), Failed(Refused), Done],
                &[Send, Resend, Resend, Finish(Committed)],
            ),
            (
                "not reached after a loss does not make it certain",
                Replace,
                &[Failed(Unknown), Failed(Unavailable), Failed(Unavailable)],
                &[Send, Resend, Resend, Finish(OutcomeUnknown)],
            ),
            (
                "a fresh record that cannot be read leaves nothing in doubt",
                Replace,
                &[other, other, LoadFailed, LoadFailed, LoadFailed],
                &[
                    Send,
                    Send,
                    WaitAndLoad,
                    WaitAndLoad,
                    WaitAndLoad,
                    Finish(Verdict::Failed),
                ],
            ),
            ("created", Create, &[Done], &[Send, Finish(Committed)]),
            (
                "a creation without an answer takes a fresh handle",
                Create,
                &[Failed(Unknown), Done],
                &[Send, SendAfresh, Finish(Committed)],
            ),
            (
                "a creation never answered has changed nothing visible",
                Create,
                &[Failed(Unknown); 3],
                &[Send, SendAfresh, SendAfresh, Finish(Verdict::Failed)],
            ),
            (
                "a handle that is taken",
                Create,
                &[Exists, Done],
                &[Send, SendAfresh, Finish(Committed)],
            ),
            ("deleted", Delete, &[Done], &[Send, Finish(Committed)]),
            (
                "deleted by somebody else",
                Delete,
                &[Gone],
                &[Send, Finish(Committed)],
            ),
            (
                "deleting again does no harm",
                Delete,
                &[Failed(Unknown), Done],
                &[Send, Resend, Finish(Committed)],
            ),
            (
                "cannot be deleted",
                Delete,
                &[Failed(Unknown); 3],
                &[Send, Resend, Resend, Finish(Verdict::Failed)],
            ),
            (
                "may not be deleted",
                Delete,
                &[Failed(Refused)],
                &[Send, Finish(Verdict::Failed)],
            ),
        ];
        for (name, goal, events, actions) in table {
            assert_eq!(play(*goal, events), *actions, "{name}");
        }
    }

    #[test]
    fn what_replicas_must_have_is_done_once_they_have_it() {
        use Action::{Confirm, Finish, Resend, Send};
        use Event::{Begin, Done, Failed, Gone};
        use StoreErrorKind::NotDurable;
        use Verdict::{Committed, NeverKnown};
        let ours = newer(Evidence::Applied, true, 1);
        let short = Finish(Verdict::NotDurable);
        let table: &[(&str, Goal, &[Event], &[Action])] = &[
            (
                "at once",
                Goal::Replace,
                &[Done],
                &[Send, Finish(Committed)],
            ),
            (
                "they do not say so, which is asked again if somebody needs to know",
                Goal::Replace,
                &[Failed(NotDurable), Begin, ours, Done],
                &[Send, short, Resend, Confirm, Finish(Committed)],
            ),
            (
                "nor then",
                Goal::Replace,
                &[Failed(NotDurable), Begin, ours, Failed(NotDurable)],
                &[Send, short, Resend, Confirm, short],
            ),
            (
                "when they are asked again, nobody answers",
                Goal::Replace,
                &[
                    Failed(NotDurable),
                    Begin,
                    Failed(Unavailable),
                    Failed(Unavailable),
                    Failed(Unavailable),
                ],
                &[Send, short, Resend, Resend, Resend, short],
            ),
            (
                "when they are asked again, what was there is not any more, after a failover",
                Goal::Replace,
                &[
                    Failed(NotDurable),
                    Begin,
                    newer(Evidence::Absent, true, 1),
                    Failed(Unknown),
                    Failed(Unknown),
                    Failed(Unknown),
                ],
                &[
                    Send,
                    short,
                    Resend,
                    Send,
                    Resend,
                    Resend,
                    Finish(Verdict::OutcomeUnknown),
                ],
            ),
            (
                "the answer was lost, the commit was not, and they are asked",
                Goal::Replace,
                &[Failed(Unknown), ours, Done],
                &[Send, Resend, Confirm, Finish(Committed)],
            ),
            (
                "others commit while they are asked",
                Goal::Replace,
                &[Failed(Unknown), ours, ours, Done],
                &[Send, Resend, Confirm, Confirm, Finish(Committed)],
            ),
            (
                "while they are asked, what was there is not any more, after a failover",
                Goal::Replace,
                &[
                    Failed(Unknown),
                    ours,
                    newer(Evidence::Absent, true, 1),
                    Done,
                ],
                &[Send, Resend, Confirm, Send, Finish(Committed)],
            ),
            (
                "logged out while they are asked",
                Goal::Replace,
                &[Failed(Unknown), ours, Gone],
                &[Send, Resend, Confirm, Finish(NeverKnown)],
            ),
            (
                "no answer when they are asked",
                Goal::Replace,
                &[Failed(Unknown), ours, Failed(Unknown), ours, Done],
                &[Send, Resend, Confirm, Resend, Confirm, Finish(Committed)],
            ),
            (
                "a new session that they do not have is nobody's",
                Goal::Create,
                &[Failed(NotDurable)],
                &[Send, Finish(Verdict::Failed)],
            ),
            (
                "a deletion that they do not have has failed",
                Goal::Delete,
                &[Failed(NotDurable)],
                &[Send, Finish(Verdict::Failed)],
            ),
        ];
        for (name, goal, events, actions) in table {
            let (mut state, action) = step(State::new(*goal).durable(true), Begin, false);
            let mut done = vec![action];
            for event in *events {
                let (next, action) = step(state, *event, false);
                state = next;
                done.push(action);
            }
            assert_eq!(done, *actions, "{name}");
        }
        let (sent, _) = step(State::new(Goal::Replace).durable(true), Begin, false);
        assert_eq!(step(sent, ours, true).1, short);
    }

    #[test]
    fn after_the_deadline_nothing_is_sent_and_nothing_is_guessed() {
        let fresh = State {
            attempts: 1,
            ..State::new(Goal::Replace)
        };
        let lost = State {
            unresolved: true,
            ..fresh
        };
        let created = State {
            attempts: 1,
            ..State::new(Goal::Create)
        };
        let other = newer(Evidence::Absent, true, 1);
        for (state, event, verdict) in [
            (State::new(Goal::Replace), Event::Begin, Verdict::Failed),
            (fresh, other, Verdict::Conflict),
            (fresh, LOADED, Verdict::Conflict),
            (fresh, Event::Failed(Unavailable), Verdict::Failed),
            (fresh, Event::Failed(Unknown), Verdict::OutcomeUnknown),
            (lost, Event::Begin, Verdict::OutcomeUnknown),
            (lost, Event::Failed(Refused), Verdict::OutcomeUnknown),
            (lost, newer(Evidence::Applied, true, 1), Verdict::Committed),
            (lost, other, Verdict::Conflict),
            (fresh, Event::Done, Verdict::Committed),
            (created, Event::Exists, Verdict::Failed),
        ] {
            assert_eq!(
                step(state, event, true).1,
                Action::Finish(verdict),
                "{state:?} {event:?}"
            );
        }
    }

    #[test]
    fn changes_that_rest_on_what_others_have_changed_end_the_commit_unless_it_was_done() {
        let (begun, _) = step(State::new(Goal::Replace), Event::Begin, false);
        let (lost, _) = step(begun, Event::Failed(Unknown), false);
        let conflicts = |evidence, distance| {
            Event::Conflict(Newer {
                evidence,
                entry: Entry::SameEpoch,
                conflicts: true,
                distance,
            })
        };
        let loaded = Event::Loaded {
            entry: Entry::SameEpoch,
            conflicts: true,
        };
        for (state, event, verdict) in [
            (begun, conflicts(Evidence::Absent, 1), Verdict::Conflict),
            (begun, loaded, Verdict::Conflict),
            (lost, conflicts(Evidence::Absent, 1), Verdict::Conflict),
            (lost, conflicts(Evidence::Applied, 2), Verdict::Committed),
            (lost, conflicts(Evidence::Absent, 9), Verdict::NeverKnown),
        ] {
            assert_eq!(step(state, event, false).1, Action::Finish(verdict));
        }
    }

    #[test]
    fn a_login_joins_one_of_its_own_as_long_as_that_is_the_last_commit() {
        use Action::{Finish, Resend, Send, WaitAndLoad};
        use Event::{Done, Failed};
        use Verdict::{Committed, OtherEpoch};
        let met = |evidence, fresh| {
            Event::Conflict(Newer {
                evidence,
                entry: Entry::SameLogin { fresh },
                conflicts: false,
                distance: 1,
            })
        };
        let absent = |fresh| met(Evidence::Absent, fresh);
        let found = |fresh| Event::Loaded {
            entry: Entry::SameLogin { fresh },
            conflicts: false,
        };
        let table: &[(&[Event], &[Action])] = &[
            (&[absent(true), Done], &[Send, Send, Finish(Committed)]),
            (&[absent(false)], &[Send, Finish(OtherEpoch)]),
            (
                &[absent(true), absent(true), found(true), Done],
                &[Send, Send, WaitAndLoad, Send, Finish(Committed)],
            ),
            (
                &[absent(true), absent(true), found(false)],
                &[Send, Send, WaitAndLoad, Finish(OtherEpoch)],
            ),
            (
                &[Failed(Unknown), absent(true), Done],
                &[Send, Resend, Send, Finish(Committed)],
            ),
            (
                &[Failed(Unknown), met(Evidence::Applied, false)],
                &[Send, Resend, Finish(Committed)],
            ),
        ];
        for (events, actions) in table {
            assert_eq!(play(Goal::Replace, events), *actions, "{events:?}");
        }
    }

    #[test]
    fn what_is_sent_with_bytes_of_its_own_counts_as_an_attempt_and_a_repetition_does_not() {
        use Event::{Begin, Exists, Failed};
        let other = newer(Evidence::Absent, true, 1);
        let table: &[(Goal, &[Event], u32)] = &[
            (Goal::Replace, &[], 0),
            (Goal::Replace, &[Begin], 1),
            (Goal::Replace, &[Begin, Failed(Unknown)], 1),
            (Goal::Replace, &[Begin, other], 2),
            (Goal::Replace, &[Begin, other, other], 2),
            (Goal::Replace, &[Begin, other, other, LOADED], 3),
            (Goal::Create, &[Begin, Exists], 2),
        ];
        for (goal, events, attempts) in table {
            let state = events.iter().fold(State::new(*goal), |state, event| {
                step(state, *event, false).0
            });
            assert_eq!(state.attempts(), *attempts, "{events:?}");
        }
    }

    #[test]
    fn a_commit_taken_up_again_sends_the_same_bytes_first() {
        let (lost, _) = step(State::new(Goal::Replace), Event::Begin, false);
        let (lost, _) = step(lost, Event::Failed(Unknown), true);
        let (again, action) = step(lost, Event::Begin, false);
        assert_eq!(action, Action::Resend);
        assert_eq!(
            step(again, newer(Evidence::NotApplied, true, 3), false).1,
            Action::Send
        );
    }
}
