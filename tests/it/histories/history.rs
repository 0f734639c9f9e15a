//! Histories: the requests that the nodes got, and their outcomes.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::workload::LOGOUTS;
use crate::support::ledger::{Bank, FORM};

/// Microseconds since the start of the run, by the clock of the harness.
pub type Moment = u64;

/// The history of one session, from its first write to after its end.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// The owner's tag. Every value that a request of this session writes equals the tag or starts with it.
    pub tag: String,
    /// The principal of its logins. Several sessions have the same.
    pub user: String,
    /// The start of the session's handle. `None` if the browser never got a token.
    pub handle: Option<String>,
    pub ops: Vec<Op>,
    /// The requests of all browsers that list or end sessions of this user, and lists of others with this session.
    pub of_user: Vec<Op>,
}

/// One request, or one inspection of the store.
#[derive(Clone, Debug)]
pub struct Op {
    /// Unique in the whole run.
    pub number: u64,
    pub browser: usize,
    pub tab: usize,
    pub node: usize,
    /// The token of the request, as an index into the session's tokens.
    pub token: Option<usize>,
    pub what: What,
    pub began: Moment,
    pub ended: Moment,
    pub ending: Ending,
    /// The index of the new token in the response, if there is one.
    pub given: Option<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// The first write, which stores the owner's tag.
    Open,
    Count,
    /// Calls `increment_now`.
    Number,
    /// Replaces the value of a register.
    Write {
        key: String,
        value: String,
    },
    /// Inserts a unique key.
    Add {
        item: String,
    },
    Push {
        item: String,
    },
    /// Adds an item to the cart, by the closure of `update`.
    Line {
        item: String,
        quantity: u64,
    },
    /// Inserts the same value under two keys.
    Pair {
        value: String,
    },
    /// Adds a flash message.
    Say {
        text: String,
    },
    /// Takes the flash messages.
    Show,
    /// Stores a one-time token.
    Offer {
        key: String,
        token: String,
    },
    Take {
        key: String,
    },
    /// Reads everything.
    Look,
    /// Reads the record in the store, without a node.
    Inspect,
    /// Saves both fields of a form: the changed ones, and the others as they were loaded.
    Form {
        value: String,
        changes: Fields,
    },
    /// Moves an amount between the accounts, in a transaction that aborts if the balance does not suffice.
    Move {
        name: String,
        from: usize,
        amount: i64,
    },
    /// Commits one item early and another at the end of the request. The handler may reject the second one, and it
    /// fails if another request of this kind was faster.
    Early {
        item: String,
        refuse: bool,
    },
    Rotate,
    Login,
    /// A login of another principal, with a replaced token.
    Rival,
    /// A logout by one of [`LOGOUTS`].
    Logout {
        route: &'static str,
    },
    /// Ends all sessions of the user.
    Everywhere,
    /// Ends all sessions of the user but the one with this tag.
    Others {
        by: String,
    },
    /// Ends one session of the user.
    End {
        handle: String,
    },
    /// Lists the sessions of a user.
    List {
        user: String,
    },
}

/// The fields of a form that a request changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fields {
    First,
    Second,
    Both,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// A success. `owner` is the owner of the session that the handler saw.
    Done { owner: Option<String>, seen: Seen },
    /// Rejected: it is not applied and never will be.
    NotDone(&'static str),
    /// It may have been applied, or may be applied later.
    Unknown(&'static str),
    /// The early commit is applied. The final one is not and never will be.
    Partly,
    /// A failed logout, which its node retries before it exits.
    Later,
    /// A response that the crate does not document.
    Wrong(String),
}

/// The content of a successful response.
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
    /// The accounts, whose balance did not suffice.
    Aborted(Bank),
    /// A login, whose request the node had at this moment.
    Begun(Moment),
    /// The number of sessions that a request has ended.
    Ended(u64),
    /// The handles of a user's sessions.
    Handles(Vec<String>),
    /// The store has no such session.
    Absent,
}

/// The contents of a session, as a request or an inspection saw them.
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
            Self::Everywhere => "everywhere",
            Self::Others { .. } => "others",
            Self::End { .. } => "end",
            Self::List { .. } => "list",
        }
    }

    /// Whether the session gets a new token on success.
    pub fn rotates(&self) -> bool {
        matches!(self, Self::Rotate | Self::Login)
    }

    /// Whether it lists or ends sessions of a user, which need not be that of the request.
    pub fn is_of_user(&self) -> bool {
        matches!(
            self,
            Self::Everywhere | Self::Others { .. } | Self::End { .. } | Self::List { .. }
        )
    }

    pub fn is_logout(&self) -> bool {
        matches!(self, Self::Logout { .. })
    }

    /// Whether the answer does not name the session's owner, since the request does not load the session.
    pub fn is_blind(&self) -> bool {
        let looks = |route| LOGOUTS.iter().any(|(name, looks)| *name == route && *looks);
        matches!(self, Self::Logout { route } if !looks(*route))
    }
}

impl Fields {
    /// The fields after the save.
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
    /// It succeeded in the session of this owner.
    pub fn is_done_for(&self, tag: &str) -> bool {
        matches!(&self.ending, Ending::Done { owner: Some(owner), .. } if owner == tag)
    }

    /// It succeeded in a new session, since the token was rejected.
    pub fn is_shut_out(&self) -> bool {
        self.what != What::Inspect && matches!(&self.ending, Ending::Done { owner: None, .. })
    }

    /// It succeeded, or committed a part: the token was accepted.
    pub fn is_let_in(&self, tag: &str) -> bool {
        self.is_done_for(tag) || self.ending == Ending::Partly
    }

    /// It may have been applied, or may be applied later.
    pub fn is_unknown(&self) -> bool {
        matches!(self.ending, Ending::Unknown(_) | Ending::Later)
            || (self.what.is_blind() && self.is_shut_out())
    }

    /// It was not applied to this session, and never will be.
    pub fn is_refused(&self) -> bool {
        matches!(self.ending, Ending::NotDone(_)) || (self.is_shut_out() && !self.what.is_blind())
    }

    /// A login that joined: the response has a token of this session, although the request's token had been revoked.
    pub fn is_joined(&self) -> bool {
        self.what == What::Login && self.is_shut_out() && self.given.is_some()
    }

    /// It committed a change.
    pub fn has_changed(&self, tag: &str) -> bool {
        let changes = match (&self.what, self.seen()) {
            (What::Look | What::Inspect | What::Rival | What::Logout { .. }, _) => false,
            (what, _) if what.is_of_user() => false,
            (_, Some(Seen::Aborted(_) | Seen::Taken(None))) => false,
            (What::Show, Some(Seen::Texts(texts))) => !texts.is_empty(),
            _ => true,
        };
        changes && self.is_let_in(tag)
    }

    /// It was or may have been applied to this session.
    pub fn may_have_happened(&self, tag: &str) -> bool {
        self.is_let_in(tag) || self.is_unknown()
    }

    /// It ended before the other began.
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
    /// Whether this is the handle of the session.
    pub fn is_named(&self, handle: &str) -> bool {
        let start = self.handle.as_ref();
        start.is_some_and(|start| handle.starts_with(start))
    }

    /// Every read of the whole session. The first write is one, too: it sees only the owner.
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
            Ending::Partly => write!(f, " → partly")?,
            Ending::Later => write!(f, " → to be retried")?,
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
