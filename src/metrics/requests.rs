//! What requests, commits and events do to sessions.

use crate::error::session::SessionError;
#[cfg(feature = "metrics")]
use crate::event::EndReason;
use crate::event::Event;
#[cfg(feature = "metrics")]
use crate::metrics::by_label;
use crate::metrics::timer::Timer;

/// Why a token opens no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenRefused {
    /// Nothing is stored under its handle: the session has ended or expired, or the token was invented.
    Unknown,
    /// The absolute timeout of the session has passed.
    Expired,
    WrongSecret,
    /// A rotation has replaced it a moment ago.
    Replaced,
    /// Under strict fingerprinting.
    OtherNetwork,
    /// What is stored under its handle cannot be read.
    Unreadable,
}

/// A request has loaded its session from the store, or tried to.
pub(crate) fn loaded(outcome: &'static str, timer: Timer) {
    #[cfg(feature = "metrics")]
    by_label!(
        histogram,
        "sessile_load_duration_seconds",
        "outcome" => outcome,
        ["loaded", "new", "denied", "busy", "failed", "abandoned"]
    )
    .record(timer.elapsed());
}

pub(crate) fn token_refused(why: TokenRefused) {
    #[cfg(feature = "metrics")]
    match why {
        TokenRefused::Unknown => {
            metrics::counter!("sessile_tokens_refused_total", "reason" => "unknown")
        }
        TokenRefused::Expired => {
            metrics::counter!("sessile_tokens_refused_total", "reason" => "expired")
        }
        TokenRefused::WrongSecret => {
            metrics::counter!("sessile_tokens_refused_total", "reason" => "wrong_secret")
        }
        TokenRefused::Replaced => {
            metrics::counter!("sessile_tokens_refused_total", "reason" => "replaced")
        }
        TokenRefused::OtherNetwork => {
            metrics::counter!("sessile_tokens_refused_total", "reason" => "other_network")
        }
        TokenRefused::Unreadable => {
            metrics::counter!("sessile_tokens_refused_total", "reason" => "unreadable")
        }
    }
    .increment(1);
}

/// The commit of a request, or its logout, is over.
pub(crate) fn commit_ended(outcome: &'static str, timer: Timer) {
    #[cfg(feature = "metrics")]
    by_label!(
        histogram,
        "sessile_commit_duration_seconds",
        "outcome" => outcome,
        [
            "committed", "destroyed", "conflict", "gone", "denied", "busy", "unknown", "store_failed",
            "refused", "panicked"
        ]
    )
    .record(timer.elapsed());
}

/// A commit was given up, since the session kept changing or must not have changed.
pub(crate) fn conflict_rejected() {
    #[cfg(feature = "metrics")]
    metrics::counter!("sessile_commit_conflicts_total", "result" => "rejected").increment(1);
}

/// A session of this size is in the store now.
pub(crate) fn written(bytes: usize) {
    #[cfg(feature = "metrics")]
    metrics::histogram!("sessile_session_size_bytes")
        .record(u32::try_from(bytes).unwrap_or(u32::MAX));
}

pub(crate) fn signed_in() {
    #[cfg(feature = "metrics")]
    metrics::counter!("sessile_sign_ins_total").increment(1);
}

/// Entries of sessions that have ended were found in an index, and removed.
pub(crate) fn index_healed(entries: usize) {
    #[cfg(feature = "metrics")]
    metrics::counter!("sessile_index_entries_healed_total").increment(entries as u64);
}

/// An exclusive request has waited for its turn.
pub(crate) fn waited_for_lease(outcome: &'static str, timer: Timer) {
    #[cfg(feature = "metrics")]
    by_label!(
        histogram,
        "sessile_lease_wait_seconds",
        "outcome" => outcome,
        ["acquired", "busy", "failed", "abandoned"]
    )
    .record(timer.elapsed());
}

/// A response reports a session error.
pub(crate) fn error_response(error: &SessionError) {
    // Few requests fail, so the label may allocate.
    #[cfg(feature = "metrics")]
    metrics::counter!("sessile_error_responses_total", "reason" => error.name()).increment(1);
}

pub(crate) fn happened(event: &Event) {
    #[cfg(feature = "metrics")]
    {
        by_label!(
            counter,
            "sessile_events_total",
            "event" => event.name(),
            [
                "created",
                "committed",
                "rotated",
                "destroyed",
                "refused",
                "malformed_cookie",
                "malformed_header",
                "csrf_refused",
                "store_failed"
            ]
        )
        .increment(1);
        match event {
            Event::Created { .. } => {
                metrics::counter!("sessile_sessions_created_total").increment(1)
            }
            Event::Destroyed { why, .. } => ended(*why),
            Event::Committed {
                requests, attempts, ..
            } => {
                metrics::histogram!("sessile_commit_attempts").record(*attempts);
                metrics::histogram!("sessile_commit_requests").record(*requests);
                let merged = attempts.saturating_sub(1);
                if merged > 0 {
                    metrics::counter!("sessile_commit_conflicts_total", "result" => "merged")
                        .increment(merged.into());
                }
            }
            Event::MalformedCookie | Event::MalformedHeader { .. } => {
                metrics::counter!("sessile_tokens_refused_total", "reason" => "malformed")
                    .increment(1);
            }
            Event::AmbiguousCookie => {
                metrics::counter!("sessile_tokens_refused_total", "reason" => "ambiguous")
                    .increment(1);
            }
            _ => {}
        }
    }
}

#[cfg(feature = "metrics")]
fn ended(why: EndReason) {
    by_label!(
        counter,
        "sessile_sessions_ended_total",
        "reason" => why.as_str(),
        ["logout", "revoked", "max_sessions", "sign_in_refused"]
    )
    .increment(1);
}
