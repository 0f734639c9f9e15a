//! Transactions that move money between two accounts: the total stays the same, and a transaction returns the result of
//! its committed run.
//!
//! Each transaction stores its name, so the accounts name the last transaction, and these names form a register.

use std::collections::BTreeMap;

use super::registers::{Cluster, contradiction};
use super::{Rule, Violation};
use crate::histories::history::{Life, Moment, Op, Seen, What};
use crate::support::ledger::{Bank, START};

const SUBJECT: &str = "accounts";

pub fn check(life: &Life) -> Vec<Violation> {
    let violation = |rule, text| Violation::new(rule, SUBJECT, text);
    let moves: Vec<Move<'_>> = life.ops.iter().filter_map(Move::of).collect();
    let mut reads: Vec<(&Op, Bank)> = life.pages().map(|(op, page)| (op, page.bank())).collect();
    let nothing = Bank {
        balances: [START; 2],
        last: None,
    };
    let mut known = BTreeMap::from([(None, nothing.balances)]);
    let mut clusters = BTreeMap::from([(None, Cluster::write(0, 0))]);
    let mut next: BTreeMap<Option<&str>, &Op> = BTreeMap::new();
    let mut violations = Vec::new();
    for Move { op, name, .. } in &moves {
        if op.is_unknown() {
            clusters.insert(Some(*name), Cluster::write(op.began, Moment::MAX));
        }
        match op.seen().filter(|_| op.is_done_for(&life.tag)) {
            Some(Seen::Moved(before, after)) => {
                known.insert(Some(*name), after.balances);
                clusters.insert(Some(*name), Cluster::write(op.began, op.ended));
                reads.push((op, before.clone()));
                reads.push((op, after.clone()));
                if let Some(other) = next.insert(before.last.as_deref(), op) {
                    let text = format!(
                        "#{} and #{} both follow {:?}",
                        other.number, op.number, before.last
                    );
                    violations.push(violation(Rule::StaleResult, text));
                }
            }
            Some(Seen::Aborted(bank)) => reads.push((op, bank.clone())),
            _ => {}
        }
    }
    violations.extend(moves.iter().filter_map(|moved| moved.wrong_result(life)));
    for (op, bank) in &reads {
        let text = format!("{:?} in #{}", bank.balances, op.number);
        if bank.balances.iter().any(|left| *left < 0) || total(bank.balances) != 2 * START {
            violations.push(violation(Rule::Unbalanced, text.clone()));
        }
        let last = bank.last.as_deref();
        let Some(cluster) = clusters.get_mut(&last) else {
            let refused = moves.iter().find(|moved| Some(moved.name) == last);
            let (rule, why) = match refused {
                Some(moved) => (
                    Rule::RefusedButDone,
                    format!("rejected in #{}", moved.op.number),
                ),
                None => (Rule::NeverWritten, "no transaction of this name".to_owned()),
            };
            violations.push(violation(
                rule,
                format!("{last:?} in #{}: {why}", op.number),
            ));
            continue;
        };
        // The state that a transaction leaves is not a read of it.
        let own = matches!(&op.what, What::Move { name, .. } if Some(name.as_str()) == last);
        if !own {
            cluster.read(op.began, op.ended);
        }
        let balances = *known.entry(last).or_insert(bank.balances);
        if balances != bank.balances {
            let text = format!("after {last:?} both {balances:?} and {text}");
            violations.push(violation(Rule::StaleResult, text));
        }
    }
    let clusters: Vec<Cluster> = clusters.into_values().collect();
    violations.extend(
        contradiction(&clusters).map(|text| violation(Rule::NotLinearizable, text.to_owned())),
    );
    violations
}

fn total(balances: [i64; 2]) -> i64 {
    balances.into_iter().fold(0, i64::saturating_add)
}

struct Move<'a> {
    op: &'a Op,
    name: &'a str,
    from: usize,
    amount: i64,
}

impl<'a> Move<'a> {
    fn of(op: &'a Op) -> Option<Self> {
        let What::Move { name, from, amount } = &op.what else {
            return None;
        };
        Some(Self {
            op,
            name,
            from: *from,
            amount: *amount,
        })
    }

    /// A violation if the transaction aborted although the balance sufficed, or moved another amount.
    fn wrong_result(&self, life: &Life) -> Option<Violation> {
        let right = match self.op.seen().filter(|_| self.op.is_done_for(&life.tag))? {
            Seen::Aborted(bank) => bank.balances[self.from] < self.amount,
            Seen::Moved(before, after) => {
                let moved = before.balances[self.from].checked_sub(after.balances[self.from]);
                moved == Some(self.amount) && after.last.as_deref() == Some(self.name)
            }
            _ => true,
        };
        let text = format!("{} from {} in #{}", self.amount, self.from, self.op.number);
        (!right).then(|| Violation::new(Rule::StaleResult, SUBJECT, text))
    }
}
