//! Logouts, rotations and logins: a session or token that has ended stays ended, and none ends by itself.

use super::users::{Explained, sign_out_before};
use super::{Rule, Violation};
use crate::histories::history::{Ending, Life, Moment, Op, Seen, What};

pub fn check(life: &Life) -> Vec<Violation> {
    let mut violations = Vec::new();
    violations.extend(after_logout(life));
    violations.extend(dead_tokens(life));
    violations.extend(forgotten(life));
    violations.extend(forgotten_logout(life));
    violations.extend(life.ops.iter().filter_map(|op| dead_login(life, op)));
    let foreign_logins = life.ops.iter();
    let foreign_logins = foreign_logins.filter(|op| op.what == What::Rival && op.given.is_some());
    let text = "another principal got a token of this session";
    violations.extend(foreign_logins.map(|op| Violation::of(Rule::StrangerJoins, op, text)));
    let silent = life.ops.iter().filter(|op| {
        let brings = op.what.rotates() || op.what == What::Open;
        brings && op.is_done_for(&life.tag) && op.given.is_none()
    });
    let text = "a new token without a cookie";
    violations.extend(silent.map(|op| Violation::of(Rule::TokenNotGiven, op, text)));
    violations
}

fn after_logout(life: &Life) -> Option<Violation> {
    let logout = life
        .ops
        .iter()
        .filter(|op| op.what.is_logout())
        .filter(|op| {
            let blind = op.is_shut_out() && op.what.is_blind();
            op.is_done_for(&life.tag) || (blind && is_of(life, op, op.ended))
        })
        .min_by_key(|op| op.ended)?;
    let seen = life
        .ops
        .iter()
        .find(|op| logout.precedes(op) && op.is_let_in(&life.tag))?;
    let text = format!("logged out in #{}", logout.number);
    Some(Violation::of(Rule::NothingAfterLogout, seen, text))
}

/// Whether a logout certainly ended this session. One whose answer does not name its session ended nothing if its token
/// had been replaced.
fn is_of(life: &Life, logout: &Op, until: Moment) -> bool {
    let replaces = |op: &Op| {
        op.what.rotates()
            && op.may_have_happened(&life.tag)
            && op.began <= until
            && are_joined(life, op.token, logout.token)
    };
    !logout.what.is_blind() || (logout.token.is_some() && !life.ops.iter().any(replaces))
}

/// A logout that was to be retried, of a session that is in the store at the end.
fn forgotten_logout(life: &Life) -> Option<Violation> {
    let pending = life.ops.iter().filter(|op| op.ending == Ending::Later);
    let logout = { pending }.find(|op| is_of(life, op, Moment::MAX))?;
    let is_stored = |op: &&Op| op.what == What::Inspect && op.is_done_for(&life.tag);
    let stored = life.ops.iter().find(is_stored)?;
    let text = format!("still stored in #{}", stored.number);
    logout
        .precedes(stored)
        .then(|| Violation::of(Rule::LogoutForgotten, logout, text))
}

/// A login with a token that an earlier login replaced, although another commit followed that login.
fn dead_login(life: &Life, login: &Op) -> Option<Violation> {
    if !login.is_joined() {
        return None;
    }
    let first = life.ops.iter().filter(|op| {
        let same = op.what == What::Login && op.token == login.token;
        same && op.given.is_some() && op.number != login.number
    });
    let tokens: Vec<usize> = first.filter_map(|op| op.given).collect();
    let meanwhile = life.ops.iter().find(|op| {
        let is_of_it = op.token.is_some_and(|token| tokens.contains(&token));
        is_of_it && op.has_changed(&life.tag) && op.precedes(login)
    })?;
    let text = format!("#{} was committed in between", meanwhile.number);
    Some(Violation::of(Rule::DeadLoginJoins, login, text))
}

/// Requests that were accepted with a token that had been replaced or rejected before.
fn dead_tokens(life: &Life) -> Vec<Violation> {
    let is_over = |op: &&Op| {
        let replaced = op.what.rotates() && op.is_done_for(&life.tag);
        replaced || op.is_shut_out()
    };
    let mut violations = Vec::new();
    let tokens = life
        .ops
        .iter()
        .filter_map(|op| op.token)
        .max()
        .map_or(0, |last| last + 1);
    for token in 0..tokens {
        let with_token = || life.ops.iter().filter(|op| op.token == Some(token));
        let Some(end) = with_token().filter(is_over).min_by_key(|op| op.ended) else {
            continue;
        };
        let open = with_token().find(|op| end.precedes(op) && op.is_let_in(&life.tag));
        violations.extend(open.map(|op| {
            let text = format!(
                "accepted with token {token}, which was revoked in #{}",
                end.number
            );
            Violation::of(Rule::DeadTokenOpens, op, text)
        }));
    }
    violations
}

/// Whether two tokens are valid together and are revoked together: the same token, or those of joined logins.
fn are_joined(life: &Life, one: Option<usize>, other: Option<usize>) -> bool {
    let parent = |token: Option<usize>| {
        token?;
        let login = |op: &&Op| op.what == What::Login && op.given == token && op.token < token;
        Some(life.ops.iter().find(login)?.token)
    };
    one == other
        || parent(one)
            .zip(parent(other))
            .is_some_and(|(one, other)| are_joined(life, one, other))
}

/// Rejected requests and missing sessions that no operation explains.
fn forgotten(life: &Life) -> Vec<Violation> {
    let ends = |op: &Op| op.may_have_happened(&life.tag);
    let logged_out_by = |seen: &Op| {
        let logout = |op: &&Op| op.what.is_logout() && ends(op) && op.began <= seen.ended;
        life.ops.iter().find(logout).is_some()
    };
    let replaced_by = |seen: &Op| {
        life.ops.iter().any(|op| {
            let same = are_joined(life, op.token, seen.token);
            op.what.rotates() && same && ends(op) && op.began <= seen.ended
        })
    };
    let mut violations = Vec::new();
    for op in &life.ops {
        let absent = matches!(
            &op.ending,
            Ending::Done {
                seen: Seen::Absent,
                ..
            }
        );
        let text = match (absent, op.is_shut_out()) {
            (true, _) if !logged_out_by(op) => "the session is missing, and no request logged out",
            (_, true) if !logged_out_by(op) && !replaced_by(op) => {
                "rejected, and no request logged out or rotated"
            }
            _ => continue,
        };
        let rule = match sign_out_before(life, op) {
            Explained::Yes => continue,
            Explained::ByItsOwn => Rule::NotKept,
            Explained::No => Rule::Forgotten,
        };
        violations.push(Violation::of(rule, op, text));
    }
    violations
}
