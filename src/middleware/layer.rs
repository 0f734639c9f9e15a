//! The layer: what a user configures once and shares between routers.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use tokio_util::task::TaskTracker;
use tower_layer::Layer;

use crate::Handle;
use crate::commit::logouts::Logouts;
use crate::commit::queue::Lines;
use crate::config::{Concurrency, ConfigError, Load, OnStoreError, SessionConfig, SignedInCaching};
use crate::error::session::SessionError;
use crate::event::{Event, Log, Observer};
use crate::lock::{Lock, assert_none_held};
use crate::middleware::service::SessionService;
use crate::record::fingerprint::{Fingerprinting, network};
use crate::record::lifetime::{Millis, duration_millis};
use crate::record::version::{CommitId, Writer};
use crate::store::{AnyStore, Renewal, SessionStore, is_same_store};

/// How many destructions may wait for the store to come back, so that an outage does not pile up tasks. The sessions of
/// the rest end with their idle timeout.
pub(crate) const DESTROYING_MOST: usize = 1024;

/// With less, a store would be asked for nothing.
const SHORTEST_BUDGET: Duration = Duration::from_millis(1);

/// How many sessions are remembered, so that a mismatch is reported and a key is renewed once.
const REMEMBERED_MOST: usize = 4096;

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
/// Clones share the store; a `with_…` on a clone changes that clone only, so that routers side by side can have settings of
/// their own: give each its layer, then `merge` or `nest` them.
///
/// A layer inside another of the same cookie name joins its session, and the outer one's settings hold: store, timeouts,
/// fingerprinting, concurrency, hooks and all the rest. Where the inner one was made with others, that is an
/// [`Event::SettingsIgnored`] and a warning in the log, once for the two: a `Strict` layer inside a `Soft` one protects nothing.
/// A layer of another cookie name is another session.
///
/// # Order of layers
///
/// A response that this layer replaces, 409 or 503, has the headers of the layers outside of it only. Put CORS, security
/// headers, compression and tracing outside: in axum by a call of `.layer()` after that for this layer, in a
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
/// What is inside must not set a cookie of the session cookie's name; it is removed, with
/// [`Event::ForeignSetCookie`].
///
/// The body of the inner service's responses must be `From<Bytes>`, as axum's is: in a `ServiceBuilder`, put layers that
/// change the body before this one.
#[derive(Clone, Debug)]
pub struct SessionLayer {
    pub(crate) core: Arc<Core>,
    pub(crate) settings: Arc<Settings>,
}

/// What all clones of a layer share.
pub(crate) struct Core {
    pub(crate) store: Box<dyn AnyStore>,
    pub(crate) lines: Arc<Lines>,
    /// Those who wait for a lease.
    pub(crate) lessees: Arc<Lines>,
    /// What goes on although no request waits for it.
    pub(crate) background: TaskTracker,
    writer: Writer,
    sequence: AtomicU64,
    /// Sessions that are destroyed in the background.
    destroying: Lock<HashSet<Handle>>,
    /// Logouts of sessions that could not be loaded.
    pub(crate) logouts: Logouts,
    mismatches: Lock<HashSet<(Handle, String)>>,
    /// When sessions were renewed last, and whether that has shortened their time.
    renewed: Lock<HashMap<Handle, (Millis, bool)>>,
    with_several_cookies: Lock<HashSet<Handle>>,
    address_missed: AtomicBool,
    /// Layers, by their settings, and those inside of them whose settings are ignored.
    joined: Lock<HashSet<(usize, usize)>>,
}

/// What a clone may have of its own.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) config: SessionConfig,
    client_ip: Option<ClientIp>,
    on_error: Option<OnError>,
    observer: Option<Arc<dyn Observer>>,
    log: Arc<Log>,
}

type ClientIp = Arc<dyn Fn(&Parts) -> Option<IpAddr> + Send + Sync>;
type OnError = Arc<dyn Fn(&SessionError) -> Response<Bytes> + Send + Sync>;

impl SessionLayer {
    /// A layer with the default settings.
    pub fn new(store: impl SessionStore) -> Self {
        Self::build(store, SessionConfig::default())
    }

