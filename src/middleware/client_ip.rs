//! The address of the client, for the fingerprint.

use std::net::IpAddr;

use http::Extensions;

/// The address of the connection's peer, from axum's `ConnectInfo` or, in tests, `MockConnectInfo`.
#[cfg(feature = "axum")]
pub(crate) fn peer(extensions: &Extensions) -> Option<IpAddr> {
    use std::net::SocketAddr;

    use axum::extract::connect_info::{ConnectInfo, MockConnectInfo};

    let connected = extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(peer)| peer);
    let mocked = || {
        extensions
            .get::<MockConnectInfo<SocketAddr>>()
            .map(|MockConnectInfo(peer)| peer)
    };
    connected.or_else(mocked).map(SocketAddr::ip)
}

/// Without axum, the address comes only from the function that `with_client_ip` sets.
#[cfg(not(feature = "axum"))]
pub(crate) fn peer(_: &Extensions) -> Option<IpAddr> {
    None
}
