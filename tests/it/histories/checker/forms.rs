//! Forms: a save stores both fields, also one that stays as it was loaded.
//!
//! Each request saves a unique value, so a pair of values names its request, and the pairs form a register.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::registers::{Cluster, contradiction};
use super::{Rule, Violation};
use crate::histories::history::{Fields, Life, Moment, Op, Seen, What};

type Pair<'a> = [Option<&'a str>; 2];

pub fn check(life: &Life) -> Vec<Violation> {
    broken(life).into_iter().collect()
}

fn broken(life: &Life) -> Option<Violation> {
    let saves: Vec<Save<'_>> = life.ops.iter().filter_map(Save::of).collect();
    // The form is empty at first.
    let mut clusters = BTreeMap::from([([None; 2], Cluster::write(0, 0))]);
    let mut reads: Vec<(&Op, Pair<'_>)> =
        life.pages().map(|(op, page)| (op, page.form())).collect();
    for save in &saves {
        if let Some(Seen::Form(loaded)) = save.op.seen().filter(|_| save.op.is_done_for(&life.tag))
        {
            let pair = save.changes.saved(loaded, save.value);
            clusters.insert(pair, Cluster::write(save.op.began, save.op.ended));
            reads.push((save.op, loaded.each_ref().map(Option::as_deref)));
        }
    }
    for (op, pair) in reads {
        let cluster = match clusters.entry(pair) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => match unacknowledged(&saves, pair) {
                Ok(began) => unknown.insert(Cluster::write(began, Moment::MAX)),
                Err((rule, why)) => {
                    let text = format!("{pair:?} in #{}: {why}", op.number);
                    return Some(Violation::new(rule, "form", text));
                }
            },
        };
        cluster.read(op.began, op.ended);
    }
    let clusters: Vec<Cluster> = clusters.into_values().collect();
    contradiction(&clusters).map(|text| Violation::new(Rule::NotLinearizable, "form", text))
}

/// A request that saves the form.
struct Save<'a> {
    op: &'a Op,
    value: &'a str,
    changes: Fields,
}

impl<'a> Save<'a> {
    fn of(op: &'a Op) -> Option<Self> {
        let What::Form { value, changes } = &op.what else {
            return None;
        };
        let (value, changes) = (value.as_str(), *changes);
        Some(Self { op, value, changes })
    }

    fn may_be(&self, pair: Pair<'_>) -> bool {
        self.changes.may_have_saved(pair, self.value)
    }
}

/// The moment since which a pair can be stored if no acknowledged request saved it, or the reason why it cannot be.
fn unacknowledged(saves: &[Save<'_>], pair: Pair<'_>) -> Result<Moment, (Rule, String)> {
    let began = |save: &Save<'_>| save.op.began;
    let unknown = saves.iter().filter(|save| save.op.is_unknown());
    if let Some(first) = unknown.filter(|save| save.may_be(pair)).map(began).min() {
        return Ok(first);
    }
    let wrote = |value: &str| saves.iter().find(|save| save.value == value);
    for value in pair.into_iter().flatten() {
        match wrote(value) {
            None => return Err((Rule::NeverWritten, format!("no request saved {value:?}"))),
            Some(save) if save.op.is_refused() => {
                let text = format!("{value:?} was rejected in #{}", save.op.number);
                return Err((Rule::RefusedButDone, text));
            }
            Some(_) => {}
        }
    }
    Err((Rule::Mixed, "no request saved both".to_owned()))
}
