//! Renewals: they extend the life of a session in the background, beside its request.

use tokio::runtime::Handle as Runtime;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::commit::base::Base;
use crate::commit::context::CommitContext;
use crate::error::store::StoreError;
use crate::event::Event;
use crate::record::Record;
use crate::record::fingerprint::{admits, compare};
use crate::record::lifetime::{Renewal, renewal, ttl};
use crate::record::token_check::TokenCheck;
use crate::record::version::Epoch;
use crate::store::deadline::within;
use crate::store::{Freshness, Stored};
use crate::time::Millis;
use crate::token::{Handle, Secret};

/// Renews a session that has just been loaded, if a renewal is due. If it fails, the next request tries again.
pub(crate) fn renew_if_due(context: &CommitContext, base: &Base, now: Millis) {
    let (handle, record) = (base.token.handle, &base.record);
    let idle = context.policy.idle_timeout(record);
    let renewal = context.policy.renewal(base.stored.time_left(), record, now);
    if let Some(renewal) = renewal
        && context.backend.may_renew(handle, renewal, idle, now)
    {
        let context = context.clone();
        let background = context.backend.background.clone();
        let task = async move {
            let renewed = touch(&context, handle, renewal, context.deadline()).await;
            report(&context, handle, renewed);
        };
        background.spawn(task.in_current_span());
    }
}

async fn touch(
    context: &CommitContext,
    handle: Handle,
    renewal: Renewal,
    deadline: Instant,
) -> Result<(), StoreError> {
    let touch = context.backend.store.touch(&handle, renewal);
    // A session that is gone, or that lives longer by now, needs no renewal. The next load corrects the rest.
    within(deadline, touch).await.map(|_| ())
}

fn report(context: &CommitContext, handle: Handle, renewed: Result<(), StoreError>) {
    if let Err(error) = renewed {
        let handle = Some(handle);
        context.emit(&Event::StoreFailed { handle, error });
    }
}

/// The request that asks for a renewal.
struct Requester {
    secret: Secret,
    epoch: Epoch,
    context: CommitContext,
}

/// Loads a session again and renews it by the timeouts that it has now, if this request may still use it.
pub(crate) fn load_and_renew(base: &Base, context: CommitContext, runtime: &Runtime) {
    let handle = base.token.handle;
    let requester = Requester {
        secret: base.token.secret.clone(),
        epoch: base.record.epoch,
        context,
    };
    let background = requester.context.backend.background.clone();
    let task = async move {
        let renewed = requester.load_and_renew(handle).await;
        report(&requester.context, handle, renewed);
    };
    background.spawn_on(task.in_current_span(), runtime);
}

impl Requester {
    async fn load_and_renew(&self, handle: Handle) -> Result<(), StoreError> {
        let deadline = self.context.deadline();
        let load = self.context.backend.store.load(&handle, Freshness::Latest);
        let stored = within(deadline, load).await?.bytes().ok().flatten();
        match stored.and_then(|stored| self.renewal_of(&stored, self.context.backend.now())) {
            Some(renewal) => touch(&self.context, handle, renewal, deadline).await,
            None => Ok(()),
        }
    }

    /// The renewal that the stored record allows, or `None` if this request may not use the session any more.
    fn renewal_of(&self, stored: &Stored, now: Millis) -> Option<Renewal> {
        let record = Record::decode(stored.value()).ok()?;
        let config = &self.context.policy.config;
        let bound = record.fingerprint.as_deref();
        let fingerprint = compare(config.fingerprinting, bound, self.context.network);
        if record.epoch != self.epoch
            || self.context.check_secret(&record, &self.secret, now) != TokenCheck::Valid
            || !admits(config.fingerprinting, &fingerprint)
        {
            return None;
        }
        let idle = self.context.policy.idle(&record);
        let extended = ttl(idle, record.deadline, now).map(Renewal::Extend);
        // A key that would outlive the session's timeouts is shortened, as a load does.
        renewal(stored.time_left(), idle, record.deadline, now)
            .filter(|renewal| matches!(renewal, Renewal::Set(_)))
            .or(extended)
    }
}
