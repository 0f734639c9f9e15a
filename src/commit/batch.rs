//! Requests that are committed together: which of them may share a batch, and which outcome each of them gets.

use std::sync::Arc;

use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::commit::attempt::{Attempt, Draft, Origin};
use crate::commit::base::Base;
use crate::commit::context::CommitContext;
use crate::commit::decide::{Action, Event, Goal, State, Verdict, step};
use crate::commit::index::settle_later;
use crate::commit::outcome::{CommitOutcome, Committed, Unresolved};
use crate::commit::prepare::{ApplyResult, Failure, Prepared, prepare};
use crate::commit::sign_in::{NotConfirmed, enter, index_change};
use crate::commit::span::Cost;
use crate::commit::work::Work;
use crate::error::session::{Gone, SessionError};
use crate::error::store::StoreError;
use crate::record::version::CommitId;
use crate::store::Durability;

/// One request of a batch.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) work: Work,
    pub(crate) deadline: Instant,
    reply: oneshot::Sender<(CommitOutcome, Cost)>,
}

impl Member {
    /// Makes a member of a request's work, and the channel on which its outcome arrives.
    pub(crate) fn new(
        work: Work,
        deadline: Instant,
    ) -> (Self, oneshot::Receiver<(CommitOutcome, Cost)>) {
        let (reply, outcome) = oneshot::channel();
        let member = Self {
            work,
            deadline,
            reply,
        };
        (member, outcome)
    }

    /// Sends an outcome that takes the work along.
    fn reply_with(self, cost: Cost, outcome: impl FnOnce(Work) -> CommitOutcome) {
        // The receiver is gone only if the runtime is shutting down.
        let _ = self.reply.send((outcome(self.work), cost));
    }

    /// Sends an outcome, and drops the work only then: its closures are the application's, and so is what they have captured.
    fn reply(self, cost: Cost, outcome: CommitOutcome) {
        let _ = self.reply.send((outcome, cost));
        drop(self.work);
    }

    fn fail(self, cost: Cost, error: SessionError) {
        self.reply_with(cost, |work| CommitOutcome::Failed {
            log: work.log,
            error,
        });
    }

    fn fail_with(self, cost: Cost, failure: Failure) {
        match failure {
            Failure::Error(error) => self.fail(cost, error),
            Failure::Panic(panic) => self.reply(cost, CommitOutcome::Panicked(panic)),
        }
    }
}

/// A request whose changes cannot be applied after those of the members. These are not in the store yet, so it waits for
/// their outcome.
#[derive(Debug)]
struct Refused {
    member: Member,
    failure: Failure,
}

/// One or more requests, whose changes one compare-and-set commits.
#[derive(Debug)]
pub(crate) struct Batch {
    context: CommitContext,
    /// The record that the changes are applied to; `None` to create a session.
    base: Option<Base>,
    members: Vec<Member>,
    /// The requests whose changes cannot be applied after those of the members.
    refused: Vec<Refused>,
    /// The deadline of the first request.
    first_deadline: Instant,
    /// The earliest deadline of all requests that have joined.
    deadline: Instant,
    /// The cost of the attempt that has ended.
    cost: Cost,
}

