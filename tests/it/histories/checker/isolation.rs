//! Isolation: every value that a request sees has its owner's tag.

use serde_json::Value;

use super::items::SET;
use super::{Rule, Violation};
use crate::histories::history::{Ending, Life, Page, Seen};
use crate::support::ledger::{EARLY, LATE};

pub fn check(life: &Life) -> Vec<Violation> {
    let mut violations = Vec::new();
    for op in &life.ops {
        let Ending::Done { owner, seen } = &op.ending else {
            continue;
        };
        let mut tagged: Vec<&str> = match seen {
            Seen::Nothing
            | Seen::Number(_)
            | Seen::Begun(_)
            | Seen::Ended(_)
            | Seen::Handles(_)
            | Seen::Absent
            | Seen::Taken(None) => Vec::new(),
            Seen::Form(fields) => fields.iter().flatten().map(String::as_str).collect(),
            Seen::Moved(one, other) => [&one.last, &other.last]
                .into_iter()
                .flatten()
                .map(String::as_str)
                .collect(),
            Seen::Aborted(bank) => bank.last.iter().map(String::as_str).collect(),
            Seen::Texts(texts) => texts.iter().map(String::as_str).collect(),
            Seen::Taken(Some(token)) => vec![token],
            Seen::Page(page) => words(page),
        };
        tagged.extend(owner.as_deref());
        let is_ours = |word: &str| {
            let rest = word.strip_prefix(life.tag.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if let Some(word) = tagged.into_iter().find(|word| !is_ours(word)) {
            violations.push(Violation::of(Rule::Isolation, op, format!("sees {word:?}")));
        }
        if let Seen::Page(page) = seen
            && let Some(stranger) = page.principal.as_ref().filter(|it| **it != life.user)
        {
            let text = format!("is signed in as {stranger:?}");
            violations.push(Violation::of(Rule::Isolation, op, text));
        }
    }
    violations
}

/// Every value and key of a page that has a tag.
pub fn words(page: &Page) -> Vec<&str> {
    let mut words: Vec<&str> = page.flashes.iter().map(String::as_str).collect();
    for begins in [SET, EARLY, LATE] {
        words.extend(page.data.keys().filter_map(|key| key.strip_prefix(begins)));
    }
    let mut values: Vec<&Value> = page.data.values().collect();
    while let Some(value) = values.pop() {
        match value {
            Value::String(word) => words.push(word),
            Value::Array(items) => values.extend(items),
            // The items of the cart.
            Value::Object(entries) => words.extend(entries.keys().map(String::as_str)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    words
}
