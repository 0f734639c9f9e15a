//! Carries out what [`decide`](super::decide) says, over any store.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::decide::{Action, Event, Goal, Newer, State, Trace, Verdict, step};
use crate::change::{ChangeLog, Circumstances};
use crate::error::{Gone, SessionError};
use crate::fingerprint::Fingerprinting;
use crate::layer::Core;
use crate::lifetime::{to_millis, ttl};
use crate::record::Record;
use crate::store::{
    AnyStore, Created, Deleted, Durability, Freshness, Replaced, StoreError, Stored, Write,
};
use crate::token::{Handle, Token};
use crate::version::{CommitId, Epoch, Version};

/// The first wait before a fresh record is read; doubled at every further attempt, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// What a commit needs to know of the layer and the request.
pub(crate) struct Terms<'a> {
    pub(crate) core: &'a Core,
    pub(crate) cookie: &'a str,
    pub(crate) idle_timeout: Duration,
    pub(crate) absolute_timeout: Duration,
    pub(crate) max_size: usize,
    pub(crate) fingerprinting: Fingerprinting,
    pub(crate) network: Option<&'a str>,
}

impl Terms<'_> {
    pub(crate) fn circumstances(&self) -> Circumstances {
        let bind = self.fingerprinting != Fingerprinting::Off;
        Circumstances {
            now: to_millis(self.core.store.now()),
            absolute_timeout: self.absolute_timeout,
            network: self.network.filter(|_| bind).map(str::to_owned),
        }
    }
}

/// A session as it was last read from or written to the store.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    pub(crate) token: Token,
    pub(crate) stored: Stored,
    pub(crate) record: Arc<Record>,
}

/// What a request wants in the store.
#[derive(Debug)]
pub(crate) struct Work {
    /// The session it was loaded from; `None` to create one.
    pub(crate) base: Option<Base>,
    pub(crate) log: ChangeLog,
    /// What the log makes of the base, if that is known already.
    pub(crate) done: Option<Arc<Record>>,
}

/// One log on its way into the store; whole, so that one whose outcome is unknown can be taken up again.
#[derive(Debug)]
pub(crate) struct Commit {
    work: Work,
    id: CommitId,
    state: State,
    sent: Option<Sent>,
    /// The record that was found in place of the base. It becomes the base only once the changes are to be done to it:
    /// what was sent compares with the base that it was made from.
    newer: Option<(Stored, Record)>,
}

/// The bytes that were sent last, and what they mean.
#[derive(Debug)]
struct Sent {
    token: Token,
    value: Bytes,
    ttl: Duration,
    record: Arc<Record>,
}

/// How a commit ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The changes are in the store, once; so is this session.
    Committed(Box<Committed>),
    /// Nothing was written; these are the changes.
    Failed { log: ChangeLog, error: SessionError },
    /// The changes may be in the store; the commit can be taken up again.
    Unknown(Box<Commit>),
    /// The changes may have been in the store; nothing will tell.
    NeverKnown,
}

/// What a commit has done.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) base: Base,
    pub(crate) created: bool,
    pub(crate) rotated: bool,
    pub(crate) attempts: u32,
}

impl Commit {
    pub(crate) fn new(work: Work, id: CommitId) -> Self {
        let goal = match work.base {
            Some(_) => Goal::Replace,
            None => Goal::Create,
        };
        Self {
            work,
            id,
            state: State::new(goal),
            sent: None,
            newer: None,
        }
    }

    /// Runs to a verdict. Must not be dropped half-way: the changes would be in the store or not, and nobody would know.
    pub(crate) async fn run(mut self, terms: &Terms<'_>, deadline: Instant) -> Ended {
        let mut event = Event::Begin;
        let mut failure = None;
        loop {
            let (state, action) = step(self.state, event, Instant::now() >= deadline);
            if self.state.is_unresolved() && !state.is_unresolved() {
                // Proved not applied. Other commits of this writer may have followed, so a new number is due: an older one
                // put in the place of theirs would prove of theirs what is not so.
                self.id = terms.core.next_commit();
            }
            self.state = state;
            event = match action {
                Action::Send | Action::SendAfresh => match self.seal(terms) {
                    Ok(sent) => {
                        self.sent = Some(sent);
                        self.send(terms, deadline, &mut failure).await
                    }
                    Err(error) => {
                        return Ended::Failed {
                            log: self.work.log,
                            error,
                        };
                    }
                },
                Action::Resend => self.send(terms, deadline, &mut failure).await,
                Action::WaitAndLoad => {
                    let wait = jitter(self.state.attempts());
                    tokio::time::sleep_until(deadline.min(Instant::now() + wait)).await;
                    self.load(terms, deadline, &mut failure).await
                }
                Action::Finish(verdict) => return self.end(verdict, failure),
            };
        }
    }

