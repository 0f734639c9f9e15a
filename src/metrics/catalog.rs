//! All metrics. `tests/it/metrics.rs` compares this list with docs/metrics.md, and with what is recorded.

use metrics::Unit;

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

const METRICS: &[(&str, Kind, Unit, &str)] = &[
    (
        "sessile_load_duration_seconds",
        Histogram,
        Unit::Seconds,
        "How long requests waited for their session, if they asked the store.",
    ),
    (
        "sessile_tokens_refused_total",
        Counter,
        Unit::Count,
        "Tokens that requests carried and that open no session, by reason.",
    ),
    (
        "sessile_commit_duration_seconds",
        Histogram,
        Unit::Seconds,
        "How long requests waited for the commit of their changes, or for a logout.",
    ),
    (
        "sessile_commit_attempts",
        Histogram,
        Unit::Count,
        "Compare-and-sets that one commit took.",
    ),
    (
        "sessile_commit_requests",
        Histogram,
        Unit::Count,
        "Requests whose changes one commit contained.",
    ),
    (
        "sessile_commit_conflicts_total",
        Counter,
        Unit::Count,
        "Compare-and-sets that found a newer version, by what became of the changes.",
    ),
    (
        "sessile_session_size_bytes",
        Histogram,
        Unit::Bytes,
        "The size of sessions, as written to the store.",
    ),
    (
        "sessile_error_responses_total",
        Counter,
        Unit::Count,
        "Responses for a session error, by its name.",
    ),
    (
        "sessile_sessions_created_total",
        Counter,
        Unit::Count,
        "Sessions created.",
    ),
    (
        "sessile_sign_ins_total",
        Counter,
        Unit::Count,
        "Sign-ins committed.",
    ),
    (
        "sessile_sessions_ended_total",
        Counter,
        Unit::Count,
        "Sessions ended before they expired, by reason.",
    ),
    (
        "sessile_events_total",
        Counter,
        Unit::Count,
        "Events of sessions, by name.",
    ),
    (
        "sessile_lease_wait_seconds",
        Histogram,
        Unit::Seconds,
        "How long exclusive requests waited for their turn.",
    ),
    (
        "sessile_pending_deletions",
        Gauge,
        Unit::Count,
        "Deletions that are retried in the background.",
    ),
    (
        "sessile_background_tasks",
        Gauge,
        Unit::Count,
        "Tasks beside requests, such as renewals and retried deletions.",
    ),
    (
        "sessile_index_entries_healed_total",
        Counter,
        Unit::Count,
        "Entries of sessions that have ended, removed from the index of their user by a later look.",
    ),
    (
        "sessile_memory_evictions_total",
        Counter,
        Unit::Count,
        "Sessions that a full memory store has evicted.",
    ),
    (
        "sessile_store_duration_seconds",
        Histogram,
        Unit::Seconds,
        "How long calls of the store took.",
    ),
    (
        "sessile_store_errors_total",
        Counter,
        Unit::Count,
        "Calls of the store that failed, by kind.",
    ),
    #[cfg(feature = "redis")]
    (
        "sessile_redis_connections",
        Gauge,
        Unit::Count,
        "Open connections to Redis.",
    ),
    #[cfg(feature = "redis")]
    (
        "sessile_redis_exclusive_connections",
        Gauge,
        Unit::Count,
        "Connections to Redis that one request uses alone now, for WATCH and WAIT.",
    ),
    #[cfg(feature = "redis")]
    (
        "sessile_redis_requests_in_flight",
        Gauge,
        Unit::Count,
        "Requests to Redis that wait for a reply.",
    ),
    #[cfg(feature = "redis")]
    (
        "sessile_redis_requests_waiting",
        Gauge,
        Unit::Count,
        "Requests that wait for a connection to Redis.",
    ),
    #[cfg(feature = "redis")]
    (
        "sessile_redis_connects_total",
        Counter,
        Unit::Count,
        "Attempts to connect to Redis, by outcome.",
    ),
    #[cfg(feature = "redis")]
    (
        "sessile_redis_connection_timeouts_total",
        Counter,
        Unit::Count,
        "Requests that got no connection to Redis in time.",
    ),
    #[cfg(feature = "redis")]
    (
        "sessile_redis_breaker_open",
        Gauge,
        Unit::Count,
        "1 while the circuit breaker of a Redis server is open.",
    ),
    #[cfg(feature = "redis")]
    (
        "sessile_redis_breaker_openings_total",
        Counter,
        Unit::Count,
        "How often the circuit breaker of a Redis server has opened.",
    ),
    #[cfg(feature = "redis")]
    (
        "sessile_redis_breaker_rejections_total",
        Counter,
        Unit::Count,
        "Calls that failed at once, since the circuit breaker was open.",
    ),
];

/// Counters of rare things, by the values of their label. A counter that first appears as 1 has not increased as far as Prometheus
/// knows, so the first of these events after a start would fire no alert.
const ZEROS: &[(&str, &str, &[&str])] = &[
    (
        "sessile_tokens_refused_total",
        "reason",
        &[
            "unknown",
            "expired",
            "wrong_secret",
            "replaced",
            "other_network",
            "unreadable",
            "malformed",
            "ambiguous",
        ],
    ),
    (
        "sessile_commit_conflicts_total",
        "result",
        &["merged", "rejected"],
    ),
    (
        "sessile_error_responses_total",
        "reason",
        &[
            "store_unavailable",
            "store_refused",
            "store_unknown",
            "store_not_durable",
            "busy",
            "outcome_unknown",
            "partly_committed",
        ],
    ),
    (
        "sessile_sessions_ended_total",
        "reason",
        &["logout", "revoked", "max_sessions", "sign_in_refused"],
    ),
    (
        "sessile_events_total",
        "event",
        &["destroy_failed", "unreadable_record"],
    ),
    (
        "sessile_memory_evictions_total",
        "session",
        &["anonymous", "signed_in"],
    ),
];

pub(super) fn describe() {
    for (name, kind, unit, help) in METRICS {
        match kind {
            Counter => metrics::describe_counter!(*name, *unit, *help),
            Gauge => metrics::describe_gauge!(*name, *unit, *help),
            Histogram => metrics::describe_histogram!(*name, *unit, *help),
        }
    }
}

pub(super) fn begin_at_zero() {
    for (name, label, values) in ZEROS {
        for value in *values {
            metrics::counter!(*name, *label => *value).increment(0);
        }
    }
    metrics::gauge!("sessile_background_tasks").increment(0.0);
    for kind in ["logout", "session"] {
        metrics::gauge!("sessile_pending_deletions", "kind" => kind).increment(0.0);
    }
}
