//! Carries out what [`decide`](super::decide) says, over any store.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::commit::base::Base;
use crate::commit::context::Terms;
use crate::commit::decide::{Action, Event, Goal, Newer, State, Trace, Verdict, step};
use crate::commit::delete::delete_unclaimed;
use crate::commit::join::{Joining, entry};
use crate::commit::prepare::{Refused, Sent, fail_all, seal};
use crate::commit::queue::Line;
use crate::commit::unresolved::{Resolution, Unresolved};
use crate::error::session::{Gone, SessionError};
use crate::error::store::{StoreError, StoreErrorKind};
use crate::event;
use crate::record::Record;
use crate::record::lifetime::{BrowserCookie, cookie_end};
use crate::record::log::ChangeLog;
use crate::record::version::{CommitId, Epoch};
use crate::store::deadline::within;
use crate::store::{Created, Durability, Freshness, Replaced, Stored, Write};

/// The first wait before a fresh record is read; doubled at every further attempt, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// What one request wants in the store.
#[derive(Debug)]
pub(crate) struct Work {
    /// The session it was loaded from; `None` to create one.
    pub(crate) base: Option<Base>,
    pub(crate) log: ChangeLog,
    /// The epoch that the request's token has opened. It may be another than the base's only for a login that joins it.
    pub(crate) made_in: Option<Epoch>,
    /// The log is that of a login, which may join another.
    pub(crate) joining: Option<Joining>,
    /// What the log makes of the base, if that is known already.
    pub(crate) done: Option<Arc<Record>>,
    pub(crate) terms: Terms,
    pub(crate) rests_on: RestsOn,
    /// The request's data replaces whatever is there, instead of being merged.
    pub(crate) whole: bool,
    /// The cookie that the browser has, if the response can still replace it.
    pub(crate) cookie: Option<BrowserCookie>,
}

/// What must not have changed since the session was loaded, for the changes to be done to what it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RestsOn {
    Nothing,
    These(Seen),
    Everything,
}

/// What a handler has seen of its session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) keys: BTreeSet<String>,
    pub(crate) principal: bool,
    pub(crate) flashes: bool,
}

impl Seen {
    fn has_changed(&self, own: &Record, newer: &Record) -> bool {
        let value = |key| own.data.get(key) != newer.data.get(key);
        (self.principal && own.principal != newer.principal)
            || (self.flashes && own.flash != newer.flash)
            || self.keys.iter().any(value)
    }
}

impl RestsOn {
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::These(seen) => *seen == Seen::default(),
            Self::Everything => false,
        }
    }

    pub(crate) fn clashes(&self, own: &Record, newer: &Record) -> bool {
        match self {
            Self::Nothing => false,
            Self::These(seen) => seen.has_changed(own, newer),
            Self::Everything => own.version != newer.version,
        }
    }
}

impl Work {
    /// How far it must have spread; those that travel together have the same settings, and one with a new secret travels
    /// alone.
    pub(crate) fn durability(&self) -> Durability {
        let durability = &self.terms.policy.config.durability;
        match self.log.new_secret() {
            Some(_) => durability.endings(),
            None => durability.commits,
        }
    }

    /// What its request's session is once the changes are in the store, whoever else's travelled with them: each request has a
    /// secret of its own.
    pub(crate) fn own(&self, base: &Base) -> Base {
        let mut base = base.clone();
        if let (Some(own), None) = (&self.base, self.log.new_secret()) {
            base.token = own.token.clone();
        }
        base
    }

    /// Whether it must not share a compare-and-set: it gives the session a new secret, or rests on its own base.
    pub(crate) fn is_alone(&self) -> bool {
        self.base.is_none() || self.log.new_secret().is_some() || self.rests_on != RestsOn::Nothing
    }
}

/// One request's part of a commit.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) work: Work,
    pub(crate) deadline: Instant,
    pub(crate) reply: oneshot::Sender<Ended>,
}

