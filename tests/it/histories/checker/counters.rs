//! Counters: between any two sights of one, it has grown by what was counted in between.

use super::{Rule, Violation};
use crate::histories::history::{Life, Op, Seen, What};

pub fn check(life: &Life) -> Vec<Violation> {
    let mut violations = numbers(life);
    for (key, what) in [("count", What::Count), ("number", What::Number)] {
        let counted: Vec<&Op> = life.ops.iter().filter(|op| op.what == what).collect();
        if !counted.is_empty() {
            violations.extend(sums(life, key, &counted));
        }
    }
    violations
}

fn sums(life: &Life, key: &str, counted: &[&Op]) -> Vec<Violation> {
    let mut sights: Vec<(&Op, i64)> = life
        .pages()
        .map(|(op, page)| (op, page.count(key)))
        .collect();
    sights.sort_by_key(|(op, _)| op.ended);
    let mut violations = Vec::new();
    for (at, &(later, seen)) in sights.iter().enumerate() {
        // The last sight before it has the fewest requests in between, the first one the most.
        let mut before = sights[..at]
            .iter()
            .filter(|(earlier, _)| earlier.precedes(later));
        let first = before.next();
        for &(earlier, base) in first.into_iter().chain(before.next_back()) {
            let grown = seen - base;
            let surely = counted.iter().filter(|op| {
                op.is_done_for(&life.tag) && earlier.precedes(op) && op.precedes(later)
            });
            let perhaps = counted.iter().filter(|op| {
                let over = op.is_done_for(&life.tag) && op.precedes(earlier);
                op.may_have_happened(&life.tag) && op.began <= later.ended && !over
            });
            let (least, most) = (surely.count(), perhaps.count());
            let text = format!(
                "{base} in #{} and {seen} in #{}, with {least} to {most} counted in between",
                earlier.number, later.number
            );
            if grown < least.try_into().unwrap_or(i64::MAX) {
                violations.push(Violation::new(Rule::LostUpdate, key, text));
            } else if grown > most.try_into().unwrap_or(i64::MAX) {
                violations.push(Violation::new(Rule::CountedTwice, key, text));
            }
        }
    }
    violations
}

fn numbers(life: &Life) -> Vec<Violation> {
    let mut given: Vec<(i64, &Op)> = life
        .ops
        .iter()
        .filter(|op| op.is_done_for(&life.tag))
        .filter_map(|op| match op.seen() {
            Some(Seen::Number(number)) if op.what == What::Number => Some((*number, op)),
            _ => None,
        })
        .collect();
    given.sort_by_key(|(number, op)| (*number, op.began));
    let mut violations = Vec::new();
    for pair in given.windows(2) {
        let [(lower, first), (higher, second)] = pair else {
            continue;
        };
        let text = format!(
            "{lower} to #{} and {higher} to #{}",
            first.number, second.number
        );
        if lower == higher || second.precedes(first) {
            violations.push(Violation::new(Rule::NumberGivenTwice, "number", text));
        }
    }
    violations
}
