//! The operations of a request on its session, in a form that can be replayed on a newer record.
//!
//! How the changes of concurrent requests merge when sessile replays a log:
//!
//! | change | on a newer record |
//! |---|---|
//! | `insert`, `remove` | the later commit wins, key by key |
//! | `increment`, `push` | the changes add up |
//! | `update`, `try_update` | the closure runs again, on the newer value |
//! | `transaction` | the closure runs again, on all of the newer data |
//! | `take`, `take_flashes` | takes the newer value or messages, or nothing |
//! | `flash` | the session keeps both messages |
//! | `clear` | removes the keys that it saw |
//! | creation | nothing, if the session is stored |
//! | rotation, login, `clear_principal` | replayed only within its epoch, see [`crate::commit`]; a login may join another login of its principal |

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;

use crate::error::session::SessionError;
use crate::record::context::ApplyContext;
use crate::record::deferred::{Deferred, DeferredId};
use crate::record::fingerprint::Network;
use crate::record::flash::{Flash, add, take};
use crate::record::json::Json;
use crate::record::kept::Kept;
use crate::record::transaction::Transaction;
use crate::record::value::{append, count};
use crate::record::version::Epoch;
use crate::record::{Record, Retired};
use crate::time::{Millis, after};
use crate::token::{Secret, SecretHash};

/// How long sessile recognizes a replaced secret, so that a request which the browser sent before it had the new cookie does not
/// overwrite that cookie.
const RETIRED_FOR: Duration = Duration::from_secs(10);

/// How many replaced secrets sessile recognizes at most.
const MAX_RETIRED: usize = 8;

/// A closure that computes a new value from the present one, with the types erased.
pub(crate) type Rewrite = Arc<dyn Fn(Option<&Json>) -> Result<Json, SessionError> + Send + Sync>;

/// Checks that a value has the type that `take` was asked for; a value of another type stays.
pub(crate) type Check = fn(key: &str, value: &Json) -> Result<(), SessionError>;

/// A new secret, and the epoch that begins with it.
#[derive(Clone)]
pub(crate) struct Rotation {
    pub(crate) secret: Secret,
    pub(crate) hash: SecretHash,
    pub(crate) epoch: Epoch,
}

/// What the index of a principal said before the sign-in was checked, for one that compares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guard {
    pub(crate) generation: u64,
    pub(crate) read_at: Millis,
}

/// New timeouts of a session; those that are `None` stay as they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lifetimes {
    pub(crate) idle: Option<Duration>,
    pub(crate) absolute: Option<Duration>,
    pub(crate) persistent: Option<bool>,
}

#[derive(Clone)]
pub(crate) enum Change {
    Insert {
        key: ByteString,
        value: Json,
    },
    Remove {
        key: ByteString,
    },
    Clear {
        keys: Vec<ByteString>,
    },
    Increment {
        key: ByteString,
        by: i64,
        deferred: Option<Deferred<i64>>,
    },
    Push {
        key: ByteString,
        value: Json,
    },
    Update {
        key: ByteString,
        rewrite: Rewrite,
    },
    Take {
        key: ByteString,
        check: Check,
        deferred: Deferred<Json>,
    },
    Transaction(Transaction),
    AddFlash(Kept<Flash>),
    TakeFlashes {
        deferred: Deferred<Vec<Kept<Flash>>>,
    },
    Lifetimes(Lifetimes),
    /// Stores a session that is not stored yet, even if it is empty, and with this epoch, so that a CSRF token which was made
    /// from it stays valid.
    Create(Epoch),
    Rotate(Rotation),
    SetPrincipal {
        who: ByteString,
        rotation: Rotation,
        guard: Option<Guard>,
    },
    SetLabel(ByteString),
    ClearPrincipal(Rotation),
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Insert { .. } => "Insert",
            Self::Remove { .. } => "Remove",
            Self::Clear { .. } => "Clear",
            Self::Increment { .. } => "Increment",
            Self::Push { .. } => "Push",
            Self::Update { .. } => "Update",
            Self::Take { .. } => "Take",
            Self::Transaction(_) => "Transaction",
            Self::AddFlash(_) => "AddFlash",
            Self::TakeFlashes { .. } => "TakeFlashes",
            Self::Lifetimes(_) => "Lifetimes",
            Self::Create(_) => "Create",
            Self::Rotate(_) => "Rotate",
            Self::SetPrincipal { .. } => "SetPrincipal",
            Self::SetLabel(_) => "SetLabel",
            Self::ClearPrincipal(_) => "ClearPrincipal",
        })
    }
}