/// The changes of one or more requests on their way into the store.
#[derive(Debug)]
pub(crate) struct Commit {
    base: Option<Base>,
    members: Vec<Member>,
    /// Those who wait for what becomes of the members' changes, since theirs cannot be done after them.
    refused: Vec<Refused>,
    made_in: Option<Epoch>,
    joining: Option<Joining>,
    /// How many requests it is of.
    requests: usize,
    terms: Terms,
    /// That of its first request, and the earliest of all.
    began_with: Instant,
    deadline: Instant,
    id: CommitId,
    state: State,
    sent: Option<Sent>,
    /// The record that was found in place of the base. It becomes the base only once the changes are to be done to it:
    /// what was sent compares with the base that it was made from.
    newer: Option<(Stored, Record)>,
}

/// How a commit ended, for one of its requests.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The changes are in the store, once; so is this session.
    Committed(Box<Committed>),
    /// Nothing was written; these are the changes.
    Failed { log: ChangeLog, error: SessionError },
    /// Nothing was written, as has been found out; these are the changes, to be committed anew.
    NotApplied(ChangeLog),
    /// The changes may be in the store; that can be looked into.
    Unknown(Unresolved),
    /// The changes are in the primary, and so is this session; whether replicas have them can be looked into.
    NotDurable {
        unresolved: Unresolved,
        done: Box<Committed>,
    },
    /// The changes may have been in the store; nothing will tell.
    NeverKnown,
    /// A closure of the application panicked. Nothing was written.
    Panicked(Box<dyn Any + Send>),
}

/// What a commit has done.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    pub(crate) base: Base,
    pub(crate) created: bool,
    pub(crate) rotated: bool,
    /// The record that was replaced has a cookie of another life: whoever wrote it may have sent it.
    pub(crate) changes_cookie: bool,
}

impl Commit {
    /// The commit that begins with this request. `latest` is the newest state of the session that is known here.
    pub(crate) fn of(first: Member, latest: Option<&Base>) -> Self {
        let goal = match first.work.base {
            Some(_) => Goal::Replace,
            None => Goal::Create,
        };
        let own = first.work.base.clone();
        let base = match (own, latest) {
            (Some(own), Some(latest))
                if !first.work.is_alone()
                    && latest.record.epoch == own.record.epoch
                    && latest.record.version.is_after(own.record.version) =>
            {
                Some(latest.clone())
            }
            (own, _) => own,
        };
        Self {
            base,
            made_in: first.work.made_in,
            joining: first.work.joining.clone(),
            terms: first.work.terms.clone(),
            requests: 1,
            began_with: first.deadline,
            deadline: first.deadline,
            id: first.work.terms.engine.next_commit(),
            state: State::new(goal).durable(first.work.durability() != Durability::Primary),
            members: vec![first],
            refused: Vec::new(),
            sent: None,
            newer: None,
        }
    }

    /// Whether another request's changes may travel with these.
    pub(crate) fn admits(&self, other: &Member) -> bool {
        let Some(first) = self.members.first() else {
            return false;
        };
        !first.work.is_alone()
            && !other.work.is_alone()
            && Arc::ptr_eq(&self.terms.policy, &other.work.terms.policy)
            && first.work.made_in == other.work.made_in
            && are_alike(self.began_with, other.deadline)
    }

    pub(crate) fn admit(&mut self, other: Member) {
        self.deadline = self.deadline.min(other.deadline);
        if let (Some(base), Some(theirs)) = (&self.base, &other.work.base)
            && theirs.record.version.is_after(base.record.version)
        {
            self.base = Some(theirs.clone());
        }
        self.members.push(other);
    }

    pub(crate) fn size(&self) -> usize {
        self.members.len()
    }

