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
/// `into_make_service_with_connect_info::<SocketAddr>()`. Behind a proxy, set
/// [`SessionConfig::client_address`](crate::SessionConfig::client_address), or all clients have the proxy's network.
///
/// # IPv4 and IPv6
///
/// A browser that has both uses now the one, now the other. So a session belongs to one network of each family: the one in which
/// it was created or signed in, and the first of the other family from which a request changes it. Any other network is a
/// mismatch. A login ([`set_principal`](crate::Session::set_principal)) binds the session to the network of its own request, and
/// drops the other.
///
/// # Security
///
/// Until a request of the browser has changed the session over the second family, a thief who uses that family is not noticed as a
/// mismatch, not even under `Strict`, and may be the first: then it is the browser that mismatches there. It is
/// [`Fingerprint::OtherFamily`] and [`Event::OtherFamily`](crate::Event::OtherFamily). An application that cannot accept that should
/// demand the password again in this case, or be served over one family only.
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
    /// The session has no network at all yet; its next write binds it to this one.
    Unbound,
    /// The client uses the session's network, or one of its two: it has one of each address family.
    Match,
    /// The session has a network, but none of the client's address family, such as IPv6; the session's next write binds it to this
    /// one as well. Even under [`Fingerprinting::Strict`] the session can be used, since browsers switch families on their own.
    #[non_exhaustive]
    OtherFamily {
        /// The session's network, such as `203.0.113.0/24`.
        bound: String,
        /// The network of this request, such as `2001:db8::/64`.
        seen: String,
    },
    /// The client uses another network.
    #[non_exhaustive]
    Mismatch {
        /// The session's network, such as `203.0.113.0/24`, or its two networks, separated by a space.
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

    fn is_ipv4(self) -> bool {
        self.0.addr().is_ipv4()
    }
}

/// The place of a network among those that a session is bound to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Bound,
    /// No network of its family is bound.
    Free,
    Taken,
}

/// Looks for a network in the text of a record: one network, or one of each family with a space between them. Whatever else is
/// there, perhaps by a later version of sessile, leaves no place free and binds nothing.
fn place(bound: &str, network: Network) -> Place {
    let mut place = Place::Free;
    for part in bound.split(' ') {
        match part.parse() {
            Ok(part) if part == network.0 => return Place::Bound,
            Ok(part) if Network(part).is_ipv4() != network.is_ipv4() => {}
            _ => place = Place::Taken,
        }
    }
    place
}

/// The networks of a session after a request from `seen` has changed it: the first network of each family stays. `None` if they
/// stay as they are.
pub(crate) fn adopt(bound: Option<&str>, seen: Network) -> Option<ByteString> {
    match bound {
        None => Some(seen.to_text()),
        Some(bound) if place(bound, seen) == Place::Free => {
            Some(format!("{bound} {}", seen.to_text()).into())
        }
        Some(_) => None,
    }
}

pub(crate) fn compare(
    mode: Fingerprinting,
    bound: Option<&str>,
    seen: Option<Network>,
) -> Fingerprint {
    let (bound, seen) = match (mode, bound, seen) {
        (Fingerprinting::Off, ..) => return Fingerprint::Off,
        (_, _, None) => return Fingerprint::Unknown,
        (_, None, Some(_)) => return Fingerprint::Unbound,
        (_, Some(bound), Some(seen)) => (bound, seen),
    };
    let texts = || (bound.to_owned(), seen.to_text().into());
    match place(bound, seen) {
        Place::Bound => Fingerprint::Match,
        Place::Free => {
            let (bound, seen) = texts();
            Fingerprint::OtherFamily { bound, seen }
        }
        Place::Taken => {
            let (bound, seen) = texts();
            Fingerprint::Mismatch { bound, seen }
        }
    }
}