    /// The record with the changes done to it. Closures that have run on this very record do not run again.
    fn replay(&self, base: &Record, circumstances: &Circumstances) -> Result<Record, SessionError> {
        match &self.work.done {
            Some(done) => Ok(Record::clone(done)),
            None => self.work.log.replay(base, circumstances),
        }
    }

    /// Does the changes to the record at hand and makes bytes of the result.
    fn seal(&mut self, terms: &Terms<'_>) -> Result<Sent, SessionError> {
        self.adopt_newer();
        let circumstances = terms.circumstances();
        let now = circumstances.now;
        let (mut record, token) = match &self.work.base {
            Some(base) => {
                let mut record = self.replay(&base.record, &circumstances)?;
                record.version = base.record.version.next();
                let secret = self
                    .work
                    .log
                    .new_secret()
                    .unwrap_or(&base.token.secret)
                    .clone();
                (
                    record,
                    Token {
                        handle: base.token.handle,
                        secret,
                    },
                )
            }
            None => {
                let mut record = self.replay(&Record::new(&circumstances), &circumstances)?;
                let token = Token::random();
                record.version = Version::first();
                record.epoch = Epoch::random();
                record.secret = token
                    .secret
                    .hash(terms.core.store.namespace(), terms.cookie);
                record.retired.clear();
                (record, token)
            }
        };
        record.note_applied(self.id);
        record.last_accessed = now;
        if record.fingerprint.is_none() {
            record.fingerprint = circumstances.network;
        }
        let idle = record.idle_timeout.unwrap_or(terms.idle_timeout);
        let ttl = ttl(idle, record.deadline, now).ok_or(SessionError::Gone(Gone::Ended))?;
        let value = record.encode().map_err(|source| SessionError::Encode {
            key: String::new(),
            type_name: "the session record",
            source: Arc::new(source),
        })?;
        if value.len() > terms.max_size {
            return Err(SessionError::TooLarge {
                what: "session",
                size: value.len(),
                limit: terms.max_size,
            });
        }
        Ok(Sent {
            token,
            value,
            ttl,
            record: Arc::new(record),
        })
    }

    async fn send(
        &mut self,
        terms: &Terms<'_>,
        deadline: Instant,
        failure: &mut Option<StoreError>,
    ) -> Event {
        let Some(sent) = &self.sent else {
            // `decide` never asks for bytes again that it has not had sent before.
            return Event::LoadFailed;
        };
        let write = Write::new(&sent.value, sent.ttl);
        let handle = &sent.token.handle;
        let answer = match &self.work.base {
            None => within(deadline, terms.core.store.create(handle, write))
                .await
                .map(|created| match created {
                    Created::Done => Some(Replaced::Done),
                    Created::Exists => None,
                }),
            Some(base) => within(
                deadline,
                terms.core.store.replace(handle, &base.stored, write),
            )
            .await
            .map(Some),
        };
        match answer {
            Ok(Some(Replaced::Done)) => Event::Done,
            Ok(Some(Replaced::Gone)) => Event::Gone,
            Ok(Some(Replaced::Conflict(newer))) => self.find(newer),
            Ok(None) => Event::Exists,
            Err(error) => {
                let kind = error.kind();
                *failure = Some(error);
                Event::Failed(kind)
            }
        }
    }

    async fn load(
        &mut self,
        terms: &Terms<'_>,
        deadline: Instant,
        failure: &mut Option<StoreError>,
    ) -> Event {
        let Some(base) = &self.work.base else {
            return Event::Gone;
        };
        let load = terms.core.store.load(&base.token.handle, Freshness::Latest);
        match within(deadline, load).await {
            Ok(Some(stored)) => match self.find(stored) {
                Event::Conflict(newer) => Event::Loaded {
                    same_epoch: newer.same_epoch,
                },
                event => event,
            },
            Ok(None) => Event::Gone,
            Err(error) => {
                *failure = Some(error);
                Event::LoadFailed
            }
        }
    }

    /// Notes the record that was found, and tells how it relates to the base.
    fn find(&mut self, newer: Stored) -> Event {
        let Some(base) = &self.work.base else {
            return Event::Exists;
        };
        let Ok(record) = Record::decode(&newer) else {
            return Event::Unreadable;
        };
        let told = Newer {
            trace: trace(&record.applied, self.id),
            same_epoch: record.epoch == base.record.epoch,
            distance: record.version.distance_from(base.record.version),
        };
        self.newer = Some((newer, record));
        Event::Conflict(told)
    }