    /// A layer with settings of your own.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] if they cannot work, such as a `__Host-` cookie without `Secure`, or not with this store; it
    /// says what to write instead.
    pub fn with_config(
        store: impl SessionStore,
        config: SessionConfig,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        config.check_for(store.capabilities())?;
        Ok(Self::build(store, config))
    }

    fn build(store: impl SessionStore, config: SessionConfig) -> Self {
        #[cfg(feature = "metrics")]
        crate::metrics::describe();
        let core = Core {
            store: Box::new(store),
            lines: Arc::default(),
            lessees: Arc::default(),
            background: TaskTracker::new(),
            writer: Writer::random(),
            sequence: AtomicU64::new(0),
            destroying: Lock::default(),
            logouts: Logouts::default(),
            mismatches: Lock::default(),
            renewed: Lock::default(),
            with_several_cookies: Lock::default(),
            address_missed: AtomicBool::new(false),
            joined: Lock::default(),
        };
        let settings = Settings {
            config,
            client_ip: None,
            on_error: None,
            observer: None,
            log: Arc::default(),
        };
        Self {
            core: Arc::new(core),
            settings: Arc::new(settings),
        }
    }

    /// Sets when the session is loaded; [`Load::Inbound`] by default.
    #[must_use]
    pub fn with_load(mut self, load: Load) -> Self {
        self.settings_mut().config.load = load;
        self
    }

    /// Sets what happens if a session cannot be loaded; [`OnStoreError::Reject`] by default.
    #[must_use]
    pub fn with_on_store_error(mut self, on_store_error: OnStoreError) -> Self {
        self.settings_mut().config.on_store_error = on_store_error;
        self
    }

    /// Sets what happens if other requests have changed a session meanwhile; [`Concurrency::Merge`] by default. For some
    /// routes only, give them a router of their own:
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
    /// With [`Concurrency::Exclusive`] on a store without leases, every request that needs one becomes 503 and says so in
    /// the log; [`with_config`](Self::with_config) finds that out at once. For a `wait` or a `lease` that is out of its limits,
    /// which `with_config` refuses, the nearest that works is taken, and the log says so.
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: Concurrency) -> Self {
        if let Err(error) = concurrency.check() {
            tracing::warn!(target: "sessile", %error, "the nearest value that works is taken");
        }
        self.settings_mut().config.concurrency = concurrency.clamped();
        self
    }

    /// Sets what caches are told of a response whose handler asked for the session of somebody who is signed in;
    /// [`SignedInCaching::NoStore`] by default.
    #[must_use]
    pub fn with_signed_in_caching(mut self, caching: SignedInCaching) -> Self {
        self.settings_mut().config.signed_in_caching = caching;
        self
    }

    /// Sets what happens when a session is used from another network; [`Fingerprinting::Soft`] by default.
    #[must_use]
    pub fn with_fingerprinting(mut self, mode: Fingerprinting) -> Self {
        self.settings_mut().config.fingerprinting = mode;
        self
    }

    /// Sets where the client's address comes from, instead of axum's `ConnectInfo`: behind a proxy, from the header that
    /// this proxy sets, and only if the request came from it. `None` means unknown.
    ///
    /// # Security
    ///
    /// A header that clients can send themselves lets a thief choose the network of the victim. Behind one proxy, the last
    /// entry of `X-Forwarded-For` is what the proxy has added:
    ///
    /// ```
    /// use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    ///
    /// use axum::extract::ConnectInfo;
    /// use sessile::{MemoryStore, SessionLayer};
    ///
    /// const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
    ///
    /// let layer = SessionLayer::new(MemoryStore::new()).with_client_ip(|parts| {
    ///     let ConnectInfo(peer) = parts.extensions.get::<ConnectInfo<SocketAddr>>()?;
    ///     if peer.ip() != PROXY {
    ///         return Some(peer.ip());
    ///     }
    ///     let last = parts.headers.get_all("x-forwarded-for").iter().next_back()?;
    ///     last.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
    /// });
    /// ```
    #[must_use]
    pub fn with_client_ip(
        mut self,
        client_ip: impl Fn(&Parts) -> Option<IpAddr> + Send + Sync + 'static,
    ) -> Self {
        self.settings_mut().client_ip = Some(Arc::new(client_ip));
        self
    }

    /// Builds the response for a session that could not be loaded or committed, and for a [`SessionError`] that a handler
    /// returned; plain text without internals by default. Cookies that the handler set are kept, but for one of the session
    /// cookie's name.
    #[must_use]
    pub fn with_on_error(
        mut self,
        on_error: impl Fn(&SessionError) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.settings_mut().on_error = Some(Arc::new(on_error));
        self
    }

    /// Sends every [`Event`] to the observer, besides the log.
    #[must_use]
    pub fn with_observer(mut self, observer: impl Observer) -> Self {
        self.settings_mut().observer = Some(Arc::new(observer));
        self
    }

    /// Makes the cookie work over plain HTTP on `localhost`, for development: without `Secure`, without the prefix `__Host-` or
    /// `__Secure-` of its name, which browsers take only with it, and without `Domain`, since `localhost` is in none.
    ///
    /// # Security
    ///
    /// Anyone on the way can read the cookie and use the session. Not for a server that others can reach.
    #[must_use]
    pub fn insecure_for_localhost(mut self) -> Self {
        let settings = self.settings_mut();
        settings.config.cookie = settings.config.cookie.without_tls();
        self
    }

    /// Waits until nothing goes on beside requests any more, in this layer and its clones: commits and logouts whose client
    /// has gone away, renewals, leases that are being given up. For the end of a process, once its server has ended:
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
    /// A logout that the store refuses is tried again for about five minutes, so give up at some time.
    ///
    /// # Cancel safety
    ///
    /// Nothing is given up if the future is dropped.
    #[doc(alias("shutdown", "flush", "close"))]
    pub async fn drained(&self) {
        self.core.background.close();
        self.core.background.wait().await;
    }

    /// Tells which settings are not in force inside of another layer of the same cookie, whose session this one joins.
    pub(crate) fn join(&self, outer: &Core, outers: &Arc<Settings>) {
        let is_same_store = || is_same_store(&*self.core.store, &*outer.store);
        let store = !std::ptr::eq(&*self.core, outer) && !is_same_store();
        let mut ignored = vec!["store"];
        ignored.retain(|_| store);
        ignored.extend(self.settings.ignored_inside(outers));
        if ignored.is_empty() || !outer.first_join(outers, &self.settings) {
            return;
        }
        let event = Event::SettingsIgnored {
            cookie: self.settings.config.cookie.name.clone(),
            settings: ignored,
        };
        outers.emit(&event);
        // It is the inner layer that does not do what it was made for.
        if is_other(self.settings.observer.as_ref(), outers.observer.as_ref()) {
            self.settings.tell(&event);
        }
    }

    fn settings_mut(&mut self) -> &mut Settings {
        Arc::make_mut(&mut self.settings)
    }
}

