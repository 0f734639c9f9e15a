//! Counters: between any two reads, a counter has grown by the number of increments between them.

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
    let mut reads: Vec<(&Op, i64)> = life
        .pages()
        .map(|(op, page)| (op, page.count(key)))
        .collect();
    reads.sort_by_key(|(op, _)| op.ended);
    let mut violations = Vec::new();
    for (at, &(later, seen)) in reads.iter().enumerate() {
        // The last earlier read has the fewest increments in between, the first one the most.
        let mut before = reads[..at]
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
                "{base} in #{} and {seen} in #{}, with {least} to {most} increments in between",
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
    let mut give = |rule, text: String| violations.push(Violation::new(rule, "number", text));
    // The latest start of a request with a lower number.
    let mut latest: Option<(i64, &Op)> = None;
    let mut last = None;
    for &(number, op) in &given {
        let late = latest.filter(|(_, before)| op.precedes(before));
        let same = last.filter(|(given, _)| *given == number);
        if let Some((other, before)) = same.or(late) {
            let text = format!(
                "{other} to #{} and {number} to #{}",
                before.number, op.number
            );
            give(Rule::NumberGivenTwice, text);
        }
        last = Some((number, op));
        latest = latest
            .filter(|(_, before)| before.began >= op.began)
            .or(last);
    }
    for (read, page) in life.pages() {
        let seen = page.count("number");
        for &(number, op) in &given {
            let text = format!("{number} to #{}, and {seen} in #{}", op.number, read.number);
            if op.precedes(read) && seen < number {
                give(Rule::LostUpdate, text);
            } else if read.precedes(op) && seen >= number {
                give(Rule::NumberGivenTwice, text);
            }
        }
    }
    violations
}
