//! What happened to sessions, for logs, alarms and metrics.
//!
//! Every event goes to [`tracing`] under the target `sessile`, to the [`Observer`] of the layer, if it has one, and with the
//! feature `metrics` into counters. No event holds a token; a [`Handle`] is safe to log.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::session::{Denied, Gone, LimitedPart};
use crate::error::store::StoreError;
use crate::record::format::Unreadable;
use crate::token::Handle;

/// Something that happened to a session.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub enum Event {
    /// A visitor's first change was stored.
    #[non_exhaustive]
    Created {
        /// The session.
        handle: Handle,
    },
    /// The session has a new secret: `cycle_id`, `set_principal` or `clear_principal`.
    #[non_exhaustive]
    Rotated {
        /// The session.
        handle: Handle,
    },
    /// The session was deleted.
    #[non_exhaustive]
    Destroyed {
        /// The session.
        handle: Handle,
    },
    /// A session could not be deleted, although it was tried for minutes, or since too many others wait for that, or since
    /// the tokio runtime has ended; it lives until its idle timeout. If the store was away all the time, there may be no
    /// such session.
    #[non_exhaustive]
    DestroyFailed {
        /// The session.
        handle: Handle,
        /// Why the last attempt failed.
        error: StoreError,
    },
    /// A session was written. Requests of this process that change one session at once are written together.
    #[non_exhaustive]
    Committed {
        /// The session.
        handle: Handle,
        /// How many requests' changes it were.
        requests: u32,
        /// Compare-and-sets that it took: more than one if other nodes were faster, on whose work the changes were done
        /// again.
        attempts: u32,
    },
    /// Changes were refused, since the session has ended, passed to another login or cannot be read.
    #[non_exhaustive]
    Refused {
        /// The session, if it was stored.
        handle: Option<Handle>,
        /// Why.
        why: Gone,
    },
    /// Changes were refused, since this request may not use the session.
    #[non_exhaustive]
    Denied {
        /// The session.
        handle: Option<Handle>,
        /// Why.
        why: Denied,
    },
    /// A call or a commit was refused, since a key, a value, a principal or the whole session was larger than it may be.
    #[non_exhaustive]
    TooLarge {
        /// The session, if it was stored.
        handle: Option<Handle>,
        /// What is too large.
        part: LimitedPart,
        /// Bytes that it takes.
        size: usize,
        /// Bytes that it may take.
        limit: usize,
    },
    /// A session is used from another network than the one it belongs to. Once per session and network, as far as this
    /// process remembers.
    #[non_exhaustive]
    FingerprintMismatch {
        /// The session.
        handle: Handle,
        /// The network it belongs to.
        bound: String,
        /// The network of the request.
        seen: String,
    },
    /// `Fingerprinting::Strict`, and the client's address is not known, so that no session can be used: serve the router
    /// with `into_make_service_with_connect_info::<SocketAddr>()`.
    AddressUnknown,
    /// The request carries a session cookie whose value no sessile has written. Nothing was asked of the store for it.
    MalformedCookie,
    /// The request carries cookies of the session cookie's name that open different sessions, or more than four of them;
    /// none is used. See [`SeveralCookies`](Self::SeveralCookies).
    AmbiguousCookie,
    /// The request carries several cookies of the session cookie's name, of which one opens a session; that one is used.
    /// Once per session, as far as this process remembers.
    ///
    /// Look whether the `Path` or the `Domain` of the cookie was changed, or whether another application on this host or on
    /// one of its parents has a cookie of the same name. A response that sets the cookie or takes it away removes the others
    /// from where they are likely to be.
    #[non_exhaustive]
    SeveralCookies {
        /// The session.
        handle: Handle,
    },
    /// What is stored under the session's key cannot be read. It was left as it is.
    #[non_exhaustive]
    UnreadableRecord {
        /// The session.
        handle: Handle,
        /// Why, without any of its content.
        reason: String,
    },
    /// The store failed. In the log once a second at most, with how many others were left out since.
    #[non_exhaustive]
    StoreFailed {
        /// The session, if it was stored.
        handle: Option<Handle>,
        /// What the store said.
        error: StoreError,
    },
    /// So many requests wanted the session that this one was turned away.
    #[non_exhaustive]
    Busy {
        /// The session, if it was stored.
        handle: Option<Handle>,
    },
    /// `Concurrency::Exclusive`: a request was held up for so long that its lease ended, and another one runs beside it.
    #[non_exhaustive]
    LeaseLost {
        /// The session.
        handle: Handle,
    },
    /// A commit got no answer; its changes may be in the store.
    #[non_exhaustive]
    OutcomeUnknown {
        /// The session, if it was stored.
        handle: Option<Handle>,
    },
    /// The last clone of a session was dropped with changes that were made after the response and never saved: call
    /// `save().await` after changing a session in a stream, a WebSocket or a spawned task.
    #[non_exhaustive]
    ChangesLost {
        /// The session, if it was stored.
        handle: Option<Handle>,
    },
    /// The response sets the session cookie, or its handler asked for a signed-in session, and its headers let shared caches
    /// store it: `public`, `s-maxage`, or a field such as `CDN-Cache-Control`. These were taken away.
    PublicResponse,
    /// Something inside the layer has set a cookie of the session cookie's name. It was taken away, since it would have
    /// replaced the visitor's session by another one, or by none. Give that cookie another name, or change the session through
    /// [`Session`](crate::Session).
    #[non_exhaustive]
    ForeignSetCookie {
        /// The name.
        name: String,
    },
    /// A layer inside another one of the same cookie name has joined the other's session, and was made with other settings,
    /// which are not in force. Once for two layers. Give these routes a layer of their own beside the other one, with `merge`
    /// or `nest`, or its cookie another name.
    #[non_exhaustive]
    SettingsIgnored {
        /// The cookie's name.
        cookie: String,
        /// The inner layer's settings that differ, by their names in [`SessionConfig`](crate::SessionConfig); `store`,
        /// `client_ip`, `on_error` and `observer` for what it was made with besides.
        settings: Vec<&'static str>,
    },
}

