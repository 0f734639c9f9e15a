//! For tests of an application that uses sessile: clients with sessions, what they store, and a store that fails on demand.
//!
//! It needs the feature `testing`, which belongs into `[dev-dependencies]`.
//!
//! Three types do the work: a [`TestStore`] in memory, [`TestClient`]s, and the [`TestRequest`]s that they send. A handler in the
//! cases that matter:
//!
//! ```
//! # use std::time::Duration;
//! # use axum::{Router, routing::post};
//! use sessile::testing::{Fault, TestClient, TestStore};
//! # use sessile::{Session, SessionError, SessionLayer};
//!
//! async fn order(session: Session) -> Result<String, SessionError> {
//!     session.require_principal()?;
//!     Ok(format!("order {}", session.increment("orders", 1)?))
//! }
//!
//! # /*
//! #[tokio::test]
//! # */
//! async fn customers_order() {
//!     let store = TestStore::new();
//!     let layer = SessionLayer::new(store.clone());
//!     let app = Router::new().route("/order", post(order)).layer(layer.clone());
//!     let mia = TestClient::signed_in(app, &layer, "mia").await;
//!
//!     assert_eq!(mia.post("/order").await.body(), "order 1"); // success
//!     let page = mia.post("/order").meanwhile(async |other_tab| other_tab.cycle_id());
//!     assert_eq!(page.await.status(), 409); // a conflict: the other tab was faster
//!
//!     store.fail(Fault::Unavailable);
//!     assert_eq!(mia.post("/order").await.status(), 503); // the store is down
//!     store.recover();
//!
//!     store.advance(Duration::from_secs(31 * 60));
//!     assert_eq!(mia.post("/order").await.status(), 401); // the session has expired
//! }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() { customers_order().await }
//! ```
//!
//! 1. Sessions are prepared by real requests through the layer: [`TestClient::sign_in`], [`set`](TestClient::set) and
//!    [`with_session`](TestClient::with_session). There is no way around the checks of a token.
//! 2. [`TestClient::get`] and [`post`](TestClient::post) begin a request to the application, and its `await` sends it. A response is an
//!    `http::Response<String>`; its extensions hold the [`SessionError`](crate::SessionError), if there is one.
//! 3. [`TestRequest::meanwhile`] lets another request change the session just before this one does, so that conflicts and merges are
//!    real. [`TestRequest::assert_writes_nothing`] and [`with_writes`](TestRequest::with_writes) show what was written.
//! 4. [`TestStore::fail`], [`fail_all`](TestStore::fail_all) and [`fail_next`](TestStore::fail_next) make the store fail until
//!    [`recover`](TestStore::recover), in the ways of [`Fault`]. [`TestStore::advance`] moves its clock.
//! 5. With [`Fault::Hang`], write `#[tokio::test(start_paused = true)]`: the wait for the store then takes no time.
//!
//! `docs/testing.md` in the repository has more examples.

// For the reader of the source: `store.rs: TestStore` asks `fault.rs: Plan` what to do with each call, waits for the test in
// `hold.rs`, and notes what it has written, `written.rs`. `client.rs: TestClient` sends requests with what `jar.rs: Jar` keeps, and
// opens its session by `open.rs: open`; `request.rs: TestRequest` holds a write of its own in the store while another one passes.

mod client;
mod fault;
mod hold;
mod jar;
mod open;
mod outcome;
mod request;
mod store;
mod written;

pub use client::TestClient;
pub use fault::{Call, Fault};
pub use hold::Hold;
pub use outcome::Outcome;
pub use request::TestRequest;
pub use store::TestStore;
pub use written::Written;
