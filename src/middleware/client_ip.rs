//! The address of the client, for the fingerprint.

use std::net::IpAddr;

use http::Extensions;

/// The address of the connection's other end, as axum's `ConnectInfo` or, in tests, `MockConnectInfo` tells it.
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

/// Without axum only the layer's own function tells the address.
#[cfg(not(feature = "axum"))]
pub(crate) fn peer(_: &Extensions) -> Option<IpAddr> {
    None
}
