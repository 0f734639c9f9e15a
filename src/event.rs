//! Events of sessions, for logs, alarms and metrics.
//!
//! Every event goes to [`tracing`] under the target `sessile`, to the layer's [`Observer`] if it has one, and, with the feature
//! `metrics`, to counters (`metrics/requests.rs`). `Policy::emit` sends it to all of them. Events do not hold tokens; a [`Handle`], which
//! names a session, is safe to log.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::HeaderName;
use tokio::time::Instant;

use crate::error::session::{CsrfFailure, Denied, Gone, LimitedPart, SignInRefused};
use crate::error::store::StoreError;
use crate::record::format::Unreadable;
use crate::token::Handle;

/// Something that happened to a session, for an [`Observer`].
///
/// Its [`name`](Self::name) is that in the log and in metrics. Later versions may add events and fields, so write `_` and `..`:
///
/// ```
/// use sessile::{EndReason, Event};
///
/// /// What an application tells its users by mail.
/// fn notice(event: &Event) -> Option<&'static str> {
///     match event {
///         Event::Destroyed { why: EndReason::MaxSessions, .. } => Some("A new sign-in has ended your oldest session."),
///         Event::FingerprintMismatch { .. } => Some("Your session is used from another network."),
///         _ => None,
///     }
/// }
/// ```
#[non_exhaustive]
#[derive(Clone, Debug)]
pub enum Event {
    /// A visitor's first change was stored.
    #[non_exhaustive]
    Created {
        /// The session.
        handle: Handle,
    },
    /// The session was rotated, so that it has a new token: by `cycle_id`, `set_principal` or `clear_principal`.
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
        /// Why.
        why: EndReason,
    },
    /// A session could not be deleted: retries failed for minutes, too many deletions are pending, or the tokio runtime has
    /// shut down. The session lives until its idle timeout. If the store was down all the time, the session may not exist.
    #[non_exhaustive]
    DestroyFailed {
        /// The session.
        handle: Handle,
        /// Why the last attempt failed.
        error: StoreError,
    },
    /// A session was written. Requests of this process that change one session at the same time are committed together.
    #[non_exhaustive]
    Committed {
        /// The session.
        handle: Handle,
        /// How many requests' changes were committed.
        requests: u32,
        /// How many compare-and-sets it took: more than one if other nodes were faster, and the changes were replayed on their
        /// version.
        attempts: u32,
    },
    /// Changes were rejected, since the session has ended, was rotated or cannot be read.
    #[non_exhaustive]
    Refused {
        /// The session, if it was stored.
        handle: Option<Handle>,
        /// Why.
        why: Gone,
    },
    /// A sign-in was refused, since all sessions of the user were ended meanwhile, or there are too many.
    #[non_exhaustive]
    SignInRefused {
        /// The session, if it was stored.
        handle: Option<Handle>,
        /// Why.
        why: SignInRefused,
    },
    /// Changes were rejected, since this request may not use the session.
    #[non_exhaustive]
    Denied {
        /// The session.
        handle: Option<Handle>,
        /// Why.
        why: Denied,
    },
    /// A request failed its check against cross-site request forgery, and was answered with 403. A few of `wrong_token` are pages
    /// that were open during a login; many of the others are an attack, or a proxy that changes `Host`.
    #[non_exhaustive]
    CsrfRefused {
        /// The session, if the request has one that was loaded.
        handle: Option<Handle>,
        /// The check that it failed.
        why: CsrfFailure,
    },
    /// A call or a commit was rejected, since a key, a value, a principal or the whole session exceeds its limit.
    #[non_exhaustive]
    TooLarge {
        /// The session, if it was stored.
        handle: Option<Handle>,
        /// The part that is too large.
        part: LimitedPart,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A session is used from a network other than the one it belongs to. Sent once per session and network, as far as this
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
    /// A session is used from another address family than that of its network, such as IPv6, and has no network of that family yet:
    /// the next write of the session adopts this one, and any later one of the family is a
    /// [`FingerprintMismatch`](Self::FingerprintMismatch). Sent once per session and network, as far as this process remembers.
    ///
    /// Browsers switch between IPv4 and IPv6 on their own, so this alone is no alarm.
    #[non_exhaustive]
    OtherFamily {
        /// The session.
        handle: Handle,
        /// The network it belongs to.
        bound: String,
        /// The network of the request.
        seen: String,
    },
    /// The client's address is unknown, or that of a proxy, and a setting can help. Sent once for each kind of problem by a layer
    /// and its clones, for a request that uses a session. Its message says what to write.
    #[non_exhaustive]
    AddressProblem {
        /// The problem.
        problem: AddressProblem,
    },
    /// The request carries a malformed session cookie, for which sessile does not query the store.
    MalformedCookie,
    /// Under [`Transport::Header`](crate::Transport::Header), the request's header is not a token, or it is there several times.
    /// sessile does not query the store for it.
    #[non_exhaustive]
    MalformedHeader {
        /// The name of the header.
        name: String,
    },
    /// The function of [`SessionLayer::with_cookie_domain`](crate::SessionLayer::with_cookie_domain) has returned a domain that
    /// is not one of [`CookieConfig::domains`](crate::CookieConfig::domains): the cookie has none, so browsers send it to this
    /// host only. Sent once per domain, as far as this process remembers. Add the domain to the list, or return `None` for such
    /// hosts.
    #[non_exhaustive]
    CookieDomainRejected {
        /// The domain, as the function has returned it.
        domain: String,
    },
    /// The request carries several cookies of the session cookie's name. Either they are valid for different sessions, or there are
    /// more than four different ones; sessile uses none of them. See [`SeveralCookies`](Self::SeveralCookies).
    AmbiguousCookie,
    /// The request carries several cookies of the session cookie's name, and all valid ones belong to one session, which sessile
    /// uses.
    /// Sent once per session, as far as this process remembers.
    ///
    /// Check whether the `Path` or the `Domain` of the cookie was changed, or whether another application on this host or one of
    /// its parent domains sets a cookie of the same name. A response that sets or removes the cookie removes the others where
    /// they are likely to be set.
    #[non_exhaustive]
    SeveralCookies {
        /// The session.
        handle: Handle,
    },
    /// The stored record of a session cannot be read. sessile leaves it in the store as it is.
    #[non_exhaustive]
    UnreadableRecord {
        /// The session.
        handle: Handle,
        /// The cause; it does not show the record's content.
        reason: String,
    },
    /// The store failed. The log has at most one of these a second, with the number of failures since that were not logged.
    #[non_exhaustive]
    StoreFailed {
        /// The session, if it was stored.
        handle: Option<Handle>,
        /// The store's error.
        error: StoreError,
    },
    /// Other requests held the session for so long that this one was rejected.
    #[non_exhaustive]
    Busy {
        /// The session, if it was stored.
        handle: Option<Handle>,
    },
    /// Under `Concurrency::Exclusive` a request was stalled for so long that its lease expired, so that another request may run
    /// beside it.
    #[non_exhaustive]
    LeaseLost {
        /// The session.
        handle: Handle,
    },
    /// The store did not acknowledge a commit in time; its changes may have been applied.
    #[non_exhaustive]
    OutcomeUnknown {
        /// The session, if it was stored.
        handle: Option<Handle>,
    },
    /// The last clone of a session was dropped with unsaved changes that were made after the response: call `save().await`
    /// after changing a session in a stream, a WebSocket or a spawned task.
    #[non_exhaustive]
    ChangesLost {
        /// The session, if it was stored.
        handle: Option<Handle>,
    },
    /// The response sets the session cookie, or its handler asked for the session of a signed-in user, but its headers let shared
    /// caches store it: `public`, `s-maxage`, or a field such as `CDN-Cache-Control`. The layer has removed these.
    PublicResponse,
    /// A service inside the layer set a cookie of the session cookie's name or one of its former names, or the header in which
    /// the layer sends new tokens. The layer has removed it, since the client would have taken it for the session's. Use another
    /// name, or change the session through [`Session`](crate::Session).
    #[non_exhaustive]
    ForeignSetCookie {
        /// The name.
        name: String,
    },
    /// A layer inside another one with the same cookie name, or the same header for the token, uses the outer layer's session, so
    /// its own settings, which differ, have no effect. Sent once for each pair of layers. Give these routes their own layer
    /// beside the other one, with `merge` or `nest`, or give its cookie another name.
    #[non_exhaustive]
    SettingsIgnored {
        /// The name of the cookie or of the header.
        cookie: String,
        /// The inner layer's settings that differ, by their names in [`SessionConfig`](crate::SessionConfig); `store`,
        /// `client_ip`, `cookie_domain`, `on_error` and `observer` for its other parts.
        settings: Vec<&'static str>,
    },
}