impl Event {
    /// A record cannot be read.
    pub(crate) fn unreadable(handle: Handle, error: &Unreadable) -> Self {
        let reason = match error {
            Unreadable::Malformed(source) => format!("{error}: {source}"),
            Unreadable::Newer(_) | Unreadable::NoVersion => error.to_string(),
        };
        Self::UnreadableRecord { handle, reason }
    }

    /// The variant's name in lower case, such as `store_failed`: for counters and filters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "created",
            Self::Committed { .. } => "committed",
            Self::Rotated { .. } => "rotated",
            Self::Destroyed { .. } => "destroyed",
            Self::DestroyFailed { .. } => "destroy_failed",
            Self::Refused { .. } => "refused",
            Self::Denied { .. } => "denied",
            Self::TooLarge { .. } => "too_large",
            Self::FingerprintMismatch { .. } => "fingerprint_mismatch",
            Self::AddressUnknown => "address_unknown",
            Self::MalformedCookie => "malformed_cookie",
            Self::AmbiguousCookie => "ambiguous_cookie",
            Self::SeveralCookies { .. } => "several_cookies",
            Self::UnreadableRecord { .. } => "unreadable_record",
            Self::StoreFailed { .. } => "store_failed",
            Self::Busy { .. } => "busy",
            Self::LeaseLost { .. } => "lease_lost",
            Self::OutcomeUnknown { .. } => "outcome_unknown",
            Self::ChangesLost { .. } => "changes_lost",
            Self::PublicResponse => "public_response",
            Self::ForeignSetCookie { .. } => "foreign_set_cookie",
            Self::SettingsIgnored { .. } => "settings_ignored",
        }
    }
}

/// Hears of every [`Event`] of a layer. Any `Fn(&Event)` is one.
///
/// It is called on a task of the runtime, not always the request's: hand work on, do not wait, and use no task-locals. It
/// may use a session that it has.
pub trait Observer: Send + Sync + 'static {
    /// Called once for every event.
    fn on_event(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync + 'static> Observer for F {
    fn on_event(&self, event: &Event) {
        self(event);
    }
}

/// Where events are written down.
#[derive(Debug, Default)]
pub(crate) struct Log {
    failures: Mutex<Failures>,
}

/// Failures of the store, of which a server that is away makes as many as there are requests.
#[derive(Clone, Copy, Debug, Default)]
struct Failures {
    written: Option<Instant>,
    left_out: u64,
}

