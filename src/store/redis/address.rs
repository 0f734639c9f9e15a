//! The addresses of servers.

use redis::{ConnectionAddr, ConnectionInfo};

pub(crate) fn addresses(nodes: &[ConnectionInfo]) -> String {
    let addresses: Vec<_> = nodes.iter().map(|node| node.addr().to_string()).collect();
    addresses.join(",")
}

/// The settings to connect to another server, at this address, with the same login and TLS settings.
pub(crate) fn at_address(info: ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let host = host.to_owned();
    let address = match info.addr().clone() {
        ConnectionAddr::TcpTls {
            insecure,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure,
            tls_params,
        },
        _ => ConnectionAddr::Tcp(host, port),
    };
    info.set_addr(address)
}