/// Why a session has ended before it expired.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// A request of the session ended it: by [`Session::destroy`](crate::Session::destroy) or [`Logout`](crate::Logout).
    Logout,
    /// [`Sessions`](crate::Sessions) ended it: a user or an administrator has signed out another device, or all of them.
    Revoked,
    /// A new sign-in took its place: the user had as many sessions as [`MaxSessions`](crate::MaxSessions) allows.
    MaxSessions,
    /// All sessions of the user were ended while this one was being signed in to. No browser has its token.
    SignInRefused,
}

impl EndReason {
    /// The variant's name in snake case, such as `max_sessions`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logout => "logout",
            Self::Revoked => "revoked",
            Self::MaxSessions => "max_sessions",
            Self::SignInRefused => "sign_in_refused",
        }
    }
}

/// Why the client's address, which the fingerprint compares, is unknown or that of a proxy. `Display` says what to write.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressProblem {
    /// The address of the connection's peer is unknown. Reported if it is needed: under
    /// [`Fingerprinting::Strict`](crate::Fingerprinting::Strict), where nobody can use a session now, and with
    /// [`ClientAddress::trusted_proxies`](crate::ClientAddress::trusted_proxies).
    #[error(
        "the address of the peer is unknown: serve the router with `into_make_service_with_connect_info::<SocketAddr>()`, put a `sessile::PeerAddress` into the extensions of each request on a server without axum, or, behind a proxy on a Unix socket, write client_address = {{ hops = 1 }}"
    )]
    UnknownPeer,
    /// The function of [`SessionLayer::with_client_ip`](crate::SessionLayer::with_client_ip) has returned `None`. Reported under
    /// [`Fingerprinting::Strict`](crate::Fingerprinting::Strict) only, where this client cannot use a session.
    #[error(
        "the function of `with_client_ip` returned no address, so this client can use no session under strict fingerprinting: return one, or set `client_address` instead"
    )]
    NotSupplied,
    /// The request comes from a private address, with a header by which proxies name their client, and
    /// [`ClientAddress`](crate::ClientAddress) does not trust that proxy. So all clients seem to have the address of the proxy.
    #[error(
        "requests come from {peer} with the header `{header}`, so this seems to be a proxy, and all clients seem to be in its network: if it is yours, write client_address = {{ trusted_proxies = [\"{peer}\"], header = \"{header}\" }}, with all proxies in the list"
    )]
    #[non_exhaustive]
    UntrustedProxy {
        /// The address that is compared instead of the client's.
        peer: IpAddr,
        /// The first such header of the request.
        header: HeaderName,
    },
    /// A proxy that [`ClientAddress`](crate::ClientAddress) trusts has sent a request without the header.
    #[error(
        "a trusted proxy sent no header `{header}`: let it send the client's address there, or write the header that it does send as client_address.header"
    )]
    #[non_exhaustive]
    MissingHeader {
        /// The header.
        header: HeaderName,
    },
    /// The header that [`ClientAddress`](crate::ClientAddress) names has no address where one is needed, or too few entries.
    #[error(
        "the header `{header}` has no address where one is needed: let the proxies write addresses, and no names or `unknown`; compare client_address.hops, if it is set, with the number of proxies"
    )]
    #[non_exhaustive]
    UnreadableHeader {
        /// The header.
        header: HeaderName,
    },
}

