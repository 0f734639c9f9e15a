//! The report of a run: the number of operations, and the smallest invalid history if there is one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::checker::{Rule, Violation, check, projected, smallest};
use super::history::{Life, Op, What};

/// The number of invalid histories to minimize, of which the report shows the smallest.
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
        writeln!(
            f,
            "{:10} {:>8} {:>8} {:>8} {:>8}",
            "", "ok", "fail", "unknown", "partly"
        )?;
        let line = |f: &mut std::fmt::Formatter<'_>, name, count: &dyn Fn(&str) -> u64| {
            let [ok, fail, unknown, partly] = ["ok", "fail", "unknown", "partly"].map(count);
            writeln!(f, "{name:10} {ok:8} {fail:8} {unknown:8} {partly:8}")
        };
        for what in self.kinds() {
            line(f, what, &|ending| self.count(what, ending))?;
        }
        line(f, "all", &|ending| self.all(ending))
    }
}

/// The number of logins that met the same login.
#[derive(Debug)]
pub struct Logins {
    /// Logins with a revoked token that returned a new token of the session.
    pub joined: u64,
    /// Successful logins with the token of an earlier login whose answer was lost.
    pub again: u64,
    /// Pairs of tokens of joined logins that both were valid.
    pub twins: u64,
}

impl Logins {
    pub fn of(lives: &[Life]) -> Self {
        let mut logins = Self {
            joined: 0,
            again: 0,
            twins: 0,
        };
        for life in lives {
            let of_life = life.ops.iter().filter(|op| op.what == What::Login);
            let of_life: Vec<_> = of_life.collect();
            let opens = |token| {
                let with_it = |op: &&Op| op.token == Some(token);
                let mut ops = life.ops.iter().filter(with_it);
                ops.any(|op| op.is_done_for(&life.tag))
            };
            for (at, login) in of_life.iter().enumerate() {
                let same = || of_life[..at].iter().filter(|op| op.token == login.token);
                let lost = same().any(|op| op.is_unknown() && op.precedes(login));
                logins.joined += u64::from(login.is_joined());
                logins.again += u64::from(lost && login.given.is_some());
                let both = |one: usize| opens(one) && login.given.is_some_and(opens);
                let twins = same().filter_map(|op| op.given).filter(|one| both(*one));
                logins.twins += u64::try_from(twins.count()).unwrap_or(u64::MAX);
            }
        }
        logins
    }
}

/// All violations, session by session.
pub fn violations(lives: &[Life]) -> Vec<(&Life, Violation)> {
    lives
        .iter()
        .flat_map(|life| {
            check(life)
                .into_iter()
                .map(move |violation| (life, violation))
        })
        .collect()
}

/// Whether the violation names this request.
fn names(violation: &Violation, op: &Op) -> bool {
    let text = violation.to_string();
    let mut words = text.split(|it: char| it != '#' && !it.is_ascii_digit());
    words.any(|word| word == format!("#{}", op.number))
}

/// The smallest invalid history, and the number of violations of each rule.
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
        // The violation as the minimized history shows it.
        let found = check(&small).into_iter().find(same);
        let _ = writeln!(text, "{}", found.as_ref().unwrap_or(violation));
        let of_user = small.of_user.clone();
        let of_user = of_user.iter().filter(|op| names(violation, op));
        for op in projected(small, violation).ops.iter().chain(of_user) {
            let _ = writeln!(text, "  {op}");
        }
    }
    text
}
