//! How long the store may take.

use std::future::Future;

use tokio::time::Instant;

use crate::error::store::StoreError;

/// The store's answer, or an unknown outcome once the time is up. Nothing is sent if it is up already.
pub(crate) async fn within<T>(
    deadline: Instant,
    answer: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    if Instant::now() >= deadline {
        return Err(StoreError::unavailable(
            "the request's time was up before anything was sent: see `request_budget`",
        ));
    }
    match tokio::time::timeout_at(deadline, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(StoreError::unknown(
            "the store did not answer within the request's budget: see `request_budget`",
        )),
    }
}
