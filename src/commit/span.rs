//! The span of a commit, `session.commit`. Its fields are recorded only if a subscriber wants the span.

use tracing::Span;
use tracing::field::{Empty, display};

use crate::error::session::SessionError;
use crate::token::Handle;

const NAME: &str = "session.commit";

/// The span of a commit that begins now; the current one if no subscriber wants it.
pub(crate) fn commit() -> Span {
    let span = tracing::debug_span!(
        target: "sessile",
        NAME,
        handle = Empty,
        outcome = Empty,
        attempts = Empty,
        round_trips = Empty,
    );
    match span.is_disabled() {
        true => Span::current(),
        false => span,
    }
}

/// The span of the commit that runs here, or none.
pub(crate) fn current() -> Span {
    let span = Span::current();
    let is_commit = |span: &Span| span.metadata().is_some_and(|it| it.name() == NAME);
    match is_commit(&span) {
        true => span,
        false => Span::none(),
    }
}

/// Records the cost of a write, for a request whose changes it held. A call of the store is one round trip, unless the table
/// at [`RedisStore`](crate::RedisStore) says otherwise.
pub(crate) fn record_cost(span: &Span, attempts: u32, round_trips: u32) {
    span.record("attempts", attempts);
    span.record("round_trips", round_trips);
}

/// Records how the commit that runs here has ended.
pub(crate) fn record_end(handle: Option<Handle>, result: &Result<(), SessionError>) {
    let span = current();
    if span.is_disabled() {
        return;
    }
    if let Some(handle) = handle {
        span.record("handle", display(handle));
    }
    span.record("outcome", outcome(result));
}

fn outcome(result: &Result<(), SessionError>) -> &'static str {
    match result {
        Ok(()) => "committed",
        Err(SessionError::Conflict { .. }) => "conflict",
        Err(SessionError::Gone(_)) => "gone",
        Err(SessionError::Busy { .. }) => "busy",
        Err(SessionError::OutcomeUnknown) => "unknown",
        Err(SessionError::Store(_)) => "store_failed",
        Err(_) => "refused",
    }
}
