//! The change log: the operations of one request in order, and their replay on a newer record.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytestring::ByteString;

use crate::error::session::SessionError;
use crate::record::Record;
use crate::record::change::{Change, Guard};
use crate::record::context::ApplyContext;
use crate::record::deferred::DeferredId;
use crate::token::Secret;

/// The changes of one request that are not in the store yet, in order. If it is empty, there is nothing to commit. Clones share the
/// changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChangeLog {
    entries: Option<Arc<Entries>>,
    affects: Affects,
}

#[derive(Clone, Debug, Default)]
struct Entries {
    changes: Vec<Change>,
    /// The keys of all changes, so that a handler's calls need not search a log of thousands of changes.
    keys: BTreeSet<ByteString>,
}

/// What the changes of a log affect, besides values.
#[derive(Clone, Copy, Debug, Default)]
struct Affects {
    principal: bool,
    secret: bool,
    deferred: bool,
}

impl Affects {
    fn note(&mut self, change: &Change) {
        self.principal |= matches!(
            change,
            Change::SetPrincipal { .. } | Change::ClearPrincipal(_)
        );
        self.secret |= change.rotation().is_some();
        self.deferred |= change.deferred().is_some();
    }
}

impl From<Vec<Change>> for ChangeLog {
    fn from(changes: Vec<Change>) -> Self {
        let mut log = Self::default();
        changes.into_iter().for_each(|change| log.push(change));
        log
    }
}

/// Dropping a log may drop closures of the application.
#[cfg(debug_assertions)]
impl Drop for ChangeLog {
    fn drop(&mut self) {
        if !self.is_empty() {
            crate::lock::assert_none_held();
        }
    }
}

impl ChangeLog {
    pub(crate) fn is_empty(&self) -> bool {
        self.changes().is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.changes().len()
    }

    fn changes(&self) -> &[Change] {
        self.entries
            .as_ref()
            .map_or(&[], |entries| &entries.changes)
    }

    fn take_changes(&mut self) -> Vec<Change> {
        self.affects = Affects::default();
        let entries = self.entries.take();
        entries.map_or_else(Vec::new, |entries| Arc::unwrap_or_clone(entries).changes)
    }

    pub(crate) fn append(&mut self, later: &Self) {
        for change in later.changes() {
            self.push(change.clone());
        }
    }

    pub(crate) fn push(&mut self, change: Change) {
        self.affects.note(&change);
        let entries = Arc::make_mut(self.entries.get_or_insert_default());
        for key in change.keys() {
            if !entries.keys.contains(key) {
                entries.keys.insert(key.clone());
            }
        }
        entries.changes.push(change);
    }

    /// Puts changes that could not be committed back, before those that were made since.
    pub(crate) fn restore(&mut self, mut earlier: Self) {
        for change in self.take_changes() {
            earlier.push(change);
        }
        *self = earlier;
    }

    /// Removes the changes for which `keep` is false, and returns them.
    fn retain(&mut self, keep: impl Fn(&Change) -> bool) -> Self {
        if self.changes().iter().all(&keep) {
            return Self::default();
        }
        let mut changes = self.take_changes();
        let removed: Vec<Change> = changes.extract_if(.., |change| !keep(change)).collect();
        *self = changes.into();
        removed.into()
    }

    /// Removes the change whose result this is, since its caller gets an error, and returns it.
    #[must_use]
    pub(crate) fn withdraw(&mut self, deferred: DeferredId) -> Self {
        match self.affects.deferred {
            true => self.retain(|change| change.deferred() != Some(deferred)),
            false => Self::default(),
        }
    }

    /// Confirms the results of the changes: the store has them.
    pub(crate) fn confirm(&self) {
        self.changes().iter().for_each(Change::confirm);
    }

    /// Whether the changes may sign a principal in or out.
    pub(crate) fn touches_principal(&self) -> bool {
        self.affects.principal
    }

