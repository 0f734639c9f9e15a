//! Registers: writes in place of what is there, each of a value of its own, and reads.
//!
//! With a value of its own for each write, linearizability can be decided without search (Gibbons and Korach, "Testing
//! Shared Memories", 1997). All operations on one value form a cluster. Where one of them ends before another begins, the
//! register holds the value from that end to the last beginning: a forward zone. If they all overlap, the value is held
//! at some moment of the time that they share: a backward zone. The history is linearizable if no two forward zones
//! overlap, no backward zone lies inside of a forward one, and nothing is read that was written later.

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
        // That both are the same is a rule of its own.
        What::Pair { value } => Some((PAIR[0], value)),
        _ => None,
    }
}

/// The operations on one value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cluster {
    /// When its write began.
    pub written: Moment,
    /// The first end of any of its operations.
    pub first_end: Moment,
    /// The last beginning of any of its operations.
    pub last_begin: Moment,
    /// The first end of any of its reads.
    pub first_read: Moment,
}

impl Cluster {
    /// A write; one of unknown outcome has no end.
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

    /// From the lower to the higher bound, whichever they are.
    fn zone(&self) -> (Moment, Moment) {
        let (one, other) = (self.first_end, self.last_begin);
        (one.min(other), one.max(other))
    }
}

/// Whether the clusters contradict each other or themselves, and how.
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
        return Some("two values must have been there at the same time");
    }
    let inside = |(from, to): (Moment, Moment)| {
        // The zone that begins last before this one is the only one that it can lie in.
        let before = forward.partition_point(|zone| zone.0 < from);
        before.checked_sub(1).is_some_and(|at| to < forward[at].1)
    };
    clusters
        .iter()
        .filter(|cluster| !cluster.is_forward())
        .any(|cluster| inside(cluster.zone()))
        .then_some("one value must have been there all the time, and another meanwhile")
}

fn register(life: &Life, key: &str) -> Option<Violation> {
    let mut clusters: BTreeMap<Option<&str>, Cluster> = BTreeMap::new();
    // Before anything was written there was nothing.
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
                "{value:?} was refused in #{} and is there in #{}",
                refused.number, op.number
            );
            return Some(Violation::new(Rule::RefusedButDone, key, text));
        } else {
            let text = format!("nobody wrote {value:?}, and it is there in #{}", op.number);
            return Some(Violation::new(Rule::NeverWritten, key, text));
        }
    }
    let clusters: Vec<Cluster> = clusters.into_values().collect();
    contradiction(&clusters).map(|text| Violation::new(Rule::NotLinearizable, key, text))
}
