//! Messages: shown at most once, and exactly once where every outcome is known.

use super::{Rule, Violation};
use crate::histories::history::{Ending, Life, Op, Page, Seen, What};

pub fn check(life: &Life) -> Vec<Violation> {
    let shows: Vec<&Op> = life.ops.iter().filter(|op| op.what == What::Show).collect();
    let pages: Vec<(&Op, &Page)> = life.pages().collect();
    life.ops
        .iter()
        .filter_map(|op| match &op.what {
            What::Say { text } => said(life, op, text, &shows, &pages),
            _ => None,
        })
        .collect()
}

/// What a request showed.
pub fn shown(op: &Op) -> &[String] {
    match op.seen() {
        Some(Seen::Texts(texts)) => texts,
        _ => &[],
    }
}

fn said(
    life: &Life,
    said: &Op,
    text: &str,
    shows: &[&Op],
    pages: &[(&Op, &Page)],
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
        let told = format!("shown {all_times} times, in {numbers:?}");
        return Some(Violation::new(Rule::ShownTwice, text, told));
    }
    if let Some((page, _)) = pages.iter().find(|(_, page)| waits(page) > 1) {
        let told = format!("waits more than once in #{}", page.number);
        return Some(Violation::new(Rule::CountedTwice, text, told));
    }
    if let [show] = showing[..] {
        let again = pages
            .iter()
            .find(|(op, page)| show.precedes(op) && waits(page) > 0);
        if let Some((page, _)) = again {
            let told = format!(
                "shown in #{} and still waiting in #{}",
                show.number, page.number
            );
            return Some(Violation::new(Rule::ShownTwice, text, told));
        }
    }
    if matches!(said.ending, Ending::NotDone(_)) || said.is_shut_out() {
        let waiting = pages
            .iter()
            .find(|(_, page)| waits(page) > 0)
            .map(|(op, _)| *op);
        let seen = showing.first().copied().or(waiting)?;
        let told = format!("refused in #{} and there in #{}", said.number, seen.number);
        return Some(Violation::new(Rule::RefusedButDone, text, told));
    }
    if !said.is_done_for(&life.tag) {
        return None;
    }
    // Who saw that it does not wait any more, although nobody can have taken it.
    let taken_before = |seen: &Op| {
        shows.iter().any(|show| {
            let may = show.is_unknown() || times(show) > 0;
            may && show.number != seen.number && show.began <= seen.ended
        })
    };
    let missed = |op: &&Op| said.precedes(op) && !taken_before(op);
    let pages = pages
        .iter()
        .filter(|(_, page)| waits(page) == 0)
        .map(|(op, _)| *op);
    let empty = shows
        .iter()
        .copied()
        .filter(|op| op.is_done_for(&life.tag) && times(op) == 0);
    let lost = pages.chain(empty).find(missed)?;
    let told = format!(
        "left in #{}, shown by none, and not there in #{}",
        said.number, lost.number
    );
    Some(Violation::new(Rule::MessageLost, text, told))
}
