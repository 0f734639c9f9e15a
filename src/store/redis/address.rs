//! Where servers listen.

use redis::{ConnectionAddr, ConnectionInfo};

pub(crate) fn addresses(nodes: &[ConnectionInfo]) -> String {
    let addresses: Vec<_> = nodes.iter().map(|node| node.addr().to_string()).collect();
    addresses.join(",")
}

/// How to connect to a server that another one has named, as to that one.
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
