//! From change logs to bytes: applies the changes of several requests to one record.
//!
//! The logs are applied one after the other, as if their requests had run one after the other. A log that fails, by an error
//! or by a panic of its closure, leaves no trace in the record and fails only its own request.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::commit::base::Base;
use crate::commit::context::CommitContext;
use crate::commit::work::Work;
use crate::error::json::{JsonError, JsonErrorKind};
use crate::error::session::{Gone, LimitedPart, SessionError};
use crate::record::context::ApplyContext;
use crate::record::fingerprint::adopt;
use crate::record::lifetime::{kept_ttl, ttl};
use crate::record::log::ChangeLog;
use crate::record::version::{CommitId, Epoch, Version};
use crate::record::{Login, Record};
use crate::store::Durability;
use crate::time::Millis;
use crate::token::Token;

/// The bytes to send, and the record that they encode.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) token: Token,
    pub(crate) value: Bytes,
    pub(crate) ttl: Duration,
    /// The session keeps the time to live that it has when the bytes arrive.
    pub(crate) keeps_ttl: bool,
    pub(crate) durability: Durability,
    pub(crate) record: Arc<Record>,
}

/// Whether a request's changes are part of the bytes.
pub(crate) type ApplyResult = Result<(), Rejection>;

/// Why they are not part of the bytes.
#[derive(Debug)]
pub(crate) struct Rejection {
    pub(crate) failure: Failure,
    /// The changes failed on a record that holds changes of other requests of the batch.
    pub(crate) depends_on_others: bool,
}

#[derive(Debug)]
pub(crate) enum Failure {
    Error(SessionError),
    Panic(Box<dyn Any + Send>),
}

/// Applies the requests' changes to the base, or to a new session, and encodes the result; `None` if no request's changes
/// could be applied. Also returns for each request whether its changes are part of the bytes.
pub(crate) fn prepare(
    context: &CommitContext,
    base: Option<&Base>,
    works: &[&Work],
    id: CommitId,
) -> (
    Option<Result<Prepared, SessionError>>,
    SmallVec<[ApplyResult; 1]>,
) {
    let now = context.backend.now();
    let preparation = Preparation {
        base,
        context,
        now,
        start: match base {
            Some(base) => Arc::clone(&base.record),
            None => Arc::new(Record::new(&context.apply_context_at(now))),
        },
        token: match base {
            Some(base) => base.token.clone(),
            None => Token::random(),
        },
        id,
    };
    let limit = context.policy.config.max_size;
    // If each request is checked, the one that makes the session too large fails, and the others are applied without it.
    let checks_each = works.len() == 1 || !preparation.start.fits(limit);
    let (mut record, mut results) = preparation.apply_all(works, checks_each);
    if !checks_each && !record.fits(limit) {
        (record, results) = preparation.apply_all(works, true);
    }
    let first = results.iter().position(Result::is_ok);
    let prepared = first.map(|first| preparation.finish(record, works[first]));
    (prepared, results)
}

struct Preparation<'a> {
    base: Option<&'a Base>,
    context: &'a CommitContext,
    now: Millis,
    /// The record that the changes are applied to.
    start: Arc<Record>,
    token: Token,
    id: CommitId,
}

