//! The layer, which an application configures once and shares between routers.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use tower_layer::Layer;

use crate::config::SessionConfig;
use crate::config::client_address::ClientAddress;
use crate::config::cookie::has_prefix;
use crate::config::max_sessions::MaxSessions;
use crate::config::policies::{Concurrency, Load, OnStoreError, SignedInCaching};
use crate::config::transport::Transport;
use crate::error::config::ConfigError;
use crate::error::session::SessionError;
use crate::event::Observer;
use crate::metrics::introduce;
use crate::middleware::parts::LayerParts;
use crate::middleware::service::SessionService;
use crate::record::fingerprint::Fingerprinting;
use crate::session::sessions::Sessions;
use crate::store::contract::SessionStore;

/// Gives every request of a router its session.
///
/// ```
/// use axum::{Router, routing::get};
/// use sessile::{MemoryStore, Session, SessionError, SessionLayer};
///
/// async fn visits(session: Session) -> Result<String, SessionError> {
///     let n = session.increment("visits", 1)?;
///     Ok(format!("visit {n}"))
/// }
///
/// let app: Router = Router::new()
///     .route("/", get(visits))
///     .layer(SessionLayer::new(MemoryStore::new()));
/// ```
///
/// Clones share the store. A `with_…` call on a clone changes only that clone, so that routers side by side can have different
/// settings: give each router its own layer, then `merge` or `nest` the routers.
///
/// A layer inside another one with the same cookie name, or the same header for the token, uses the outer layer's session and
/// settings: store, timeouts, fingerprinting, concurrency, hooks and all others. If its own settings differ, sessile emits
/// [`Event::SettingsIgnored`](crate::Event::SettingsIgnored) and logs a warning, once for each pair of layers: a `Strict` layer
/// inside a `Soft` one protects nothing. A layer with another cookie name or transport has another session.
///
/// # Order of layers
///
/// A response that this layer replaces, with 409, 500 or 503, has only the headers that layers outside of this one add. Put CORS,
/// security headers, compression and tracing outside: in axum with a `.layer()` after the one for this layer, in a
/// `ServiceBuilder` before it.
///
/// ```
/// # use axum::{Router, routing::get};
/// # use sessile::{MemoryStore, SessionLayer};
/// use tower_http::cors::CorsLayer;
///
/// let app: Router = Router::new()
///     .route("/", get(|| async {}))
///     .layer(SessionLayer::new(MemoryStore::new()))
///     .layer(CorsLayer::permissive());
/// ```
///
/// Handlers and inner layers must not set a cookie with the session cookie's name: sessile removes it and emits
/// [`Event::ForeignSetCookie`](crate::Event::ForeignSetCookie).
///
/// The inner service may respond with a body of any type, which the layer wraps in a [`ResponseBody`](crate::ResponseBody). Layers
/// that change the body may therefore be inside or outside of this one, and a tonic service can be wrapped like any other. A gRPC
/// status is not an HTTP status: if a method returns an error status in a response with HTTP status 200, the layer commits its
/// changes, unless the method calls [`discard_changes`](crate::Session::discard_changes).
///
/// # Spans
///
/// For [`tracing`](https://docs.rs/tracing), target `sessile`, level DEBUG. If no subscriber enables them, they cost one
/// check of the level. No field contains a token.
///
/// | span | around | fields |
/// |---|---|---|
/// | `session.load` | the load of a session | `handle`, `round_trips`, `outcome`: `new`, `loaded`, `denied`, `busy` or `failed` |
/// | `session.commit` | a commit of changes, or a logout; a request that only reads has none | `handle`, `attempts` (compare-and-sets), `round_trips`, `outcome`: `committed`, `destroyed`, `conflict`, `gone`, `denied`, `busy`, `unknown`, `store_failed`, `refused` or `panicked` |
/// | `session.revoke` | a deletion that is retried in the background, after the commit that failed to do it | `handle` |
/// | `redis`, target `sessile::redis` | one round trip of a [`RedisStore`](crate::RedisStore) | `otel.name`, `otel.kind`, `db.system.name`, `db.operation.name` (the command), `db.operation.batch.size`, `db.namespace` (the database of the URL), `server.address`, `server.port`, `db.response.status_code` |
///
/// If the store fails or is overloaded, spans also have `error.type` and `otel.status_code`. These and the fields of Redis are
/// those of OpenTelemetry's [semantic conventions](https://opentelemetry.io/docs/specs/semconv/db/redis/) 1.45.0 for Redis clients;
/// `error.type` is the server's error, such as `OOM`, else `timeout`, `connection_closed` or `_OTHER`, and for the other spans
/// [`SessionError::name`].
///
/// `round_trips` counts calls of the store that follow one another. Each is one round trip to Redis, unless the table at
/// [`RedisStore`](crate::RedisStore) says otherwise; the wait for a lease is not among them.
#[derive(Clone, Debug)]
#[doc(alias("SessionManagerLayer", "SessionMiddleware"))]
pub struct SessionLayer {
    parts: LayerParts,
}