impl Batch {
    /// Begins a batch with this request. `latest` is the newest version of the session that this process knows.
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
            first_deadline: first.deadline,
            deadline: first.deadline,
            members: vec![first],
            refused: Vec::new(),
            cost: Cost::default(),
        }
    }

    /// Whether another request may join the batch.
    pub(crate) fn admits(&self, other: &Member) -> bool {
        let Some(first) = self.members.first() else {
            return false;
        };
        !first.work.is_alone()
            && !other.work.is_alone()
            && Arc::ptr_eq(&self.context.policy, &other.work.context.policy)
            && first.work.made_in == other.work.made_in
            && are_close(self.first_deadline, other.deadline)
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

    /// Runs the protocol to its verdict, sends every member its outcome, and returns the session if it is known then. `join`
    /// lets waiting requests join: before the first send, and again whenever the bytes sent so far are known not to have
    /// been applied.
    ///
    /// # Cancel safety
    ///
    /// Must run to its end. If it is dropped, the changes may be in the store or not, and the members get
    /// [`CommitOutcome::NeverKnown`].
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
        let draft = self.draft(&mut join).await?;
        let mut attempt = Attempt::new(self.context.clone(), origin, state, draft);
        let mut event = attempt.send().await;
        loop {
            event = match attempt.step(event) {
                Action::Send | Action::SendAfresh => {
                    self.base = attempt.latest();
                    if let Some(reservation) = attempt.take_reservation() {
                        reservation.release(&self.context, self.deadline).await;
                    }
                    attempt.replace(self.draft(&mut join).await?);
                    attempt.send().await
                }
                Action::Resend => attempt.send().await,
                Action::Confirm => attempt.confirm().await,
                Action::WaitAndLoad => attempt.wait_and_load().await,
                Action::Finish(verdict @ (Verdict::Committed | Verdict::NotDurable)) => {
                    return match attempt.confirm_sign_in().await {
                        Ok(()) => self.finish(verdict, attempt),
                        Err(not_confirmed) => {
                            self.cost = attempt.cost();
                            self.fail_sign_in(not_confirmed)
                        }
                    };
                }
                Action::Finish(verdict) => return self.finish(verdict, attempt),
            };
        }
    }

    /// Prepares the bytes to send, and changes the index that a sign-in needs. If that fails, nothing is sent.
    async fn draft(&mut self, join: &mut impl FnMut(&mut Self)) -> Option<Draft> {
        let mut draft = self.prepare(join)?;
        let first = &self.members.first()?.work;
        let Prepared { token, record, .. } = &draft.prepared;
        let change = index_change(first, self.base.as_ref(), token.handle, record);
        match enter(&self.context, &change, self.deadline, &mut draft.calls).await {
            Ok(reservation) => {
                draft.reservation = reservation;
                Some(draft)
            }
            Err(error) => {
                self.cost.round_trips += draft.calls;
                self.fail(&error);
                None
            }
        }
    }

    /// Lets waiting requests join, and encodes the changes of all members. A member whose changes cannot be applied to what
    /// the store has leaves with an error; `None` if no member is left.
    fn prepare(&mut self, join: &mut impl FnMut(&mut Self)) -> Option<Draft> {
        let refused = self.refused.drain(..).map(|refused| refused.member);
        self.members.extend(refused);
        join(self);
        // Every new set of bytes gets a new id. Other commits of this writer may have come in between: an older id in the
        // place of theirs would wrongly prove that theirs were not applied.
        let id: CommitId = self.context.backend.next_commit();
        let works: SmallVec<[&Work; 4]> = self.members.iter().map(|member| &member.work).collect();
        let (prepared, results) = prepare(&self.context, self.base.as_ref(), &works, id);
        drop(works);
        if results.iter().any(Result::is_err) {
            self.set_refused_apart(results);
        }
        match prepared? {
            Ok(prepared) => Some(Draft {
                base: self.base.clone(),
                id,
                prepared,
                requests: self.members.len(),
                deadline: self.deadline,
                reservation: None,
                calls: 0,
            }),
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }

    /// Sets apart the members whose changes cannot be applied after those of others, and fails those whose changes cannot be
    /// applied at all.
    fn set_refused_apart(&mut self, results: impl IntoIterator<Item = ApplyResult>) {
        for (member, result) in std::mem::take(&mut self.members).into_iter().zip(results) {
            match result {
                Ok(()) => self.members.push(member),
                Err(rejection) if rejection.depends_on_others => self.refused.push(Refused {
                    member,
                    failure: rejection.failure,
                }),
                Err(rejection) => member.fail_with(self.cost, rejection.failure),
            }
        }
    }

    /// Fails every request of the batch: nothing was written.
    fn fail(&mut self, error: &SessionError) {
        let refused = self.refused.drain(..).map(|refused| refused.member);
        for member in self.members.drain(..).chain(refused) {
            member.fail(self.cost, error.clone());
        }
    }

    fn finish(mut self, verdict: Verdict, mut attempt: Attempt) -> Option<Base> {
        self.cost = attempt.cost();
        let reservation = match verdict {
            Verdict::OutcomeUnknown => None,
            _ => attempt.take_reservation(),
        };
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
                    member.reply(self.cost, CommitOutcome::NeverKnown);
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
        if let Some(reservation) = reservation {
            reservation.give_up(&self.context);
        }
        self.fail(&error);
        None
    }

    /// Fails the request of a sign-in that was written and must not be used. It is the only member.
    fn fail_sign_in(&mut self, not_confirmed: NotConfirmed) -> Option<Base> {
        match not_confirmed {
            NotConfirmed::Refused(error) => self.fail(&error),
            NotConfirmed::Unknown => {
                for member in self.members.drain(..) {
                    member.reply(self.cost, CommitOutcome::NeverKnown);
                }
            }
        }
        None
    }

    /// Fails the refused requests with errors of their own: the changes that theirs cannot follow are in the store.
    fn reply_refused(&mut self) {
        for Refused { member, failure } in self.refused.drain(..) {
            member.fail_with(self.cost, failure);
        }
    }

    /// Fails the refused requests with this error: the changes that theirs cannot follow may not be in the store.
    fn fail_refused(&mut self, error: &SessionError) {
        for refused in self.refused.drain(..) {
            refused.member.fail(self.cost, error.clone());
        }
    }

    fn reply_unresolved(&mut self, attempt: Attempt, base: Option<&Base>) {
        let shared = Unresolved::share(attempt);
        for member in self.members.drain(..) {
            member.reply_with(self.cost, |work| {
                let base = base.map(|base| work.own(base));
                Unresolved::of(&shared, work).outcome(base)
            });
        }
    }

    fn reply_committed(&mut self, attempt: &mut Attempt) -> Base {
        let policy = Arc::clone(&self.context.policy);
        let replaced = attempt.base().map(|base| policy.cookie_life(&base.record));
        let before = attempt.base().map(|base| Arc::clone(&base.record));
        let base = attempt.committed();
        if let Some(before) = before {
            settle_later(&self.context, base.token.handle, &before, &base.record);
        }
        let created = replaced.is_none();
        let changes_cookie = replaced.is_some_and(|life| life != policy.cookie_life(&base.record));
        for member in self.members.drain(..) {
            let work = &member.work;
            work.log.confirm();
            let committed = Committed {
                base: work.own(&base),
                created,
                rotated: !created && work.log.new_secret().is_some(),
                signed_in: work.has_signed_in(&base),
                changes_cookie,
            };
            member.reply(self.cost, CommitOutcome::Committed(Box::new(committed)));
        }
        base
    }
}

/// Commits a session that is not stored yet. No other request knows its handle, so it needs no queue.
pub(crate) async fn create(work: Work, deadline: Instant) -> (CommitOutcome, Cost) {
    let (member, outcome) = Member::new(work, deadline);
    Batch::of(member, None).run(|_| ()).await;
    outcome
        .await
        .unwrap_or((CommitOutcome::NeverKnown, Cost::default()))
}

fn nothing_sent() -> StoreError {
    StoreError::unavailable("the request used up its `request_budget` before anything was sent")
}

/// Whether neither deadline leaves more than twice the time of the other. A commit ends at the earliest deadline of its
/// requests, and must not fail one that has much time because of one that has little.
fn are_close(one: Instant, other: Instant) -> bool {
    let now = Instant::now();
    let left = |deadline: Instant| deadline.saturating_duration_since(now);
    let (one, other) = (left(one), left(other));
    one.min(other) * 2 >= one.max(other)
}
