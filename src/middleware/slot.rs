//! The slot of a request for its session, under one layer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::HOST;
use http::request::Parts;
use http::{Extensions, HeaderName, HeaderValue, Method, Uri};
use smallvec::SmallVec;
use tokio::runtime::Handle as Runtime;
use tokio::sync::OnceCell;

use crate::commit::context::{Began, CommitContext};
use crate::commit::delete::Revocation;
use crate::commit::engine::Engine;
use crate::config::policies::Concurrency;
use crate::config::transport::Transport;
use crate::error::session::SessionError;
use crate::event::{AddressProblem, Event};
use crate::middleware::carrier::{is_same_session, present};
use crate::middleware::hooks::{ErrorHook, Hooks};
use crate::middleware::nested::report_ignored_settings;
use crate::middleware::parts::LayerParts;
use crate::middleware::presented::Presented;
use crate::middleware::scope::{CookieDomain, Leftover, leftovers};
use crate::session::Session;
use crate::session::sessions::Sessions;
use crate::session::state::backing::Backing;

/// One request under one layer: the tokens that it carries, and the session once it has been loaded.
#[derive(Debug)]
pub(crate) struct SessionSlot {
    pub(crate) engine: Arc<Engine>,
    pub(crate) context: CommitContext,
    hooks: Arc<Hooks>,
    pub(crate) error_hook: Option<Box<ErrorHook>>,
    pub(crate) presented: Presented,
    pub(crate) cookie_domain: CookieDomain,
    /// The cookies that the response removes if it sets or removes the session cookie.
    pub(crate) leftovers: Vec<Leftover>,
    /// Why the client's address may not be the right one.
    pub(crate) address_problem: Option<AddressProblem>,
    pub(crate) shows_flashes: bool,
    /// The runtime that the request came in on.
    pub(crate) runtime: Option<Runtime>,
    session: OnceCell<Result<Session, LoadFailure>>,
    /// The new, anonymous session that takes the place of one that ended before it was loaded.
    ended: OnceLock<Session>,
    /// Whether the response head is on its way, even if the session has not been loaded.
    head_sent: AtomicBool,
    accessed: AtomicBool,
}

/// Why the session could not be loaded, and how much of the request's budget the attempt took.
#[derive(Clone, Debug)]
pub(crate) struct LoadFailure {
    pub(crate) error: SessionError,
    pub(crate) spent: Duration,
}

/// The slots of a request, one for each layer around the handler, the innermost last. The request's extensions hold it.
#[derive(Clone, Debug)]
pub(crate) struct SessionSlots(SmallVec<[Arc<SessionSlot>; 1]>);

impl SessionSlots {
    /// Returns the slot of the innermost layer. From then on the response counts as dependent on the session.
    pub(crate) fn of(extensions: &Extensions) -> Result<Arc<SessionSlot>, SessionError> {
        let slot = Self::peek(extensions)?;
        slot.accessed.store(true, Ordering::Relaxed);
        Ok(slot)
    }

    /// The same, for middleware whose response does not depend on the session.
    pub(crate) fn peek(extensions: &Extensions) -> Result<Arc<SessionSlot>, SessionError> {
        let slots = extensions.get::<Self>();
        let slot = slots.and_then(|slots| slots.0.last());
        slot.map(Arc::clone).ok_or(SessionError::MissingLayer)
    }
}

impl Session {
    /// Returns the session of a request, for tower services and middleware; handlers take it as an argument.
    ///
    /// # Redis
    ///
    /// No command if the session is loaded already, or the request carries no token. Otherwise one `GET`, now and then with a
    /// `PTTL` in the same round trip, and one `PEXPIRE` in the background once half of the idle timeout has passed.
    /// [`Concurrency::Exclusive`](crate::Concurrency::Exclusive) adds the round trips of its lease.
    ///
    /// # Errors
    ///
    /// - [`SessionError::MissingLayer`] if there is no layer around this service.
    /// - [`SessionError::Store`] if the session could not be loaded; sessile does not retry within the request.
    /// - [`SessionError::Busy`] under [`Concurrency::Exclusive`](crate::Concurrency::Exclusive), if other requests held the
    ///   session for too long.
    pub async fn from_parts(parts: &Parts) -> Result<Self, SessionError> {
        Self::from_extensions(&parts.extensions).await
    }