/// Whether the request may use the session. Under `Strict`, an unknown address may not; a network of a family of which none is
/// bound may, or a browser that switches families would lose its session.
pub(crate) fn admits(mode: Fingerprinting, fingerprint: &Fingerprint) -> bool {
    mode != Fingerprinting::Strict
        || matches!(
            fingerprint,
            Fingerprint::Match | Fingerprint::Unbound | Fingerprint::OtherFamily { .. }
        )
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

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

    /// What the text of a record says about an address: the kind of fingerprint, whether `Strict` admits it, and the text after
    /// a write.
    #[test]
    fn a_session_belongs_to_one_network_of_each_family() {
        const V4: &str = "203.0.113.0/24";
        const V6: &str = "2001:db8::/64";
        const BOTH: &str = "203.0.113.0/24 2001:db8::/64";
        const TURNED: &str = "2001:db8::/64 203.0.113.0/24";
        let (home4, away4) = ("203.0.113.7", "198.51.100.7");
        let (home6, away6) = ("2001:db8::7", "2001:db8:0:1::7");
        for (bound, seen, kind, admitted, after) in [
            (None, home4, "Unbound", true, V4),
            (None, home6, "Unbound", true, V6),
            (None, "::ffff:203.0.113.9", "Unbound", true, V4),
            (Some(V4), home4, "Match", true, V4),
            (Some(V4), "::ffff:203.0.113.9", "Match", true, V4),
            (Some(V4), away4, "Mismatch", false, V4),
            (Some(V4), home6, "OtherFamily", true, BOTH),
            (Some(V6), home6, "Match", true, V6),
            (Some(V6), away6, "Mismatch", false, V6),
            (Some(V6), home4, "OtherFamily", true, TURNED),
            (Some(BOTH), home4, "Match", true, BOTH),
            (Some(BOTH), home6, "Match", true, BOTH),
            (Some(BOTH), away4, "Mismatch", false, BOTH),
            (Some(BOTH), away6, "Mismatch", false, BOTH),
            (Some(TURNED), home4, "Match", true, TURNED),
            (Some(TURNED), away6, "Mismatch", false, TURNED),
            // Nothing that this version of sessile writes.
            (Some(""), home4, "Mismatch", false, ""),
            (Some("odd"), home4, "Mismatch", false, "odd"),
            (
                Some("203.0.113.0/24 odd"),
                home6,
                "Mismatch",
                false,
                "203.0.113.0/24 odd",
            ),
            (
                Some("203.0.113.0/24 "),
                home6,
                "Mismatch",
                false,
                "203.0.113.0/24 ",
            ),
        ] {
            let case = format!("{bound:?} {seen}");
            let fingerprint = compare(Fingerprinting::Strict, bound, Some(of(seen)));
            assert!(format!("{fingerprint:?}").starts_with(kind), "{case}");
            assert_eq!(
                admits(Fingerprinting::Strict, &fingerprint),
                admitted,
                "{case}"
            );
            if let Fingerprint::Mismatch {
                bound: text,
                seen: network,
            }
            | Fingerprint::OtherFamily {
                bound: text,
                seen: network,
            } = fingerprint
            {
                assert_eq!(
                    (Some(text.as_str()), network),
                    (bound, of(seen).to_text().into())
                );
            }
            let adopted = adopt(bound, of(seen));
            let kept = adopted.is_none().then_some(bound).flatten();
            assert_eq!(adopted.as_deref().or(kept), Some(after), "{case}");
        }
    }

    proptest! {
        /// Whatever comes from wherever, the first network of each family stays until a login.
        #[test]
        fn the_first_network_of_each_family_stays_until_a_login(
            visits in proptest::collection::vec(
                (
                    proptest::sample::select(&["203.0.113.7", "::ffff:203.0.113.8", "198.51.100.7", "2001:db8::7", "2001:db8:0:1::7"][..]),
                    0..8_u8,
                ),
                0..12,
            ),
        ) {
            let mut text: Option<ByteString> = None;
            let mut first: Vec<Network> = Vec::new();
            for (address, action) in visits {
                let seen = of(address);
                let of_family = first.iter().find(|it| it.is_ipv4() == seen.is_ipv4());
                let expected = match of_family {
                    Some(bound) if *bound == seen => "Match",
                    Some(_) => "Mismatch",
                    None if first.is_empty() => "Unbound",
                    None => "OtherFamily",
                };
                let found = compare(Fingerprinting::Soft, text.as_deref(), Some(seen));
                prop_assert!(format!("{found:?}").starts_with(expected), "{found:?} {text:?}");
                match action {
                    0 => {
                        first = vec![seen];
                        text = Some(seen.to_text());
                    }
                    1..=4 => {
                        if of_family.is_none() {
                            first.push(seen);
                        }
                        text = adopt(text.as_deref(), seen).or(text);
                    }
                    _ => {}
                }
            }
        }
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
