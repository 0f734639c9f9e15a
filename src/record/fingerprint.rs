//! The network that a session belongs to, and the policy for its use from another one.

use std::net::IpAddr;

use bytestring::ByteString;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What happens when a session is used from a network other than the one it was created on.
///
/// sessile compares the network prefix of the client's address, by default /24 for IPv4 and /64 for IPv6, so that a new address
/// from the same provider usually does not count. The session stores the prefix and events contain it, which is personal data
/// in some countries. The comparison detects a stolen cookie only if the thief uses another network, and phones change networks
/// all day.
///
/// The address is the peer's, from axum's `ConnectInfo`: serve the router with
/// `into_make_service_with_connect_info::<SocketAddr>()`, or set where the address comes from with
/// [`SessionLayer::with_client_ip`](crate::SessionLayer::with_client_ip).
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fingerprinting {
    /// The network is neither stored nor compared.
    Off,
    /// The session works, [`Session::fingerprint`](crate::Session::fingerprint) reports the mismatch, and an event is sent once
    /// per new network. The default, since a false alarm has no consequences for the visitor.
    #[default]
    Soft,
    /// The session is hidden from other networks and from unknown addresses: the visitor is anonymous, their changes and
    /// sign-ins are rejected with 409, and the session and its cookie stay as they are. Only
    /// [`Session::destroy`](crate::Session::destroy) acts on the hidden session: to let the visitor sign in from the new
    /// network, call it first if [`Session::fingerprint`](crate::Session::fingerprint) is not a match. For admin applications.
    Strict,
}

/// How the client's network compares with the one that the session belongs to.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fingerprint {
    /// Fingerprinting is off.
    Off,
    /// The client's address is unknown.
    Unknown,
    /// The session has no network yet; its next write binds it to this one.
    Unbound,
    /// The client uses the session's network.
    Match,
    /// The client uses another network.
    #[non_exhaustive]
    Mismatch {
        /// The session's network, such as `203.0.113.0/24`.
        bound: String,
        /// The network of this request.
        seen: String,
    },
}

/// A network that clients come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Network(IpNet);

impl Network {
    /// The network of an address. An IPv4-mapped IPv6 address counts as IPv4: otherwise the /64 of `::ffff:203.0.113.7` would be
    /// one network for all of IPv4.
    pub(crate) fn of(address: IpAddr, ipv4_prefix: u8, ipv6_prefix: u8) -> Option<Self> {
        let address = address.to_canonical();
        let prefix = if address.is_ipv4() {
            ipv4_prefix
        } else {
            ipv6_prefix
        };
        let network = IpNet::new(address, prefix).ok()?;
        Some(Self(network.trunc()))
    }

    /// As records and events show it, such as `203.0.113.0/24`.
    pub(crate) fn to_text(self) -> ByteString {
        self.0.to_string().into()
    }

    fn is(self, text: &str) -> bool {
        text.parse() == Ok(self.0)
    }
}

pub(crate) fn compare(
    mode: Fingerprinting,
    bound: Option<&str>,
    seen: Option<Network>,
) -> Fingerprint {
    match (mode, bound, seen) {
        (Fingerprinting::Off, ..) => Fingerprint::Off,
        (_, _, None) => Fingerprint::Unknown,
        (_, None, Some(_)) => Fingerprint::Unbound,
        (_, Some(bound), Some(seen)) if seen.is(bound) => Fingerprint::Match,
        (_, Some(bound), Some(seen)) => Fingerprint::Mismatch {
            bound: bound.to_owned(),
            seen: seen.to_text().into(),
        },
    }
}

/// Whether the request may use the session. Under `Strict`, an unknown address may not.
pub(crate) fn admits(mode: Fingerprinting, fingerprint: &Fingerprint) -> bool {
    mode != Fingerprinting::Strict
        || matches!(fingerprint, Fingerprint::Match | Fingerprint::Unbound)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn of(address: &str) -> Network {
        Network::of(address.parse().unwrap(), 24, 64).unwrap()
    }

    #[test]
    fn addresses_are_compared_by_network() {
        assert_eq!(of("203.0.113.1").to_text(), "203.0.113.0/24");
        assert_eq!(of("203.0.113.1"), of("203.0.113.254"));
        assert_ne!(of("203.0.113.1"), of("203.0.114.1"));
        assert_eq!(of("::ffff:203.0.113.9"), of("203.0.113.1"));
        assert_ne!(of("::ffff:203.0.113.9"), of("::ffff:198.51.100.9"));
        assert_eq!(of("2001:db8:0:1::5").to_text(), "2001:db8:0:1::/64");
        assert_eq!(of("2001:db8:0:1::5"), of("2001:db8:0:1:ffff::9"));
        assert_ne!(of("2001:db8:0:1::5"), of("2001:db8:0:2::5"));
        assert_eq!(Network::of("203.0.113.1".parse().unwrap(), 33, 64), None);
    }

    #[test]
    fn only_strict_hides_a_session_and_only_off_compares_nothing() {
        use Fingerprinting::{Off, Soft, Strict};
        let (a, b) = (Some("203.0.113.7"), Some("198.51.100.7"));
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
            let text = bound.map(|bound| of(bound).to_text());
            let fingerprint = compare(mode, text.as_deref(), seen.map(of));
            assert_eq!(
                admits(mode, &fingerprint),
                admitted,
                "{mode:?} {bound:?} {seen:?}"
            );
            let is_mismatch = matches!(fingerprint, Fingerprint::Mismatch { .. });
            assert_eq!(
                is_mismatch,
                mode != Off && bound.is_some() && seen.is_some() && bound != seen
            );
        }
    }
}