    /// Runs to a verdict, which every member is told. Requests that wait in the line may join before anything is sent, and
    /// whenever what was sent is known not to have been applied.
    ///
    /// Must not be dropped half-way: the changes would be in the store or not, and nobody would know.
    pub(crate) async fn run(mut self, line: Option<&Line>) {
        let mut event = Event::Begin;
        let mut failure = None;
        loop {
            let (state, action) = step(self.state, event, Instant::now() >= self.deadline);
            self.state = state;
            event = match action {
                Action::Send | Action::SendAfresh => {
                    self.adopt_newer();
                    let again = self.refused.drain(..).map(Refused::into_member);
                    self.members.extend(again);
                    if let Some(line) = line {
                        line.let_join(&mut self);
                    }
                    // An id belongs to one set of bytes, and a later one to later bytes: other commits of this writer may
                    // have come between, and an older id in the place of theirs would prove of theirs what is not so.
                    self.id = self.terms.engine.next_commit();
                    self.sent = seal(
                        self.base.as_ref(),
                        &mut self.members,
                        &mut self.refused,
                        self.id,
                    );
                    self.requests = self.members.len();
                    if self.sent.is_none() {
                        return;
                    }
                    self.send(&mut failure).await
                }
                Action::Resend => self.send(&mut failure).await,
                Action::Confirm => self.confirm(&mut failure).await,
                Action::WaitAndLoad => {
                    let wait = jitter(self.state.attempts());
                    tokio::time::sleep_until(self.deadline.min(Instant::now() + wait)).await;
                    self.load(&mut failure).await
                }
                Action::Finish(verdict) => return self.end(verdict, failure, line),
            };
        }
    }

    /// Finds out what became of bytes that were never answered. Sends them again, and nothing else.
    pub(crate) async fn resolve(mut self, deadline: Instant, line: &Line) -> Resolution {
        self.deadline = deadline;
        let mut event = Event::Begin;
        let mut failure = None;
        loop {
            let (state, action) = step(self.state, event, Instant::now() >= deadline);
            self.state = state;
            event = match action {
                Action::Resend => self.send(&mut failure).await,
                Action::Confirm => self.confirm(&mut failure).await,
                Action::Finish(Verdict::Committed) => {
                    return match self.committed(line.into()) {
                        Some(base) => Resolution::Applied(base),
                        None => Resolution::NeverKnown,
                    };
                }
                Action::Finish(Verdict::NotDurable) => {
                    let base = self.in_primary(line.into());
                    return Resolution::Open(Box::new(self), base);
                }
                Action::Finish(Verdict::OutcomeUnknown) => {
                    return Resolution::Open(Box::new(self), None);
                }
                Action::Finish(Verdict::NeverKnown) => return Resolution::NeverKnown,
                Action::Send
                | Action::SendAfresh
                | Action::WaitAndLoad
                | Action::Finish(
                    Verdict::Gone
                    | Verdict::OtherEpoch
                    | Verdict::Unreadable
                    | Verdict::Conflict
                    | Verdict::Failed,
                ) => return Resolution::NotApplied,
            };
        }
    }

