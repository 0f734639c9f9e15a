//! Waiting for what must come, on a machine as busy as may be: a test fails since something is wrong, not since it is late.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use sessile::RedisConfig;

/// Longer than anything takes that comes at all.
pub const PATIENCE: Duration = Duration::from_secs(180);

const LOOK: Duration = Duration::from_millis(10);

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "not yet: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// The same of what is seen without waiting, for tasks that may move between threads.
pub async fn until_seen(what: &str, mut holds: impl FnMut() -> bool + Send) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "not yet: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// The same where no runtime is.
pub fn until_blocking(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "not yet: {what}");
        std::thread::sleep(LOOK);
    }
}

/// Timeouts that no busy machine uses up, for tests that are not about them.
pub fn unhurried(config: &mut RedisConfig) {
    config.connection_timeout = Duration::from_secs(60);
    config.command_timeout = Duration::from_secs(60);
    config.request_budget = Duration::from_secs(60);
}

/// The timeouts that users get, for tests in which the server does not answer.
pub fn by_default(config: &mut RedisConfig) {
    let default = RedisConfig::default();
    config.connection_timeout = default.connection_timeout;
    config.command_timeout = default.command_timeout;
    config.request_budget = default.request_budget;
}

/// Somebody who leaves: drops what was begun after looking at it so many times. `None` if it was not done by then.
///
/// How far it gets by a number of looks does not depend on how fast the machine is.
pub async fn looked_at<F: Future>(times: u32, begun: F) -> Option<F::Output> {
    let mut begun = pin!(begun);
    let mut left = times;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match begun.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
