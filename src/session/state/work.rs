//! What the request wants in the store, taken out of its state.

use std::sync::Arc;

use crate::commit::base::Base;
use crate::commit::context::CommitContext;
use crate::commit::decide::Entry;
use crate::commit::join::{Joining, entry};
use crate::commit::work::{ReadSet, Work};
use crate::config::policies::Concurrency;
use crate::error::session::SessionError;
use crate::session::state::backing::Backing;
use crate::session::state::{State, View};

impl State {
    /// The session that has retired this request's token, if to sign in is to join it.
    pub(crate) fn joined_by(&self, who: &str, context: &CommitContext) -> Option<&Base> {
        let Backing::Denied {
            retired_by: Some(base),
            ..
        } = &self.backing
        else {
            return None;
        };
        let joining = context.joining(who, &base.token);
        let met = entry(None, Some(&joining), &base.record);
        let joins = met == Entry::SameLogin { fresh: true } && !self.refuses_join;
        joins.then_some(base)
    }

    /// Whom the log signs in, if it may find the session signed in by another request, and with which token.
    fn joining(&self, context: &CommitContext) -> Option<Joining> {
        let who = self.log.login().filter(|_| !self.refuses_join)?;
        let token = match &self.backing {
            // What was done to the session of somebody else is not done to that of this principal.
            Backing::Loaded(base)
                if base.record.is_anothers(who) && !self.log.begins_with_login() =>
            {
                return None;
            }
            Backing::Loaded(base)
            | Backing::Denied {
                retired_by: Some(base),
                ..
            } => &base.token,
            Backing::New | Backing::Denied { .. } => return None,
        };
        Some(context.joining(who, token))
    }

    /// What was read, if that may have changed meanwhile and nothing is written that would find out: the request had the
    /// session for itself, and its lease has lapsed.
    pub(crate) fn unproved_reads(&self) -> Option<(ReadSet, Base)> {
        let lapsed = self.lease.as_ref().is_some_and(|lease| !lease.is_held());
        let mut reads = self.reads.set.clone();
        if let ReadSet::These(seen) = &mut reads {
            seen.keys.extend(self.log.keys().cloned());
        }
        match &self.backing {
            Backing::Loaded(base)
                if lapsed
                    && !self.reads.are_proved()
                    && !self.phase.is_head_sent()
                    && !reads.is_empty() =>
            {
                Some((reads, Base::clone(base)))
            }
            _ => None,
        }
    }

    /// Takes out what is to be committed. Nothing while a session is still to be destroyed.
    pub(crate) fn take_work(
        &mut self,
        context: CommitContext,
    ) -> Result<Option<(Work, u32)>, SessionError> {
        let (base, made_in) = match &self.backing {
            _ if !self.ending.pending().is_empty() => return Ok(None),
            Backing::Denied { why, .. } if self.ending.has_begun() || !self.log.is_empty() => {
                let who = self.log.login();
                match who.and_then(|who| self.joined_by(who, &context)) {
                    Some(base) => (Some(base.clone()), None),
                    None => return Err(why.clone()),
                }
            }
            _ if self.log.is_empty() => return Ok(None),
            Backing::New if self.phase.is_head_sent() => return Err(SessionError::ResponseSent),
            Backing::Loaded(base) => (Some(Base::clone(base)), Some(base.record.epoch)),
            Backing::New | Backing::Denied { .. } => (None, None),
        };
        let joining = self.joining(&context);
        let rejects = context.policy.config.concurrency == Concurrency::Reject;
        let writes_what_it_saw =
            !self.log.is_all_transactions() && self.log.keys().next().is_some();
        if rejects && self.reads.overtaken && writes_what_it_saw {
            return Err(SessionError::Conflict { attempts: 0 });
        }
        let log = std::mem::take(&mut self.log);
        // A secret is retired from the commit on, not from the call, so a rotation is done again; and what gives an answer
        // has given it on whatever the session was then.
        let known_result =
            self.view_is == View::Exact && log.new_secret().is_none() && !log.has_deferred();
        let known_result = known_result.then(|| Arc::clone(&self.view));
        self.in_flight.send(log.clone());
        self.revision += 1;
        let mut reads = match context.policy.config.concurrency {
            // It looks at everything by itself, and again if that has changed.
            Concurrency::Reject if log.is_all_transactions() => ReadSet::Nothing,
            _ => self.reads.set.clone(),
        };
        if let ReadSet::These(seen) = &mut reads {
            seen.keys.extend(log.keys().cloned());
        }
        let last_write_wins = context.policy.config.concurrency == Concurrency::LastWriteWins;
        // What gives its caller something is merged in any case: two must not get the same.
        let overwrites = last_write_wins && !log.has_deferred() && log.keys().next().is_some();
        let work = Work {
            base,
            log,
            made_in,
            joining,
            known_result,
            context,
            reads,
            overwrites,
            cookie: (!self.phase.is_head_sent()).then_some(self.cookie),
        };
        Ok(Some((work, self.generation)))
    }
}
