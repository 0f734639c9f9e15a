//! Where HTTP is spoken: one request comes in, its handler runs, the response goes out.
//!
//! Words of this folder: a *token* is the value of the session cookie, or of the header that a layer for API clients uses. It
//! consists of a *handle*, which names the session, and a *secret*, of which the store holds only a hash. A *rotation* replaces the
//! secret and keeps the handle. The *principal* is the user who is signed in. A *lease* lets one request at a time use a session,
//! under `Concurrency::Exclusive` only. The *head* of a message is everything but its body.
//!
//! Read the files in the order of the steps that one request takes, each with the function that performs it:
//!
//! 1. `service.rs: SessionService::call` calls the inner service that was polled ready, and `serve` takes the request through
//!    all of the following steps. `layer.rs` only builds the service; `parts.rs` holds what the layer and its services share.
//! 2. `slot.rs: SessionSlot::begin` puts a slot for the session into the request's extensions. It reads the tokens
//!    (`carrier.rs: present`, which calls `presented.rs: read` or `header.rs: read`), the domain and the scopes of the cookie
//!    (`hooks.rs: cookie_domain`, `scope.rs: leftovers`) and the client's address (`hooks.rs: client`, `client_ip.rs: find`,
//!    `forwarded.rs: addresses`), and copies the request's head for the error hook (`hooks.rs: error_hook`). If an outer layer has the
//!    same cookie or header (`carrier.rs: is_same_session`), the request uses that layer's slot (`nested.rs:
//!    report_ignored_settings`) and skips steps 3, 4 and 6.
//! 3. `slot.rs: SessionSlot::session` loads the session, at most once: now under `Load::Inbound`, otherwise when a handler asks for
//!    it (`extract.rs`, `Session::from_parts`, `Session::from_extensions`). `request.rs: load` has five steps:
//!    - `fetch` reads the record under the handle of each token.
//!    - `lease` waits until no other request holds the session, under `Concurrency::Exclusive` only; then `fetch` reads again.
//!    - `authenticate.rs: authenticate` checks each token against its record: secret, deadline, fingerprint.
//!    - `choose.rs: choose` picks the session, if the request carries several tokens.
//!    - `renew_if_due` extends the session's life in the background, and `new_session` creates the `Session`.
//! 4. If the load failed, `finish.rs: reject` responds under `Concurrency::Exclusive`. Otherwise the slot keeps the error, and
//!    returns it to any handler or middleware that asks for the session.
//! 5. The inner service runs. If it panics, fails without a response or is dropped, `finish.rs: AbandonGuard` drops the changes
//!    and carries out a `destroy`. `logout.rs: Logout` ends a session without loading it.
//! 6. `finish.rs: finish` completes the response:
//!    - `carrier.rs: remove_foreign` removes what the handler set under the name of the session cookie, or as the token's header.
//!    - `slot.rs: SessionSlot::send_head` closes the slot: a session that is loaded from now on cannot change the cookie.
//!    - `session/save.rs: commit_pending` commits the changes; it sends nothing if there are none.
//!    - `error_response` replaces a response whose changes could not be committed by that of the hook or of
//!      `error_response.rs`; `replace_session_error` does so for an error that the handler returned.
//!    - `token_action` decides whether the client's token must change, after one more look at a token that came under a former
//!      name of the cookie (`former.rs: is_still_valid`). `write_headers` writes `Set-Cookie` (`cookie.rs: write`) or the token's
//!      header (`header.rs: write`), and `Cache-Control` (`cache_control.rs: keep_private`).
//!    - `carrier.rs: vary` adds the header that carries the token to `Vary`, if the handler used the session.
//! 7. `body.rs: ResponseBody` is the inner service's body, or that of a response which replaced it.
//!
//! Two layers work inside of this one, and read its slot. `csrf.rs: CsrfService` refuses what a page of another site may have sent:
//! `csrf_check.rs: judge` decides from the headers (`origin.rs: Origin`), `Session::verify_csrf` from the token, and `csrf_form.rs:
//! CsrfForm` reads that from a form. `require_principal.rs: RequirePrincipalService` lets signed-in users pass only (`principal.rs:
//! Principal` is the extractor for it), and `local_path.rs: LocalPath` reads where they wanted to go. What they refuse is a
//! `SessionError` in the response's extensions, so that step 6 calls the error hook for it.
//!
//! `from_config.rs` builds a layer and its store from a configuration.

pub(crate) mod authenticate;
pub(crate) mod body;
pub(crate) mod cache_control;
pub(crate) mod carrier;
pub(crate) mod choose;
pub(crate) mod client_ip;
pub(crate) mod cookie;
pub(crate) mod csrf;
pub(crate) mod csrf_check;
#[cfg(feature = "axum")]
pub(crate) mod csrf_form;
pub(crate) mod error_response;
#[cfg(feature = "axum")]
pub(crate) mod extract;
pub(crate) mod finish;
pub(crate) mod former;
pub(crate) mod forwarded;
pub(crate) mod from_config;
pub(crate) mod header;
pub(crate) mod hooks;
pub(crate) mod layer;
pub(crate) mod local_path;
pub(crate) mod logout;
pub(crate) mod nested;
pub(crate) mod origin;
pub(crate) mod parts;
pub(crate) mod presented;
pub(crate) mod principal;
pub(crate) mod request;
pub(crate) mod require_principal;
pub(crate) mod scope;
pub(crate) mod service;
pub(crate) mod slot;
