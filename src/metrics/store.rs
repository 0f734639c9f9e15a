//! Calls of the store, and what it evicts.

use crate::error::store::StoreError;
use crate::metrics::abandoned::IfAbandoned;
#[cfg(feature = "metrics")]
use crate::metrics::by_label;
use crate::metrics::timer::Timer;

/// Measures a call of the store, also one that is dropped before its answer.
pub(crate) async fn measured<T>(
    operation: &'static str,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let timer = Timer::start();
    let if_abandoned = IfAbandoned::new(|| called(operation, Some("abandoned"), timer));
    let result = call.await;
    if_abandoned.disarm();
    let failure = result.as_ref().err().map(|error| error.kind().as_str());
    called(operation, failure, timer);
    result
}

fn called(operation: &'static str, failure: Option<&'static str>, timer: Timer) {
    #[cfg(feature = "metrics")]
    {
        by_label!(
            histogram,
            "sessile_store_duration_seconds",
            "operation" => operation,
            [
                "load", "create", "replace", "touch", "delete", "acquire", "release", "enter", "confirm",
                "extend", "list", "begin_generation", "leave"
            ]
        )
        .record(timer.elapsed());
        if let Some(kind) = failure {
            metrics::counter!("sessile_store_errors_total", "operation" => operation, "kind" => kind)
                .increment(1);
        }
    }
}

/// A memory store has evicted so many sessions of anonymous visitors and of users.
pub(crate) fn evicted(anonymous: u64, signed_in: u64) {
    #[cfg(feature = "metrics")]
    {
        if anonymous > 0 {
            metrics::counter!("sessile_memory_evictions_total", "session" => "anonymous")
                .increment(anonymous);
        }
        if signed_in > 0 {
            metrics::counter!("sessile_memory_evictions_total", "session" => "signed_in")
                .increment(signed_in);
        }
    }
}
