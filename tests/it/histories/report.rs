//! What a run says at its end: what was done, and the smallest wrong history if there is one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::checker::{Rule, Violation, check, projected, smallest};
use super::history::Life;

/// How many wrong histories are made small to find the smallest.
const TRIED: usize = 20;

/// Requests by kind and ending.
#[derive(Default)]
pub struct Tally(BTreeMap<&'static str, BTreeMap<&'static str, u64>>);

impl Tally {
    pub fn of(lives: &[Life]) -> Self {
        let mut tally = Self::default();
        for op in lives.iter().flat_map(|life| &life.ops) {
            let endings = tally.0.entry(op.what.kind()).or_default();
            *endings.entry(op.ending.kind()).or_default() += 1;
        }
        tally
    }

    pub fn count(&self, what: &str, ending: &str) -> u64 {
        let endings = self.0.get(what);
        endings
            .and_then(|endings| endings.get(ending))
            .copied()
            .unwrap_or_default()
    }

    pub fn all(&self, ending: &str) -> u64 {
        self.0.keys().map(|what| self.count(what, ending)).sum()
    }

    pub fn kinds(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:10} {:>8} {:>8} {:>8}", "", "ok", "fail", "unknown")?;
        let line = |f: &mut std::fmt::Formatter<'_>, name, count: &dyn Fn(&str) -> u64| {
            let [ok, fail, unknown] = ["ok", "fail", "unknown"].map(count);
            writeln!(f, "{name:10} {ok:8} {fail:8} {unknown:8}")
        };
        for what in self.kinds() {
            line(f, what, &|ending| self.count(what, ending))?;
        }
        line(f, "all", &|ending| self.all(ending))
    }
}

/// Everything that is wrong, each life by itself.
pub fn wrong(lives: &[Life]) -> Vec<(&Life, Violation)> {
    lives
        .iter()
        .flat_map(|life| {
            check(life)
                .into_iter()
                .map(move |violation| (life, violation))
        })
        .collect()
}

/// The smallest wrong history, and how often each rule was broken.
pub fn explain(violations: &[(&Life, Violation)]) -> String {
    let mut text = String::new();
    let mut rules: BTreeMap<Rule, u64> = BTreeMap::new();
    for (_, violation) in violations {
        *rules.entry(violation.rule).or_default() += 1;
    }
    let _ = writeln!(text, "rules broken: {rules:?}");
    let mut seen = BTreeSet::new();
    let tried = violations
        .iter()
        .filter(|(life, violation)| seen.insert((violation.rule, &life.tag)))
        .take(TRIED)
        .map(|(life, violation)| (smallest(life, violation), violation));
    if let Some((small, violation)) = tried.min_by_key(|(small, _)| small.ops.len()) {
        let same = |found: &Violation| {
            (found.rule, &found.subject) == (violation.rule, &violation.subject)
        };
        // In the words of what is left.
        let found = check(&small).into_iter().find(same);
        let _ = writeln!(text, "{}", found.as_ref().unwrap_or(violation));
        for op in &projected(small, violation).ops {
            let _ = writeln!(text, "  {op}");
        }
    }
    text
}
