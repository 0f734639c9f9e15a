//! The way in: from the cookie to the session.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::commit::attempt::{Base, RestsOn, Seen, within};
use crate::commit::delete::Revocation;
use crate::commit::lease::Lease;
use crate::config::{Concurrency, OnStoreError};
use crate::error::session::{Gone, SessionError};
use crate::event::Event;
use crate::middleware::authenticate::{Choice, choose, held, worth};
use crate::middleware::layer::{Core, Settings};
use crate::middleware::slot::{NotLoaded, Visit};
use crate::record::change::Circumstances;
use crate::record::fingerprint::{Fingerprint, Fingerprinting, admits, compare};
use crate::record::kept::Kept;
use crate::record::lifetime::{Millis, renewal, to_millis};
use crate::record::{Record, Unreadable};
use crate::session::Session;
use crate::session::shared::Shared;
use crate::session::state::{Standing, State};
use crate::store::{Freshness, Renewal, StoreError, Stored};
use crate::time::deadline::deadline;
use crate::token::{Handle, SecretHash, Token};

impl Visit {
    /// The session, or why there is none.
    pub(crate) async fn load(&self) -> Result<Session, NotLoaded> {
        let began = Instant::now();
        let store = &*self.core.store;
        let budget = self.core.request_budget();
        let mut found = self.fetch(Freshness::Recent, deadline(began, budget)).await;
        let mut spent = began.elapsed();
        let mut lease = None;
        if let Ok(first) = &found {
            lease = self
                .lease(first)
                .await
                .map_err(|error| NotLoaded { error, spent })?;
        }
        if lease.is_some() {
            // Others may have had it meanwhile.
            let began = Instant::now();
            let left = budget.saturating_sub(spent);
            found = self.fetch(Freshness::Latest, deadline(began, left)).await;
            spent += began.elapsed();
        }
        let now = to_millis(store.now());
        let session = match found {
            Ok(found) => self.open(found, now),
            Err(error) => match self.settings.config.on_store_error {
                OnStoreError::Reject => {
                    let error = SessionError::Store(error);
                    return Err(NotLoaded { error, spent });
                }
                OnStoreError::Anonymous => self.could_not_be_loaded(error, now),
            },
        };
        let mut state = session.shared().state();
        state.spent = spent;
        state.lease = lease.map(Arc::new);
        drop(state);
        Ok(session)
    }

    /// A session that stands to the store like this.
    pub(crate) fn make(&self, standing: Standing, fingerprint: Fingerprint) -> Session {
        let circumstances = Circumstances {
            now: to_millis(self.core.store.now()),
            absolute_timeout: self.settings.config.absolute_timeout,
            network: self.network.clone(),
        };
        let mut state = State::new(standing, fingerprint, &circumstances);
        state.rests_on = match self.settings.config.concurrency {
            Concurrency::Merge | Concurrency::LastWriteWins => RestsOn::Nothing,
            Concurrency::Reject => RestsOn::Everything,
            Concurrency::Exclusive { .. } => RestsOn::These(Seen::default()),
        };
        let shared = Shared::new(
            Arc::clone(&self.core),
            Arc::clone(&self.settings),
            self.network.as_deref().map(Arc::from),
            self.runtime.clone(),
            self.core.request_budget(),
            self.shows_flashes,
            state,
        );
        Session::new(Arc::new(shared))
    }

    /// The empty session of a visitor whom the store knows, perhaps.
    fn could_not_be_loaded(&self, error: StoreError, now: Millis) -> Session {
        let barred = Standing::Barred {
            handle: None,
            retired_by: None,
            why: SessionError::Store(error),
        };
        let session = self.make(barred, self.compare(None));
        let tokens = self.presented.tokens.iter().cloned();
        session.shared().state().revocable = tokens
            .map(|token| Revocation::Unverified { token, asked: now })
            .collect();
        session
    }

    /// The session that the tokens open, out of what is stored under their handles.
    fn open(&self, found: Vec<(&Token, Option<Stored>)>, now: Millis) -> Session {
        let several = found.len() > 1;
        let mut judged: Vec<_> = found
            .into_iter()
            .map(|(token, stored)| match stored {
                Some(stored) => self.judge(token, stored, now),
                None => (Standing::New, self.compare(None)),
            })
            .collect();
        let worth: Vec<_> = judged.iter().map(|(standing, _)| worth(standing)).collect();
        let (standing, fingerprint) = match choose(&worth) {
            Choice::Use(index) => judged.swap_remove(index),
            Choice::Nobody => (Standing::New, self.compare(None)),
            Choice::Ambiguous => {
                self.settings.emit(&Event::AmbiguousCookie);
                (Standing::New, self.compare(None))
            }
        };
        if let Standing::Stored(base) = &standing {
            let handle = base.token.handle;
            if several && self.core.first_of_several_cookies(handle) {
                self.settings.emit(&Event::SeveralCookies { handle });
            }
            self.renew_if_due(base, now);
        }
        let session = self.make(standing, fingerprint);
        if several {
            session.shared().state().revocable =
                held(&worth).into_iter().map(Revocation::Verified).collect();
        }
        session
    }

