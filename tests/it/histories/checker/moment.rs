//! A page shows one moment: if it shows the effect of a request, it shows those of every request that was answered
//! before that one began.
//!
//! Neither the start nor the end of a slow request says when that moment was, but the contents of its page do.

use std::collections::BTreeSet;

use super::items::{items, on_page};
use super::{Rule, Violation};
use crate::histories::history::{Life, Op, Page, Seen, What};

pub fn check(life: &Life) -> Vec<Violation> {
    let pages = life.pages();
    pages
        .filter_map(|(op, page)| torn(life, op, page))
        .collect()
}

fn torn(life: &Life, sight: &Op, page: &Page) -> Option<Violation> {
    let there = on_page(page);
    let others = || life.ops.iter().filter(|op| op.number != sight.number);
    // The moment is after the start of `after`, and before the end of `before`.
    let after = others()
        .filter(|op| op.may_have_happened(&life.tag) && shows(page, &there, op))
        .max_by_key(|op| op.began)?;
    let before = others()
        .filter(|op| misses(life, page, &there, op))
        .min_by_key(|op| op.ended)?;
    let text = format!(
        "shows #{} but not #{}, which ended before #{} began",
        after.number, before.number, after.number
    );
    before
        .precedes(after)
        .then(|| Violation::of(Rule::Torn, sight, text))
}

fn shows(page: &Page, there: &BTreeSet<String>, op: &Op) -> bool {
    match &op.what {
        What::Write { key, value } => page.text(key) == Some(value),
        What::Pair { value } => page.text(super::registers::PAIR[0]) == Some(value),
        What::Form { value, .. } => page.form().contains(&Some(value.as_str())),
        What::Move { name, .. } => page.bank().last.as_ref() == Some(name),
        What::Say { text } => page.flashes.contains(text),
        What::Offer { key, .. } => page.data.contains_key(key),
        What::Number => {
            matches!(op.seen(), Some(Seen::Number(number)) if *number <= page.count("number"))
        }
        _ => items(op).iter().any(|item| there.contains(&item.name)),
    }
}

/// Whether the effect of an operation, which every later page shows, is missing on this page.
fn misses(life: &Life, page: &Page, there: &BTreeSet<String>, op: &Op) -> bool {
    if !op.is_let_in(&life.tag) {
        return false;
    }
    match (&op.what, op.seen()) {
        (What::Number, Some(Seen::Number(number))) => *number > page.count("number"),
        (What::Take { key }, Some(Seen::Taken(Some(_)))) => page.data.contains_key(key),
        (What::Show, Some(Seen::Texts(texts))) => {
            texts.iter().any(|text| page.flashes.contains(text))
        }
        (What::Login, _) => page.principal.is_none(),
        _ => items(op)
            .iter()
            .any(|item| item.is_done(&life.tag, op) && !there.contains(&item.name)),
    }
}
