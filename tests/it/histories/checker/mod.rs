//! Decides whether a history satisfies the guarantees: a pure function, session by session and rule by rule.
//!
//! An operation with an unknown outcome may have been applied at any time since it began, even after it ended, or
//! never. The effects of a rejected operation must never be visible. Those of an acknowledged operation must be visible
//! to every operation that began later. No effect may be visible before its operation began.

mod accounts;
mod counters;
mod endings;
mod flashes;
mod forms;
mod isolation;
mod items;
mod moment;
mod registers;
mod smallest;
#[cfg(test)]
mod tables;
mod tokens;
mod users;

use std::fmt;

use super::history::{Ending, Life, Op};

pub use isolation::words;
pub use items::SET;
pub use smallest::{projected, smallest};

/// The rules that a history can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Acknowledged changes stay.
    LostUpdate,
    /// A change is applied once.
    CountedTwice,
    /// A rejected change is not applied.
    RefusedButDone,
    /// Every stored value was written by a request.
    NeverWritten,
    /// Each register is linearizable: its operations take effect one at a time, each between its start and its end.
    NotLinearizable,
    /// A list grows at its end, in the order of acknowledged requests.
    OutOfOrder,
    /// The changes of one request become visible together.
    HalfDone,
    /// A form is stored as one request saved it, unchanged fields included.
    Mixed,
    /// A page shows the state of one moment.
    Torn,
    /// Transactions keep the total, and no account goes below zero.
    Unbalanced,
    /// A transaction returns the result of its committed run.
    StaleResult,
    /// `increment_now` returns each number once, and higher numbers to later callers.
    NumberGivenTwice,
    /// A flash message is shown at most once.
    ShownTwice,
    /// A flash message stays until it is shown.
    MessageLost,
    /// One request takes a one-time token.
    TakenTwice,
    /// After a logout, nothing of the session is accessible.
    NothingAfterLogout,
    /// A failed logout is retried with success.
    LogoutForgotten,
    /// A revoked token stays revoked.
    DeadTokenOpens,
    /// A login joins another one only if no other commit came between.
    DeadLoginJoins,
    /// A login does not join one of another principal.
    StrangerJoins,
    /// A request with a token from before a rotation writes nothing after it.
    DeadTokenWrites,
    /// A session ends only by a logout, and a token only by a rotation.
    Forgotten,
    /// The response of a rotation or login sets the new cookie.
    TokenNotGiven,
    /// No session shows data of another one.
    Isolation,
    /// A sign-out everywhere ends every session whose sign-in had begun, and a sign-out of one session ends that.
    OutlivesSignOut,
    /// A sign-out of all other sessions keeps its own.
    NotKept,
    /// A list has every session that its user is signed in to.
    Unlisted,
    /// A list has no session of another user, and none that has ended.
    WronglyListed,
    /// Every response is documented.
    UndocumentedAnswer,
}

/// A broken rule, with its subject: a key, an item, a message, or a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub subject: String,
    pub text: String,
}

impl Violation {
    fn new(rule: Rule, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            rule,
            subject: subject.into(),
            text: text.into(),
        }
    }

    fn of(rule: Rule, op: &Op, text: impl Into<String>) -> Self {
        Self::new(rule, format!("request #{}", op.number), text)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}: {}", self.rule, self.subject, self.text)
    }
}

pub fn check(life: &Life) -> Vec<Violation> {
    let rules: [fn(&Life) -> Vec<Violation>; 12] = [
        undocumented_answers,
        accounts::check,
        counters::check,
        endings::check,
        flashes::check,
        forms::check,
        isolation::check,
        items::check,
        moment::check,
        registers::check,
        tokens::check,
        users::check,
    ];
    rules.iter().flat_map(|rule| rule(life)).collect()
}

fn undocumented_answers(life: &Life) -> Vec<Violation> {
    let violation = |op: &Op| match &op.ending {
        Ending::Wrong(answer) => Some(Violation::of(Rule::UndocumentedAnswer, op, answer)),
        Ending::Done { .. }
        | Ending::NotDone(_)
        | Ending::Unknown(_)
        | Ending::Partly
        | Ending::Later => None,
    };
    life.ops.iter().filter_map(violation).collect()
}
