//! Sets, lists and carts: everything acknowledged is there, nothing refused is, nothing vanishes, and lists keep order.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Rule, Violation};
use crate::histories::history::{Ending, Life, Op, Page, What};

/// What the keys of sets begin with.
pub const SET: &str = "set:";

pub fn check(life: &Life) -> Vec<Violation> {
    let pages: Vec<Sight<'_>> = life
        .pages()
        .map(|(op, page)| Sight::new(op, page))
        .collect();
    let mut violations: Vec<Violation> = life
        .ops
        .iter()
        .filter_map(|op| Some((item(&op.what)?, op)))
        .flat_map(|(item, op)| membership(life, item, op, &pages))
        .collect();
    violations.extend(pages.iter().flat_map(twice));
    violations.extend(lines(life, &pages));
    violations.extend(order(life, &pages));
    violations.extend(principals(life));
    violations.extend(overtaken(life, &pages));
    violations
}

/// A page, and what is on it.
struct Sight<'a> {
    op: &'a Op,
    page: &'a Page,
    list: Vec<&'a str>,
    items: BTreeSet<&'a str>,
}

impl<'a> Sight<'a> {
    fn new(op: &'a Op, page: &'a Page) -> Self {
        let list = page.list();
        let set = page.data.keys().filter_map(|key| key.strip_prefix(SET));
        let cart = page.data.get("cart").and_then(Value::as_object);
        let lines = cart.into_iter().flat_map(|cart| cart.keys());
        let items = set
            .chain(lines.map(String::as_str))
            .chain(list.iter().copied());
        Self {
            items: items.collect(),
            op,
            page,
            list,
        }
    }
}

fn item(what: &What) -> Option<&str> {
    match what {
        What::Add { item } | What::Push { item } | What::Line { item, .. } => Some(item),
        _ => None,
    }
}

fn membership(life: &Life, item: &str, op: &Op, pages: &[Sight<'_>]) -> Option<Violation> {
    let done = op.is_done_for(&life.tag);
    let refused = matches!(op.ending, Ending::NotDone(_)) || op.is_shut_out();
    let lost = |text: String| Some(Violation::new(Rule::LostUpdate, item, text));
    // Since when it must be there: its acknowledgement, or the end of a request that saw it.
    let mut since = done.then_some(op);
    let mut in_order: Vec<&Sight<'_>> = pages.iter().collect();
    in_order.sort_by_key(|sight| sight.op.ended);
    for sight in &in_order {
        let there = sight.items.contains(item);
        if there && refused {
            let text = format!(
                "refused in #{} and there in #{}",
                op.number, sight.op.number
            );
            return Some(Violation::new(Rule::RefusedButDone, item, text));
        }
        if there && since.is_none_or(|since| sight.op.ended < since.ended) {
            since = Some(sight.op);
        }
    }
    let since = since?;
    let missing = in_order
        .iter()
        .find(|sight| since.precedes(sight.op) && !sight.items.contains(item))?;
    lost(format!(
        "there since #{} and not in #{}",
        since.number, missing.op.number
    ))
}

/// Items of a list that are there more than once.
fn twice(sight: &Sight<'_>) -> Vec<Violation> {
    let mut seen = BTreeSet::new();
    let again = sight.list.iter().filter(|item| !seen.insert(**item));
    let violation = |item: &&str| {
        let text = format!("more than once in the list of #{}", sight.op.number);
        Violation::new(Rule::CountedTwice, *item, text)
    };
    again.map(violation).collect()
}

fn lines(life: &Life, pages: &[Sight<'_>]) -> Vec<Violation> {
    let wanted: BTreeMap<&str, u64> = life
        .ops
        .iter()
        .filter_map(|op| match &op.what {
            What::Line { item, quantity } => Some((item.as_str(), *quantity)),
            _ => None,
        })
        .collect();
    let mut violations = Vec::new();
    for sight in pages {
        let cart = sight.page.data.get("cart").and_then(Value::as_object);
        for (item, quantity) in cart.into_iter().flatten() {
            let (Some(wanted), quantity) = (wanted.get(item.as_str()), quantity.as_u64()) else {
                continue;
            };
            if quantity != Some(*wanted) {
                let text = format!(
                    "{wanted} were wanted, and #{} has {quantity:?}",
                    sight.op.number
                );
                let rule = match quantity > Some(*wanted) {
                    true => Rule::CountedTwice,
                    false => Rule::LostUpdate,
                };
                violations.push(Violation::new(rule, item, text));
            }
        }
    }
    violations
}

fn order(life: &Life, pages: &[Sight<'_>]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut by_length: Vec<&Sight<'_>> = pages.iter().collect();
    by_length.sort_by_key(|sight| sight.list.len());
    for pair in by_length.windows(2) {
        let [short, long] = pair else { continue };
        if !long.list.starts_with(&short.list) {
            let text = format!(
                "that of #{} is no beginning of that of #{}",
                short.op.number, long.op.number
            );
            violations.push(Violation::new(Rule::OutOfOrder, "list", text));
        }
    }
    let pushed: BTreeMap<&str, &Op> = life
        .ops
        .iter()
        .filter(|op| op.is_done_for(&life.tag))
        .filter_map(|op| match &op.what {
            What::Push { item } => Some((item.as_str(), op)),
            _ => None,
        })
        .collect();
    if let Some(longest) = by_length.last() {
        let known: Vec<&Op> = longest
            .list
            .iter()
            .filter_map(|item| pushed.get(item).copied())
            .collect();
        // The latest beginning so far: whoever ended before that must not come after it.
        let mut latest: Option<&Op> = None;
        for op in known {
            if let Some(latest) = latest.filter(|latest| op.precedes(latest)) {
                let text = format!(
                    "#{} was over before #{} began, and comes after it",
                    op.number, latest.number
                );
                violations.push(Violation::new(Rule::OutOfOrder, "list", text));
            }
            latest = latest
                .filter(|latest| latest.began >= op.began)
                .or(Some(op));
        }
    }
    violations
}

/// Items that were not there when their token was dead already, and came later.
fn overtaken(life: &Life, pages: &[Sight<'_>]) -> Vec<Violation> {
    let rotations: Vec<&Op> = life
        .ops
        .iter()
        .filter(|op| op.what.rotates() && op.is_done_for(&life.tag))
        .collect();
    let late = |op: &Op| {
        let item = item(&op.what)?;
        let rotation = rotations
            .iter()
            .find(|rotation| rotation.token == op.token)?;
        let before = pages
            .iter()
            .find(|sight| rotation.precedes(sight.op) && !sight.items.contains(item))?;
        let after = pages.iter().find(|sight| sight.items.contains(item))?;
        let text = format!(
            "of a token that was dead since #{}, not there in #{}, and there in #{}",
            rotation.number, before.op.number, after.op.number
        );
        // What was there and is lost breaks another rule.
        (!after.op.precedes(before.op)).then(|| Violation::new(Rule::DeadTokenWrites, item, text))
    };
    life.ops.iter().filter_map(late).collect()
}

/// Who signed in stays signed in.
fn principals(life: &Life) -> Option<Violation> {
    let login = life
        .ops
        .iter()
        .filter(|op| op.what == What::Login && op.is_done_for(&life.tag))
        .min_by_key(|op| op.ended)?;
    let (page, _) = life
        .pages()
        .find(|(op, page)| login.precedes(op) && page.principal.as_ref() != Some(&life.tag))?;
    let text = format!("signed in in #{} and not in #{}", login.number, page.number);
    Some(Violation::new(Rule::LostUpdate, "principal", text))
}
