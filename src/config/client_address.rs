//! Where the client's address comes from: the connection, or a header that proxies in front of the application set.

use std::net::IpAddr;

use http::header::{self, HeaderName};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::config::ConfigError;

const PROXIES: &str = "client_address.trusted_proxies";
const HOPS: &str = "client_address.hops";
const HEADER: &str = "client_address.header";

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static FORWARDED: HeaderName = header::FORWARDED;

/// Where the client's address comes from, which [`Fingerprinting`](crate::Fingerprinting) compares: from the connection by
/// default, or from a header that the proxies in front of the application set.
///
/// ```
/// use sessile::{ClientAddress, MemoryStore, SessionLayer};
///
/// // nginx on this host or in 10.0.0.0/8, which adds its client to `X-Forwarded-For`.
/// let nginx = ClientAddress::trusted_proxies(["127.0.0.1", "::1", "10.0.0.0/8"])?;
/// // A proxy that writes the client's address, and nothing else, into a header of its own.
/// let single = ClientAddress::trusted_proxies(["10.0.0.2"])?.with_header("X-Real-IP")?;
/// // Two proxies, whose addresses change.
/// let hops = ClientAddress::hops(2)?;
/// let layer = SessionLayer::new(MemoryStore::new()).with_client_address(nginx);
/// # Ok::<(), sessile::ConfigError>(())
/// ```
///
/// In a configuration file: `{ trusted_proxies = ["10.0.0.0/8", "::1"] }` or `{ hops = 2 }`, each with an optional `header`. A value
/// in a file that the constructors reject is rejected there, too.
///
/// # Which address is the client's
///
/// The *peer* is the other end of the connection: axum's `ConnectInfo<SocketAddr>`, or in tests `MockConnectInfo`. To provide it,
/// serve the router with `into_make_service_with_connect_info::<SocketAddr>()`. A server without axum puts a
/// [`PeerAddress`](crate::PeerAddress) into the extensions of each request.
///
/// | | the client is |
/// |---|---|
/// | [`peer`](Self::peer) | the peer; sessile reads no header |
/// | [`trusted_proxies`](Self::trusted_proxies), and the peer is not one of them | the peer; sessile reads no header |
/// | `trusted_proxies`, and the peer is one of them | the last address in the header that is not a trusted proxy; if all are, the first one |
/// | [`hops`](Self::hops) of `n` | the `n`-th address of the header, counted from its end; the peer does not matter |
/// | either, and a header that holds a single address | that address |
///
/// The header is read from its end, since each proxy appends the address that it sees, and whatever comes before may have been
/// written by the client. All lines of the header count as one list. If the header is missing, or something else than an address
/// is where one is needed (`unknown`, an obfuscated `_name`, an empty or malformed entry), then the client's address is unknown:
/// sessile never looks further to the left, where a client could have written the address that it wants to have. A header that
/// holds a single address must come once, with one address.
///
/// Addresses may have a port and a zone, which are ignored, and IPv6 addresses may be in brackets. An IPv4-mapped IPv6 address
/// counts as IPv4.
///
/// # Events
///
/// If this setting and the requests do not fit together, sessile says so once, with the setting to write:
/// [`Event::AddressProblem`](crate::Event::AddressProblem).
///
/// # Security
///
/// The application must not be reachable around the proxies if `hops` is set, and each proxy must set the header itself, rather than
/// pass on what its client sent. Otherwise a thief of a cookie can choose the network of the victim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
#[doc(alias("trust_proxy", "trusted_proxy", "X-Forwarded-For", "real_ip"))]
pub struct ClientAddress {
    trust: Trust,
    header: AddressHeader,
}

/// Whose word about the client's address counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Nobody's: the peer is the client.
    #[default]
    Peer,
    /// That of proxies in these networks. Not empty.
    Proxies(Vec<IpNet>),
    /// That of this many proxies, whatever their addresses. At least 1, and exactly 1 with [`AddressHeader::Single`].
    Hops(u8),
}

