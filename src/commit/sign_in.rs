//! A sign-in and the index of its principal: enter before the commit, confirm after it.
//!
//! A session enters the index before it is signed in, so that whoever ends all sessions of the principal finds it. It is confirmed
//! before the browser gets its token: if all sessions were ended in between, by somebody who found it while it was not signed in
//! yet, it is no longer in the same generation, and ends.

use std::time::Duration;

use bytestring::ByteString;
use tokio::time::Instant;

use crate::commit::base::Base;
use crate::commit::context::CommitContext;
use crate::commit::delete::delete_unclaimed;
use crate::commit::end::{Ended, end, end_unchanged};
use crate::commit::index::{Live, earliest_begin, sessions_of};
use crate::commit::work::Work;
use crate::config::max_sessions::{MaxSessions, WhenFull};
use crate::error::session::{SessionError, SignInRefused};
use crate::error::store::{StoreError, StoreErrorKind};
use crate::event::EndReason;
use crate::record::Record;
use crate::record::change::Guard;
use crate::store::deadline::within;
use crate::store::index::is_missing;
use crate::store::{
    Admission, Confirmed, Entered, Entry, GENERATION_KEPT_FOR, Generation, IndexKey, Since,
};
use crate::time::{Millis, duration_millis, to_millis, to_time};
use crate::token::Handle;

/// How long before the index forgets a generation a sign-in that may depend on it is refused.
const MARGIN: Duration = Duration::from_secs(5 * 60);

/// The longest wait until a sign-in under way, which takes the place of another session, has taken it.
const LONGEST_WAIT: Duration = Duration::from_millis(20);

/// How often a call that got no answer is sent again.
const RESENDS: usize = 2;

/// What a commit has to do to an index.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum IndexChange {
    Nothing,
    /// The session may live longer than the index says.
    Extend {
        index: IndexKey,
        entry: Entry,
    },
    SignIn(SignIn),
}

/// A session that is being signed in to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SignIn {
    principal: ByteString,
    entry: Entry,
    guard: Option<Guard>,
    origin: Origin,
}

/// What the session was before it is signed in to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// It was not stored.
    New,
    /// It belonged to nobody, or to another principal.
    Stored,
    /// It belongs to the principal: the login joins another one.
    Joined,
}

/// A session that has entered an index, until it is confirmed.
#[derive(Clone, Debug)]
pub(crate) struct Reservation {
    index: IndexKey,
    handle: Handle,
    entered_in: Generation,
    entered_at: Millis,
    origin: Origin,
}

/// What the first work of a batch, whose record is `after`, has to do to an index. A sign-in is committed alone.
pub(crate) fn index_change(
    work: &Work,
    base: Option<&Base>,
    handle: Handle,
    after: &Record,
) -> IndexChange {
    let Some(principal) = &after.principal else {
        return IndexChange::Nothing;
    };
    let until = to_time(after.deadline);
    let entry = Entry { handle, until };
    // A login that joins another one of the same principal has not seen the session signed in: it is a sign-in of its own.
    let own = work.base.as_ref().map(|base| &base.record);
    let was_signed_in = own.is_some_and(|own| {
        work.made_in == Some(own.epoch) && own.principal.as_ref() == Some(principal)
    });
    if !was_signed_in {
        return IndexChange::SignIn(SignIn {
            principal: principal.clone(),
            entry,
            guard: work.log.guard(),
            origin: match base {
                None => Origin::New,
                Some(base) if base.record.principal.as_ref() == Some(principal) => Origin::Joined,
                Some(_) => Origin::Stored,
            },
        });
    }
    match base {
        Some(base) if after.deadline <= base.record.deadline => IndexChange::Nothing,
        _ => IndexChange::Extend {
            index: IndexKey::of(principal),
            entry,
        },
    }
}

/// Whether the index remembers everything that has happened since this time.
fn is_remembered(since: Millis, now: Millis) -> bool {
    let remembered = duration_millis(GENERATION_KEPT_FOR.saturating_sub(MARGIN));
    now.saturating_sub(since) < remembered
}

