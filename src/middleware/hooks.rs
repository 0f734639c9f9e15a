//! Code of the application that the middleware calls: the client's address, and the response to an error.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;

use crate::config::SessionConfig;
use crate::error::session::SessionError;
use crate::lock::assert_none_held;
use crate::middleware::client_ip::peer;
use crate::record::fingerprint::{Fingerprinting, network};

/// The hooks of a layer.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    pub(crate) client_ip: Option<Arc<ClientIp>>,
    pub(crate) on_error: Option<Arc<OnError>>,
}

type ClientIp = dyn Fn(&Parts) -> Option<IpAddr> + Send + Sync;
type OnError = dyn Fn(&SessionError) -> Response<Bytes> + Send + Sync;

impl Hooks {
    /// The network of the request's client, or `None` if nobody needs it or it is not known.
    pub(crate) fn network(&self, config: &SessionConfig, parts: &Parts) -> Option<String> {
        if config.fingerprinting == Fingerprinting::Off {
            return None;
        }
        assert_none_held();
        let address = match &self.client_ip {
            Some(client_ip) => client_ip(parts),
            None => peer(&parts.extensions),
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

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}