impl Event {
    /// The event for a record that cannot be read.
    pub(crate) fn unreadable(handle: Handle, error: &Unreadable) -> Self {
        let reason = match error {
            Unreadable::Malformed(source) => format!("{error}: {source}"),
            Unreadable::Newer(_) | Unreadable::NoVersion | Unreadable::NotBytes => {
                error.to_string()
            }
        };
        Self::UnreadableRecord { handle, reason }
    }

    /// Returns the variant's name in snake case, such as `store_failed`: for counters and filters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "created",
            Self::Committed { .. } => "committed",
            Self::Rotated { .. } => "rotated",
            Self::Destroyed { .. } => "destroyed",
            Self::DestroyFailed { .. } => "destroy_failed",
            Self::Refused { .. } => "refused",
            Self::SignInRefused { .. } => "sign_in_refused",
            Self::Denied { .. } => "denied",
            Self::CsrfRefused { .. } => "csrf_refused",
            Self::TooLarge { .. } => "too_large",
            Self::FingerprintMismatch { .. } => "fingerprint_mismatch",
            Self::OtherFamily { .. } => "other_family",
            Self::AddressProblem { .. } => "address_problem",
            Self::MalformedCookie => "malformed_cookie",
            Self::MalformedHeader { .. } => "malformed_header",
            Self::CookieDomainRejected { .. } => "cookie_domain_rejected",
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

/// Receives every [`Event`] of a layer. Any `Fn(&Event)` is an observer.
///
/// sessile calls it on a task of the runtime, which is not always the task of the request: do not block, pass long work on to
/// another task, and do not rely on task-locals. The observer may use a session that it holds.
///
/// ```
/// use sessile::{Event, MemoryStore, SessionLayer};
///
/// let layer = SessionLayer::new(MemoryStore::new()).with_observer(|event: &Event| match event {
///     Event::FingerprintMismatch { handle, .. } => println!("session {handle} is used from another network"),
///     Event::DestroyFailed { handle, .. } => println!("session {handle} could not be ended"),
///     event => println!("{}", event.name()),
/// });
/// ```
pub trait Observer: Send + Sync + 'static {
    /// Called once for every event.
    fn on_event(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync + 'static> Observer for F {
    fn on_event(&self, event: &Event) {
        self(event);
    }
}

/// Writes events to the log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    failures: Mutex<Failures>,
}