/// Changes the index before the session is written; returns what to confirm afterwards.
pub(crate) async fn enter(
    context: &CommitContext,
    change: &IndexChange,
    deadline: Instant,
    calls: &mut u32,
) -> Result<Option<Reservation>, SessionError> {
    let store = &context.backend.store;
    if !store.capabilities().index {
        return Ok(None);
    }
    match change {
        IndexChange::Nothing => Ok(None),
        IndexChange::Extend { index, entry } => {
            *calls += 1;
            match within(deadline, store.extend(index, *entry)).await {
                Err(error) if !is_missing(&error) => Err(error.into()),
                _ => Ok(None),
            }
        }
        IndexChange::SignIn(sign_in) => match sign_in.enter(context, deadline, calls).await {
            // A limit that nobody counts would be worse than no sign-in.
            Err(SessionError::Store(error))
                if is_missing(&error) && context.policy.config.max_sessions.is_none() =>
            {
                Ok(None)
            }
            entered => entered.map(Some),
        },
    }
}

impl SignIn {
    async fn enter(
        &self,
        context: &CommitContext,
        deadline: Instant,
        calls: &mut u32,
    ) -> Result<Reservation, SessionError> {
        let index = IndexKey::of(&self.principal);
        let (at, since) = match self.guard {
            Some(Guard {
                generation,
                read_at,
            }) => {
                let generation = Generation::from_number(generation);
                (read_at, Since::Generation(generation))
            }
            None => {
                let began = earliest_begin(context, &index, deadline).await?;
                (to_millis(began), Since::Time(began))
            }
        };
        if !is_remembered(at, context.backend.now()) {
            return Err(SignInRefused::SignedOutEverywhere.into());
        }
        let max = context.policy.config.max_sessions;
        let admission = Admission {
            since,
            limit: max.map(|max| max.n),
        };
        loop {
            let entered = self
                .send(context, &index, admission, deadline, calls)
                .await?;
            match (entered, max) {
                (Entered::Done(entered_in), _) => {
                    return Ok(Reservation {
                        index,
                        handle: self.entry.handle,
                        entered_in,
                        entered_at: context.backend.now(),
                        origin: self.origin,
                    });
                }
                (Entered::Full, Some(max))
                    if self.make_room(context, max, deadline, calls).await? => {}
                (Entered::Full, _) => return Err(SignInRefused::TooManySessions.into()),
                (Entered::Ended, _) => return Err(SignInRefused::SignedOutEverywhere.into()),
            }
        }
    }

    /// Enters, and again if there is no answer: the entry of a session that is not stored would keep its place for a while.
    async fn send(
        &self,
        context: &CommitContext,
        index: &IndexKey,
        admission: Admission,
        deadline: Instant,
        calls: &mut u32,
    ) -> Result<Entered, StoreError> {
        let store = &context.backend.store;
        for _ in 0..RESENDS {
            *calls += 1;
            match within(deadline, store.enter(index, self.entry, admission)).await {
                Err(error) if error.kind() == StoreErrorKind::Unknown => {}
                entered => return entered,
            }
        }
        *calls += 1;
        within(deadline, store.enter(index, self.entry, admission)).await
    }

    /// Removes what is dead from a full index, or ends the oldest session. False if the index stays full.
    async fn make_room(
        &self,
        context: &CommitContext,
        max: MaxSessions,
        deadline: Instant,
        calls: &mut u32,
    ) -> Result<bool, StoreError> {
        let store = &context.backend.store;
        *calls += 2;
        let found = sessions_of(context, &self.principal, deadline).await?;
        let has_dead = !found.dead.is_empty();
        if has_dead {
            *calls += 1;
            found.heal(context, deadline).await?;
        }
        match next_step(has_dead, max, &found.live) {
            Room::Retry if Instant::now() >= deadline => Ok(false),
            Room::Retry => {
                // Others may have taken the room, and an entry that cannot be removed must not keep the server busy.
                tokio::time::sleep(LONGEST_WAIT.mul_f64(rand::random())).await;
                Ok(true)
            }
            Room::Refuse => Ok(false),
            Room::Evict(oldest) => {
                *calls += 3;
                let why = EndReason::MaxSessions;
                let ended =
                    end(context, oldest.handle, Some(&self.principal), why, deadline).await?;
                if ended != Ended::Unreadable {
                    let index = IndexKey::of(&self.principal);
                    within(deadline, store.leave(&index, &[oldest])).await?;
                }
                Ok(true)
            }
            Room::Wait if Instant::now() >= deadline => Ok(false),
            Room::Wait => {
                tokio::time::sleep(LONGEST_WAIT.mul_f64(rand::random())).await;
                Ok(true)
            }
        }
    }
}

