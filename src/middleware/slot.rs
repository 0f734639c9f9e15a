//! One request under one layer, and the session that waits in it for whoever asks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::{COOKIE, HOST};
use http::request::Parts;
use http::{Extensions, HeaderValue, Method};
use tokio::runtime::Handle as Runtime;
use tokio::sync::OnceCell;

use crate::commit::context::CommitContext;
use crate::commit::delete::Revocation;
use crate::commit::engine::Engine;
use crate::config::policies::Concurrency;
use crate::error::session::SessionError;
use crate::event::Event;
use crate::middleware::cookie::{Place, Presented, other_places, read};
use crate::middleware::hooks::{ErrorHook, Hooks};
use crate::middleware::nested::report_ignored_settings;
use crate::middleware::parts::LayerParts;
use crate::session::Session;
use crate::session::state::backing::Backing;

/// One request under one layer: the tokens it carries, and the session once somebody has asked for it.
#[derive(Debug)]
pub(crate) struct SessionSlot {
    pub(crate) engine: Arc<Engine>,
    pub(crate) context: CommitContext,
    hooks: Arc<Hooks>,
    pub(crate) error_hook: Option<Box<ErrorHook>>,
    pub(crate) presented: Presented,
    /// Where the browser may have the other cookies, if it has several.
    pub(crate) other_places: Vec<Place>,
    pub(crate) shows_flashes: bool,
    /// The one that the request came in on.
    pub(crate) runtime: Option<Runtime>,
    session: OnceCell<Result<Session, LoadFailure>>,
    /// What a session that had not been loaded is from its end on: a new one, of nobody.
    ended: OnceLock<Session>,
    /// The response is on its way, whether or not the session was loaded by then.
    head_sent: AtomicBool,
    accessed: AtomicBool,
}

/// Why there is no session, and how much of the request's time it took to find out.
#[derive(Clone, Debug)]
pub(crate) struct LoadFailure {
    pub(crate) error: SessionError,
    pub(crate) spent: Duration,
}

/// The slots of a request, one for each layer around the handler, the innermost last. Lives in the request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct SessionSlots(Vec<Arc<SessionSlot>>);

impl SessionSlots {
    /// That of the innermost layer, for somebody on whom the response depends.
    pub(crate) fn of(extensions: &Extensions) -> Result<Arc<SessionSlot>, SessionError> {
        let slots = extensions.get::<Self>();
        let slot = slots.and_then(|slots| slots.0.last());
        let slot = slot.ok_or(SessionError::MissingLayer)?;
        slot.accessed.store(true, Ordering::Relaxed);
        Ok(Arc::clone(slot))
    }
}

impl Session {
    /// The session of a request, for tower services and middleware; handlers take it as an argument.
    ///
    /// # Redis
    ///
    /// None if the session is loaded already; otherwise as [`Load::Inbound`](crate::Load::Inbound).
    ///
    /// # Errors
    ///
    /// - [`SessionError::MissingLayer`]: there is no layer around this service.
    /// - [`SessionError::Store`]: the session could not be loaded; it is not tried again in this request.
    /// - [`SessionError::Busy`]: [`Concurrency::Exclusive`](crate::Concurrency::Exclusive), and others had it for too long.
    pub async fn from_parts(parts: &mut Parts) -> Result<Self, SessionError> {
        Self::from_extensions(&parts.extensions).await
    }

    /// The session of the request that has these extensions, for tower services and middleware that keep the request whole.
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use axum::body::Body;
    /// use axum::http::{Request, Response};
    /// use sessile::{MemoryStore, Session, SessionError, SessionLayer};
    /// use tower::ServiceBuilder;
    ///
    /// async fn count(request: &Request<String>) -> Result<String, SessionError> {
    ///     let session = Session::from_extensions(request.extensions()).await?;
    ///     let n = session.increment("slots", 1)?;
    ///     Ok(format!("visit {n} of {}", request.uri()))
    /// }
    ///
    /// let service = ServiceBuilder::new()
    ///     .layer(SessionLayer::new(MemoryStore::new()))
    ///     .service_fn(|request: Request<String>| async move {
    ///         let text = count(&request).await.unwrap_or_else(|error| error.to_string());
    ///         Ok::<_, Infallible>(Response::new(text))
    ///     });
    /// ```
    ///
    /// # Redis
    ///
    /// As [`from_parts`](Self::from_parts).
    ///
    /// # Errors
    ///
    /// Those of [`from_parts`](Self::from_parts).
    pub async fn from_extensions(extensions: &Extensions) -> Result<Self, SessionError> {
        SessionSlots::of(extensions)?.session().await
    }
}

