//! The network a session belongs to, and what happens when it is used from another.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What to do when a session is used from another network than the one it was created on.
///
/// What is compared is the network prefix of the client's address, by default /24 for IPv4 and /64 for IPv6, so that a new
/// lease from the same provider is no change. It is kept in the session and named in events: personal data in some countries. It tells of a stolen cookie; it does not prevent one from the same network, and
/// phones change networks all day. The address is the peer's, from axum's `ConnectInfo`: serve the router with
/// `into_make_service_with_connect_info::<SocketAddr>()`, or say where the address comes from with
/// [`SessionLayer::with_client_ip`](crate::SessionLayer::with_client_ip).
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fingerprinting {
    /// Neither kept nor compared.
    Off,
    /// The session works, [`Session::fingerprint`](crate::Session::fingerprint) tells, and an event is sent once per new
    /// network. The default, since a false alarm costs nothing.
    #[default]
    Soft,
    /// The session cannot be seen from another network, nor from one that is unknown: the visitor is anonymous, what
    /// they write is refused with 409, a sign-in too, and neither session nor cookie is harmed. Only
    /// [`Session::destroy`](crate::Session::destroy) acts on the hidden session: to let the visitor sign in from here, call it
    /// first where [`Session::fingerprint`](crate::Session::fingerprint) is not a match. For admin applications.
    Strict,
}

/// How the client's network compares with the one that the session belongs to.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fingerprint {
    /// Fingerprinting is off.
    Off,
    /// The client's address is not known.
    Unknown,
    /// The session belongs to no network yet; it takes this one at its next write.
    Unbound,
    /// The same network.
    Match,
    /// Another network.
    Mismatch {
        /// The network that the session belongs to, such as `203.0.113.0/24`.
        bound: String,
        /// The network of this request.
        seen: String,
    },
}

/// The network of an address, with IPv4 in IPv6 taken for what it is: the /64 of `::ffff:203.0.113.7` would be one
/// network for all of IPv4.
pub(crate) fn network(address: IpAddr, ipv4_prefix: u8, ipv6_prefix: u8) -> Option<String> {
    let address = address.to_canonical();
    let prefix = if address.is_ipv4() {
        ipv4_prefix
    } else {
        ipv6_prefix
    };
    let network = IpNet::new(address, prefix).ok()?;
    Some(network.trunc().to_string())
}

pub(crate) fn compare(
    mode: Fingerprinting,
    bound: Option<&str>,
    seen: Option<&str>,
) -> Fingerprint {
    match (mode, bound, seen) {
        (Fingerprinting::Off, ..) => Fingerprint::Off,
        (_, _, None) => Fingerprint::Unknown,
        (_, None, Some(_)) => Fingerprint::Unbound,
        (_, Some(bound), Some(seen)) if bound == seen => Fingerprint::Match,
        (_, Some(bound), Some(seen)) => Fingerprint::Mismatch {
            bound: bound.to_owned(),
            seen: seen.to_owned(),
        },
    }
}

/// Whether the session may be seen at all. An unknown address fails closed under `Strict`.
pub(crate) fn admits(mode: Fingerprinting, fingerprint: &Fingerprint) -> bool {
    mode != Fingerprinting::Strict
        || matches!(fingerprint, Fingerprint::Match | Fingerprint::Unbound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> String {
        network(address.parse().unwrap(), 24, 64).unwrap()
    }

    #[test]
    fn addresses_are_told_apart_by_network() {
        assert_eq!(of("203.0.113.1"), "203.0.113.0/24");
        assert_eq!(of("203.0.113.1"), of("203.0.113.254"));
        assert_ne!(of("203.0.113.1"), of("203.0.114.1"));
        assert_eq!(of("::ffff:203.0.113.9"), of("203.0.113.1"));
        assert_ne!(of("::ffff:203.0.113.9"), of("::ffff:198.51.100.9"));
        assert_eq!(of("2001:db8:0:1::5"), "2001:db8:0:1::/64");
        assert_eq!(of("2001:db8:0:1::5"), of("2001:db8:0:1:ffff::9"));
        assert_ne!(of("2001:db8:0:1::5"), of("2001:db8:0:2::5"));
        assert_eq!(network("203.0.113.1".parse().unwrap(), 33, 64), None);
    }

    #[test]
    fn only_strict_hides_a_session_and_only_off_looks_at_nothing() {
        use Fingerprinting::{Off, Soft, Strict};
        let (a, b) = (Some("203.0.113.0/24"), Some("198.51.100.0/24"));
        for (mode, bound, seen, admitted) in [
            (Off, a, b, true),
            (Off, a, None, true),
            (Soft, a, b, true),
            (Soft, a, None, true),
            (Strict, a, a, true),
            (Strict, None, a, true),
            (Strict, a, b, false),
            (Strict, a, None, false),
            (Strict, None, None, false),
        ] {
            let fingerprint = compare(mode, bound, seen);
            assert_eq!(
                admits(mode, &fingerprint),
                admitted,
                "{mode:?} {bound:?} {seen:?}"
            );
            let told = matches!(fingerprint, Fingerprint::Mismatch { .. });
            assert_eq!(
                told,
                mode != Off && bound.is_some() && seen.is_some() && bound != seen
            );
        }
    }
}