    /// Removes the rotations, which need a new cookie, once the response head has been sent, and returns them.
    #[must_use]
    pub(crate) fn take_rotations(&mut self) -> Self {
        match self.affects.secret {
            true => self.retain(|change| change.rotation().is_none()),
            false => Self::default(),
        }
    }

    /// Removes the changes that a failed request must not commit, data and a login, and returns them. `clear_principal` and a
    /// rotation stay.
    #[must_use]
    pub(crate) fn retain_for_failed_request(&mut self) -> Self {
        self.retain(|change| matches!(change, Change::Rotate(_) | Change::ClearPrincipal(_)))
    }

    /// Whether all changes are such as a failed request commits too, and there is at least one.
    pub(crate) fn is_all_rotations(&self) -> bool {
        let mut changes = self.changes().iter();
        !self.is_empty()
            && changes.all(|change| matches!(change, Change::Rotate(_) | Change::ClearPrincipal(_)))
    }

    /// Whether any change has a result for its caller, which no other request may get.
    pub(crate) fn has_deferred(&self) -> bool {
        self.affects.deferred
    }

    /// Whether the changes as a whole have no effect. `view` is the result of applying them to `base`, or to an empty record if
    /// the session is not stored.
    pub(crate) fn changes_nothing(&self, base: Option<&Record>, view: &Record) -> bool {
        let is_skippable = !self.has_deferred() && self.new_secret().is_none();
        is_skippable
            && match base {
                Some(base) => view.has_same_content(base),
                None => view.is_empty(),
            }
    }

    /// Whether all changes are transactions, whose closures read the newer data themselves.
    pub(crate) fn is_all_transactions(&self) -> bool {
        let mut changes = self.changes().iter();
        changes.all(|change| matches!(change, Change::Transaction(_)))
    }

    /// A copy without the changes of the data under known keys.
    pub(crate) fn without_data(&self) -> Self {
        let rest = self.changes().iter();
        let rest = rest.filter(|change| change.keys().is_empty());
        Self::from(rest.cloned().collect::<Vec<_>>())
    }