impl SessionLayer {
    /// Creates a layer with the default settings.
    pub fn new(store: impl SessionStore) -> Self {
        Self::build(store, SessionConfig::default())
    }

    /// Creates a layer with these settings.
    ///
    /// ```
    /// use std::time::Duration;
    /// use sessile::{MemoryStore, SessionConfig, SessionLayer};
    ///
    /// let config = SessionConfig::default().with_idle_timeout(Duration::from_secs(15 * 60));
    /// let layer = SessionLayer::try_new(MemoryStore::new(), config)?;
    /// # Ok::<(), sessile::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] for settings that cannot work, such as a `__Host-` cookie without `Secure`, or that this store
    /// does not support, such as [`Durability::Replicas`](crate::store::Durability::Replicas) in memory. The message says how
    /// to fix them.
    #[doc(alias = "with_config")]
    pub fn try_new(store: impl SessionStore, config: SessionConfig) -> Result<Self, ConfigError> {
        config.check()?;
        config.check_for(store.capabilities())?;
        Ok(Self::build(store, config))
    }

    fn build(store: impl SessionStore, config: SessionConfig) -> Self {
        introduce();
        Self {
            parts: LayerParts::new(store, config),
        }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn parts(&self) -> &LayerParts {
        &self.parts
    }

    /// This layer on another node, before a store of the same sessions: with its settings and hooks, and queues of its own. It takes
    /// no leases, so that its requests can overtake those of this node.
    #[cfg(feature = "testing")]
    pub(crate) fn on_another_node(&self, store: impl SessionStore) -> Self {
        let mut parts = self.parts.clone();
        parts.engine = LayerParts::new(store, SessionConfig::default()).engine;
        parts.config_mut().concurrency = Concurrency::Merge;
        Self { parts }
    }

    /// Sets when the session is loaded; [`Load::Inbound`] by default.
    #[must_use]
    pub fn with_load(mut self, load: Load) -> Self {
        self.parts.config_mut().load = load;
        self
    }

    /// Sets what happens when a session cannot be loaded; [`OnStoreError::Reject`] by default.
    #[must_use]
    pub fn with_on_store_error(mut self, on_store_error: OnStoreError) -> Self {
        self.parts.config_mut().on_store_error = on_store_error;
        self
    }

    /// Sets what happens to concurrent changes of a session; [`Concurrency::Merge`] by default. To set it for some routes only,
    /// give them a router of their own:
    ///
    /// ```
    /// # use axum::{Router, routing::{get, post}};
    /// # use sessile::{Concurrency, MemoryStore, Session, SessionLayer};
    /// # async fn shop() {}
    /// # async fn edit(_: Session) {}
    /// let layer = SessionLayer::new(MemoryStore::new());
    /// let strict = layer.clone().with_concurrency(Concurrency::Reject);
    /// let app: Router = Router::new()
    ///     .route("/", get(shop))
    ///     .layer(layer)
    ///     .merge(Router::new().route("/edit", post(edit)).layer(strict));
    /// ```
    ///
    /// With [`Concurrency::Exclusive`] on a store without leases, the response to every request that needs a lease is 503, and
    /// the log says why; [`try_new`](Self::try_new) rejects that at startup.
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: Concurrency) -> Self {
        self.parts.config_mut().concurrency = concurrency;
        self
    }

    /// Sets whether a request prolongs its session; `true` by default. Give requests that a page sends by itself a layer that does
    /// not, so that a session ends by its idle timeout although a tab is open:
    ///
    /// ```
    /// # use axum::{Router, routing::get};
    /// # use sessile::{MemoryStore, ReadSession, SessionLayer};
    /// # async fn shop() {}
    /// # async fn news(_: ReadSession) {}
    /// let layer = SessionLayer::new(MemoryStore::new());
    /// let polls = Router::new()
    ///     .route("/news", get(news))
    ///     .layer(layer.clone().with_renewal(false));
    /// let app: Router = Router::new()
    ///     .route("/", get(shop))
    ///     .layer(layer)
    ///     .merge(polls);
    /// ```
    ///
    /// The changes of such a request are written without prolonging the session: see
    /// [`SessionConfig::renewal`](crate::SessionConfig::renewal).
    #[must_use]
    #[doc(alias("skip_timeout", "without_renewal", "read_only"))]
    pub fn with_renewal(mut self, renewal: bool) -> Self {
        self.parts.config_mut().renewal = renewal;
        self
    }

    /// Sets whether caches may store the pages of signed-in users; [`SignedInCaching::NoStore`] by default.
    #[must_use]
    pub fn with_signed_in_caching(mut self, caching: SignedInCaching) -> Self {
        self.parts.config_mut().signed_in_caching = caching;
        self
    }

