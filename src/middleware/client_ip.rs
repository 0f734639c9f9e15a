//! The address of the client, for the fingerprint.

use std::net::IpAddr;

use http::{Extensions, HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::config::SessionConfig;
use crate::config::client_address::{AddressHeader, ClientAddress, Trust};
use crate::event::AddressProblem;
use crate::middleware::forwarded::addresses;
use crate::record::fingerprint::{Fingerprinting, Network};

/// The address of the connection's peer, which a server without axum puts into the extensions of each request.
///
/// A layer that uses the address, as by default for the fingerprint, reads this one first, and then axum's `ConnectInfo`. Without
/// either, it knows no peer, and [`ClientAddress::trusted_proxies`] finds nobody to trust.
///
/// ```
/// use std::net::SocketAddr;
/// use http::Request;
/// use sessile::PeerAddress;
///
/// # let peer = SocketAddr::from(([127, 0, 0, 1], 8080));
/// # let mut request = Request::new(());
/// // `peer` comes from `TcpListener::accept`.
/// request.extensions_mut().insert(PeerAddress(peer.ip()));
/// ```
#[allow(clippy::exhaustive_structs, reason = "complete: an address")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "ConnectInfo")]
pub struct PeerAddress(pub IpAddr);

/// The address of the connection's peer, if the server supplies it.
pub(crate) fn peer(extensions: &Extensions) -> Option<IpAddr> {
    let supplied = extensions.get().map(|PeerAddress(peer)| *peer);
    supplied.or_else(|| axum_peer(extensions))
}

/// From axum's `ConnectInfo` or, in tests, `MockConnectInfo`.
#[cfg(feature = "axum")]
fn axum_peer(extensions: &Extensions) -> Option<IpAddr> {
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

#[cfg(not(feature = "axum"))]
fn axum_peer(_: &Extensions) -> Option<IpAddr> {
    None
}

/// The headers by which proxies name their client, in the order in which to recommend them.
const PROXY_HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("forwarded"),
    HeaderName::from_static("cf-connecting-ip"),
    HeaderName::from_static("x-real-ip"),
];

/// The address of a request's client, and a problem if the settings do not fit the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) address: Option<IpAddr>,
    pub(crate) problem: Option<AddressProblem>,
}

impl Client {
    pub(crate) fn network(&self, config: &SessionConfig) -> Option<Network> {
        Network::of(self.address?, config.ipv4_prefix, config.ipv6_prefix)
    }
}

/// Whether to report a problem. Under `Soft`, an application need not know any address, and has asked for none by default.
pub(crate) fn is_reported(problem: &AddressProblem, config: &SessionConfig) -> bool {
    let is_strict = config.fingerprinting == Fingerprinting::Strict;
    match problem {
        AddressProblem::UnknownPeer => is_strict || config.client_address != ClientAddress::peer(),
        AddressProblem::NotSupplied => is_strict,
        AddressProblem::UntrustedProxy { .. }
        | AddressProblem::MissingHeader { .. }
        | AddressProblem::UnreadableHeader { .. } => true,
    }
}

/// Finds the client's address. `peer` is the other end of the connection, if it is known.
pub(crate) fn find(setting: &ClientAddress, peer: Option<IpAddr>, headers: &HeaderMap) -> Client {
    let peer = peer.map(|peer| peer.to_canonical());
    let by_header = match (setting.trust(), peer) {
        (Trust::Peer, None) => Err(AddressProblem::UnknownPeer),
        (Trust::Peer, Some(peer)) => return is_client(peer, headers, &PROXY_HEADERS),
        (Trust::Proxies(_), None) => Err(AddressProblem::UnknownPeer),
        (Trust::Proxies(proxies), Some(peer)) if !is_in(peer, proxies) => {
            return is_client(peer, headers, std::slice::from_ref(setting.header().name()));
        }
        (Trust::Proxies(proxies), Some(_)) => by_header(setting.header(), headers, |list| {
            last_untrusted(list, proxies)
        }),
        (Trust::Hops(hops), _) => {
            let skipped = usize::from(*hops) - 1;
            by_header(setting.header(), headers, |list| list.nth(skipped)?)
        }
    };
    match by_header {
        Ok(address) => Client {
            address: Some(address),
            problem: None,
        },
        Err(problem) => Client {
            address: None,
            problem: Some(problem),
        },
    }
}