impl Preparation<'_> {
    /// Applies all changes that can be applied, and says which these are.
    fn apply_all(
        &self,
        works: &[&Work],
        checks_each: bool,
    ) -> (Arc<Record>, SmallVec<[ApplyResult; 1]>) {
        let mut record = Arc::clone(&self.start);
        let mut untouched = true;
        let mut results = SmallVec::with_capacity(works.len());
        for work in works {
            let relation = self.relation(work, untouched);
            // A log of one change is applied whole or not at all, and if the only request fails, its record is not used.
            let may_fail_half_way = work.log.len() > 1 || checks_each;
            let undo = (works.len() > 1 && may_fail_half_way).then(|| Arc::clone(&record));
            let max_size = self.context.policy.config.max_size;
            // A session above a lowered limit can still be made smaller, signed out and rotated.
            let limit = match checks_each {
                true if record.fits(max_size) => max_size,
                true => record.size(),
                false => usize::MAX,
            };
            let applied = catch_unwind(AssertUnwindSafe(|| {
                let apply_context = work.context.apply_context_at(self.now);
                apply(work, relation, &mut record, &apply_context)?;
                bind(&mut record, &apply_context);
                self.note_idle(&mut record);
                self.note_cookie(&mut record, work);
                check_size(&record, limit, max_size)
            }));
            let failure = match applied {
                Ok(applied) => applied.err().map(Failure::Error),
                Err(panic) => Some(Failure::Panic(panic)),
            };
            let result = match failure {
                None => Ok(()),
                Some(failure) => Err(Rejection {
                    failure,
                    depends_on_others: !untouched,
                }),
            };
            match undo {
                Some(undo) if result.is_err() => record = undo,
                _ => {}
            }
            untouched &= result.is_err();
            results.push(result);
        }
        (record, results)
    }

    /// How the record relates to the one that the work was made on. `untouched` while no work of the batch has been applied.
    fn relation(&self, work: &Work, untouched: bool) -> Relation {
        let same = match (self.base, &work.base) {
            (Some(base), Some(own)) => base.record.version == own.record.version,
            (None, None) => true,
            _ => false,
        };
        match same && untouched {
            _ if self.joins(work) => Relation::SameLogin,
            true => Relation::Same,
            false => Relation::Newer,
        }
    }

    /// Whether the work is a login that joins the login of the base.
    fn joins(&self, work: &Work) -> bool {
        self.base
            .is_some_and(|base| work.made_in != Some(base.record.epoch))
    }

    /// The login to note in the record: another one may join it until something else is committed.
    fn login(&self, base: &Base, work: &Work, version: Version) -> Option<Login> {
        work.log.login()?;
        let retired = match &base.record.login {
            Some(login) if self.joins(work) => login.retired.clone(),
            _ => base.record.secrets().cloned().collect(),
        };
        Some(Login { version, retired })
    }

    /// Notes in the record how this layer counts the idle timeout. All nodes go by that until the next commit, so that those
    /// which count it in another way do not change the time to live by turns.
    fn note_idle(&self, record: &mut Arc<Record>) {
        let is_full = self.context.policy.config.full_idle_timeout;
        if record.full_idle_timeout != is_full {
            Arc::make_mut(record).full_idle_timeout = is_full;
        }
    }

    /// Notes in the record that the response to this work sends a persistent cookie.
    fn note_cookie(&self, record: &mut Arc<Record>, work: &Work) {
        let renewed = self.base.is_none() || work.log.new_secret().is_some();
        let life = self.context.policy.cookie_life(record);
        let sent = work
            .cookie
            .is_some_and(|cookie| renewed || cookie.is_outdated_by(life));
        let cookie_sent = match record.persistent {
            true if sent => Some(self.now),
            true => record.cookie_sent,
            false => None,
        };
        if cookie_sent != record.cookie_sent {
            Arc::make_mut(record).cookie_sent = cookie_sent;
        }
    }

    /// Whether the commit counts as a use of the session: it always does if it creates or rotates it, or changes its lifetimes.
    fn renews(&self, record: &Record, work: &Work) -> bool {
        let changes_lifetimes = |base: &Base| !record.has_same_lifetimes(&base.record);
        self.context.policy.config.renewal
            || work.log.new_secret().is_some()
            || self.base.is_none_or(changes_lifetimes)
    }

    /// Writes the version, the id of the commit and the time into the record, and encodes it.
    fn finish(&self, record: Arc<Record>, work: &Work) -> Result<Prepared, SessionError> {
        let mut record = Arc::unwrap_or_clone(record);
        let now = self.now;
        let mut token = self.token.clone();
        match self.base {
            Some(base) => {
                record.version = base.record.version.next();
                record.login = self.login(base, work, record.version);
                if let Some(secret) = work.log.new_secret() {
                    token.secret = secret.clone();
                }
            }
            None => {
                record.version = Version::first();
                // CSRF tokens may have been made from the epoch that a change has set.
                if record.epoch == Epoch::none() {
                    record.epoch = Epoch::random();
                }
                record.secret = self.context.hash(&token.secret);
                record.retired.clear();
            }
        }
        record.note_applied(self.id);
        let renews = self.renews(&record, work);
        if renews {
            record.last_accessed = now;
        }
        let idle = self.context.policy.idle(&record);
        let allowed = ttl(idle, record.deadline, now).ok_or(SessionError::Gone(Gone::Ended))?;
        let left = self.base.and_then(|base| base.stored.time_left());
        let kept = left.filter(|_| !renews);
        let kept = kept.and_then(|left| kept_ttl(left, allowed));
        let value = record.encode().map_err(|_| SessionError::Encode {
            key: String::new(),
            type_name: "the session record",
            source: JsonError::in_value(JsonErrorKind::Unwritable),
        })?;
        Ok(Prepared {
            token,
            value,
            ttl: kept.unwrap_or(allowed),
            keeps_ttl: kept.is_some(),
            durability: work.durability(),
            record: Arc::new(record),
        })
    }
}

