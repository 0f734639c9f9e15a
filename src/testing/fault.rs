//! Which calls of a store fail, which are held, and how.

use crate::error::store::StoreError;
use crate::testing::hold::Held;
use crate::token::Handle;

/// A call of a [`SessionStore`](crate::SessionStore): each variant is the method of its name.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Loads a session, before the handler and after a conflict.
    Load,
    /// Stores the session of a new visitor.
    Create,
    /// Writes the changes of a stored session, if it is still the one that was loaded.
    Replace,
    /// Renews a session that is only read.
    Touch,
    /// Deletes a session: a logout.
    Delete,
    /// Takes a lease, under [`Concurrency::Exclusive`](crate::Concurrency::Exclusive).
    Acquire,
    /// Releases it.
    Release,
    /// The first step of a login: puts the session into the index of its principal.
    Enter,
    /// The last step of a login.
    Confirm,
    /// Keeps a session in the index for longer.
    Extend,
    /// Lists the sessions of a principal.
    List,
    /// The first step of a sign-out everywhere.
    BeginGeneration,
    /// Removes sessions from the index.
    Leave,
}

/// How a call of a [`TestStore`](crate::testing::TestStore) fails.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The store cannot be reached, and the call fails at once:
    /// [`StoreErrorKind::Unavailable`](crate::store::StoreErrorKind::Unavailable). Nothing happens. A single write that fails so goes
    /// unnoticed, since sessile sends it twice more.
    Unavailable,
    /// The store rejects the call at once, as Redis does without memory left:
    /// [`StoreErrorKind::Refused`](crate::store::StoreErrorKind::Refused). Nothing happens.
    Refuse,
    /// The call gets no answer, and nothing happens. The request waits until its
    /// [budget](crate::testing::TestStore::with_request_budget) is spent; pause the time, so that this takes no time.
    Hang,
    /// The request to the store is lost: nothing happens, but sessile cannot know that
    /// ([`StoreErrorKind::Unknown`](crate::store::StoreErrorKind::Unknown)). As with a lost answer, a single one goes unnoticed.
    LoseRequest,
    /// The answer of the store is lost: the call is carried out, but sessile cannot know that. A single one goes unnoticed, since
    /// sessile asks again; three in a row make the response a 503 without `Retry-After`.
    LoseAnswer,
}

impl Fault {
    /// The error of a call that is not carried out; `None` if there is no answer at all.
    pub(crate) fn error(self) -> Option<StoreError> {
        const ADVICE: &str = "the test asked for this failure; `TestStore::recover` ends it";
        match self {
            Self::Unavailable => Some(StoreError::unavailable(ADVICE)),
            Self::Refuse => Some(StoreError::refused(ADVICE)),
            Self::LoseRequest | Self::LoseAnswer => Some(StoreError::unknown(ADVICE)),
            Self::Hang => None,
        }
    }
}

/// What happens to a call instead of being carried out at once.
#[derive(Debug)]
pub(crate) enum Step {
    Fail(Fault),
    Hold(Held),
}

/// The calls that a step is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Calls {
    Of(Call),
    /// Those that change or delete this session.
    WritesOf(Handle),
}

impl Calls {
    fn include(self, call: Call, key: Option<&Handle>) -> bool {
        match self {
            Self::Of(of) => of == call,
            Self::WritesOf(handle) => {
                matches!(call, Call::Replace | Call::Delete) && key == Some(&handle)
            }
        }
    }
}

/// What is planned for the calls to come.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// For one call each, in this order.
    once: Vec<(Calls, Step)>,
    /// For all calls, or those of one kind; the latest decides.
    standing: Vec<(Option<Call>, Fault)>,
    /// How many faults for one call were forgotten before they happened.
    forgotten: usize,
}

impl Plan {
    pub(crate) fn add_once(&mut self, calls: Calls, step: Step) {
        self.once.push((calls, step));
    }

    pub(crate) fn add_standing(&mut self, call: Option<Call>, fault: Fault) {
        self.standing.push((call, fault));
    }

