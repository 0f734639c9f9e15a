//! Sets, lists and carts: they contain every acknowledged item and no rejected one, lose none, and lists keep their
//! order.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Rule, Violation};
use crate::histories::history::{Ending, Life, Op, Page, What};
use crate::support::ledger::{EARLY, GUARD, LATE};

/// The prefix of the keys of sets.
pub const SET: &str = "set:";

pub fn check(life: &Life) -> Vec<Violation> {
    let pages: Vec<Sight<'_>> = life
        .pages()
        .map(|(op, page)| Sight::new(op, page))
        .collect();
    let mut violations: Vec<Violation> = life
        .ops
        .iter()
        .flat_map(|op| items(op).into_iter().map(move |item| (item, op)))
        .filter_map(|(item, op)| membership(life, &item, op, &pages))
        .collect();
    violations.extend(pages.iter().flat_map(twice));
    violations.extend(pages.iter().filter_map(half_early));
    violations.extend(lines(life, &pages));
    violations.extend(order(life, &pages));
    violations.extend(principals(life));
    violations.extend(overtaken(life, &pages));
    violations
}

/// A page and its items.
struct Sight<'a> {
    op: &'a Op,
    page: &'a Page,
    list: Vec<&'a str>,
    items: BTreeSet<String>,
}

impl<'a> Sight<'a> {
    fn new(op: &'a Op, page: &'a Page) -> Self {
        Self {
            items: on_page(page),
            list: page.list(),
            op,
            page,
        }
    }

    fn has(&self, item: &str) -> bool {
        self.items.contains(item)
    }
}

/// Every item on a page. Items are never removed.
pub fn on_page(page: &Page) -> BTreeSet<String> {
    let set = page.data.keys().filter_map(|key| key.strip_prefix(SET));
    let parts = page.data.keys().map(String::as_str);
    let parts = parts.filter(|key| key.starts_with(EARLY) || key.starts_with(LATE));
    let cart = page.data.get("cart").and_then(Value::as_object);
    let lines = cart.into_iter().flat_map(|cart| cart.keys());
    set.chain(parts)
        .chain(lines.map(String::as_str))
        .chain(page.list())
        .map(str::to_owned)
        .collect()
}

/// An item that a request adds to a session, which stays there.
pub struct Item {
    pub name: String,
    /// Whether it is committed before the end of its request.
    early: bool,
}

impl Item {
    pub fn is_done(&self, tag: &str, op: &Op) -> bool {
        op.is_done_for(tag) || (self.early && op.ending == Ending::Partly)
    }

    fn is_refused(&self, op: &Op) -> bool {
        op.is_refused() || (!self.early && op.ending == Ending::Partly)
    }
}

pub fn items(op: &Op) -> Vec<Item> {
    let item = |name: String, early| Item { name, early };
    match &op.what {
        What::Add { item: name } | What::Push { item: name } | What::Line { item: name, .. } => {
            vec![item(name.clone(), false)]
        }
        What::Early { item: name, .. } => vec![
            item(format!("{EARLY}{name}"), true),
            item(format!("{LATE}{name}"), false),
        ],
        _ => Vec::new(),
    }
}

