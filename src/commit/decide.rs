//! The decisions of the commit protocol: a pure function, without I/O, clock or closures.
//!
//! [`step`] takes the state of a commit and an event, and returns the next state and the next action, which
//! [`Attempt`](crate::commit::attempt::Attempt) performs. Nothing is sent after the deadline. After the first conflict the
//! changes are replayed at once, on the record that was found; after later ones sessile waits and loads a fresh record. The
//! nine [rules](Rule) say the rest. Without any one of them a change is lost, is applied twice, or revives a session.

use crate::error::store::StoreErrorKind;
use crate::record::WRITERS;

/// How often the same bytes are sent again if there is no answer.
const RESENDS: u32 = 2;

/// The rules that keep changes from being lost or applied twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rule {
    /// A session that is gone is never created again.
    GoneStaysGone,
    /// A commit that the record names has been applied: it is done, however it got there.
    NamedIsDone,
    /// Changes made in one epoch are never applied in another, except a login that joins one of the same principal.
    EpochsAreFences,
    /// A login joins one of the same principal only while nothing but such logins has been committed since.
    JoinsComeFirst,
    /// Changes are replayed only once every earlier send is known not to have been applied: if one had been, the record
    /// would name it, unless so many others have committed since that it no longer can.
    ProofBeforeReplay,
    /// A later commit of our own writer in the record proves nothing: ours may have been applied before it.
    LaterHidesEarlier,
    /// A send without an answer may have been applied. An unknown outcome is never reported as a failure.
    SilenceIsUnknown,
    /// A resend has the same bytes, under the same id and version.
    RepeatTheSameBytes,
    /// A creation without an answer is never sent again under its handle: a late copy could revive the session.
    CreateUnderFreshHandle,
}

/// The operation of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Goal {
    /// Store a session that was not stored before.
    Create,
    /// Replace the record by compare-and-set.
    Replace,
    /// Delete it.
    Delete,
}

/// The state of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    goal: Goal,
    /// Sends of new bytes.
    attempts: u32,
    /// Resends of these bytes since the last answer.
    resends: u32,
    /// The last bytes may have been applied, or may still arrive at the store.
    unresolved: bool,
    /// They are applied on the primary. Only whether the replicas have them is unresolved.
    on_primary: bool,
    /// The replicas must acknowledge the commit.
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

    /// The commit is done only once the replicas have acknowledged it.
    pub(crate) fn durable(self, durable: bool) -> Self {
        Self { durable, ..self }
    }

    /// Breaks a rule, for tests that must fail without it.
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

/// The evidence for our commit in the `applied` list of a newer record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// It has our id.
    Applied,
    /// It has an older id of our writer, so ours was not applied.
    NotApplied,
    /// It has a later id of our writer; ours may have been applied before that.
    Superseded,
    /// It has no id of our writer.
    Absent,
}

/// How the record that was found relates to the changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It is of the epoch that they were made in.
    SameEpoch,
    /// It is of a login that has retired the secret of these changes, and they are a login of the same principal. `fresh`
    /// while nothing but such logins has been committed since.
    SameLogin { fresh: bool },
    /// It is of another epoch.
    OtherEpoch,
}

/// A record that another request has put in place of our base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Newer {
    pub(crate) evidence: Evidence,
    pub(crate) entry: Entry,
    /// It differs in what the request has read, so the changes must not be replayed on it.
    pub(crate) conflicts: bool,
    /// The number of commits between our base and it.
    pub(crate) distance: u32,
}

/// An event in the life of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The commit begins, or is resumed.
    Begin,
    /// The store has performed the operation.
    Done,
    /// The handle belongs to another session.
    Exists,
    /// Nothing is stored under the handle.
    Gone,
    /// The store has another record than our base.
    Conflict(Newer),
    /// The stored value is not a record.
    Unreadable,
    /// A fresh record was loaded.
    Loaded { entry: Entry, conflicts: bool },
    /// The store failed to perform the operation.
    Failed(StoreErrorKind),
    /// The store failed to load a fresh record.
    LoadFailed,
}

