//! What was asked of the nodes, and what became of it.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::workload::LOGOUTS;
use crate::support::ledger::{Bank, FORM};

/// Microseconds since the run began, by the clock of the harness.
pub type Moment = u64;

/// Everything that happened to one session, from its first write to after its end.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// The owner's mark: every value that is written in this life is, or begins with, this.
    pub tag: String,
    pub ops: Vec<Op>,
}

/// One request, or a look at what is stored.
#[derive(Clone, Debug)]
pub struct Op {
    /// Counted over the whole run.
    pub number: u64,
    pub browser: usize,
    pub tab: usize,
    pub node: usize,
    /// The token that was sent: the how many-th of this life.
    pub token: Option<usize>,
    pub what: What,
    pub began: Moment,
    pub ended: Moment,
    pub ending: Ending,
    /// The new token of this session that the response brought.
    pub given: Option<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// The first write, which names the owner.
    Open,
    Count,
    /// Counts at once, and gives the number.
    Number,
    /// Puts a value into a register, in place of what is there.
    Write {
        key: String,
        value: String,
    },
    /// Puts a key of its own.
    Add {
        item: String,
    },
    Push {
        item: String,
    },
    /// A line of the cart, by a closure.
    Line {
        item: String,
        quantity: u64,
    },
    /// The same value under two keys.
    Pair {
        value: String,
    },
    /// Leaves a message.
    Say {
        text: String,
    },
    /// Takes the messages.
    Show,
    /// Lays out a one-time token.
    Offer {
        key: String,
        token: String,
    },
    Take {
        key: String,
    },
    /// Reads everything.
    Look,
    /// Reads what is stored, past all nodes.
    Inspect,
    /// Saves both fields of a form, of which those that it does not change are saved as they were loaded.
    Form {
        value: String,
        changes: Fields,
    },
    /// Moves an amount from one account to the other, in a transaction that aborts if there is not as much.
    Move {
        name: String,
        from: usize,
        amount: i64,
    },
    /// Commits one thing before its end and another at its end, unless that is refused: by the handler, or because another
    /// request of this kind has been faster.
    Early {
        item: String,
        refuse: bool,
    },
    Rotate,
    Login,
    /// Another principal signs in, with a token that has been replaced.
    Rival,
    /// By one of [`LOGOUTS`].
    Logout {
        route: &'static str,
    },
}

/// Which fields of a form a request changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fields {
    First,
    Second,
    Both,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// Answered with success. `owner` is whose session the handler saw.
    Done { owner: Option<String>, seen: Seen },
    /// Refused: it has not happened and never will.
    NotDone(&'static str),
    /// It may have happened, or happen yet.
    Unknown(&'static str),
    /// What it has committed before its end has happened, and the rest has not and never will.
    Partly,
    /// A logout that has failed, and that its node carries out before it ends.
    Later,
    /// No answer that a session ever gives.
    Wrong(String),
}

/// What a success showed.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Nothing,
    Number(i64),
    Texts(Vec<String>),
    Taken(Option<String>),
    Page(Page),
    /// The form as it was loaded.
    Form([Option<String>; 2]),
    /// The accounts, before and after.
    Moved(Bank, Bank),
    /// The accounts, of which one had too little.
    Aborted(Bank),
    /// Nothing is stored.
    Absent,
}

/// A session as somebody saw it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    pub data: BTreeMap<String, Value>,
    pub flashes: Vec<String>,
    pub principal: Option<String>,
}

impl What {
    /// For counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Count => "count",
            Self::Number => "number",
            Self::Write { .. } => "write",
            Self::Add { .. } => "add",
            Self::Push { .. } => "push",
            Self::Line { .. } => "line",
            Self::Pair { .. } => "pair",
            Self::Say { .. } => "say",
            Self::Show => "show",
            Self::Offer { .. } => "offer",
            Self::Take { .. } => "take",
            Self::Look => "look",
            Self::Inspect => "inspect",
            Self::Form { .. } => "form",
            Self::Move { .. } => "move",
            Self::Early { .. } => "early",
            Self::Rotate => "rotate",
            Self::Login => "login",
            Self::Rival => "rival",
            Self::Logout { route } => route,
        }
    }

    /// Whether a success means a new token.
    pub fn rotates(&self) -> bool {
        matches!(self, Self::Rotate | Self::Login)
    }

    pub fn is_logout(&self) -> bool {
        matches!(self, Self::Logout { .. })
    }

    /// Whether its answer cannot say whose session it was, since it does not load it.
    pub fn is_blind(&self) -> bool {
        let looks = |route| LOGOUTS.iter().any(|(name, looks)| *name == route && *looks);
        matches!(self, Self::Logout { route } if !looks(*route))
    }
}

impl Fields {
    /// What is saved in place of what was loaded.
    pub fn saved<'a>(
        self,
        loaded: &'a [Option<String>; 2],
        value: &'a str,
    ) -> [Option<&'a str>; 2] {
        let [first, second] = loaded.each_ref().map(Option::as_deref);
        match self {
            Self::First => [Some(value), second],
            Self::Second => [first, Some(value)],
            Self::Both => [Some(value); 2],
        }
    }

    /// Whether a request that changes these fields to this value may have saved the pair.
    pub fn may_have_saved(self, pair: [Option<&str>; 2], value: &str) -> bool {
        let [first, second] = pair.map(|field| field == Some(value));
        match self {
            Self::First => first,
            Self::Second => second,
            Self::Both => first && second,
        }
    }
}