/// How a sign-in goes on that has found the index full.
#[derive(Debug, PartialEq)]
enum Room {
    /// Dead entries were removed.
    Retry,
    Refuse,
    Evict(Entry),
    /// All sessions are being signed in to just now.
    Wait,
}

fn next_step(has_healed: bool, max: MaxSessions, live: &[Live]) -> Room {
    match max.when_full {
        _ if has_healed => Room::Retry,
        WhenFull::Refuse => Room::Refuse,
        WhenFull::EvictOldest => {
            let settled = live.iter().filter(|session| !session.reserved);
            let oldest = settled.min_by_key(|it| (it.record.started, it.entry.handle));
            oldest.map_or(Room::Wait, |oldest| Room::Evict(oldest.entry))
        }
    }
}

/// Why a session that was written is not signed in to.
pub(crate) enum NotConfirmed {
    /// The sign-in is refused, and the session has ended.
    Refused(SessionError),
    /// It may be, or its changes may be in a session that goes on.
    Unknown,
}

/// Confirms a sign-in once its session is written. If it is too late, ends the session, whose token no browser has.
pub(crate) async fn confirm(
    context: &CommitContext,
    reservation: &Reservation,
    written: &Base,
    deadline: Instant,
    calls: &mut u32,
) -> Result<(), NotConfirmed> {
    let Reservation {
        index,
        handle,
        entered_in,
        entered_at,
        origin,
    } = reservation;
    let store = &context.backend.store;
    let mut confirmed = None;
    for _ in 0..=RESENDS {
        *calls += 1;
        let confirm = store.confirm(index, handle, *entered_in);
        confirmed = within(deadline, confirm).await.ok();
        if confirmed.is_some() {
            break;
        }
    }
    // The index may have forgotten a generation that began since.
    let is_remembered = is_remembered(*entered_at, context.backend.now());
    match confirmed {
        Some(Confirmed::Done) if is_remembered => Ok(()),
        Some(_) if *origin == Origin::Joined => {
            // The token of the login that this one has joined may be in the browser. Whoever ended the sessions has ended that one
            // too, unless it was to be kept; then it has the changes of this request.
            Err(NotConfirmed::Unknown)
        }
        Some(_) => {
            *calls += 1;
            match end_unchanged(context, written, deadline).await {
                Ok(true) => Err(NotConfirmed::Refused(
                    SignInRefused::SignedOutEverywhere.into(),
                )),
                _ => {
                    if *origin == Origin::New {
                        delete_unclaimed(context, *handle);
                    }
                    Err(NotConfirmed::Unknown)
                }
            }
        }
        None => {
            // A session that was stored before keeps its handle, so that a retry joins this login.
            if *origin == Origin::New {
                reservation.give_up(context);
                delete_unclaimed(context, *handle);
            }
            Err(NotConfirmed::Unknown)
        }
    }
}

impl Reservation {
    /// Takes a new session that was not written out of the index, in the background: nobody has its token, and its handle is not
    /// used again.
    pub(crate) fn give_up(&self, context: &CommitContext) {
        if self.origin != Origin::New {
            return;
        }
        let (context, reservation) = (context.clone(), self.clone());
        let background = context.backend.background.clone();
        background.spawn(async move { reservation.release(&context, context.deadline()).await });
    }

    /// As [`give_up`](Self::give_up), now.
    pub(crate) async fn release(&self, context: &CommitContext, deadline: Instant) {
        if self.origin != Origin::New {
            return;
        }
        let store = &context.backend.store;
        let entry = Entry {
            handle: self.handle,
            until: to_time(Millis::MAX),
        };
        // A confirmed entry can leave. If either fails, the reservation ends soon, and the next list removes the entry.
        let _ = within(
            deadline,
            store.confirm(&self.index, &self.handle, self.entered_in),
        )
        .await;
        let _ = within(deadline, store.leave(&self.index, &[entry])).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_remembered_for_55_minutes() {
        let minutes = |minutes: u64| minutes * 60 * 1000;
        for (since, now, remembered) in [
            (0, 0, true),
            (0, minutes(55) - 1, true),
            (0, minutes(55), false),
            // By clocks that differ.
            (minutes(2), minutes(1), true),
        ] {
            assert_eq!(is_remembered(since, now), remembered, "{since} {now}");
        }
    }
}
