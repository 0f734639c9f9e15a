//! Registers: each write replaces the value by a unique one.
//!
//! With unique values, linearizability can be decided without search (Gibbons and Korach, "Testing Shared Memories",
//! 1997). All operations on one value form a cluster. If one of them ends before another begins, the register holds the
//! value from the first end to the last start: a forward zone. If they all overlap, the register holds the value at
//! some moment of their overlap: a backward zone. The history is linearizable if no two forward zones overlap, no
//! backward zone lies inside a forward one, and no value is read before it is written.

use std::collections::{BTreeMap, BTreeSet};

use super::{Rule, Violation};
use crate::histories::history::{Ending, Life, Moment, Op, Page, What};

pub const PAIR: [&str; 2] = ["pair.left", "pair.right"];

pub fn check(life: &Life) -> Vec<Violation> {
    let mut violations: Vec<Violation> = life.pages().filter_map(half).collect();
    let keys: BTreeSet<&str> = life
        .ops
        .iter()
        .filter_map(|op| Some(write(&op.what)?.0))
        .collect();
    violations.extend(keys.into_iter().filter_map(|key| register(life, key)));
    violations
}

fn half((op, page): (&Op, &Page)) -> Option<Violation> {
    let [left, right] = PAIR.map(|key| page.text(key));
    let text = format!("{left:?} and {right:?} in #{}", op.number);
    (left != right).then(|| Violation::new(Rule::HalfDone, "pair", text))
}

fn write(what: &What) -> Option<(&str, &str)> {
    match what {
        What::Write { key, value } => Some((key, value)),
        // Another rule checks that both keys have the same value.
        What::Pair { value } => Some((PAIR[0], value)),
        _ => None,
    }
}

/// The operations on one value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cluster {
    /// The start of its write.
    pub written: Moment,
    /// The first end of any of its operations.
    pub first_end: Moment,
    /// The last start of any of its operations.
    pub last_begin: Moment,
    /// The first end of any of its reads.
    pub first_read: Moment,
}

impl Cluster {
    /// A cluster of one write. A write with an unknown outcome ends at `Moment::MAX`.
    pub fn write(began: Moment, ended: Moment) -> Self {
        Self {
            written: began,
            first_end: ended,
            last_begin: began,
            first_read: Moment::MAX,
        }
    }

    pub fn read(&mut self, began: Moment, ended: Moment) {
        self.first_end = self.first_end.min(ended);
        self.last_begin = self.last_begin.max(began);
        self.first_read = self.first_read.min(ended);
    }

    fn is_forward(&self) -> bool {
        self.first_end < self.last_begin
    }

    /// Both bounds, the lower one first.
    fn zone(&self) -> (Moment, Moment) {
        let (one, other) = (self.first_end, self.last_begin);
        (one.min(other), one.max(other))
    }
}

/// The contradiction between clusters, or inside one, if there is any.
pub fn contradiction(clusters: &[Cluster]) -> Option<&'static str> {
    if clusters
        .iter()
        .any(|cluster| cluster.first_read < cluster.written)
    {
        return Some("read before it was written");
    }
    let mut forward: Vec<_> = clusters
        .iter()
        .filter(|cluster| cluster.is_forward())
        .map(Cluster::zone)
        .collect();
    forward.sort_unstable();
    if forward.windows(2).any(|pair| pair[1].0 < pair[0].1) {
        return Some("two values at the same time");
    }
    let inside = |(from, to): (Moment, Moment)| {
        // Only the last zone that begins before this one can contain it.
        let before = forward.partition_point(|zone| zone.0 < from);
        before.checked_sub(1).is_some_and(|at| to < forward[at].1)
    };
    clusters
        .iter()
        .filter(|cluster| !cluster.is_forward())
        .any(|cluster| inside(cluster.zone()))
        .then_some("a value inside the time of another value")
}

fn register(life: &Life, key: &str) -> Option<Violation> {
    let mut clusters: BTreeMap<Option<&str>, Cluster> = BTreeMap::new();
    // The register is empty at first.
    clusters.insert(None, Cluster::write(0, 0));
    let mut refused: BTreeMap<&str, &Op> = BTreeMap::new();
    for op in &life.ops {
        let Some((_, value)) = write(&op.what).filter(|(written, _)| *written == key) else {
            continue;
        };
        match &op.ending {
            Ending::NotDone(_) | Ending::Partly | Ending::Done { owner: None, .. } => {
                refused.insert(value, op);
            }
            Ending::Done { .. } => {
                clusters.insert(Some(value), Cluster::write(op.began, op.ended));
            }
            Ending::Unknown(_) | Ending::Later | Ending::Wrong(_) => {
                clusters.insert(Some(value), Cluster::write(op.began, Moment::MAX));
            }
        }
    }
    for (op, page) in life.pages() {
        let value = page.text(key);
        if let Some(cluster) = clusters.get_mut(&value) {
            cluster.read(op.began, op.ended);
        } else if let Some(refused) = value.and_then(|value| refused.get(value)) {
            let text = format!(
                "{value:?} was rejected in #{} and is present in #{}",
                refused.number, op.number
            );
            return Some(Violation::new(Rule::RefusedButDone, key, text));
        } else {
            let text = format!(
                "no request wrote {value:?}, which is present in #{}",
                op.number
            );
            return Some(Violation::new(Rule::NeverWritten, key, text));
        }
    }
    let clusters: Vec<Cluster> = clusters.into_values().collect();
    contradiction(&clusters).map(|text| Violation::new(Rule::NotLinearizable, key, text))
}