impl Ending {
    /// For counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Done { .. } => "ok",
            Self::NotDone(_) => "fail",
            Self::Unknown(_) | Self::Later => "unknown",
            Self::Partly => "partly",
            Self::Wrong(_) => "wrong",
        }
    }
}

impl Op {
    /// Answered with success, to the owner of this life.
    pub fn is_done_for(&self, tag: &str) -> bool {
        matches!(&self.ending, Ending::Done { owner: Some(owner), .. } if owner == tag)
    }

    /// Answered with success to a stranger: the token opened nothing.
    pub fn is_shut_out(&self) -> bool {
        self.what != What::Inspect && matches!(&self.ending, Ending::Done { owner: None, .. })
    }

    /// Answered with success, or with what a request is answered that has committed only a part.
    pub fn is_let_in(&self, tag: &str) -> bool {
        self.is_done_for(tag) || self.ending == Ending::Partly
    }

    /// It may have happened, or happen yet.
    pub fn is_unknown(&self) -> bool {
        matches!(self.ending, Ending::Unknown(_) | Ending::Later)
            || (self.what.is_blind() && self.is_shut_out())
    }

    /// It has not happened to the session of this life, and never will.
    pub fn is_refused(&self) -> bool {
        matches!(self.ending, Ending::NotDone(_)) || (self.is_shut_out() && !self.what.is_blind())
    }

    /// A login that was answered with a token of this session, though the one it carried opened nothing.
    pub fn is_joined(&self) -> bool {
        self.what == What::Login && self.is_shut_out() && self.given.is_some()
    }

    /// It has committed something, and not only looked.
    pub fn has_changed(&self, tag: &str) -> bool {
        let changes = match (&self.what, self.seen()) {
            (What::Look | What::Inspect | What::Rival | What::Logout { .. }, _) => false,
            (_, Some(Seen::Aborted(_) | Seen::Taken(None))) => false,
            (What::Show, Some(Seen::Texts(texts))) => !texts.is_empty(),
            _ => true,
        };
        changes && self.is_let_in(tag)
    }

    /// It has happened to the session of this life, or may have.
    pub fn may_have_happened(&self, tag: &str) -> bool {
        self.is_let_in(tag) || self.is_unknown()
    }

    /// It was over before the other began.
    pub fn precedes(&self, other: &Self) -> bool {
        self.ended < other.began
    }

    pub fn seen(&self) -> Option<&Seen> {
        match &self.ending {
            Ending::Done { seen, .. } => Some(seen),
            Ending::NotDone(_)
            | Ending::Unknown(_)
            | Ending::Partly
            | Ending::Later
            | Ending::Wrong(_) => None,
        }
    }
}

impl Life {
    /// Every sight of the whole session. The first write is one too: of nothing but the owner.
    pub fn pages(&self) -> impl Iterator<Item = (&Op, &Page)> {
        self.ops.iter().filter_map(|op| match op.seen() {
            Some(Seen::Page(page)) if op.is_done_for(&self.tag) => Some((op, page)),
            _ => None,
        })
    }
}

impl Page {
    pub fn text(&self, key: &str) -> Option<&str> {
        self.data.get(key).and_then(Value::as_str)
    }

    pub fn count(&self, key: &str) -> i64 {
        self.data
            .get(key)
            .and_then(Value::as_i64)
            .unwrap_or_default()
    }

    pub fn form(&self) -> [Option<&str>; 2] {
        FORM.map(|field| self.text(field))
    }

    pub fn bank(&self) -> Bank {
        Bank::of(|key| self.data.get(key))
    }

    pub fn list(&self) -> Vec<&str> {
        let items = self.data.get("list").and_then(Value::as_array);
        items
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }
}

/// One line of a history.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |moment: Moment| format!("{}.{:03}", moment / 1000, moment % 1000);
        write!(
            f,
            "#{:<6} {:>11} … {:>11} ms  browser {} tab {} node {} token {:<2} {:?}",
            self.number,
            millis(self.began),
            millis(self.ended),
            self.browser,
            self.tab,
            self.node,
            self.token
                .map_or_else(|| "-".to_owned(), |token| token.to_string()),
            self.what,
        )?;
        match &self.ending {
            Ending::Done { owner, seen } => {
                write!(f, " → ok")?;
                if owner.is_none() {
                    write!(f, " to a stranger")?;
                }
                match seen {
                    Seen::Nothing => {}
                    Seen::Page(page) => write!(f, " {page}")?,
                    seen => write!(f, " {seen:?}")?,
                }
            }
            Ending::NotDone(why) => write!(f, " → not done: {why}")?,
            Ending::Unknown(why) => write!(f, " → unknown: {why}")?,
            Ending::Partly => write!(f, " → a part of it")?,
            Ending::Later => write!(f, " → to be done later")?,
            Ending::Wrong(what) => write!(f, " → {what}")?,
        }
        if self.given.is_some() {
            write!(f, " (a new token)")?;
        }
        Ok(())
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = serde_json::to_string(&self.data).unwrap_or_default();
        write!(f, "{data}")?;
        if !self.flashes.is_empty() {
            write!(f, " messages {:?}", self.flashes)?;
        }
        if let Some(principal) = &self.principal {
            write!(f, " of {principal}")?;
        }
        Ok(())
    }
}