impl Change {
    /// Applies the change to the record. On an error the record stays as it was.
    pub(crate) fn apply(
        &self,
        record: &mut Record,
        apply_context: &ApplyContext,
    ) -> Result<(), SessionError> {
        match self {
            Self::Insert { key, value } => {
                record.data.set(key, value.clone());
            }
            Self::Remove { key } => {
                record.data.remove(key);
            }
            Self::Clear { keys } => {
                for key in keys {
                    record.data.remove(key);
                }
            }
            Self::Increment { key, by, deferred } => {
                let sum = count(&mut record.data, key, *by)?;
                if let Some(deferred) = deferred {
                    deferred.resolve(Some(sum));
                }
            }
            Self::Push { key, value } => append(&mut record.data, key, value)?,
            Self::Transaction(transaction) => transaction.run(&mut record.data)?,
            Self::Update { key, rewrite } => {
                let value = rewrite(record.data.get(key))?;
                record.data.set(key, value);
            }
            Self::Take {
                key,
                check,
                deferred,
            } => {
                if let Some(value) = record.data.get(key) {
                    check(key, value)?;
                }
                deferred.resolve(record.data.remove(key));
            }
            Self::AddFlash(flash) => add(&mut record.flash, flash),
            Self::TakeFlashes { deferred } => deferred.resolve(Some(take(&mut record.flash))),
            Self::Lifetimes(lifetimes) => {
                record.idle_timeout = lifetimes.idle.or(record.idle_timeout);
                record.absolute_timeout = lifetimes.absolute.or(record.absolute_timeout);
                record.persistent = lifetimes.persistent.unwrap_or(record.persistent);
                if lifetimes.absolute.is_some() {
                    restart(record, record.started, apply_context);
                }
            }
            Self::Create(epoch) => {
                if record.epoch == Epoch::none() {
                    record.epoch = *epoch;
                }
            }
            Self::Rotate(rotation) => rotate(record, rotation, apply_context.now),
            Self::SetLabel(label) => record.label = Some(label.clone()),
            Self::SetPrincipal { who, rotation, .. } => {
                if record.belongs_to_another(who) {
                    record.data.clear();
                    record.flash.clear();
                    record.idle_timeout = None;
                    record.absolute_timeout = None;
                    record.persistent = apply_context.persistent;
                }
                record.former_principal = None;
                record.principal = Some(who.clone());
                restart(record, apply_context.now, apply_context);
                record.fingerprint = apply_context.network.map(Network::to_text);
                rotate(record, rotation, apply_context.now);
            }
            Self::ClearPrincipal(rotation) => {
                record.former_principal =
                    record.principal.take().or(record.former_principal.take());
                rotate(record, rotation, apply_context.now);
            }
        }
        Ok(())
    }

    /// The key that this change may create.
    pub(crate) fn new_key(&self) -> Option<&str> {
        match self {
            Self::Insert { key, .. } | Self::Increment { key, .. } | Self::Push { key, .. } => {
                Some(key)
            }
            _ => None,
        }
    }

    /// The [`Deferred`] that receives the result of this change.
    pub(crate) fn deferred(&self) -> Option<DeferredId> {
        match self {
            Self::Increment { deferred, .. } => deferred.as_ref().map(Deferred::id),
            Self::Take { deferred, .. } => Some(deferred.id()),
            Self::TakeFlashes { deferred } => Some(deferred.id()),
            Self::Transaction(transaction) => Some(transaction.deferred()),
            _ => None,
        }
    }

