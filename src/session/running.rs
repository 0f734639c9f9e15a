//! Runs a commit to its end, even if the caller is dropped.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::runtime::Handle as Runtime;
use tokio_util::task::task_tracker::TrackedFuture;
use tracing::Span;
use tracing::instrument::{Instrument as _, Instrumented};

use crate::commit::lease::Lease;
use crate::error::session::SessionError;
use crate::session::shared::Shared;

/// Runs a task in one of its own.
pub(super) async fn run_to_its_end(
    shared: &Shared,
    task: impl Future<Output = Result<(), SessionError>> + Send + 'static,
) -> Result<(), SessionError> {
    let here = Runtime::try_current();
    let runtime = here.or_else(|_| shared.runtime())?;
    let background = &shared.context.backend.background.tracker;
    match background.spawn_on(task, &runtime).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down and has dropped the task.
            Err(_) => Err(SessionError::OutcomeUnknown),
        },
    }
}

pub(super) type Task = Pin<Box<dyn Future<Output = Result<(), SessionError>> + Send>>;

/// Runs a task in that of the caller. If the caller is dropped, it goes on in the background.
pub(super) struct OutlivesCaller {
    shared: Arc<Shared>,
    /// Taken out while it is polled, so that it is not polled again after a panic.
    task: Option<TrackedFuture<Instrumented<Task>>>,
}

impl OutlivesCaller {
    pub(super) fn new(shared: &Arc<Shared>, task: Task, span: Span) -> Self {
        let background = &shared.context.backend.background.tracker;
        Self {
            shared: Arc::clone(shared),
            task: Some(background.track_future(task.instrument(span))),
        }
    }
}

impl Future for OutlivesCaller {
    type Output = Result<(), SessionError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(mut task) = self.task.take() else {
            return Poll::Ready(Err(SessionError::OutcomeUnknown));
        };
        let result = Pin::new(&mut task).poll(cx);
        if result.is_pending() {
            self.task = Some(task);
        }
        result
    }
}

impl Drop for OutlivesCaller {
    fn drop(&mut self) {
        if let Some(task) = self.task.take()
            && let Ok(runtime) = Runtime::try_current().or_else(|_| self.shared.runtime())
        {
            runtime.spawn(task);
        }
    }
}

/// A commit that waits or is running. While there is one, the changes of an abandoned request are kept.
pub(super) struct RunningCommit {
    pub(super) shared: Arc<Shared>,
    /// Held until the commit is over, even if the request is over before.
    _lease: Option<Arc<Lease>>,
}

impl RunningCommit {
    pub(super) fn begin(shared: &Arc<Shared>) -> Self {
        let mut state = shared.state();
        state.running_commits += 1;
        Self {
            shared: Arc::clone(shared),
            _lease: state.lease.clone(),
        }
    }
}

impl Drop for RunningCommit {
    fn drop(&mut self) {
        let revocations = self.shared.state().end_commit();
        self.shared.delete_later(revocations);
    }
}
