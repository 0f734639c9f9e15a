//! Decides whether a history is one that the crate promises: a pure function, life by life and rule by rule.
//!
//! Operations that ended with an unknown outcome may have happened at any time since they began, also after they ended,
//! or never. Those that were refused must never be seen. What was acknowledged must be seen by everything that began
//! later, and whatever is seen must have begun by then.

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

use std::fmt;

use super::history::{Ending, Life, Op};

pub use isolation::words;
pub use items::SET;
pub use smallest::{projected, smallest};

/// What a history can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// What was answered with success stays.
    LostUpdate,
    /// What was done once counts once.
    CountedTwice,
    /// What was refused has not happened.
    RefusedButDone,
    /// What nobody wrote is not there.
    NeverWritten,
    /// Each register is one that takes its writes one at a time, between question and answer.
    NotLinearizable,
    /// A list grows at its end, in the order of what was acknowledged.
    OutOfOrder,
    /// What one request changes is there at once.
    HalfDone,
    /// What one request saves together is stored as it was saved, also what it has not changed.
    Mixed,
    /// What a page shows was there at one moment.
    Torn,
    /// What transactions move is neither made nor lost, and no account goes below zero.
    Unbalanced,
    /// What a transaction returns is of the run that was written.
    StaleResult,
    /// A number is given once, and later callers get higher ones.
    NumberGivenTwice,
    /// A message is shown once.
    ShownTwice,
    /// A message waits until it is shown.
    MessageLost,
    /// A one-time token is given to one.
    TakenTwice,
    /// After a logout nothing of the session is left.
    NothingAfterLogout,
    /// A logout that has failed is carried out later.
    LogoutForgotten,
    /// A token that opens nothing any more never opens anything again.
    DeadTokenOpens,
    /// A login joins another one only as long as nothing else was committed.
    DeadLoginJoins,
    /// A login joins none of another principal.
    StrangerJoins,
    /// A request that was overtaken by a rotation writes nothing into the session of after.
    DeadTokenWrites,
    /// A session ends only by a logout, and for a browser when its token was replaced.
    Forgotten,
    /// A new token reaches the browser.
    TokenNotGiven,
    /// Nobody sees what is another's.
    Isolation,
    /// Only answers that the crate documents.
    OddAnswer,
}

/// A rule that was broken, and by what: a key, an item, a message, or a request.
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
    let rules: [fn(&Life) -> Vec<Violation>; 11] = [
        odd_answers,
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
    ];
    rules.iter().flat_map(|rule| rule(life)).collect()
}

fn odd_answers(life: &Life) -> Vec<Violation> {
    let odd = |op: &Op| match &op.ending {
        Ending::Wrong(answer) => Some(Violation::of(Rule::OddAnswer, op, answer)),
        Ending::Done { .. }
        | Ending::NotDone(_)
        | Ending::Unknown(_)
        | Ending::Partly
        | Ending::Later => None,
    };
    life.ops.iter().filter_map(odd).collect()
}