    /// A copy that keeps its result to itself, for a dry run.
    pub(crate) fn dry_run(&self) -> Self {
        let mut copy = self.clone();
        match &mut copy {
            Self::Increment { deferred, .. } => *deferred = None,
            Self::Take { deferred, .. } => *deferred = Deferred::new(),
            Self::TakeFlashes { deferred } => *deferred = Deferred::new(),
            Self::Transaction(transaction) => *transaction = transaction.dry_run(),
            _ => {}
        }
        copy
    }

    pub(crate) fn confirm(&self) {
        match self {
            Self::Increment {
                deferred: Some(deferred),
                ..
            } => deferred.confirm(),
            Self::Take { deferred, .. } => deferred.confirm(),
            Self::TakeFlashes { deferred } => deferred.confirm(),
            Self::Transaction(transaction) => transaction.confirm(),
            _ => {}
        }
    }

    /// The keys that this change may modify; none for a transaction, whose closure decides them as it runs.
    pub(crate) fn keys(&self) -> &[ByteString] {
        #[cfg(test)]
        tests::LOOKED_AT.with(|looked| looked.set(looked.get() + 1));
        match self {
            Self::Insert { key, .. }
            | Self::Remove { key }
            | Self::Increment { key, .. }
            | Self::Push { key, .. }
            | Self::Update { key, .. }
            | Self::Take { key, .. } => std::slice::from_ref(key),
            Self::Clear { keys } => keys,
            Self::Transaction(_)
            | Self::AddFlash(_)
            | Self::TakeFlashes { .. }
            | Self::Lifetimes(_)
            | Self::SetLabel(_)
            | Self::Create(_)
            | Self::Rotate(_)
            | Self::SetPrincipal { .. }
            | Self::ClearPrincipal(_) => &[],
        }
    }

    /// The rotation that this change performs, if any.
    pub(crate) fn rotation(&self) -> Option<&Rotation> {
        match self {
            Self::Rotate(rotation)
            | Self::SetPrincipal { rotation, .. }
            | Self::ClearPrincipal(rotation) => Some(rotation),
            Self::Insert { .. }
            | Self::Remove { .. }
            | Self::Clear { .. }
            | Self::Increment { .. }
            | Self::Push { .. }
            | Self::Update { .. }
            | Self::Take { .. }
            | Self::Transaction(_)
            | Self::AddFlash(_)
            | Self::TakeFlashes { .. }
            | Self::Lifetimes(_)
            | Self::SetLabel(_)
            | Self::Create(_) => None,
        }
    }
}

/// Sets the start of the absolute timeout, and computes the deadline from it.
fn restart(record: &mut Record, at: Millis, apply_context: &ApplyContext) {
    record.started = at;
    let timeout = record
        .absolute_timeout
        .unwrap_or(apply_context.absolute_timeout);
    record.deadline = after(at, timeout);
}

