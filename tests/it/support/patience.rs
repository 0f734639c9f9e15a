//! Waiting for events, on a machine that may be busy: a test fails because something is wrong, never because it is
//! slow.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use sessile::RedisConfig;

/// The time after which a test gives up waiting. Nothing that works takes this long.
pub const PATIENCE: Duration = Duration::from_secs(180);

const POLL: Duration = Duration::from_millis(10);

/// Waits until a condition holds. Panics after [`PATIENCE`].
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "not yet: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Like [`until`] for a synchronous condition, in tasks that may move between threads.
pub async fn until_seen(what: &str, mut holds: impl FnMut() -> bool + Send) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "not yet: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Like [`until`], on a thread without a runtime.
pub fn until_blocking(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "not yet: {what}");
        std::thread::sleep(POLL);
    }
}

/// Timeouts of a minute, which even a busy machine does not use up, for tests that are not about timeouts.
pub fn unhurried(config: &mut RedisConfig) {
    config.connection_timeout = Duration::from_secs(60);
    config.command_timeout = Duration::from_secs(60);
    config.request_budget = Duration::from_secs(60);
}

/// The default timeouts, for tests in which the server does not answer.
pub fn by_default(config: &mut RedisConfig) {
    let default = RedisConfig::default();
    config.connection_timeout = default.connection_timeout;
    config.command_timeout = default.command_timeout;
    config.request_budget = default.request_budget;
}

/// A budget that is up before a load fails by itself: a load that gets no answer in time is sent once more.
pub fn budget_before_timeout(config: &mut RedisConfig) {
    let both = Duration::from_millis(200);
    config.connection_timeout = both;
    config.command_timeout = both;
    config.request_budget = both;
}

/// Polls a future at most this many times, and then drops it, as when a client disconnects. Returns `None` if the
/// future was not ready by then.
///
/// The progress of a future after a number of polls does not depend on the speed of the machine.
pub async fn poll_at_most<F: Future>(times: u32, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = times;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