    /// Returns the session of the request that has these extensions, for tower services and middleware that keep the request
    /// whole.
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use axum::body::Body;
    /// use axum::http::{Extensions, Request, Response};
    /// use axum::Router;
    /// use sessile::{MemoryStore, Session, SessionError, SessionLayer};
    /// use tower::ServiceBuilder;
    ///
    /// // The extensions alone: a reference to a request must not live across an `await`, since axum's body is not `Sync`.
    /// async fn count(extensions: &Extensions) -> Result<String, SessionError> {
    ///     let session = Session::from_extensions(extensions).await?;
    ///     Ok(format!("visit {}", session.increment("visits", 1)?))
    /// }
    ///
    /// let service = ServiceBuilder::new()
    ///     .layer(SessionLayer::new(MemoryStore::new()))
    ///     .service_fn(|request: Request<Body>| async move {
    ///         let counted = count(request.extensions()).await;
    ///         let text = counted.unwrap_or_else(|error| error.to_string());
    ///         Ok::<_, Infallible>(Response::new(Body::from(text)))
    ///     });
    /// let app: Router = Router::new().fallback_service(service);
    /// ```
    ///
    /// # Redis
    ///
    /// The commands of [`from_parts`](Self::from_parts).
    ///
    /// # Errors
    ///
    /// Those of [`from_parts`](Self::from_parts).
    pub async fn from_extensions(extensions: &Extensions) -> Result<Self, SessionError> {
        SessionSlots::of(extensions)?.session().await
    }
}

impl Sessions {
    /// Returns the sessions of users in the store of the layer around this service, for tower services and middleware; handlers
    /// take them as an argument. They know which session is that of this request.
    ///
    /// # Errors
    ///
    /// Those of [`Session::from_extensions`].
    pub async fn from_extensions(extensions: &Extensions) -> Result<Self, SessionError> {
        let slot = SessionSlots::of(extensions)?;
        let current = slot.session().await?;
        let backend = Arc::clone(&slot.context.backend);
        let policy = Arc::clone(&slot.context.policy);
        Ok(Self::within(backend, policy, Some(current)))
    }
}

/// The headers by which browsers say that they only prefetch a page.
const PREFETCH_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("sec-purpose"),
    HeaderName::from_static("purpose"),
    HeaderName::from_static("x-moz"),
];

impl SessionSlot {
    /// Puts a slot into the request's extensions. Returns `None` if an outer layer has the same cookie, or the same header for
    /// the token: the request then uses the session of that layer.
    pub(crate) fn begin(layer: LayerParts, parts: &mut Parts) -> Option<Arc<Self>> {
        let config = &layer.policy.config;
        let mut slots = parts
            .extensions
            .get::<SessionSlots>()
            .map_or_else(SmallVec::new, |slots| slots.0.clone());
        let outer = slots
            .iter()
            .position(|slot| is_same_session(config, &slot.context.policy.config));
        if let Some(outer) = outer {
            // `SessionSlots::of` returns the last slot, which must be that of the innermost layer.
            let outer = slots.remove(outer);
            report_ignored_settings(&layer, &outer.parts());
            slots.push(outer);
            parts.extensions.insert(SessionSlots(slots));
            return None;
        }
        let presented = present(&layer.policy, &mut parts.headers);
        let (cookie_domain, leftovers) = cookies(&layer, &presented, parts);
        let client = layer.hooks.client(config, parts);
        let network = client.network(config);
        let slot = Arc::new(Self {
            context: CommitContext {
                backend: Arc::clone(&layer.engine.backend),
                began: Began::now(&layer.engine.backend),
                policy: layer.policy,
                network,
            },
            engine: layer.engine,
            error_hook: layer.hooks.error_hook(parts),
            hooks: layer.hooks,
            presented,
            cookie_domain,
            leftovers,
            address_problem: client.problem,
            shows_flashes: is_shown(parts),
            runtime: Runtime::try_current().ok(),
            session: OnceCell::new(),
            ended: OnceLock::new(),
            head_sent: AtomicBool::new(false),
            accessed: AtomicBool::new(false),
        });
        slots.push(Arc::clone(&slot));
        parts.extensions.insert(SessionSlots(slots));
        Some(slot)
    }

    pub(crate) fn parts(&self) -> LayerParts {
        LayerParts {
            engine: Arc::clone(&self.engine),
            policy: Arc::clone(&self.context.policy),
            hooks: Arc::clone(&self.hooks),
        }
    }

    /// Returns the session; the first call loads it.
    pub(crate) async fn session(&self) -> Result<Session, SessionError> {
        let session = match self.ended.get() {
            Some(ended) => ended.clone(),
            None => {
                let loaded = self.session.get_or_init(|| self.load()).await;
                // `end_session` may have ended it during the load.
                match self.ended.get() {
                    Some(ended) => ended.clone(),
                    None => loaded.clone().map_err(|failed| failed.error)?,
                }
            }
        };
        if self.head_sent.load(Ordering::SeqCst) {
            let mut state = session.shared().state();
            state.phase.send_head();
            state.lease = None;
        }
        Ok(session)
    }