    /// What is stored under the handles of the request's tokens, asked for at once.
    async fn fetch(
        &self,
        want: Freshness,
        deadline: Instant,
    ) -> Result<Vec<(&Token, Option<Stored>)>, StoreError> {
        let tokens = &self.presented.tokens;
        let mut handles: Vec<Handle> = tokens.iter().map(|token| token.handle).collect();
        handles.sort_unstable();
        handles.dedup();
        let loads = handles.iter().map(|handle| async move {
            let load = self.core.store.load(handle, want);
            within(deadline, load).await.inspect_err(|error| {
                let (handle, error) = (Some(*handle), error.clone());
                self.settings.emit(&Event::StoreFailed { handle, error });
            })
        });
        let loaded = join_all(loads).await.into_iter();
        let loaded = loaded.collect::<Result<Vec<_>, _>>()?;
        let of = |token: &Token| handles.iter().position(|handle| *handle == token.handle);
        let stored = |token| of(token).and_then(|index| loaded[index].clone());
        Ok(tokens.iter().map(|token| (token, stored(token))).collect())
    }

    /// Waits for the session's other requests, if the layer says so. Only whoever holds the session's secret may make them
    /// wait: its handle is no secret.
    async fn lease(
        &self,
        found: &[(&Token, Option<Stored>)],
    ) -> Result<Option<Lease>, SessionError> {
        let Concurrency::Exclusive { wait, lease } = self.settings.config.concurrency else {
            return Ok(None);
        };
        let now = to_millis(self.core.store.now());
        let holds = |(token, stored): &(&Token, Option<Stored>)| {
            let record = Record::decode(stored.as_ref()?).ok()?;
            let holds = admit(&record, &self.hash(token), now) == Admission::Holder;
            holds.then_some(token.handle)
        };
        let opened: BTreeSet<Handle> = found.iter().filter_map(holds).collect();
        // Several different sessions are none.
        let (Some(held), 1) = (opened.first().copied(), opened.len()) else {
            return Ok(None);
        };
        let handle = Some(held);
        let taken = Lease::take(&self.core, &self.settings, held, wait, lease).await;
        match &taken {
            Err(SessionError::Store(error)) => {
                let error = error.clone();
                self.settings.emit(&Event::StoreFailed { handle, error });
            }
            Err(_) => self.settings.emit(&Event::Busy { handle }),
            Ok(_) => {}
        }
        taken.map(Some)
    }

    fn hash(&self, token: &Token) -> SecretHash {
        let cookie = &self.settings.config.cookie.name;
        token.secret.hash(self.core.store.namespace(), cookie)
    }

    /// What this token may do with what is stored under its handle.
    fn judge(&self, token: &Token, stored: Stored, now: Millis) -> (Standing, Fingerprint) {
        let handle = token.handle;
        let config = &self.settings.config;
        let record = match Record::decode(&stored) {
            Ok(record) => record,
            Err(error) => {
                self.settings.emit(&unreadable(handle, &error));
                // A newer version of sessile may know the token; what is no record at all knows none.
                let standing = match error {
                    Unreadable::Newer(_) => Standing::Barred {
                        handle: None,
                        retired_by: None,
                        why: SessionError::Gone(Gone::Unreadable),
                    },
                    Unreadable::Malformed(_) | Unreadable::NoVersion => Standing::New,
                };
                return (standing, self.compare(None));
            }
        };
        match admit(&record, &self.hash(token), now) {
            Admission::Nobody => (Standing::New, self.compare(None)),
            Admission::Retired => {
                let base = Base {
                    token: token.clone(),
                    stored,
                    record: Arc::new(record),
                };
                let standing = Standing::Barred {
                    handle: None,
                    retired_by: Some(Box::new(base)),
                    why: SessionError::Gone(Gone::Rotated),
                };
                (standing, self.compare(None))
            }
            Admission::Holder => {
                let fingerprint = self.compare(record.fingerprint.as_deref());
                self.report(token, &fingerprint);
                if !admits(config.fingerprinting, &fingerprint) {
                    let standing = Standing::Barred {
                        handle: Some(handle),
                        retired_by: None,
                        why: SessionError::Gone(Gone::OtherNetwork),
                    };
                    return (standing, fingerprint);
                }
                let record = Arc::new(record);
                let base = Base {
                    token: token.clone(),
                    stored,
                    record,
                };
                (Standing::Stored(Box::new(base)), fingerprint)
            }
        }
    }

