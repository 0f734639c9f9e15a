//! The span of a commit, `session.commit`, and what is recorded in it: only if a subscriber wants the span.

use std::ops::AddAssign;

use tracing::Span;
use tracing::field::{Empty, display};

use crate::error::session::SessionError;
use crate::lock::assert_none_held;
use crate::token::Handle;

const NAME: &str = "session.commit";

/// What a commit has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Compare-and-sets with bytes of their own.
    pub(crate) attempts: u32,
    /// Calls of the store, one after the other. Each is one round trip, unless the table at
    /// [`RedisStore`](crate::RedisStore) says otherwise.
    pub(crate) round_trips: u32,
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.attempts += other.attempts;
        self.round_trips += other.round_trips;
    }
}

/// The span of a commit that begins now; the current one if no subscriber wants it.
pub(crate) fn commit() -> Span {
    let span = tracing::debug_span!(
        target: "sessile",
        NAME,
        handle = Empty,
        outcome = Empty,
        attempts = Empty,
        round_trips = Empty,
        "error.type" = Empty,
        otel.status_code = Empty,
    );
    match span.is_disabled() {
        true => Span::current(),
        false => span,
    }
}

/// The span for a deletion that goes on in the background: the current one, as long as that is not the span of a commit,
/// which must close when the commit has ended.
pub(crate) fn background(handle: Handle) -> Span {
    let current = Span::current();
    if !is_commit(&current) {
        return current;
    }
    let span = tracing::debug_span!(target: "sessile", parent: None, "session.revoke", %handle);
    span.follows_from(&current);
    span
}

/// Records how the commit that runs here has ended. The caller holds no lock, since the subscriber is code of the application.
pub(crate) fn record_end(
    handle: Option<Handle>,
    cost: Cost,
    outcome: &'static str,
    failure: Option<&'static str>,
) {
    let span = Span::current();
    if !is_commit(&span) {
        return;
    }
    assert_none_held();
    span.record("handle", handle.map(display));
    span.record("attempts", cost.attempts);
    span.record("round_trips", cost.round_trips);
    span.record("outcome", outcome);
    record_failure(&span, failure);
}

/// Marks a span as failed, with the field names of the semantic conventions of OpenTelemetry.
pub(crate) fn record_failure(span: &Span, failure: Option<&'static str>) {
    if let Some(failure) = failure {
        span.record("error.type", failure);
        span.record("otel.status_code", "ERROR");
    }
}

/// The name of an error, if something is broken or overloaded. What one request does to another, such as a conflict, is none:
/// the span has it as its outcome.
pub(crate) fn failure(error: &SessionError) -> Option<&'static str> {
    let is_failure = matches!(
        error,
        SessionError::Store(_) | SessionError::OutcomeUnknown | SessionError::Busy { .. }
    );
    is_failure.then(|| error.name())
}

fn is_commit(span: &Span) -> bool {
    span.metadata().is_some_and(|it| it.name() == NAME)
}

/// The outcome of a commit as the span names it.
pub(crate) fn outcome(result: &Result<(), SessionError>) -> &'static str {
    match result {
        Ok(()) => "committed",
        Err(SessionError::Conflict { .. }) => "conflict",
        Err(SessionError::Gone(_)) => "gone",
        Err(SessionError::Denied(_)) => "denied",
        Err(SessionError::Busy { .. }) => "busy",
        Err(SessionError::OutcomeUnknown) => "unknown",
        Err(SessionError::Store(_)) => "store_failed",
        Err(_) => "refused",
    }
}
