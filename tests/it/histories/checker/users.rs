//! The sessions of a user: sign-outs everywhere end them, and lists show them.

use super::{Rule, Violation};
use crate::histories::history::{Ending, Life, Op, Seen, What};

pub fn check(life: &Life) -> Vec<Violation> {
    let mut violations = Vec::new();
    violations.extend(outlives(life));
    violations.extend(life.of_user.iter().filter_map(|op| unlisted(life, op)));
    violations.extend(
        life.of_user
            .iter()
            .filter_map(|op| wrongly_listed(life, op)),
    );
    violations
}

/// Whether a sign-out explains the end of a session.
pub enum Explained {
    Yes,
    /// Only one that should have kept it.
    ByItsOwn,
    No,
}

/// Whether a sign-out may have ended this session before a request was answered.
pub fn sign_out_before(life: &Life, seen: &Op) -> Explained {
    let logins = || life.ops.iter().filter(|op| may_sign_in(op));
    let may_be_signed_in = logins().any(|login| login.began <= seen.ended);
    let before = |op: &&Op| may_be_signed_in && may_end(op) && op.began <= seen.ended;
    // It refuses logins under way, and then ends what they have written.
    let refuses = |op: &Op| logins().any(|login| are_concurrent(login, op));
    let is_survived = |op: &Op| {
        let alive = |later: &Op| op.precedes(later) && later.precedes(seen);
        let mut ops = life.ops.iter();
        !op.is_unknown() && ops.any(|later| later.is_let_in(&life.tag) && alive(later))
    };
    let mut explained = Explained::No;
    for op in life.of_user.iter().filter(before) {
        match aim(life, op) {
            Aim::Here if refuses(op) => return Explained::Yes,
            Aim::Here if is_survived(op) => {}
            Aim::Here => return Explained::Yes,
            Aim::Elsewhere => explained = Explained::ByItsOwn,
            Aim::Nowhere => {}
        }
    }
    explained
}

enum Aim {
    Here,
    /// At the other sessions of the user.
    Elsewhere,
    Nowhere,
}

fn aim(life: &Life, op: &Op) -> Aim {
    match &op.what {
        What::Everywhere => Aim::Here,
        What::Others { by } if *by != life.tag => Aim::Here,
        What::Others { .. } => Aim::Elsewhere,
        What::End { handle } if life.is_named(handle) => Aim::Here,
        _ => Aim::Nowhere,
    }
}

fn are_concurrent(one: &Op, other: &Op) -> bool {
    !one.precedes(other) && !other.precedes(one)
}

/// Whether it may have ended a session.
fn may_end(op: &Op) -> bool {
    match (&op.what, op.seen()) {
        (What::Others { .. }, Some(Seen::Nothing)) | (What::End { .. }, Some(Seen::Ended(0))) => {
            false
        }
        _ => !matches!(op.ending, Ending::NotDone(_)),
    }
}

/// Whether it is a login that reached a node. One that was refused may have signed in for a moment.
fn may_sign_in(op: &Op) -> bool {
    op.what == What::Login && op.ending != Ending::NotDone("no connection")
}

/// Whether it is a login that was acknowledged.
fn has_signed_in(life: &Life, op: &Op) -> bool {
    op.what == What::Login && (op.is_done_for(&life.tag) || op.is_joined())
}

/// Whether this request certainly ended the session: it was acknowledged, and a login had begun before it was sent.
fn has_ended(life: &Life, op: &Op) -> bool {
    let Some(Seen::Ended(count)) = op.seen() else {
        return false;
    };
    let begun_before = |login: &Op| {
        let begun = matches!(login.seen(), Some(Seen::Begun(at)) if *at < op.began);
        has_signed_in(life, login) && (begun || login.precedes(op))
    };
    match (aim(life, op), &op.what) {
        (Aim::Here, What::End { .. }) => *count > 0,
        (Aim::Here, _) => life.ops.iter().any(begun_before),
        (Aim::Elsewhere | Aim::Nowhere, _) => false,
    }
}

fn outlives(life: &Life) -> Option<Violation> {
    let ends = life.of_user.iter().filter(|op| has_ended(life, op));
    let end = ends.min_by_key(|op| op.ended)?;
    let seen = { life.ops.iter() }.find(|op| end.precedes(op) && op.is_let_in(&life.tag))?;
    let text = format!("signed out in #{}", end.number);
    Some(Violation::of(Rule::OutlivesSignOut, seen, text))
}

/// A list without a session to which its user was signed in before it and after it, or a sign-out that did not find it.
fn unlisted(life: &Life, op: &Op) -> Option<Violation> {
    let misses = match (&op.what, op.seen()) {
        (What::List { user }, Some(Seen::Handles(handles))) => {
            *user == life.user && !handles.iter().any(|handle| life.is_named(handle))
        }
        (What::End { handle }, Some(Seen::Ended(0))) => life.is_named(handle),
        _ => false,
    };
    if !misses || life.handle.is_none() {
        return None;
    }
    let is_theirs = |before: &&Op| {
        let page = matches!(before.seen(), Some(Seen::Page(page)) if page.principal.as_ref() == Some(&life.user));
        before.precedes(op)
            && (has_signed_in(life, before) || (page && before.is_done_for(&life.tag)))
    };
    let before = life.ops.iter().find(is_theirs)?;
    let after =
        { life.ops.iter() }.find(|after| op.precedes(after) && after.is_let_in(&life.tag))?;
    let text = format!(
        "not found, but signed in in #{} and alive in #{}",
        before.number, after.number
    );
    Some(Violation::of(Rule::Unlisted, op, text))
}

/// A list with this session, which is of somebody else, was never signed in to, or had ended.
fn wrongly_listed(life: &Life, op: &Op) -> Option<Violation> {
    let (What::List { user }, Some(Seen::Handles(handles))) = (&op.what, op.seen()) else {
        return None;
    };
    if !handles.iter().any(|handle| life.is_named(handle)) {
        return None;
    }
    let signed_in = |login: &Op| may_sign_in(login) && login.began <= op.ended;
    let logged_out = |end: &&Op| end.what.is_logout() && end.is_done_for(&life.tag);
    let ends = life.of_user.iter().filter(|end| has_ended(life, end));
    let mut ends = ends.chain(life.ops.iter().filter(logged_out));
    let text = match ends.find(|end| end.precedes(op)) {
        _ if *user != life.user => format!("a session of {} in the list of {user}", life.user),
        _ if !life.ops.iter().any(signed_in) => "nobody had signed in".to_owned(),
        Some(end) => format!("ended in #{}", end.number),
        None => return None,
    };
    Some(Violation::of(Rule::WronglyListed, op, text))
}