/// The header that names the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum AddressHeader {
    /// A list of addresses.
    #[default]
    XForwardedFor,
    /// A list of elements such as `for=192.0.2.1;proto=https` (RFC 7239).
    Forwarded,
    /// One address.
    Single(HeaderName),
}

impl ClientAddress {
    /// The client is the peer of the connection. The default, since without a proxy, clients can write anything into a header.
    pub fn peer() -> Self {
        Self::default()
    }

    /// Believes the header of proxies in these networks, such as `10.0.0.0/8`; a bare address stands for itself alone. The header
    /// is `X-Forwarded-For` unless [`with_header`](Self::with_header) names another one.
    ///
    /// Name the proxy that connects to the application, and those before it.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] if the list is empty, or one of its items
    /// - is neither an address nor a network,
    /// - is a network whose address has bits beyond its prefix, such as `10.1.2.3/8`: it may be a mistake for `10.1.2.3`,
    /// - contains all addresses, such as `0.0.0.0/0`, so that the client itself would be a trusted proxy.
    pub fn trusted_proxies<N: AsRef<str>>(
        networks: impl IntoIterator<Item = N>,
    ) -> Result<Self, ConfigError> {
        let networks: Result<Vec<_>, _> = networks
            .into_iter()
            .map(|network| parse_network(network.as_ref()))
            .collect();
        let networks = networks?;
        if networks.is_empty() {
            let advice = "write the addresses or networks of your proxies, such as \"10.0.0.0/8\", or leave it out";
            return Err(ConfigError::invalid(PROXIES, networks, advice));
        }
        Ok(Self {
            trust: Trust::Proxies(networks),
            header: AddressHeader::default(),
        })
    }

    /// Believes the last `n` entries of the header: `n` proxies are between the clients and the application, and each has appended
    /// the address of *its* client to the header. So 1 takes the last entry, which the only proxy has written, and 2 the last but
    /// one. It is the number that `trust proxy` of Express takes. The header is `X-Forwarded-For` unless
    /// [`with_header`](Self::with_header) names another one; with fewer than `n` entries, the address is unknown.
    ///
    /// For proxies whose addresses are not known, or on a Unix socket. Prefer [`trusted_proxies`](Self::trusted_proxies) otherwise.
    ///
    /// # Security
    ///
    /// sessile does not look at the peer: whoever can connect to the application without passing all `n` proxies chooses the
    /// address. If a proxy is removed, a client can choose it, too.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] if `n` is 0.
    pub fn hops(n: u8) -> Result<Self, ConfigError> {
        if n == 0 {
            let advice = "write the number of proxies in front of the application, from 1 to 255, or leave it out if there is none";
            return Err(ConfigError::invalid(HOPS, n, advice));
        }
        Ok(Self {
            trust: Trust::Hops(n),
            header: AddressHeader::default(),
        })
    }

    /// Sets the header that the proxies write: `X-Forwarded-For`, the default; `Forwarded` (RFC 7239); or any other header, such as
    /// `CF-Connecting-IP` or `X-Real-IP`, which must hold a single address. Case does not matter.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] if this is not the name of a header, if no proxy is trusted, so that sessile would never read the
    /// header, or if a header that holds a single address is to be counted by [`hops`](Self::hops) of more than 1.
    pub fn with_header(mut self, name: &str) -> Result<Self, ConfigError> {
        let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
            let advice = "write the name of a header, such as \"X-Forwarded-For\", \"Forwarded\" or \"CF-Connecting-IP\"";
            return Err(ConfigError::invalid(HEADER, name, advice));
        };
        self.header = match header {
            list if list == X_FORWARDED_FOR => AddressHeader::XForwardedFor,
            list if list == FORWARDED => AddressHeader::Forwarded,
            other => AddressHeader::Single(other),
        };
        match (&self.trust, &self.header) {
            (Trust::Peer, _) => {
                let advice = "sessile reads it only from a proxy: write trusted_proxies = [\"10.0.0.2\"] with the addresses of your proxies, or leave it out";
                Err(ConfigError::invalid(HEADER, name, advice))
            }
            (Trust::Hops(n @ 2..), AddressHeader::Single(header)) => {
                let advice = format!(
                    "`{header}` holds one address, so there is nothing to count: write hops = 1 if only your proxies can connect to the application, or trusted_proxies = [\"10.0.0.2\"] with the addresses of those that do"
                );
                Err(ConfigError::invalid(HOPS, n, advice))
            }
            _ => Ok(self),
        }
    }

    pub(crate) fn trust(&self) -> &Trust {
        &self.trust
    }

    pub(crate) fn header(&self) -> &AddressHeader {
        &self.header
    }
}

