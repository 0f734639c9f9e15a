//! Routes requests in a cluster: finds the node that has the key of a request, and follows when the key moves.
//!
//! Each primary has connections, a circuit breaker and exclusive connections of its own, as a single server would. A node that
//! redirects a request has not executed it, so the request is sent to the node that it names; a request without a reply may
//! have been executed, and is sent again only if it is idempotent. After any failure the topology is refreshed in the
//! background.
//!
//! The way of one request, in reading order:
//!
//! 1. `slots.rs: slot_of` computes the slot of the key, and `slots.rs: Map` holds which primary has which slot.
//! 2. `route.rs: Router::send` creates a `Route`; `Route::next` returns the node, with `ASKING` if the slot is migrating
//!    (`asking.rs: with_asking`).
//! 3. If the node fails, `Route::prepare_retry` decides whether to retry elsewhere, and `Map::move_to` notes a slot that has
//!    moved.
//! 4. `topology.rs: Router::refresh_topology` sends `CLUSTER SLOTS` to some primaries, or to the nodes of the URL, and
//!    `Map::replace` adopts the reply.

pub(crate) mod asking;
pub(crate) mod route;
pub(crate) mod slots;
pub(crate) mod topology;
