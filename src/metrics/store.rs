//! Calls of the store, and what it evicts.

use crate::error::store::StoreError;
#[cfg(feature = "metrics")]
use crate::metrics::by_label;
use crate::metrics::timer::Timer;

/// Measures a call of the store.
pub(crate) async fn measured<T>(
    operation: &'static str,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let timer = Timer::start();
    let result = call.await;
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
        if let Err(error) = &result {
            metrics::counter!("sessile_store_errors_total", "operation" => operation, "kind" => error.kind().as_str())
                .increment(1);
        }
    }
    result
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
