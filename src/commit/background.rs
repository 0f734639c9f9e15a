//! Work beside requests: [`SessionLayer::drained`](crate::SessionLayer::drained) waits for it.

use std::future::Future;

use tokio::runtime::Handle as Runtime;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::metrics::gauge::Present;

/// The tasks of a layer.
#[derive(Clone, Default)]
pub(crate) struct Background {
    /// Commits, too, which run beside their request when its client goes away.
    pub(crate) tracker: TaskTracker,
}

impl Background {
    /// Starts a task for which no request waits.
    pub(crate) fn spawn<T>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T>
    where
        T: Send + 'static,
    {
        self.tracker.spawn(counted(task))
    }

    /// The same, on this runtime.
    pub(crate) fn spawn_on<T>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
        runtime: &Runtime,
    ) -> JoinHandle<T>
    where
        T: Send + 'static,
    {
        self.tracker.spawn_on(counted(task), runtime)
    }
}

/// It counts from now on, and not from when it is polled first.
fn counted<T>(task: impl Future<Output = T>) -> impl Future<Output = T> {
    let counted = Present::background_task();
    async move {
        let _counted = counted;
        task.await
    }
}