    /// Takes out what is planned for this call.
    pub(crate) fn next(&mut self, call: Call, key: Option<&Handle>) -> Option<Step> {
        let mut once = self.once.iter();
        if let Some(at) = once.position(|(calls, _)| calls.include(call, key)) {
            return Some(self.once.remove(at).1);
        }
        let mut latest = self.standing.iter().rev();
        let found = latest.find(|(of, _)| of.is_none_or(|of| of == call));
        found.map(|(_, fault)| Step::Fail(*fault))
    }

    /// Forgets all faults. What is held stays held.
    pub(crate) fn recover(&mut self) {
        self.forgotten = self.pending();
        self.standing.clear();
        self.once.retain(|(_, step)| matches!(step, Step::Hold(_)));
    }

    /// The number of faults that are for one call each, and have not happened. Those that a recovery has forgotten count, or else a
    /// test that asks after it would pass without them.
    pub(crate) fn pending(&self) -> usize {
        let faults = |(_, step): &&(Calls, Step)| matches!(step, Step::Fail(_));
        self.forgotten + self.once.iter().filter(faults).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::hold::hold;

    /// The faults of these calls, one after the other.
    fn faults(plan: &mut Plan, calls: &[Call]) -> Vec<Option<Fault>> {
        let next = |call: &Call| match plan.next(*call, None) {
            Some(Step::Fail(fault)) => Some(fault),
            Some(Step::Hold(_)) => panic!("nothing is held"),
            None => None,
        };
        calls.iter().map(next).collect()
    }

    #[test]
    fn a_fault_for_one_call_comes_before_those_for_all_and_the_latest_of_these_decides() {
        use Call::{Load, Replace};
        use Fault::{Hang, LoseAnswer, LoseRequest, Unavailable};
        let mut plan = Plan::default();
        assert_eq!(faults(&mut plan, &[Load]), [None]);
        plan.add_once(Calls::Of(Replace), Step::Fail(LoseAnswer));
        plan.add_once(Calls::Of(Replace), Step::Fail(LoseRequest));
        assert_eq!(plan.pending(), 2);
        let calls = [Load, Replace, Load, Replace, Replace];
        let expected = [None, Some(LoseAnswer), None, Some(LoseRequest), None];
        assert_eq!(faults(&mut plan, &calls), expected);
        assert_eq!(plan.pending(), 0);

        plan.add_standing(Some(Replace), Hang);
        assert_eq!(faults(&mut plan, &[Load, Replace]), [None, Some(Hang)]);
        plan.add_standing(None, Unavailable);
        plan.add_once(Calls::Of(Load), Step::Fail(LoseAnswer));
        let expected = [LoseAnswer, Unavailable, Unavailable].map(Some);
        assert_eq!(faults(&mut plan, &[Load, Load, Replace]), expected);

        plan.add_once(Calls::Of(Load), Step::Fail(LoseAnswer));
        for _ in 0..2 {
            plan.recover();
            assert_eq!(plan.pending(), 1, "it has not happened, and never will");
            assert_eq!(faults(&mut plan, &[Load, Replace]), [None, None]);
        }
    }

    #[test]
    fn only_a_write_of_the_session_is_held_and_a_recovery_does_not_let_it_go() {
        let (this, other) = (Handle::random(), Handle::random());
        let mut plan = Plan::default();
        let (_hold, held) = hold();
        plan.add_once(Calls::WritesOf(this), Step::Hold(held));
        plan.recover();
        for (call, key) in [
            (Call::Load, this),
            (Call::Touch, this),
            (Call::Acquire, this),
            (Call::Create, this),
            (Call::Replace, other),
        ] {
            assert!(plan.next(call, Some(&key)).is_none(), "{call:?}");
        }
        let held = plan.next(Call::Delete, Some(&this));
        assert!(matches!(held, Some(Step::Hold(_))));
        assert!(plan.next(Call::Replace, Some(&this)).is_none());
    }
}
