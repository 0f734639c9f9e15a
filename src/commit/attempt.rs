//! One write in flight: [`Attempt`] sends it, sends it again, confirms it or loads a fresh record, as
//! [`decide`](crate::commit::decide) says.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::commit::base::Base;
use crate::commit::context::CommitContext;
use crate::commit::decide::{Action, Event, Evidence, Newer, State, Verdict, step};
use crate::commit::delete::delete_unclaimed;
use crate::commit::join::{Joining, entry};
use crate::commit::prepare::Prepared;
use crate::commit::sign_in::{NotConfirmed, Reservation, confirm};
use crate::commit::span::Cost;
use crate::commit::work::{ReadSet, Work};
use crate::error::store::{StoreError, StoreErrorKind};
use crate::event;
use crate::metrics::requests::written;
use crate::record::Record;
use crate::record::version::{CommitId, Epoch};
use crate::store::deadline::within;
use crate::store::{Created, Freshness, Loaded, Replaced, Stored, Write};

/// The longest wait before the first load of a fresh record; it doubles with every further attempt, up to [`MAX_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(2);
const MAX_WAIT: Duration = Duration::from_millis(100);

/// Where the changes come from. It decides which records they may be applied to.
#[derive(Debug)]
pub(crate) struct Origin {
    made_in: Option<Epoch>,
    joining: Option<Joining>,
    reads: ReadSet,
    /// The record that the request has read, with which `reads` compares newer ones.
    own: Option<Arc<Record>>,
}

impl Origin {
    /// The origin of all requests of a batch: a request that has a read set or joins a login is committed alone.
    pub(crate) fn of(first: &Work) -> Self {
        Self {
            made_in: first.made_in,
            joining: first.joining.clone(),
            reads: first.reads.clone(),
            own: first.base.as_ref().map(|base| Arc::clone(&base.record)),
        }
    }

    fn conflicts_with(&self, record: &Record) -> bool {
        let own = self.own.as_ref();
        own.is_some_and(|own| self.reads.conflicts_with(own, record))
    }
}

/// One write: the bytes for one session, and the state of the protocol.
#[derive(Debug)]
pub(crate) struct Attempt {
    context: CommitContext,
    origin: Origin,
    /// The record that the write replaces; `None` to create a session.
    base: Option<Base>,
    id: CommitId,
    prepared: Prepared,
    /// The entry of a sign-in in its principal's index, until it is confirmed.
    reservation: Option<Reservation>,
    /// The number of requests whose changes it holds.
    requests: usize,
    deadline: Instant,
    state: State,
    /// The record that was found in place of the base. It becomes the base only when the changes are replayed on it, since
    /// the bytes that were sent compare against the base that they were made from.
    newer: Option<(Stored, Arc<Record>)>,
    failure: Option<StoreError>,
    /// The number of calls of the store so far.
    calls: u32,
}

/// The result of resolving an attempt that got no answer.
pub(crate) enum Resolved {
    Applied(Base),
    NotApplied,
    /// The store holds no evidence any more.
    NeverKnown,
    /// The outcome is still unknown. The base is the session on the primary, if the attempt is known to be applied there.
    Open(Box<Attempt>, Option<Base>),
}

/// The parts of an attempt that change when its bytes are made anew.
pub(crate) struct Draft {
    pub(crate) base: Option<Base>,
    pub(crate) id: CommitId,
    pub(crate) prepared: Prepared,
    pub(crate) requests: usize,
    pub(crate) deadline: Instant,
    pub(crate) reservation: Option<Reservation>,
    /// The calls of the store that it took.
    pub(crate) calls: u32,
}

impl Attempt {
    pub(crate) fn new(context: CommitContext, origin: Origin, state: State, draft: Draft) -> Self {
        Self {
            context,
            origin,
            base: draft.base,
            id: draft.id,
            prepared: draft.prepared,
            requests: draft.requests,
            deadline: draft.deadline,
            state,
            reservation: draft.reservation,
            newer: None,
            failure: None,
            calls: draft.calls,
        }
    }

    /// Replaces the bytes, which are known not to have been applied, by new ones.
    pub(crate) fn replace(&mut self, draft: Draft) {
        self.base = draft.base;
        self.id = draft.id;
        self.prepared = draft.prepared;
        self.requests = draft.requests;
        self.deadline = draft.deadline;
        self.reservation = draft.reservation;
        self.calls += draft.calls;
    }

    /// Returns the base for new bytes: the record that was found, or else the base so far.
    pub(crate) fn latest(&mut self) -> Option<Base> {
        let base = self.base.clone()?;
        Some(match self.newer.take() {
            Some((stored, record)) => Base {
                stored,
                record,
                ..base
            },
            None => base,
        })
    }

    pub(crate) fn base(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.state.attempts()
    }

    pub(crate) fn cost(&self) -> Cost {
        Cost {
            attempts: self.state.attempts(),
            round_trips: self.calls,
        }
    }

    pub(crate) fn into_failure(self) -> Option<StoreError> {
        self.failure
    }