/// The peer is the client, unless it seems to be a proxy: it has a private address, and sends one of the headers of proxies.
fn is_client(peer: IpAddr, headers: &HeaderMap, of_proxies: &[HeaderName]) -> Client {
    let sent = || of_proxies.iter().find(|name| headers.contains_key(*name));
    let header = is_private(peer).then(sent).flatten().cloned();
    Client {
        address: Some(peer),
        problem: header.map(|header| AddressProblem::UntrustedProxy { peer, header }),
    }
}

/// The address that `choose` takes from the entries of the header, the last one first.
fn by_header(
    header: &AddressHeader,
    headers: &HeaderMap,
    choose: impl Fn(&mut dyn Iterator<Item = Option<IpAddr>>) -> Option<IpAddr>,
) -> Result<IpAddr, AddressProblem> {
    let mut entries = addresses(headers, header).peekable();
    if entries.peek().is_none() {
        let header = header.name().clone();
        return Err(AddressProblem::MissingHeader { header });
    }
    let address = match header {
        AddressHeader::XForwardedFor | AddressHeader::Forwarded => choose(&mut entries),
        AddressHeader::Single(_) => only(entries),
    };
    address.ok_or_else(|| AddressProblem::UnreadableHeader {
        header: header.name().clone(),
    })
}

/// The last address that is not a trusted proxy's, or the first one if all are. An entry without an address ends the search: what
/// comes before it may be written by the client.
fn last_untrusted(
    entries: &mut dyn Iterator<Item = Option<IpAddr>>,
    proxies: &[IpNet],
) -> Option<IpAddr> {
    let mut first = None;
    for entry in entries {
        let address = entry?;
        if !is_in(address, proxies) {
            return Some(address);
        }
        first = Some(address);
    }
    first
}

/// The address of a header that must come once. If it comes twice, one of the lines may be the client's.
fn only(mut entries: impl Iterator<Item = Option<IpAddr>>) -> Option<IpAddr> {
    let address = entries.next()?;
    address.filter(|_| entries.next().is_none())
}