    /// Sets what happens when a session is used from another network; [`Fingerprinting::Soft`] by default.
    #[must_use]
    pub fn with_fingerprinting(mut self, mode: Fingerprinting) -> Self {
        self.parts.config_mut().fingerprinting = mode;
        self
    }

    /// Sets where the client's address comes from; [`ClientAddress::peer`] by default, the other end of the connection. Behind a
    /// proxy, name it:
    ///
    /// ```
    /// use sessile::{ClientAddress, MemoryStore, SessionLayer};
    ///
    /// let address = ClientAddress::trusted_proxies(["10.0.0.0/8", "::1"])?;
    /// let layer = SessionLayer::new(MemoryStore::new()).with_client_address(address);
    /// # Ok::<(), sessile::ConfigError>(())
    /// ```
    ///
    /// The function of [`with_client_ip`](Self::with_client_ip) takes the place of this setting.
    #[must_use]
    pub fn with_client_address(mut self, client_address: ClientAddress) -> Self {
        self.parts.config_mut().client_address = client_address;
        self
    }

    /// Sets a function that finds the client's address, for what [`with_client_address`](Self::with_client_address) cannot express.
    /// It takes the place of that setting. `None` means that the address is unknown. For example, the address may be in an extension
    /// that another middleware, outside of this layer, has put into the request:
    ///
    /// ```
    /// use std::net::IpAddr;
    /// use sessile::{MemoryStore, SessionLayer};
    ///
    /// #[derive(Clone, Copy)]
    /// struct RealIp(IpAddr);
    ///
    /// let layer = SessionLayer::new(MemoryStore::new())
    ///     .with_client_ip(|parts| parts.extensions.get().map(|RealIp(address)| *address));
    /// ```
    ///
    /// # Security
    ///
    /// If clients can send the header that the function reads, a thief can choose the victim's network.
    #[must_use]
    pub fn with_client_ip(
        mut self,
        client_ip: impl Fn(&Parts) -> Option<IpAddr> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.parts.hooks).client_ip = Some(Arc::new(client_ip));
        self
    }

    /// Sets how the token travels; in the cookie by default. With [`Transport::Header`] the layer serves API clients: see
    /// [`TokenHeader`](crate::TokenHeader).
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] if a header's name is not one, or is taken, such as `cookie`.
    pub fn with_transport(mut self, transport: Transport) -> Result<Self, ConfigError> {
        transport.check()?;
        self.parts.config_mut().transport = transport;
        Ok(self)
    }

    /// Sets the function that chooses the `Domain` of the cookie for each request, for an application that serves several
    /// domains. It chooses among [`CookieConfig::domains`](crate::CookieConfig::domains); case and a leading dot have no effect.
    ///
    /// If the function returns `None`, the cookie has the configured [`domain`](crate::CookieConfig::domain), by default none, so
    /// that browsers send it to this host only. If it returns a domain that is not on the list, the cookie has none, and sessile
    /// emits [`Event::CookieDomainRejected`](crate::Event::CookieDomainRejected). The response removes the cookie from the domain
    /// that the function has returned for the same request, so it should return the same for each request of a host. Browsers
    /// ignore a cookie whose domain is not that of the host or a parent of it.
    ///
    /// The layer calls the function once for each request, before it loads the session.
    ///
    /// ```
    /// use axum::http::header::HOST;
    /// use sessile::{CookieConfig, MemoryStore, SessionConfig, SessionLayer};
    ///
    /// let cookie = CookieConfig::default()
    ///     .with_name("id")
    ///     .with_domains(["tulips.example", "roses.example"]);
    /// let config = SessionConfig::default().with_cookie(cookie);
    /// let layer = SessionLayer::try_new(MemoryStore::new(), config)?.with_cookie_domain(|parts| {
    ///     let host = parts.headers.get(HOST)?.to_str().ok()?;
    ///     // `shop.tulips.example:8080` → `tulips.example`
    ///     let name = host.split(':').next()?;
    ///     let dot = name.rmatch_indices('.').nth(1).map_or(0, |(dot, _)| dot + 1);
    ///     Some(name[dot..].to_owned())
    /// })?;
    /// # Ok::<(), sessile::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] if `domains` is empty, or if the cookie's name begins with `__Host-`: browsers reject such a
    /// cookie if it has a domain. Call this before [`insecure_for_localhost`](Self::insecure_for_localhost), which removes the
    /// domains.
    pub fn with_cookie_domain(
        mut self,
        cookie_domain: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Result<Self, ConfigError> {
        let cookie = &self.parts.policy.config.cookie;
        if has_prefix(&cookie.name, "__Host-") {
            let advice = "a `__Host-` cookie must not have a domain, and this layer chooses one for each request: choose another name, \
                          such as \"__Secure-id\"";
            return Err(ConfigError::invalid("cookie.name", &cookie.name, advice));
        }
        if cookie.domains.is_empty() {
            let advice = "write the domains that the cookie may have, such as [\"example.org\"]; `insecure_for_localhost` removes \
                          them, so call it last";
            return Err(ConfigError::invalid(
                "cookie.domains",
                &cookie.domains,
                advice,
            ));
        }
        Arc::make_mut(&mut self.parts.hooks).cookie_domain = Some(Arc::new(cookie_domain));
        Ok(self)
    }

    /// Sets the hook that builds the response for a session that could not be loaded or committed, and for a [`SessionError`]
    /// that a handler returned. By default it is [`SessionError::response`]; the hook's response has only the headers that the
    /// hook sets, so begin with that one. Cookies that the handler set are kept, except one of the session cookie's name.
    ///
    /// The hook receives the error and the head of the request: its method, URI, version and headers as this layer received them.
    /// The extensions are empty, and the header that carries the token is marked as sensitive. With a hook, the layer copies the
    /// head of every request, since the request itself goes to the handler; without one, it copies nothing.
    ///
    /// ```
    /// use axum::http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
    /// use bytes::Bytes;
    /// use sessile::{MemoryStore, SessionLayer};
    ///
    /// let layer = SessionLayer::new(MemoryStore::new()).with_on_error(|error, request| {
    ///     let mut response = error.response();
    ///     let accept = request.headers.get(ACCEPT);
    ///     if accept.is_some_and(|accept| accept.as_bytes().starts_with(b"application/json")) {
    ///         *response.body_mut() = Bytes::from_static(br#"{"error":"session"}"#);
    ///         let json = HeaderValue::from_static("application/json");
    ///         response.headers_mut().insert(CONTENT_TYPE, json);
    ///     }
    ///     response
    /// });
    /// ```
    #[must_use]
    pub fn with_on_error(
        mut self,
        on_error: impl Fn(&SessionError, &Parts) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.parts.hooks).on_error = Some(Arc::new(on_error));
        self
    }

    /// Sets how many sessions a principal may be signed in to at once; any number by default. On a store without an index of them,
    /// sign-ins work and are not counted; [`try_new`](Self::try_new) rejects that at startup.
    #[must_use]
    pub fn with_max_sessions(mut self, max_sessions: MaxSessions) -> Self {
        self.parts.config_mut().max_sessions = Some(max_sessions);
        self
    }

    /// The sessions of users in this layer's store. Handlers may take [`Sessions`] as an argument instead.
    pub fn sessions(&self) -> Sessions {
        let backend = Arc::clone(&self.parts.engine.backend);
        Sessions::within(backend, Arc::clone(&self.parts.policy), None)
    }

    /// Sends every [`Event`](crate::Event) to the observer, in addition to the log.
    #[must_use]
    pub fn with_observer(mut self, observer: impl Observer) -> Self {
        Arc::make_mut(&mut self.parts.policy).observer = Some(Arc::new(observer));
        self
    }

    /// Makes the cookie work over plain HTTP on `localhost`, for development. It removes `Secure`, the name prefixes such as
    /// `__Host-` and `__Secure-`, which require it, from its name and its former names, and `Domain`, since `localhost` does not
    /// belong to a domain. `Partitioned` goes too, and `SameSite=None` becomes `Lax`, since both require `Secure`.
    ///
    /// # Security
    ///
    /// Anyone on the network path can read the cookie and use the session. Do not use it on a server that others can reach.
    #[must_use]
    pub fn insecure_for_localhost(mut self) -> Self {
        let config = self.parts.config_mut();
        config.cookie = config.cookie.without_tls();
        self
    }

    /// Waits for the background work of this layer and its clones: commits and logouts whose clients have disconnected, renewals,
    /// and releases of leases. Call it at the end of a process, once its server has stopped:
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use sessile::{MemoryStore, SessionLayer};
    /// # async fn serve(listener: tokio::net::TcpListener, app: axum::Router) -> std::io::Result<()> {
    /// # let layer = SessionLayer::new(MemoryStore::new());
    /// axum::serve(listener, app.layer(layer.clone())).await?;
    /// let _ = tokio::time::timeout(Duration::from_secs(5), layer.drained()).await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A logout that the store rejects is retried for about five minutes, so set a timeout.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not cancel the work.
    #[doc(alias("shutdown", "flush", "close"))]
    pub async fn drained(&self) {
        self.parts.engine.backend.background.tracker.close();
        self.parts.engine.backend.background.tracker.wait().await;
    }
}

impl<S> Layer<S> for SessionLayer {
    type Service = SessionService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SessionService::new(inner, self.parts.clone())
    }
}