    /// The keys that the changes may modify; those of transactions are unknown.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &ByteString> {
        self.entries.iter().flat_map(|entries| &entries.keys)
    }

    /// Applies the changes to the record in order, and stops at the first that fails.
    pub(crate) fn apply(
        &self,
        record: &mut Record,
        apply_context: &ApplyContext,
    ) -> Result<(), SessionError> {
        self.changes()
            .iter()
            .try_for_each(|change| change.apply(record, apply_context))
    }

    /// Applies the changes to a record that another request has signed in as the same principal. Their secret becomes valid in
    /// addition to those of the record, whose principal, epoch and deadline stay.
    pub(crate) fn join(
        &self,
        record: &mut Record,
        apply_context: &ApplyContext,
    ) -> Result<(), SessionError> {
        let changes = self.changes().iter();
        changes
            .filter(|change| change.rotation().is_none())
            .try_for_each(|change| change.apply(record, apply_context))?;
        let rotation = self.changes().iter().rev().find_map(Change::rotation);
        record.added.extend(rotation.map(|it| it.hash.clone()));
        Ok(())
    }

    /// The principal whom the changes sign in, if all their rotations are logins of that principal.
    pub(crate) fn login(&self) -> Option<&str> {
        if !self.affects.secret {
            return None;
        }
        let mut rotations = self.changes().iter().filter(|it| it.rotation().is_some());
        let Change::SetPrincipal { who, .. } = rotations.next()? else {
            return None;
        };
        let same =
            |it: &Change| matches!(it, Change::SetPrincipal { who: other, .. } if other == who);
        rotations.all(same).then_some(who)
    }

    /// Whether any change is a login.
    pub(crate) fn has_login(&self) -> bool {
        let is_login = |change: &Change| matches!(change, Change::SetPrincipal { .. });
        self.affects.secret && self.changes().iter().any(is_login)
    }

    /// What the index said before the last login, if that compares it.
    pub(crate) fn guard(&self) -> Option<Guard> {
        let logins = self.changes().iter().rev();
        let guard = |it: &Change| match it {
            Change::SetPrincipal { guard, .. } => Some(*guard),
            _ => None,
        };
        logins.clone().find_map(guard)?
    }

    /// Whether the first change is a login.
    pub(crate) fn begins_with_login(&self) -> bool {
        matches!(self.changes().first(), Some(Change::SetPrincipal { .. }))
    }

    /// Applies every change that succeeds, as a dry run: it does not set their results, since a commit in flight may set them.
    /// Returns false if a change failed.
    pub(crate) fn replay_all_possible(
        &self,
        record: &mut Record,
        apply_context: &ApplyContext,
    ) -> bool {
        let mut all_applied = true;
        for change in self.changes() {
            all_applied &= change.dry_run().apply(record, apply_context).is_ok();
        }
        all_applied
    }

    /// The new secret of the last rotation, if there is one.
    pub(crate) fn new_secret(&self) -> Option<&Secret> {
        if !self.affects.secret {
            return None;
        }
        let rotation = self.changes().iter().rev().find_map(Change::rotation);
        rotation.map(|rotation| &rotation.secret)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::record::change::tests::{now, rotation};
    use crate::record::change::{Check, Rewrite};
    use crate::record::deferred::Deferred;
    use crate::record::flash::{Flash, Level};
    use crate::record::json::Json;
    use crate::record::kept::Kept;
    use crate::record::tests::record;
    use crate::record::value::{decode, encode};

    #[test]
    fn a_failed_request_commits_a_sign_out_but_not_a_login() {
        let mut log = ChangeLog::from(vec![
            Op::Insert("a", 1).change().0,
            Change::SetPrincipal {
                who: "mia".into(),
                rotation: rotation(),
                guard: None,
            },
            Change::Rotate(rotation()),
            Change::ClearPrincipal(rotation()),
        ]);
        let removed = log.retain_for_failed_request();
        assert_eq!(removed.len(), 2);
        assert_eq!(format!("{:?}", log.changes()), "[Rotate, ClearPrincipal]");
    }

    fn set_principal(who: &str) -> Change {
        Change::SetPrincipal {
            who: who.into(),
            rotation: rotation(),
            guard: None,
        }
    }

    #[test]
    fn only_a_login_or_a_sign_out_changes_the_principal() {
        for (change, touches) in [
            (Op::Insert("a", 1).change().0, false),
            (Change::Rotate(rotation()), false),
            (set_principal("mia"), true),
            (Change::ClearPrincipal(rotation()), true),
        ] {
            let mut log = ChangeLog::default();
            log.push(Op::Remove("b").change().0);
            log.push(change);
            log.push(Op::Remove("c").change().0);
            assert_eq!(log.touches_principal(), touches, "{log:?}");
        }
    }

    #[test]
    fn removing_changes_updates_the_summary() {
        let (take, slot) = Op::Take("a").change();
        let deferred = take.deferred().unwrap();
        let mut log = ChangeLog::from(vec![Op::Insert("b", 1).change().0, take]);
        assert!(log.has_deferred());
        assert_eq!(log.withdraw(deferred).len(), 1);
        assert!(!log.has_deferred());
        assert_eq!(log.keys().collect::<Vec<_>>(), ["b"]);
        drop(slot);

        let mut log = ChangeLog::from(vec![
            Change::Rotate(rotation()),
            set_principal("mia"),
            Op::Insert("b", 1).change().0,
            Change::ClearPrincipal(rotation()),
        ]);
        assert_eq!(log.take_rotations().len(), 3);
        assert!(log.new_secret().is_none() && !log.touches_principal());
        assert_eq!(format!("{:?}", log.changes()), "[Insert]");
    }

    #[test]
    fn a_dry_run_does_not_set_results() {
        let count = Deferred::new();
        let increment = Change::Increment {
            key: "n".into(),
            by: 1,
            deferred: Some(count.clone()),
        };
        let (take, taken) = Op::Take("a").change();
        let (take_flashes, shown) = Op::TakeFlashes.change();
        let log = ChangeLog::from(vec![increment, take, take_flashes]);
        let before = [Op::Insert("a", 7), Op::Insert("n", 5), Op::Flash(3)];
        let mut stored = record();
        for op in before {
            op.change().0.apply(&mut stored, &now()).unwrap();
        }
        log.apply(&mut stored, &now()).unwrap();
        assert!(log.replay_all_possible(&mut record(), &now()));
        assert_eq!(count.unconfirmed(), Some(6));
        assert_eq!(taken.given(), Some(Given::Value(Some(json!(7)))));
        let flashes = Given::Flashes(vec!["3".to_owned()]);
        assert_eq!(shown.given(), Some(flashes));
    }

    #[test]
    fn a_dry_run_skips_a_change_that_fails_and_reports_it() {
        let refused = Op::Spend("a").change().0;
        let log = ChangeLog::from(vec![refused, Op::Insert("b", 1).change().0]);
        let mut seen = record();
        assert!(!log.replay_all_possible(&mut seen, &now()));
        assert_eq!(seen.data.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[cfg(debug_assertions)]
    #[test]
    #[should_panic(expected = "while a lock of sessile is held")]
    fn dropping_a_log_under_a_lock_panics() {
        let lock = crate::lock::Lock::new(());
        let log = ChangeLog::from(vec![Op::Remove("a").change().0]);
        let _held = lock.lock();
        drop(log);
    }

    /// An operation of a request. It is defined twice: as a `Change`, and as its effect on a map of plain values.
    #[derive(Clone, Debug)]
    enum Op {
        Insert(&'static str, i64),
        Remove(&'static str),
        Clear(Vec<&'static str>),
        Increment(&'static str, i64),
        Push(&'static str, i64),
        /// Doubles and adds, so that the order matters.
        Update(&'static str, i64),
        /// Subtracts one, and fails at zero.
        Spend(&'static str),
        Take(&'static str),
        Flash(u8),
        TakeFlashes,
    }

    /// The result of an operation.
    #[derive(Clone, Debug, PartialEq)]
    enum Given {
        Value(Option<Value>),
        Flashes(Vec<String>),
    }

    fn texts(flashes: &[Kept<Flash>]) -> Vec<String> {
        let known = flashes.iter().filter_map(Kept::known);
        known.map(|flash| flash.text.clone()).collect()
    }

    enum Slot {
        None,
        Value(Deferred<Json>),
        Flashes(Deferred<Vec<Kept<Flash>>>),
    }

    impl Slot {
        fn given(&self) -> Option<Given> {
            match self {
                Self::None => None,
                Self::Value(deferred) => {
                    let value = deferred.unconfirmed().map(|value| value.decode().unwrap());
                    Some(Given::Value(value))
                }
                Self::Flashes(deferred) => {
                    let flashes = deferred.unconfirmed().unwrap_or_default();
                    Some(Given::Flashes(texts(&flashes)))
                }
            }
        }
    }

    fn rewrite(f: impl Fn(i64) -> Option<i64> + Send + Sync + 'static) -> Rewrite {
        Arc::new(move |value| {
            let number = value.map(|value| decode("k", value)).transpose()?;
            let refused = || SessionError::Refused { key: "k".into() };
            let number = f(number.unwrap_or_default()).ok_or_else(refused)?;
            encode("k", &number)
        })
    }

    impl Op {
        fn change(&self) -> (Change, Slot) {
            let value = |number: &i64| Json::encode(number).unwrap();
            let change = match self.clone() {
                Self::Insert(key, n) => Change::Insert {
                    key: key.into(),
                    value: value(&n),
                },
                Self::Remove(key) => Change::Remove { key: key.into() },
                Self::Clear(keys) => Change::Clear {
                    keys: keys.into_iter().map(ByteString::from).collect(),
                },
                Self::Increment(key, by) => Change::Increment {
                    key: key.into(),
                    by,
                    deferred: None,
                },
                Self::Push(key, n) => Change::Push {
                    key: key.into(),
                    value: value(&n),
                },
                Self::Update(key, n) => Change::Update {
                    key: key.into(),
                    rewrite: rewrite(move |value| Some(value.wrapping_mul(2).wrapping_add(n))),
                },
                Self::Spend(key) => Change::Update {
                    key: key.into(),
                    rewrite: rewrite(|value| (value > 0).then(|| value - 1)),
                },
                Self::Take(key) => {
                    let deferred = Deferred::new();
                    let check: Check = |_, _| Ok(());
                    let change = Change::Take {
                        key: key.into(),
                        check,
                        deferred: deferred.clone(),
                    };
                    return (change, Slot::Value(deferred));
                }
                Self::Flash(n) => {
                    Change::AddFlash(Kept::new(Flash::new(Level::Info, n.to_string())))
                }
                Self::TakeFlashes => {
                    let deferred = Deferred::new();
                    let change = Change::TakeFlashes {
                        deferred: deferred.clone(),
                    };
                    return (change, Slot::Flashes(deferred));
                }
            };
            (change, Slot::None)
        }
    }

    /// The reference model of a session.
    #[derive(Clone, Debug, Default, PartialEq)]
    struct Plain {
        data: BTreeMap<&'static str, Value>,
        flashes: Vec<String>,
    }

    impl Plain {
        /// Applies the operation; returns `None` if it fails.
        fn op(&mut self, op: &Op) -> Option<Option<Given>> {
            let number = |value: Option<&Value>| value.map_or(Some(0), Value::as_i64);
            match op {
                Op::Insert(key, n) => drop(self.data.insert(key, json!(n))),
                Op::Remove(key) => drop(self.data.remove(key)),
                Op::Clear(keys) => self.data.retain(|key, _| !keys.contains(key)),
                Op::Increment(key, by) => {
                    let sum = number(self.data.get(key))?.checked_add(*by)?;
                    self.data.insert(key, json!(sum));
                }
                Op::Push(key, n) => {
                    let list = self.data.get(key).cloned().unwrap_or(json!([]));
                    let mut list = list.as_array()?.clone();
                    list.push(json!(n));
                    self.data.insert(key, json!(list));
                }
                Op::Update(key, n) => {
                    let value = number(self.data.get(key))?;
                    let value = value.wrapping_mul(2).wrapping_add(*n);
                    self.data.insert(key, json!(value));
                }
                Op::Spend(key) => {
                    let value = number(self.data.get(key)).filter(|value| *value > 0)?;
                    self.data.insert(key, json!(value - 1));
                }
                Op::Take(key) => return Some(Some(Given::Value(self.data.remove(key)))),
                Op::Flash(n) => self.flashes.push(n.to_string()),
                Op::TakeFlashes => {
                    return Some(Some(Given::Flashes(std::mem::take(&mut self.flashes))));
                }
            }
            Some(None)
        }

        /// Applies all operations of a request; returns `None` and changes nothing if one fails.
        fn request(&mut self, ops: &[Op]) -> Option<Vec<Given>> {
            let mut done = self.clone();
            let given: Option<Vec<_>> = ops.iter().map(|op| done.op(op)).collect();
            let given = given?;
            *self = done;
            Some(given.into_iter().flatten().collect())
        }

        fn of(record: &Record) -> Self {
            let known = |key: &ByteString| KEYS.into_iter().find(|known| key == known).unwrap();
            let value = |(key, value): (&ByteString, &Json)| (known(key), value.decode().unwrap());
            Self {
                data: record.data.iter().map(value).collect(),
                flashes: texts(&record.flash),
            }
        }
    }

    const KEYS: [&str; 3] = ["a", "b", "c"];

    fn key() -> impl Strategy<Value = &'static str> {
        proptest::sample::select(&KEYS[..])
    }

    fn op() -> impl Strategy<Value = Op> {
        let n = -3..4_i64;
        prop_oneof![
            (key(), n.clone()).prop_map(|(key, n)| Op::Insert(key, n)),
            key().prop_map(Op::Remove),
            proptest::sample::subsequence(&KEYS[..], 1..3).prop_map(Op::Clear),
            (key(), prop_oneof![n.clone(), Just(i64::MAX)])
                .prop_map(|(key, n)| Op::Increment(key, n)),
            (key(), n.clone()).prop_map(|(key, n)| Op::Push(key, n)),
            (key(), n).prop_map(|(key, n)| Op::Update(key, n)),
            key().prop_map(Op::Spend),
            key().prop_map(Op::Take),
            any::<u8>().prop_map(Op::Flash),
            Just(Op::TakeFlashes),
        ]
    }

    /// Requests in the order of their commits, which may differ from the order of their loads.
    fn requests() -> impl Strategy<Value = Vec<Vec<Op>>> {
        let request = proptest::collection::vec(op(), 1..5);
        proptest::collection::vec(request, 1..7).prop_shuffle()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Replaying the logs in the order of their commits gives the same session, the same failures and the same results as
        /// running the requests one after the other, whatever they had loaded.
        #[test]
        fn replay_equals_running_the_requests_in_the_order_of_their_commits(requests in requests()) {
            let mut stored = record();
            let mut plain = Plain::default();
            let loaded = stored.clone();
            for ops in &requests {
                let (changes, slots): (Vec<_>, Vec<_>) = ops.iter().map(Op::change).unzip();
                let log = ChangeLog::from(changes);
                // The handler's dry run on the old record, whose results must not remain.
                log.replay_all_possible(&mut loaded.clone(), &now());
                let mut replayed = stored.clone();
                let done = log.apply(&mut replayed, &now());
                let expected = plain.request(ops);
                prop_assert_eq!(done.is_ok(), expected.is_some(), "{:?}", done);
                if done.is_ok() {
                    stored = replayed;
                    let given: Vec<_> = slots.iter().filter_map(Slot::given).collect();
                    prop_assert_eq!(given, expected.unwrap());
                }
                prop_assert_eq!(&Plain::of(&stored), &plain);
            }
        }

        /// Changes that add up give the same result in any order of commits.
        #[test]
        fn increments_pushes_and_flashes_add_up_in_any_order(
            (first, second) in proptest::collection::vec((0..3_usize, 0..9_i64), 1..12)
                .prop_flat_map(|ops| (Just(ops.clone()), Just(ops).prop_shuffle()))
        ) {
            let outcome = |ops: &[(usize, i64)]| {
                let mut stored = record();
                for (kind, n) in ops {
                    let op = match kind {
                        0 => Op::Increment("a", *n),
                        1 => Op::Push("b", *n),
                        _ => Op::Flash(u8::try_from(*n).unwrap()),
                    };
                    ChangeLog::from(vec![op.change().0]).apply(&mut stored, &now()).unwrap();
                }
                let mut plain = Plain::of(&stored);
                plain.flashes.sort();
                let mut list = plain.data.remove("b").unwrap_or_default();
                if let Some(list) = list.as_array_mut() {
                    list.sort_by_key(Value::as_i64);
                }
                (plain, list)
            };
            prop_assert_eq!(outcome(&first), outcome(&second));
        }

        /// A change that fails leaves the record as it was.
        #[test]
        fn one_change_is_applied_completely_or_not_at_all(before in requests(), op in op()) {
            let mut stored = record();
            for ops in before {
                let log = ChangeLog::from(ops.iter().map(|op| op.change().0).collect::<Vec<_>>());
                log.replay_all_possible(&mut stored, &now());
            }
            let mut after = stored.clone();
            if op.change().0.apply(&mut after, &now()).is_err() {
                prop_assert_eq!(Plain::of(&after), Plain::of(&stored));
            }
        }
    }
}