fn is_in(address: IpAddr, networks: &[IpNet]) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// Whether the address belongs to this host or to a private network, as those of proxies in front of an application mostly do.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            // 100.64.0.0/10 is for carriers (RFC 6598), and in use inside of clouds.
            let [a, b, ..] = address.octets();
            let is_shared = a == 100 && b & 0xc0 == 64;
            address.is_loopback() || address.is_private() || address.is_link_local() || is_shared
        }
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn proxies(header: &str) -> ClientAddress {
        ClientAddress::trusted_proxies(["10.0.0.0/8", "192.0.2.7", "fd00::/8"])
            .and_then(|it| it.with_header(header))
            .unwrap()
    }

    fn hops(n: u8, header: &str) -> ClientAddress {
        ClientAddress::hops(n)
            .and_then(|it| it.with_header(header))
            .unwrap()
    }

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    const XFF: &str = "X-Forwarded-For";
    const REAL: &str = "X-Real-IP";

    /// The client: an address, or a problem.
    fn found(setting: &ClientAddress, peer: &str, lines: &[(&str, &str)]) -> String {
        let peer = (peer != "none").then(|| peer.parse().unwrap());
        let Client { address, problem } = find(setting, peer, &headers(lines));
        match (address, problem) {
            (Some(address), None) => address.to_string(),
            (Some(address), Some(AddressProblem::UntrustedProxy { peer, header })) => {
                assert_eq!(address, peer);
                format!("{address}, seems to be a proxy with {header}")
            }
            (None, Some(AddressProblem::UnknownPeer)) => "unknown peer".to_owned(),
            (None, Some(AddressProblem::MissingHeader { header })) => format!("no {header}"),
            (None, Some(AddressProblem::UnreadableHeader { header })) => format!("bad {header}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_unknown_address_is_reported_where_it_is_needed() {
        use Fingerprinting::{Soft, Strict};
        let header = HeaderName::from_static("forwarded");
        let unreadable = AddressProblem::UnreadableHeader { header };
        let (peer, set) = (ClientAddress::peer(), proxies(XFF));
        for (problem, mode, setting, reported) in [
            (&AddressProblem::UnknownPeer, Soft, &peer, false),
            (&AddressProblem::UnknownPeer, Soft, &set, true),
            (&AddressProblem::UnknownPeer, Strict, &peer, true),
            (&AddressProblem::NotSupplied, Soft, &peer, false),
            (&AddressProblem::NotSupplied, Soft, &set, false),
            (&AddressProblem::NotSupplied, Strict, &peer, true),
            (&unreadable, Soft, &set, true),
        ] {
            let config = SessionConfig::default()
                .with_fingerprinting(mode)
                .with_client_address(setting.clone());
            assert_eq!(
                is_reported(problem, &config),
                reported,
                "{problem:?} {mode:?} {setting:?}"
            );
        }
    }

    #[test]
    fn a_server_without_axum_supplies_the_peer_too() {
        let mut extensions = Extensions::new();
        assert_eq!(peer(&extensions), None);
        let address = IpAddr::from([192, 0, 2, 1]);
        #[cfg(feature = "axum")]
        {
            use axum::extract::ConnectInfo;
            let of_axum = std::net::SocketAddr::from(([203, 0, 113, 7], 80));
            extensions.insert(ConnectInfo(of_axum));
            assert_eq!(peer(&extensions), Some(of_axum.ip()));
        }
        extensions.insert(PeerAddress(address));
        assert_eq!(peer(&extensions), Some(address));
    }

    #[test]
    fn without_trusted_proxies_the_peer_is_the_client() {
        for (peer, lines, expected) in [
            ("203.0.113.7", &[] as &[_], "203.0.113.7"),
            ("2001:db8::1", &[], "2001:db8::1"),
            ("::ffff:203.0.113.7", &[], "203.0.113.7"),
            ("203.0.113.7", &[(XFF, "198.51.100.1")], "203.0.113.7"),
            ("2001:db8::1", &[("forwarded", "for=::1")], "2001:db8::1"),
            ("none", &[], "unknown peer"),
            ("none", &[(XFF, "198.51.100.1")], "unknown peer"),
            ("127.0.0.1", &[("cookie", "a=b")], "127.0.0.1"),
            (
                "127.0.0.1",
                &[(XFF, "198.51.100.1")],
                "127.0.0.1, seems to be a proxy with x-forwarded-for",
            ),
            (
                "::ffff:10.0.0.2",
                &[(REAL, "198.51.100.1"), ("FORWARDED", "")],
                "10.0.0.2, seems to be a proxy with forwarded",
            ),
            (
                "fd00::2",
                &[("CF-Connecting-IP", "198.51.100.1")],
                "fd00::2, seems to be a proxy with cf-connecting-ip",
            ),
            (
                "100.127.0.1",
                &[(REAL, "")],
                "100.127.0.1, seems to be a proxy with x-real-ip",
            ),
            ("100.128.0.1", &[(REAL, "")], "100.128.0.1"),
        ] {
            let found = found(&ClientAddress::peer(), peer, lines);
            assert_eq!(found, expected, "{peer} {lines:?}");
        }
        for private in ["::1", "fe80::1", "169.254.0.1", "172.16.0.1", "192.168.1.1"] {
            let found = found(&ClientAddress::peer(), private, &[(XFF, "")]);
            assert!(found.contains("seems to be a proxy"), "{private}: {found}");
        }
    }

    #[test]
    fn the_last_address_that_is_not_a_trusted_proxy_is_the_client() {
        let peer = "10.0.0.2";
        for (peer, lines, expected) in [
            // The peer is a proxy.
            (peer, &[(XFF, "203.0.113.7")] as &[_], "203.0.113.7"),
            (peer, &[("x-FORWARDED-for", "203.0.113.7:9")], "203.0.113.7"),
            ("::ffff:10.0.0.2", &[(XFF, "203.0.113.7")], "203.0.113.7"),
            ("192.0.2.7", &[(XFF, "203.0.113.7")], "203.0.113.7"),
            ("fd00::1", &[(XFF, "[2001:db8::1]:80")], "2001:db8::1"),
            (peer, &[(XFF, "198.51.100.1, 203.0.113.7")], "203.0.113.7"),
            (
                peer,
                &[(XFF, "198.51.100.1, 203.0.113.7, 10.9.9.9, fd00::5")],
                "203.0.113.7",
            ),
            (
                peer,
                &[(XFF, "203.0.113.7"), (XFF, "::ffff:10.9.9.9")],
                "203.0.113.7",
            ),
            (
                peer,
                &[(XFF, "198.51.100.1"), (XFF, "203.0.113.7")],
                "203.0.113.7",
            ),
            // All are trusted proxies: the first.
            (peer, &[(XFF, "10.1.1.1")], "10.1.1.1"),
            (peer, &[(XFF, "10.1.1.1, 10.2.2.2")], "10.1.1.1"),
            (peer, &[(XFF, "10.1.1.1"), (XFF, "10.2.2.2")], "10.1.1.1"),
            // An address is needed where there is none.
            (
                peer,
                &[(XFF, "203.0.113.7, unknown")],
                "bad x-forwarded-for",
            ),
            (
                peer,
                &[(XFF, "203.0.113.7, _x, 10.1.1.1")],
                "bad x-forwarded-for",
            ),
            (peer, &[(XFF, "203.0.113.7,")], "bad x-forwarded-for"),
            (
                peer,
                &[(XFF, "203.0.113.7"), (XFF, "")],
                "bad x-forwarded-for",
            ),
            (peer, &[(XFF, "unknown, 10.1.1.1")], "bad x-forwarded-for"),
            (peer, &[(XFF, "")], "bad x-forwarded-for"),
            // It is not needed there.
            (
                peer,
                &[(XFF, "unknown, _x, , \", 203.0.113.7")],
                "203.0.113.7",
            ),
            // Another header, or none.
            (peer, &[], "no x-forwarded-for"),
            (peer, &[(REAL, "203.0.113.7")], "no x-forwarded-for"),
            // The peer is not a proxy, or nobody knows.
            ("203.0.113.9", &[(XFF, "198.51.100.1")], "203.0.113.9"),
            ("192.0.2.8", &[(XFF, "198.51.100.1")], "192.0.2.8"),
            ("none", &[(XFF, "198.51.100.1")], "unknown peer"),
            ("192.168.0.1", &[], "192.168.0.1"),
            ("192.168.0.1", &[(REAL, "198.51.100.1")], "192.168.0.1"),
            (
                "192.168.0.1",
                &[(XFF, "198.51.100.1")],
                "192.168.0.1, seems to be a proxy with x-forwarded-for",
            ),
        ] {
            let found = found(&proxies(XFF), peer, lines);
            assert_eq!(found, expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn forwarded_is_read_as_x_forwarded_for_is() {
        for (line, expected) in [
            ("for=203.0.113.7", "203.0.113.7"),
            (
                "for=198.51.100.1, For=\"[2001:db8::1]:9\";proto=https, for=10.1.1.1",
                "2001:db8::1",
            ),
            ("for=203.0.113.7, for=_hidden", "bad forwarded"),
            (
                "for=203.0.113.7, for=\"_hidden\", for=10.1.1.1",
                "bad forwarded",
            ),
            ("for=203.0.113.7, proto=https", "bad forwarded"),
            ("for=\", for=203.0.113.7", "203.0.113.7"),
            ("203.0.113.7", "bad forwarded"),
        ] {
            let lines = [("Forwarded", line), (XFF, "198.51.100.1")];
            assert_eq!(
                found(&proxies("Forwarded"), "10.0.0.2", &lines),
                expected,
                "{line}"
            );
        }
    }

    #[test]
    fn a_header_of_one_address_must_come_once() {
        let (first, second) = ((REAL, "203.0.113.7"), (REAL, "198.51.100.1"));
        for setting in [proxies(REAL), hops(1, REAL)] {
            for (lines, expected) in [
                (&[first] as &[_], "203.0.113.7"),
                (&[("x-real-ip", " [2001:db8::1]:1 ")], "2001:db8::1"),
                // Even a trusted proxy's address is that of the client here.
                (&[(REAL, "10.1.1.1")], "10.1.1.1"),
                (&[first, second], "bad x-real-ip"),
                (&[first, first], "bad x-real-ip"),
                (&[(REAL, "203.0.113.7, 198.51.100.1")], "bad x-real-ip"),
                (&[(REAL, "unknown")], "bad x-real-ip"),
                (&[(REAL, "")], "bad x-real-ip"),
                (&[(XFF, "203.0.113.7")], "no x-real-ip"),
            ] {
                assert_eq!(found(&setting, "10.0.0.2", lines), expected, "{lines:?}");
            }
            let bytes = HeaderMap::from_iter([(
                HeaderName::from_static("x-real-ip"),
                HeaderValue::from_bytes(b"\xff").unwrap(),
            )]);
            let peer = Some("10.0.0.2".parse().unwrap());
            assert_eq!(find(&setting, peer, &bytes).address, None);
        }
    }

    #[test]
    fn hops_count_the_entries_from_the_end() {
        let three = [(XFF, "198.51.100.1, 203.0.113.7, 10.1.1.1")];
        for (n, lines, expected) in [
            (1, &three as &[_], "10.1.1.1"),
            (2, &three, "203.0.113.7"),
            (3, &three, "198.51.100.1"),
            (4, &three, "bad x-forwarded-for"),
            (255, &three, "bad x-forwarded-for"),
            (2, &[(XFF, "203.0.113.7"), (XFF, "10.1.1.1")], "203.0.113.7"),
            // An empty entry counts, and an address is needed at one place only.
            (2, &[(XFF, "203.0.113.7, ")], "203.0.113.7"),
            (1, &[(XFF, "203.0.113.7, ")], "bad x-forwarded-for"),
            (2, &[(XFF, "203.0.113.7, unknown")], "203.0.113.7"),
            (
                2,
                &[(XFF, "198.51.100.1, unknown, 10.1.1.1")],
                "bad x-forwarded-for",
            ),
            (1, &[], "no x-forwarded-for"),
        ] {
            for peer in ["10.0.0.2", "203.0.113.9", "none"] {
                let found = found(&hops(n, XFF), peer, lines);
                assert_eq!(found, expected, "{n} {peer} {lines:?}");
            }
        }
        let lines = [("Forwarded", "for=\", for=203.0.113.7, for=10.1.1.1")];
        assert_eq!(found(&hops(2, "Forwarded"), "none", &lines), "203.0.113.7");
    }

    #[test]
    fn a_client_that_writes_thousands_of_entries_gets_nothing_by_it() {
        for written in [
            "198.51.100.1, ",
            "10.9.9.9, ",
            ", ",
            "unknown, ",
            "\"",
            "[",
            "\\\", ",
        ] {
            for (setting, entry) in [
                (proxies(XFF), "203.0.113.7, 10.1.1.1"),
                (hops(2, XFF), "203.0.113.7, 10.1.1.1"),
                (proxies("Forwarded"), "for=203.0.113.7, for=10.1.1.1"),
                (hops(2, "Forwarded"), "for=203.0.113.7, for=10.1.1.1"),
            ] {
                let name = setting.header().name().clone();
                let client = written.repeat(5_000);
                let lines = [(name.as_str(), client.as_str()), (name.as_str(), entry)];
                assert_eq!(found(&setting, "10.0.0.2", &lines), "203.0.113.7");
                let appended = format!("{client}, {entry}");
                let lines = [(name.as_str(), appended.as_str())];
                assert_eq!(found(&setting, "10.0.0.2", &lines), "203.0.113.7");
            }
        }
        let proxies_only = "10.9.9.9, ".repeat(5_000) + "10.1.1.1";
        let lines = [(XFF, proxies_only.as_str())];
        assert_eq!(found(&proxies(XFF), "10.0.0.2", &lines), "10.9.9.9");
    }
}