impl SessionSlot {
    /// Notes a request on its way in. `None` if a layer further out has a cookie of the same name: its session is this
    /// one's too.
    pub(crate) fn begin(layer: &LayerParts, parts: &mut Parts) -> Option<Arc<Self>> {
        let config = &layer.policy.config;
        let name = &config.cookie.name;
        let mut slots = parts
            .extensions
            .get::<SessionSlots>()
            .map_or_else(Vec::new, |slots| slots.0.clone());
        let outer = slots
            .iter()
            .position(|slot| slot.context.policy.config.cookie.name == *name);
        if let Some(outer) = outer {
            // The innermost layer's session is the last.
            let outer = slots.remove(outer);
            report_ignored_settings(layer, &outer.parts());
            slots.push(outer);
            parts.extensions.insert(SessionSlots(slots));
            return None;
        }
        for (header, value) in &mut parts.headers {
            if header == COOKIE {
                value.set_sensitive(true);
            }
        }
        let presented = read(&parts.headers, name);
        if presented.malformed {
            layer.policy.emit(&Event::MalformedCookie);
        }
        if presented.is_too_many() {
            layer.policy.emit(&Event::AmbiguousCookie);
        }
        let other_places = match presented.is_several() {
            true => other_places(&config.cookie, host(parts), path(parts)),
            false => Vec::new(),
        };
        let slot = Arc::new(Self {
            engine: Arc::clone(&layer.engine),
            context: CommitContext {
                backend: Arc::clone(&layer.engine.backend),
                policy: Arc::clone(&layer.policy),
                network: layer.hooks.network(config, parts).map(Arc::from),
            },
            hooks: Arc::clone(&layer.hooks),
            error_hook: layer.hooks.error_hook(parts),
            presented,
            other_places,
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

    /// The session, loaded the first time.
    pub(crate) async fn session(&self) -> Result<Session, SessionError> {
        let session = match self.ended.get() {
            Some(ended) => ended.clone(),
            None => {
                let loaded = self.session.get_or_init(|| self.load()).await;
                // It may have been ended meanwhile.
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

    /// The session, if it has been loaded, or ended before.
    pub(crate) fn loaded(&self) -> Option<&Session> {
        let loaded = || self.session.get()?.as_ref().ok();
        self.ended.get().or_else(loaded)
    }

    /// Ends the session, loaded or not.
    pub(crate) fn end_session(&self) {
        let asked = self.context.backend.now();
        let unverified = |token| Revocation::Unverified { token, asked };
        let tokens = self.presented.tokens.iter().cloned().map(unverified);
        if let Some(session) = self.loaded() {
            {
                let mut state = session.shared().state();
                // It shows a request nothing of what it may not use. A logout may, if the secret was right a moment ago.
                let hidden = matches!(state.backing, Backing::Denied { handle: None, .. });
                if hidden && state.revocable.is_empty() {
                    state.revocable = tokens.collect();
                }
            }
            session.destroy();
        } else if !self.presented.is_nothing() {
            let session = self.ended.get_or_init(|| {
                let session = self.make(Backing::New, self.compare(None));
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

    /// Whether the request must not go on without its session, since others of the session are not to run meanwhile.
    pub(crate) fn is_exclusive(&self) -> bool {
        matches!(
            self.context.policy.config.concurrency,
            Concurrency::Exclusive(_)
        )
    }

    /// Notes that the response head is about to be sent, and returns the session if it has been loaded. A session that is
    /// loaded later knows that it is too late for a cookie.
    pub(crate) fn send_head(&self) -> Option<&Session> {
        self.head_sent.store(true, Ordering::SeqCst);
        self.loaded()
    }

    /// Whether the response depends on the session.
    pub(crate) fn is_accessed(&self) -> bool {
        self.accessed.load(Ordering::Relaxed)
    }
}

/// The host that the browser has asked, as the request names it.
fn host(parts: &Parts) -> Option<&str> {
    match parts.headers.get(HOST) {
        Some(host) => host.to_str().ok(),
        // HTTP/2 has no such header.
        None => parts.uri.host(),
    }
}

/// The path that the browser has asked for, as far as that is known below routers that take prefixes off.
fn path(parts: &Parts) -> &str {
    #[cfg(feature = "axum")]
    if let Some(axum::extract::OriginalUri(uri)) = parts.extensions.get() {
        return uri.path();
    }
    parts.uri.path()
}

/// Whether somebody looks at the response. Messages on a page that the browser loads in advance may never be seen.
fn is_shown(parts: &Parts) -> bool {
    let in_advance = ["sec-purpose", "purpose", "x-moz"]
        .into_iter()
        .any(|header| {
            let says = |value: &HeaderValue| value.as_bytes().starts_with(b"prefetch");
            parts.headers.get(header).is_some_and(says)
        });
    parts.method != Method::HEAD && !in_advance
}