    /// Takes the record that was found for the base.
    fn adopt_newer(&mut self) {
        if let (Some(base), Some((stored, record))) = (&mut self.work.base, self.newer.take()) {
            base.stored = stored;
            base.record = Arc::new(record);
            self.work.done = None;
        }
    }

    fn end(self, verdict: Verdict, failure: Option<StoreError>) -> Ended {
        let attempts = self.state.attempts();
        let error = match verdict {
            Verdict::Committed => return self.committed(),
            Verdict::OutcomeUnknown => return Ended::Unknown(Box::new(self)),
            Verdict::NeverKnown => return Ended::NeverKnown,
            Verdict::Gone => SessionError::Gone(Gone::Ended),
            Verdict::OtherEpoch => SessionError::Gone(Gone::Rotated),
            Verdict::Unreadable => SessionError::Gone(Gone::Unreadable),
            Verdict::Conflict => SessionError::Conflict { attempts },
            Verdict::Failed => SessionError::Store(failure.unwrap_or_else(|| {
                StoreError::unavailable("the request's time was up before anything was sent")
            })),
        };
        Ended::Failed {
            log: self.work.log,
            error,
        }
    }

    /// The session as it is in the store now, as far as this request may know.
    fn committed(self) -> Ended {
        let Some(sent) = self.sent else {
            // `decide` never calls a commit done that was not sent.
            return Ended::NeverKnown;
        };
        // Found applied below a newer commit, the session is what that one made of it; but if it has changed hands since,
        // what is in it now is none of this request's business, and its next commit will be refused.
        let newer = self.newer.filter(|(_, record)| {
            record.applied.contains(&self.id) && record.epoch == sent.record.epoch
        });
        let (stored, record) = match newer {
            Some((stored, record)) => (stored, Arc::new(record)),
            None => (Stored::new(sent.value, Some(sent.ttl)), sent.record),
        };
        self.work.log.confirm();
        let created = self.work.base.is_none();
        Ended::Committed(Box::new(Committed {
            base: Base {
                token: sent.token,
                stored,
                record,
            },
            created,
            rotated: !created && self.work.log.new_secret().is_some(),
            attempts: self.state.attempts(),
        }))
    }
}

/// Deletes a session. A deletion may be sent any number of times.
pub(crate) async fn delete(
    store: &dyn AnyStore,
    handle: Handle,
    deadline: Instant,
) -> Result<(), StoreError> {
    let mut state = State::new(Goal::Delete);
    let mut event = Event::Begin;
    let mut failure = None;
    loop {
        let (next, action) = step(state, event, Instant::now() >= deadline);
        state = next;
        match action {
            Action::Finish(Verdict::Committed) => return Ok(()),
            Action::Finish(_) => {
                return Err(failure.unwrap_or_else(|| {
                    StoreError::unavailable(
                        "the request's time was up before the deletion was sent",
                    )
                }));
            }
            _ => {
                event = match within(deadline, store.delete(&handle, Durability::Primary)).await {
                    Ok(Deleted::Done) => Event::Done,
                    Ok(Deleted::Missing) => Event::Gone,
                    Err(error) => {
                        let kind = error.kind();
                        failure = Some(error);
                        Event::Failed(kind)
                    }
                };
            }
        }
    }
}

/// What the record's list of last commits says of ours.
fn trace(applied: &[CommitId], ours: CommitId) -> Trace {
    match applied.iter().find(|id| id.writer == ours.writer) {
        None => Trace::Absent,
        Some(id) if id.sequence == ours.sequence => Trace::Applied,
        Some(id) if id.sequence < ours.sequence => Trace::NotApplied,
        Some(_) => Trace::Superseded,
    }
}

/// Up to 2 ms after the second attempt, doubling up to 100 ms: full jitter, so that writers who met do not meet again.
fn jitter(attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(2).min(10);
    let longest = LONGEST_WAIT.min(FIRST_WAIT * 2_u32.pow(doublings));
    longest.mul_f64(rand::random::<f64>())
}

/// The store's answer, or an unknown outcome once the time is up.
pub(crate) async fn within<T>(
    deadline: Instant,
    answer: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout_at(deadline, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(StoreError::unknown(
            "the store did not answer within the request's budget: see `request_budget`",
        )),
    }
}