    /// Takes the next step of the protocol: [`step`].
    pub(crate) fn step(&mut self, event: Event) -> Action {
        let (state, action) = step(self.state, event, Instant::now() >= self.deadline);
        self.state = state;
        action
    }

    /// Resolves a write that got no answer, by sending the same bytes again. It never sends others.
    pub(crate) async fn resolve(mut self: Box<Self>, deadline: Instant) -> (Resolved, Cost) {
        self.deadline = deadline;
        self.calls = 0;
        let mut event = Event::Begin;
        let resolved = loop {
            let action = self.step(event);
            if let Action::Finish(Verdict::Committed | Verdict::NotDurable) = action {
                match self.confirm_sign_in().await {
                    Ok(()) => {}
                    Err(NotConfirmed::Refused(_)) => break Resolved::NotApplied,
                    Err(NotConfirmed::Unknown) => break Resolved::NeverKnown,
                }
            }
            event = match action {
                Action::Resend => self.send().await,
                Action::Confirm => self.confirm().await,
                Action::Finish(Verdict::Committed) => break Resolved::Applied(self.committed()),
                Action::Finish(Verdict::NotDurable) => {
                    let base = self.in_primary();
                    let cost = self.cost_of_resolving();
                    return (Resolved::Open(self, Some(base)), cost);
                }
                Action::Finish(Verdict::OutcomeUnknown) => {
                    let cost = self.cost_of_resolving();
                    return (Resolved::Open(self, None), cost);
                }
                Action::Finish(Verdict::NeverKnown) => break Resolved::NeverKnown,
                Action::Send
                | Action::SendAfresh
                | Action::WaitAndLoad
                | Action::Finish(
                    Verdict::Gone
                    | Verdict::OtherEpoch
                    | Verdict::Unreadable
                    | Verdict::Conflict
                    | Verdict::Failed,
                ) => break Resolved::NotApplied,
            };
        };
        (resolved, self.cost_of_resolving())
    }

    /// The compare-and-set itself counts for the commit that sent it first.
    fn cost_of_resolving(&mut self) -> Cost {
        // The error may be of a type of the application's, and is not needed any more.
        self.failure = None;
        Cost {
            attempts: 0,
            round_trips: self.calls,
        }
    }

    /// Drops what only the commit that sends the bytes first needs: the error may be of a type of the application's.
    pub(crate) fn without_failure(mut self) -> Self {
        self.failure = None;
        self
    }

    /// Sends the bytes, once.
    pub(crate) async fn send(&mut self) -> Event {
        self.calls += 1;
        let Prepared { token, value, .. } = &self.prepared;
        let write = Write::new(value, self.prepared.ttl)
            .with_keep_ttl(self.prepared.keeps_ttl)
            .with_durability(self.prepared.durability)
            .with_signed_in(self.prepared.record.principal.is_some());
        let store = &self.context.backend.store;
        let Some(base) = &self.base else {
            let create = store.create(&token.handle, write);
            return match within(self.deadline, create).await {
                Ok(Created::Done) => Event::Done,
                Ok(Created::Exists) => Event::Exists,
                Err(error) => {
                    if let StoreErrorKind::Unknown | StoreErrorKind::NotDurable = error.kind() {
                        // If it was created, no response will ever send its token.
                        delete_unclaimed(&self.context, token.handle);
                    }
                    self.failed(error)
                }
            };
        };
        let replace = store.replace(&token.handle, &base.stored, write);
        let replaced = within(self.deadline, replace).await;
        self.replaced(replaced)
    }

    /// Writes the record that names this commit once more, since a store waits for replicas only after a write of its own.
    /// This is a compare-and-set, so that after a failover only a server that has the commit acknowledges it.
    pub(crate) async fn confirm(&mut self) -> Event {
        let Some((stored, record)) = &self.newer else {
            return self.send().await;
        };
        self.calls += 1;
        let Prepared { token, .. } = &self.prepared;
        let ttl = match stored.time_left() {
            Some(left) if record.version != self.prepared.record.version => left,
            _ => self.prepared.ttl,
        };
        let write = Write::new(stored.value(), ttl)
            .with_keep_ttl(self.prepared.keeps_ttl)
            .with_durability(self.prepared.durability)
            .with_signed_in(record.principal.is_some());
        let replace = self
            .context
            .backend
            .store
            .replace(&token.handle, stored, write);
        let replaced = within(self.deadline, replace).await;
        self.replaced(replaced)
    }

    fn replaced(&mut self, replaced: Result<Replaced, StoreError>) -> Event {
        match replaced {
            Ok(Replaced::Done) => Event::Done,
            Ok(Replaced::Gone) => Event::Gone,
            Ok(Replaced::Conflict(newer)) => self.note_newer(newer),
            Ok(Replaced::Unreadable) => Event::Unreadable,
            Err(error) => self.failed(error),
        }
    }

    fn failed(&mut self, error: StoreError) -> Event {
        let kind = error.kind();
        self.failure = Some(error);
        Event::Failed(kind)
    }