/// Limits how many failures of the store are logged: while a server is down, every request causes one.
#[derive(Clone, Copy, Debug, Default)]
struct Failures {
    written: Option<Instant>,
    left_out: u64,
}

impl Failures {
    /// Returns the number of failures that were not logged since the last one that was, or `None` if this one must not be logged
    /// either.
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

/// The source of the error, without further sources: it repeats them.
fn cause(error: &StoreError) -> Option<tracing::field::DisplayValue<&dyn std::error::Error>> {
    std::error::Error::source(error).map(tracing::field::display)
}

fn trace(event: &Event) {
    match event {
        Event::Created { handle } => tracing::debug!(target: "sessile", %handle, "session created"),
        Event::Rotated { handle } => tracing::debug!(target: "sessile", %handle, "session rotated"),
        Event::Destroyed { handle, why } => {
            tracing::debug!(target: "sessile", %handle, why = why.as_str(), "session destroyed");
        }
        Event::DestroyFailed { handle, error } => {
            tracing::error!(target: "sessile", %handle, %error, cause = cause(error), "session could not be deleted");
        }
        Event::Committed {
            handle,
            requests,
            attempts,
        } => {
            tracing::debug!(target: "sessile", %handle, requests, attempts, "session committed");
        }
        Event::Refused { handle, why } => {
            tracing::info!(target: "sessile", handle = handle.map(tracing::field::display), %why, "session changes refused");
        }
        Event::SignInRefused { handle, why } => {
            tracing::info!(target: "sessile", handle = handle.map(tracing::field::display), %why, "sign-in refused");
        }
        Event::Denied { handle, why } => {
            tracing::info!(target: "sessile", handle = handle.map(tracing::field::display), %why, "session changes denied");
        }
        Event::CsrfRefused { handle, why } => {
            tracing::info!(target: "sessile", handle = handle.map(tracing::field::display), check = why.as_str(), "request refused as a possible cross-site request forgery: {why}");
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
        Event::OtherFamily {
            handle,
            bound,
            seen,
        } => {
            tracing::info!(target: "sessile", %handle, bound, seen, "session used from another address family");
        }
        Event::AddressProblem { problem } => {
            tracing::error!(target: "sessile", "the fingerprint cannot work: {problem}");
        }
        Event::MalformedCookie => tracing::debug!(target: "sessile", "malformed session cookie"),
        Event::MalformedHeader { name } => {
            tracing::debug!(target: "sessile", name, "malformed session token in a header");
        }
        Event::CookieDomainRejected { domain } => {
            tracing::warn!(target: "sessile", domain, "the cookie's domain for this request is not in `cookie.domains`, so browsers send the cookie to this host only: add it to the list, or return `None` for such hosts");
        }
        Event::AmbiguousCookie => {
            tracing::info!(target: "sessile", "the request carries session cookies for different sessions, or more than four: check whether the `Path` or the `Domain` of the cookie was changed, or whether another application sets a cookie of this name");
        }
        Event::SeveralCookies { handle } => {
            tracing::warn!(target: "sessile", %handle, "the request carries several session cookies, of which all valid ones belong to one session: check whether the `Path` or the `Domain` of the cookie was changed, or whether another application sets a cookie of this name");
        }
        Event::UnreadableRecord { handle, reason } => {
            tracing::warn!(target: "sessile", %handle, reason, "stored session record cannot be read");
        }
        Event::StoreFailed { .. } => {}
        Event::Busy { handle } => {
            tracing::warn!(target: "sessile", handle = handle.map(tracing::field::display), "session busy: other requests held it for too long");
        }
        Event::LeaseLost { handle } => {
            tracing::warn!(target: "sessile", %handle, "session lease expired while its request was running");
        }
        Event::OutcomeUnknown { handle } => {
            tracing::warn!(target: "sessile", handle = handle.map(tracing::field::display), "the outcome of a session commit is unknown");
        }
        Event::ChangesLost { handle } => {
            tracing::warn!(target: "sessile", handle = handle.map(tracing::field::display), "session changes made after the response were not saved: call `save().await`");
        }
        Event::PublicResponse => {
            tracing::warn!(target: "sessile", "a response that sets the session cookie or is for a signed-in user let shared caches store it, so these headers were removed: send it without `public`, `s-maxage` and fields such as `CDN-Cache-Control`");
        }
        Event::ForeignSetCookie { name } => {
            tracing::warn!(target: "sessile", name, "a cookie of the session cookie's name, or a header of that for new tokens, was removed from the response: use another name, or change the session through `Session`");
        }
        Event::SettingsIgnored { cookie, settings } => {
            tracing::warn!(target: "sessile", cookie, settings = settings.join(", "), "a session layer is inside another one with the same cookie name and uses its session, so these settings of the inner layer have no effect: give the routes their own layer beside the other one, with `merge` or `nest`, or give its cookie another name");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_one_store_failure_a_second_is_logged() {
        let (mut failures, began) = (Failures::default(), Instant::now());
        let logged = [0, 1, 999, 1_000, 1_001, 5_000, 6_000].map(|millis| {
            let now = began + Duration::from_millis(millis);
            failures.next(now)
        });
        assert_eq!(
            logged,
            [Some(0), None, None, Some(2), None, Some(1), Some(0)]
        );
    }
}