impl Failures {
    /// Whether the next one is written down, and how many were not since the last.
    fn next(&mut self, now: Instant) -> Option<u64> {
        if self
            .written
            .is_some_and(|written| now - written < Duration::from_secs(1))
        {
            self.left_out += 1;
            return None;
        }
        self.written = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Log {
    pub(crate) fn write(&self, event: &Event) {
        if let Event::StoreFailed { handle, error } = event {
            let next = self
                .failures
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .next(Instant::now());
            if let Some(left_out) = next {
                tracing::warn!(target: "sessile", handle = handle.map(tracing::field::display), %error, cause = cause(error), left_out, "session store failed");
            }
        } else {
            trace(event);
        }
    }
}

/// What is behind the error; what is behind that says the same once more.
fn cause(error: &StoreError) -> Option<tracing::field::DisplayValue<&dyn std::error::Error>> {
    std::error::Error::source(error).map(tracing::field::display)
}

fn trace(event: &Event) {
    match event {
        Event::Created { handle } => tracing::debug!(target: "sessile", %handle, "session created"),
        Event::Rotated { handle } => tracing::debug!(target: "sessile", %handle, "session rotated"),
        Event::Destroyed { handle } => {
            tracing::debug!(target: "sessile", %handle, "session destroyed");
        }
        Event::DestroyFailed { handle, error } => {
            tracing::error!(target: "sessile", %handle, %error, cause = cause(error), "session could not be destroyed");
        }
        Event::Committed {
            handle,
            requests,
            attempts,
        } => {
            tracing::debug!(target: "sessile", %handle, requests, attempts, "session committed");
        }
        Event::Refused { handle, why } => {
            tracing::info!(target: "sessile", handle = handle.map(tracing::field::display), %why, "changes refused");
        }
        Event::Denied { handle, why } => {
            tracing::info!(target: "sessile", handle = handle.map(tracing::field::display), %why, "session denied");
        }
        Event::TooLarge {
            handle,
            part,
            size,
            limit,
        } => {
            tracing::warn!(target: "sessile", handle = handle.map(tracing::field::display), %part, size, limit, "too large for a session: {}", part.advice());
        }
        Event::FingerprintMismatch {
            handle,
            bound,
            seen,
        } => {
            tracing::warn!(target: "sessile", %handle, bound, seen, "session used from another network");
        }
        Event::AddressUnknown => {
            tracing::error!(target: "sessile", "strict fingerprinting and no client address: serve the router with `into_make_service_with_connect_info::<SocketAddr>()`");
        }
        Event::MalformedCookie => tracing::debug!(target: "sessile", "malformed session cookie"),
        Event::AmbiguousCookie => {
            tracing::info!(target: "sessile", "session cookies of one name for different sessions, or more than four: was the `Path` or the `Domain` of the cookie changed, or has another application a cookie of this name?");
        }
        Event::SeveralCookies { handle } => {
            tracing::warn!(target: "sessile", %handle, "several session cookies of one name, of which one opens a session: was the `Path` or the `Domain` of the cookie changed, or has another application a cookie of this name?");
        }
        Event::UnreadableRecord { handle, reason } => {
            tracing::warn!(target: "sessile", %handle, reason, "stored session cannot be read");
        }
        Event::StoreFailed { .. } => {}
        Event::Busy { handle } => {
            tracing::warn!(target: "sessile", handle = handle.map(tracing::field::display), "too many requests want one session");
        }
        Event::LeaseLost { handle } => {
            tracing::warn!(target: "sessile", %handle, "the lease of a session has ended while its request was running");
        }
        Event::OutcomeUnknown { handle } => {
            tracing::warn!(target: "sessile", handle = handle.map(tracing::field::display), "the outcome of a commit is unknown");
        }
        Event::ChangesLost { handle } => {
            tracing::warn!(target: "sessile", handle = handle.map(tracing::field::display), "changes made after the response were never saved; call `save().await`");
        }
        Event::PublicResponse => {
            tracing::warn!(target: "sessile", "shared caches were allowed to store a response that sets the session cookie or depends on who is signed in; they are not any more: leave `public`, `s-maxage` and fields such as `CDN-Cache-Control` out of it");
        }
        Event::ForeignSetCookie { name } => {
            tracing::warn!(target: "sessile", name, "a `Set-Cookie` of the session cookie's name was removed from the response: give that cookie another name, or change the session through `Session`");
        }
        Event::SettingsIgnored { cookie, settings } => {
            tracing::warn!(target: "sessile", cookie, settings = settings.join(", "), "a session layer is inside another one of the same cookie and joins its session, so these settings of the inner one are not in force: give the routes their own layer beside the other one, with `merge` or `nest`, or its cookie another name");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_failures_one_a_second_is_written_down() {
        let (mut failures, began) = (Failures::default(), Instant::now());
        let told = [0, 1, 999, 1_000, 1_001, 5_000, 6_000].map(|millis| {
            let now = began + Duration::from_millis(millis);
            failures.next(now)
        });
        assert_eq!(told, [Some(0), None, None, Some(2), None, Some(1), Some(0)]);
    }
}