    /// Waits, for longer after each attempt, and loads a fresh record.
    pub(crate) async fn wait_and_load(&mut self) -> Event {
        let wait = jitter(self.state.attempts());
        tokio::time::sleep_until(self.deadline.min(Instant::now() + wait)).await;
        self.calls += 1;
        let store = &self.context.backend.store;
        let load = store.load(&self.prepared.token.handle, Freshness::Latest);
        match within(self.deadline, load).await {
            Ok(Loaded::Found(stored)) => match self.note_newer(stored) {
                Event::Conflict(newer) => Event::Loaded {
                    entry: newer.entry,
                    conflicts: newer.conflicts,
                },
                event => event,
            },
            Ok(Loaded::Unreadable) => Event::Unreadable,
            Ok(Loaded::Missing) => Event::Gone,
            Err(error) => {
                self.failure = Some(error);
                Event::LoadFailed
            }
        }
    }

    /// Keeps the record that was found, and says how it relates to the base.
    fn note_newer(&mut self, newer: Stored) -> Event {
        let Some(base) = &self.base else {
            return Event::Exists;
        };
        let records = &self.context.backend.records;
        let Ok(record) = records.decode(base.token.handle, newer.value()) else {
            return Event::Unreadable;
        };
        let Origin {
            made_in, joining, ..
        } = &self.origin;
        let relation = Newer {
            evidence: evidence(&record.applied, self.id),
            entry: entry(*made_in, joining.as_ref(), &record),
            conflicts: self.origin.conflicts_with(&record),
            distance: record.version.distance_from(base.record.version),
        };
        self.newer = Some((newer, record));
        Event::Conflict(relation)
    }

    /// Takes out the entry of a sign-in that was not written.
    pub(crate) fn take_reservation(&mut self) -> Option<Reservation> {
        self.reservation.take()
    }

    /// Confirms the sign-in that was written, if there is one.
    pub(crate) async fn confirm_sign_in(&mut self) -> Result<(), NotConfirmed> {
        let Some(reservation) = self.reservation.take() else {
            return Ok(());
        };
        let Prepared {
            token,
            value,
            ttl,
            record,
            ..
        } = &self.prepared;
        let written = Base {
            token: token.clone(),
            stored: Stored::new(value.clone(), Some(*ttl)),
            record: Arc::clone(record),
        };
        let (context, calls) = (&self.context, &mut self.calls);
        confirm(context, &reservation, &written, self.deadline, calls).await
    }

    /// Returns the session as this commit has left it, and emits the event of the commit.
    pub(crate) fn committed(&mut self) -> Base {
        written(self.prepared.value.len());
        let base = self.in_primary();
        self.context.emit(&event::Event::Committed {
            handle: base.token.handle,
            requests: u32::try_from(self.requests).unwrap_or(u32::MAX),
            attempts: self.state.attempts(),
        });
        base
    }

    /// Returns the session as the primary has it now, as far as its requests may see it.
    pub(crate) fn in_primary(&mut self) -> Base {
        let Prepared {
            token,
            value,
            ttl,
            record,
            ..
        } = self.prepared.clone();
        // If newer commits followed this one, the session is the record of the last of them. But if one of these began a new
        // epoch, the requests must not see its data: they keep the record that they wrote, and their next commit is
        // rejected.
        let newer = self
            .newer
            .take()
            .filter(|(_, newer)| newer.applied.contains(&self.id) && newer.epoch == record.epoch);
        let (stored, record) = match newer {
            Some((stored, newer)) => (stored, newer),
            None => (Stored::new(value, Some(ttl)), record),
        };
        let records = &self.context.backend.records;
        records.note(token.handle, stored.value(), &record);
        Base {
            token,
            stored,
            record,
        }
    }
}

/// What the last commits that a record lists prove about ours.
fn evidence(applied: &[CommitId], ours: CommitId) -> Evidence {
    match applied.iter().find(|id| id.writer == ours.writer) {
        None => Evidence::Absent,
        Some(id) if id.sequence == ours.sequence => Evidence::Applied,
        Some(id) if id.sequence < ours.sequence => Evidence::NotApplied,
        Some(_) => Evidence::Superseded,
    }
}

/// Full jitter: up to 2 ms after the second attempt, doubling up to 100 ms, so that writers that collided once do not
/// collide again.
fn jitter(attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(2).min(10);
    let longest = MAX_WAIT.min(FIRST_WAIT * 2_u32.pow(doublings));
    longest.mul_f64(rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_jittered_up_to_a_limit_that_doubles() {
        for (attempts, longest) in [(0, 2), (2, 2), (3, 4), (4, 8), (7, 64), (8, 100), (99, 100)] {
            let longest = Duration::from_millis(longest);
            let waits: Vec<Duration> = (0..1000).map(|_| jitter(attempts)).collect();
            assert!(waits.iter().all(|wait| *wait <= longest), "{attempts}");
            assert!(waits.iter().any(|wait| *wait > longest / 2), "{attempts}");
            assert!(waits.iter().any(|wait| *wait < longest / 2), "{attempts}");
        }
    }
}
