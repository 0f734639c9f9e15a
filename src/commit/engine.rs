//! The state that all clones of a layer share: the store, and the queues of its sessions.

use std::sync::Arc;

use crate::commit::backend::Backend;
use crate::commit::queue::CommitQueues;
use crate::store::erased::ErasedStore;

/// The state that all clones of a layer share.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) backend: Arc<Backend>,
    pub(crate) queues: Arc<CommitQueues>,
    /// The requests that wait for a lease.
    pub(crate) lease_queues: Arc<CommitQueues>,
}

impl Engine {
    pub(crate) fn new(store: Box<dyn ErasedStore>) -> Self {
        Self {
            backend: Arc::new(Backend::new(store)),
            queues: Arc::default(),
            lease_queues: Arc::default(),
        }
    }
}