impl<S> Layer<S> for SessionLayer {
    type Service = SessionService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SessionService::new(inner, self.clone())
    }
}

/// Whether a session may be destroyed in the background.
pub(crate) enum Destroying {
    Begun,
    UnderWay,
    TooMany,
}

impl Core {
    /// Notes that it is destroyed in the background, unless so many are already.
    pub(crate) fn begin_destroying(&self, handle: Handle, most: usize) -> Destroying {
        let mut destroying = self.destroying.lock();
        if destroying.contains(&handle) {
            return Destroying::UnderWay;
        }
        if destroying.len() >= most {
            return Destroying::TooMany;
        }
        destroying.insert(handle);
        Destroying::Begun
    }

    pub(crate) fn end_destroying(&self, handle: Handle) {
        let mut destroying = self.destroying.lock();
        destroying.remove(&handle);
    }

    /// How long one request may wait for the store.
    pub(crate) fn request_budget(&self) -> Duration {
        self.store
            .capabilities()
            .request_budget
            .max(SHORTEST_BUDGET)
    }

    /// The id of a commit that begins now.
    pub(crate) fn next_commit(&self) -> CommitId {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        CommitId {
            writer: self.writer,
            sequence,
        }
    }

    /// Whether this mismatch has not been reported yet.
    pub(crate) fn first_mismatch(&self, handle: Handle, network: &str) -> bool {
        let mut seen = self.mismatches.lock();
        if seen.len() >= REMEMBERED_MOST {
            seen.clear();
        }
        seen.insert((handle, network.to_owned()))
    }