    /// Returns the session if it has been loaded, or ended before its load.
    pub(crate) fn loaded(&self) -> Option<&Session> {
        let loaded = || self.session.get()?.as_ref().ok();
        self.ended.get().or_else(loaded)
    }

    /// Ends the session, whether or not it has been loaded.
    pub(crate) fn end_session(&self) {
        let asked = self.context.backend.now();
        let unverified = |token| Revocation::Unverified { token, asked };
        let tokens = self.presented.tokens.iter().cloned().map(unverified);
        if let Some(session) = self.loaded() {
            {
                let mut state = session.shared().state();
                // The request may not see this session. It may end it, if its secret was valid a moment ago.
                let hidden = matches!(state.backing, Backing::Denied { handle: None, .. });
                if hidden && state.revocable.is_empty() {
                    state.revocable = tokens.collect();
                }
            }
            session.destroy();
        } else if !self.presented.is_empty() {
            let session = self.ended.get_or_init(|| {
                let session = self.new_session(Backing::New, self.compare(None));
                let mut state = session.shared().state();
                state.revocable = tokens.collect();
                if let Some(Err(failed)) = self.session.get() {
                    state.spent = failed.spent;
                }
                drop(state);
                session
            });
            if self.head_sent.load(Ordering::SeqCst) {
                session.shared().state().phase.send_head();
            }
            session.destroy();
        }
    }

    /// Whether the handler must not run without the session, since no other request of the session may run beside it.
    pub(crate) fn is_exclusive(&self) -> bool {
        matches!(
            self.context.policy.config.concurrency,
            Concurrency::Exclusive(_)
        )
    }

    /// Records that the response head is about to be sent, and returns the session if it has been loaded. A session that is
    /// loaded later can no longer set the cookie.
    pub(crate) fn send_head(&self) -> Option<&Session> {
        self.head_sent.store(true, Ordering::SeqCst);
        self.loaded()
    }

    /// Whether a handler or middleware has asked for the session, so that the response depends on it.
    pub(crate) fn is_accessed(&self) -> bool {
        self.accessed.load(Ordering::Relaxed)
    }
}

/// The domain of the session cookie in the response, and the cookies to remove with it.
fn cookies(
    layer: &LayerParts,
    presented: &Presented,
    parts: &Parts,
) -> (CookieDomain, Vec<Leftover>) {
    let config = &layer.policy.config;
    if config.transport != Transport::Cookie {
        return (CookieDomain::Configured, Vec::new());
    }
    let (domain, rejected) = layer.hooks.cookie_domain(&config.cookie, parts);
    if let Some(domain) = rejected {
        // It may come from a header of the request, and is remembered. No host has a longer name.
        let domain: String = domain.chars().take(253).collect();
        let reported = &layer.engine.backend.reported;
        if reported.cookie_domains.is_first(domain.clone()) {
            layer.policy.emit(&Event::CookieDomainRejected { domain });
        }
    }
    let leftovers = leftovers(&config.cookie, domain, presented, host(parts), path(parts));
    (domain, leftovers)
}

/// The host to which the browser sent the request, as the request names it.
fn host(parts: &Parts) -> Option<&str> {
    match parts.headers.get(HOST) {
        Some(host) => host.to_str().ok(),
        // HTTP/2 sends the host as `:authority`, which is part of the URI.
        None => parts.uri.host(),
    }
}

/// The path that the browser requested.
fn path(parts: &Parts) -> &str {
    original_uri(&parts.extensions, &parts.uri).path()
}

/// The URI that the browser requested. Routers that strip a prefix hide it, unless axum's `OriginalUri` is there.
#[cfg_attr(
    not(feature = "axum"),
    expect(unused_variables, reason = "only axum keeps the original URI")
)]
pub(crate) fn original_uri<'a>(extensions: &'a Extensions, uri: &'a Uri) -> &'a Uri {
    #[cfg(feature = "axum")]
    if let Some(axum::extract::OriginalUri(uri)) = extensions.get() {
        return uri;
    }
    uri
}

/// Whether the browser shows the response. A page that it prefetches may never be shown, and its flash messages would be lost.
fn is_shown(parts: &Parts) -> bool {
    let prefetched = PREFETCH_HEADERS.iter().any(|header| {
        let is_prefetch = |value: &HeaderValue| value.as_bytes().starts_with(b"prefetch");
        parts.headers.get(header).is_some_and(is_prefetch)
    });
    parts.method != Method::HEAD && !prefetched
}