/// The next action of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Apply the changes to the record at hand, and send the result.
    Send,
    /// Send the same bytes again.
    Resend,
    /// Write the record that was found once more, byte for byte: it names our commit, and a store waits for replicas only
    /// after a write.
    Confirm,
    /// Send a creation under a fresh handle.
    SendAfresh,
    /// Wait with jitter, for longer after each attempt, and load a fresh record.
    WaitAndLoad,
    /// The commit has ended.
    Finish(Verdict),
}

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The changes are in the store, once.
    Committed,
    /// The session has ended. Nothing was written.
    Gone,
    /// The session was rotated. Nothing was written.
    OtherEpoch,
    /// The stored record cannot be read. Nothing was written.
    Unreadable,
    /// Other requests were faster until the deadline, or changed what this one had read. Nothing was written.
    Conflict,
    /// The store failed. Nothing was written.
    Failed,
    /// The changes may be in the store, or may still arrive there. Sending them again may show which.
    OutcomeUnknown,
    /// The changes are on the primary, once, and too few replicas have acknowledged them. Asking again may help.
    NotDurable,
    /// The changes may have been applied, and the store holds no evidence any more.
    NeverKnown,
}

/// Returns the state and the action that follow from an event. `late` is true once the deadline has passed.
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
        // These bytes can no longer be applied, but an earlier send of them may have been.
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
            // An earlier send was applied, and its answer about the replicas was lost.
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
    // The bytes compare against a version that has been replaced, so a late copy of them cannot be applied either.
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