/// Binds the session to the network of a request that has changed it. A login of a later request of the batch undoes that.
fn bind(record: &mut Arc<Record>, apply_context: &ApplyContext) {
    let bound = record.fingerprint.as_deref();
    let network = apply_context.network;
    if let Some(networks) = network.and_then(|network| adopt(bound, network)) {
        Arc::make_mut(record).fingerprint = Some(networks);
    }
}

fn check_size(record: &Record, limit: usize, max_size: usize) -> Result<(), SessionError> {
    match record.fits(limit) {
        true => Ok(()),
        false => Err(SessionError::TooLarge {
            part: LimitedPart::Session,
            size: record.size(),
            limit: max_size,
        }),
    }
}

/// How a record relates to the one that changes were made on.
#[derive(Clone, Copy, PartialEq)]
enum Relation {
    /// It is the same version.
    Same,
    /// It is a newer version: other requests have changed it since.
    Newer,
    /// It belongs to another login of the same principal, which the changes join.
    SameLogin,
}

fn apply(
    work: &Work,
    relation: Relation,
    record: &mut Arc<Record>,
    apply_context: &ApplyContext,
) -> Result<(), SessionError> {
    match &work.known_result {
        // The result on this very record is known, so no closure runs again.
        Some(record_after) if relation == Relation::Same => {
            *record = Arc::clone(record_after);
            Ok(())
        }
        _ if work.overwrites && relation != Relation::Same => {
            overwrite(work, relation, record, apply_context)
        }
        _ => replay(&work.log, relation, record, apply_context),
    }
}

fn replay(
    log: &ChangeLog,
    relation: Relation,
    record: &mut Arc<Record>,
    apply_context: &ApplyContext,
) -> Result<(), SessionError> {
    match relation {
        Relation::SameLogin => log.join(Arc::make_mut(record), apply_context),
        Relation::Same | Relation::Newer => log.apply(Arc::make_mut(record), apply_context),
    }
}

