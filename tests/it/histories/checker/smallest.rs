//! Minimizes an invalid history: drops operations that the broken rule does not need.

use super::flashes::shown;
use super::tokens::taken;
use super::{Rule, Violation, check};
use crate::histories::history::{Ending, Life, Op, Page, Seen, What};

/// A minimal part of a session's history that still breaks the rule. It drops only operations without which a valid
/// history stays valid, so the rest is invalid by itself and not for lack of a dropped operation.
pub fn smallest(life: &Life, violation: &Violation) -> Life {
    let mut life = life.clone();
    let mut chunk = life.ops.len().div_ceil(2).max(1);
    loop {
        let before = life.ops.len();
        let mut from = 0;
        while from < life.ops.len() {
            let to = (from + chunk).min(life.ops.len());
            let without = Life {
                ops: left_over(&life.ops, from, to, violation),
                ..life.clone()
            };
            let fewer = without.ops.len() < life.ops.len();
            let wrong = || {
                let same = |found: &Violation| {
                    found.rule == violation.rule && found.subject == violation.subject
                };
                check(&without).iter().any(same)
            };
            if fewer && wrong() {
                life = without;
            } else {
                from = to;
            }
        }
        if chunk == 1 && life.ops.len() == before {
            break;
        }
        chunk = chunk.div_ceil(2).max(1);
    }
    life
}

/// The same history, with its pages reduced to the subject of the violation.
pub fn projected(mut life: Life, violation: &Violation) -> Life {
    for op in &mut life.ops {
        project(op, &violation.subject);
    }
    life
}

/// The operations without those of a range that can be dropped.
fn left_over(ops: &[Op], from: usize, to: usize, violation: &Violation) -> Vec<Op> {
    let in_range = |at: usize| (from..to).contains(&at);
    let kept = ops.iter().enumerate();
    let kept = kept.filter(|(at, op)| !in_range(*at) || is_needed(op, ops, violation));
    kept.map(|(_, op)| op.clone()).collect()
}

/// Whether dropping this operation could make a valid history invalid, since it may explain the results of others.
fn is_needed(op: &Op, ops: &[Op], violation: &Violation) -> bool {
    let happened = matches!(
        op.ending,
        Ending::Done { .. } | Ending::Unknown(_) | Ending::Later
    );
    match (&op.what, violation.rule) {
        (What::Count | What::Number, Rule::CountedTwice) => happened && !is_counted_by_all(op, ops),
        // A login that was refused may have ended the session, if a sign-out everywhere overtook it.
        (What::Login, Rule::Forgotten | Rule::NotKept | Rule::WronglyListed) => true,
        (What::Rotate | What::Logout { .. }, Rule::Forgotten | Rule::NotKept) => happened,
        (What::Show, Rule::MessageLost) => {
            op.is_unknown() || shown(op).contains(&violation.subject)
        }
        (What::Take { key }, Rule::LostUpdate) => {
            *key == violation.subject && (op.is_unknown() || taken(op).is_some())
        }
        _ => false,
    }
}

/// Whether every remaining read of the counter began after the operation, or every one ended before it.
fn is_counted_by_all(op: &Op, ops: &[Op]) -> bool {
    let reads = || {
        ops.iter()
            .filter(|read| matches!(read.seen(), Some(Seen::Page(_))))
    };
    let counted = !op.is_unknown() && reads().all(|read| op.precedes(read));
    counted || reads().all(|read| read.precedes(op))
}

/// Reduces a page to the subject of the violation.
fn project(op: &mut Op, subject: &str) {
    let Ending::Done {
        seen: Seen::Page(page),
        ..
    } = &mut op.ending
    else {
        return;
    };
    let is_about = |text: &str| text.contains(subject) || subject.contains(text);
    let all = std::mem::take(page);
    *page = Page {
        data: all
            .data
            .into_iter()
            .filter(|(key, value)| {
                let pair = subject == "pair" && key.starts_with("pair.");
                let form = subject == "form" && key.starts_with("form.");
                let accounts = subject == "accounts" && key.starts_with("account:");
                pair || form
                    || accounts
                    || key == subject
                    || (!subject.is_empty() && value.to_string().contains(subject))
                    || key.ends_with(subject)
            })
            .collect(),
        flashes: all
            .flashes
            .into_iter()
            .filter(|text| is_about(text))
            .collect(),
        principal: all.principal.filter(|_| subject == "principal"),
    };
}
