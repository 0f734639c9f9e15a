//! From change logs to bytes: what several requests did to a session, done to one record.
//!
//! The logs are done one after the other, as if their requests had come one after the other. One that fails, by an error
//! or a panic of its closure, leaves no trace in the record and fails its own request only.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::commit::attempt::{Ended, Member, Work};
use crate::commit::base::Base;
use crate::error::json::{JsonError, JsonErrorKind};
use crate::error::session::{Gone, SessionError};
use crate::record::context::Circumstances;
use crate::record::lifetime::ttl;
use crate::record::log::ChangeLog;
use crate::record::version::{CommitId, Epoch, Version};
use crate::record::{Login, Record};
use crate::store::Durability;
use crate::token::Token;

/// The bytes that were sent last, and what they mean.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) token: Token,
    pub(crate) value: Bytes,
    pub(crate) ttl: Duration,
    pub(crate) durability: Durability,
    pub(crate) record: Arc<Record>,
}

/// A member whose changes cannot be done to what others who travel with it have made of the session. That is not in the
/// store yet, so it waits for what becomes of them.
#[derive(Debug)]
pub(crate) struct Refused {
    member: Member,
    failure: Failure,
}

impl Refused {
    pub(crate) fn into_member(self) -> Member {
        self.member
    }

    /// What it rests on is in the store.
    pub(crate) fn tell(self) {
        self.failure.tell(self.member);
    }
}

/// Does the members' changes to the base, or to a new session, and makes bytes of the result. Members whose changes cannot
/// be done to what is in the store are told so and leave, and those who must wait to hear it go to `refused`; `None` if
/// nobody is left.
pub(crate) fn seal(
    base: Option<&Base>,
    members: &mut Vec<Member>,
    refused: &mut Vec<Refused>,
    id: CommitId,
) -> Option<Sent> {
    let token = match base {
        Some(base) => base.token.clone(),
        None => Token::random(),
    };
    let start = match base {
        Some(base) => Record::clone(&base.record),
        None => Record::new(&members.first()?.work.terms.circumstances()),
    };
    let seal = Seal {
        base,
        start,
        token,
        id,
    };
    let limit = members.first()?.work.terms.policy.config.max_size;
    // One by one it shows whose changes are too many, and what the others do without them.
    let one_by_one = members.len() == 1 || seal.start.size() > limit;
    let (mut record, mut fates) = seal.all(members, one_by_one);
    if !one_by_one && record.size() > limit {
        (record, fates) = seal.all(members, true);
    }
    let mut done = members.iter().zip(&fates).filter(|(_, fate)| fate.is_ok());
    let first = done.next();
    let sent = first.map(|(member, _)| seal.finish(record, &member.work));
    let mut kept = Vec::with_capacity(members.len());
    for (member, fate) in members.drain(..).zip(fates) {
        match fate {
            Ok(()) => kept.push(member),
            Err(Unfit {
                failure,
                rests_on_others: false,
            }) => failure.tell(member),
            Err(Unfit { failure, .. }) => refused.push(Refused { member, failure }),
        }
    }
    *members = kept;
    match sent? {
        Ok(sent) => Some(sent),
        Err(error) => {
            let refused = refused.drain(..).map(Refused::into_member);
            fail_all(members.drain(..).chain(refused), &error);
            None
        }
    }
}

/// Tells all members that nothing of theirs was written.
pub(crate) fn fail_all(members: impl IntoIterator<Item = Member>, error: &SessionError) {
    for member in members {
        fail(member, error.clone());
    }
}

fn fail(member: Member, error: SessionError) {
    let log = member.work.log;
    // Whoever asked is there to hear it, unless the runtime is shutting down.
    let _ = member.reply.send(Ended::Failed { log, error });
}

struct Seal<'a> {
    base: Option<&'a Base>,
    /// What the changes are done to.
    start: Record,
    token: Token,
    id: CommitId,
}

/// What becomes of a member's changes.
type Fate = Result<(), Unfit>;

struct Unfit {
    failure: Failure,
    /// What the changes cannot be done to is what other members have made of the session.
    rests_on_others: bool,
}

#[derive(Debug)]
enum Failure {
    Error(SessionError),
    Panic(Box<dyn Any + Send>),
}

impl Failure {
    fn tell(self, member: Member) {
        match self {
            Self::Error(error) => fail(member, error),
            Self::Panic(panic) => {
                let _ = member.reply.send(Ended::Panicked(panic));
            }
        }
    }
}

