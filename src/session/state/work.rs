//! Takes the work of a commit out of the request's state.

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
    /// The session that has retired this request's token, if a login of this principal may join it.
    pub(crate) fn joined_by(&self, who: &str, context: &CommitContext) -> Option<&Base> {
        let Backing::Denied {
            retired_by: Some(base),
            ..
        } = &self.backing
        else {
            return None;
        };
        let joining = context.joining(who, &base.token);
        let relation = entry(None, Some(&joining), &base.record);
        let joins = relation == Entry::SameLogin { fresh: true } && !self.refuses_join;
        joins.then_some(base)
    }

    /// The login of the log, if it may join that of another request.
    fn joining(&self, context: &CommitContext) -> Option<Joining> {
        let who = self.log.login().filter(|_| !self.refuses_join)?;
        let token = match &self.backing {
            // Changes made to the session of another principal must not be applied to this principal's.
            Backing::Loaded(base)
                if base.record.belongs_to_another(who) && !self.log.begins_with_login() =>
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

    /// The values that were read, and the base they were read from, if they may have changed and no write would notice: the
    /// request was to have the session for itself, and its lease has expired.
    pub(crate) fn unverified_reads(&self) -> Option<(ReadSet, Base)> {
        // Only a request that was to have the session for itself has a lease.
        let lapsed = self.lease.as_ref().is_some_and(|lease| !lease.is_held());
        if !lapsed {
            return None;
        }
        let mut reads = self.reads.set.clone();
        if let ReadSet::These(seen) = &mut reads {
            seen.keys.extend(self.log.keys().cloned());
        }
        match &self.backing {
            Backing::Loaded(base)
                if !self.reads.are_verified()
                    && !self.phase.is_head_sent()
                    && !reads.is_empty() =>
            {
                Some((reads, Base::clone(base)))
            }
            _ => None,
        }
    }

    /// Takes out the changes to commit; `None` if there are none, or while a deletion is pending.
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
        let writes_values_it_read =
            !self.log.is_all_transactions() && self.log.keys().next().is_some();
        if rejects && self.reads.overtaken && writes_values_it_read {
            return Err(SessionError::Conflict { attempts: 0 });
        }
        let log = std::mem::take(&mut self.log);
        // A rotation is applied again, since the old secret is retired at the commit and not at the call. So is a change
        // with a deferred result, which must be that of the record that is written.
        let known_result =
            self.view_is == View::Exact && log.new_secret().is_none() && !log.has_deferred();
        let known_result = known_result.then(|| Arc::clone(&self.view));
        self.in_flight.send(log.clone());
        self.revision += 1;
        let mut reads = match context.policy.config.concurrency {
            // A transaction reads everything itself, and runs again if anything has changed.
            Concurrency::Reject if log.is_all_transactions() => ReadSet::Nothing,
            _ => self.reads.set.clone(),
        };
        if let ReadSet::These(seen) = &mut reads {
            seen.keys.extend(log.keys().cloned());
        }
        let last_write_wins = context.policy.config.concurrency == Concurrency::LastWriteWins;
        // Changes with a deferred result are merged in any case: two callers must not get the same value.
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
