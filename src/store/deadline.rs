//! The deadline of one call to a store.

use std::future::Future;

use tokio::time::Instant;

use crate::error::store::StoreError;

/// Waits for the store's answer until the deadline; after that the outcome is unknown. If the deadline has passed already,
/// nothing is sent.
pub(crate) async fn within<T>(
    deadline: Instant,
    answer: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    if Instant::now() >= deadline {
        return Err(StoreError::unavailable(
            "the request's time was up before anything was sent: raise `request_budget`, or check why the store is slow",
        ));
    }
    match tokio::time::timeout_at(deadline, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(StoreError::unknown(
            "the store did not answer within the request's budget: raise `request_budget`, or check why the store is slow",
        )),
    }
}
