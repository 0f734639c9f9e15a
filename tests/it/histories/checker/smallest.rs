//! Makes a wrong history small: leaves out what the broken rule does not need.

use super::flashes::shown;
use super::tokens::taken;
use super::{Rule, Violation, check};
use crate::histories::history::{Ending, Life, Op, Page, Seen, What};

/// The smallest part of a life found that still breaks the rule. Only operations are left out without which a right
/// history stays right; so what is left is wrong by itself, and not for want of what is missing.
pub fn smallest(life: &Life, violation: &Violation) -> Life {
    let mut life = life.clone();
    let mut chunk = life.ops.len().div_ceil(2).max(1);
    loop {
        let before = life.ops.len();
        let mut from = 0;
        while from < life.ops.len() {
            let to = (from + chunk).min(life.ops.len());
            let without = Life {
                tag: life.tag.clone(),
                ops: left_over(&life.ops, from, to, violation),
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

/// The same life with only that on its pages which the violation is about.
pub fn projected(mut life: Life, violation: &Violation) -> Life {
    for op in &mut life.ops {
        project(op, &violation.subject);
    }
    life
}

/// The operations without those of a range that may be left out.
fn left_over(ops: &[Op], from: usize, to: usize, violation: &Violation) -> Vec<Op> {
    let in_range = |at: usize| (from..to).contains(&at);
    let kept = ops.iter().enumerate();
    let kept = kept.filter(|(at, op)| !in_range(*at) || is_needed(op, ops, violation));
    kept.map(|(_, op)| op.clone()).collect()
}

/// Whether the history could be wrong only for want of this operation, since it may explain what others saw.
fn is_needed(op: &Op, ops: &[Op], violation: &Violation) -> bool {
    let happened = matches!(
        op.ending,
        Ending::Done { .. } | Ending::Unknown(_) | Ending::Later
    );
    match (&op.what, violation.rule) {
        (What::Count | What::Number, Rule::CountedTwice) => happened && !is_counted_by_all(op, ops),
        (What::Rotate | What::Login | What::Logout { .. }, Rule::Forgotten) => happened,
        (What::Show, Rule::MessageLost) => {
            op.is_unknown() || shown(op).contains(&violation.subject)
        }
        (What::Take { key }, Rule::LostUpdate) => {
            *key == violation.subject && (op.is_unknown() || taken(op).is_some())
        }
        _ => false,
    }
}

/// Every sight of the counter that is left has it counted, or every one was over before.
fn is_counted_by_all(op: &Op, ops: &[Op]) -> bool {
    let sights = || {
        ops.iter()
            .filter(|sight| matches!(sight.seen(), Some(Seen::Page(_))))
    };
    let counted = !op.is_unknown() && sights().all(|sight| op.precedes(sight));
    counted || sights().all(|sight| sight.precedes(op))
}

/// Leaves on a page only what the violation is about.
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
