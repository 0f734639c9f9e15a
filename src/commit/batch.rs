//! Requests whose changes travel together: who may come along, and what each is told.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Span;

use crate::commit::attempt::{Attempt, Draft, Origin};
use crate::commit::base::Base;
use crate::commit::context::CommitContext;
use crate::commit::decide::{Action, Event, Goal, State, Verdict, step};
use crate::commit::outcome::{CommitOutcome, Committed, Unresolved};
use crate::commit::prepare::{Failure, prepare};
use crate::commit::span;
use crate::commit::work::Work;
use crate::error::session::{Gone, SessionError};
use crate::error::store::StoreError;
use crate::record::lifetime::cookie_end;
use crate::record::version::CommitId;
use crate::store::Durability;

/// One request's part of a commit.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) work: Work,
    pub(crate) deadline: Instant,
    reply: oneshot::Sender<CommitOutcome>,
    span: Span,
}

impl Member {
    /// A request's part, and where it hears what became of it.
    pub(crate) fn new(work: Work, deadline: Instant) -> (Self, oneshot::Receiver<CommitOutcome>) {
        let (reply, outcome) = oneshot::channel();
        let member = Self {
            work,
            deadline,
            reply,
            span: span::current(),
        };
        (member, outcome)
    }

    fn reply_with(self, outcome: impl FnOnce(Work) -> CommitOutcome) {
        // Whoever asked is there to hear it, unless the runtime is shutting down.
        let _ = self.reply.send(outcome(self.work));
    }

    fn fail(self, error: SessionError) {
        self.reply_with(|work| CommitOutcome::Failed {
            log: work.log,
            error,
        });
    }

    fn fail_with(self, failure: Failure) {
        match failure {
            Failure::Error(error) => self.fail(error),
            Failure::Panic(panic) => self.reply_with(|_| CommitOutcome::Panicked(panic)),
        }
    }
}

/// A member whose changes cannot be done to what others who travel with it have made of the session. That is not in the
/// store yet, so it waits for what becomes of them.
#[derive(Debug)]
struct Refused {
    member: Member,
    failure: Failure,
}

/// The changes of one or more requests on their way into the store.
#[derive(Debug)]
pub(crate) struct Batch {
    context: CommitContext,
    /// What the changes are to be done to; `None` to create a session.
    base: Option<Base>,
    members: Vec<Member>,
    /// Those who wait for what becomes of the members' changes, since theirs cannot be done after them.
    refused: Vec<Refused>,
    /// That of its first request, and the earliest of all.
    began_with: Instant,
    deadline: Instant,
}