fn membership(life: &Life, item: &Item, op: &Op, pages: &[Sight<'_>]) -> Option<Violation> {
    let violation = |rule, text: String| Some(Violation::new(rule, &item.name, text));
    // The operation after which the item must be present: the one that added it, if acknowledged, or the first one that
    // saw it.
    let mut since = item.is_done(&life.tag, op).then_some(op);
    let mut in_order: Vec<&Sight<'_>> = pages.iter().collect();
    in_order.sort_by_key(|sight| sight.op.ended);
    for sight in in_order.iter().filter(|sight| sight.has(&item.name)) {
        let seen = sight.op.number;
        if item.is_refused(op) {
            let text = format!("rejected in #{} and present in #{seen}", op.number);
            return violation(Rule::RefusedButDone, text);
        }
        if sight.op.precedes(op) {
            let text = format!("in #{seen}, before the request in #{}", op.number);
            return violation(Rule::NeverWritten, text);
        }
        if since.is_none_or(|since| sight.op.ended < since.ended) {
            since = Some(sight.op);
        }
    }
    let since = since?;
    let missing = in_order
        .iter()
        .find(|sight| since.precedes(sight.op) && !sight.has(&item.name))?;
    let text = format!(
        "present since #{} and missing in #{}",
        since.number, missing.op.number
    );
    violation(Rule::LostUpdate, text)
}

/// A final commit that is visible without the early commit of its request, or only in part.
fn half_early(sight: &Sight<'_>) -> Option<Violation> {
    let without = |name: &str, part: &str| !sight.has(&format!("{part}{name}"));
    let late = sight
        .items
        .iter()
        .filter_map(|item| item.strip_prefix(LATE));
    let end = sight.page.text(GUARD).filter(|name| without(name, LATE));
    let name = late.clone().find(|name| without(name, EARLY)).or(end)?;
    let text = format!(
        "the final commit without the early one, in #{}",
        sight.op.number
    );
    Some(Violation::new(Rule::HalfDone, name, text))
}

/// Items that a list contains more than once.
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
                    "{wanted} were added, and #{} has {quantity:?}",
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
                "the list of #{} is not a prefix of that of #{}",
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
        let known = longest.list.iter().filter_map(|item| pushed.get(item));
        let late = out_of_order(known.copied());
        violations.extend(late.map(|text| Violation::new(Rule::OutOfOrder, "list", text)));
    }
    violations
}

/// An operation that ended before another began, and comes after it. One with an unknown outcome may have been applied
/// later, so it never counts as ended.
pub fn out_of_order<'a>(ops: impl Iterator<Item = &'a Op>) -> Option<String> {
    // The operation with the latest start so far.
    let mut latest: Option<&Op> = None;
    for op in ops {
        if let Some(latest) = latest.filter(|latest| !op.is_unknown() && op.precedes(latest)) {
            return Some(format!(
                "#{} ended before #{} began, and comes after it",
                op.number, latest.number
            ));
        }
        latest = latest
            .filter(|latest| latest.began >= op.began)
            .or(Some(op));
    }
    None
}

/// Items that appeared after the token of their request had been revoked.
fn overtaken(life: &Life, pages: &[Sight<'_>]) -> Vec<Violation> {
    let rotations: Vec<&Op> = life
        .ops
        .iter()
        .filter(|op| op.what.rotates() && op.is_done_for(&life.tag))
        .collect();
    let late = |op: &Op, item: &str| {
        let rotation = rotations
            .iter()
            .find(|rotation| rotation.token == op.token)?;
        let before = pages
            .iter()
            .find(|sight| rotation.precedes(sight.op) && !sight.has(item))?;
        let after = pages.iter().find(|sight| sight.has(item))?;
        let text = format!(
            "by a token that was revoked in #{}, missing in #{}, and present in #{}",
            rotation.number, before.op.number, after.op.number
        );
        // The loss of an item that was present breaks another rule.
        (!after.op.precedes(before.op)).then(|| Violation::new(Rule::DeadTokenWrites, item, text))
    };
    let all = life.ops.iter().flat_map(|op| {
        let names = items(op).into_iter().map(|item| item.name);
        names.map(move |name| (op, name))
    });
    all.filter_map(|(op, name)| late(op, &name)).collect()
}

/// A session that was signed in stays signed in.
fn principals(life: &Life) -> Option<Violation> {
    let login = life
        .ops
        .iter()
        .filter(|op| op.what == What::Login && op.is_done_for(&life.tag))
        .min_by_key(|op| op.ended)?;
    let (page, _) = life
        .pages()
        .find(|(op, page)| login.precedes(op) && page.principal.as_ref() != Some(&life.user))?;
    let text = format!("signed in in #{} and not in #{}", login.number, page.number);
    Some(Violation::new(Rule::LostUpdate, "principal", text))
}