impl AddressHeader {
    /// The name, in lower case.
    pub(crate) fn name(&self) -> &HeaderName {
        match self {
            Self::XForwardedFor => &X_FORWARDED_FOR,
            Self::Forwarded => &FORWARDED,
            Self::Single(name) => name,
        }
    }
}

fn parse_network(text: &str) -> Result<IpNet, ConfigError> {
    let invalid = |advice: String| ConfigError::invalid(PROXIES, text, advice);
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| {
            invalid("write an address, such as \"10.0.0.2\" or \"::1\", or a network, such as \"10.0.0.0/8\"".to_owned())
        })?,
    };
    let network = as_ipv4(network).unwrap_or(network);
    if network.addr() != network.network() {
        let advice = format!(
            "write \"{}\", or \"{}\" for this address alone",
            network.trunc(),
            network.addr()
        );
        return Err(invalid(advice));
    }
    if network.prefix_len() == 0 {
        let advice = "every client would be a trusted proxy: write the networks of your proxies, or hops = 1 if only your proxy can connect to the application";
        return Err(invalid(advice.to_owned()));
    }
    Ok(network)
}

/// A network of IPv4-mapped IPv6 addresses as one of IPv4 addresses, since sessile compares those.
fn as_ipv4(network: IpNet) -> Option<IpNet> {
    let prefix = network.prefix_len().checked_sub(96)?;
    match (network, network.addr().to_canonical()) {
        (IpNet::V6(_), address @ IpAddr::V4(_)) => IpNet::new(address, prefix).ok(),
        _ => None,
    }
}

/// The setting in a configuration file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[serde(expecting = "{ trusted_proxies = [\"10.0.0.0/8\"] } or { hops = 2 }")]
struct Form {
    #[serde(skip_serializing_if = "Option::is_none")]
    trusted_proxies: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hops: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<String>,
}

impl TryFrom<Form> for ClientAddress {
    type Error = ConfigError;

    fn try_from(form: Form) -> Result<Self, ConfigError> {
        let address = match (form.trusted_proxies, form.hops) {
            (Some(_), Some(hops)) => {
                let advice =
                    "trusted_proxies says which proxies there are: leave out one of the two";
                return Err(ConfigError::invalid(HOPS, hops, advice));
            }
            (Some(networks), None) => Self::trusted_proxies(networks)?,
            (None, Some(hops)) => Self::hops(hops)?,
            (None, None) => Self::peer(),
        };
        match form.header {
            Some(header) => address.with_header(&header),
            None => Ok(address),
        }
    }
}