fn rotate(record: &mut Record, rotation: &Rotation, now: Millis) {
    let secret = std::mem::replace(&mut record.secret, rotation.hash.clone());
    let is_recent = |retired: &Kept<Retired>| retired.known().is_none_or(|it| it.until > now);
    record.retired.retain(is_recent);
    let until = after(now, RETIRED_FOR);
    let secrets = record.added.drain(..).chain([secret]);
    let retired = secrets.map(|secret| Kept::new(Retired { secret, until }));
    record.retired.extend(retired);
    let surplus = record.retired.len().saturating_sub(MAX_RETIRED);
    record.retired.drain(..surplus);
    record.epoch = rotation.epoch;
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::record::tests::record;
    use crate::record::value::decode;

    thread_local! {
        /// How many changes this thread has looked at. Tests use it to check that the work does not grow with the square of a log.
        pub(crate) static LOOKED_AT: Cell<usize> = const { Cell::new(0) };
    }

    pub(crate) fn now() -> ApplyContext {
        ApplyContext {
            now: 5_000,
            absolute_timeout: Duration::from_secs(100),
            persistent: false,
            network: Some(crate::record::fingerprint::tests::of("203.0.113.7")),
        }
    }

    pub(crate) fn json(value: impl serde::Serialize) -> Json {
        Json::encode(&value).unwrap()
    }

    fn insert(key: &str, value: impl serde::Serialize) -> Change {
        Change::Insert {
            key: key.into(),
            value: json(value),
        }
    }

    fn increment(key: &str, by: i64) -> Change {
        Change::Increment {
            key: key.into(),
            by,
            deferred: None,
        }
    }

    pub(crate) fn rotation() -> Rotation {
        let secret = Secret::random();
        let hash = secret.hash("sessile:", "id");
        Rotation {
            secret,
            hash,
            epoch: Epoch::random(),
        }
    }

    fn login(who: &str) -> Change {
        Change::SetPrincipal {
            who: who.into(),
            rotation: rotation(),
            guard: None,
        }
    }

    fn replay(
        base: &Record,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<Record, SessionError> {
        let mut record = base.clone();
        for change in changes {
            change.apply(&mut record, &now())?;
        }
        Ok(record)
    }

    #[test]
    fn logs_of_two_requests_add_up_in_either_order() {
        let push = |n: u32| Change::Push {
            key: "list".into(),
            value: json(n),
        };
        let first = [increment("n", 2), push(1), insert("a", 1)];
        let second = [increment("n", 3), push(2), insert("b", 2)];
        for (one, other) in [(first.clone(), second.clone()), (second, first)] {
            let merged = replay(&replay(&record(), one).unwrap(), other).unwrap();
            assert_eq!(merged.data["n"].decode::<i64>().unwrap(), 5);
            let mut list: Vec<u32> = merged.data["list"].decode().unwrap();
            list.sort_unstable();
            assert_eq!(list, [1, 2]);
            assert_eq!(merged.data.len(), 4);
        }
    }

    #[test]
    fn clear_removes_only_the_keys_that_it_saw() {
        let base = replay(&record(), [insert("new", 1), insert("old", 1)]).unwrap();
        let cleared = replay(
            &base,
            [Change::Clear {
                keys: vec!["old".into()],
            }],
        )
        .unwrap();
        assert_eq!(cleared.data.keys().collect::<Vec<_>>(), ["new"]);
    }

    #[test]
    fn a_token_is_taken_once() {
        let base = replay(&record(), [insert("token", "x")]).unwrap();
        let deferred = Deferred::new();
        let check: Check = |key, value| decode::<String>(key, value).map(drop);
        let take = Change::Take {
            key: "token".into(),
            check,
            deferred: deferred.clone(),
        };
        let taken = replay(&base, [take.clone()]).unwrap();
        assert!(deferred.unconfirmed().is_some());
        replay(&taken, [take.clone()]).unwrap();
        assert!(deferred.unconfirmed().is_none());
        let other = replay(&taken, [insert("token", 7)]).unwrap();
        assert!(matches!(
            replay(&other, [take]),
            Err(SessionError::Decode { .. })
        ));
    }

    #[test]
    fn an_increment_of_a_non_integer_or_beyond_i64_fails() {
        for (value, by, error) in [
            (json("seven"), 1, "NotANumber"),
            (json(1.5), 1, "NotANumber"),
            (json(i64::MAX), 1, "Overflow"),
            (json(i64::MIN), -1, "Overflow"),
        ] {
            let base = replay(
                &record(),
                [Change::Insert {
                    key: "n".into(),
                    value,
                }],
            )
            .unwrap();
            let failed = replay(&base, [increment("n", by)]).unwrap_err();
            assert!(format!("{failed:?}").starts_with(error), "{failed:?}");
        }
        assert!(matches!(
            replay(
                &record(),
                [
                    insert("n", 1),
                    Change::Push {
                        key: "n".into(),
                        value: json(1)
                    }
                ]
            ),
            Err(SessionError::Decode { .. })
        ));
    }

    #[test]
    fn a_login_keeps_the_data_of_the_visitor_but_not_of_another_principal() {
        let visitor = replay(&record(), [insert("cart", 1)]).unwrap();
        let mia = replay(&visitor, [login("mia")]).unwrap();
        assert_eq!(mia.data.len(), 1);
        assert_eq!(mia.deadline, 105_000);
        assert_eq!(mia.fingerprint.as_deref(), Some("203.0.113.0/24"));

        let again = replay(&mia, [login("mia")]).unwrap();
        assert_eq!(again.data.len(), 1);
        assert!(replay(&mia, [login("noa")]).unwrap().data.is_empty());

        let signed_out = replay(&mia, [Change::ClearPrincipal(rotation())]).unwrap();
        assert_eq!(
            (signed_out.principal.as_deref(), signed_out.data.len()),
            (None, 1)
        );
        assert_eq!(replay(&signed_out, [login("mia")]).unwrap().data.len(), 1);
        let noa = replay(&signed_out, [login("noa")]).unwrap();
        assert!(noa.data.is_empty());
        assert_eq!(
            (noa.principal.as_deref(), noa.former_principal),
            (Some("noa"), None)
        );
    }

    #[test]
    fn a_creation_gives_a_new_session_its_epoch_and_changes_no_other() {
        let (epoch, stored) = (Epoch::random(), record());
        let created = replay(&Record::new(&now()), [Change::Create(epoch)]).unwrap();
        assert_eq!(created.epoch, epoch);
        assert!(!created.is_empty(), "so that it is stored");
        for change in [Change::Create(Epoch::random()), Change::Create(epoch)] {
            assert_eq!(replay(&created, [change]).unwrap().epoch, epoch);
        }
        let unchanged = replay(&stored, [Change::Create(epoch)]).unwrap();
        assert_eq!(unchanged.epoch, stored.epoch);
        assert!(unchanged.has_same_content(&stored));
    }

    #[test]
    fn the_layer_decides_whether_the_session_of_another_principal_is_persistent() {
        for persistent in [true, false] {
            let context = ApplyContext {
                persistent,
                ..now()
            };
            let mut record = Record::new(&context);
            assert_eq!(record.persistent, persistent);
            let own = Change::Lifetimes(Lifetimes {
                persistent: Some(!persistent),
                ..Lifetimes::default()
            });
            for (change, expected) in [
                (own, !persistent),
                (login("mia"), !persistent),
                (Change::ClearPrincipal(rotation()), !persistent),
                (login("mia"), !persistent),
                (login("noa"), persistent),
            ] {
                change.apply(&mut record, &context).unwrap();
                assert_eq!(record.persistent, expected, "{change:?}");
            }
        }
    }

    #[test]
    fn rotation_retires_the_old_secret_for_a_while() {
        let base = record();
        let mut rotated = replay(&base, [Change::Rotate(rotation())]).unwrap();
        assert_ne!(rotated.epoch, base.epoch);
        assert_ne!(rotated.secret, base.secret);
        assert_eq!(rotated.retired.len(), 1);
        let retired = Retired {
            secret: base.secret.clone(),
            until: 15_000,
        };
        assert_eq!(rotated.retired[0].known(), Some(&retired));
        for _ in 0..20 {
            rotated = replay(&rotated, [Change::Rotate(rotation())]).unwrap();
        }
        assert_eq!(rotated.retired.len(), MAX_RETIRED);
        for (now, left) in [(14_999, MAX_RETIRED), (15_000, 1)] {
            let mut rotated = rotated.clone();
            let later = ApplyContext {
                now,
                ..super::tests::now()
            };
            let change = Change::Rotate(rotation());
            change.apply(&mut rotated, &later).unwrap();
            assert_eq!(rotated.retired.len(), left, "{now}");
        }
    }
}