/// A record lists the last commits of eight writers. If ours had been applied it would be listed, unless eight commits
/// followed it.
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
        // The commit is applied, and a resend would wait for the same replicas. If it is resumed, a resend finds it.
        state.unresolved = state.goal == Goal::Replace;
        state.on_primary = state.unresolved;
        return Action::Finish(nothing_written(*state, Verdict::Failed));
    }
    if kind == StoreErrorKind::Unknown {
        // A creation whose token is never sent has changed nothing that a client can see.
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

/// Returns the verdict if certainly nothing was written, otherwise that of an open outcome.
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

    /// Applies the events and returns the actions, of which the first follows from `Begin`.
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
                "garbage in place of the record",
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
                "lost, then nine others: the outcome is never known",
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
                "lost, an older id of ours proves at any distance that it was not applied",
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
                "lost, and another epoch: rejected only if not applied",
                Replace,
                &[Failed(Unknown), newer(Absent, false, 9)],
                &[Send, Resend, Finish(NeverKnown)],
            ),
            (
                "three times without an answer",
                Replace,
                &[Failed(Unknown); 3],
                &[Send, Resend, Resend, Finish(OutcomeUnknown)],
            ),
            (
                "three times without a connection",
                Replace,
                &[Failed(Unavailable); 3],
                &[Send, Resend, Resend, Finish(Verdict::Failed)],
            ),
            (
                "refused by the store",
                Replace,
                &[Failed(Refused)],
                &[Send, Finish(Verdict::Failed)],
            ),
            (
                "lost, then refused: the first send may have been applied",
                Replace,
                &[Failed(Unknown), Failed(Refused), Done],
                &[Send, Resend, Resend, Finish(Committed)],
            ),
            (
                "lost, then no connection: the first send may have been applied",
                Replace,
                &[Failed(Unknown), Failed(Unavailable), Failed(Unavailable)],
                &[Send, Resend, Resend, Finish(OutcomeUnknown)],
            ),
            (
                "if no fresh record can be loaded, nothing was written",
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
                "a creation without an answer is sent under a fresh handle",
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
                "deleted by another request",
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
    fn a_durable_commit_is_done_once_the_replicas_acknowledge_it() {
        use Action::{Confirm, Finish, Resend, Send};
        use Event::{Begin, Done, Failed, Gone};
        use StoreErrorKind::NotDurable;
        use Verdict::{Committed, NeverKnown};
        let ours = newer(Evidence::Applied, true, 1);
        let not_durable = Finish(Verdict::NotDurable);
        let table: &[(&str, Goal, &[Event], &[Action])] = &[
            (
                "at once",
                Goal::Replace,
                &[Done],
                &[Send, Finish(Committed)],
            ),
            (
                "not acknowledged; a resumed commit asks again",
                Goal::Replace,
                &[Failed(NotDurable), Begin, ours, Done],
                &[Send, not_durable, Resend, Confirm, Finish(Committed)],
            ),
            (
                "not acknowledged then either",
                Goal::Replace,
                &[Failed(NotDurable), Begin, ours, Failed(NotDurable)],
                &[Send, not_durable, Resend, Confirm, not_durable],
            ),
            (
                "resumed without a connection",
                Goal::Replace,
                &[
                    Failed(NotDurable),
                    Begin,
                    Failed(Unavailable),
                    Failed(Unavailable),
                    Failed(Unavailable),
                ],
                &[Send, not_durable, Resend, Resend, Resend, not_durable],
            ),
            (
                "resumed after a failover that lost the commit",
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
                    not_durable,
                    Resend,
                    Send,
                    Resend,
                    Resend,
                    Finish(Verdict::OutcomeUnknown),
                ],
            ),
            (
                "the answer was lost, the commit was not: it is confirmed",
                Goal::Replace,
                &[Failed(Unknown), ours, Done],
                &[Send, Resend, Confirm, Finish(Committed)],
            ),
            (
                "others commit before it is confirmed",
                Goal::Replace,
                &[Failed(Unknown), ours, ours, Done],
                &[Send, Resend, Confirm, Confirm, Finish(Committed)],
            ),
            (
                "a failover loses the commit before it is confirmed",
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
                "logged out before it is confirmed",
                Goal::Replace,
                &[Failed(Unknown), ours, Gone],
                &[Send, Resend, Confirm, Finish(NeverKnown)],
            ),
            (
                "the confirmation gets no answer",
                Goal::Replace,
                &[Failed(Unknown), ours, Failed(Unknown), ours, Done],
                &[Send, Resend, Confirm, Resend, Confirm, Finish(Committed)],
            ),
            (
                "a creation that is not acknowledged has failed",
                Goal::Create,
                &[Failed(NotDurable)],
                &[Send, Finish(Verdict::Failed)],
            ),
            (
                "a deletion that is not acknowledged has failed",
                Goal::Delete,
                &[Failed(NotDurable)],
                &[Send, Finish(Verdict::Failed)],
            ),
        ];
        for (name, goal, events, actions) in table {
            let (mut state, action) = step(State::new(*goal).durable(true), Begin, false);
            let mut taken = vec![action];
            for event in *events {
                let (next, action) = step(state, *event, false);
                state = next;
                taken.push(action);
            }
            assert_eq!(taken, *actions, "{name}");
        }
        let (sent, _) = step(State::new(Goal::Replace).durable(true), Begin, false);
        assert_eq!(step(sent, ours, true).1, not_durable);
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
    fn a_conflict_with_what_was_read_ends_the_commit_unless_it_was_applied() {
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
    fn a_login_joins_the_same_login_while_that_is_the_last_commit() {
        use Action::{Finish, Resend, Send, WaitAndLoad};
        use Event::{Done, Failed};
        use Verdict::{Committed, OtherEpoch};
        let conflict = |evidence, fresh| {
            Event::Conflict(Newer {
                evidence,
                entry: Entry::SameLogin { fresh },
                conflicts: false,
                distance: 1,
            })
        };
        let absent = |fresh| conflict(Evidence::Absent, fresh);
        let loaded = |fresh| Event::Loaded {
            entry: Entry::SameLogin { fresh },
            conflicts: false,
        };
        let table: &[(&[Event], &[Action])] = &[
            (&[absent(true), Done], &[Send, Send, Finish(Committed)]),
            (&[absent(false)], &[Send, Finish(OtherEpoch)]),
            (
                &[absent(true), absent(true), loaded(true), Done],
                &[Send, Send, WaitAndLoad, Send, Finish(Committed)],
            ),
            (
                &[absent(true), absent(true), loaded(false)],
                &[Send, Send, WaitAndLoad, Finish(OtherEpoch)],
            ),
            (
                &[Failed(Unknown), absent(true), Done],
                &[Send, Resend, Send, Finish(Committed)],
            ),
            (
                &[Failed(Unknown), conflict(Evidence::Applied, false)],
                &[Send, Resend, Finish(Committed)],
            ),
        ];
        for (events, actions) in table {
            assert_eq!(play(Goal::Replace, events), *actions, "{events:?}");
        }
    }

    #[test]
    fn a_send_of_new_bytes_counts_as_an_attempt_and_a_resend_does_not() {
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
    fn a_resumed_commit_sends_the_same_bytes_first() {
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