    fn renew_if_due(&self, base: &Base, now: Millis) {
        let (handle, record) = (base.token.handle, &base.record);
        let default = self.settings.config.idle_timeout;
        let idle = record.idle_timeout.unwrap_or(default);
        let renewal = renewal(base.stored.time_left(), idle, record.deadline, now);
        if let Some(renewal) = renewal
            && self.core.may_renew(handle, renewal, idle, now)
        {
            renew(&self.core, &self.settings, handle, renewal);
        }
    }

    pub(crate) fn compare(&self, bound: Option<&str>) -> Fingerprint {
        compare(
            self.settings.config.fingerprinting,
            bound,
            self.network.as_deref(),
        )
    }

    fn report(&self, token: &Token, fingerprint: &Fingerprint) {
        let handle = token.handle;
        match fingerprint {
            Fingerprint::Mismatch { bound, seen } if self.core.first_mismatch(handle, seen) => {
                let (bound, seen) = (bound.clone(), seen.clone());
                self.settings.emit(&Event::FingerprintMismatch {
                    handle,
                    bound,
                    seen,
                });
            }
            Fingerprint::Unknown
                if self.settings.config.fingerprinting == Fingerprinting::Strict
                    && self.core.first_missing_address() =>
            {
                self.settings.emit(&Event::AddressUnknown);
            }
            _ => {}
        }
    }
}

/// Renews the key beside whatever the request does. If it fails, the next request does it.
fn renew(core: &Arc<Core>, settings: &Arc<Settings>, handle: Handle, renewal: Renewal) {
    let (core, settings) = (Arc::clone(core), Arc::clone(settings));
    let background = core.background.clone();
    let task = async move {
        let deadline = deadline(Instant::now(), core.request_budget());
        if let Err(error) = within(deadline, core.store.touch(&handle, renewal)).await {
            let handle = Some(handle);
            settings.emit(&Event::StoreFailed { handle, error });
        }
    };
    background.spawn(task.in_current_span());
}

/// The event that a record cannot be read.
pub(crate) fn unreadable(handle: Handle, error: &Unreadable) -> Event {
    let reason = match error {
        Unreadable::Malformed(source) => format!("{error}: {source}"),
        Unreadable::Newer(_) | Unreadable::NoVersion => error.to_string(),
    };
    Event::UnreadableRecord { handle, reason }
}

/// Who the bearer of a token is to a record.
#[derive(Debug, PartialEq)]
pub(crate) enum Admission {
    /// Nobody: the secret is wrong, or the session is past its deadline.
    Nobody,
    /// Held the secret until a moment ago; another response brings the new one.
    Retired,
    /// Holds the secret.
    Holder,
}

pub(crate) fn admit(record: &Record, secret: &SecretHash, now: Millis) -> Admission {
    if record.deadline <= now {
        Admission::Nobody
    } else if record.secrets().any(|live| live == secret) {
        Admission::Holder
    } else if record
        .retired
        .iter()
        .filter_map(Kept::known)
        .any(|retired| retired.until > now && retired.secret == *secret)
    {
        Admission::Retired
    } else {
        Admission::Nobody
    }
}

/// Whether the secret is of this session, or was until a moment ago: enough to end it.
pub(crate) fn is_of(record: &Record, secret: &SecretHash, now: Millis) -> bool {
    admit(record, secret, now) != Admission::Nobody
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Retired;
    use crate::record::tests::record;
    use crate::token::Secret;

    #[test]
    fn only_the_present_secrets_open_a_living_session() {
        let mut record = record();
        let old = Secret::random().hash("sessile:", "id");
        let retired = Retired {
            secret: old.clone(),
            until: 20_000,
        };
        record.retired.push(Kept::new(retired));
        record.deadline = 90_000;
        let added = Secret::random().hash("sessile:", "id");
        record.added.push(added.clone());
        let right = record.secret.clone();
        let wrong = Secret::random().hash("sessile:", "id");
        for (secret, now, expected) in [
            (&right, 1, Admission::Holder),
            (&right, 89_999, Admission::Holder),
            (&added, 89_999, Admission::Holder),
            (&added, 90_000, Admission::Nobody),
            (&right, 90_000, Admission::Nobody),
            (&old, 19_999, Admission::Retired),
            (&old, 20_000, Admission::Nobody),
            (&wrong, 1, Admission::Nobody),
        ] {
            assert_eq!(admit(&record, secret, now), expected, "{now}");
            let ends_it = expected != Admission::Nobody;
            assert_eq!(is_of(&record, secret, now), ends_it, "{now}");
        }
    }
}
