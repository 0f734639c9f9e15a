//! One-time tokens: one of all requests takes a token, and then it is gone.

use super::{Rule, Violation};
use crate::histories::history::{Life, Op, Page, Seen, What};

pub fn check(life: &Life) -> Vec<Violation> {
    let pages: Vec<(&Op, &Page)> = life.pages().collect();
    life.ops
        .iter()
        .filter_map(|op| match &op.what {
            What::Offer { key, token } => offered(life, op, key, token, &pages),
            _ => None,
        })
        .collect()
}

/// The token that a request took.
pub fn taken(op: &Op) -> Option<&str> {
    match op.seen() {
        Some(Seen::Taken(token)) => token.as_deref(),
        _ => None,
    }
}

fn offered(
    life: &Life,
    offer: &Op,
    key: &str,
    token: &str,
    pages: &[(&Op, &Page)],
) -> Option<Violation> {
    let violation = |rule, text: String| Some(Violation::new(rule, key, text));
    let takes: Vec<&Op> = life
        .ops
        .iter()
        .filter(|op| matches!(&op.what, What::Take { key: taken } if taken == key))
        .collect();
    let winners: Vec<&Op> = takes
        .iter()
        .copied()
        .filter(|op| taken(op).is_some())
        .collect();
    if let Some(wrong) = winners.iter().find(|op| taken(op) != Some(token)) {
        return violation(
            Rule::NeverWritten,
            format!("{:?} in #{}", taken(wrong), wrong.number),
        );
    }
    if let [one, other, ..] = winners[..] {
        return violation(
            Rule::TakenTwice,
            format!("by #{} and #{}", one.number, other.number),
        );
    }
    if let [winner] = winners[..] {
        let there = |(op, page): &&(&Op, &Page)| winner.precedes(op) && page.data.contains_key(key);
        if let Some((page, _)) = pages.iter().find(there) {
            let text = format!("by #{} and still stored in #{}", winner.number, page.number);
            return violation(Rule::TakenTwice, text);
        }
    }
    let there = pages.iter().filter(|(_, page)| page.data.contains_key(key));
    let mut seen = winners.iter().copied().chain(there.map(|(op, _)| *op));
    if let Some(early) = seen.find(|op| op.precedes(offer)) {
        let text = format!(
            "in #{}, before it was stored in #{}",
            early.number, offer.number
        );
        return violation(Rule::NeverWritten, text);
    }
    if offer.is_refused() {
        let page = pages.iter().find(|(_, page)| page.data.contains_key(key));
        let seen = winners.first().copied().or(page.map(|(op, _)| *op))?;
        let text = format!(
            "rejected in #{} and present in #{}",
            offer.number, seen.number
        );
        return violation(Rule::RefusedButDone, text);
    }
    if !offer.is_done_for(&life.tag) {
        return None;
    }
    let may_be_taken_before = |seen: &Op| {
        let may = |op: &&&Op| op.is_unknown() || taken(op).is_some();
        takes
            .iter()
            .filter(may)
            .any(|take| take.number != seen.number && take.began <= seen.ended)
    };
    let pages = pages
        .iter()
        .filter(|(_, page)| !page.data.contains_key(key))
        .map(|(op, _)| *op);
    let losers = takes
        .iter()
        .copied()
        .filter(|op| op.is_done_for(&life.tag) && taken(op).is_none());
    let lost = pages
        .chain(losers)
        .find(|op| offer.precedes(op) && !may_be_taken_before(op))?;
    let text = format!(
        "stored in #{}, taken by no request, and missing in #{}",
        offer.number, lost.number
    );
    violation(Rule::LostUpdate, text)
}