/// Replaces all data by the request's, and merges its other changes.
fn overwrite(
    work: &Work,
    relation: Relation,
    record: &mut Arc<Record>,
    apply_context: &ApplyContext,
) -> Result<(), SessionError> {
    let mut mine = match &work.base {
        Some(base) => Record::clone(&base.record),
        None => Record::new(apply_context),
    };
    work.log.apply(&mut mine, apply_context)?;
    replay(&work.log.without_data(), relation, record, apply_context)?;
    Arc::make_mut(record).data = mine.data;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::context::tests::context_of;
    use crate::config::SessionConfig;
    use crate::record::change::Change;
    use crate::record::change::tests::{json, rotation};
    use crate::record::fingerprint::tests::of;
    use crate::session::state::tests::{base, new_work, works};
    use crate::time::Millis;

    /// Each request of a batch binds the session to its network, in their order, and a login drops what was bound before it.
    #[test]
    fn a_batch_binds_the_networks_of_its_requests_in_their_order() {
        let (v4, away, v6) = ("203.0.113.7", "198.51.100.7", "2001:db8::7");
        let insert = || Change::Insert {
            key: "a".into(),
            value: json(1),
        };
        let login = || Change::SetPrincipal {
            who: "mia".into(),
            rotation: rotation(),
            guard: None,
        };
        type Case = (
            Option<&'static str>,
            Vec<(Change, Option<&'static str>)>,
            Option<&'static str>,
        );
        let cases: [Case; 9] = [
            (None, vec![(insert(), None)], None),
            (None, vec![(insert(), Some(v4))], Some("203.0.113.0/24")),
            (
                None,
                vec![(insert(), None), (insert(), Some(v6))],
                Some("2001:db8::/64"),
            ),
            (
                None,
                vec![
                    (insert(), Some(v4)),
                    (insert(), Some(away)),
                    (insert(), Some(v6)),
                ],
                Some("203.0.113.0/24 2001:db8::/64"),
            ),
            (
                Some("203.0.113.0/24"),
                vec![(insert(), Some(away))],
                Some("203.0.113.0/24"),
            ),
            (
                Some("203.0.113.0/24"),
                vec![(insert(), Some(v6))],
                Some("203.0.113.0/24 2001:db8::/64"),
            ),
            (
                Some("203.0.113.0/24 2001:db8::/64"),
                vec![(login(), Some(away))],
                Some("198.51.100.0/24"),
            ),
            (
                Some("203.0.113.0/24"),
                vec![(insert(), Some(v6)), (login(), Some(v4))],
                Some("203.0.113.0/24"),
            ),
            // A request that fails binds nothing.
            (
                Some("203.0.113.0/24"),
                vec![
                    (insert(), Some(v4)),
                    (
                        Change::Increment {
                            key: "text".into(),
                            by: 1,
                            deferred: None,
                        },
                        Some(v6),
                    ),
                ],
                Some("203.0.113.0/24"),
            ),
        ];
        for (bound, requests, expected) in cases {
            let mut base = base(None, &[]);
            let mut record = Record::clone(&base.record);
            record.fingerprint = bound.map(Into::into);
            record.deadline = Millis::MAX;
            base.record = Arc::new(record);
            let context = context_of(SessionConfig::default());
            let (changes, networks): (Vec<_>, Vec<_>) = requests.into_iter().unzip();
            let text = format!("{bound:?} {networks:?}");
            let mut works = works(&base, &context, changes);
            for (work, network) in works.iter_mut().zip(networks) {
                work.context.network = network.map(of);
                work.known_result = None;
            }
            // Since the first request has loaded the session, another one has made `text` a string.
            let mut record = Record::clone(&base.record);
            record.data.insert("text".into(), json("x"));
            base.record = Arc::new(record);
            let works: Vec<&Work> = works.iter().collect();
            let (prepared, _) =
                prepare(&context, Some(&base), &works, context.backend.next_commit());
            let record = prepared.unwrap().unwrap().record;
            assert_eq!(record.fingerprint.as_deref(), expected, "{text}");
        }
    }

    /// A creation without an answer is tried again under another handle.
    #[test]
    fn a_creation_that_is_tried_again_keeps_the_epoch_of_its_csrf_token() {
        let context = context_of(SessionConfig::default());
        let epoch = Epoch::random();
        for (change, kept) in [
            (Change::Create(epoch), true),
            (Change::Remove { key: "a".into() }, false),
        ] {
            let work = new_work(&context, vec![change]);
            let handles = [(); 2].map(|()| {
                let id = context.backend.next_commit();
                let prepared = prepare(&context, None, &[&work], id).0;
                let prepared = prepared.unwrap().unwrap();
                assert_eq!(prepared.record.epoch == epoch, kept);
                assert_ne!(prepared.record.epoch, Epoch::none());
                prepared.token.handle
            });
            assert_ne!(handles[0], handles[1]);
        }
    }

    /// A request may use the space that another request of the batch frees.
    #[test]
    fn a_batch_fits_if_the_session_fits_once_all_of_it_is_applied() {
        let insert = |key: &str| Change::Insert {
            key: key.into(),
            value: json("x".repeat(2_000)),
        };
        let mut base = base(None, &[]);
        let mut record = Record::clone(&base.record);
        record.data.insert("a".into(), json("x".repeat(2_000)));
        record.deadline = Millis::MAX;
        base.record = Arc::new(record);
        for (over, kept) in [(0, 2), (1, 1)] {
            // The limit, which is the size of the session before the batch and after both changes.
            let config = SessionConfig {
                max_size: base.record.size() - over,
                ..SessionConfig::default()
            };
            let context = context_of(config);
            let remove = Change::Remove { key: "a".into() };
            let works = works(&base, &context, vec![insert("b"), remove]);
            let works: Vec<&Work> = works.iter().collect();
            let id = context.backend.next_commit();
            let (prepared, results) = prepare(&context, Some(&base), &works, id);
            assert_eq!(
                results.iter().filter(|result| result.is_ok()).count(),
                kept,
                "{over}"
            );
            assert!(
                results
                    .into_iter()
                    .all(|result| result.map_or_else(|it| !it.depends_on_others, |()| true))
            );
            assert!(prepared.is_some_and(|it| it.is_ok()), "{over}");
        }
    }
}