    async fn send(&mut self, failure: &mut Option<StoreError>) -> Event {
        let Some(sent) = &self.sent else {
            // `decide` never asks for bytes again that it has not had sent before.
            return Event::LoadFailed;
        };
        let store = &self.terms.engine.store;
        let write = Write::new(&sent.value, sent.ttl)
            .with_durability(sent.durability)
            .with_signed_in(sent.record.principal.is_some());
        let handle = &sent.token.handle;
        let answer = match &self.base {
            None => within(self.deadline, store.create(handle, write))
                .await
                .map(|created| match created {
                    Created::Done => Some(Replaced::Done),
                    Created::Exists => None,
                }),
            Some(base) => within(self.deadline, store.replace(handle, &base.stored, write))
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
                if self.base.is_none()
                    && matches!(kind, StoreErrorKind::Unknown | StoreErrorKind::NotDurable)
                {
                    // Nobody will ever hold its token.
                    delete_unclaimed(&self.terms, *handle);
                }
                *failure = Some(error);
                Event::Failed(kind)
            }
        }
    }

    /// Writes what was found once more, since a store tells of replicas only for what it has written itself. By
    /// compare-and-set, so that it is the server which has our commit that is asked, also after a failover.
    async fn confirm(&mut self, failure: &mut Option<StoreError>) -> Event {
        let (Some(sent), Some((found, record))) = (&self.sent, &self.newer) else {
            return Event::LoadFailed;
        };
        let ttl = match found.time_left() {
            Some(left) if record.version != sent.record.version => left,
            _ => sent.ttl,
        };
        let write = Write::new(found.value(), ttl)
            .with_durability(sent.durability)
            .with_signed_in(record.principal.is_some());
        let store = &self.terms.engine.store;
        let replace = store.replace(&sent.token.handle, found, write);
        match within(self.deadline, replace).await {
            Ok(Replaced::Done) => Event::Done,
            Ok(Replaced::Gone) => Event::Gone,
            Ok(Replaced::Conflict(newer)) => self.find(newer),
            Err(error) => {
                let kind = error.kind();
                *failure = Some(error);
                Event::Failed(kind)
            }
        }
    }

    async fn load(&mut self, failure: &mut Option<StoreError>) -> Event {
        let Some(base) = &self.base else {
            return Event::Gone;
        };
        let store = &self.terms.engine.store;
        let load = store.load(&base.token.handle, Freshness::Latest);
        match within(self.deadline, load).await {
            Ok(Some(stored)) => match self.find(stored) {
                Event::Conflict(newer) => Event::Loaded {
                    entry: newer.entry,
                    clash: newer.clash,
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
        let Some(base) = &self.base else {
            return Event::Exists;
        };
        let Ok(record) = Record::decode(newer.value()) else {
            return Event::Unreadable;
        };
        let clashes = |work: &Work| {
            let own = work.base.as_ref();
            own.is_some_and(|own| work.rests_on.clashes(&own.record, &record))
        };
        let told = Newer {
            trace: trace(&record.applied, self.id),
            entry: entry(self.made_in, self.joining.as_ref(), &record),
            clash: self.members.iter().any(|member| clashes(&member.work)),
            distance: record.version.distance_from(base.record.version),
        };
        self.newer = Some((newer, record));
        Event::Conflict(told)
    }

    /// Takes the record that was found for the base.
    fn adopt_newer(&mut self) {
        if let (Some(base), Some((stored, record))) = (&mut self.base, self.newer.take()) {
            base.stored = stored;
            base.record = Arc::new(record);
        }
    }

    fn end(mut self, verdict: Verdict, failure: Option<StoreError>, line: Option<&Line>) {
        let attempts = self.state.attempts();
        let members = std::mem::take(&mut self.members);
        let refused = std::mem::take(&mut self.refused).into_iter();
        // Nobody knows what they would have met.
        let conflict = SessionError::Conflict { attempts };
        let error = match verdict {
            Verdict::Committed => {
                self.tell_committed(members, line);
                return refused.for_each(Refused::tell);
            }
            Verdict::OutcomeUnknown | Verdict::NotDurable => {
                match verdict {
                    Verdict::NotDurable => refused.for_each(Refused::tell),
                    _ => fail_all(refused.map(Refused::into_member), &conflict),
                }
                let base = match verdict {
                    Verdict::NotDurable => self.in_primary(line),
                    _ => None,
                };
                let shared = Unresolved::share(self);
                for Member { work, reply, .. } in members {
                    let base = base.as_ref().map(|base| work.own(base));
                    let _ = reply.send(Unresolved::of(&shared, work).ended(base));
                }
                return;
            }
            Verdict::NeverKnown => {
                for member in members {
                    let _ = member.reply.send(Ended::NeverKnown);
                }
                return fail_all(refused.map(Refused::into_member), &conflict);
            }
            Verdict::Gone => SessionError::Gone(Gone::Ended),
            Verdict::OtherEpoch => SessionError::Gone(Gone::Rotated),
            Verdict::Unreadable => SessionError::Gone(Gone::Unreadable),
            Verdict::Conflict => conflict,
            Verdict::Failed => SessionError::Store(failure.unwrap_or_else(|| {
                StoreError::unavailable("the request's time was up before anything was sent")
            })),
        };
        let refused = refused.map(Refused::into_member);
        fail_all(members.into_iter().chain(refused), &error);
    }

    fn tell_committed(mut self, members: Vec<Member>, line: Option<&Line>) {
        let created = self.base.is_none();
        let replaced = self.base.as_ref().map(|base| cookie_end(&base.record));
        let Some(base) = self.committed(line) else {
            return;
        };
        let changes_cookie = replaced.is_some_and(|ends| ends != cookie_end(&base.record));
        for member in members {
            member.work.log.confirm();
            let committed = Committed {
                base: member.work.own(&base),
                created,
                rotated: !created && member.work.log.new_secret().is_some(),
                changes_cookie,
            };
            let _ = member.reply.send(Ended::Committed(Box::new(committed)));
        }
    }

    /// The session after a commit that counts as done.
    fn committed(&mut self, line: Option<&Line>) -> Option<Base> {
        let base = self.in_primary(line)?;
        self.terms.policy.emit(&event::Event::Committed {
            handle: base.token.handle,
            requests: u32::try_from(self.requests).unwrap_or(u32::MAX),
            attempts: self.state.attempts(),
        });
        Some(base)
    }

    /// The session as it is in the store now, as far as its requests may know.
    fn in_primary(&mut self, line: Option<&Line>) -> Option<Base> {
        // `decide` never calls a commit done that was not sent.
        let sent = self.sent.clone()?;
        // Found applied below a newer commit, the session is what that one made of it; but if it has changed hands since,
        // what is in it now is none of these requests' business, and their next commit will be refused.
        let newer = self.newer.take().filter(|(_, record)| {
            record.applied.contains(&self.id) && record.epoch == sent.record.epoch
        });
        let (stored, record) = match newer {
            Some((stored, record)) => (stored, Arc::new(record)),
            None => (Stored::new(sent.value, Some(sent.ttl)), sent.record),
        };
        let base = Base {
            token: sent.token,
            stored,
            record,
        };
        if let Some(line) = line {
            line.note_latest(&base);
        }
        Some(base)
    }
}

/// Stores a session that nobody else knows yet.
pub(crate) async fn create(work: Work, deadline: Instant) -> Ended {
    let (reply, ended) = oneshot::channel();
    let member = Member {
        work,
        deadline,
        reply,
    };
    Commit::of(member, None).run(None).await;
    ended.await.unwrap_or(Ended::NeverKnown)
}

/// Whether neither has more than twice the time of the other left. A commit ends with the earliest time of its requests, and
/// none shall fail for another's want of it.
fn are_alike(one: Instant, other: Instant) -> bool {
    let now = Instant::now();
    let left = |deadline: Instant| deadline.saturating_duration_since(now);
    let (one, other) = (left(one), left(other));
    one.min(other) * 2 >= one.max(other)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_of_any_length_up_to_one_that_doubles() {
        for (attempts, longest) in [(0, 2), (2, 2), (3, 4), (4, 8), (7, 64), (8, 100), (99, 100)] {
            let longest = Duration::from_millis(longest);
            let waits: Vec<Duration> = (0..1000).map(|_| jitter(attempts)).collect();
            assert!(waits.iter().all(|wait| *wait <= longest), "{attempts}");
            assert!(waits.iter().any(|wait| *wait > longest / 2), "{attempts}");
            assert!(waits.iter().any(|wait| *wait < longest / 2), "{attempts}");
        }
    }
}
