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
use crate::commit::end::{end, end_unchanged};
use crate::commit::index::{Live, sessions_of};
use crate::commit::work::Work;
use crate::config::max_sessions::{MaxSessions, WhenFull};
use crate::error::session::{SessionError, SignInRefused};
use crate::error::store::StoreError;
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
}

/// A session that has entered an index, until it is confirmed.
#[derive(Clone, Debug)]
pub(crate) struct Reservation {
    index: IndexKey,
    entry: Entry,
    entered_in: Generation,
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

/// When a sign-in began, for the index; `None` if the index may have forgotten what has happened since.
fn since(guard: Option<Guard>, began: Millis, began_at: Since, now: Millis) -> Option<Since> {
    let (at, since) = match guard {
        Some(guard) => {
            let generation = Generation::from_number(guard.generation);
            (guard.read_at, Since::Generation(generation))
        }
        None => (began, began_at),
    };
    let remembered = duration_millis(GENERATION_KEPT_FOR.saturating_sub(MARGIN));
    (now.saturating_sub(at) < remembered).then_some(since)
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
            Err(SessionError::Store(error)) if is_missing(&error) => Ok(None),
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
        let (store, now) = (&context.backend.store, context.backend.now());
        let began = to_millis(context.began);
        let Some(since) = since(self.guard, began, Since::Time(context.began), now) else {
            return Err(SignInRefused::SignedOutEverywhere.into());
        };
        let max = context.policy.config.max_sessions;
        let admission = Admission {
            since,
            limit: max.map(|max| max.n),
        };
        let index = IndexKey::of(&self.principal);
        loop {
            *calls += 1;
            let entered = within(deadline, store.enter(&index, self.reserved(), admission)).await?;
            match (entered, max) {
                (Entered::Done(entered_in), _) => {
                    return Ok(Reservation {
                        index,
                        entry: self.entry,
                        entered_in,
                    });
                }
                (Entered::Full, Some(max))
                    if self.make_room(context, max, deadline, calls).await? => {}
                (Entered::Full, _) => return Err(SignInRefused::TooManySessions.into()),
                (Entered::Ended, _) => return Err(SignInRefused::SignedOutEverywhere.into()),
            }
        }
    }

    /// The entry until it is confirmed: it ends later than the confirmed one, so that whoever has listed it, and found it dead,
    /// does not remove the confirmed one.
    fn reserved(&self) -> Entry {
        Entry {
            until: self.entry.until + Duration::from_millis(1),
            ..self.entry
        }
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
            Room::Retry => Ok(true),
            Room::Refuse => Ok(false),
            Room::Evict(oldest) => {
                *calls += 3;
                end(context, oldest.handle, &self.principal, deadline).await?;
                let index = IndexKey::of(&self.principal);
                within(deadline, store.leave(&index, &[oldest])).await?;
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
    /// The store has not said whether it is.
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
        entry,
        entered_in,
    } = reservation;
    let store = &context.backend.store;
    *calls += 1;
    match within(deadline, store.confirm(index, *entry, *entered_in)).await {
        Ok(Confirmed::Done) => Ok(()),
        Ok(Confirmed::Ended) => {
            *calls += 1;
            // If this fails, nobody has the token; and a login that joins this one is admitted by the index on its own.
            let _ = end_unchanged(context, written, deadline).await;
            let refused = SignInRefused::SignedOutEverywhere;
            Err(NotConfirmed::Refused(refused.into()))
        }
        Err(_) => Err(NotConfirmed::Unknown),
    }
}
