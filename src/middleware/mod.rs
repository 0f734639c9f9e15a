//! Where HTTP is spoken: one request in, its handler, the response out.
//!
//! The way of one request, each step with the function that takes it:
//!
//! 1. `service.rs: SessionService::call` calls the inner service that was polled ready, and `serve` sees the request through
//!    all of the following. `layer.rs` only builds the service; `parts.rs` is what they share.
//! 2. `slot.rs: SessionSlot::begin` puts a slot for the session into the request's extensions. It reads the tokens
//!    (`cookie.rs: read`) and the client's network (`hooks.rs: network`, `client_ip.rs: peer`), and keeps the head for the error
//!    hook (`hooks.rs: error_hook`). If a layer further out has a cookie of the same name, the request joins that layer's slot
//!    (`nested.rs: report_ignored_settings`) and skips steps 3, 4 and 6.
//! 3. `slot.rs: SessionSlot::session` loads the session, at most once: now under `Load::Inbound`, otherwise when a handler asks for
//!    it (`extract.rs`, `Session::from_parts`, `Session::from_extensions`). `request.rs: load` has five steps:
//!    - `fetch` reads what is stored under the handle of each token.
//!    - `lease` waits for the other requests of the session, under `Concurrency::Exclusive` only; then `fetch` reads again.
//!    - `authenticate.rs: authenticate` compares each token with its record: secret, deadline, fingerprint.
//!    - `choose.rs: choose` picks the session, if the request carries several tokens.
//!    - `renew_if_due` extends the session's life in the background, and `make` creates the `Session`.
//! 4. If the load failed, `finish.rs: reject` answers under `Concurrency::Exclusive`. Otherwise the error waits in the slot for
//!    whoever asks for the session.
//! 5. The inner service runs. If it panics, fails without a response or is dropped, `finish.rs: AbandonGuard` drops the changes
//!    and carries out a `destroy`. `logout.rs: Logout` ends a session without loading it.
//! 6. `finish.rs: finish` completes the response:
//!    - `only_others_cookies` removes what the handler set under the name of the session cookie.
//!    - `slot.rs: SessionSlot::send_head` closes the slot: a session that is loaded from now on cannot change the cookie.
//!    - `session/save.rs: commit_pending` commits the changes; nothing is sent if there are none.
//!    - `error_response` replaces a response that would claim what was not committed, by that of the hook or of
//!      `error_response.rs`; `replaced_if_failed` does so for an error that the handler returned.
//!    - `cookie_action` decides whether the browser's cookie must change, and `write_headers` writes `Set-Cookie`
//!      (`cookie.rs: write`) and `Cache-Control` (`cache_control.rs: keep_private`).
//!    - `vary_by_cookie` adds `Vary: Cookie` if the handler used the session.
//! 7. `body.rs: ResponseBody` passes on the inner service's body, or is that of the response which replaced it.
//!
//! `from_config.rs` builds a layer and its store from a configuration.

pub(crate) mod authenticate;
pub(crate) mod body;
pub(crate) mod cache_control;
pub(crate) mod choose;
pub(crate) mod client_ip;
pub(crate) mod cookie;
pub(crate) mod error_response;
#[cfg(feature = "axum")]
pub(crate) mod extract;
pub(crate) mod finish;
pub(crate) mod from_config;
pub(crate) mod hooks;
pub(crate) mod layer;
pub(crate) mod logout;
pub(crate) mod nested;
pub(crate) mod parts;
pub(crate) mod request;
pub(crate) mod service;
pub(crate) mod slot;
