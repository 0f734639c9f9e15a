//! From change logs to bytes: what several requests did to a session, done to one record.
//!
//! The logs are done one after the other, as if their requests had come one after the other. One that fails, by an error
//! or a panic of its closure, leaves no trace in the record and fails its own request only.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::commit::base::Base;
use crate::commit::context::CommitContext;
use crate::commit::work::Work;
use crate::error::json::{JsonError, JsonErrorKind};
use crate::error::session::{Gone, LimitedPart, SessionError};
use crate::record::context::ApplyContext;
use crate::record::lifetime::ttl;
use crate::record::log::ChangeLog;
use crate::record::version::{CommitId, Epoch, Version};
use crate::record::{Login, Record};
use crate::store::Durability;
use crate::time::Millis;
use crate::token::Token;

/// Bytes to send, and what they mean.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) token: Token,
    pub(crate) value: Bytes,
    pub(crate) ttl: Duration,
    pub(crate) durability: Durability,
    pub(crate) record: Arc<Record>,
}

/// Whether a request's changes are among what is sent.
pub(crate) type Fit = Result<(), Misfit>;

/// Why they are not.
#[derive(Debug)]
pub(crate) struct Misfit {
    pub(crate) failure: Failure,
    /// What the changes cannot be done to is what other requests of the batch have made of the session.
    pub(crate) rests_on_others: bool,
}

#[derive(Debug)]
pub(crate) enum Failure {
    Error(SessionError),
    Panic(Box<dyn Any + Send>),
}

/// Does the requests' changes to the base, or to a new session, and makes bytes of the result: `None` if no request's changes
/// could be done. Says of each request whether its changes are among them.
pub(crate) fn prepare(
    context: &CommitContext,
    base: Option<&Base>,
    works: &[&Work],
    id: CommitId,
) -> (Option<Result<Prepared, SessionError>>, Vec<Fit>) {
    let now = context.backend.now();
    let preparation = Preparation {
        base,
        context,
        now,
        start: match base {
            Some(base) => Record::clone(&base.record),
            None => Record::new(&context.apply_context_at(now)),
        },
        token: match base {
            Some(base) => base.token.clone(),
            None => Token::random(),
        },
        id,
    };
    let limit = context.policy.config.max_size;
    // One by one it shows whose changes are too many, and what the others do without them.
    let one_by_one = works.len() == 1 || preparation.start.size() > limit;
    let (mut record, mut fits) = preparation.all(works, one_by_one);
    if !one_by_one && record.size() > limit {
        (record, fits) = preparation.all(works, true);
    }
    let first = fits.iter().position(Result::is_ok);
    let prepared = first.map(|first| preparation.finish(record, works[first]));
    (prepared, fits)
}

struct Preparation<'a> {
    base: Option<&'a Base>,
    context: &'a CommitContext,
    now: Millis,
    /// What the changes are done to.
    start: Record,
    token: Token,
    id: CommitId,
}

impl Preparation<'_> {
    /// All changes that can be done, and whose these are.
    fn all(&self, works: &[&Work], each_must_fit: bool) -> (Record, Vec<Fit>) {
        let mut record = self.start.clone();
        let mut untouched = true;
        let mut fits = Vec::with_capacity(works.len());
        for work in works {
            let onto = self.onto(work, untouched);
            // A log of one change does all of it or nothing, and what one alone has failed to do goes nowhere.
            let may_fail_half_way = work.log.len() > 1 || each_must_fit;
            let undo = (works.len() > 1 && may_fail_half_way).then(|| record.clone());
            let before = match each_must_fit {
                true => record.size(),
                false => usize::MAX,
            };
            let applied = catch_unwind(AssertUnwindSafe(|| {
                apply(
                    work,
                    onto,
                    &mut record,
                    &work.context.apply_context_at(self.now),
                )?;
                self.note_cookie(&mut record, work);
                check_size(&record, before, self.context.policy.config.max_size)
            }));
            let failure = match applied {
                Ok(applied) => applied.err().map(Failure::Error),
                Err(panic) => Some(Failure::Panic(panic)),
            };
            let fit = match failure {
                None => Ok(()),
                Some(failure) => Err(Misfit {
                    failure,
                    rests_on_others: !untouched,
                }),
            };
            match undo {
                Some(undo) if fit.is_err() => record = undo,
                _ => {}
            }
            untouched &= fit.is_err();
            fits.push(fit);
        }
        (record, fits)
    }

    /// What the changes are to be done to; `untouched` as long as none have been.
    fn onto(&self, work: &Work, untouched: bool) -> Onto {
        let same = match (self.base, &work.base) {
            (Some(base), Some(own)) => base.record.version == own.record.version,
            (None, None) => true,
            _ => false,
        };
        match same && untouched {
            _ if self.joins(work) => Onto::SameLogin,
            true => Onto::Own,
            false => Onto::Newer,
        }
    }

    /// Whether they are those of a login that joins the one which the record is of.
    fn joins(&self, work: &Work) -> bool {
        self.base
            .is_some_and(|base| work.made_in != Some(base.record.epoch))
    }

    /// The login that another may join as long as nothing else is committed.
    fn login(&self, base: &Base, work: &Work, version: Version) -> Option<Login> {
        work.log.login()?;
        let retired = match &base.record.login {
            Some(login) if self.joins(work) => login.retired.clone(),
            _ => base.record.secrets().cloned().collect(),
        };
        Some(Login { version, retired })
    }

    /// Says in the record that the response to this work sends a persistent cookie.
    fn note_cookie(&self, record: &mut Record, work: &Work) {
        let renewed = self.base.is_none() || work.log.new_secret().is_some();
        let sent = work
            .cookie
            .is_some_and(|cookie| renewed || cookie.is_outdated_by(record));
        if !record.persistent {
            record.cookie_sent = None;
        } else if sent {
            record.cookie_sent = Some(self.now);
        }
    }

    /// Says in the record who wrote it and when, and makes bytes of it.
    fn finish(&self, mut record: Record, work: &Work) -> Result<Prepared, SessionError> {
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
                record.epoch = Epoch::random();
                record.secret = self.context.hash(&token.secret);
                record.retired.clear();
            }
        }
        record.note_applied(self.id);
        record.last_accessed = now;
        if record.fingerprint.is_none() {
            record.fingerprint = work.context.apply_context_at(now).network;
        }
        let idle = self.context.policy.idle_timeout(&record);
        let ttl = ttl(idle, record.deadline, now).ok_or(SessionError::Gone(Gone::Ended))?;
        let value = record.encode().map_err(|_| SessionError::Encode {
            key: String::new(),
            type_name: "the session record",
            source: JsonError::in_value(JsonErrorKind::Unwritable),
        })?;
        Ok(Prepared {
            token,
            value,
            ttl,
            durability: work.durability(),
            record: Arc::new(record),
        })
    }
}