impl From<ClientAddress> for Form {
    fn from(address: ClientAddress) -> Self {
        let header = Some(address.header.name().to_string());
        match address.trust {
            Trust::Peer => Self::default(),
            Trust::Proxies(networks) => Self {
                trusted_proxies: Some(networks.iter().map(IpNet::to_string).collect()),
                header,
                ..Self::default()
            },
            Trust::Hops(hops) => Self {
                hops: Some(hops),
                header,
                ..Self::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(form: Value) -> Result<ClientAddress, String> {
        serde_json::from_value(form).map_err(|error| error.to_string())
    }

    #[test]
    fn a_configuration_file_says_what_the_constructors_say() {
        let proxies = |networks: &[&str]| ClientAddress::trusted_proxies(networks).unwrap();
        for (form, expected) in [
            (json!({}), ClientAddress::peer()),
            (json!({ "trusted_proxies": ["::1"] }), proxies(&["::1"])),
            (
                json!({ "trusted_proxies": ["10.0.0.0/8", "::1"] }),
                proxies(&["10.0.0.0/8", "::1/128"]),
            ),
            (
                json!({ "trusted_proxies": ["::ffff:10.0.0.2", "::ffff:192.168.0.0/112"] }),
                proxies(&["10.0.0.2/32", "192.168.0.0/16"]),
            ),
            (json!({ "hops": 2 }), ClientAddress::hops(2).unwrap()),
            (
                json!({ "hops": 255, "header": "FORWARDED" }),
                ClientAddress::hops(255)
                    .and_then(|it| it.with_header("forwarded"))
                    .unwrap(),
            ),
            (
                json!({ "hops": 1, "header": "X-Real-IP" }),
                ClientAddress::hops(1)
                    .and_then(|it| it.with_header("x-real-ip"))
                    .unwrap(),
            ),
            (
                json!({ "trusted_proxies": ["fe80::/10"], "header": "CF-Connecting-IP" }),
                proxies(&["fe80::/10"])
                    .with_header("cf-connecting-ip")
                    .unwrap(),
            ),
            (
                json!({ "trusted_proxies": ["::1"], "header": "x-forwarded-for" }),
                proxies(&["::1"]),
            ),
        ] {
            let address = read(form.clone()).unwrap();
            assert_eq!(address, expected, "{form}");
            let written = serde_json::to_value(&address).unwrap();
            assert_eq!(read(written), Ok(expected), "{form}");
        }
    }

    #[test]
    fn what_cannot_work_is_rejected_with_what_to_write_instead() {
        let single = json!({ "hops": 2, "header": "CF-Connecting-IP" });
        for (form, setting, advice) in [
            (json!({ "trusted_proxies": [] }), PROXIES, "leave it out"),
            (json!({ "trusted_proxies": [""] }), PROXIES, "write an"),
            (json!({ "trusted_proxies": ["nginx"] }), PROXIES, "write an"),
            (
                json!({ "trusted_proxies": ["10.0.0.1:80"] }),
                PROXIES,
                "write an",
            ),
            (
                json!({ "trusted_proxies": ["10.0.0.0/33"] }),
                PROXIES,
                "write an",
            ),
            (
                json!({ "trusted_proxies": ["::1", "10.1.2.3/8"] }),
                PROXIES,
                "write \"10.0.0.0/8\", or \"10.1.2.3\"",
            ),
            (
                json!({ "trusted_proxies": ["0.0.0.0/0"] }),
                PROXIES,
                "hops = 1",
            ),
            (json!({ "trusted_proxies": ["::/0"] }), PROXIES, "hops = 1"),
            (
                json!({ "trusted_proxies": ["::ffff:0.0.0.0/96"] }),
                PROXIES,
                "hops = 1",
            ),
            (json!({ "hops": 0 }), HOPS, "from 1 to 255"),
            (
                json!({ "hops": 1, "trusted_proxies": ["::1"] }),
                HOPS,
                "leave out one of the two",
            ),
            (single, HOPS, "write hops = 1"),
            (
                json!({ "header": "X-Real-IP" }),
                HEADER,
                "trusted_proxies = [",
            ),
            (
                json!({ "hops": 1, "header": "X Real IP" }),
                HEADER,
                "write the name",
            ),
            (json!({ "hops": 1, "header": "" }), HEADER, "write the name"),
        ] {
            let error = read(form.clone()).unwrap_err();
            assert!(error.starts_with(&format!("{setting} = ")), "{error}");
            assert!(error.contains(advice), "{form}: {error}");
        }
        for (form, word) in [
            (json!({ "proxies": ["::1"] }), "trusted_proxies"),
            (json!({ "hops": 256 }), "u8"),
            (json!({ "hops": -1 }), "u8"),
            (json!("peer"), "or { hops = 2 }"),
        ] {
            let error = read(form.clone()).unwrap_err();
            assert!(error.contains(word), "{form}: {error}");
        }
    }
}