    /// Whether it has not been reported yet that the session's browser has other cookies of the name.
    pub(crate) fn first_of_several_cookies(&self, handle: Handle) -> bool {
        let mut seen = self.with_several_cookies.lock();
        if seen.len() >= REMEMBERED_MOST {
            seen.clear();
        }
        seen.insert(handle)
    }

    /// Whether the session was not renewed just now: a page and its fifty images need it once. What cuts the time left is sent
    /// after what has extended it: a shorter timeout may have been committed in between.
    pub(crate) fn may_renew(
        &self,
        handle: Handle,
        renewal: Renewal,
        idle: Duration,
        now: Millis,
    ) -> bool {
        let cuts = matches!(renewal, Renewal::Set(_));
        let pause = duration_millis(Duration::from_secs(1).min(idle / 4));
        let mut renewed = self.renewed.lock();
        if renewed.len() >= REMEMBERED_MOST {
            renewed.clear();
        }
        let last = renewed.get(&handle).copied();
        let is_enough =
            |(at, has_cut): (Millis, bool)| now.saturating_sub(at) < pause && (has_cut || !cuts);
        if last.is_some_and(is_enough) {
            return false;
        }
        renewed.insert(handle, (now, cuts));
        true
    }

    /// Whether it has not been reported yet that the settings of this layer are ignored inside of that one.
    fn first_join(&self, outer: &Arc<Settings>, inner: &Arc<Settings>) -> bool {
        let mut joined = self.joined.lock();
        if joined.len() >= REMEMBERED_MOST {
            joined.clear();
        }
        joined.insert((Arc::as_ptr(outer).addr(), Arc::as_ptr(inner).addr()))
    }

    /// Whether it has not been reported yet that client addresses are missing.
    pub(crate) fn first_missing_address(&self) -> bool {
        !self.address_missed.swap(true, Ordering::Relaxed)
    }
}

impl Settings {
    pub(crate) fn emit(&self, event: &Event) {
        assert_none_held();
        self.log.write(event);
        #[cfg(feature = "metrics")]
        crate::metrics::count(event);
        self.tell(event);
    }

    fn tell(&self, event: &Event) {
        if let Some(observer) = &self.observer {
            // Events are told in the middle of commits that are not the observer's to break.
            let told = catch_unwind(AssertUnwindSafe(|| observer.on_event(event)));
            if told.is_err() {
                tracing::error!(target: "sessile", event = event.name(), "the observer has panicked");
            }
        }
    }

    /// The settings that are not in force inside of a layer with these others.
    fn ignored_inside(&self, outer: &Self) -> Vec<&'static str> {
        let hooks = [
            (
                "client_ip",
                is_other(self.client_ip.as_ref(), outer.client_ip.as_ref()),
            ),
            (
                "on_error",
                is_other(self.on_error.as_ref(), outer.on_error.as_ref()),
            ),
            (
                "observer",
                is_other(self.observer.as_ref(), outer.observer.as_ref()),
            ),
        ];
        let hooks = hooks
            .into_iter()
            .filter_map(|(name, other)| other.then_some(name));
        let mut ignored = self.config.differences(&outer.config);
        ignored.extend(hooks);
        ignored
    }

    /// The network of the request's client, or `None` if nobody needs it or it is not known.
    pub(crate) fn network(&self, parts: &Parts) -> Option<String> {
        let config = &self.config;
        if config.fingerprinting == Fingerprinting::Off {
            return None;
        }
        assert_none_held();
        let address = match &self.client_ip {
            Some(client_ip) => client_ip(parts),
            None => crate::middleware::client_ip::peer(&parts.extensions),
        };
        network(address?, config.ipv4_prefix, config.ipv6_prefix)
    }

    /// The response that an error becomes.
    pub(crate) fn error_response(&self, error: &SessionError) -> Response<Bytes> {
        assert_none_held();
        match &self.on_error {
            Some(on_error) => on_error(error),
            None => error.response(),
        }
    }

    pub(crate) fn has_error_hook(&self) -> bool {
        self.on_error.is_some()
    }
}

/// Whether there is a hook, and it is not the outer layer's.
fn is_other<T: ?Sized>(inner: Option<&Arc<T>>, outer: Option<&Arc<T>>) -> bool {
    inner.is_some_and(|inner| outer.is_none_or(|outer| !Arc::ptr_eq(inner, outer)))
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("namespace", &self.store.namespace())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
