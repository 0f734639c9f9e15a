//! Flash messages: shown at most once, and exactly once if every outcome is known.

use std::collections::BTreeMap;

use super::items::out_of_order;
use super::{Rule, Violation};
use crate::histories::history::{Life, Moment, Op, Page, Seen, What};

pub fn check(life: &Life) -> Vec<Violation> {
    let shows: Vec<&Op> = life.ops.iter().filter(|op| op.what == What::Show).collect();
    let pages: Vec<(&Op, &Page)> = life.pages().collect();
    let all = life.ops.iter().filter_map(|op| match &op.what {
        What::Say { text } => Some((text.as_str(), op)),
        _ => None,
    });
    let all: BTreeMap<&str, &Op> = all.collect();
    let broken = all.iter();
    let broken = broken.filter_map(|(text, op)| added(life, op, text, &shows, &pages, &all));
    let mut violations: Vec<Violation> = broken.collect();
    let lists = shows.iter().map(|op| (*op, shown(op)));
    let lists = lists.chain(
        pages
            .iter()
            .map(|(op, page)| (*op, page.flashes.as_slice())),
    );
    violations.extend(lists.filter_map(|(op, list)| {
        let ops = list
            .iter()
            .filter_map(|text| all.get(text.as_str()).copied());
        out_of_order(ops).map(|text| Violation::of(Rule::OutOfOrder, op, text))
    }));
    violations
}

/// The earliest moment at which a request can have read its messages: the last of them must have been added.
fn since(op: &Op, all: &BTreeMap<&str, &Op>) -> Moment {
    let waiting = match op.seen() {
        Some(Seen::Page(page)) => page.flashes.as_slice(),
        _ => shown(op),
    };
    let ops = waiting.iter().filter_map(|text| all.get(text.as_str()));
    ops.map(|op| op.began).fold(op.began, Moment::max)
}

/// The messages that a request showed.
pub fn shown(op: &Op) -> &[String] {
    match op.seen() {
        Some(Seen::Texts(texts)) => texts,
        _ => &[],
    }
}

fn added(
    life: &Life,
    added: &Op,
    text: &str,
    shows: &[&Op],
    pages: &[(&Op, &Page)],
    all: &BTreeMap<&str, &Op>,
) -> Option<Violation> {
    let times = |op: &Op| shown(op).iter().filter(|shown| *shown == text).count();
    let waits = |page: &Page| {
        page.flashes
            .iter()
            .filter(|waiting| *waiting == text)
            .count()
    };
    let showing: Vec<&Op> = shows.iter().copied().filter(|op| times(op) > 0).collect();
    let all_times: usize = showing.iter().map(|op| times(op)).sum();
    if all_times > 1 {
        let numbers: Vec<u64> = showing.iter().map(|op| op.number).collect();
        let reason = format!("shown {all_times} times, in {numbers:?}");
        return Some(Violation::new(Rule::ShownTwice, text, reason));
    }
    if let Some((page, _)) = pages.iter().find(|(_, page)| waits(page) > 1) {
        let reason = format!("stored more than once in #{}", page.number);
        return Some(Violation::new(Rule::CountedTwice, text, reason));
    }
    if let [show] = showing[..] {
        let again = pages
            .iter()
            .find(|(op, page)| show.precedes(op) && waits(page) > 0);
        if let Some((page, _)) = again {
            let reason = format!(
                "shown in #{} and still stored in #{}",
                show.number, page.number
            );
            return Some(Violation::new(Rule::ShownTwice, text, reason));
        }
    }
    let early = showing.iter().find(|op| op.precedes(added));
    let waited = pages.iter().filter(|(_, page)| waits(page) > 0);
    let early = early.or(waited.map(|(op, _)| op).find(|op| op.precedes(added)));
    if let Some(early) = early {
        let reason = format!(
            "in #{}, before it was added in #{}",
            early.number, added.number
        );
        return Some(Violation::new(Rule::NeverWritten, text, reason));
    }
    if added.is_refused() {
        let waiting = pages
            .iter()
            .find(|(_, page)| waits(page) > 0)
            .map(|(op, _)| *op);
        let seen = showing.first().copied().or(waiting)?;
        let reason = format!(
            "rejected in #{} and present in #{}",
            added.number, seen.number
        );
        return Some(Violation::new(Rule::RefusedButDone, text, reason));
    }
    if !added.is_done_for(&life.tag) {
        return None;
    }
    // A request that did not find the message, although no other can have taken it.
    let taken_before = |seen: &Op| {
        shows.iter().any(|show| {
            let may = show.is_unknown() || times(show) > 0;
            may && show.number != seen.number && show.began <= seen.ended
        })
    };
    let missed = |op: &&Op| added.ended < since(op, all) && !taken_before(op);
    let pages = pages
        .iter()
        .filter(|(_, page)| waits(page) == 0)
        .map(|(op, _)| *op);
    let empty = shows
        .iter()
        .copied()
        .filter(|op| op.is_done_for(&life.tag) && times(op) == 0);
    let lost = pages.chain(empty).find(missed)?;
    let reason = format!(
        "added in #{}, shown by no request, and missing in #{}",
        added.number, lost.number
    );
    Some(Violation::new(Rule::MessageLost, text, reason))
}
