//! Renewals by a session that was loaded some time ago, which looks first what has become of it.

use tokio::runtime::Handle as Runtime;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::commit::attempt::{Base, Terms, within};
use crate::event::Event;
use crate::middleware::request::{Admission, admit};
use crate::record::Record;
use crate::record::fingerprint::{admits, compare};
use crate::record::lifetime::{Millis, renewal, to_millis, ttl};
use crate::record::version::Epoch;
use crate::store::{Freshness, Renewal, StoreError, Stored};
use crate::time::deadline::deadline;
use crate::token::SecretHash;

/// Who asks for the renewal.
struct Holder {
    secret: SecretHash,
    epoch: Epoch,
    terms: Terms,
}

/// Renews the session in the background, by the timeouts that it has now, if this request may still use it.
pub(crate) fn look_and_renew(base: &Base, terms: Terms, runtime: &Runtime) {
    let handle = base.token.handle;
    let cookie = &terms.settings.config.cookie.name;
    let holder = Holder {
        secret: base.token.secret.hash(terms.core.store.namespace(), cookie),
        epoch: base.record.epoch,
        terms,
    };
    let background = holder.terms.core.background.clone();
    let task = async move {
        let Terms { core, settings, .. } = &holder.terms;
        let deadline = deadline(Instant::now(), core.request_budget());
        let renewed: Result<(), StoreError> = async {
            let load = core.store.load(&handle, Freshness::Latest);
            let stored = within(deadline, load).await?;
            let now = to_millis(core.store.now());
            if let Some(renewal) = stored.and_then(|stored| holder.may(&stored, now)) {
                // What others commit in between is mended by the next load.
                let _ = within(deadline, core.store.touch(&handle, renewal)).await?;
            }
            Ok(())
        }
        .await;
        if let Err(error) = renewed {
            let handle = Some(handle);
            settings.emit(&Event::StoreFailed { handle, error });
        }
    };
    background.spawn_on(task.in_current_span(), runtime);
}

impl Holder {
    /// The renewal that it may have of what is stored.
    fn may(&self, stored: &Stored, now: Millis) -> Option<Renewal> {
        let record = Record::decode(stored).ok()?;
        let config = &self.terms.settings.config;
        let bound = record.fingerprint.as_deref();
        let fingerprint = compare(config.fingerprinting, bound, self.terms.network.as_deref());
        if record.epoch != self.epoch
            || admit(&record, &self.secret, now) != Admission::Holder
            || !admits(config.fingerprinting, &fingerprint)
        {
            return None;
        }
        let idle = record.idle_timeout.unwrap_or(config.idle_timeout);
        let extended = ttl(idle, record.deadline, now).map(Renewal::Extend);
        // A key that would outlive what it may is cut, as a load does.
        renewal(stored.time_left(), idle, record.deadline, now)
            .filter(|renewal| matches!(renewal, Renewal::Set(_)))
            .or(extended)
    }
}