impl Seal<'_> {
    /// The changes of all members that can be done, and which these are.
    fn all(&self, members: &[Member], each_must_fit: bool) -> (Record, Vec<Fate>) {
        let mut record = self.start.clone();
        let mut untouched = true;
        let mut fates = Vec::with_capacity(members.len());
        for Member { work, .. } in members {
            let onto = self.onto(work, untouched);
            // A log of one change does all of it or nothing, and what one alone has failed to do goes nowhere.
            let may_fail_half_way = work.log.len() > 1 || each_must_fit;
            let undo = (members.len() > 1 && may_fail_half_way).then(|| record.clone());
            let before = match each_must_fit {
                true => record.size(),
                false => usize::MAX,
            };
            let applied = catch_unwind(AssertUnwindSafe(|| {
                apply(work, onto, &mut record)?;
                self.note_cookie(&mut record, work);
                check_size(&record, before, work)
            }));
            let failure = match applied {
                Ok(applied) => applied.err().map(Failure::Error),
                Err(panic) => Some(Failure::Panic(panic)),
            };
            let fate = match failure {
                None => Ok(()),
                Some(failure) => Err(Unfit {
                    failure,
                    rests_on_others: !untouched,
                }),
            };
            match undo {
                Some(undo) if fate.is_err() => record = undo,
                _ => {}
            }
            untouched &= fate.is_err();
            fates.push(fate);
        }
        (record, fates)
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
            record.cookie_sent = Some(work.terms.circumstances().now);
        }
    }

    /// Says in the record who wrote it and when, and makes bytes of it.
    fn finish(&self, mut record: Record, work: &Work) -> Result<Sent, SessionError> {
        let terms = &work.terms;
        let circumstances = terms.circumstances();
        let now = circumstances.now;
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
                let config = &terms.policy.config;
                record.version = Version::first();
                record.epoch = Epoch::random();
                record.secret = token
                    .secret
                    .hash(terms.engine.store.namespace(), &config.cookie.name);
                record.retired.clear();
            }
        }
        record.note_applied(self.id);
        record.last_accessed = now;
        if record.fingerprint.is_none() {
            record.fingerprint = circumstances.network;
        }
        let idle = record
            .idle_timeout
            .unwrap_or(terms.policy.config.idle_timeout);
        let ttl = ttl(idle, record.deadline, now).ok_or(SessionError::Gone(Gone::Ended))?;
        let value = record.encode().map_err(|_| SessionError::Encode {
            key: String::new(),
            type_name: "the session record",
            source: JsonError::in_value(JsonErrorKind::Unwritable),
        })?;
        Ok(Sent {
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
fn check_size(record: &Record, before: usize, work: &Work) -> Result<(), SessionError> {
    let limit = work.terms.policy.config.max_size.max(before);
    if limit == usize::MAX {
        return Ok(());
    }
    let size = record.size();
    match size <= limit {
        true => Ok(()),
        false => Err(SessionError::TooLarge {
            what: "session",
            size,
            limit: work.terms.policy.config.max_size,
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

fn apply(work: &Work, onto: Onto, record: &mut Record) -> Result<(), SessionError> {
    let circumstances = work.terms.circumstances();
    match &work.done {
        // Closures that have run on this very record do not run again.
        Some(done) if onto == Onto::Own => {
            *record = Record::clone(done);
            Ok(())
        }
        _ if work.whole && onto != Onto::Own => overwrite(work, onto, record, &circumstances),
        _ => replay(&work.log, onto, record, &circumstances),
    }
}

fn replay(
    log: &ChangeLog,
    onto: Onto,
    record: &mut Record,
    circumstances: &Circumstances,
) -> Result<(), SessionError> {
    match onto {
        Onto::SameLogin => log.join(record, circumstances),
        Onto::Own | Onto::Newer => log.apply(record, circumstances),
    }
}

/// Puts the request's data in the place of all that is there, and merges the rest.
fn overwrite(
    work: &Work,
    onto: Onto,
    record: &mut Record,
    circumstances: &Circumstances,
) -> Result<(), SessionError> {
    let mut mine = match &work.base {
        Some(base) => Record::clone(&base.record),
        None => Record::new(circumstances),
    };
    work.log.apply(&mut mine, circumstances)?;
    replay(&work.log.without_data(), onto, record, circumstances)?;
    record.data = mine.data;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::time::Instant;

    use super::*;
    use crate::commit::context::tests::context_of;
    use crate::config::SessionConfig;
    use crate::record::change::Change;
    use crate::record::change::tests::json;
    use crate::session::state::tests::{base, works};
    use crate::time::Millis;

    fn member(work: Work) -> Member {
        Member {
            work,
            deadline: Instant::now(),
            reply: oneshot::channel().0,
        }
    }

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
            let mut members = works.into_iter().map(member).collect();
            let mut refused = Vec::new();
            let sent = seal(
                Some(&base),
                &mut members,
                &mut refused,
                context.engine.next_commit(),
            );
            assert_eq!(members.len(), kept, "{over}");
            assert!(refused.is_empty() && sent.is_some(), "{over}");
        }
    }
}
