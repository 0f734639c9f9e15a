//! A cluster: which node has the key of a request, and what follows when that has changed.
//!
//! Each primary has connections, a circuit breaker and exclusive connections of its own, as one server would. What a node
//! redirects has done nothing there, and is sent once more to where it says; what gets no answer may have been done, and is
//! never sent again by itself. After any trouble the cluster is asked anew where the slots are, beside the requests.

pub(crate) mod asking;
pub(crate) mod route;
pub(crate) mod slots;
pub(crate) mod topology;