impl Batch {
    /// The batch that begins with this request. `latest` is the newest state of the session that is known here.
    pub(crate) fn of(first: Member, latest: Option<&Base>) -> Self {
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
            context: first.work.context.clone(),
            base,
            began_with: first.deadline,
            deadline: first.deadline,
            members: vec![first],
            refused: Vec::new(),
        }
    }

    /// Whether another request's changes may travel with these.
    pub(crate) fn admits(&self, other: &Member) -> bool {
        let Some(first) = self.members.first() else {
            return false;
        };
        !first.work.is_alone()
            && !other.work.is_alone()
            && Arc::ptr_eq(&self.context.policy, &other.work.context.policy)
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

    /// Runs to a verdict, which every member is told, and returns the session if it is known then. `join` lets requests that
    /// wait come along: before anything is sent, and whenever what was sent is known not to have been applied.
    ///
    /// Must not be dropped half-way: the changes would be in the store or not, and nobody would know.
    pub(crate) async fn run(mut self, mut join: impl FnMut(&mut Self)) -> Option<Base> {
        let first = self.members.first()?;
        let origin = Origin::of(&first.work);
        let goal = match self.base {
            Some(_) => Goal::Replace,
            None => Goal::Create,
        };
        let durable = first.work.durability() != Durability::Primary;
        let state = State::new(goal).durable(durable);
        let late = Instant::now() >= self.deadline;
        let (state, action) = step(state, Event::Begin, late);
        if let Action::Finish(_) = action {
            self.fail(&SessionError::Store(nothing_sent()));
            return None;
        }
        let draft = self.prepare(&mut join)?;
        let mut attempt = Attempt::new(self.context.clone(), origin, state, draft);
        let mut event = attempt.send().await;
        loop {
            event = match attempt.step(event) {
                Action::Send | Action::SendAfresh => {
                    self.base = attempt.latest();
                    attempt.replace(self.prepare(&mut join)?);
                    attempt.send().await
                }
                Action::Resend => attempt.send().await,
                Action::Confirm => attempt.confirm().await,
                Action::WaitAndLoad => attempt.wait_and_load().await,
                Action::Finish(verdict) => return self.finish(verdict, attempt),
            };
        }
    }

    /// Makes bytes of the members' changes and of those who may come along. Members whose changes cannot be done to what is in
    /// the store are told so and leave; `None` if nobody is left.
    fn prepare(&mut self, join: &mut impl FnMut(&mut Self)) -> Option<Draft> {
        let again = self.refused.drain(..).map(|refused| refused.member);
        self.members.extend(again);
        join(self);
        // An id belongs to one set of bytes, and a later one to later bytes: other commits of this writer may have come
        // between, and an older id in the place of theirs would prove of theirs what is not so.
        let id: CommitId = self.context.backend.next_commit();
        let works: Vec<&Work> = self.members.iter().map(|member| &member.work).collect();
        let (prepared, fits) = prepare(&self.context, self.base.as_ref(), &works, id);
        for (member, fit) in std::mem::take(&mut self.members).into_iter().zip(fits) {
            match fit {
                Ok(()) => self.members.push(member),
                Err(misfit) if misfit.rests_on_others => self.refused.push(Refused {
                    member,
                    failure: misfit.failure,
                }),
                Err(misfit) => member.fail_with(misfit.failure),
            }
        }
        match prepared? {
            Ok(prepared) => Some(Draft {
                base: self.base.clone(),
                id,
                prepared,
                requests: self.members.len(),
                deadline: self.deadline,
            }),
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }

    /// Tells all that nothing of theirs was written.
    fn fail(&mut self, error: &SessionError) {
        let refused = self.refused.drain(..).map(|refused| refused.member);
        for member in self.members.drain(..).chain(refused) {
            member.fail(error.clone());
        }
    }

    fn finish(mut self, verdict: Verdict, mut attempt: Attempt) -> Option<Base> {
        for member in &self.members {
            span::record_cost(&member.span, attempt.attempts(), attempt.calls());
        }
        let conflict = SessionError::Conflict {
            attempts: attempt.attempts(),
        };
        let error = match verdict {
            Verdict::Committed => {
                let base = self.reply_committed(&mut attempt);
                self.reply_refused();
                return Some(base);
            }
            Verdict::NotDurable => {
                self.reply_refused();
                let base = attempt.in_primary();
                self.reply_unresolved(attempt, Some(&base));
                return Some(base);
            }
            Verdict::OutcomeUnknown => {
                self.fail_refused(&conflict);
                self.reply_unresolved(attempt, None);
                return None;
            }
            Verdict::NeverKnown => {
                for member in self.members.drain(..) {
                    member.reply_with(|_| CommitOutcome::NeverKnown);
                }
                self.fail_refused(&conflict);
                return None;
            }
            Verdict::Gone => SessionError::Gone(Gone::Ended),
            Verdict::OtherEpoch => SessionError::Gone(Gone::Rotated),
            Verdict::Unreadable => SessionError::Gone(Gone::Unreadable),
            Verdict::Conflict => conflict,
            Verdict::Failed => {
                SessionError::Store(attempt.into_failure().unwrap_or_else(nothing_sent))
            }
        };
        self.fail(&error);
        None
    }

    /// What the changes of these cannot be done to is in the store.
    fn reply_refused(&mut self) {
        for Refused { member, failure } in self.refused.drain(..) {
            member.fail_with(failure);
        }
    }

    /// Nobody knows what the changes of these would have met.
    fn fail_refused(&mut self, error: &SessionError) {
        for refused in self.refused.drain(..) {
            refused.member.fail(error.clone());
        }
    }

    fn reply_unresolved(&mut self, attempt: Attempt, base: Option<&Base>) {
        let shared = Unresolved::share(attempt);
        for member in self.members.drain(..) {
            member.reply_with(|work| {
                let base = base.map(|base| work.own(base));
                Unresolved::of(&shared, work).outcome(base)
            });
        }
    }

    fn reply_committed(&mut self, attempt: &mut Attempt) -> Base {
        let replaced = attempt.base().map(|base| cookie_end(&base.record));
        let base = attempt.committed();
        let created = replaced.is_none();
        let changes_cookie = replaced.is_some_and(|ends| ends != cookie_end(&base.record));
        for member in self.members.drain(..) {
            member.reply_with(|work| {
                work.log.confirm();
                CommitOutcome::Committed(Box::new(Committed {
                    base: work.own(&base),
                    created,
                    rotated: !created && work.log.new_secret().is_some(),
                    changes_cookie,
                }))
            });
        }
        base
    }
}

/// Stores a session that nobody else knows yet.
pub(crate) async fn create(work: Work, deadline: Instant) -> CommitOutcome {
    let (member, outcome) = Member::new(work, deadline);
    Batch::of(member, None).run(|_| ()).await;
    outcome.await.unwrap_or(CommitOutcome::NeverKnown)
}

fn nothing_sent() -> StoreError {
    StoreError::unavailable("the request's time was up before anything was sent")
}

/// Whether neither has more than twice the time of the other left. A commit ends with the earliest time of its requests, and
/// none shall fail for another's want of it.
fn are_alike(one: Instant, other: Instant) -> bool {
    let now = Instant::now();
    let left = |deadline: Instant| deadline.saturating_duration_since(now);
    let (one, other) = (left(one), left(other));
    one.min(other) * 2 >= one.max(other)
}