/// What is no larger than before fits in any case, so that a session above a limit that was lowered can be made smaller,
/// signed out and rotated.
fn check_size(record: &Record, before: usize, max_size: usize) -> Result<(), SessionError> {
    let limit = max_size.max(before);
    if limit == usize::MAX {
        return Ok(());
    }
    let size = record.size();
    match size <= limit {
        true => Ok(()),
        false => Err(SessionError::TooLarge {
            part: LimitedPart::Session,
            size,
            limit: max_size,
        }),
    }
}

/// How a record relates to the one that changes were made on.
#[derive(Clone, Copy, PartialEq)]
enum Onto {
    /// It is that one.
    Own,
    /// Others have changed it since.
    Newer,
    /// It is of another login of the same principal.
    SameLogin,
}

fn apply(
    work: &Work,
    onto: Onto,
    record: &mut Record,
    apply_context: &ApplyContext,
) -> Result<(), SessionError> {
    match &work.done {
        // Closures that have run on this very record do not run again.
        Some(done) if onto == Onto::Own => {
            *record = Record::clone(done);
            Ok(())
        }
        _ if work.whole && onto != Onto::Own => overwrite(work, onto, record, apply_context),
        _ => replay(&work.log, onto, record, apply_context),
    }
}

fn replay(
    log: &ChangeLog,
    onto: Onto,
    record: &mut Record,
    apply_context: &ApplyContext,
) -> Result<(), SessionError> {
    match onto {
        Onto::SameLogin => log.join(record, apply_context),
        Onto::Own | Onto::Newer => log.apply(record, apply_context),
    }
}

/// Puts the request's data in the place of all that is there, and merges the rest.
fn overwrite(
    work: &Work,
    onto: Onto,
    record: &mut Record,
    apply_context: &ApplyContext,
) -> Result<(), SessionError> {
    let mut mine = match &work.base {
        Some(base) => Record::clone(&base.record),
        None => Record::new(apply_context),
    };
    work.log.apply(&mut mine, apply_context)?;
    replay(&work.log.without_data(), onto, record, apply_context)?;
    record.data = mine.data;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::context::tests::context_of;
    use crate::config::SessionConfig;
    use crate::record::change::Change;
    use crate::record::change::tests::json;
    use crate::session::state::tests::{base, works};
    use crate::time::Millis;

    /// What another request gives back need not fit before.
    #[test]
    fn those_who_travel_together_fit_if_all_they_make_of_the_session_fits() {
        let insert = |key: &str| Change::Insert {
            key: key.to_owned(),
            value: json("x".repeat(2_000)),
        };
        let mut base = base(None, &[]);
        let mut record = Record::clone(&base.record);
        record.data.insert("a".to_owned(), json("x".repeat(2_000)));
        record.deadline = Millis::MAX;
        base.record = Arc::new(record);
        for (over, kept) in [(0, 2), (1, 1)] {
            // As large as the session is before, and after both.
            let config = SessionConfig {
                max_size: base.record.size() - over,
                ..SessionConfig::default()
            };
            let context = context_of(config);
            let remove = Change::Remove { key: "a".into() };
            let works = works(&base, &context, vec![insert("b"), remove]);
            let works: Vec<&Work> = works.iter().collect();
            let id = context.backend.next_commit();
            let (prepared, fits) = prepare(&context, Some(&base), &works, id);
            assert_eq!(
                fits.iter().filter(|fit| fit.is_ok()).count(),
                kept,
                "{over}"
            );
            assert!(
                fits.into_iter()
                    .all(|fit| fit.map_or_else(|it| !it.rests_on_others, |()| true))
            );
            assert!(prepared.is_some_and(|it| it.is_ok()), "{over}");
        }
    }
}
