//! The application's hooks, which the middleware calls: one for the client's address, one for the cookie's domain, one for the
//! response to an error.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};

use crate::config::SessionConfig;
use crate::config::cookie::CookieConfig;
use crate::error::session::SessionError;
use crate::event::AddressProblem;
use crate::lock::assert_none_held;
use crate::middleware::client_ip::{Client, find, peer};
use crate::middleware::scope::CookieDomain;
use crate::record::fingerprint::Fingerprinting;

/// The hooks of a layer.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    pub(crate) client_ip: Option<Arc<ClientIp>>,
    pub(crate) on_error: Option<Arc<OnError>>,
    pub(crate) cookie_domain: Option<Arc<ChooseDomain>>,
}

type ClientIp = dyn Fn(&Parts) -> Option<IpAddr> + Send + Sync;
type ChooseDomain = dyn Fn(&Parts) -> Option<String> + Send + Sync;
type OnError = dyn Fn(&SessionError, &Parts) -> Response<Bytes> + Send + Sync;

impl Hooks {
    /// The address of the request's client. Without an address and without a problem if fingerprinting is off.
    pub(crate) fn client(&self, config: &SessionConfig, parts: &Parts) -> Client {
        if config.fingerprinting == Fingerprinting::Off {
            return Client::default();
        }
        let Some(client_ip) = &self.client_ip else {
            return find(
                &config.client_address,
                peer(&parts.extensions),
                &parts.headers,
            );
        };
        assert_none_held();
        let address = client_ip(parts);
        Client {
            address,
            problem: address.is_none().then_some(AddressProblem::NotSupplied),
        }
    }

    /// The domain of the cookie for this request. If the application asks for one that is not on the list, also returns that one.
    pub(crate) fn cookie_domain(
        &self,
        config: &CookieConfig,
        parts: &Parts,
    ) -> (CookieDomain, Option<String>) {
        let Some(hook) = &self.cookie_domain else {
            return (CookieDomain::Configured, None);
        };
        // `insecure_for_localhost` has removed all domains.
        if config.domains.is_empty() {
            return (CookieDomain::Configured, None);
        }
        assert_none_held();
        let asked = hook(parts);
        let domain = CookieDomain::choose(&config.domains, asked.as_deref());
        (domain, asked.filter(|_| domain == CookieDomain::Rejected))
    }

    /// The error hook for this request, with a copy of the request's head. Without a hook, copies nothing.
    pub(crate) fn error_hook(&self, parts: &Parts) -> Option<Box<ErrorHook>> {
        let on_error = Arc::clone(self.on_error.as_ref()?);
        let request = head_of(parts);
        Some(Box::new(ErrorHook { on_error, request }))
    }
}

/// The error hook of a layer, and a copy of the request's head for it: the inner service takes the request itself.
pub(crate) struct ErrorHook {
    on_error: Arc<OnError>,
    request: Parts,
}

impl ErrorHook {
    pub(crate) fn response(&self, error: &SessionError) -> Response<Bytes> {
        assert_none_held();
        (self.on_error)(error, &self.request)
    }
}

/// Copies a request's head without its extensions: a copy of these could keep alive what the request owns, and be expensive.
fn head_of(parts: &Parts) -> Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = parts.method.clone();
    head.uri = parts.uri.clone();
    head.version = parts.version;
    head.headers = parts.headers.clone();
    head
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

impl fmt::Debug for ErrorHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErrorHook").finish_non_exhaustive()
    }
}
